package dns_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/edge/dns"
)

// TestQuestionsAndChangesDoNotDisturbEachOther asks from all sides while edges die and rise; the race detector watches.
func TestQuestionsAndChangesDoNotDisturbEachOther(t *testing.T) {
	s := twoSites()
	z := newZone(t, options(s))
	var wg sync.WaitGroup
	const rounds = 300
	wg.Go(func() {
		for i := range rounds {
			s.edge([]string{"a1", "a2"}[i%2], []func(*dns.Edge){kill, raise}[i/2%2])
			s.advance(time.Duration(i%3) * time.Second)
		}
	})
	for range 3 {
		wg.Go(func() {
			for range rounds {
				if m := z.Answer(question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), fromA); len(m.Answer) == 0 {
					t.Error("an empty ladder, though site B lives all the time")
				}
				z.Answer(question("example.com", wire.TypeSOA), fromA)
				z.Explain("puppet.example.com", wire.TypeA, fromB)
				z.Export("site-b")
			}
		})
	}
	wg.Wait()
}

// BenchmarkAnswer is one question for a ladder of four sites with four edges each, with the comparison of the view.
func BenchmarkAnswer(b *testing.B) {
	s := twoSites()
	s.sites = nil
	for i := range 4 {
		site := dns.Site{Name: fmt.Sprintf("site-%c", 'a'+i)}
		for j := range 4 {
			site.Edges = append(site.Edges, newEdge(fmt.Sprintf("e%d", j), fmt.Sprintf("e%d.site-%c.example.com", j, 'a'+i), 10, 10*i+j))
		}
		s.sites = append(s.sites, site)
	}
	z, err := dns.New(options(s))
	if err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]wire.Question{
		"ladder": question("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), "address": question("puppet.example.com", wire.TypeA),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				z.Answer(q, fromA)
			}
		})
	}
}
