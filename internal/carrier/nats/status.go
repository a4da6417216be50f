package nats

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"troupe/internal/journal"
)

// This file says how NATS does, and what to do about it.

// A TroubleError is why NATS does not carry, and what an operator can do.
type TroubleError struct {
	What   string
	Remedy string
	Err    error // may be nil
}

func (t *TroubleError) Error() string { return t.What }

func (t *TroubleError) Unwrap() error { return t.Err }

func trouble(err error, remedy, format string, args ...any) *TroubleError {
	return &TroubleError{What: fmt.Sprintf(format, args...), Remedy: remedy, Err: err}
}

// remedy is what an operator can do about err, "" when that is not known.
func remedy(err error) string {
	if t, ok := errors.AsType[*TroubleError](err); ok {
		return t.Remedy
	}
	return ""
}

// Error codes of JetStream that the client has no names for.
const (
	codeInsufficient  = 10023 // resources of the servers
	codeStorage       = 10047
	codeNoPeers       = 10005
	codeNotClustered  = 10074
	codeAccountLimits = 10002
	codeMaximumBytes  = 10077
)

// explain gives an error of NATS its remedy.
func (s *session) explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if t, ok := errors.AsType[*TroubleError](err); ok {
		return t
	}
	s.mu.Lock()
	denied := s.denied
	s.mu.Unlock()
	servers := strings.Join(s.f.o.Servers, ", ")
	api, isAPI := errors.AsType[*jetstream.APIError](err)
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isNet := errors.AsType[net.Error](err)
	name, isName := errors.AsType[x509.HostnameError](err)
	switch {
	case isUnknown:
		return trouble(err, "set cluster.nats.tls.ca to the CA of the NATS servers", "the certificate of the server is not known: %s", unknown)
	case isName:
		return trouble(err, "write the servers in cluster.nats.servers with the names of their certificates", "the server has another name: %s", name)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return trouble(err, "switch TLS on at the servers", "the servers speak no TLS")
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return trouble(err, "correct cluster.nats.credentials, or user and password_file, or token_file", "the servers at %s refuse the credentials: %s", servers, err)
	case denied != nil:
		return trouble(denied, "give the user of this troupe the permissions that docs/sites.md lists", "the servers do not permit what is needed: %s", denied)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return trouble(err, "switch JetStream on at the servers and for the account", "JetStream is off")
	case isAPI && slices.Contains([]jetstream.ErrorCode{codeInsufficient, codeStorage, codeAccountLimits, codeMaximumBytes}, api.ErrorCode):
		return trouble(err, "make room for JetStream, raise the limits of the account, or lower cluster.nats.max_bytes", "JetStream is full: %s", api.Description)
	case isAPI && (api.ErrorCode == codeNoPeers || api.ErrorCode == codeNotClustered):
		return trouble(err, "lower cluster.nats.replicas, or start more servers", "JetStream has fewer servers than replicas are wanted: %s", api.Description)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return trouble(err, "look at the NATS servers (nats server report jetstream): is a disk full, or most of them away?", "JetStream has not answered in %v", requestMost)
	case errors.Is(err, jetstream.ErrNoHeartbeat), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrStreamNotFound):
		return trouble(err, "nothing: it is tried again; if it stays, look at the stream (nats stream info)", "the stream went away: %s", err)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrStaleConnection), errors.Is(err, jetstream.ErrConnectionClosed), s.nc != nil && (errors.Is(err, io.EOF) || isNet):
		return trouble(err, "see whether the servers run and can be reached from here", "the connection to %s has ended: %s", servers, err)
	case s.nc == nil:
		return trouble(err, "see whether the servers run and can be reached from here", "none of %s can be reached: %s", servers, err)
	}
	return trouble(err, "look at the log of the NATS servers", "%s", err)
}

// A StreamStatus is one of the streams as it was last looked at.
type StreamStatus struct {
	Name     string        `json:"name"`
	Replicas int           `json:"replicas"`
	Messages uint64        `json:"messages"`
	Bytes    uint64        `json:"bytes"`
	MaxBytes int64         `json:"max_bytes"`
	MaxAge   time.Duration `json:"max_age"`
}

// A Status is what an operator may know.
type Status struct {
	Server  string    `json:"server,omitempty"`  // that is connected; "" when none is
	Since   time.Time `json:"since"`             // it is connected, or is not
	Problem string    `json:"problem,omitempty"` // why records of this member or of others do not come through NATS
	Remedy  string    `json:"remedy,omitempty"`

	Streams   []StreamStatus `json:"streams,omitempty"`
	Following int            `json:"following"`         // chains of others that come through NATS
	Chains    int            `json:"chains"`            // of others
	Lag       uint64         `json:"lag"`               // records of this member that are not published yet
	Ack       time.Duration  `json:"ack"`               // how long the last acknowledgement took
	Refused   []string       `json:"refused,omitempty"` // messages that were not taken, by member and cause
}

// state is how the connection does.
type state struct {
	connected  string
	since      time.Time
	problem    error
	streams    []StreamStatus
	publishing map[journal.Stream]error // why a stream does not take our records; nil when it does
	ack        time.Duration
}

// Status tells how NATS does.
func (f *Feed) Status(ctx context.Context) (Status, error) {
	others, _ := f.o.Others()
	lag, err := f.lag(ctx)
	if err != nil {
		return Status{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{Server: f.state.connected, Since: f.state.since, Streams: f.state.streams, Following: len(f.current), Chains: 2 * len(others), Ack: f.state.ack}
	problem := f.state.problem
	for _, stream := range slices.Sorted(maps.Keys(f.state.publishing)) {
		problem = cmp.Or(problem, f.state.publishing[stream])
	}
	if problem != nil {
		s.Problem, s.Remedy = problem.Error(), remedy(problem)
	}
	s.Lag = lag
	for r, n := range f.refused {
		s.Refused = append(s.Refused, fmt.Sprintf("%d on the subjects of %s: %s", n.count, r.origin, r.cause))
	}
	slices.Sort(s.Refused)
	return s, nil
}

// lag counts the records of ours that the streams do not have, as far as is known what they have.
func (f *Feed) lag(ctx context.Context) (records uint64, err error) {
	f.mu.Lock()
	reached := maps.Clone(f.reached)
	f.mu.Unlock()
	for stream, number := range reached {
		last, err := f.j.Last(ctx, f.j.Origin(), stream)
		if err != nil {
			return 0, err
		}
		records += last - min(number, last)
	}
	return records, nil
}

// told takes over whether a stream takes our records, and says what is new about that.
func (f *Feed) told(stream journal.Stream, err error) {
	f.mu.Lock()
	if f.state.publishing == nil {
		f.mu.Unlock()
		return // the session has ended
	}
	before := f.state.publishing[stream]
	f.state.publishing[stream] = err
	f.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		f.log.Warn("records of this member do not go through NATS, others fetch them over HTTPS", "stream", stream.String(), "err", err, "remedy", remedy(err))
	case err == nil && before != nil:
		f.log.Info("records of this member go through NATS again", "stream", stream.String())
	}
}

// through takes over up to which record of ours a stream has them.
func (f *Feed) through(stream journal.Stream, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached[stream] = number
}

func (f *Feed) acknowledged(took time.Duration) {
	f.metrics.ack.Observe(took.Seconds())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.ack = took
}

type metrics struct {
	sent, taken *prometheus.CounterVec
	refused     *prometheus.CounterVec
	known       prometheus.Counter
	skipped     prometheus.Counter
	ack         prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, f *Feed) *metrics {
	p := promauto.With(r) // nil registers nothing
	gauge := func(name, help string, value func() float64) {
		p.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	locked := func(value func() float64) func() float64 {
		return func() float64 { f.mu.Lock(); defer f.mu.Unlock(); return value() }
	}
	gauge("troupe_nats_connected", "1 while NATS is connected and has the streams.", locked(func() float64 {
		if f.state.connected != "" {
			return 1
		}
		return 0
	}))
	gauge("troupe_nats_following_chains", "Chains of other members that come through NATS.", locked(func() float64 { return float64(len(f.current)) }))
	gauge("troupe_nats_lag_records", "Records of this member that are not published yet.", func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), requestMost)
		defer cancel()
		n, err := f.lag(ctx)
		if err != nil {
			return math.NaN()
		}
		return float64(n)
	})
	return &metrics{
		sent: p.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_nats_published_records_total", Help: "Records of this member that a stream has acknowledged.",
		}, []string{"stream"}),
		taken: p.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_nats_imported_records_total", Help: "Records of other members that came through NATS first.",
		}, []string{"stream"}),
		refused: p.NewCounterVec(prometheus.CounterOpts{
			Name: "troupe_nats_refused_messages_total", Help: "Messages that were not taken, by cause.",
		}, []string{"cause"}),
		known: p.NewCounter(prometheus.CounterOpts{
			Name: "troupe_nats_known_messages_total", Help: "Messages with records that were here already.",
		}),
		skipped: p.NewCounter(prometheus.CounterOpts{
			Name: "troupe_nats_skipped_records_total", Help: "Records of this member that were left to HTTPS, since the stream was too far behind.",
		}),
		ack: p.NewHistogram(prometheus.HistogramOpts{
			Name: "troupe_nats_ack_seconds", Help: "Time until a stream has acknowledged a message.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
	}
}
