package troupetest

// This file lets more real agents come than there is room for.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAgentsThatCannotComeBackAreServedUnderOverload(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{
		Autosign: true, Config: "engine:\n  workers: 1\n  max_queue: 1\nhttp:\n  max_retry_after: 2s\n",
	})
	// Compiles wait for a file, so that all agents are there before the first is done; then each takes a while.
	gate := filepath.Join(TempDir(t), "open")
	s.WriteCode("production/manifests/site.pp",
		fmt.Sprintf(`generate('/bin/sh', '-c', 'until [ -e %s ]; do sleep 0.1; done; sleep 1')`, gate))

	// 7.23 cannot be sent away (PUP-11853) and waits. 8.10 finds the queue full, is sent away and comes back.
	var all sync.WaitGroup
	var agents []*Agent
	results := make([]Result, 6)
	begin := func(g Generation) {
		i := len(agents)
		a := NewAgent(t, g, fmt.Sprintf("node%d.example.test", i), s.Addr)
		agents = append(agents, a)
		all.Go(func() { results[i] = a.Run() })
	}
	for range 4 {
		begin(Puppet7)
	}
	client := s.Client()
	Eventually(t, Patience, "one agent is served and three wait", func() bool { return queueLength(t, client, s) == 3 })
	begin(Puppet8)
	begin(Puppet8)
	Eventually(t, Patience, "both other agents are sent away", func() bool {
		log := readFile(t, filepath.Join(filepath.Dir(s.Environments), "server.log"))
		return strings.Contains(log, "node4.example.test status=503") && strings.Contains(log, "node5.example.test status=503")
	})
	writeFile(t, gate, "")
	all.Wait()

	for i, r := range results {
		if r.Exit != 0 {
			t.Errorf("agent %s of %s: exit %d after %v\n%s", agents[i].Generation, agents[i].Certname, r.Exit, r.Took, r.Output)
		}
		if sent := strings.Contains(r.Output, "Sleeping for"); sent != (agents[i].Generation == Puppet8) {
			t.Errorf("agent %s was sent away: %v\n%s", agents[i].Generation, sent, r.Output)
		}
		if n := len(s.Reports(agents[i].Certname)); n != 1 {
			t.Errorf("%s has %d reports, want 1", agents[i].Certname, n)
		}
	}
}

// queueLength is how many compiles wait for a worker.
func queueLength(t *testing.T, client *http.Client, s *Server) int {
	t.Helper()
	answer, err := client.Get(s.URL("/status/v1/services?level=debug"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var services map[string]struct {
		Status struct {
			Experimental struct {
				Metrics struct {
					Length int `json:"queue-length"`
				} `json:"metrics"`
			} `json:"experimental"`
		} `json:"status"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&services); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("status: %d, %v", answer.StatusCode, err)
	}
	return services["jruby-metrics"].Status.Experimental.Metrics.Length
}
