package fakeagent

// This file is one run of an agent: configurer.rb of Puppet 7.23.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const api = "/puppet/v3"

// maxSwitches bounds how often the server may send the agent into another environment (configurer.rb#run_internal).
const maxSwitches = 3

// run is the state of one run.
type run struct {
	agent       *Agent
	client      *client
	trust       *trust
	session     *session
	uuid        string
	begin       time.Time
	environment string
	values      []byte // of the facts
	result      RunResult
	log         []reportLog
}

// Enroll does what `puppet ssl bootstrap` does: the part of a run that ends with a certificate.
func (a *Agent) Enroll(ctx context.Context) error {
	r := a.newRun()
	defer r.client.close()
	_, err := r.bootstrap(ctx)
	return err
}

func (a *Agent) newRun() *run {
	r := &run{agent: a, uuid: newUUID(), begin: time.Now(), environment: a.o.Environment}
	r.client = &client{dialect: a.dialect, o: a.o, record: func(q Request) { r.result.Requests = append(r.result.Requests, q) }}
	r.result = RunResult{Certname: a.certname, TransactionUUID: r.uuid, Status: "failed"}
	r.values = a.o.Facts
	return r
}

// Run does what `puppet agent --onetime` does: a certificate if there is none, plugins, catalog, files, report. It
// returns an error where that command would end without having applied a catalog.
func (a *Agent) Run(ctx context.Context) (RunResult, error) {
	r := a.newRun()
	defer r.client.close()
	if a.o.MakeFacts != nil {
		r.values = a.o.MakeFacts()
	}
	if a.o.FreshPlugins {
		a.state.plugins = map[string]string{}
	}

	err := r.do(ctx)
	r.result.Environment, r.result.Connections, r.result.Took = r.environment, r.client.opened, time.Since(r.begin)
	a.o.Log.DebugContext(ctx, "fake agent has run", "certname", a.certname, "status", r.result.Status,
		"requests", len(r.result.Requests), "took", r.result.Took)
	return r.result, err
}

func (r *run) do(ctx context.Context) error {
	var err error
	if r.trust, err = r.bootstrap(ctx); err != nil {
		return err // no certificate, no report
	}
	r.session = r.newSession()

	cat, err := r.retrieve(ctx)
	var done applied
	if err == nil {
		r.result.CatalogUUID = cat.CatalogUUID
		done = r.apply(ctx, cat)
		r.result.Resources, r.result.Changed, r.result.Failed = done.total, done.changed, done.failed
		r.result.Status = done.status()
		if !r.agent.o.NoCacheOnFail {
			r.agent.state.cached = cat
		}
	} else {
		r.fail("could not retrieve catalog; skipping run", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}

	if r.agent.o.ResubmitFacts {
		r.resubmitFacts(ctx)
	}
	// A report that cannot be sent is logged and never sent again.
	if err := r.sendReport(ctx, cat, done); err != nil {
		r.fail("could not send report", err)
	} else {
		r.result.ReportSent = true
	}
	r.agent.state.ranBefore = true
	return err
}

// retrieve finds out the environment, fetches plugins and the catalog, and starts again where the server says so.
func (r *run) retrieve(ctx context.Context) (*catalog, error) {
	if err := r.chooseEnvironment(ctx); err != nil {
		return nil, err
	}
	useCache := false
	if r.environmentExists(ctx) {
		var err error
		if useCache, err = r.pluginsync(ctx); err != nil {
			return nil, err
		}
	}

	for switches := 0; ; switches++ {
		cat, err := r.catalog(ctx, useCache)
		if err != nil {
			return nil, err
		}
		if cat.Environment == "" || cat.Environment == r.environment {
			return cat, nil
		}
		if switches > maxSwitches {
			return nil, fmt.Errorf("catalog environment didn't stabilize after %d fetches, aborting run", switches)
		}
		r.environment, r.agent.state.environment = cat.Environment, cat.Environment
		if useCache, err = r.pluginsync(ctx); err != nil {
			return nil, err
		}
	}
}

// chooseEnvironment asks for the node in its first run only; later the environment of the last run is used. 5.x asks
// in every run. A failure is a warning.
func (r *run) chooseEnvironment(ctx context.Context) error {
	a := r.agent
	if a.state.ranBefore && !a.dialect.legacy {
		if a.state.environment != "" {
			r.environment = a.state.environment
		}
		return nil
	}
	if err := r.session.routeTo(ctx, "puppet", r.trust); err != nil {
		return err
	}

	parameters := []pair{{"environment", r.environment}, {"configured_environment", r.environment}, {"transaction_uuid", r.uuid}}
	environment := ""
	if a.dialect.legacy {
		parameters, environment = []pair{{"transaction_uuid", r.uuid}, {"fail_on_404", "true"}}, r.environment
	}
	answer, err := r.send(ctx, r.trust, request{
		kind: "node", method: http.MethodGet, accept: a.dialect.acceptData,
		target: a.dialect.target(api+"/node/"+a.certname, environment, parameters...),
	}, nil)
	var node struct {
		Environment string `json:"environment"`
	}
	if err == nil {
		err = decodeJSON(answer, &node)
	}
	if err != nil {
		r.fail("unable to fetch my node definition, but the agent run will continue", err)
		return ctx.Err()
	}
	if node.Environment != "" && node.Environment != r.environment {
		r.environment, a.state.environment = node.Environment, node.Environment
	}
	return nil
}

// catalog asks the server, and takes the last applied catalog if that fails and the settings allow it.
func (r *run) catalog(ctx context.Context, useCache bool) (*catalog, error) {
	a := r.agent
	if useCache && a.state.cached != nil {
		r.result.CachedCatalog = true
		return a.state.cached, nil
	}
	cat, err := r.requestCatalog(ctx)
	if err == nil {
		return cat, nil
	}
	if a.o.NoCacheOnFail || a.state.cached == nil || ctx.Err() != nil {
		return nil, err
	}
	if a.state.cached.Environment != r.environment {
		return nil, fmt.Errorf("the cached catalog is for environment %q: %w", a.state.cached.Environment, err)
	}
	r.fail("could not retrieve catalog from remote server", err)
	r.result.CachedCatalog = true
	return a.state.cached, nil
}

func (r *run) resubmitFacts(ctx context.Context) {
	_, err := r.send(ctx, r.trust, request{
		kind: "facts", method: http.MethodPut, accept: r.agent.dialect.acceptData, content: "application/json",
		target: r.agent.dialect.target(api+"/facts/"+r.agent.certname, r.environment), body: r.facts(),
	}, nil)
	if err != nil {
		r.fail("failed to submit facts", err)
	}
}

// send sends one request to the node's server.
func (r *run) send(ctx context.Context, t *trust, q request, sink io.Writer) (response, error) {
	return r.client.do(ctx, r.agent.server, t, q, sink)
}

// fail notes a problem that ends up in the report's log.
func (r *run) fail(what string, err error) {
	text := what + ": " + err.Error()
	r.result.Failures = append(r.result.Failures, text)
	r.log = append(r.log, newLog("err", "Puppet", text))
}

// tolerate notes a problem that an agent reports on its console only. 304 is none.
func (r *run) tolerate(what string, err error) {
	if statusOf(err) != http.StatusNotModified {
		r.result.Failures = append(r.result.Failures, what+": "+err.Error())
	}
}

// decodeJSON reads a body as an agent does, which needs a content type to know the format.
func decodeJSON(answer response, to any) error {
	if answer.header.Get("Content-Type") == "" {
		return errors.New("no content type in http response; cannot parse")
	}
	if err := json.Unmarshal(answer.body, to); err != nil {
		return fmt.Errorf("failed to deserialize: %w", err)
	}
	return nil
}
