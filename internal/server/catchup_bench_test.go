package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"troupe/internal/carrier"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file measures what it costs to take what another member wrote: its records into the journal, and what they say into the
// tables. In CPU time, of the giver and of the taker, so that it tells something on a busy machine.

// runs are of 1,000 nodes, each of which leaves what an agent with few resources does.
const catchUpRuns = 3000

// BenchmarkCatchUp brings 12,000 records from one journal to an empty one.
func BenchmarkCatchUp(b *testing.B) {
	from, err := journal.Open(b.TempDir(), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	writeRuns(b, from)
	giver := carrier.New(from, carrier.Options{})
	srv := httptest.NewTLSServer(giver.Handler(func(*http.Request) journal.Origin { return "other" }))
	defer srv.Close()
	ask := carrier.Asker{HTTP: srv.Client(), URL: srv.URL}

	for _, part := range []string{"journal", "journal and tables"} {
		b.Run(part, func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				to, err := journal.Open(b.TempDir(), journal.Options{})
				if err != nil {
					b.Fatal(err)
				}
				db, err := store.Open(b.Context(), b.TempDir(), to, store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				if part == "journal" {
					ended <- nil
				} else {
					go func() { ended <- db.Run(ctx) }()
				}
				before := usedCPU(b)
				b.StartTimer()
				if err := carrier.Fill(ctx, to, ask, nil); err != nil {
					b.Fatal(err)
				}
				if part != "journal" {
					if err := db.CatchUp(ctx); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				cpu += usedCPU(b) - before
				cancel()
				for _, err := range []error{<-ended, db.Close(), to.Close()} {
					if err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N)/(4*catchUpRuns), "cpu-µs/record")
		})
	}
}

// writeRuns lets nodes run: facts of 12 kB, a catalog of 4 kB that is mostly known, a compile, a report of 5 kB.
func writeRuns(b *testing.B, j *journal.Journal) {
	b.Helper()
	db, err := store.Open(b.Context(), b.TempDir(), j, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	r := rand.New(rand.NewPCG(1, 2))
	lines := func(n int, form string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(form, i, r.Uint32N(1000), r.Uint32()))
		}
		return strings.Join(all, ",")
	}
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range catchUpRuns {
		name := puppet.Certname(fmt.Sprintf("node%04d.example.test", i%1000))
		values := json.RawMessage(`{` + lines(200, `"fact_%03d":{"size":"%d GiB","address":"%08x","kind":"ext4"}`) + `}`)
		must(db.SaveFacts(b.Context(), puppet.Facts{Certname: name, Environment: "production", Timestamp: time.Now(), Values: values}, "first"))
		must(db.SaveCompile(b.Context(), store.Compile{Certname: name, Environment: "production", CodeID: fmt.Sprintf("%064x", 1), Resources: 10, Timings: map[string]time.Duration{"evaluate": 1, "convert": 2, "settle": 3}}))
		catalog := fmt.Appendf(nil, `{"name":%q,"resources":[%s]}`, name, strings.Repeat(`{"type":"File","title":"/etc/motd","parameters":{"ensure":"file","mode":"0644"}},`, 40)+`{}`)
		must(db.SaveCatalog(b.Context(), store.CatalogMeta{Certname: name, Environment: "production", TransactionUUID: fmt.Sprint(i)}, catalog, nil))
		raw := fmt.Appendf(nil, `{"host":%q,"transaction_uuid":"%d","resource_statuses":{%s}}`, name, i, lines(20, `"File[/etc/file%d]":{"title":"/etc/file","change_count":%d,"evaluation_time":0.0%d,"events":[],"failed":false,"tags":["file","class","motd"],"containment_path":["Stage[main]","Motd","File[/etc/file]"]}`))
		_, err := db.SaveReport(b.Context(), puppet.Report{Certname: name, Environment: "production", Status: "unchanged", TransactionUUID: fmt.Sprint(i), Raw: raw})
		must(err)
	}
}

// usedCPU is the CPU time of this process.
func usedCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
