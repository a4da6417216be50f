package edge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file has a process that took over learn of the runs that go on: an agent whose catalog came from the process before would get
// files of another code version from this one. It asks when such an agent comes, for until then the other process may still answer it.

const (
	// The control socket of the process before gets another name, under which it answers until it has ended.
	formerSocket = "edge-before.sock"
	passMost     = time.Second
)

// A passedRun is what has to be known of a run elsewhere.
type passedRun struct {
	Pinned   map[string]string `json:"pinned"`
	CodeID   map[string]string `json:"code_id"`
	Compiled time.Duration     `json:"compiled"`
}

// passOn tells what is known of a client's run, unless a request of this kind would begin another one.
func (a *runs) passOn(client string, v verb) (p passedRun, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.byName[client]
	if r == nil || a.over(r, v, a.now()) {
		return p, false
	}
	return passedRun{maps.Clone(r.pinned), maps.Clone(r.codeID), r.compiled}, true
}

// adopt takes over what another process knew of a run.
func (a *runs) adopt(r *run, p passedRun) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.Copy(r.pinned, p.Pinned)
	maps.Copy(r.codeID, p.CodeID)
	r.compiled = max(r.compiled, p.Compiled)
}

func (e *Edge) answerPassOn(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p, ok := e.runs.passOn(q.Get("client"), verb{name: q.Get("verb"), begins: q.Get("begins") == "true"})
	if !ok {
		e.reply(w, nil, fault.New(fault.NotFound, "no run of %s goes on here", q.Get("client")))
		return
	}
	e.reply(w, p, nil)
}

// makeRoom moves the control socket of the process before aside, and remembers whom to ask.
func (e *Edge) makeRoom(ctx context.Context, path string) error {
	former := filepath.Join(e.conf.Data, formerSocket)
	if err := os.Rename(path, former); err != nil {
		return fmt.Errorf("control socket of the edge before this one: %w", err)
	}
	client, err := dialControl(ctx, former)
	if err != nil {
		return err
	}
	e.former.Store(client)
	return nil
}

// inherit asks the process before for a run that is new here, and tells whether it went on there.
func (e *Edge) inherit(ctx context.Context, x *exchange) bool {
	before := e.former.Load()
	if before == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, passMost)
	defer cancel()
	q := url.Values{"client": {x.client}, "verb": {x.verb.name}, "begins": {strconv.FormatBool(x.verb.begins)}}
	var p passedRun
	err := before.do(ctx, http.MethodGet, "/v1/passed?"+q.Encode(), nil, &p)
	if _, gone := errors.AsType[*url.Error](err); gone && ctx.Err() == nil {
		e.former.CompareAndSwap(before, nil)
		e.log.Debug("the edge before this one has ended", telemetry.KeyErr, err)
	}
	if err != nil {
		return false // it has none, or has ended, or is too slow: then it is a run that begins
	}
	e.runs.adopt(x.run, p)
	return true
}
