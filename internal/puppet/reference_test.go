package puppet

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"troupe/internal/fault"
)

// This file reads reports once more, with encoding/json, as what the scanner must
// agree with.

func TestTheScannerReadsWhatEncodingJSONReads(t *testing.T) {
	texts := map[string]string{
		"a full report": format12, "spaces": " {\n\t\"host\" : \"n1\" ,\r\n \"logs\": [ ] , \"metrics\" : { } } ",
		"escapes":             `{"host":"n\u0031","status":"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00\ud800x","st\u0061tus":"z"}`,
		"bytes not UTF-8":     "{\"host\":\"n1\",\"status\":\"\xff\xc3\"}",
		"nulls everywhere":    `{"host":"n1","environment":null,"noop":null,"time":null,"report_format":null,"logs":[null],"metrics":{"a":null},"resource_statuses":{"a":null}}`,
		"numbers":             `{"host":"n1","report_format":-0,"resource_statuses":{"a":{"failed":true,"evaluation_time":-1.5e-3},"b":{"failed":true,"evaluation_time":1E+2}}}`,
		"texts that are none": `{"host":"n1","configuration_version":{"a":[1, 2]},"resource_statuses":{"a":{"changed":true,"title":true}}}`,
		"odd metrics":         `{"host":"n1","metrics":{"m":{"values":[["a","A",1],["b","B"],[1,"C",2],["d","D","3"],["e","E",null],["f","F",1,2]]}}}`,
		"metrics of no list":  `{"host":"n1","metrics":{"m":{"values":[7]}}}`,
		"what is unknown":     `{"host":"n1","new":{"a":[{"b":[true,false,null,0.5,"x"]}]}}`,
		"an integer too long": `{"host":"n1","report_format":123456789012345678901234567890}`,
		"a float too large":   `{"host":"n1","resource_statuses":{"a":{"evaluation_time":1e999}}}`,
		"a fraction of lines": `{"host":"n1","logs":[{"line":1.5}]}`, "a number for a name": `{"host":1}`, "a list for a name": `{"host":[]}`,
		"a name for a flag": `{"host":"n1","noop":"true"}`, "no object": `"n1"`, "nothing": ``, "null": `null`,
	}
	for _, broken := range []string{
		`{`, `{"`, `{"host"`, `{"host":`, `{"host":"n1"`, `{"host":"n1",}`, `{"host":"n1"}}`, `{"host":"n1"} x`, `{,}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`,
		`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":tru}`, `{"a":nul}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"\u12"}`, "{\"a\":\"\n\"}", `{a:1}`, `{"a" 1}`, `{"a":'b'}`,
	} {
		texts[broken] = broken
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) { agree(t, []byte(text)) })
	}
}

func TestMembersAreThoseOfTheObject(t *testing.T) {
	var got string
	each := func(name []byte, value json.RawMessage) error {
		got += string(name) + "=" + string(value) + ";"
		return nil
	}
	if err := Members([]byte(` {"b": [1, {"x":2}] , "a\u0031":null,"":"x"} `), each); err != nil || got != `b=[1, {"x":2}];a1=null;="x";` {
		t.Errorf("members are %s (%v)", got, err)
	}
	for _, text := range []string{``, `null`, `[]`, `"x"`, `{"a":1`, `{"a":}`, `{} {}`} {
		if err := Members([]byte(text), each); err == nil {
			t.Errorf("%q was read as an object", text)
		}
	}
}

// agree compares the two readings of a report.
func agree(t *testing.T, body []byte) {
	t.Helper()
	got, err := DecodeReport(TypeJSON, body)
	want, wantErr := referenceReport(body)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("error = %v, encoding/json's is %v, for %q", err, wantErr, body)
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" && err == nil {
		t.Errorf("differs from encoding/json's (-want +got):\n%s", diff)
	}
	if valid := checkJSON(body) == nil; valid != json.Valid(body) {
		t.Errorf("checkJSON says %t", valid)
	}
}

// FuzzScanner looks for a difference. Names in upper case and names that come twice
// are left out: encoding/json takes the first for the lower-case ones, and merges
// the second.
func FuzzScanner(f *testing.F) {
	f.Add([]byte(format12))
	f.Add([]byte(`{"host":"n1","logs":[{"line":7,"tags":["a"]}],"x":[-1.5e3,"\u00e4\n",{"y":null}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if b = bytes.ToLower(b); checkDepth(b) != nil || repeats(b) || bytes.Contains(b, []byte("ſ")) {
			return
		}
		agree(t, b)
	})
}

// repeats reports whether an object has a name twice.
func repeats(b []byte) bool {
	d := json.NewDecoder(bytes.NewReader(b))
	var open []map[string]bool // nil for arrays
	name := false              // a name comes next
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		switch text, _ := token.(string); {
		case token == json.Delim('{'), token == json.Delim('['):
			var names map[string]bool
			if token == json.Delim('{') {
				names = map[string]bool{}
			}
			open = append(open, names)
		case token == json.Delim('}'), token == json.Delim(']'):
			open = open[:len(open)-1]
		case name && open[len(open)-1][text]:
			return true
		case name:
			open[len(open)-1][text], name = true, false
			continue
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}

// referenceReport is DecodeReport by way of structs.
func referenceReport(body []byte) (Report, error) {
	var wire wireReport
	if err := json.Unmarshal(body, &wire); err != nil {
		return Report{}, err
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
	r.Certname, r.Raw = name, body
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

// wireTime is a time as agents write it: ISO 8601 with nine digits, or, from
// YAML-minded senders, with spaces. null and "" are the zero time.
type wireTime time.Time

// UnmarshalJSON reads any of the forms.
func (t *wireTime) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == nil || *s == "" {
		*t = wireTime{}
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999 -07:00", "2006-01-02 15:04:05.999999999 -0700", time.RubyDate, time.RFC1123Z} {
		if v, err := time.Parse(layout, *s); err == nil {
			*t = wireTime(v.UTC())
			return nil
		}
	}
	return fault.New(fault.Invalid, "%q is not a time", *s)
}
