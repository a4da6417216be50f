package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// This file asks over sockets, as resolvers do.

func TestEveryKindOfQuestionGetsItsStatus(t *testing.T) {
	address := serveZone(t, options(twoSites()))
	chaos := ask("version.bind", wire.TypeTXT)
	chaos.Question[0].Qclass = wire.ClassCHAOS
	anyClass := ask("puppet.example.com", wire.TypeA)
	anyClass.Question[0].Qclass = wire.ClassANY
	two := ask("puppet.example.com", wire.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := new(wire.Msg).SetUpdate("example.com.")
	notify := new(wire.Msg).SetNotify("example.com.")

	for _, c := range []struct {
		what    string
		m       *wire.Msg
		rcode   int
		answers int
		soa     bool // a negative answer of ours
	}{
		{"an SRV name", ask("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), wire.RcodeSuccess, 3, false},
		{"an SRV name in capitals", ask("_X-PUPPET._tcp.Site-A.example.COM", wire.TypeSRV), wire.RcodeSuccess, 3, false},
		{"addresses", ask("puppet.example.com", wire.TypeA), wire.RcodeSuccess, 2, false},
		{"the apex", ask("example.com", wire.TypeSOA), wire.RcodeSuccess, 1, false},
		{"its servers", ask("example.com", wire.TypeNS), wire.RcodeSuccess, 2, false},
		{"glue", ask("ns1.example.com", wire.TypeA), wire.RcodeSuccess, 1, false},
		{"no IPv6 of the service", ask("puppet.example.com", wire.TypeAAAA), wire.RcodeSuccess, 0, true},
		{"no address of the apex", ask("example.com", wire.TypeA), wire.RcodeSuccess, 0, true},
		{"another type at an SRV name", ask("_x-puppet._tcp.site-a.example.com", wire.TypeTXT), wire.RcodeSuccess, 0, true},
		{"a name that is only above others", ask("_tcp.site-a.example.com", wire.TypeSRV), wire.RcodeSuccess, 0, true},
		{"one that an edge lies below", ask("site-b.example.com", wire.TypeA), wire.RcodeSuccess, 0, true},
		{"a name that is not there", ask("nothing.example.com", wire.TypeA), wire.RcodeNameError, 0, true},
		{"one below a name without children", ask("x.puppet.example.com", wire.TypeA), wire.RcodeNameError, 0, true},
		{"an unknown SRV name", ask("_x-puppet-x._tcp.site-a.example.com", wire.TypeSRV), wire.RcodeNameError, 0, true},
		{"outside of the zone", ask("example.org", wire.TypeA), wire.RcodeRefused, 0, false},
		{"the parent", ask("com", wire.TypeNS), wire.RcodeRefused, 0, false},
		{"a name that only ends alike", ask("anexample.com", wire.TypeA), wire.RcodeRefused, 0, false},
		{"the root", ask(".", wire.TypeNS), wire.RcodeRefused, 0, false},
		{"another class", chaos, wire.RcodeRefused, 0, false},
		{"any class", anyClass, wire.RcodeRefused, 0, false},
		{"any type", ask("puppet.example.com", wire.TypeANY), wire.RcodeSuccess, 1, false},
		{"any type of a name that is only above others", ask("_tcp.site-a.example.com", wire.TypeANY), wire.RcodeSuccess, 0, true},
		{"any type of nothing", ask("nothing.example.com", wire.TypeANY), wire.RcodeNameError, 0, true},
		{"two questions", two, wire.RcodeFormatError, 0, false},
		{"an update", update, wire.RcodeNotImplemented, 0, false},
		{"a notify", notify, wire.RcodeNotImplemented, 0, false},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := exchange(t, network, address, c.m)
			soa := len(r.Ns) == 1 && r.Ns[0].Header().Rrtype == wire.TypeSOA
			if r.Rcode != c.rcode || len(r.Answer) != c.answers || soa != c.soa || r.Id != c.m.Id || r.RecursionAvailable {
				t.Errorf("%s over %s: %s with %d answers, SOA %v; want %s with %d, %v\n%v",
					c.what, network, wire.RcodeToString[r.Rcode], len(r.Answer), soa, wire.RcodeToString[c.rcode], c.answers, c.soa, r)
			}
			if aa := c.rcode == wire.RcodeSuccess || c.rcode == wire.RcodeNameError; r.Authoritative != aa {
				t.Errorf("%s over %s: authoritative %v, want %v", c.what, network, r.Authoritative, aa)
			}
			if len(r.Answer) > 0 && c.m.Question[0].Qtype != wire.TypeSOA && c.m.Question[0].Qtype != wire.TypeNS && r.Answer[0].Header().Name != c.m.Question[0].Name {
				t.Errorf("%s: owner %s, want it as it was asked", c.what, r.Answer[0].Header().Name)
			}
		}
	}
	if r := exchange(t, "udp", address, ask("puppet.example.com", wire.TypeANY)); r.Answer[0].Header().Rrtype != wire.TypeHINFO {
		t.Errorf("ANY is answered with %v, want the HINFO of RFC 8482", r.Answer)
	}
}

// manyEdges makes a site whose ladder needs more than one packet.
func manyEdges(n int) *stage {
	s := twoSites()
	for i := range n {
		s.sites[1].Edges = append(s.sites[1].Edges, newEdge(fmt.Sprintf("m%03d", i), fmt.Sprintf("a-rather-long-name-of-edge-%03d.site-b.example.com", i), 5, 20+i))
	}
	return s
}

func TestLargeAnswersAreCutAsAWholeAndComeOverTCP(t *testing.T) {
	for _, c := range []struct {
		edges     int
		size      uint16 // of EDNS; 0 none
		truncated bool
		extra     bool
	}{
		{0, 0, false, true},
		{7, 0, true, false},      // 512 bytes hold neither the records nor their addresses
		{7, 512, true, false},    //
		{7, 1232, false, true},   // all
		{14, 1232, false, false}, // the records without addresses
		{60, 1232, true, false},
		{60, 65000, true, false}, // we never send what may be fragmented
	} {
		address := serveZone(t, options(manyEdges(c.edges)))
		q := ask("_x-puppet._tcp.site-b.example.com", wire.TypeSRV)
		limit := 512
		if c.size > 0 {
			q.SetEdns0(c.size, false)
			limit = min(int(c.size), 1232)
		}
		r := exchange(t, "udp", address, q)
		packed, err := r.Pack()
		if err != nil {
			t.Fatal(err)
		}
		r.Compress = true
		addresses := len(r.Extra)
		if r.IsEdns0() != nil {
			addresses--
		}
		if r.Truncated != c.truncated || addresses > 0 != c.extra || r.Len() > limit || r.Truncated == (len(r.Answer) > 0) {
			t.Errorf("%d edges, size %d: truncated %v with %d answers, %d addresses in %d bytes (%d plain); want truncated %v, addresses %v within %d",
				c.edges, c.size, r.Truncated, len(r.Answer), addresses, r.Len(), len(packed), c.truncated, c.extra, limit)
		}
		if r = exchange(t, "tcp", address, q); len(r.Answer) != 3+c.edges || r.Truncated {
			t.Errorf("%d edges over TCP: %d records, truncated %v; want all %d", c.edges, len(r.Answer), r.Truncated, 3+c.edges)
		}
	}
}

func subnet(m *wire.Msg, prefix string, change ...func(*wire.EDNS0_SUBNET)) *wire.Msg {
	p := netip.MustParsePrefix(prefix)
	m.SetEdns0(1232, false)
	s := &wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: net.IP(p.Addr().AsSlice())}
	if p.Addr().Is6() {
		s.Family = 2
	}
	for _, f := range change {
		f(s)
	}
	m.IsEdns0().Option = append(m.IsEdns0().Option, s)
	return m
}

func subnetOf(r *wire.Msg) *wire.EDNS0_SUBNET {
	if r.IsEdns0() != nil {
		for _, o := range r.IsEdns0().Option {
			if s, ok := o.(*wire.EDNS0_SUBNET); ok {
				return s
			}
		}
	}
	return nil
}

func TestATrustedResolverTellsWhereItsClientIs(t *testing.T) {
	o := options(twoSites())
	o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	address := serveZone(t, o)
	for _, c := range []struct {
		prefix, name string
		qtype        uint16
		want         string
		scope        uint8
	}{
		{"10.2.3.0/24", "puppet.example.com", wire.TypeA, "192.0.2.11", 24},
		{"10.1.9.0/24", "puppet.example.com", wire.TypeA, "192.0.2.11", 24},
		{"2001:db8:b:7::/56", "puppet.example.com", wire.TypeA, "192.0.2.11", 56},
		{"10.2.3.0/24", "_x-puppet._tcp.site-b.example.com", wire.TypeSRV, "0 5 8140 master.site-b.example.com.", 0}, // the same for all
	} {
		r := exchange(t, "udp", address, subnet(ask(c.name, c.qtype), c.prefix))
		if got := data(r); len(got) == 0 || got[0] != c.want {
			t.Errorf("%s for %s: %v, want %s", c.name, c.prefix, got, c.want)
		}
		if s := subnetOf(r); s == nil || s.SourceScope != c.scope {
			t.Errorf("%s for %s: scope %v, want %d", c.name, c.prefix, s, c.scope)
		}
	}
	// The resolver itself counts when its client does not want to be told.
	if r := exchange(t, "udp", address, subnet(ask("puppet.example.com", wire.TypeA), "0.0.0.0/0")); len(r.Answer) != 2 {
		t.Errorf("without a subnet: %v, want the default site", data(r))
	}
	for what, m := range map[string]*wire.Msg{
		"a scope in a question": subnet(ask("puppet.example.com", wire.TypeA), "10.2.3.0/24", func(s *wire.EDNS0_SUBNET) { s.SourceScope = 24 }),
		"two subnets":           subnet(subnet(ask("puppet.example.com", wire.TypeA), "10.2.3.0/24"), "10.2.3.0/24"),
	} {
		if what == "two subnets" {
			o := m.IsEdns0()
			o.Option = append(o.Option, o.Option[0])
			m.Extra = []wire.RR{o}
		}
		if r := exchange(t, "udp", address, m); r.Rcode != wire.RcodeFormatError {
			t.Errorf("%s: %s, want FORMERR", what, wire.RcodeToString[r.Rcode])
		}
	}
	newer := ask("puppet.example.com", wire.TypeA)
	newer.SetEdns0(1232, true)
	newer.IsEdns0().SetVersion(7)
	if r := exchange(t, "udp", address, newer); r.Rcode != wire.RcodeBadVers || len(r.Answer) != 0 {
		t.Errorf("EDNS version 7: %v, want BADVERS", r)
	}
}

func TestASubnetOfAStrangerIsIgnored(t *testing.T) {
	address := serveZone(t, options(twoSites()))
	r := exchange(t, "udp", address, subnet(ask("puppet.example.com", wire.TypeA), "10.2.3.0/24"))
	wantData(t, r, "192.0.2.1", "192.0.2.2")
	if subnetOf(r) != nil {
		t.Error("the subnet is echoed, want no sign that it was understood")
	}
}

func TestANetworkThatAsksTooMuchIsSentToTCP(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := options(twoSites())
	o.RateLimit, o.Registerer = 10, registry // the clock of the stage stands still: 20 answers and no more
	address := serveZone(t, o)
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const asked = 60
	m, err := ask("puppet.example.com", wire.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for range asked {
		if _, err := conn.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	whole, slips := 0, 0
	buf := make([]byte, 4096)
	for whole+slips < 40 { // 20 whole ones, 20 of the other 40 slip through
		if err := conn.SetReadDeadline(time.Now().Add(troupetest.Patience)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d answers and %d slips: %v", whole, slips, err)
		}
		var r wire.Msg
		if err := r.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		if r.Truncated {
			slips++
		} else {
			whole++
		}
	}
	if whole != 20 || slips != 20 || counter(t, registry, "troupe_dns_dropped_total") != 40 {
		t.Errorf("%d answers, %d slips, %v counted; want 20, 20, 40", whole, slips, counter(t, registry, "troupe_dns_dropped_total"))
	}
	if r := exchange(t, "tcp", address, ask("puppet.example.com", wire.TypeA)); len(r.Answer) != 2 {
		t.Errorf("over TCP: %v, want the answer", r)
	}
}

// copyZone asks for the zone as a secondary does.
func copyZone(t *testing.T, address string, m *wire.Msg, key ...string) ([]wire.RR, error) {
	t.Helper()
	tr := &wire.Transfer{ReadTimeout: troupetest.Patience}
	if key != nil {
		tr.TsigSecret = map[string]string{key[0]: key[1]}
		m.SetTsig(key[0], wire.HmacSHA256, 300, time.Now().Unix())
	}
	envelopes, err := tr.In(m, address)
	if err != nil {
		return nil, err
	}
	var out []wire.RR
	for e := range envelopes {
		if e.Error != nil {
			return nil, e.Error
		}
		out = append(out, e.RR...)
	}
	return out, nil
}

func TestOnlySecondariesCopyTheZone(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := options(twoSites())
	o.Registerer = registry
	address := serveZone(t, o)
	if _, err := copyZone(t, address, new(wire.Msg).SetAxfr("example.com.")); err == nil {
		t.Error("somebody who is no secondary copied the zone")
	}
	if n := counter(t, registry, "troupe_dns_transfers_total"); n != 1 {
		t.Errorf("%v refused transfers counted, want 1", n)
	}

	o = options(manyEdges(100))
	o.Secondaries = []dns.Secondary{{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t).Port())}}
	address = serveZone(t, o)
	records, err := copyZone(t, address, new(wire.Msg).SetAxfr("example.com."))
	if err != nil {
		t.Fatal(err)
	}
	first, last := records[0], records[len(records)-1]
	if first.Header().Rrtype != wire.TypeSOA || !wire.IsDuplicate(first, last) {
		t.Errorf("the copy begins with %v and ends with %v, want the SOA twice", first, last)
	}
	// What is copied is what the zone file of the view says.
	exported, _ := newZone(t, options(manyEdges(100))).Export("site-a")
	for _, r := range records[1 : len(records)-1] {
		if !strings.Contains(exported, r.String()+"\n") {
			t.Errorf("copied %v, which the zone file does not have", r)
		}
	}
	zp := wire.NewZoneParser(strings.NewReader(exported), "", "zone")
	n := 0
	for _, ok := zp.Next(); ok; _, ok = zp.Next() {
		n++
	}
	if err := zp.Err(); err != nil || n != len(records)-1 {
		t.Errorf("the zone file has %d records (%v), the copy %d", n, err, len(records)-1)
	}
	if _, err := copyZone(t, address, new(wire.Msg).SetAxfr("site-a.example.com.")); err == nil {
		t.Error("a name within the zone was copied as if it were one")
	}
	if r := exchange(t, "udp", address, new(wire.Msg).SetAxfr("example.com.")); r.Rcode != wire.RcodeRefused {
		t.Errorf("AXFR over UDP: %s, want REFUSED", wire.RcodeToString[r.Rcode])
	}
	serial := first.(*wire.SOA).Serial
	if r := exchange(t, "udp", address, new(wire.Msg).SetIxfr("example.com.", serial-1, ".", ".")); len(r.Answer) != 1 {
		t.Errorf("IXFR over UDP: %v, want the SOA alone", r.Answer)
	}
	if records, err = copyZone(t, address, new(wire.Msg).SetIxfr("example.com.", serial, ".", ".")); err != nil || len(records) != 1 {
		t.Errorf("IXFR of the current serial: %d records (%v), want the SOA alone", len(records), err)
	}
}

func TestASecondaryWithAKeyMustSign(t *testing.T) {
	const secret = "c2VjcmV0IGtleSBvZiBhIHRlc3QsIGxvbmcgZW5vdWdo"
	o := options(twoSites())
	o.Now = nil // signatures carry the time
	o.Keys = map[string]dns.Key{"copy.example.com": {Secret: secret}}
	o.Secondaries = []dns.Secondary{{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t).Port()), Key: "copy.example.com"}}
	address := serveZone(t, o)
	axfr := func() *wire.Msg { return new(wire.Msg).SetAxfr("example.com.") }
	if _, err := copyZone(t, address, axfr()); err == nil {
		t.Error("copied without a signature")
	}
	if _, err := copyZone(t, address, axfr(), "copy.example.com.", "d3Jvbmcgc2VjcmV0IG9mIGEgdGVzdCBmb3Igc3VyZQ=="); err == nil {
		t.Error("copied with a wrong signature")
	}
	if _, err := copyZone(t, address, axfr(), "other.example.com.", secret); err == nil {
		t.Error("copied with an unknown key")
	}
	if records, err := copyZone(t, address, axfr(), "copy.example.com.", secret); err != nil || len(records) < 10 {
		t.Errorf("with the key: %d records, %v", len(records), err)
	}
	q := ask("puppet.example.com", wire.TypeA)
	q.SetTsig("copy.example.com.", wire.HmacSHA256, 300, time.Now().Unix())
	c := &wire.Client{TsigSecret: map[string]string{"copy.example.com.": secret}, Timeout: troupetest.Patience}
	r, _, err := c.ExchangeContext(t.Context(), q, address)
	if err != nil || r.IsTsig() == nil || len(r.Answer) != 2 {
		t.Errorf("a signed question: %v, %v; want a signed answer", r, err)
	}
}

func TestTheSerialGrowsOnlyWhenAnswersChangeAndSecondariesAreTold(t *testing.T) {
	told := make(chan uint32, 64)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secondary := &wire.Server{PacketConn: p, MsgAcceptFunc: func(wire.Header) wire.MsgAcceptAction { return wire.MsgAccept }, Handler: wire.HandlerFunc(func(w wire.ResponseWriter, r *wire.Msg) {
		if r.Opcode == wire.OpcodeNotify && len(r.Answer) == 1 {
			told <- r.Answer[0].(*wire.SOA).Serial
		}
		_ = w.WriteMsg(new(wire.Msg).SetReply(r))
	})}
	go func() { _ = secondary.ActivateAndServe() }()
	t.Cleanup(func() { _ = p.Close() })

	s := twoSites()
	o := options(s)
	o.NotifyEvery = time.Millisecond
	o.Secondaries = []dns.Secondary{{Addr: p.LocalAddr().(*net.UDPAddr).AddrPort()}}
	address := serveZone(t, o)
	serial := func() uint32 {
		return exchange(t, "udp", address, ask("example.com", wire.TypeSOA)).Answer[0].(*wire.SOA).Serial
	}
	await := func(want uint32) {
		t.Helper()
		for {
			select {
			case got := <-told:
				if got == want {
					return
				}
				if got > want {
					t.Fatalf("told of serial %d, want %d", got, want)
				}
			case <-time.After(troupetest.Patience):
				t.Fatalf("never told of serial %d", want)
			}
		}
	}

	first := serial()
	if want := uint32(s.now().Unix()); first != want {
		t.Errorf("the first serial is %d, want the clock's %d", first, want)
	}
	await(first)
	s.advance(time.Hour)
	if got := serial(); got != first {
		t.Errorf("serial %d after an hour in which nothing changed, want %d", got, first)
	}
	s.edge("a1", kill)
	s.advance(time.Second)
	anew := func(before uint32) uint32 { // who asks while it is written down gets the one before
		ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
		defer cancel()
		for ctx.Err() == nil {
			if got := serial(); got != before {
				return got
			}
		}
		return before
	}
	second := anew(first)
	if want := uint32(s.now().Unix()); second != want {
		t.Errorf("serial %d after a death, want the clock's %d", second, want)
	}
	await(second)
	// A clock that goes back must not take the serial with it.
	s.advance(-2 * time.Hour)
	s.edge("a1", raise)
	if got := anew(second); got != second+1 {
		t.Errorf("serial %d after the clock went back, want %d", got, second+1)
	}
}

func TestAZoneWithMistakesDoesNotStart(t *testing.T) {
	for want, change := range map[string]func(*dns.Options){
		"is not a domain name":          func(o *dns.Options) { o.Zone = "exa mple" },
		"no name server was given":      func(o *dns.Options) { o.NS = nil },
		"give its addresses":            func(o *dns.Options) { o.NS[0].Addresses = nil },
		"does not lie in the zone":      func(o *dns.Options) { o.Names["puppet.example.org"] = dns.Address{} },
		"srv_domain \"x.example.org\"":  func(o *dns.Options) { o.SRVDomains["x.example.org"] = "site-a" },
		"unknown service \"pupet\"":     func(o *dns.Options) { o.Names["p.example.com"] = dns.Address{Service: "pupet"} },
		"resolvers count whole seconds": func(o *dns.Options) { o.TTL = time.Millisecond },
		"no key \"nokey.\"": func(o *dns.Options) {
			o.Secondaries = []dns.Secondary{{Addr: netip.MustParseAddrPort("10.0.0.1:53"), Key: "nokey"}}
		},
		"secret is not base64": func(o *dns.Options) { o.Keys = map[string]dns.Key{"k.example.com": {Secret: "§"}} },
		"unknown algorithm \"hmac-md5.\"": func(o *dns.Options) {
			o.Keys = map[string]dns.Key{"k.example.com": {Secret: "aaaa", Algorithm: "hmac-md5"}}
		},
		"no view of the sites was given":   func(o *dns.Options) { o.View = nil },
		"neither an address nor a domain ": func(o *dns.Options) { o.Mail = strings.Repeat("x", 70) + "@example.com" },
	} {
		o := options(twoSites())
		change(&o)
		if _, err := dns.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
}

func TestAnAddressThatIsTakenIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := options(twoSites())
	o.Listen = []string{"127.0.0.1:0", taken.Addr().String()}
	if err := newZone(t, o).Run(t.Context()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v, want an error that names %s", err, taken.Addr())
	}
}

func TestExplainSaysWhyEachEdgeIsInOrOut(t *testing.T) {
	s := twoSites()
	z := newZone(t, options(s))
	z.Answer(question("puppet.example.com", wire.TypeA), fromB)
	s.edge("a2", kill)
	for _, c := range []struct {
		name  string
		qtype uint16
		from  netip.Addr
		want  []string
	}{
		{"puppet.example.com", wire.TypeA, fromA, []string{
			"belongs to site site-a, by its network 10.1.0.0/16", "+ 0 75 master-1.site-a.example.com. (a1 of site-a): serves puppet",
			"- 0 0 master-2.site-a.example.com. (a2 of site-a): does not serve puppet", "- 1 5 master.site-b.example.com. (b1 of site-b): serves, but site site-a is nearer", "short-lived", "192.0.2.1",
		}},
		{"_x-puppet-ca._tcp.site-b.example.com", wire.TypeSRV, stranger, []string{"by default", "service ca as site site-b sees it", "+ 0 5 master.site-b.example.com."}},
		{"nothing.example.com", wire.TypeA, stranger, []string{"NXDOMAIN: there is no such name"}},
		{"example.org", wire.TypeA, stranger, []string{"REFUSED: the name does not lie in the zone example.com."}},
		{"site-a.example.com", wire.TypeA, stranger, []string{"NOERROR: the name exists and has no record of this type"}},
		{"puppet.example.com", wire.TypeAAAA, fromB, []string{"no address of this family"}},
		{"ns1.example.com", wire.TypeA, fromB, []string{"do not depend on health"}},
	} {
		text := z.Explain(c.name, c.qtype, c.from).String()
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s from %v is explained as\n%s\nwithout %q", c.name, c.from, text, want)
			}
		}
	}
	e := z.Explain("puppet.example.com", wire.TypeA, fromA)
	if i := slices.IndexFunc(e.Edges, func(r dns.Reason) bool { return r.Edge == "a1" }); i < 0 || !e.Edges[i].In || e.TTL != 2 {
		t.Errorf("explained as %+v", e)
	}
}

func TestTypesAreReadAsPeopleWriteThem(t *testing.T) {
	for _, c := range []struct {
		text, name string
		want       uint16
	}{
		{"", "_x-puppet._tcp.site-a.example.com", wire.TypeSRV}, {"", "puppet.example.com", wire.TypeA}, {"aaaa", "puppet.example.com", wire.TypeAAAA}, {"SOA", "example.com", wire.TypeSOA},
	} {
		if got, err := dns.ParseType(c.text, c.name); err != nil || got != c.want {
			t.Errorf("%q of %s is %d, %v; want %d", c.text, c.name, got, err, c.want)
		}
	}
	if got, err := dns.ParseType("PUPPET", "x"); err == nil {
		t.Errorf("PUPPET is %d, want an error", got)
	}
}

func TestDelegationNamesServersAndGlue(t *testing.T) {
	want := "example.com.\t3600\tIN\tNS\tns1.example.com.\nexample.com.\t3600\tIN\tNS\tns2.example.net.\nns1.example.com.\t3600\tIN\tA\t192.0.2.53\n"
	if got := newZone(t, options(twoSites())).Delegation(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestEdgesThatCannotBeAnsweredAreLeftOut(t *testing.T) {
	s := twoSites()
	s.sites[0].Edges = append(s.sites[0].Edges,
		newEdge("bad1", "not a name", 1, 3), newEdge("bad2", "", 1, 4),
		newEdge("a1", "twice.example.com", 1, 5),
		dns.Edge{Name: "bad3", Target: "no-address.example.com", Services: all()},
		dns.Edge{Name: "bad4", Target: "x.example.com", Services: all(), Addresses: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		dns.Edge{Name: "out", Target: "edge.example.net", Services: all(), Weight: 9, Port: 443})
	z := newZone(t, options(s))
	wantData(t, z.Answer(question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), stranger),
		"0 75 8140 master-1.site-a.example.com.", "0 25 8140 master-2.site-a.example.com.", "0 9 443 edge.example.net.", "1 5 8140 master.site-b.example.com.")
}
