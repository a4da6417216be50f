package agentapi

import (
	"log/slog"
	"net/http"

	"troupe/internal/failpoint"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file answers PUT /puppet/v3/report/NAME.

func (a *API) putReport(w http.ResponseWriter, q *request) error {
	_, name, f, err := a.saveRequest(q)
	if err != nil {
		return err
	}
	kind, err := q.contentType()
	if err != nil {
		return err
	}
	body, err := q.body(a.o.Limits.Report)
	if err != nil {
		return err
	}
	report, err := puppet.DecodeReport(kind, body)
	if err != nil {
		return invalidBody(err)
	}
	if report.Certname != name {
		return mismatch(report.Certname, name)
	}
	duplicate, err := a.db.SaveReport(q.Context(), report)
	if err != nil {
		return err
	}
	failpoint.Here("agentapi.report-stored")
	telemetry.Note(q.Context(),
		slog.String(telemetry.KeyCertname, string(name)),
		slog.String(telemetry.KeyEnvironment, string(report.Environment)),
		slog.String(telemetry.KeyTransaction, report.TransactionUUID),
		slog.String("status", report.Status), slog.Bool("duplicate", duplicate))

	// The names of the report processors that ran, as the real server answers.
	return write(w, q, f, []byte(`["store"]`))
}
