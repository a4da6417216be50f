package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func agentConf(t *testing.T, text string) *AgentConf {
	t.Helper()
	path := filepath.Join(t.TempDir(), "puppet.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := ReadAgentConf(path, []string{"main", "agent", "server"}, map[string]string{"server": "puppet"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnAgentReadsItsSectionBeforeMainAndTheFirstOfTwo(t *testing.T) {
	a := agentConf(t, "environment = x\n[main]\nserver = one\nserver = two\nca_server = ca-of-$server\n[agent]\nenvironment='y'\n"+
		"logdir = /var/log/puppet { owner = puppet, mode = 750 }\n[server]\nca_server = z\n")
	for name, want := range map[string]string{"server": "one", "ca_server": "ca-of-one", "environment": "y", "logdir": "/var/log/puppet"} {
		if got, origin, set, err := a.Get(name); err != nil || !set || got != want || !strings.Contains(origin, "puppet.conf:") {
			t.Errorf("%s is %q at %q (%v, %v), want %q", name, got, origin, set, err, want)
		}
	}
	if len(a.Unread) != 1 || !strings.HasSuffix(a.Unread[0], "puppet.conf:10 [server] ca_server") {
		t.Errorf("unread: %q, want the CA's server in [server]", a.Unread)
	}
}

func TestOneLineThatAnAgentCannotReadSpoilsTheFile(t *testing.T) {
	for _, line := range []string{"; a comment of others", "nonsense", "[other]", "report_server = ${server}", "logdir = /x { mode = rwx }", "[main] # said"} {
		a := agentConf(t, "[main]\nserver = one\n"+line+"\n")
		if _, _, set, _ := a.Get("server"); set || a.Broken == nil || !strings.Contains(a.Broken.Error(), "puppet.conf:3: ") {
			t.Errorf("%q: server set %v, broken by %v; want nothing read and the line named", line, set, a.Broken)
		}
	}
	if a := agentConf(t, "[main]\r\n # said\r\nserver = one # two\r\n"); a.Broken != nil {
		t.Errorf("a good file is broken: %v", a.Broken)
	}
}

// FuzzAgentConf reads any file as an agent does: it is read or it is broken, and what is set has a place in it.
func FuzzAgentConf(f *testing.F) {
	f.Add("[main]\nserver = a\n[agent]\nca_server = $server { mode = 0644 }\n")
	f.Add("; x\n")
	f.Fuzz(func(t *testing.T, src string) {
		all, err := agentLines("fuzz", src, []string{"main", "agent"})
		if err != nil && (all != nil || !strings.HasPrefix(err.Error(), "fuzz:")) {
			t.Fatalf("broken by %v with %d settings, want none and the place", err, len(all))
		}
		lines := strings.Split(src, "\n")
		conf := ofSections("fuzz", all, map[string]string{"vardir": "/var"}, "main", "agent")
		for _, s := range all {
			if s.line < 1 || s.line > len(lines) || !strings.Contains(lines[s.line-1], s.name) {
				t.Fatalf("%s is said to stand on line %d", s.name, s.line)
			}
			_, _, _, _ = conf.get(s.name) // ends, with an error or without
		}
	})
}
