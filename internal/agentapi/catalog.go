package agentapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"troupe/internal/classifier"
	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// This file answers GET and POST /puppet/v3/catalog/NAME, in the order of
// lib/puppet/indirector/catalog/compiler.rb: read and save the facts, find the
// node, agree on the environment, compile, keep the catalog, answer.

func (a *API) getCatalog(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	if err := q.form(a.o.Limits.Catalog); err != nil {
		return err
	}
	name, requested, err := a.catalogRequest(q)
	if err != nil {
		return err
	}
	f, err := q.accepted(catalogFormats)
	if err != nil {
		return err
	}
	facts, err := a.takeFacts(ctx, q, name, requested)
	if err != nil {
		return err
	}
	node, version, err := a.findNode(ctx, name, requested)
	if err != nil {
		return err
	}
	if !version.Settings.RichData { // such an environment does not have the rich formats at all
		if f, err = q.accepted(slices.DeleteFunc(slices.Clone(catalogFormats), format.rich)); err != nil {
			return err
		}
	}
	w.Header().Set("X-Puppet-Compiler-Name", a.o.ServerName)
	if node.Environment != requested && q.params.Has("check_environment") && q.params.Get("check_environment") != "false" {
		return write(w, q, f, emptyCatalog(name, node.Environment))
	}
	trusted := q.id.Trusted()
	if trusted.External, err = a.nodes.External(ctx, name); err != nil {
		return err
	}
	version.Retain()
	defer version.Release()
	tellCodeID(ctx, w, version)

	c := compilation{
		request: engine.Request{
			Certname: name, Version: version, Classes: node.Classes, Parameters: node.Parameters, Facts: facts,
			Trusted: trusted, ServerFacts: a.serverFacts(),
			TransactionUUID: q.params.Get("transaction_uuid"), JobID: q.params.Get("job_uuid"),
			Rich: f.rich(), Static: q.flag("static_catalog") && version.Settings.StaticCatalogs,
			Patient: !obeysRetryAfter(q.Request),
			Former:  a.former(version),
		},
		keepCatalog: true, stale: node.Stale,
	}
	if types := q.params.Get("checksum_type"); types != "" {
		c.request.ChecksumTypes = strings.Split(types, ".")
	}
	result, err := a.compile(ctx, c)
	if err != nil {
		return err
	}
	if result.PSON && f.name != "pson" {
		// Puppet fails to render such a catalog as JSON and tries the next format that the agent takes.
		if f, err = q.accepted([]format{formatPSON}); err != nil {
			return err
		}
	}
	return write(w, q, f, result.Catalog)
}

// catalogRequest reads who wants a catalog in which environment. An environment
// that does not exist is replaced by the default one, and the agent then follows:
// the compiler is the one terminus that does not require it (require_environment?).
func (a *API) catalogRequest(q *request) (puppet.Certname, puppet.Environment, error) {
	// puppetserver wants to know the environment before Puppet does, for the
	// code_id, and answers in text (request_handler_core.clj, with-code-id).
	if !q.params.Has("environment") {
		return "", "", plainProblem(http.StatusBadRequest, "The environment must be purely alphanumeric, not 'null'")
	}
	env, err := q.environment()
	if err != nil {
		return "", "", plainProblem(http.StatusBadRequest, fault.Message(err))
	}
	name, err := q.certname()
	if err != nil {
		return "", "", err
	}
	telemetry.Note(q.Context(),
		slog.String(telemetry.KeyCertname, string(name)),
		slog.String(telemetry.KeyEnvironment, string(env)),
		slog.String(telemetry.KeyTransaction, q.params.Get("transaction_uuid")))

	_, err = a.code.Current(q.Context(), env)
	if fault.KindOf(err) == fault.NotFound {
		return name, a.o.DefaultEnvironment, nil
	}
	return name, env, err
}

// takeFacts reads the facts of the request and saves them; when it returns they
// are durable. Without facts in the request the stored ones are used.
func (a *API) takeFacts(ctx context.Context, q *request, name puppet.Certname, env puppet.Environment) (puppet.Facts, error) {
	text := q.params.Get("facts")
	if text == "" {
		return a.knownFacts(ctx, name)
	}
	kind := q.params.Get("facts_format")
	switch kind {
	case "application/json", "pson":
	case "":
		return puppet.Facts{}, serverError(fmt.Sprintf("Facts but no fact format provided for %s", name))
	default:
		return puppet.Facts{}, serverError("Unsupported facts format")
	}
	// The request may wait for long: it need not keep its facts twice.
	q.params.Del("facts")
	// The agent escapes facts twice; the form or the query undid one of them.
	facts, err := puppet.DecodeFacts(kind, []byte(unescape(text)))
	if fault.KindOf(err) == fault.Invalid {
		return puppet.Facts{}, serverError(fault.Message(err))
	}
	if err != nil {
		return puppet.Facts{}, err
	}
	if facts.Certname != name {
		return puppet.Facts{}, serverError(fmt.Sprintf(
			"Catalog for %q was requested with fact definition for the wrong node (%q).", name, facts.Certname))
	}
	facts.Environment = env
	if err := a.db.SaveFacts(ctx, facts, a.o.ServerName); err != nil {
		return puppet.Facts{}, fmt.Errorf("saving facts of %s: %w", name, err)
	}
	return facts, nil
}

// findNode classifies the node and finds the code of its environment: the ENC's,
// or the requested one when there is no ENC or it does not say. It is of the version
// that the run has its plugins from, if an edge tells which.
func (a *API) findNode(ctx context.Context, name puppet.Certname, requested puppet.Environment) (classifier.Node, *code.Version, error) {
	node, err := a.nodes.Classify(ctx, name)
	if err != nil {
		return node, nil, classifyFault(name, err)
	}
	decided := node.Environment != ""
	if !decided {
		node.Environment = requested
	}
	find := a.runVersion
	if node.Environment != requested {
		find = a.code.Current // the plugins were of another environment
	}
	version, err := find(ctx, node.Environment)
	if fault.KindOf(err) == fault.NotFound && decided {
		return node, nil, serverError(fmt.Sprintf(
			"Failed when searching for node %s: Could not find a directory environment named '%s' anywhere in the path: %s. Does the directory exist?",
			name, node.Environment, strings.ReplaceAll(strings.Join(a.code.SearchPaths(), ":"), "file://", "")))
	}
	return node, version, err
}

// classifyFault words a failed classification as the compiler terminus does.
func classifyFault(name puppet.Certname, err error) error {
	switch fault.KindOf(err) {
	case fault.NotFound:
		return serverError(fmt.Sprintf("Could not find node '%s'; cannot compile", name))
	case fault.Failed:
		return serverError(fmt.Sprintf("Failed when searching for node %s: %s", name, fault.Message(err)))
	default:
		return err
	}
}

func (a *API) serverFacts() map[string]string {
	return engine.ServerFacts(cmp.Or(a.o.HostName, a.o.ServerName), a.o.ServerIP, a.o.ServerIP6)
}

// emptyCatalog tells an agent that it belongs to another environment.
func emptyCatalog(name puppet.Certname, env puppet.Environment) []byte {
	return fmt.Appendf(nil, `{"tags":[],"name":%q,"version":null,"code_id":null,"catalog_uuid":%q,"catalog_format":2,"environment":%q,"resources":[],"edges":[],"classes":[]}`,
		name, newUUID(), env)
}

// newUUID returns a random UUID (version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A compilation is one compile and what is kept of it.
type compilation struct {
	request     engine.Request
	keepCatalog bool
	stale       bool // the ENC failed and its last good answer is used
}

// maxSave bounds how long an answer waits for the store.
const maxSave = 30 * time.Second

// compile runs the engine and keeps what came of it, good or bad.
func (a *API) compile(ctx context.Context, c compilation) (engine.Result, error) {
	start := time.Now()
	result, err := a.engine.Compile(ctx, c.request)
	// What was compiled is worth keeping even when the agent has gone away.
	saveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxSave)
	defer cancel()
	record := store.Compile{
		Certname: c.request.Certname, Environment: c.request.Version.Environment, CodeID: c.request.Version.ID,
		TransactionUUID: c.request.TransactionUUID, Start: start, Duration: time.Since(start),
	}
	telemetry.Note(ctx, slog.String(telemetry.KeyCodeID, c.request.Version.ID), slog.Duration("compile_duration", record.Duration))
	if c.stale {
		telemetry.Note(ctx, slog.Bool("stale_classification", true))
		record.Logs = append(record.Logs, store.Log{
			Level: "warning", Source: "troupe", Time: start,
			Message: "the external node classifier failed; its last good answer is used",
		})
	}
	if err != nil {
		if fault.KindOf(err) == fault.Failed {
			a.keepFailure(saveCtx, record, err)
		}
		return result, err
	}
	a.logMessages(ctx, record, result.Logs)
	record.Logs = append(record.Logs, storedLogs(result.Logs)...)
	record.Timings, record.Resources, record.Bytes = result.Timings, result.Resources, len(result.Catalog)
	a.keep(saveCtx, c, record, result)
	return result, nil
}

// keepFailure stores a compile that failed. The agent is told in any case.
func (a *API) keepFailure(ctx context.Context, record store.Compile, err error) {
	record.Failed, record.Error = true, fault.Message(err)
	if ce, ok := errors.AsType[*engine.CompileError](err); ok {
		a.logMessages(ctx, record, ce.Logs)
		record.Logs = append(record.Logs, storedLogs(ce.Logs)...)
		record.Timings = ce.Timings
	}
	if err := a.db.SaveCompile(ctx, record); err != nil {
		a.log.ErrorContext(ctx, "storing a failed compile failed", telemetry.KeyCertname, record.Certname, telemetry.KeyErr, err)
	}
}

// keep stores a catalog and its compile. A node is not left without its catalog
// because the catalog cannot be stored: the next run stores it.
func (a *API) keep(ctx context.Context, c compilation, record store.Compile, result engine.Result) {
	var saves sync.WaitGroup
	if c.keepCatalog {
		saves.Go(func() {
			if err := a.saveCatalog(ctx, c, result); err != nil {
				a.log.ErrorContext(ctx, "storing a catalog failed", telemetry.KeyCertname, record.Certname, telemetry.KeyErr, err)
			}
		})
	}
	if err := a.db.SaveCompile(ctx, record); err != nil {
		a.log.ErrorContext(ctx, "storing a compile failed", telemetry.KeyCertname, record.Certname, telemetry.KeyErr, err)
	}
	saves.Wait()
}

func (a *API) saveCatalog(ctx context.Context, c compilation, result engine.Result) error {
	body := json.RawMessage(result.Catalog)
	if result.PSON {
		var err error
		if body, err = puppet.PSONToJSON(result.Catalog); err != nil {
			return err
		}
	}
	return a.db.SaveCatalog(ctx, store.CatalogMeta{
		Certname: c.request.Certname, Environment: c.request.Version.Environment, CodeID: c.request.Version.ID,
		CatalogUUID: result.CatalogUUID, TransactionUUID: c.request.TransactionUUID, Version: result.ConfigVersion,
	}, body, result.Exported)
}

func storedLogs(logs []engine.Log) []store.Log {
	out := make([]store.Log, len(logs))
	for i, l := range logs {
		out[i] = store.Log{Level: l.Level, Message: l.Message, Source: l.Source, File: l.File, Line: l.Line, Time: l.Time}
	}
	return out
}
