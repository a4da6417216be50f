package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// This file is a router for tests, as simple as one can be: it keeps what it was sent, and can send what it likes. It shares only
// the coding of messages with what it tests.

// patience only ends a test that hangs.
const patience = 4 * time.Minute

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("after %v still waiting: %s", patience, what)
		case <-tick.C:
		}
	}
}

type router struct {
	t        *testing.T
	listener net.Listener
	id       netip.Addr
	asn      uint32

	mu       sync.Mutex
	conn     net.Conn
	table    map[netip.Prefix]string // attributes as text
	sessions int
	log      []string // what came, in order
}

func newRouter(t *testing.T, id string, asn uint32) *router {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &router{t: t, listener: l, id: netip.MustParseAddr(id), asn: asn, table: map[netip.Prefix]string{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.reset()
		wg.Wait()
	})
	return r
}

func (r *router) neighbor() Neighbor {
	at := netip.MustParseAddrPort(r.listener.Addr().String())
	return Neighbor{Address: at.Addr(), Port: at.Port(), ASN: r.asn}
}

func (r *router) send(conn net.Conn, m *wire.BGPMessage) {
	b, err := m.Serialize()
	if err != nil {
		r.t.Error(err)
		return
	}
	conn.Write(b) // a lost session shows elsewhere
}

// serve is one session.
func (r *router) serve(conn net.Conn) {
	defer conn.Close()
	capabilities := wire.NewOptionParameterCapability([]wire.ParameterCapabilityInterface{
		wire.NewCapMultiProtocol(wire.RF_IPv4_UC), wire.NewCapFourOctetASNumber(r.asn),
	})
	open, err := wire.NewBGPOpenMessage(uint16(r.asn), 90, r.id, []wire.OptionParameterInterface{capabilities})
	if err != nil {
		r.t.Error(err)
		return
	}
	r.send(conn, open)
	for {
		head := make([]byte, 19)
		if _, err := io.ReadFull(conn, head); err != nil {
			break
		}
		body := make([]byte, int(head[16])<<8|int(head[17]))
		copy(body, head)
		if _, err := io.ReadFull(conn, body[19:]); err != nil {
			break
		}
		m, err := wire.ParseBGPMessage(body)
		if err != nil {
			r.t.Errorf("the router cannot read a message: %v", err)
			break
		}
		r.take(conn, m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == conn { // a router forgets the routes of a session that ended
		r.conn, r.table = nil, map[netip.Prefix]string{}
		r.log = append(r.log, "end")
	}
}

func (r *router) take(conn net.Conn, m *wire.BGPMessage) {
	switch body := m.Body.(type) {
	case *wire.BGPOpen:
		r.send(conn, wire.NewBGPKeepAliveMessage())
	case *wire.BGPKeepAlive:
		r.mu.Lock()
		fresh := r.conn != conn
		if fresh {
			r.conn = conn
			r.sessions++
		}
		r.mu.Unlock()
		if !fresh {
			r.send(conn, wire.NewBGPKeepAliveMessage())
		}
	case *wire.BGPNotification:
		r.mu.Lock()
		r.log = append(r.log, "notification "+wire.NewNotificationErrorCode(body.ErrorCode, body.ErrorSubcode).String())
		r.mu.Unlock()
	case *wire.BGPUpdate:
		r.update(body)
	}
}

func (r *router) update(u *wire.BGPUpdate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range u.WithdrawnRoutes {
		p := netip.MustParsePrefix(w.NLRI.String())
		delete(r.table, p)
		r.log = append(r.log, "withdraw "+p.String())
	}
	var attrs []string
	slices.SortFunc(u.PathAttributes, func(a, b wire.PathAttributeInterface) int { return int(a.GetType()) - int(b.GetType()) })
	for _, a := range u.PathAttributes {
		switch a.GetType() {
		case wire.BGP_ATTR_TYPE_MP_REACH_NLRI, wire.BGP_ATTR_TYPE_MP_UNREACH_NLRI:
			r.t.Errorf("a session of IPv4 carried %v", a)
		default:
			attrs = append(attrs, a.String())
		}
	}
	for _, n := range u.NLRI {
		p := netip.MustParsePrefix(n.NLRI.String())
		r.table[p] = strings.Join(attrs, " ")
		r.log = append(r.log, "announce "+p.String()+" "+r.table[p])
	}
}

func (r *router) routes() map[netip.Prefix]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.table)
}

func (r *router) up() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn != nil
}

func (r *router) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close()
	}
}

// offer sends routes, or withdraws them, as a router without an export filter does.
func (r *router) offer(withdraw bool, path []uint32, prefixes ...netip.Prefix) {
	r.mu.Lock()
	conn := r.conn
	r.mu.Unlock()
	if conn == nil {
		return
	}
	var nlri []wire.PathNLRI
	for _, p := range prefixes {
		n, err := wire.NewIPAddrPrefix(p)
		if err != nil {
			r.t.Error(err)
			return
		}
		nlri = append(nlri, wire.PathNLRI{NLRI: n})
	}
	hop, err := wire.NewPathAttributeNextHop(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		r.t.Error(err)
		return
	}
	if withdraw {
		r.send(conn, wire.NewBGPUpdateMessage(nlri, nil, nil))
		return
	}
	r.send(conn, wire.NewBGPUpdateMessage(nil, []wire.PathAttributeInterface{
		wire.NewPathAttributeOrigin(0), hop,
		wire.NewPathAttributeAsPath([]wire.AsPathParamInterface{wire.NewAs4PathParam(wire.BGP_ASPATH_ATTR_TYPE_SEQ, path)}),
	}, nlri))
}

// quiet are options of a speaker in mode speak for one router.
func quiet(r *router) Options {
	return Options{
		ASN: 65500, RouterID: netip.MustParseAddr("192.0.2.1"),
		Prefixes:  []netip.Prefix{netip.MustParsePrefix("198.51.100.10/32"), netip.MustParsePrefix("198.51.100.11/32")},
		Neighbors: []Neighbor{r.neighbor()}, MED: 50, Prepend: 2, Serving: func() (bool, string) { return true, "" },
	}
}

// want is what a router should know in a phase.
func want(o Options, p Phase) map[netip.Prefix]string {
	routes := map[netip.Prefix]string{}
	text := map[Phase]string{
		Joining:   "{Origin: i} {AsPath: 65500 65500 65500} {Nexthop: 127.0.0.1} {Med: 50}",
		Announced: "{Origin: i} {AsPath: 65500} {Nexthop: 127.0.0.1}",
		Leaving:   "{Origin: i} {AsPath: 65500 65500 65500} {Nexthop: 127.0.0.1} {Med: 50} {Communities: planned-shut}",
	}[p]
	for _, prefix := range o.Prefixes {
		if p != Silent {
			routes[prefix] = text
		}
	}
	return routes
}

func sameRoutes(a, b map[netip.Prefix]string) bool {
	if len(a) != len(b) {
		return false
	}
	for p, text := range a {
		if b[p] != text {
			return false
		}
	}
	return true
}

// TestNeighborsGetExactlyTheServicePrefixes plays 10,000 random events to GoBGP and a router (goal G12): phases change in any order,
// and the router sends routes of all kinds, the service prefixes among them, and ends sessions. After each event the router has to
// know exactly what the phase says, and GoBGP's table nothing from outside.
func TestNeighborsGetExactlyTheServicePrefixes(t *testing.T) {
	r := newRouter(t, "203.0.113.1", 64999)
	o := quiet(r)
	o.defaults()
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	sp := newSpeech(o, slog.New(slog.DiscardHandler), newMetrics(nil))
	if err := sp.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sp.stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "the first session", r.up)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	foreign := []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("198.51.100.12/32"), o.Prefixes[0], o.Prefixes[1],
	}
	phase, resets := Silent, 0
	defer func() {
		if t.Failed() {
			t.Logf("the router knows %v, want %v; the last that it heard:\n%s", r.routes(), want(o, phase), strings.Join(r.said()[max(0, len(r.said())-20):], "\n"))
		}
	}()
	for i := range sequences {
		switch n := random.IntN(10); {
		case n < 7 && i != sequences/2:
			phase = Phase(random.IntN(4))
			if err := sp.tell(t.Context(), phase); err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		case i != sequences/2 && (n < 9 || resets == 2 || random.IntN(200) > 0): // at least one session is ended
			some := slices.Clone(foreign)
			random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			path := []uint32{64999}
			if random.IntN(3) == 0 {
				path = append(path, 65500) // ours: it came back to us
			}
			r.offer(random.IntN(3) == 0, path, some[:1+random.IntN(len(some))]...)
		default:
			resets++
			before := r.count()
			r.reset()
			eventually(t, "a session after the router ended one", func() bool { return r.count() > before && r.up() })
		}
		eventually(t, fmt.Sprintf("event %d: the router to know what %v means", i, phase), func() bool {
			return sameRoutes(r.routes(), want(o, phase))
		})
		if i%10 > 0 {
			continue
		}
		if err := sp.checkTable(); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	r.offer(false, []uint32{64999}, foreign...)
	eventually(t, "all routes of the router to be counted", func() bool {
		var st Status
		if err := sp.watch(t.Context(), &st); err != nil {
			t.Fatal(err)
		}
		return len(st.Neighbors) == 1 && st.Neighbors[0].Received == uint64(len(foreign))
	})
	if resets == 0 {
		t.Error("no session was ended")
	}
}

func (r *router) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions
}

func (r *router) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// TestASpeakerFollowsTheSite is the whole way: it serves, drains, serves again, fails and stops.
func TestASpeakerFollowsTheSite(t *testing.T) {
	r := newRouter(t, "203.0.113.1", 64999)
	o := quiet(r)
	site := &site{changed: make(chan struct{})}
	o.Serving, o.Changed = site.Serving, site.Changed
	o.UpAfter, o.MinFlap, o.Rejoin, o.Grace = 50*time.Millisecond, time.Second, 100*time.Millisecond, 100*time.Millisecond
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	var left string
	defer func() {
		if t.Failed() {
			t.Logf("what runs:\n%s", left)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	knows := func(p Phase) func() bool {
		return func() bool { return r.up() && sameRoutes(r.routes(), want(o, p)) }
	}

	eventually(t, "a session without routes", knows(Silent))
	site.set(true, "")
	eventually(t, "the announcement", knows(Announced))
	s.Drain(true)
	eventually(t, "the withdrawal", knows(Silent))
	eventually(t, "the reason of the drain", func() bool { return s.Status().Reason == "drained by an operator" })
	s.Drain(false)
	eventually(t, "the announcement after the drain", knows(Announced))
	site.set(false, "no member is ready")
	eventually(t, "the withdrawal of a site that does not serve", knows(Silent))
	eventually(t, "the reason of the failure", func() bool { return s.Status().Reason == "no member is ready" })
	site.set(true, "")
	eventually(t, "the last announcement", knows(Announced))
	eventually(t, "a status that tells all", func() bool {
		st := s.Status()
		return st.Phase == Announced && st.Serving && !st.Drain && st.Announcements == 3 && st.Withdrawals == 2 && len(st.Prefixes) == 2 &&
			len(st.Alarms) == 0 && len(st.Neighbors) == 1 && st.Neighbors[0].State == "established" && st.Neighbors[0].RouterID == "203.0.113.1" &&
			st.Neighbors[0].Sent == 2
	})
	cancel()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the session", func() bool { return !r.up() })
	eventually(t, "the end of all that GoBGP runs", func() bool {
		stacks := make([]byte, 1<<20)
		left = string(stacks[:runtime.Stack(stacks, true)])
		return !strings.Contains(left, "gobgp/v4/pkg/server") && !strings.Contains(left, "gobgp/v4/internal") && !strings.Contains(left, "eapache")
	})

	var got []string
	for _, line := range r.said() {
		if strings.Contains(line, "198.51.100.11") {
			continue // as the other one
		}
		switch {
		case strings.Contains(line, "Communities"):
			line = "leaving"
		case strings.Contains(line, "Med: 50"):
			line = "joining"
		case strings.HasPrefix(line, "announce"):
			line = "announced"
		case strings.HasPrefix(line, "withdraw"):
			line = "withdrawn"
		}
		got = append(got, line)
	}
	said := strings.Join(got, ", ")
	wanted := "joining, announced, leaving, withdrawn, joining, announced, withdrawn, joining, announced, leaving, withdrawn, " +
		"notification code 6(cease) subcode 3(peer deconfigured), end"
	if said != wanted {
		t.Errorf("the router heard\n%s, want\n%s", said, wanted)
	}
}

// site is what a speaker asks.
type site struct {
	mu      sync.Mutex
	ok      bool
	why     string
	changed chan struct{}
}

func (s *site) set(ok bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ok, s.why = ok, why
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *site) Serving() (ok bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ok, s.why
}

func (s *site) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// TestASpeakerThatCannotListenSaysSo has the port taken by somebody else.
func TestASpeakerThatCannotListenSaysSo(t *testing.T) {
	r := newRouter(t, "203.0.113.1", 64999)
	o := quiet(r)
	o.Neighbors[0].Passive, o.Neighbors[0].LocalAddress = true, o.Neighbors[0].Address
	o.Neighbors[0].Address = netip.MustParseAddr("127.0.0.9")
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Run says %v, want that the address is in use", err)
	}
	if errors.Is(err, context.Canceled) {
		t.Error("the error hides behind a context")
	}
}
