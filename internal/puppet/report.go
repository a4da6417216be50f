package puppet

import (
	"cmp"
	"encoding/json"
	"time"
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
	b, err := inJSON(contentType, body)
	if err != nil {
		return Report{}, err
	}
	r := Report{Metrics: map[string]map[string]float64{}, Raw: b}
	var host string
	if err := scan(b, func(s *scanner) (err error) {
		host, err = s.report(&r)
		return err
	}); err != nil {
		return Report{}, notInterned(err)
	}
	if r.Certname, err = ParseCertname(host); err != nil {
		return Report{}, err
	}
	if r.Environment != "" {
		if _, err := ParseEnvironment(string(r.Environment)); err != nil {
			return Report{}, err
		}
	}
	r.EndTime = r.ended()
	return r, nil
}

// maxRun bounds what we believe about the length of a run.
const maxRun = 30 * 24 * time.Hour

// ended is when the time metric says, as PuppetDB's terminus reads it, or else when
// the last line was logged.
func (r *Report) ended() time.Time {
	if total := r.Metrics["time"]["total"]; total > 0 && total < maxRun.Seconds() {
		return r.Time.Add(time.Duration(total * float64(time.Second)))
	}
	end := r.Time
	for _, l := range r.Logs {
		if l.Time.After(end) {
			end = l.Time
		}
	}
	return end
}

// report reads the members of a report, and the name of the host as it stands there.
func (s *scanner) report(r *Report) (host string, err error) {
	var environment, server, master string
	err = s.members(func(name []byte) (err error) {
		switch string(name) {
		case "host":
			host, err = s.str()
		case "environment":
			environment, err = s.str()
		case "status":
			r.Status, err = s.str()
		case "transaction_uuid":
			r.TransactionUUID, err = s.str()
		case "configuration_version":
			r.ConfigurationVersion, err = s.anyText()
		case "puppet_version":
			r.PuppetVersion, err = s.str()
		case "catalog_uuid":
			r.CatalogUUID, err = s.str()
		case "code_id":
			r.CodeID, err = s.str()
		case "job_id":
			r.JobID, err = s.str()
		case "cached_catalog_status":
			r.CachedCatalogStatus, err = s.str()
		case "server_used":
			server, err = s.str()
		case "master_used": // the name up to format 10
			master, err = s.str()
		case "noop":
			r.Noop, err = s.boolean()
		case "noop_pending":
			r.NoopPending, err = s.boolean()
		case "corrective_change":
			r.CorrectiveChange, err = s.boolean()
		case "time":
			r.Time, err = s.time()
		case "report_format":
			r.ReportFormat, err = s.integer()
		case "logs":
			r.Logs, err = s.logs()
		case "metrics":
			err = s.members(func(category []byte) error {
				r.Metrics[string(category)], err = s.metric()
				return err
			})
		case "resource_statuses":
			r.Resources, err = s.statuses()
		default:
			err = s.skip()
		}
		return err
	})
	r.Environment, r.ServerUsed = Environment(environment), cmp.Or(server, master)
	return host, err
}

// metric reads {"name", "label", "values": [[name, label, value], …]}. It keeps the
// numbers; a value that is none is left out.
func (s *scanner) metric() (map[string]float64, error) {
	values := map[string]float64{}
	err := s.members(func(name []byte) error {
		if string(name) != "values" {
			return s.skip()
		}
		clear(values)
		return s.elements(func() error {
			var parts [3]json.RawMessage
			n := 0
			if err := s.elements(func() error {
				v, err := s.raw()
				if n < len(parts) {
					parts[n] = v
				}
				n++
				return err
			}); err != nil {
				return err
			}
			var key string
			var value float64
			if n == len(parts) && json.Unmarshal(parts[0], &key) == nil && json.Unmarshal(parts[2], &value) == nil {
				values[key] = value
			}
			return nil
		})
	})
	return values, err
}

func (s *scanner) logs() ([]ReportLog, error) {
	var all []ReportLog
	err := s.elements(func() error {
		var l ReportLog
		err := s.members(func(name []byte) (err error) {
			switch string(name) {
			case "level":
				l.Level, err = s.name()
			case "message":
				l.Message, err = s.str()
			case "source":
				l.Source, err = s.str()
			case "tags":
				l.Tags, err = s.names()
			case "time":
				l.Time, err = s.time()
			case "file":
				l.File, err = s.name()
			case "line":
				l.Line, err = s.integer()
			default:
				err = s.skip()
			}
			return err
		})
		all = append(all, l)
		return err
	})
	return all, err
}

// statuses reads the object of resource statuses by reference, in its order, and
// keeps the resources to which something happened.
func (s *scanner) statuses() ([]ReportResource, error) {
	var all []ReportResource
	err := s.members(func([]byte) error {
		r, err := s.status()
		if err == nil && (r.Failed || r.FailedToRestart || r.Changed || r.Skipped || r.OutOfSync || len(r.Events) > 0) {
			all = append(all, r)
		}
		return err
	})
	return all, err
}

func (s *scanner) status() (ReportResource, error) {
	var r ReportResource
	err := s.members(func(name []byte) (err error) {
		switch string(name) {
		case "resource_type":
			r.Type, err = s.name()
		case "title":
			r.Title, err = s.anyText()
		case "file":
			r.File, err = s.name()
		case "line":
			r.Line, err = s.integer()
		case "containment_path":
			r.ContainmentPath, err = s.names()
		case "evaluation_time":
			r.EvaluationTime, err = s.float()
		case "time":
			r.Time, err = s.time()
		case "failed":
			r.Failed, err = s.boolean()
		case "failed_to_restart":
			r.FailedToRestart, err = s.boolean()
		case "changed":
			r.Changed, err = s.boolean()
		case "skipped":
			r.Skipped, err = s.boolean()
		case "out_of_sync":
			r.OutOfSync, err = s.boolean()
		case "corrective_change":
			r.CorrectiveChange, err = s.boolean()
		case "events":
			r.Events = nil
			err = s.elements(func() error {
				e, err := s.event()
				r.Events = append(r.Events, e)
				return err
			})
		default:
			err = s.skip()
		}
		return err
	})
	return r, err
}

func (s *scanner) event() (ReportEvent, error) {
	var e ReportEvent
	err := s.members(func(name []byte) (err error) {
		switch string(name) {
		case "property":
			e.Property, err = s.anyText()
		case "status":
			e.Status, err = s.name()
		case "message":
			e.Message, err = s.str()
		case "previous_value":
			e.PreviousValue, err = s.raw()
		case "desired_value":
			e.DesiredValue, err = s.raw()
		case "time":
			e.Time, err = s.time()
		case "corrective_change":
			e.CorrectiveChange, err = s.boolean()
		default:
			err = s.skip()
		}
		return err
	})
	return e, err
}

// anyText reads a string that some agents send as a number: a configuration version
// that is a time, a title that is one. What is no string is taken as it is written;
// null is "".
func (s *scanner) anyText() (string, error) {
	if c := s.space(); c == '"' || c == 'n' {
		return s.str()
	}
	v, err := s.raw()
	return string(v), err
}
