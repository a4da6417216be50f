package troupetest

// This file lets many agents come at once.

import (
	"fmt"
	"testing"

	"troupe/internal/fakeagent"
)

func TestAHerdOfNewAgentsIsServed(t *testing.T) {
	t.Parallel()
	// Agents beyond the queue are sent away and come back; here they come back soon.
	s := StartServer(t, ServerOptions{Autosign: true, Environments: site, Config: "http:\n  max_retry_after: 2s\n"})
	var herd fakeagent.Fleet
	for i := range 40 {
		g := []fakeagent.Generation{fakeagent.Puppet5, fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9}[i%4]
		a, err := fakeagent.New(fmt.Sprintf("herd%d.example.test", i), s.Addr, fakeagent.Options{
			Generation: g, ServerName: "localhost", Facts: []byte(`{"sandbox":"/nowhere","site_custom":"x"}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		herd.Agents = append(herd.Agents, a)
	}

	for _, run := range []string{"first", "second"} {
		got := herd.Run(t.Context())
		if got.Runs != 40 || got.Failed != 0 || got.Cached != 0 || got.Unreported != 0 {
			t.Errorf("%s run of the herd: %d runs, %d failed, %d on a cached catalog, %d without report: %v",
				run, got.Runs, got.Failed, got.Cached, got.Unreported, got.Problems)
		}
		t.Logf("%s run: %v in all, a run %v at the median, %v at most; catalogs %+v",
			run, got.Took, got.Run.P50, got.Run.Max, got.Kinds["catalog"])
	}
	for i := range 40 {
		if got := len(s.Reports(fmt.Sprintf("herd%d.example.test", i))); got != 2 {
			t.Errorf("herd%d has %d reports, want 2", i, got)
		}
	}
}
