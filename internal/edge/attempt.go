package edge

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"troupe/internal/edge/health"
)

// This file sends a request to one server and holds its answer until it is whole, so that a server that dies in the middle of it costs
// nothing but time.

// errBusyThere is a server that says itself that it cannot: it has not done anything.
var errBusyThere = errors.New("the server is busy or starting")

// A busyError is such a server with when it wants to be asked again.
type busyError struct {
	status string
	after  time.Duration
	behind bool // it speaks of a server behind it, which may have done what was asked
}

func (b *busyError) Error() string { return "the server says " + b.status }

// Unwrap makes it an errBusyThere.
func (b *busyError) Unwrap() error { return errBusyThere }

// An answer is what a server said. With rest, its body goes on after what is held.
type answer struct {
	status   int
	header   http.Header
	body     *held
	rest     io.ReadCloser
	done     func()
	codeID   string
	compiled time.Duration
}

func (a *answer) reader() io.Reader {
	if a.rest == nil {
		return a.body.reader()
	}
	return io.MultiReader(a.body.reader(), bytes.NewReader(a.body.over), a.rest)
}

func (a *answer) close() {
	if a.rest != nil {
		_ = a.rest.Close()
	}
	a.body.release()
	a.done()
}

// hopByHop headers belong to one connection (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Troupe-Code-Id"}

// dropHopByHop removes them, with those that Connection names.
func dropHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// attempt asks one server that was not tried yet. With an error that is not one of balancing, the server that failed is returned.
func (e *Edge) attempt(x *exchange, tried []string) (*answer, *server, error) {
	x.sent = new(atomic.Bool)
	lease, err := e.acquire(x.request.Context(), x, tried)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	s := x.pool.server(lease.Server().Name)
	if s == nil { // removed meanwhile
		lease.Done(0, false)
		return nil, &server{name: lease.Server().Name, id: x.pool.name + "/" + lease.Server().Name}, errBusyThere
	}
	// Under a load that has all servers answer checks late, a request must not be driven from one to the next.
	ctx, end := s.begin(x.request.Context(), x.cut || len(tried) >= e.runConf.replays, e.budget.take)
	done := func(ok bool) {
		end()
		lease.Done(time.Since(began), ok)
	}
	a, err := e.ask(ctx, s, x)
	took := time.Since(began)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errWentDown) {
		err, x.cut = cause, true
	}
	if err != nil {
		done(false)
		if x.request.Context().Err() == nil && !errors.Is(err, errNoRoom) && !errors.Is(err, errWentDown) {
			layer := 4
			if errors.Is(err, errBusyThere) {
				layer = 7
			}
			// A server that says that it is busy is well.
			e.judge.Observe(s.id, health.Outcome{OK: errors.Is(err, errBusyThere), Client: x.client, Layer: layer, Took: took, Err: err.Error()})
		}
		return nil, s, err
	}
	failed := a.status >= http.StatusInternalServerError
	e.judge.Observe(s.id, health.Outcome{OK: !failed, Doubtful: failed, Layer: 7, Took: took})
	if x.verb.name == "catalog" && a.status < http.StatusMultipleChoices {
		a.compiled = took
		x.pool.costs.Observe(x.client, x.environment, took)
	}
	a.done = func() { done(true) }
	if a.rest == nil {
		a.done()
		a.done = func() {}
	}
	return a, s, nil
}

func (e *Edge) ask(ctx context.Context, s *server, x *exchange) (*answer, error) {
	heard := e.suspect(ctx, s.id)
	defer heard()
	sent := x.sent // an earlier attempt may still be told to end
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }, GotFirstResponseByte: heard})
	r, err := forwarded(ctx, s, x)
	if err != nil {
		return nil, err
	}
	response, err := s.http.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	a := &answer{status: response.StatusCode, header: response.Header, codeID: response.Header.Get("Troupe-Code-Id")}
	if busy(response.StatusCode) {
		_, _ = io.CopyN(io.Discard, response.Body, 4<<10) // so that the connection can be used again
		b := &busyError{status: response.Status, behind: response.StatusCode == http.StatusBadGateway || response.StatusCode == http.StatusGatewayTimeout}
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
			b.after = time.Duration(min(seconds, 24*3600)) * time.Second
		}
		return nil, errors.Join(b, response.Body.Close())
	}
	a.body, err = e.bodies.hold(response.Body, e.runConf.maxAnswer)
	switch {
	case err == nil:
		return a, response.Body.Close()
	case errors.Is(err, errBodyTooLarge), errors.Is(err, errNoRoom):
		a.rest = response.Body // from here on the agent reads along
		return a, nil
	}
	a.body.release()
	return nil, errors.Join(err, response.Body.Close())
}

// suspectEvery is how often a server that has not answered yet is looked at.
const suspectEvery = 300 * time.Millisecond

// suspect has a server checked while a request waits for its first byte: a server that hangs keeps its connections open and says
// nothing, and so does one that compiles. The check tells which. heard ends it, and may be called more than once.
func (e *Edge) suspect(ctx context.Context, id string) (heard func()) {
	ctx, cancel := context.WithCancel(ctx)
	var next func()
	next = func() {
		if ctx.Err() == nil {
			e.judge.Suspect(id)
			time.AfterFunc(suspectEvery, next)
		}
	}
	first := time.AfterFunc(suspectEvery, next)
	return func() { first.Stop(); cancel() }
}

// busy are the answers by which a server says that it did nothing itself.
func busy(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusBadGateway || status == http.StatusGatewayTimeout || status == http.StatusTooManyRequests
}

// forwarded is the request as a server gets it, with the identity that the edge has verified.
func forwarded(ctx context.Context, s *server, x *exchange) (*http.Request, error) {
	in := x.request
	target := &url.URL{Scheme: "https", Host: s.address, Path: s.prefix + in.URL.Path, RawQuery: in.URL.RawQuery}
	if escaped := in.URL.EscapedPath(); escaped != in.URL.Path {
		target.RawPath = s.prefix + escaped
	}
	out, err := http.NewRequestWithContext(ctx, in.Method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	out.URL, out.Host = target, in.Host
	if s.as != "" { // Jetty refuses a name that its certificate does not have: "Host does not match SNI"
		out.Host = s.as
	}
	out.Header = in.Header.Clone()
	dropHopByHop(out.Header)
	for _, name := range reserved {
		out.Header.Del(name)
	}
	if out.Header.Get("User-Agent") == "" {
		out.Header["User-Agent"] = nil // else Go would say its own name
	}
	if x.body.size > 0 || in.ContentLength == 0 && in.Method != http.MethodGet && in.Method != http.MethodHead {
		out.ContentLength = x.body.size
		out.Body = io.NopCloser(x.body.reader())
		if x.body.size == 0 {
			out.Body = http.NoBody
		}
	}
	out.Header.Set("X-Client-Verify", "NONE")
	if x.certificate != nil {
		out.Header.Set("X-Client-Verify", "SUCCESS")
		out.Header.Set("X-Client-DN", pkix.Name{CommonName: x.client}.String()) // with what has a meaning in it escaped
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.certificate.Raw})
		out.Header.Set("X-Client-Cert", strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20"))
	}
	if s.prefix != "" { // a member of the troupe
		out.Header.Set("Troupe-Client", in.RemoteAddr)
		if x.codeID != "" {
			out.Header.Set("Troupe-Code-Id", x.codeID)
		}
	}
	return out, nil
}
