package dns_test

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	wire "github.com/miekg/dns"

	"troupe/internal/edge/dns"
)

// example is a configuration as docs/dns.md shows it, with edges that all serve.
type example struct {
	Sites []struct {
		Name  string
		Edges []struct {
			Name, Target string
			Addresses    []string
			Weight       int
		}
	}
	DNS struct {
		Zone       string
		NS         []struct{ Name string }
		SRVDomains map[string]string `yaml:"srv_domains"`
		Names      map[string]struct{ Service string }
	}
}

func (e example) options(t *testing.T) dns.Options {
	t.Helper()
	var sites []dns.Site
	for _, s := range e.Sites {
		site := dns.Site{Name: s.Name}
		for _, edge := range s.Edges {
			one := dns.Edge{Name: edge.Name, Target: edge.Target, Weight: edge.Weight, Services: all()}
			for _, a := range edge.Addresses {
				one.Addresses = append(one.Addresses, netip.MustParseAddr(a))
			}
			site.Edges = append(site.Edges, one)
		}
		sites = append(sites, site)
	}
	o := dns.Options{Zone: e.DNS.Zone, View: func() []dns.Site { return sites }, SRVDomains: e.DNS.SRVDomains, Names: map[string]dns.Address{}}
	for _, s := range e.DNS.NS {
		o.NS = append(o.NS, dns.NameServer{Name: s.Name})
	}
	for name, a := range e.DNS.Names {
		o.Names[name] = dns.Address{Service: dns.Service(a.Service)}
	}
	return o
}

// TestThePageShowsWhatIsAnswered builds a zone from each configuration of the page and compares it with the records below it.
func TestThePageShowsWhatIsAnswered(t *testing.T) {
	page, err := os.ReadFile("../../../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	pairs := regexp.MustCompile("(?s)```yaml\n(.*?)```.*?```zone\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(pairs) != 2 {
		t.Fatalf("%d configurations with records on the page, want 2", len(pairs))
	}
	for _, pair := range pairs {
		var e example
		if err := yaml.UnmarshalWithOptions([]byte(pair[1]), &e, yaml.Strict()); err != nil {
			t.Fatalf("%v\n%s", err, pair[1])
		}
		z := newZone(t, e.options(t))
		want := map[string][]string{}
		parser := wire.NewZoneParser(strings.NewReader("$TTL 5\n"+pair[2]), "", "docs/dns.md")
		for r, ok := parser.Next(); ok; r, ok = parser.Next() {
			want[r.Header().Name] = append(want[r.Header().Name], strings.TrimPrefix(r.String(), r.Header().String()))
		}
		if err := parser.Err(); err != nil || len(want) < 2 {
			t.Fatalf("%d names with records: %v", len(want), err)
		}
		for name, records := range want {
			if got := data(z.Answer(question(name, wire.TypeSRV), stranger)); !slices.Equal(got, records) {
				t.Errorf("%s:\ngot  %q\npage %q", name, got, records)
			}
		}
		for name := range e.DNS.Names {
			if m := z.Answer(question(name, wire.TypeA), stranger); len(m.Answer) == 0 {
				t.Errorf("%s has no address", name)
			}
		}
	}
}
