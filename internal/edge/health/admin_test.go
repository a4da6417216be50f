package health

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
)

func TestTheOperatorsWordWinsAndSurvivesARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "servers.json")
	targets := []Target{{ID: "pool/a"}, {ID: "pool/b"}}
	m := New(Options{SaveFile: file})
	m.Watch(targets)
	for id, mode := range map[string]string{"pool/a": "maint", "pool/b": "drain"} {
		if err := m.Admin(id, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Admin("pool/b", "ready"); err != nil {
		t.Fatal(err)
	}
	if err := m.Admin("pool/typo", "drain"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a server that is not there: %v", err)
	}
	if err := m.Admin("pool/a", "off"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "ready, drain, maint") {
		t.Errorf("a mode that is not there: %v", err)
	}

	again := New(Options{SaveFile: file})
	again.Watch(targets)
	if a, b := again.Verdict("pool/a"), again.Verdict("pool/b"); a.State != Maint || a.Reason != "by an operator" || b.State != Up {
		t.Errorf("after a restart: %+v, %+v", a, b)
	}
	again.Watch(targets[1:]) // it goes, and comes back later
	again.Watch(targets)
	if a := again.Verdict("pool/a"); a.State != Maint {
		t.Errorf("after it was gone for a while: %+v", a)
	}

	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := New(Options{SaveFile: file})
	broken.Watch(targets)
	if err := broken.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "mend the file, or remove it") {
		t.Errorf("with a broken file Run answers %v", err)
	}
	if err := broken.Admin("pool/a", "drain"); err == nil {
		t.Error("a broken file was written over")
	}
}

func TestTheOperatorsWordIsKeptOnlyOnceItIsOnDisk(t *testing.T) {
	m := New(Options{SaveFile: filepath.Join(t.TempDir(), "absent", "servers.json")})
	m.Watch([]Target{{ID: "pool/a"}})
	if err := m.Admin("pool/a", "drain"); err == nil {
		t.Error("a word that could not be saved was accepted")
	}
	if v := m.Verdict("pool/a"); v.State != Up {
		t.Errorf("%+v, want what was before", v)
	}
}

func TestAgentsAreHeeded(t *testing.T) {
	for _, c := range []struct {
		line string
		want agent
		bad  string
	}{
		{"75%", agent{share: 0.75}, ""},
		{"weight:50", agent{share: 0.25}, ""}, // of 200
		{"weight:40%", agent{share: 0.4}, ""},
		{"500%", agent{share: 1.28}, ""}, // HAProxy's largest weight
		{"maxconn:30", agent{share: 1, maxConns: 30}, ""},
		{"up ready 50% maxconn:7", agent{share: 0.5, maxConns: 7}, ""},
		{"drain, 10%", agent{share: 0.1, admin: "drain"}, ""},
		{"MAINT #updating", agent{share: 1, admin: "maint", reason: "updating"}, ""},
		{"down # disk full, # really", agent{share: 1, down: true, reason: "disk full, # really"}, ""},
		{"fail", agent{share: 1, down: true}, ""},
		{"stopped", agent{share: 1, down: true}, ""},
		{"", agent{share: 1}, ""},
		{"up banana 80 -5% weight:257 maxconn:-1 maxconn:99999999999999999999", agent{share: 1}, `["banana" "80" "-5%" "weight:257" "maxconn:-1" "maxconn:99999999999999999999"]`},
	} {
		a := agent{share: 1}
		err := a.heed(c.line, 200)
		if a != c.want {
			t.Errorf("%q makes %+v, want %+v", c.line, a, c.want)
		}
		if (err == nil) != (c.bad == "") || err != nil && !strings.HasSuffix(err.Error(), c.bad) {
			t.Errorf("%q: %v, want %q", c.line, err, c.bad)
		}
	}
	a := agent{share: 0.5, admin: "drain", down: true, maxConns: 3}
	if err := a.heed("ready", 0); err != nil || a != (agent{share: 0.5, down: true, maxConns: 3}) {
		t.Errorf("%+v (%v), want nothing changed but what was said", a, err)
	}
}

func FuzzAgentLine(f *testing.F) {
	for _, line := range []string{"75%", "up ready 50% maxconn:7 #why", "down#", "weight:1000000000000000000000000%", ",,\x00"} {
		f.Add(line, 100)
	}
	f.Fuzz(func(t *testing.T, line string, weight int) {
		a := agent{share: 1}
		_ = a.heed(line, weight)
		if a.share < 0 || a.maxConns < 0 || a.share*float64(max(weight, 1)) > 256.5 && weight > 0 && a.share > 1 {
			t.Errorf("%q with weight %d makes %+v", line, weight, a)
		}
	})
}

func TestAgentCheckDecidesBesideTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		h.open("a:8140", accept)
		says := func(line string) {
			h.open("agent:9000", func(c net.Conn) {
				_, _ = c.Read(make([]byte, 6)) // what AgentSend says
				_, _ = io.WriteString(c, line)
				_ = c.Close()
			})
		}
		says("50% maxconn:3\n")
		m := watch(t, h, Check{Type: TypeTCP, AgentAddress: "agent:9000", AgentSend: "hello\n", AgentInterval: time.Second})
		if v := m.Verdict("pool/a"); v.State != Up || v.Share != 0.5 || v.MaxConns != 3 {
			t.Errorf("%+v, want half the weight and three connections", v)
		}
		for _, c := range []struct {
			line string
			want State
		}{
			{"drain #deploy\r\n", Drain},
			{"ready\n", Up},
			{"down #full\n", Down},
			{"maint\n", Maint},
			{"up ready", Up},
			{"", Up}, // it hangs up without a word: no failure
		} {
			says(c.line)
			time.Sleep(time.Second)
			wantState(t, m, "pool/a", c.want)
		}
		says("down #full\n")
		time.Sleep(time.Second)
		synctest.Wait()
		h.mu.Lock()
		delete(h.doors, "agent:9000")
		h.mu.Unlock()
		time.Sleep(time.Minute)
		wantState(t, m, "pool/a", Down) // nobody took it back
		if v := m.Verdict("pool/a"); v.Share != 0.5 || v.Reason != "its agent says so: full" {
			t.Errorf("%+v, want what the agent said before it went", v)
		}
		if s := m.All()[0]; s.Agent != "L4CON: connection refused" {
			t.Errorf("agent %q, want why it says nothing", s.Agent)
		}
		h.mu.Lock()
		delete(h.doors, "a:8140")
		h.mu.Unlock()
		time.Sleep(time.Minute)
		if err := m.Admin("pool/a", "drain"); err != nil {
			t.Fatal(err)
		}
		wantState(t, m, "pool/a", Down) // drain does not make it well
	})
}

func TestAgentLinesAreReadAsTheyWereSaid(t *testing.T) {
	for _, v := range []Verdict{
		{State: Up, Share: 1},
		{State: Up, Share: 0.37, MaxConns: 12},
		{State: Drain, Share: 1, Reason: "deploy\nof #7"},
		{State: Maint, Share: 0},
		{State: Down, Share: 1, Reason: strings.Repeat("ü", 2000)},
	} {
		line := AgentLine(v)
		a := agent{share: 1, admin: "drain", down: true}
		err := a.heed(line, 100)
		state := Up
		switch {
		case a.down:
			state = Down
		case a.admin != "":
			state = State(a.admin)
		}
		if err != nil || state != v.State || a.share != v.Share || a.maxConns != v.MaxConns || len(line) >= maxLine || strings.Contains(line, "\n") {
			t.Errorf("%+v is said as %q, which means %+v (%v)", v, line, a, err)
		}
	}
}

func TestMetricsTellWhatIsJudged(t *testing.T) {
	r := prometheus.NewRegistry()
	m := New(Options{Registerer: r})
	m.Watch([]Target{{ID: "pool/a"}, {ID: "pool/b"}, {ID: "nopool"}})
	if err := m.Admin("pool/b", "drain"); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "troupe_edge_server_up" {
			for _, s := range f.Metric {
				got[s.Label[0].GetValue()+"/"+s.Label[1].GetValue()] = s.GetGauge().GetValue()
			}
		}
	}
	if got["pool/a"] != 1 || got["pool/b"] != 0 || len(got) != 3 {
		t.Errorf("up: %v, want only what takes new work", got)
	}
}
