package bgp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBirdSeesWhatTheSiteDoes follows one edge through its life, in bird's table.
func TestBirdSeesWhatTheSiteDoes(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(routerConfig(`passive on;`) + `
protocol bgp edge1v6 {
	local as 5408;
	neighbor 2001:db8:126::167 as 65500;
	connect delay time 1; connect retry time 2;
	ipv6 { import all; export none; };
}
`)
	s := p.edge.speaker(p.options(func(o *Options) {
		o.Prefixes = append(o.Prefixes, netip.MustParsePrefix(service6))
		o.Neighbors = append(o.Neighbors, Neighbor{Address: netip.MustParseAddr("2001:db8:126::166"), ASN: 5408})
		o.Rejoin, o.Grace, o.Prepend, o.MED = 2*time.Second, 2*time.Second, 2, 77
	}))
	t.Logf("sessions established after %v", s.until("both sessions", established))

	s.tell("serve")
	b.has(service, "BGP.as_path: 65500 65500 65500\n", "BGP.med: 77", "BGP.next_hop: 62.217.126.167", "BGP.origin: IGP", "-community")
	b.has(service6, "BGP.as_path: 65500 65500 65500\n", "BGP.next_hop: 2001:db8:126::167")
	b.has(service, "BGP.as_path: 65500\n", "-BGP.med", "-community")
	b.has(service6, "BGP.as_path: 65500\n")

	s.tell("fail the store is read-only")
	t.Logf("withdrawn %v after the site failed", b.lacks(service))
	b.lacks(service6)
	s.until("the reason", func(st Status) bool { return st.Phase == Silent && st.Reason == "the store is read-only" })
	s.tell("serve")
	t.Logf("announced again after %v", b.has(service))

	s.tell("drain")
	b.has(service, "BGP.community: (65535,0)", "BGP.med: 77", "BGP.as_path: 65500 65500 65500\n")
	b.lacks(service)
	if !established(s.status()) {
		t.Error("the session ended with the drain; it has to stand")
	}
	s.tell("ready")
	b.has(service, "BGP.as_path: 65500\n", "-community")

	s.signal(syscall.SIGTERM)
	b.has(service, "BGP.community: (65535,0)")
	b.lacks(service)
	<-s.done
	if s.err != nil {
		t.Errorf("the speaker ended with %v", s.err)
	}
	if log := b.text(); !strings.Contains(log, "Received: Peer de-configured") {
		t.Error("the router was not told why the session ended")
	}
}

// TestKilledSpeakersRoutesGo kills the process with SIGKILL: the kernel ends its connections.
func TestKilledSpeakersRoutesGo(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(routerConfig(""))
	o := p.options(func(*Options) {})
	s := p.edge.speaker(o)
	s.tell("serve")
	b.has(service)
	s.signal(syscall.SIGKILL)
	t.Logf("gone %v after kill -9", b.lacks(service))
	<-s.done
	begin := time.Now()
	p.edge.speaker(o).tell("serve")
	b.has(service)
	t.Logf("back %v after the next start", time.Since(begin))
}

// TestBFDFindsABlackHole lets all packets between edge and router vanish, without a word.
func TestBFDFindsABlackHole(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(routerConfig("bfd on;"))
	s := p.edge.speaker(p.options(func(o *Options) {
		o.Neighbors[0].BFD = &BFD{}
		o.Neighbors[0].HoldTime = 90 * time.Second
	}))
	s.tell("serve")
	b.has(service)
	bfdUp := func(st Status) bool { return established(st) && st.Neighbors[0].BFD == "up" }
	s.until("BFD to be up", bfdUp)
	for range 2 {
		p.edge.cut("to-router")
		gone := b.lacks(service)
		s.until("the edge to notice", func(st Status) bool {
			return !established(st) && strings.Contains(s.text(), `msg="bfd is down"`)
		})
		p.edge.heal()
		t.Logf("gone %v after the cut, back %v after the repair", gone, b.has(service))
		s.until("BFD to be up again", bfdUp)
	}
	if st := s.status(); st.Announcements != 1 || st.Neighbors[0].Downs < 2 {
		t.Errorf("%d announcements and %d ended sessions, want 1 (the site served all the time) and at least 2", st.Announcements, st.Neighbors[0].Downs)
	}
}

// TestRoutesOfARouterAreRefused has a router that sends ten routes, a default route and the service address among them, and one
// that sends more than is allowed.
func TestRoutesOfARouterAreRefused(t *testing.T) {
	p := newPair(t)
	const statics = `
protocol static {
	ipv4;
	route 0.0.0.0/0 blackhole; route 62.217.126.0/24 blackhole; route 62.217.126.165/32 blackhole; route 10.0.0.0/8 blackhole;
	route 10.1.0.0/16 blackhole; route 10.2.0.0/16 blackhole; route 10.3.0.0/16 blackhole; route 10.4.0.0/16 blackhole;
	route 10.5.0.0/16 blackhole; route 10.6.0.0/16 blackhole;
}
`
	b := p.router.bird(routerConfig("ipv4 { import all; export where source = RTS_STATIC; };") + statics)
	s := p.edge.speaker(p.options(func(*Options) {}))
	s.tell("serve")
	s.until("ten routes to be counted", func(st Status) bool { return established(st) && st.Neighbors[0].Received == 10 })
	b.has(service, "edge1")
	if st := s.status(); len(st.Alarms) > 0 {
		t.Errorf("alarms %q", st.Alarms)
	}
	if m := s.ask("metrics"); !strings.Contains(m, "troupe_edge_bgp_received_prefixes,neighbor=62.217.126.166 10") {
		t.Errorf("metrics do not say 10 prefixes: %s", m)
	}
	if routes := p.edge.in("ip", "route"); strings.Contains(routes, "10.0.0.0") || strings.Contains(routes, "default") {
		t.Errorf("the edge's own routes changed:\n%s", routes)
	}
	s.signal(syscall.SIGTERM)
	<-s.done

	s = p.edge.speaker(p.options(func(o *Options) { o.Neighbors[0].MaxPrefixes = 5 }))
	s.tell("serve")
	s.until("the alarm", alarmed("it sent more than 5 routes, so the session was ended", "export filter"))
	b.has(service, "-edge1")
}

// TestPasswordsOfSessions has the right one, a wrong one, and none on one side.
func TestPasswordsOfSessions(t *testing.T) {
	t.Parallel() // it waits for alarms most of the time
	p := newPair(t)
	file := filepath.Join(t.TempDir(), "router.password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := p.router.bird(routerConfig(`password "correct horse"; ttl security on;`))
	with := func(change func(*Neighbor)) Options {
		return p.options(func(o *Options) {
			n := &o.Neighbors[0]
			n.PasswordFile, n.TTLSecurity = file, true
			change(n)
		})
	}

	write("correct horse\n")
	s := p.edge.speaker(with(func(*Neighbor) {}))
	s.tell("serve")
	b.has(service)
	s.signal(syscall.SIGTERM)
	<-s.done

	write("battery staple\n")
	s = p.edge.speaker(with(func(*Neighbor) {}))
	s.tell("serve")
	s.until("the alarm of a wrong password", alarmed("no session", "timeout", "wrong password (TCP MD5)", file))
	if log := s.text(); !strings.Contains(log, "wrong password (TCP MD5)") || strings.Contains(log, "battery") {
		t.Errorf("the log has to name the file, never the password:\n%s", log)
	}
	if st := s.ask("status"); strings.Contains(st, "battery") {
		t.Errorf("the password is in the status: %s", st)
	}
	s.signal(syscall.SIGTERM)
	<-s.done

	s = p.edge.speaker(with(func(n *Neighbor) { n.PasswordFile = "" }))
	s.until("the alarm of a password that is missing", alarmed("no session", "timeout", "none is set here"))
}

// TestPassiveSessions has the router connect to the edge.
func TestPassiveSessions(t *testing.T) {
	p := newPair(t)
	file := filepath.Join(t.TempDir(), "router.password")
	if err := os.WriteFile(file, []byte("correct horse"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := p.router.bird(routerConfig(`password "correct horse";`))
	s := p.edge.speaker(p.options(func(o *Options) {
		o.Neighbors[0].Passive, o.Neighbors[0].LocalAddress = true, netip.MustParseAddr("62.217.126.167")
		o.Neighbors[0].PasswordFile = file
	}))
	s.tell("serve")
	b.has(service)
}

// TestTheSameRouterIDTwice has a router with the edge's own id, of another and of the same autonomous system.
func TestTheSameRouterIDTwice(t *testing.T) {
	t.Parallel() // it waits for alarms most of the time
	p := newPair(t)
	config := strings.Replace(routerConfig(""), "router id 62.217.126.166", "router id 62.217.126.167", 1)
	p.router.bird(config)
	s := p.edge.speaker(p.options(func(*Options) {}))
	s.until("the alarm", alarmed("router_id 62.217.126.167", "give each its own"))
	s.signal(syscall.SIGTERM)
	<-s.done

	q := newPair(t)
	q.router.bird(strings.ReplaceAll(config, "5408", "65500"))
	s = q.edge.speaker(q.options(func(o *Options) { o.Neighbors[0].ASN = 65500 })) // here the protocol forbids it
	s.until("the alarm within one autonomous system", alarmed("no session", "router_id 62.217.126.167", "its own"))
}

// TestTheEdgeTakesBirdsPlace has the edge of GRNET's slides with troupe in the place of bird, and the configuration of the router that
// docs/anycast.md shows.
func TestTheEdgeTakesBirdsPlace(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(document(t, "router"))
	s := p.edge.speaker(p.options(func(o *Options) { o.Neighbors[0].BFD = &BFD{} }))
	s.tell("serve")
	b.has(service, "BGP.as_path: 65500\n", "BGP.next_hop: 62.217.126.167")
	s.until("BFD", func(st Status) bool { return st.Neighbors[0].BFD == "up" && len(st.Alarms) == 0 })
	eventually(t, "the router's kernel to have the route", func() bool {
		return strings.Contains(p.router.in("ip", "route"), "62.217.126.165 via 62.217.126.167")
	})
}

// TestBirdTakesTheAddress is mode address: bird announces what stands on the loopback interface.
func TestBirdTakesTheAddress(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(document(t, "router"))
	p.edge.bird(document(t, "bird on the edge, mode address"))
	s := p.edge.speaker(Options{
		Mode: ModeAddress, Prefixes: []netip.Prefix{netip.MustParsePrefix(service)}, UpAfter: -1, MinFlap: time.Second, Lifetime: 3 * time.Second,
	})
	s.tell("serve")
	t.Logf("announced by bird after %v", b.has(service, "BGP.as_path: 65500\n", "BGP.next_hop: 62.217.126.167"))
	s.tell("fail no member is ready")
	t.Logf("withdrawn by bird after %v", b.lacks(service))
	s.tell("serve")
	b.has(service)
	p.edge.in("ip", "address", "del", service, "dev", "lo")
	s.until("the address to be put back", func(st Status) bool { return st.Phase == Announced && len(st.Alarms) == 0 })
	b.has(service)
	eventually(t, "the address on the interface", func() bool { return strings.Contains(p.edge.in("ip", "address", "show", "dev", "lo"), service) })

	s.signal(syscall.SIGKILL)
	t.Logf("gone %v after kill -9, by the lifetime of 3 s", b.lacks(service))
}

// TestConnectionsOutliveTheAddress has the service address on lo for good, and bird watch another interface: while the edge is silent,
// the machine still answers for the address.
func TestConnectionsOutliveTheAddress(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(document(t, "router"))
	p.edge.in("ip", "address", "add", service, "dev", "lo")
	p.edge.in("ip", "link", "add", "announce0", "type", "bridge")
	p.edge.in("ip", "link", "set", "announce0", "up")
	p.edge.bird(strings.Replace(document(t, "bird on the edge, mode address"), `interface "lo";`, `interface "announce0"; check link no;`, 1))
	s := p.edge.speaker(Options{
		Mode: ModeAddress, Interface: "announce0", Prefixes: []netip.Prefix{netip.MustParsePrefix(service)}, UpAfter: -1, MinFlap: time.Second,
	})
	s.tell("serve")
	b.has(service)
	refuses := func() {
		t.Helper()
		answer := p.router.in("sh", "-c", "timeout 60 bash -c 'echo > /dev/tcp/62.217.126.165/9' 2>&1 || true")
		if !strings.Contains(answer, "refused") {
			t.Errorf("the machine does not answer for the address: %s", answer)
		}
	}
	eventually(t, "the router's kernel to have the route", func() bool { return strings.Contains(p.router.in("ip", "route"), "62.217.126.165 via") })
	refuses()
	s.tell("fail no member is ready")
	b.lacks(service)
	p.router.in("ip", "route", "replace", service, "via", "62.217.126.167") // as packets of connections come that are under way
	refuses()
}

// TestBirdIncludesTheFile is mode file: bird reads routes with all their attributes.
func TestBirdIncludesTheFile(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(document(t, "router"))
	dir := t.TempDir()
	edge := p.edge.bird(strings.ReplaceAll(document(t, "bird on the edge, mode file"), "/run/troupe-edge/", dir+"/"))
	file := filepath.Join(dir, "bgp.conf")
	s := p.edge.speaker(Options{
		Mode: ModeFile, File: file, Bird: edge.socket, ASN: 65500, Prefixes: []netip.Prefix{netip.MustParsePrefix(service)},
		UpAfter: -1, MinFlap: time.Second, Rejoin: 2 * time.Second, Grace: 2 * time.Second, Prepend: 2, MED: 77,
	})
	eventually(t, "the file", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.HasPrefix(string(text), "# troupe: silent\n")
	})
	s.tell("serve")
	b.has(service, "BGP.as_path: 65500 65500 65500\n", "BGP.med: 77")
	b.has(service, "BGP.as_path: 65500\n", "-BGP.med")
	if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), "# troupe: announced\n") {
		t.Errorf("the first line for scripts is not there: %v\n%s", err, text)
	}
	s.tell("drain")
	b.has(service, "BGP.community: (65535,0)")
	b.lacks(service)
	s.tell("ready")
	b.has(service, "BGP.as_path: 65500\n")
	s.tell("fail no member is ready")
	t.Logf("withdrawn by bird after %v", b.lacks(service))

	// A configuration that bird does not take is the operator's to mend, and is said.
	config, err := os.ReadFile(edge.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(edge.config, append(config, "no such word;\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.tell("serve")
	s.until("the alarm", alarmed("bird did not read it", "syntax error"))
	if err := os.WriteFile(edge.config, config, 0o600); err != nil {
		t.Fatal(err)
	}
	b.has(service)
	s.until("the end of the alarm", func(st Status) bool { return len(st.Alarms) == 0 })
}

// TestIPv6AloneWithBFD has a /128 announced over a session that knows no IPv4, and BFD over IPv6 find a black hole.
func TestIPv6AloneWithBFD(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(strings.NewReplacer("neighbor 62.217.126.167", "neighbor 2001:db8:126::167", "ipv4 {", "ipv6 {",
		"protocol device", "protocol kernel { ipv6 { export all; }; }\nprotocol device").Replace(routerConfig("bfd on;")))
	s := p.edge.speaker(p.options(func(o *Options) {
		o.Prefixes = []netip.Prefix{netip.MustParsePrefix(service6)}
		o.Neighbors = []Neighbor{{Address: netip.MustParseAddr("2001:db8:126::166"), ASN: 5408, BFD: &BFD{}, HoldTime: 90 * time.Second}}
	}))
	s.tell("serve")
	b.has(service6, "BGP.as_path: 65500\n", "BGP.next_hop: 2001:db8:126::167")
	up := func(st Status) bool { return established(st) && st.Neighbors[0].BFD == "up" && len(st.Alarms) == 0 }
	s.until("BFD to be up", up)
	eventually(t, "the router's kernel to have the route", func() bool {
		return strings.Contains(p.router.in("ip", "-6", "route"), "2001:db8:165::1 via 2001:db8:126::167")
	})
	p.edge.cut("to-router")
	t.Logf("gone %v after the cut", b.lacks(service6))
	p.edge.heal()
	b.has(service6)
	s.until("BFD to be up again", up)
	s.tell("fail no member is ready")
	b.lacks(service6)
}

// TestASessionPassesToTheNextProcess: with graceful restart the router has the route all the time, and knows all of the new process's when
// its time is over. Who dies without a successor is sent agents for that time: the price.
func TestASessionPassesToTheNextProcess(t *testing.T) {
	p := newPair(t)
	b := p.router.bird(routerConfig("graceful restart aware;"))
	o := p.options(func(o *Options) { o.Neighbors[0].Restart = 5 * time.Second })
	first := p.edge.speaker(o)
	first.tell("serve")
	b.has(service)

	t.Setenv(inheritEnv, "yes")
	first.tell("abandon")
	second := p.edge.speaker(o)
	second.tell("serve")
	begin, since := time.Now(), time.Time{}
	eventually(t, "the session of the second process to be old", func() bool {
		if b.route(service) == "" {
			t.Fatalf("the router has forgotten the route, %v after the change", time.Since(begin))
		}
		if since.IsZero() && established(second.status()) {
			since = time.Now()
			t.Logf("the second process has the session after %v", since.Sub(begin))
		}
		return !since.IsZero() && time.Since(since) > o.Neighbors[0].Restart+3*time.Second
	})
	<-first.done
	if first.err != nil {
		t.Errorf("the first process ended with %v", first.err)
	}
	b.has(service, "BGP.as_path: 65500\n", "-stale")

	second.signal(syscall.SIGKILL)
	t.Logf("gone %v after kill -9", b.lacks(service))
}
