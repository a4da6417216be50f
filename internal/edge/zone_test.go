package edge

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/config"
	"troupe/internal/edge/dns"
	"troupe/internal/fault"
	"troupe/internal/troupetest"
)

// openZone opens an edge with a dns section; nothing runs. Everybody in it is up, since nobody is checked.
func openZone(t *testing.T, text string) *Edge {
	t.Helper()
	conf, err := config.ParseEdge("edge.yaml", []byte("listeners: [{listen: \"127.0.0.1:0\", mode: passthrough}]\npools: {workers: {servers: [{address: \"192.0.2.1:8140\"}]}}\n"+text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, s := range conf.DNS.Sites {
		for i := range s.Edges {
			s.Edges[i].Check = &config.EdgeCheck{Type: "none"}
		}
	}
	conf.Data = t.TempDir()
	e, err := open(t.Context(), conf, Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	targets, err := e.targets()
	check(t, err)
	e.judge.Watch(targets)
	return e
}

func answers(e *Edge, name string, qtype uint16, from string) (all []string) {
	m := e.zone.Answer(wire.Question{Name: wire.Fqdn(name), Qtype: qtype, Qclass: wire.ClassINET}, netip.MustParseAddr(from))
	for _, r := range m.Answer {
		all = append(all, strings.TrimPrefix(r.String(), r.Header().String()))
	}
	return all
}

// TestThePageShowsWhatIsAnswered has an edge open each configuration of docs/dns.md, and compares what it answers with the records below it.
func TestThePageShowsWhatIsAnswered(t *testing.T) {
	page, err := os.ReadFile("../../docs/dns.md")
	check(t, err)
	secrets := t.TempDir()
	check(t, os.WriteFile(filepath.Join(secrets, "copy.secret"), []byte("bm90IGEgc2VjcmV0IGF0IGFsbA==\n"), 0o600))
	blocks := regexp.MustCompile("(?s)```(yaml|zone)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	var e *Edge
	configurations, names := 0, map[string]bool{}
	for _, block := range blocks {
		if block[1] == "yaml" {
			e = openZone(t, strings.ReplaceAll(block[2], "/etc/troupe/dns", secrets))
			configurations++
			for name := range e.conf.DNS.Names {
				if len(answers(e, name, wire.TypeA, "203.0.113.9")) == 0 {
					t.Errorf("%s has no address", name)
				}
			}
			continue
		}
		want := map[string][]string{}
		parser := wire.NewZoneParser(strings.NewReader("$TTL 5\n"+block[2]), "", "docs/dns.md")
		for r, ok := parser.Next(); ok; r, ok = parser.Next() {
			want[r.Header().Name] = append(want[r.Header().Name], strings.TrimPrefix(r.String(), r.Header().String()))
		}
		if err := parser.Err(); err != nil {
			t.Fatal(err)
		}
		for name, records := range want {
			names[name] = true
			if got := answers(e, name, wire.TypeSRV, "203.0.113.9"); !slices.Equal(got, records) {
				t.Errorf("%s:\ngot  %q\npage %q", name, got, records)
			}
		}
	}
	if configurations < 5 || len(names) < 5 {
		t.Errorf("only %d configurations and %d names with records on the page", configurations, len(names))
	}
}

// TestAnEdgeIsInTheLaddersThatItIsMeantFor: one that compiles alone is not asked for the CA, also when nobody else is.
func TestAnEdgeIsInTheLaddersThatItIsMeantFor(t *testing.T) {
	e := openZone(t, `
dns:
  zone: example.com
  name_servers: [{name: ns1.example.net}]
  srv_domains: {example.com: east}
  names: {ca.example.com: {service: ca}, one.example.com: {max: 1}}
  networks: {10.2.0.0/16: west}
  trusted: [192.0.2.53/32]
  sites:
    east:
      edges:
        - {name: compile, target: compile.example.com, addresses: [192.0.2.1], services: [puppet, report, fileserver]}
        - {name: sign, target: sign.example.com, addresses: [192.0.2.2], services: [ca]}
    west: {edges: [{name: all, target: all.example.com, addresses: [198.51.100.1]}]}
`)
	for label, want := range map[string]string{
		"_x-puppet": "0 100 8140 compile.example.com. 1 100 8140 all.example.com.", "_x-puppet-ca": "0 100 8140 sign.example.com. 1 100 8140 all.example.com.",
		"_x-puppet-report": "0 100 8140 compile.example.com. 1 100 8140 all.example.com.",
	} {
		if got := strings.Join(answers(e, label+"._tcp.example.com", wire.TypeSRV, "192.0.2.9"), " "); got != want {
			t.Errorf("%s: %s, want %s", label, got, want)
		}
	}
	if got := fmt.Sprint(answers(e, "ca.example.com", wire.TypeA, "192.0.2.9")); got != "[192.0.2.2]" {
		t.Errorf("the CA is at %s", got)
	}
	for name, want := range map[string]int{"one.example.com": 1, "ca.example.com": 1} {
		if got := answers(e, name, wire.TypeA, "10.2.0.1"); len(got) != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// All is well: who is not meant for a service is not missing in it.
	x := e.zone.Explain("_x-puppet-ca._tcp.example.com", wire.TypeSRV, netip.MustParseAddr("192.0.2.9"))
	if x.TTL != 5 || !strings.Contains(x.String(), "is not meant for ca") {
		t.Errorf("explained as\n%s", x)
	}
	check(t, e.judge.Admin("dns/sign", "maint"))
	check(t, e.judge.Admin("dns/all", "maint"))
	if got := strings.Join(answers(e, "_x-puppet-ca._tcp.example.com", wire.TypeSRV, "192.0.2.9"), " "); strings.Contains(got, "compile") || got == "" {
		t.Errorf("while no CA serves, its ladder is %q", got)
	}
}

func TestSecretsOfSecondariesAreForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"good": {"c2VjcmV0\n", 0o600, ""}, "open": {"c2VjcmV0\n", 0o644, "chmod 0600"}, "empty": {"\n", 0o600, "first line"},
		"long": {strings.Repeat("A", maxSecret+1), 0o600, "first line"},
	} {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(c.text), c.mode))
		secret, err := secretFile(path)
		if c.want == "" && (err != nil || secret != "c2VjcmV0") {
			t.Errorf("%s: %q, %v", name, secret, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), strings.TrimSpace(c.text)+"\x00")) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := secretFile(filepath.Join(dir, "none")); err == nil {
		t.Error("a file that does not exist was read")
	}
	if _, err := secretFile(dir); err == nil {
		t.Error("a folder was read")
	}
}

// TestNobodyIsToldOfEdgesThatWereNotChecked holds the one check back and sees that the zone is silent until then; the first answer leaves
// out who is dead.
func TestNobodyIsToldOfEdgesThatWereNotChecked(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	var once, let sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		once.Do(func() { close(asked) })
		<-release
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { let.Do(func() { close(release) }) })
	live := netip.MustParseAddrPort(strings.TrimPrefix(server.URL, "http://"))
	dead := netip.MustParseAddrPort(freeAddress(t))
	e := openZone(t, "dns: {zone: example.com, listen: [\""+freeAddress(t)+"\"], name_servers: [{name: ns1.example.net}], srv_domains: {example.com: east}, sites: {east: {edges: []}}}")
	slow := &config.EdgeCheck{Type: "http", Path: "/", Interval: config.Duration(50 * time.Millisecond), Timeout: config.Duration(troupetest.Patience)}
	var edges []config.EdgeDNSEdge
	for name, at := range map[string]netip.AddrPort{"live": live, "dead": dead} {
		edges = append(edges, config.EdgeDNSEdge{Name: name, Target: name + ".example.com", Addresses: []netip.Addr{at.Addr()}, Port: at.Port(), Check: slow})
	}
	e.conf.DNS.Sites["east"] = config.EdgeSite{Edges: edges}
	targets, err := e.dnsTargets()
	check(t, err)
	e.judge.Watch(targets)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.judge.Run(ctx) })
	ended := make(chan error, 1)
	wg.Go(func() { ended <- e.serveZone(ctx) })
	t.Cleanup(func() { cancel(); let.Do(func() { close(release) }); wg.Wait() })
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case err := <-ended:
			t.Fatalf("%s: the zone ended: %v", what, err)
		case <-time.After(troupetest.Patience):
			t.Fatalf("waited in vain: %s", what)
		}
	}
	await("the living one is checked", asked)
	ask := new(wire.Msg).SetQuestion("_x-puppet._tcp.example.com.", wire.TypeSRV)
	if m, err := wire.Exchange(ask, e.conf.DNS.Listen[0]); err == nil {
		t.Fatalf("before the first checks have ended, answered %v", m.Answer)
	}
	select {
	case <-e.answering:
		t.Fatal("the edge calls itself ready")
	default:
	}
	if err := e.zoneAnswers(); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("explained before: %v", err)
	}
	let.Do(func() { close(release) })
	await("the zone is answered for", e.answering)
	check(t, e.zoneAnswers())
	m, err := wire.Exchange(ask, e.conf.DNS.Listen[0])
	check(t, err)
	if len(m.Answer) != 1 || m.Answer[0].(*wire.SRV).Target != "live.example.com." {
		t.Errorf("the first answer is %v", m.Answer)
	}
}

// TestEdgesOfOneTargetAreOneWhenPlacesAreShared: an edge that is named twice, to check services apart, does not halve what its site can take.
func TestEdgesOfOneTargetAreOneWhenPlacesAreShared(t *testing.T) {
	e := openZone(t, `
dns:
  zone: example.com
  name_servers: [{name: ns1.example.net}]
  sites:
    east:
      edges:
        - {name: one, target: one.example.com, addresses: [192.0.2.1], services: [puppet, report, fileserver]}
        - {name: one-ca, target: One.example.com., addresses: [192.0.2.1], services: [ca]}
        - {name: two, target: two.example.com, addresses: [192.0.2.2]}
`)
	if n := e.living(e.conf.DNS.Sites["east"]); n != 2 {
		t.Errorf("%d edges live, want 2", n)
	}
	if got := e.dnsView()[0].Edges[1].Offers; len(got) != 1 || got[0] != dns.CA {
		t.Errorf("the second is for %v", got)
	}
}
