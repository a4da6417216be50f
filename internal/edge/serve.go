package edge

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/telemetry"
)

// This file follows one request of an agent through the edge: who asks, which run, which pool, and what is answered when no server can.

// A front is a listener in mode puppet, or the names of one.
type front struct {
	edge     *Edge
	listener config.EdgeListener
	pool     string
}

// An exchange is one request with all that the edge knows of it.
type exchange struct {
	request     *http.Request
	verb        verb
	client      string
	certificate *x509.Certificate // nil without a verified one
	environment string
	obeys       bool // knows Retry-After
	run         *run // nil for what belongs to none
	fresh       bool // the run begins with it
	pool        *pool
	body        *held
	codeID      string       // of the run
	cut         bool         // a verdict took it from a server
	sent        *atomic.Bool // the server of this attempt may have taken it
}

// headers that only an edge may say something in: identity, and what edges and members tell each other.
var reserved = []string{"X-Client-Verify", "X-Client-Dn", "X-Client-Cert", "Troupe-Client", "Troupe-Code-Id"}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := f.edge
	e.busy.Add(1)
	defer e.busy.Add(-1)
	began := time.Now()
	for _, name := range reserved {
		if len(r.Header.Values(name)) > 0 {
			e.metrics.forged.Inc()
			r.Header.Del(name)
		}
	}
	client, certificate, err := e.client(r)
	if err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if e.answersStatus(w, r) {
		return
	}
	x := &exchange{request: r, verb: verbOf(r), client: client, certificate: certificate, environment: environmentOf(r), obeys: obeysRetryAfter(r)}
	x.pool = f.choose(x)
	if x.verb.run {
		x.run, x.fresh = e.runs.enter(client, certificate != nil, x.verb, r)
		x.fresh = x.fresh && !e.inherit(r.Context(), x) && x.verb.begins
	}
	o := f.exchange(w, x)
	if x.run != nil {
		o.ends = x.verb.ends
		e.runs.leave(x.run, o)
	}
	took := time.Since(began)
	e.metrics.request(x.verb.name, o.status, took)
	e.log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("client", client), slog.String("verb", x.verb.name), slog.String("path", clip(r.URL.Path)),
		slog.Int("status", o.status), slog.String("server", o.server), slog.Int("replays", o.replays), slog.Duration(telemetry.KeyDuration, took))
	if o.cut {
		panic(http.ErrAbortHandler) // who still listens must see that the answer is not whole
	}
}

// exchange brings the request to a server, to another one if that dies, and the answer back.
func (f *front) exchange(w http.ResponseWriter, x *exchange) (o outcome) {
	e := f.edge
	e.budget.earn()
	if wait, refuse := e.refuses(x); refuse { // each who is refused has a time of its own already
		return e.turnAway(w, o, x, wait, "overloaded")
	}
	if x.verb.name == "certificate_request" && x.certificate == nil && x.request.Method == http.MethodPut {
		leave, ok := e.newcomers.enter(x.request.Context(), x.obeys)
		if !ok {
			return e.turnAway(w, o, x, 5*time.Second, "too many ask for a certificate at the same time")
		}
		defer leave()
	}
	most := e.runConf.maxBody
	if x.certificate == nil {
		most = min(most, strangerBody)
	}
	body, err := e.bodies.hold(x.request.Body, most)
	x.body = body
	defer body.release()
	switch {
	case errors.Is(err, errBodyTooLarge):
		w.Header().Set("Connection", "close")
		return answerText(w, o, http.StatusRequestEntityTooLarge, fmt.Sprintf("The body is larger than the %d bytes that this edge takes from you (runs.max_body, less without a certificate).", most))
	case errors.Is(err, errNoRoom):
		e.log.Warn("no room for bodies", telemetry.KeyErr, err, "remedy", "raise runs.memory or runs.disk, or free the disk of "+e.conf.Data)
		return e.turnAway(w, o, x, e.spread(x, 5*time.Second), "no room")
	case err != nil: // the agent went away, or was too slow
		return answerText(w, o, http.StatusBadRequest, "The body did not come whole.")
	}
	if why := e.poison.judge(x); why != "" {
		return answerText(w, o, http.StatusInternalServerError, why)
	}
	var tried []string
	deaths := 0           // of servers that had it
	wanted := time.Second // until the agent tries again
	for began, pause := time.Now(), 250*time.Millisecond; ; {
		a, s, err := e.attempt(x, tried)
		if s != nil {
			o.pool, o.server = x.pool.name, s.name
		}
		if err == nil {
			o.status = a.status
			e.poison.survived(x)
			if x.run != nil { // before the agent has it: its next request may come to another process
				e.runs.learn(x.run, x.environment, a)
			}
			o.cut = !f.pass(w, x, a)
			return o
		}
		switch {
		case x.request.Context().Err() != nil:
			o.status, o.cut = 499, true // the agent went away
			return o
		case s == nil: // balancing has none
			wait := 3 * time.Second // with no server, until one is back
			if busy, ok := errors.AsType[*balance.BusyError](err); ok && !errors.Is(err, balance.ErrNoServer) {
				wait = busy.Wait
			}
			wait = max(wait, wanted)
			return e.turnAway(w, o, x, e.spread(x, wait), err.Error())
		}
		tried = append(tried, s.name)
		died := x.sent.Load()
		if there, ok := errors.AsType[*busyError](err); ok {
			wanted = max(wanted, there.after)
			died = there.behind && !x.verb.replay
		} else if errors.Is(err, errBusyThere) {
			died = false
		} else if died {
			deaths++
		}
		if !died && !x.obeys && time.Since(began) < oldAgentMost { // nobody took it: that costs nothing but time
			select {
			case <-x.request.Context().Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, 2*time.Second)
			continue
		}
		if died && !x.verb.replay {
			e.log.Warn("a request was lost with its server, and must not be sent again", "verb", x.verb.name, "client", x.client, "server", s.id, telemetry.KeyErr, err)
			return answerText(w, o, http.StatusInternalServerError, "The server went away while it worked on this request, which may have been done. Look before you ask again.")
		}
		if o.replays >= e.runConf.replays || !errors.Is(err, errWentDown) && !e.budget.take() { // who was cut has paid
			e.poison.died(x, deaths)
			return e.turnAway(w, o, x, e.spread(x, wanted), "servers failed: "+err.Error())
		}
		o.replays++
		e.metrics.replays.WithLabelValues(x.verb.name).Inc()
		e.log.Info("request is sent to another server", "verb", x.verb.name, "client", x.client, "failed", s.id, telemetry.KeyErr, err)
	}
}

// choose finds the pool: by the listener's rules, else its own. A pool with a long queue gives way to another.
func (f *front) choose(x *exchange) *pool {
	name := f.pool
	source, err := netip.ParseAddr(host(x.request.RemoteAddr))
	for _, rule := range f.listener.Rules {
		if ruleFits(rule, source.Unmap(), err == nil, x) {
			name = rule.Pool
			break
		}
	}
	return f.edge.pools[name].orOverflow()
}

// orOverflow is the pool itself, or the one that takes what is too much for it.
func (p *pool) orOverflow() *pool {
	for p.overflow != nil && (p.Usable() == 0 || p.AverageQueue() > p.conf.Overflow.Above) {
		if p.overflow.Usable() == 0 {
			return p
		}
		p = p.overflow
	}
	return p
}

func ruleFits(rule config.EdgeRule, source netip.Addr, known bool, x *exchange) bool {
	if rule.Source != nil && !(known && slices.ContainsFunc(rule.Source, func(p netip.Prefix) bool { return p.Contains(source) })) {
		return false
	}
	if rule.Path != nil && (x == nil || !slices.ContainsFunc(rule.Path, func(prefix string) bool { return strings.HasPrefix(x.request.URL.Path, prefix) })) {
		return false
	}
	if rule.Environment != nil && (x == nil || !slices.Contains(rule.Environment, x.environment)) {
		return false
	}
	return rule.Certname == nil || x != nil && x.certificate != nil && slices.ContainsFunc(rule.Certname, func(pattern string) bool {
		ok, err := path.Match(pattern, x.client)
		return ok && err == nil
	})
}

// pass gives the answer of a server to the agent, and tells whether it got all of it.
func (f *front) pass(w http.ResponseWriter, x *exchange, a *answer) bool {
	defer a.close()
	h := w.Header()
	maps.Copy(h, a.header)
	dropHopByHop(h)
	if a.rest == nil && x.request.Method != http.MethodHead && a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.FormatInt(a.body.size, 10))
	}
	if f.edge.leaving.Load() {
		h.Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	if x.request.Method == http.MethodHead {
		return true
	}
	_, err := io.Copy(w, a.reader())
	if err != nil {
		if a.rest != nil && x.request.Context().Err() == nil {
			f.edge.log.Warn("an answer too large to be held was cut with its server", "path", clip(x.request.URL.Path), "client", x.client, telemetry.KeyErr, err, "remedy", "raise runs.max_answer")
		}
	}
	return err == nil
}

// turnAway sends an agent away for a while. One that does not obey Retry-After has waited already.
func (e *Edge) turnAway(w http.ResponseWriter, o outcome, x *exchange, wait time.Duration, why string) outcome {
	wait = min(max(wait, time.Second), e.runConf.maxRetryAfter).Round(time.Second)
	e.metrics.refused.WithLabelValues(x.verb.name).Inc()
	if x.obeys || x.request.Header.Get("X-Puppet-Version") == "" { // other agents would sleep and then fail
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	}
	w.Header().Set("Connection", "close")
	o.refused = true
	e.log.Debug("sent away", "client", x.client, "verb", x.verb.name, "wait", wait, "why", why)
	return answerText(w, o, http.StatusServiceUnavailable, "No server can take this request now: "+why+". Try again in "+wait.String()+".")
}

func answerText(w http.ResponseWriter, o outcome, status int, text string) outcome {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // who has gone away hears nothing
	o.status = status
	return o
}

// answersStatus tells agents with a server_list, and other balancers, whether this site can finish a run. Those that it cannot serve go
// to the next of their list.
func (e *Edge) answersStatus(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/status/v1/simple", "/status/v1/simple/server", "/status/v1/simple/master":
	default:
		return false
	}
	ok, why := e.serving()
	if ok && !e.leaving.Load() && !e.drained.Load() {
		if line := e.measures.says(); line != "" {
			w.Header().Set(tellHeader, line)
		}
		answerText(w, outcome{}, http.StatusOK, "running")
		return true
	}
	if why == "" {
		why = "this edge is being drained"
	}
	w.Header().Set("Connection", "close")
	answerText(w, outcome{}, http.StatusServiceUnavailable, "error: "+why)
	return true
}

// newRun is the class of requests that stand behind those of runs that began.
const newRun = 1

// acquire takes a place at a server of the pool. An agent that does not know Retry-After waits for as long as it would for an answer.
func (e *Edge) acquire(ctx context.Context, x *exchange, tried []string) (*balance.Lease, error) {
	ask := balance.Ask{Key: x.client, Environment: x.environment, Exclude: tried, Cost: 20 * time.Millisecond}
	ask.Patient = !x.obeys && len(tried) == 0 // none but those that failed it: then these are asked again
	if x.verb.name == "catalog" {
		ask.Cost = x.pool.costs.Expect(x.client, x.environment)
	}
	if x.fresh {
		ask.Class = newRun
	}
	if x.run != nil && !x.fresh {
		ask.Run = true
		ask.Prefer, x.codeID = e.runs.pin(x.run, x.pool.name, x.environment)
	}
	until := time.Now().Add(oldAgentMost)
	for {
		lease, err := x.pool.Acquire(ctx, ask)
		if err == nil || x.obeys || ctx.Err() != nil || time.Now().After(until) {
			return lease, err
		}
		ask.Exclude, ask.Patient = nil, true
		if x.pool = x.pool.orOverflow(); errors.Is(err, balance.ErrQueueTimeout) {
			continue // it has waited its time in the queue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// oldAgentMost is a little less than what an agent waits for an answer.
const oldAgentMost = 9 * time.Minute

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

func lower(s string) string { return strings.ToLower(s) }

const maxPath = 1 << 10

func clip(text string) string {
	if len(text) <= maxPath {
		return text
	}
	return strings.ToValidUTF8(text[:maxPath], "") + "…"
}
