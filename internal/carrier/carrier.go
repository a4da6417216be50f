// Package carrier brings the records of all members into the journal of each.
//
// A member asks every other one, over a connection that waits: what do you have that I have not? It then fetches what is new,
// of any origin, so that two members learn of each other through a third. Records are checked by the journal that takes them;
// nothing is believed because of where it came from.
//
// What a member asks for tells the other what it has already, so each knows which of its records lie on another disk, too
// ([Carrier.Copied]), and how far behind the others are ([Carrier.Peers]).
//
// Begin with [New]; [Carrier.Run] follows the others, [Carrier.Handler] answers them, [Fill] fills the journal of a new member.
package carrier

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// A Peer is another member.
type Peer struct {
	Origin  journal.Origin
	Name    string
	Site    string
	Address string // host:port of its member port
}

// Options tells a carrier who the others are.
type Options struct {
	// Peers returns the other members and a channel that is closed when they change.
	Peers func() ([]Peer, <-chan struct{})
	// Dial returns what asks a peer, and makes sure that it is the one.
	Dial func(Peer) Asker
	// Mended hears of records that were damaged and are whole again: who has folded the rest could not fold them. nil tells nobody.
	Mended func(context.Context, []journal.Stretch) error

	// Feed brings records another way, too; nil means that all come through the exchange.
	Feed Feed

	// Folds are what members compare with each other, and make anew when they differ.
	Folds []Fold
	// CompareEvery is how often; 0 means every minute.
	CompareEvery time.Duration

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

// A Carrier follows the other members. Its methods may be called concurrently.
type Carrier struct {
	j       *journal.Journal
	o       Options
	log     *slog.Logger
	metrics *metrics

	running  atomic.Bool
	fetching keyLock // chains that are being fetched: one peer is enough
	ready    chan struct{}
	isReady  sync.Once

	mu     sync.Mutex
	peers  map[journal.Origin]*peerState
	copied chan struct{} // closed and made anew when a peer has told what it has

	standing map[chain]standing // chains that wait for the feed
}

// A peerState is what is known of another member.
type peerState struct {
	has     map[chain]uint64 // the last record of each chain that it has, as it said when it asked us
	heard   time.Time        // when it last asked or answered; zero means never
	asOf    time.Time        // we have what it wrote until then
	problem string           // why it cannot be followed; "" when it can
	refused refusals         // what it has and our journal does not take

	differs map[string]difference // folds of the same records that are not the same
}

// refusals are chains that our journal does not take from a peer. They are tried again at a time.
type refusals struct {
	why   map[chain]error
	until time.Time // the next try
}

func (r refusals) heads() (all []journal.Head) {
	for c := range r.why {
		all = append(all, journal.Head{Origin: c.origin, Stream: c.stream})
	}
	return all
}

// retryRefused is how long a chain that was refused is left alone: a clock may be set right.
const retryRefused = 10 * time.Second

type chain struct {
	origin journal.Origin
	stream journal.Stream
}

// New returns a carrier of the journal.
func New(j *journal.Journal, o Options) *Carrier {
	return &Carrier{
		j: j, o: o, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "carrier"), metrics: newMetrics(o.Registerer),
		ready: make(chan struct{}), peers: map[journal.Origin]*peerState{}, copied: make(chan struct{}), standing: map[chain]standing{},
	}
}

// Run follows every other member until ctx ends.
func (c *Carrier) Run(ctx context.Context) error {
	c.running.Store(true)
	defer c.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	following := map[Peer]context.CancelFunc{}
	var all sync.WaitGroup
	defer func() { cancel(); all.Wait() }()
	all.Go(func() { c.mend(ctx) })
	for {
		peers, changed := c.o.Peers()
		now := map[Peer]bool{}
		for _, p := range peers {
			now[p] = true
			if following[p] != nil {
				continue
			}
			pctx, stop := context.WithCancel(ctx)
			following[p] = stop
			all.Go(func() { c.follow(pctx, p) })
		}
		for p, stop := range following {
			if !now[p] {
				stop()
				delete(following, p)
				c.forget(p.Origin)
			}
		}
		if len(peers) == 0 {
			c.setReady()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// Running reports whether other members are asked.
func (c *Carrier) Running() bool { return c.running.Load() }

// Ready is closed when some other member has given what it had, or when there is none.
func (c *Carrier) Ready() <-chan struct{} { return c.ready }

func (c *Carrier) setReady() { c.isReady.Do(func() { close(c.ready) }) }

// How often a member that cannot be reached is asked.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = time.Second // with the time that a packet into nowhere takes, a healed line is used within five
)

// follow asks one member as long as it is one.
func (c *Carrier) follow(ctx context.Context, p Peer) {
	ask := c.o.Dial(p)
	var comparing sync.WaitGroup
	defer comparing.Wait() // it ends with ctx, as this does
	comparing.Go(func() { c.runCompare(ctx, p, ask) })
	retry, wait := retryFirst, time.Duration(0)
	for {
		err := c.exchange(ctx, p, ask, wait)
		if ctx.Err() != nil {
			return
		}
		c.tell(ctx, p, err)
		if err == nil {
			retry, wait = retryFirst, waitMost
			if len(c.refusedBy(p).why) > 0 {
				wait = retryRefused
			}
			continue
		}
		wait = 0 // so that it is soon known to be back
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		retry = min(2*retry, retryMost)
	}
}

// tell says once what has changed about a peer.
func (c *Carrier) tell(ctx context.Context, p Peer, err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	c.mu.Lock()
	s := c.state(p.Origin)
	before := s.problem
	s.problem = problem
	if err == nil {
		s.heard = time.Now()
	}
	c.mu.Unlock()
	switch {
	case problem == "" && before != "":
		c.log.InfoContext(ctx, "member is followed again", "member", p.Name, "site", p.Site)
	case problem != "" && before == "":
		c.log.WarnContext(ctx, "member cannot be followed", "member", p.Name, "site", p.Site, "address", p.Address, telemetry.KeyErr, err)
	}
}

// complain takes over which chains of a peer are refused, and says what is new about that.
func (c *Carrier) complain(ctx context.Context, p Peer, refused refusals) {
	c.mu.Lock()
	s := c.state(p.Origin)
	before := s.refused
	s.refused = refused
	c.mu.Unlock()
	for name, err := range refused.why {
		if before.why[name] == nil {
			c.log.ErrorContext(ctx, "records of a member are not taken", "origin", name.origin, "stream", name.stream.String(), "given_by", p.Name, telemetry.KeyErr, err)
		}
	}
}

// refusedBy returns the chains of a peer that are left alone for now; none when it is time to try again.
func (c *Carrier) refusedBy(p Peer) refusals {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.state(p.Origin).refused
	if time.Now().After(r.until) {
		return refusals{}
	}
	return r
}

// state returns what is known of a peer. mu must be held.
func (c *Carrier) state(o journal.Origin) *peerState {
	if c.peers[o] == nil {
		c.peers[o] = &peerState{has: map[chain]uint64{}}
	}
	return c.peers[o]
}

func (c *Carrier) forget(o journal.Origin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, o)
}

// learn takes over what a peer says that it has.
func (c *Carrier) learn(o journal.Origin, heads []journal.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state(o)
	s.heard = time.Now()
	for _, h := range heads {
		s.has[chain{h.Origin, h.Stream}] = h.Last
	}
	close(c.copied)
	c.copied = make(chan struct{})
}

// Copied returns nil when another member has our own record of that number, too, or the feed holds it on two machines, or when there
// is no other member; at once fault.Unavailable when none can be reached, and the error of ctx when none has it in time.
func (c *Carrier) Copied(ctx context.Context, s journal.Stream, number uint64) error {
	for {
		has, changed, fed, err := c.copies(s, number)
		if has || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-fed:
		}
	}
}

// copies reports whether a peer has our record, and returns channels of which one is closed when a peer says what it has, the other
// when the feed has got more. What the feed holds counts when some peer has all that comes before: else nobody could take it over.
func (c *Carrier) copies(s journal.Stream, number uint64) (has bool, changed, fed <-chan struct{}, err error) {
	peers, _ := c.o.Peers()
	var from, to uint64
	if c.o.Feed != nil {
		from, to, fed = c.o.Feed.Holds(s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	reachable := false
	for _, p := range peers {
		known := c.state(p.Origin)
		there := known.has[chain{c.j.Origin(), s}]
		if there >= number || from > 0 && from <= there+1 && to >= number {
			return true, nil, nil, nil
		}
		reachable = reachable || from > 0 && from <= there+1
		reachable = reachable || known.problem == "" && !known.heard.IsZero() // a new one may not run yet
	}
	if len(peers) > 0 && (!reachable || !c.running.Load()) {
		return false, nil, nil, fault.New(fault.Unavailable, "no other member can be reached")
	}
	return len(peers) == 0, c.copied, fed, nil
}

// A PeerStatus is what an operator may know of another member.
type PeerStatus struct {
	Peer
	Heard   time.Time // when it last asked or answered; zero means never
	AsOf    time.Time // we have everything that it wrote until then; zero when nothing is known
	Newest  time.Time // of its newest record here, by its clock
	Problem string    // why it cannot be followed; "" when it can
	Behind  uint64    // our records, of any origin, that it has not told to have
	Refused []string  // why our journal does not take what it has
	Differs []string  // folds of the same records that are not the same here and there
}

// Peers returns what is known of the others.
func (c *Carrier) Peers(ctx context.Context) ([]PeerStatus, error) {
	heads, err := c.j.Heads(ctx)
	if err != nil {
		return nil, err
	}
	peers, _ := c.o.Peers()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]PeerStatus, len(peers))
	for i, p := range peers {
		s := c.state(p.Origin)
		all[i] = PeerStatus{Peer: p, Heard: s.heard, Problem: s.problem}
		for _, err := range s.refused.why {
			all[i].Refused = append(all[i].Refused, err.Error())
		}
		slices.Sort(all[i].Refused)
		for name, d := range s.differs {
			all[i].Differs = append(all[i].Differs, d.words(name))
		}
		slices.Sort(all[i].Differs)
		all[i].AsOf = s.asOf
		for _, h := range heads {
			if h.Origin == p.Origin && h.Time.Time().After(all[i].Newest) {
				all[i].Newest = h.Time.Time()
			}
			if h.Origin == p.Origin && h.Stream == journal.Bulk && h.Time.Time().After(s.asOf) {
				all[i].AsOf = h.Time.Time() // it came through a third member: of nodes we know what it wrote until then
			}
			all[i].Behind += h.Last - min(max(s.has[chain{h.Origin, h.Stream}], h.Base), h.Last)
		}
	}
	return all, nil
}

// A keyLock lets one at a time work on a chain.
type keyLock struct {
	mu   sync.Mutex
	held map[chain]bool
}

func (l *keyLock) try(c chain) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[c] {
		return false
	}
	if l.held == nil {
		l.held = map[chain]bool{}
	}
	l.held[c] = true
	return true
}

func (l *keyLock) unlock(c chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, c)
}
