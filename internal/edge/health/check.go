package health

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// This file says how a server can be checked.

// The types of checks.
const (
	TypeNone  = "none"  // up, until requests show otherwise
	TypeTCP   = "tcp"   // the connection is accepted. A stopped process passes: its kernel accepts
	TypeTLS   = "tls"   // the handshake succeeds
	TypeHTTP  = "http"  // the answer has the right status and body
	TypeHTTPS = "https" // the same over TLS
)

// What happens when requests have shown ErrorLimit errors in a row. Each of them also brings the next check forward.
const (
	OnErrorFastInter   = "fastinter"    // nothing else
	OnErrorFailCheck   = "fail-check"   // it counts as one failed check (the default)
	OnErrorSuddenDeath = "sudden-death" // the next failed check marks the server down
	OnErrorMarkDown    = "mark-down"    // the server is down at once
)

// How a server is judged before its first check, as HAProxy's init-state.
const (
	InitialFullyUp   = "fully-up"   // up; it takes Fall failures to mark it down
	InitialUp        = "up"         // up; one failure marks it down
	InitialDown      = "down"       // down; one success marks it up
	InitialFullyDown = "fully-down" // down; it takes Rise successes to mark it up
)

// A Check says how one server is judged. The zero value judges it by nothing: it is up.
type Check struct {
	Type string // one of the Type constants; empty means TypeNone

	Method      string // of http and https; empty means GET
	Path        string // empty means /status/v1/simple
	Host        string // empty means the host of the address
	HTTPVersion string // "1.0" or "1.1"; empty means 1.1
	Headers     http.Header
	Status      []StatusRange  // that pass; empty means 200 to 399
	Body        *regexp.Regexp // that the first 64 KiB of the body must match; nil: any body
	DrainOn404  bool           // 404 means: no new work, as HAProxy's disable-on-404
	TLS         *tls.Config    // nil: no verification; a check shows that a server answers, not who it is
	SendProxy   bool           // a PROXY header comes first
	ProxyV2     bool           // it is of version 2
	Header      string         // of good answers, that [Status] repeats; empty: none

	Interval     time.Duration // 0 means 2 s; of a heartbeat: how often it comes
	FastInterval time.Duration // while the state is changing; 0 means Interval
	DownInterval time.Duration // while it is down; 0 means Interval
	Timeout      time.Duration // of one whole check; 0 means Interval
	Rise, Fall   int           // checks in a row that make it up or down; 0 means 2 and 3
	Suspicion    time.Duration // a check that [Monitor.Suspect] asked for must pass in so long; 0: as the others
	Spread       float64       // 0 to 0.5: checks come earlier or later by up to this share of the interval
	Initial      string        // before the first check; empty: down, and the first result decides alone

	AgentAddress  string        // where the server states its own weight; empty: it does not
	AgentInterval time.Duration // 0 means 2 s
	AgentSend     string        // sent first, as it is

	Observe    bool     // what requests show counts
	Layer      int      // 4: only what their connections show; 0 or 7: their answers too
	ErrorLimit int      // errors in a row; 0 means 10
	OnError    string   // one of the OnError constants; empty means OnErrorFailCheck
	Outlier    *Outlier // nil: nobody is ejected for being worse than the others
}

// A StatusRange holds HTTP statuses, both ends included.
type StatusRange struct{ From, To int }

// A Target is a server to watch.
type Target struct {
	ID      string // "pool/server"
	Address string // host:port; a path is a Unix socket
	Weight  int    // as configured, to which the absolute weight of an agent check relates; 0 means 100
	Check   Check
}

// Validate reports all that is wrong with a check.
func (c Check) Validate() error {
	var errs []error
	say := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	types := []string{"", TypeNone, TypeTCP, TypeTLS, TypeHTTP, TypeHTTPS}
	say(slices.Contains(types, c.Type), "type %q is none of %s", c.Type, strings.Join(types[1:], ", "))
	modes := []string{"", OnErrorFastInter, OnErrorFailCheck, OnErrorSuddenDeath, OnErrorMarkDown}
	say(slices.Contains(modes, c.OnError), "on-error %q is none of %s", c.OnError, strings.Join(modes[1:], ", "))
	states := []string{"", InitialFullyUp, InitialUp, InitialDown, InitialFullyDown}
	say(slices.Contains(states, c.Initial), "initial %q is none of %s", c.Initial, strings.Join(states[1:], ", "))
	say(slices.Contains([]string{"", "1.0", "1.1"}, c.HTTPVersion), "HTTP version %q is neither 1.0 nor 1.1", c.HTTPVersion)
	say(c.Spread >= 0 && c.Spread <= 0.5, "spread %v is not between 0 and 0.5", c.Spread)
	say(c.Rise >= 0 && c.Fall >= 0 && c.ErrorLimit >= 0, "rise, fall and error limit cannot be negative")
	say(c.Interval >= 0 && c.FastInterval >= 0 && c.DownInterval >= 0 && c.Timeout >= 0 && c.AgentInterval >= 0 && c.Suspicion >= 0, "a time cannot be negative")
	say(c.Layer == 0 || c.Layer == 4 || c.Layer == 7, "layer %d is neither 4 nor 7", c.Layer)
	for _, r := range c.Status {
		say(r.From >= 100 && r.From <= r.To && r.To <= 599, "status %d-%d is no range within 100 to 599", r.From, r.To)
	}
	say(!c.breaksLine(), "method, path, host and headers cannot hold spaces, line ends or control characters where HTTP allows none")
	return errors.Join(errs...)
}

// breaksLine reports whether the request of the check would be another one than it says.
func (c Check) breaksLine() bool {
	control := func(s, more string) bool {
		return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || strings.ContainsRune(more, r) })
	}
	if control(c.Method, " \t") || control(c.Path, " \t") || control(c.Host, " \t") {
		return true
	}
	for name, values := range c.Headers {
		if name == "" || control(name, " \t:") || slices.ContainsFunc(values, func(v string) bool { return control(v, "") }) {
			return true
		}
	}
	return false
}

func (c Check) withDefaults() Check {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&c.Interval, 2*time.Second)
	def(&c.FastInterval, c.Interval)
	def(&c.DownInterval, c.Interval)
	def(&c.Timeout, c.Interval)
	def(&c.AgentInterval, 2*time.Second)
	number := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	number(&c.Rise, 2)
	number(&c.Fall, 3)
	number(&c.ErrorLimit, 10)
	number(&c.Layer, 7)
	text := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	text(&c.Type, TypeNone)
	text(&c.Method, http.MethodGet)
	text(&c.Path, "/status/v1/simple")
	text(&c.HTTPVersion, "1.1")
	text(&c.OnError, OnErrorFailCheck)
	if len(c.Status) == 0 {
		c.Status = []StatusRange{{200, 399}}
	}
	c.Spread = min(max(c.Spread, 0), 0.5)
	if c.Outlier != nil {
		o := c.Outlier.withDefaults()
		c.Outlier = &o
	}
	return c
}

// active reports whether somebody has to go and look.
func (c Check) active() bool {
	return c.Type != TypeNone
}

// same reports whether t, with its defaults, is watched in the same way. A TLS configuration and a pattern are the same only if they are one.
func (w *watched) same(t Target) bool {
	a, b := w.Check, t.Check
	outliers := a.Outlier == b.Outlier || a.Outlier != nil && b.Outlier != nil && *a.Outlier == *b.Outlier
	return w.Weight == t.Weight && outliers && a.TLS == b.TLS && slices.Equal(a.Status, b.Status) &&
		maps.EqualFunc(a.Headers, b.Headers, slices.Equal[[]string]) && samePattern(a.Body, b.Body) && a.scalars() == b.scalars()
}

func samePattern(a, b *regexp.Regexp) bool {
	return a == b || a != nil && b != nil && a.String() == b.String()
}

// scalars returns what of a check can be compared by ==.
func (c Check) scalars() any {
	type scalars struct {
		texts    [10]string
		times    [6]time.Duration
		rise     [4]int
		spread   float64
		switches [4]bool
	}
	return scalars{
		[10]string{c.Type, c.Method, c.Path, c.Host, c.HTTPVersion, c.Initial, c.AgentAddress, c.AgentSend, c.OnError, c.Header},
		[6]time.Duration{c.Interval, c.FastInterval, c.DownInterval, c.Timeout, c.AgentInterval, c.Suspicion},
		[4]int{c.Rise, c.Fall, c.Layer, c.ErrorLimit},
		c.Spread,
		[4]bool{c.DrainOn404, c.SendProxy, c.ProxyV2, c.Observe},
	}
}

// network tells a Unix socket from a host and port.
func network(address string) string {
	if strings.HasPrefix(address, "/") {
		return "unix"
	}
	return "tcp"
}

// host is the host part of an address; the whole of it where there is no port.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}
