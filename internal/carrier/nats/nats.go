// Package nats carries records of members through a NATS cluster with JetStream that the user runs anyway.
//
// Each member publishes the chains that it writes itself, in order, into two streams that all members share, and takes from there
// what the others have published. It is a second way beside the HTTPS of package carrier, never the only one: what does not come
// here, or comes damaged, late or out of order, is fetched there. Nothing is believed because NATS delivered it: each message is
// signed by the member that wrote the records, and the journal checks the records themselves.
//
// Begin with [New] and [Feed.Run]. A Feed is what package carrier calls one; [Feed.Status] says how it does. What must stay true is
// in DESIGN.md of package carrier.
package nats

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// Options says where NATS is, and who the members are.
type Options struct {
	Servers []string // URLs: tls://host:port, or nats:// where Plaintext is known to be wanted

	// Who this member is to NATS: a .creds file, or a user with a password, or a token; all in files that only their owner may read. They
	// are read again for every connection.
	Credentials, User, PasswordFile, TokenFile string
	// CA, Certificate and Key are files for TLS; "" means the system's CAs and no certificate.
	CA, Certificate, Key string

	Prefix   string        // of subjects and streams; "" means troupe
	Replicas int           // of streams that are made; 0 means three where the servers can, else one
	MaxAge   time.Duration // of what a stream keeps; 0 means a day
	MaxBytes int64         // likewise; 0 means 1 GiB

	// ID returns the name of the troupe, "" before there is one.
	ID func() string
	// Others returns the other members and a channel that is closed when they change.
	Others func() ([]journal.Origin, <-chan struct{})
	// Sign signs a message with the key of this member; Check holds that one was signed by a member.
	Sign  func(message []byte) (key, signature []byte, err error)
	Check func(by journal.Origin, key, signature, message []byte) error

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

// What counts when Options say nothing.
const (
	DefaultPrefix   = "troupe"
	DefaultMaxAge   = 24 * time.Hour
	DefaultMaxBytes = 1 << 30
)

// A chain is what one member writes to one stream of the journal.
type chain struct {
	origin journal.Origin
	stream journal.Stream
}

// A Feed publishes and takes records. Its methods may be called concurrently.
type Feed struct {
	j       *journal.Journal
	o       Options
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex // guards what follows
	state   state
	current map[chain]bool            // we have what came last, and it came in order
	cursors map[chain]cursor          // how far the streams were read
	refused map[refusal]*refusals     // messages that were not taken
	reached map[journal.Stream]uint64 // up to which record the streams have ours
	holds   map[journal.Stream]run    // what the streams hold of our own, on two machines or more
	changed chan struct{}             // closed and made anew when a chain is followed, or no longer
	acked   chan struct{}             // likewise when holds changes
}

// A cursor is a place in a stream.
type cursor struct {
	created  time.Time // of the stream: one that was made anew counts from 1
	sequence uint64
}

// A run is records of ours without a gap.
type run struct{ from, to uint64 }

// New returns a feed of the journal. Nothing is connected before [Feed.Run].
func New(j *journal.Journal, o Options) *Feed {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.MaxAge == 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	f := &Feed{
		j: j, o: o, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "nats"),
		current: map[chain]bool{}, cursors: map[chain]cursor{}, refused: map[refusal]*refusals{}, holds: map[journal.Stream]run{}, reached: map[journal.Stream]uint64{},
		changed: make(chan struct{}), acked: make(chan struct{}),
	}
	f.state.since = time.Now()
	f.metrics = newMetrics(o.Registerer, f)
	return f
}

// How often NATS is tried when it is away or does not do what it should.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Run connects, publishes and takes, until ctx ends. Whatever fails, it begins again: all that must be known for that is in the
// journal and in the streams.
func (f *Feed) Run(ctx context.Context) error {
	retry := retryFirst
	for {
		_, members := f.o.Others()
		if f.o.ID() == "" {
			select {
			case <-ctx.Done():
				return nil
			case <-members:
			}
			continue
		}
		connected, err := f.session(ctx)
		if ctx.Err() != nil {
			f.away(nil)
			return nil //nolint:nilerr // the member stops
		}
		f.away(err)
		if connected {
			retry = retryFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry/2 + rand.N(retry)): //nolint:gosec // only so that members do not come back all at once
		}
		retry = min(2*retry, retryMost)
	}
}

// session lasts as long as one connection. It reports whether everything was well in the beginning, and why it ended.
func (f *Feed) session(ctx context.Context) (connected bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s, err := f.connect(ctx, end)
	if err != nil {
		return false, err
	}
	defer s.close()
	if err := s.findStreams(ctx); err != nil {
		return false, s.explain(err)
	}
	f.well(s)
	var all sync.WaitGroup
	defer all.Wait()
	defer end(nil)
	for _, stream := range []journal.Stream{journal.State, journal.Bulk} {
		all.Go(func() { s.publish(ctx, stream) })
	}
	all.Go(func() { s.watchStreams(ctx, end) })
	s.followAll(ctx, end)
	return true, s.explain(context.Cause(ctx))
}

// followAll follows every other member until ctx ends.
func (s *session) followAll(ctx context.Context, end context.CancelCauseFunc) {
	following := map[journal.Origin]context.CancelFunc{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		others, changed := s.f.o.Others()
		now := map[journal.Origin]bool{}
		for _, o := range others {
			now[o] = true
			if following[o] != nil {
				continue
			}
			octx, stop := context.WithCancel(ctx)
			following[o] = stop
			for _, stream := range []journal.Stream{journal.State, journal.Bulk} {
				all.Go(func() {
					if err := s.follow(octx, chain{o, stream}); err != nil && octx.Err() == nil {
						end(err)
					}
				})
			}
		}
		for o, stop := range following {
			if !now[o] {
				stop()
				delete(following, o)
				s.f.unfollow(o)
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range following {
				stop()
			}
			return
		case <-changed:
		}
	}
}

// Follows reports whether a chain of another member comes through NATS: what came last is here, and nothing was missing.
func (f *Feed) Follows(o journal.Origin, s journal.Stream) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current[chain{o, s}]
}

// Late hears that a chain stands still here while another member has more of it: it is followed again when something comes.
func (f *Feed) Late(o journal.Origin, s journal.Stream) { f.follows(chain{o, s}, false) }

// Changed returns a channel that is closed when a chain is followed, or no longer.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Holds returns which records of ours a stream with two replicas or more has acknowledged, without a gap: none yet when to is less than
// from, and none to come when from is 0. The channel is closed when that changes.
func (f *Feed) Holds(s journal.Stream) (from, to uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holds[s].from, f.holds[s].to, f.acked
}

// follows takes over whether a chain is followed.
func (f *Feed) follows(c chain, now bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current[c] == now {
		return
	}
	delete(f.current, c)
	if now {
		f.current[c] = true
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// unfollow forgets a member that has gone.
func (f *Feed) unfollow(o journal.Origin) {
	for _, s := range []journal.Stream{journal.State, journal.Bulk} {
		f.follows(chain{o, s}, false)
		f.mu.Lock()
		delete(f.cursors, chain{o, s})
		f.mu.Unlock()
	}
}

// hold takes over what a stream has of ours; the zero run is nothing.
func (f *Feed) hold(s journal.Stream, r run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds[s] == r {
		return
	}
	f.holds[s] = r
	close(f.acked)
	f.acked = make(chan struct{})
}

// away says once that NATS does not carry, and lets package carrier do everything again. A nil error says nothing.
func (f *Feed) away(err error) {
	f.mu.Lock()
	clear(f.current)
	clear(f.holds)
	close(f.changed)
	close(f.acked)
	f.changed, f.acked = make(chan struct{}), make(chan struct{})
	before := f.state
	f.state.connected, f.state.streams, f.state.publishing = "", nil, nil
	if before.connected != "" || before.problem == nil {
		f.state.since = time.Now()
	}
	f.state.problem = err
	f.mu.Unlock()
	if err != nil && (before.problem == nil || before.problem.Error() != err.Error()) {
		f.log.Warn("NATS carries no records, HTTPS does", telemetry.KeyErr, err, "remedy", remedy(err))
	}
}

// well takes over that NATS is connected and has our streams.
func (f *Feed) well(s *session) {
	f.mu.Lock()
	f.state = state{connected: s.nc.ConnectedUrlRedacted(), since: time.Now(), streams: s.described(), publishing: map[journal.Stream]error{}}
	f.mu.Unlock()
	f.log.Info("NATS carries records", "server", s.nc.ConnectedUrlRedacted())
}

// connectOptions are those of the client. There is no reconnecting within a connection: a session begins again instead, which asks
// the streams what they hold.
func (f *Feed) connectOptions(ctx context.Context, dial *dialer, end context.CancelCauseFunc, denied func(error)) ([]nats.Option, error) {
	dial.ctx = ctx
	all := []nats.Option{
		nats.Name("troupe " + string(f.j.Origin())), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.SetCustomDialer(dial),
		nats.Timeout(connectMost), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2), nats.NoCallbacksAfterClientClose(),
		nats.ClosedHandler(func(nc *nats.Conn) {
			err := nc.LastError()
			if err == nil {
				err = nats.ErrConnectionClosed
			}
			end(err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied(err) }),
	}
	who, err := f.identity()
	if err != nil {
		return nil, err
	}
	return append(all, who...), nil
}
