package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// FuzzPacket sends any bytes as a question. Whatever comes, the answer can be read again, belongs to the question, fits its
// transport, and says nothing of a dead edge.
func FuzzPacket(f *testing.F) {
	up := map[Service]bool{Puppet: true, CA: true, Report: true, Fileserver: true}
	sites := []Site{
		{Name: "a", Edges: []Edge{
			{Name: "a1", Target: "a1.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Services: up, Weight: 3},
			{Name: "dead", Target: "dead.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.66")}},
		}},
		{Name: "b", Edges: []Edge{{Name: "b1", Target: "b1.example.com", Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, Services: up}}},
	}
	z, err := New(Options{
		Zone: "example.com", View: func() []Site { return sites }, NS: []NameServer{{Name: "ns.example.net"}},
		SRVDomains: map[string]string{"example.com": "", "a.example.com": "a"}, Names: map[string]Address{"puppet.example.com": {}},
		Networks: map[netip.Prefix]string{netip.MustParsePrefix("10.0.0.0/8"): "b"}, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Now: func() time.Time { return time.Unix(1e9, 0) },
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, q := range []wire.Question{
		{Name: "_x-puppet._tcp.a.example.com.", Qtype: wire.TypeSRV, Qclass: wire.ClassINET},
		{Name: "puppet.example.com.", Qtype: wire.TypeA, Qclass: wire.ClassINET},
		{Name: "example.com.", Qtype: wire.TypeANY, Qclass: wire.ClassINET},
		{Name: "example.com.", Qtype: wire.TypeSOA, Qclass: wire.ClassCHAOS},
	} {
		m := &wire.Msg{Question: []wire.Question{q}}
		m.SetEdns0(1232, true)
		o := m.IsEdns0()
		o.Option = append(o.Option, &wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{10, 1, 2, 0}})
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		var r wire.Msg
		if r.Unpack(packet) != nil {
			return // the library answers FORMERR or nothing
		}
		m := z.reply(&r, netip.MustParseAddr("127.0.0.1"), udp)
		b, err := m.Pack()
		if err != nil {
			t.Fatalf("the answer cannot be written: %v\n%v\nto\n%v", err, m, &r)
		}
		limit := wire.MaxMsgSize
		if udp {
			limit = payload
			if r.IsEdns0() == nil {
				limit = max(wire.MinMsgSize, len(packet)) // a question that is large itself is given back
			}
		}
		if len(b) > limit && len(b) > len(packet) {
			t.Fatalf("%d bytes, more than %d and more than the question's %d:\n%v", len(b), limit, len(packet), m)
		}
		var again wire.Msg
		if err := again.Unpack(b); err != nil {
			t.Fatalf("the answer cannot be read: %v\n%v", err, m)
		}
		if again.Id != r.Id || !again.Response || again.Authoritative && again.Rcode != wire.RcodeSuccess && again.Rcode != wire.RcodeNameError {
			t.Fatalf("the answer is none to the question:\n%v\nto\n%v", &again, &r)
		}
		if again.Authoritative && !wire.IsSubDomain("example.com.", wire.CanonicalName(again.Question[0].Name)) {
			t.Fatalf("authoritative for %s", again.Question[0].Name)
		}
		asked := len(r.Question) == 1 && strings.HasPrefix(wire.CanonicalName(r.Question[0].Name), "dead.")
		if text := again.String(); !asked && (strings.Contains(text, "192.0.2.66") || len(again.Answer) > 0 && strings.Contains(text, "dead.example.com.")) {
			t.Fatalf("the dead edge is answered:\n%v", &again)
		}
	})
}
