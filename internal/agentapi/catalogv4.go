package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"troupe/internal/classifier"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file answers POST /puppet/v4/catalog: a catalog for a service that is not
// the node itself (master_core.clj, v4-catalog-fn; puppet/server/compiler.rb).

// A catalogV4 is the body of the request.
type catalogV4 struct {
	Certname    string `json:"certname"`
	Environment string `json:"environment"`
	Persistence *struct {
		Facts   bool `json:"facts"`
		Catalog bool `json:"catalog"`
	} `json:"persistence"`
	Facts *struct {
		Values json.RawMessage `json:"values"`
	} `json:"facts"`
	TrustedFacts *struct {
		Values json.RawMessage `json:"values"`
	} `json:"trusted_facts"`
	JobID           string `json:"job_id"`
	TransactionUUID string `json:"transaction_uuid"`
	Options         struct {
		CaptureLogs                bool   `json:"capture_logs"`
		LogLevel                   string `json:"log_level"`
		PreferRequestedEnvironment bool   `json:"prefer_requested_environment"`
	} `json:"options"`

	name puppet.Certname
	env  puppet.Environment
}

func (a *API) postCatalogV4(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	body, err := q.body(a.o.Limits.Catalog)
	if err != nil {
		return err
	}
	v4, err := parseCatalogV4(body)
	if err != nil {
		return err
	}
	telemetry.Note(ctx, slog.String(telemetry.KeyCertname, v4.Certname), slog.String(telemetry.KeyTransaction, v4.TransactionUUID))

	facts, err := a.factsV4(ctx, v4)
	if err != nil {
		return err
	}
	trusted, err := trustedV4(v4, facts)
	if err != nil {
		return err
	}
	node, version, err := a.nodeV4(ctx, v4)
	if err != nil {
		return err
	}
	version.Retain()
	defer version.Release()
	if v4.Persistence.Facts {
		facts.Environment = version.Environment
		if err := a.db.SaveFacts(ctx, facts, a.o.ServerName); err != nil {
			return fmt.Errorf("saving facts of %s: %w", v4.name, err)
		}
	}
	result, err := a.compile(ctx, compilation{
		request: engine.Request{
			Certname: v4.name, Version: version, Classes: node.Classes, Parameters: node.Parameters, Facts: facts,
			Trusted: trusted, ServerFacts: a.serverFacts(), TransactionUUID: v4.TransactionUUID,
			Unfiltered: true, // the real one renders what the compiler gave it
			JobID:      v4.JobID, LogLevel: v4.Options.LogLevel, Patient: !obeysRetryAfter(q.Request),
		},
		keepCatalog: v4.Persistence.Catalog, stale: node.Stale,
	})
	if fault.KindOf(err) == fault.Failed {
		return plainProblem(http.StatusInternalServerError, "Internal Server Error: "+fault.Message(err))
	}
	if err != nil {
		return err
	}
	return writeCatalogV4(w, q, v4, version.Environment, result)
}

// parseCatalogV4 reads the body and says what is missing in the words of the
// real server's schema.
func parseCatalogV4(body []byte) (*catalogV4, error) {
	if _, err := puppet.ToJSON(puppet.TypeJSON, body); err != nil {
		return nil, badRequest("Error parsing JSON: %s", fault.Message(err))
	}
	v4 := &catalogV4{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v4); err != nil {
		return nil, badInput("", err)
	}
	var missing []string
	if v4.Certname == "" {
		missing = append(missing, `"certname" missing-required-key`)
	}
	if v4.Persistence == nil {
		missing = append(missing, `"persistence" missing-required-key`)
	}
	if v4.Environment == "" {
		missing = append(missing, `"environment" missing-required-key`)
	}
	if len(missing) > 0 {
		return nil, badRequest("Invalid input: {%s}", strings.Join(missing, ", "))
	}
	switch v4.Options.LogLevel {
	case "":
		v4.Options.LogLevel = "info" // as the real server's process
	case "debug", "info", "warning", "err":
	default:
		return nil, badRequest("Invalid input: log_level %.100q is none of debug, info, warning, err", v4.Options.LogLevel)
	}
	var err error
	if v4.name, err = puppet.ParseCertname(v4.Certname); err != nil {
		return nil, err
	}
	v4.env, err = puppet.ParseEnvironment(v4.Environment)
	return v4, err
}

// badInput words a value of the wrong type without the names that types have in Go.
func badInput(within string, err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return badRequest("Invalid input: %.300s", strings.TrimPrefix(err.Error(), "json: "))
	}
	where := strings.Trim(within+"."+wrong.Field, ".")
	if where == "" {
		where = "the body"
	}
	want := "a map"
	switch wrong.Type.Kind() {
	case reflect.Bool:
		want = "true or false"
	case reflect.String:
		want = "a string"
	default: // all others are objects
	}
	return badRequest("Invalid input: %.300s is %s instead of %s", where, wrong.Value, want)
}

// factsV4 takes the facts of the request, else the stored ones.
func (a *API) factsV4(ctx context.Context, v4 *catalogV4) (puppet.Facts, error) {
	if v4.Facts == nil {
		return a.knownFacts(ctx, v4.name)
	}
	values := bytes.TrimSpace(v4.Facts.Values)
	if len(values) == 0 || values[0] != '{' {
		return puppet.Facts{}, badRequest(`Invalid input: {"facts" {"values" is not a map}}`)
	}
	return puppet.Facts{Certname: v4.name, Environment: v4.env, Values: values}, nil
}

// trustedV4 takes $trusted from the request, else from a fact of that name.
func trustedV4(v4 *catalogV4, facts puppet.Facts) (puppet.Trusted, error) {
	var values json.RawMessage
	if v4.TrustedFacts != nil {
		values = v4.TrustedFacts.Values
	} else if len(facts.Values) > 0 {
		var named struct {
			Trusted json.RawMessage `json:"trusted"`
		}
		if err := json.Unmarshal(facts.Values, &named); err != nil {
			return puppet.Trusted{}, badInput("facts.values", err)
		}
		values = named.Trusted
	}
	if len(values) == 0 || string(values) == "null" {
		return puppet.Trusted{}, nil
	}
	var wire struct {
		Authenticated any             `json:"authenticated"`
		Certname      puppet.Certname `json:"certname"`
		Extensions    map[string]any  `json:"extensions"`
		Hostname      string          `json:"hostname"`
		Domain        string          `json:"domain"`
		External      json.RawMessage `json:"external"`
	}
	if err := json.Unmarshal(values, &wire); err != nil {
		return puppet.Trusted{}, badInput("trusted_facts.values", err)
	}
	t := puppet.Trusted{
		Certname: wire.Certname, Hostname: wire.Hostname, Domain: wire.Domain, External: wire.External,
		Extensions: map[string]string{},
	}
	if s, ok := wire.Authenticated.(string); ok && s != "false" {
		t.Authenticated = s
	}
	for name, v := range wire.Extensions {
		t.Extensions[name] = fmt.Sprint(v)
	}
	return t, nil
}

// nodeV4 classifies the node; the request may insist on its environment.
func (a *API) nodeV4(ctx context.Context, v4 *catalogV4) (classifier.Node, *code.Version, error) {
	node, version, err := a.findNode(ctx, v4.name, v4.env)
	if err != nil || !v4.Options.PreferRequestedEnvironment || node.Environment == v4.env {
		return node, version, err
	}
	version, err = a.code.Current(ctx, v4.env)
	return node, version, err
}

func writeCatalogV4(w http.ResponseWriter, q *request, v4 *catalogV4, env puppet.Environment, result engine.Result) error {
	catalog := result.Catalog
	if result.PSON {
		var err error
		if catalog, err = puppet.PSONToJSON(catalog); err != nil {
			return err
		}
	}
	body := append([]byte(`{"catalog":`), catalog...)
	if v4.Options.CaptureLogs {
		text, err := json.Marshal(v4.logs(result, env))
		if err != nil {
			return err
		}
		body = append(append(body, `,"logs":`...), text...)
	}
	return write(w, q, format{formatJSON.name, formatJSON.mime, puppet.TypeJSON}, append(body, '}'))
}

// A logV4 is a message in the form of Puppet's own (Puppet::Util::Log, to_data_hash).
type logV4 struct {
	Level   string    `json:"level"`
	Message string    `json:"message"`
	Source  string    `json:"source"`
	Tags    []string  `json:"tags"`
	Time    time.Time `json:"time"`
	File    *string   `json:"file"`
	Line    *int      `json:"line"`
}

// logs are the messages of the compile. The last one is worded for this endpoint
// (puppet/server/compiler.rb), where Puppet's terminus says how long it took.
func (v4 *catalogV4) logs(result engine.Result, env puppet.Environment) []logV4 {
	all := []logV4{}
	for _, l := range result.Logs {
		if l.Level == "notice" && strings.HasPrefix(l.Message, "Compiled ") && strings.HasSuffix(l.Message, " seconds") {
			continue
		}
		one := logV4{Level: l.Level, Message: l.Message, Source: l.Source, Tags: l.Tags, Time: l.Time}
		if l.File != "" {
			one.File, one.Line = &l.File, &l.Line
		}
		all = append(all, one)
	}
	if v4.Options.LogLevel != "debug" && v4.Options.LogLevel != "info" {
		return all
	}
	return append(all, logV4{
		Level: "info", Message: fmt.Sprintf("Compiled catalog for %s in environment %s using the v4 catalog endpoint", v4.name, env),
		Source: "Puppet", Tags: []string{"info"}, Time: time.Now(),
	})
}
