package puppet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"troupe/internal/fault"
)

// The report of one run with a change, a failure, a noop and an untouched file,
// cut down from what agent 7.23 sends.
const format12 = `{
 "host":"n1.example.test","time":"2026-11-20T08:00:00.000000001+00:00","configuration_version":1763625600,
 "transaction_uuid":"2f3e","report_format":12,"puppet_version":"7.23.0","status":"failed","transaction_completed":true,
 "noop":false,"noop_pending":true,"environment":"production",
 "logs":[{"level":"err","message":"no","source":"Puppet","tags":["err"],"time":"2026-11-20T08:00:02.5+00:00","file":null,"line":null}],
 "metrics":{"resources":{"name":"resources","label":"Resources","values":[["total","Total",4],["failed","Failed",1],["odd","Odd",null]]},
   "time":{"name":"time","label":"Time","values":[["total","Total",12.5]]}},
 "resource_statuses":{
  "File[/z]":{"title":"/z","file":"/etc/x.pp","line":3,"resource":"File[/z]","resource_type":"File","provider_used":"posix",
    "containment_path":["Stage[main]","File[/z]"],"evaluation_time":0.25,"tags":["file"],"time":"2026-11-20T08:00:01+00:00",
    "failed":false,"failed_to_restart":false,"changed":true,"out_of_sync":true,"skipped":false,"change_count":1,"out_of_sync_count":1,
    "events":[{"audited":false,"property":"content","previous_value":"{sha256}a","desired_value":null,"historical_value":null,
      "message":"content changed","name":"content_changed","status":"success","time":"2026-11-20T08:00:01+00:00","redacted":false,"corrective_change":true}],
    "corrective_change":true},
  "File[/quiet]":{"title":"/quiet","resource_type":"File","failed":false,"changed":false,"out_of_sync":false,"skipped":false,"events":[]},
  "Exec[1]":{"title":1,"resource_type":"Exec","failed":true,"changed":false,"out_of_sync":true,"skipped":false,"events":[]}
 },
 "corrective_change":true,"server_used":"puppet:8140","catalog_uuid":"c1","code_id":"abc","cached_catalog_status":"not_used"}`

func TestAReportIsReadInItsOrder(t *testing.T) {
	got, err := DecodeReport(TypeJSON, []byte(format12))
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := Report{
		Certname: "n1.example.test", Environment: "production", Status: "failed", TransactionUUID: "2f3e",
		ConfigurationVersion: "1763625600", PuppetVersion: "7.23.0", CatalogUUID: "c1", CodeID: "abc",
		CachedCatalogStatus: "not_used", ServerUsed: "puppet:8140", NoopPending: true, CorrectiveChange: true,
		Time: at("2026-11-20T08:00:00.000000001Z"), EndTime: at("2026-11-20T08:00:12.500000001Z"), ReportFormat: 12,
		Logs:    []ReportLog{{Level: "err", Message: "no", Source: "Puppet", Tags: []string{"err"}, Time: at("2026-11-20T08:00:02.5Z")}},
		Metrics: map[string]map[string]float64{"resources": {"total": 4, "failed": 1, "odd": 0}, "time": {"total": 12.5}},
		Resources: []ReportResource{
			{
				Type: "File", Title: "/z", File: "/etc/x.pp", Line: 3, ContainmentPath: []string{"Stage[main]", "File[/z]"},
				EvaluationTime: 0.25, Time: at("2026-11-20T08:00:01Z"), Changed: true, OutOfSync: true, CorrectiveChange: true,
				Events: []ReportEvent{{
					Property: "content", Status: "success", Message: "content changed", PreviousValue: json.RawMessage(`"{sha256}a"`),
					DesiredValue: json.RawMessage("null"), Time: at("2026-11-20T08:00:01Z"), CorrectiveChange: true,
				}},
			},
			{Type: "Exec", Title: "1", Failed: true, OutOfSync: true},
		},
		Raw: json.RawMessage(format12),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("report differs (-want +got):\n%s", diff)
	}
}

func TestOldReportsAreUnderstood(t *testing.T) {
	tests := []struct {
		name, body string
		want       Report
	}{
		{
			"format 4 of Puppet 4 and early 5, with no times of their own",
			`{"host":"old","time":"2017-01-02T03:04:05.0+00:00","configuration_version":"v1","transaction_uuid":"t","report_format":4,
			  "puppet_version":"5.0.0","kind":"apply","status":"changed","environment":"production","logs":[],"metrics":{},"resource_statuses":{}}`,
			Report{Status: "changed", ConfigurationVersion: "v1", PuppetVersion: "5.0.0", ReportFormat: 4},
		},
		{
			"format 10 says master",
			`{"host":"old","time":"2019-01-02 03:04:05.5 +00:00","configuration_version":1546398245,"transaction_uuid":"t","report_format":10,
			  "puppet_version":"5.5.22","status":"unchanged","environment":"production","master_used":"puppet:8140","logs":null,"metrics":null,"resource_statuses":null}`,
			Report{Status: "unchanged", ConfigurationVersion: "1546398245", PuppetVersion: "5.5.22", ReportFormat: 10, ServerUsed: "puppet:8140"},
		},
		{
			"a run that failed before it had a catalog",
			`{"host":"old","time":"2019-01-02T03:04:05+00:00","configuration_version":null,"transaction_uuid":"t","report_format":12,
			  "puppet_version":"8.10.0","status":"failed","noop":false,"environment":null,"logs":[],"metrics":{},"resource_statuses":{},"cached_catalog_status":null}`,
			Report{Status: "failed", PuppetVersion: "8.10.0", ReportFormat: 12},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeReport(TypeJSON, []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if got.TransactionUUID != "t" || got.Certname != "old" || got.Time.IsZero() {
				t.Errorf("name, transaction and time are %q, %q, %v", got.Certname, got.TransactionUUID, got.Time)
			}
			ignore := cmpopts.IgnoreFields(Report{}, "Certname", "Environment", "TransactionUUID", "Time", "EndTime", "Raw")
			if diff := cmp.Diff(tt.want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("report differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadReportsAreRefused(t *testing.T) {
	for name, body := range map[string]string{
		"no host":                  `{"status":"failed"}`,
		"a bad environment":        `{"host":"n1","environment":"../x"}`,
		"statuses that are a list": `{"host":"n1","resource_statuses":[]}`,
		"a status that is none":    `{"host":"n1","resource_statuses":{"A[b]":7}}`,
		"no object":                `7`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeReport(TypeJSON, []byte(body)); fault.KindOf(err) != fault.Invalid {
				t.Errorf("error = %v, want one of kind Invalid", err)
			}
		})
	}
}

// TestRealReportsAreUnderstood reads what real agents sent.
func TestRealReportsAreUnderstood(t *testing.T) {
	files, err := filepath.Glob("testdata/reports/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no reports in testdata (%v)", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := DecodeReport(TypeJSON, body)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status == "" || r.PuppetVersion == "" || r.TransactionUUID == "" || r.ReportFormat < 4 || r.EndTime.Before(r.Time) {
				t.Errorf("something is missing: %+v", r)
			}
			if r.Metrics["resources"]["total"] == 0 {
				t.Error("no resources are counted")
			}
			if !strings.HasPrefix(strings.TrimPrefix(filepath.Base(file), "agent-"), r.PuppetVersion) {
				t.Errorf("version is %s", r.PuppetVersion)
			}
		})
	}
}

func FuzzDecodeReport(f *testing.F) {
	f.Add([]byte(format12))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeReport(TypeJSON, b); err == nil && !json.Valid(r.Raw) {
			t.Fatalf("raw is no JSON: %q", r.Raw)
		}
	})
}
