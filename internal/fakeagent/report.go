package fakeagent

// This file writes and sends the report: transaction/report.rb.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const iso9 = "2006-01-02T15:04:05.000000000Z07:00"

// report has the keys of report format 12 in their order.
type report struct {
	Host                 string                    `json:"host"`
	Time                 string                    `json:"time"`
	ConfigurationVersion json.RawMessage           `json:"configuration_version"`
	TransactionUUID      string                    `json:"transaction_uuid"`
	ReportFormat         int                       `json:"report_format"`
	PuppetVersion        string                    `json:"puppet_version"`
	Status               string                    `json:"status"`
	TransactionCompleted bool                      `json:"transaction_completed"`
	Noop                 bool                      `json:"noop"`
	NoopPending          bool                      `json:"noop_pending"`
	Environment          string                    `json:"environment"`
	Logs                 []reportLog               `json:"logs"`
	Metrics              map[string]metric         `json:"metrics"`
	ResourceStatuses     map[string]resourceStatus `json:"resource_statuses"`
	CorrectiveChange     bool                      `json:"corrective_change"`
	CatalogUUID          string                    `json:"catalog_uuid,omitempty"`
	CodeID               string                    `json:"code_id,omitempty"`
	CachedCatalogStatus  string                    `json:"cached_catalog_status"`
}

type reportLog struct {
	Level   string   `json:"level"`
	Message string   `json:"message"`
	Source  string   `json:"source"`
	Tags    []string `json:"tags"`
	Time    string   `json:"time"`
	File    *string  `json:"file"`
	Line    *int     `json:"line"`
}

func newLog(level, source, message string) reportLog {
	return reportLog{Level: level, Message: message, Source: source, Tags: []string{level}, Time: time.Now().Format(iso9)}
}

type metric struct {
	Name   string   `json:"name"`
	Label  string   `json:"label"`
	Values [][3]any `json:"values"`
}

type resourceStatus struct {
	Title            string   `json:"title"`
	File             string   `json:"file"`
	Line             int      `json:"line"`
	Resource         string   `json:"resource"`
	ResourceType     string   `json:"resource_type"`
	ProviderUsed     *string  `json:"provider_used"`
	ContainmentPath  []string `json:"containment_path"`
	EvaluationTime   float64  `json:"evaluation_time"`
	Tags             []string `json:"tags"`
	Time             string   `json:"time"`
	Failed           bool     `json:"failed"`
	FailedToRestart  bool     `json:"failed_to_restart"`
	Changed          bool     `json:"changed"`
	OutOfSync        bool     `json:"out_of_sync"`
	Skipped          bool     `json:"skipped"`
	ChangeCount      int      `json:"change_count"`
	OutOfSyncCount   int      `json:"out_of_sync_count"`
	Events           []event  `json:"events"`
	CorrectiveChange bool     `json:"corrective_change"`
}

type event struct {
	Audited          bool    `json:"audited"`
	Property         string  `json:"property"`
	PreviousValue    string  `json:"previous_value"`
	DesiredValue     string  `json:"desired_value"`
	HistoricalValue  *string `json:"historical_value"`
	Message          string  `json:"message"`
	Name             string  `json:"name"`
	Status           string  `json:"status"`
	Time             string  `json:"time"`
	Redacted         *bool   `json:"redacted"`
	CorrectiveChange bool    `json:"corrective_change"`
}

func newStatus(res resource, start time.Time, changed bool, err error) resourceStatus {
	name := res.Type + "[" + res.Title + "]"
	s := resourceStatus{
		Title: res.Title, File: res.File, Line: res.Line, Resource: name, ResourceType: res.Type,
		ContainmentPath: []string{"Stage[main]", name}, EvaluationTime: time.Since(start).Seconds(), Tags: res.Tags,
		Time: start.Format(iso9), Failed: err != nil, Changed: changed, OutOfSync: changed || err != nil, Events: []event{},
	}
	if !s.OutOfSync {
		return s
	}
	e := event{
		Property: "ensure", PreviousValue: "absent", DesiredValue: "present", Message: "created", Name: res.Type + "_created",
		Status: "success", Time: s.Time,
	}
	if err != nil {
		e.Status, e.Message = "failure", err.Error()
	}
	s.Events, s.OutOfSyncCount = []event{e}, 1
	if changed {
		s.ChangeCount = 1
	}
	return s
}

// sendReport puts the report once. Its body is JSON of any generation from 5 on.
func (r *run) sendReport(ctx context.Context, cat *catalog, done applied) error {
	body, err := json.Marshal(r.report(cat, done))
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := r.session.routeTo(ctx, "report", r.trust); err != nil {
		return err
	}
	_, err = r.send(ctx, r.trust, request{
		kind: "report", method: http.MethodPut, accept: r.agent.dialect.acceptData, content: "application/json",
		target: r.agent.dialect.target(api+"/report/"+r.agent.certname, r.environment), body: body,
	}, nil)
	return err
}

func (r *run) report(cat *catalog, done applied) report {
	rep := report{
		Host: r.agent.certname, Time: r.begin.Format(iso9), TransactionUUID: r.uuid, ReportFormat: 12,
		PuppetVersion: r.agent.dialect.version, Status: r.result.Status, TransactionCompleted: cat != nil,
		Environment: r.environment, Logs: append([]reportLog{}, r.log...), ResourceStatuses: map[string]resourceStatus{},
		CachedCatalogStatus: "not_used", ConfigurationVersion: json.RawMessage("null"),
	}
	if r.result.CachedCatalog {
		rep.CachedCatalogStatus = "on_failure"
	}
	if cat != nil {
		rep.CatalogUUID, rep.CodeID = cat.CatalogUUID, cat.CodeID
		if len(cat.Version) > 0 {
			rep.ConfigurationVersion = cat.Version
		}
		rep.Logs = append(rep.Logs, newLog("notice", "Puppet", fmt.Sprintf("Applied catalog in %.2f seconds", time.Since(r.begin).Seconds())))
	}
	for name, s := range done.statuses {
		if s.OutOfSync || !r.agent.dialect.skipUnchanged {
			rep.ResourceStatuses[name] = s
		}
	}
	rep.Metrics = map[string]metric{
		"resources": {Name: "resources", Label: "Resources", Values: [][3]any{
			{"total", "Total", done.total},
			{"failed", "Failed", done.failed},
			{"changed", "Changed", done.changed},
			{"out_of_sync", "Out of sync", done.changed + done.failed},
			{"skipped", "Skipped", 0},
		}},
		"changes": {Name: "changes", Label: "Changes", Values: [][3]any{{"total", "Total", done.changed}}},
		"events": {Name: "events", Label: "Events", Values: [][3]any{
			{"total", "Total", done.changed + done.failed}, {"success", "Success", done.changed}, {"failure", "Failure", done.failed},
		}},
		"time": {Name: "time", Label: "Time", Values: [][3]any{{"total", "Total", time.Since(r.begin).Seconds()}}},
	}
	return rep
}
