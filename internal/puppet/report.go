package puppet

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"time"

	"troupe/internal/fault"
)

// This file reads the report of a run.

// A Report tells what one run did. The fields are what troupe asks about; Raw is
// the whole report as JSON, as the agent sent it.
type Report struct {
	Certname             Certname
	Environment          Environment
	Status               string // failed, changed, unchanged
	TransactionUUID      string
	ConfigurationVersion string
	PuppetVersion        string
	CatalogUUID          string
	CodeID               string
	JobID                string
	CachedCatalogStatus  string // not_used, explicitly_requested, on_failure
	ServerUsed           string
	Noop                 bool
	NoopPending          bool
	CorrectiveChange     bool
	Time                 time.Time // when the run began
	EndTime              time.Time // when its last event or log line happened
	ReportFormat         int
	Logs                 []ReportLog
	Metrics              map[string]map[string]float64 // by category (resources, time, changes, events), then by name
	Resources            []ReportResource              // those that changed, failed, were skipped or are out of sync, in the report's order
	Raw                  json.RawMessage
}

// A ReportLog is one line that the agent logged in its run.
type ReportLog struct {
	Level   string
	Message string
	Source  string
	Tags    []string
	Time    time.Time
	File    string
	Line    int
}

// A ReportResource tells what became of one resource.
type ReportResource struct {
	Type             string
	Title            string
	File             string
	Line             int
	ContainmentPath  []string
	EvaluationTime   float64 // seconds
	Time             time.Time
	Failed           bool
	FailedToRestart  bool
	Changed          bool
	Skipped          bool
	OutOfSync        bool
	CorrectiveChange bool
	Events           []ReportEvent
}

// A ReportEvent tells what became of one property of a resource.
type ReportEvent struct {
	Property         string
	Status           string // success, failure, noop, audit
	Message          string
	PreviousValue    json.RawMessage
	DesiredValue     json.RawMessage
	Time             time.Time
	CorrectiveChange bool
}

// DecodeReport reads the body of a report in the given content type. It accepts
// report formats 4 to 12, those of agents 5 to 9, and takes what it knows from
// later ones (lib/puppet/transaction/report.rb, initialize_from_hash).
func DecodeReport(contentType string, body []byte) (Report, error) {
	b, err := ToJSON(contentType, body)
	if err != nil {
		return Report{}, err
	}
	var wire wireReport
	if err := json.Unmarshal(b, &wire); err != nil {
		return Report{}, fault.Wrap(fault.Invalid, err, "Could not intern from json: %s", err)
	}
	name, err := ParseCertname(wire.Host)
	if err != nil {
		return Report{}, err
	}
	if wire.Environment != "" {
		if _, err := ParseEnvironment(wire.Environment); err != nil {
			return Report{}, err
		}
	}
	r := wire.report()
	r.Certname, r.Raw = name, b
	return r, nil
}

type wireReport struct {
	Host                 string                `json:"host"`
	Environment          string                `json:"environment"`
	Status               string                `json:"status"`
	TransactionUUID      string                `json:"transaction_uuid"`
	ConfigurationVersion wireText              `json:"configuration_version"`
	PuppetVersion        string                `json:"puppet_version"`
	CatalogUUID          string                `json:"catalog_uuid"`
	CodeID               string                `json:"code_id"`
	JobID                string                `json:"job_id"`
	CachedCatalogStatus  string                `json:"cached_catalog_status"`
	ServerUsed           string                `json:"server_used"`
	MasterUsed           string                `json:"master_used"` // the name up to format 10
	Noop                 bool                  `json:"noop"`
	NoopPending          bool                  `json:"noop_pending"`
	CorrectiveChange     bool                  `json:"corrective_change"`
	Time                 wireTime              `json:"time"`
	ReportFormat         int                   `json:"report_format"`
	Logs                 []wireLog             `json:"logs"`
	Metrics              map[string]wireMetric `json:"metrics"`
	Resources            wireStatuses          `json:"resource_statuses"`
}

func (w *wireReport) report() Report {
	r := Report{
		Environment:          Environment(w.Environment),
		Status:               w.Status,
		TransactionUUID:      w.TransactionUUID,
		ConfigurationVersion: string(w.ConfigurationVersion),
		PuppetVersion:        w.PuppetVersion,
		CatalogUUID:          w.CatalogUUID,
		CodeID:               w.CodeID,
		JobID:                w.JobID,
		CachedCatalogStatus:  w.CachedCatalogStatus,
		ServerUsed:           cmp.Or(w.ServerUsed, w.MasterUsed),
		Noop:                 w.Noop,
		NoopPending:          w.NoopPending,
		CorrectiveChange:     w.CorrectiveChange,
		Time:                 time.Time(w.Time),
		EndTime:              time.Time(w.Time),
		ReportFormat:         w.ReportFormat,
		Metrics:              map[string]map[string]float64{},
		Resources:            w.Resources,
	}
	for name, m := range w.Metrics {
		r.Metrics[name] = m.Values
	}
	for _, l := range w.Logs {
		r.Logs = append(r.Logs, ReportLog{
			Level: l.Level, Message: l.Message, Source: l.Source, Tags: l.Tags,
			Time: time.Time(l.Time), File: l.File, Line: l.Line,
		})
		if t := time.Time(l.Time); t.After(r.EndTime) {
			r.EndTime = t
		}
	}
	// The time metric says how long the run took, as PuppetDB's terminus reads it.
	if total := r.Metrics["time"]["total"]; total > 0 && total < maxRun.Seconds() {
		r.EndTime = r.Time.Add(time.Duration(total * float64(time.Second)))
	}
	return r
}

// maxRun bounds what we believe about the length of a run.
const maxRun = 30 * 24 * time.Hour

type wireLog struct {
	Level   string   `json:"level"`
	Message string   `json:"message"`
	Source  string   `json:"source"`
	Tags    []string `json:"tags"`
	Time    wireTime `json:"time"`
	File    string   `json:"file"`
	Line    int      `json:"line"`
}

// wireMetric is {"name", "label", "values": [[name, label, value], …]}.
type wireMetric struct {
	Values map[string]float64
}

// UnmarshalJSON keeps the numbers; a value that is none is left out.
func (m *wireMetric) UnmarshalJSON(b []byte) error {
	var wire struct {
		Values [][]json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal(b, &wire); err != nil {
		return err
	}
	m.Values = map[string]float64{}
	for _, v := range wire.Values {
		var name string
		var value float64
		if len(v) == 3 && json.Unmarshal(v[0], &name) == nil && json.Unmarshal(v[2], &value) == nil {
			m.Values[name] = value
		}
	}
	return nil
}

// wireStatuses is an object of resource statuses by reference, read in its order.
type wireStatuses []ReportResource

// UnmarshalJSON keeps the resources to which something happened.
func (s *wireStatuses) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("resource_statuses is not a hash"))
	}
	for d.More() {
		if _, err := d.Token(); err != nil {
			return err
		}
		var w wireStatus
		if err := d.Decode(&w); err != nil {
			return err
		}
		if w.Failed || w.FailedToRestart || w.Changed || w.Skipped || w.OutOfSync || len(w.Events) > 0 {
			*s = append(*s, w.resource())
		}
	}
	return nil
}

type wireStatus struct {
	Type             string      `json:"resource_type"`
	Title            wireText    `json:"title"`
	File             string      `json:"file"`
	Line             int         `json:"line"`
	ContainmentPath  []string    `json:"containment_path"`
	EvaluationTime   float64     `json:"evaluation_time"`
	Time             wireTime    `json:"time"`
	Failed           bool        `json:"failed"`
	FailedToRestart  bool        `json:"failed_to_restart"`
	Changed          bool        `json:"changed"`
	Skipped          bool        `json:"skipped"`
	OutOfSync        bool        `json:"out_of_sync"`
	CorrectiveChange bool        `json:"corrective_change"`
	Events           []wireEvent `json:"events"`
}

func (w *wireStatus) resource() ReportResource {
	r := ReportResource{
		Type: w.Type, Title: string(w.Title), File: w.File, Line: w.Line, ContainmentPath: w.ContainmentPath,
		EvaluationTime: w.EvaluationTime, Time: time.Time(w.Time), Failed: w.Failed, FailedToRestart: w.FailedToRestart,
		Changed: w.Changed, Skipped: w.Skipped, OutOfSync: w.OutOfSync, CorrectiveChange: w.CorrectiveChange,
	}
	for _, e := range w.Events {
		r.Events = append(r.Events, ReportEvent{
			Property: string(e.Property), Status: e.Status, Message: e.Message, PreviousValue: e.PreviousValue,
			DesiredValue: e.DesiredValue, Time: time.Time(e.Time), CorrectiveChange: e.CorrectiveChange,
		})
	}
	return r
}

type wireEvent struct {
	Property         wireText        `json:"property"`
	Status           string          `json:"status"`
	Message          string          `json:"message"`
	PreviousValue    json.RawMessage `json:"previous_value"`
	DesiredValue     json.RawMessage `json:"desired_value"`
	Time             wireTime        `json:"time"`
	CorrectiveChange bool            `json:"corrective_change"`
}

// wireText is a string that some agents send as a number: a configuration
// version that is a time, a title that is one. null is "".
type wireText string

// UnmarshalJSON takes a string as it is and anything else as it is written.
func (t *wireText) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	if !bytes.Equal(b, []byte("null")) {
		*t = wireText(b)
	}
	return nil
}
