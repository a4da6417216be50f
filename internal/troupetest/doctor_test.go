package troupetest

// This story asks `troupe doctor` about two members, in good days and in bad ones.

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// An examination is what `troupe doctor -o json` prints.
type examination struct {
	Member, State string
	Findings      []struct{ Check, State, Found, Remedy string }
}

func (s *Server) doctor(args ...string) (status int, e examination) {
	s.t.Helper()
	status, out, words := s.CLI(append([]string{"doctor", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		s.t.Fatalf("troupe doctor: exit %d, %v\n%s%s", status, err, out, words)
	}
	if failed := e.State == "fail"; failed != (status == 1) {
		s.t.Errorf("exit %d with %+v", status, e)
	}
	return status, e
}

// A finding is one that is waited for: its check, its state, and a part of its words.
type finding struct{ check, state, text string }

func (e examination) has(f finding) bool {
	return slices.ContainsFunc(e.Findings, func(g struct{ Check, State, Found, Remedy string }) bool {
		return g.Check == f.check && g.State == f.state && strings.Contains(g.Found, f.text)
	})
}

// finds asks until all findings are there: on a busy machine the doctor may not learn everything in the time that it takes.
func (s *Server) finds(when string, flags []string, want ...finding) (e examination) {
	s.t.Helper()
	var missing []finding
	if !poll(s.t.Context(), Patience, func() bool {
		_, e = s.doctor(flags...)
		missing = slices.DeleteFunc(slices.Clone(want), e.has)
		return len(missing) == 0
	}) {
		s.t.Errorf("%s: no %+v in %+v", when, missing, e)
	}
	return e
}

// good are findings of checks that are to be ok.
func good(checks ...string) (all []finding) {
	for _, c := range checks {
		all = append(all, finding{c, "ok", ""})
	}
	return all
}

// folder tells names, sizes, modes and times below a folder, but for those of the folder itself.
func folder(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil {
			b.WriteString(strings.Join([]string{path, info.Mode().String(), info.ModTime().String(), "\n"}, " "))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTheDoctorKnowsAMemberThatRunsOneThatDiedAndOneThatHangs(t *testing.T) {
	t.Parallel()
	_, aPort := MemberPort(t)
	bAddr, bPort := MemberPort(t)
	a := StartServer(t, ServerOptions{Certname: "localhost", Config: aPort}) // a name that resolves
	a.MustCLI("init", "--site", "east")
	b := StartServer(t, ServerOptions{Certname: "b.example.test", Data: Join(t, a, "west", "b.example.test", bPort), Config: bPort})
	Eventually(t, Patience, "both are connected", func() bool { return a.members()["b.example.test"].State == "connected" })

	e := a.finds("of a good member", nil, append(good("configuration", "member", "files", "agents' port", "member port", "names", "certificates", "revocation lists",
		"keys", "agents", "environments", "journal"), finding{"members", "warn", "all 2 members announce loopback addresses"})...)
	if e.Member != "running" {
		t.Errorf("the member is %s", e.Member)
	}
	b.finds("of one without a name", nil, finding{"names", "fail", "b.example.test, the member's own name, does not resolve"})

	// One of them dies. The other knows, and its own folder tells as much as it can.
	b.Kill()
	a.finds("after the other has died", nil, finding{"members", "fail", "b.example.test of site west does not answer at " + bAddr})
	config := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, config, bPort)
	flags := []string{"--config", config, "--certname", "b.example.test", "--listen", b.Addr, "--environmentpath", b.Environments}
	before := folder(t, b.Data)
	e = b.finds("of one that died", flags, append(good("files", "agents' port", "member port", "certificates", "keys", "ruby", "environments", "journal"),
		finding{"member", "warn", "no member runs on " + b.Data}, finding{"members", "warn", "loopback"})...) // the other one has answered it
	if after := folder(t, b.Data); after != before {
		t.Errorf("the folder of the member that died was\n%s\nand is\n%s", before, after)
	}
	if e.Member != "stopped" {
		t.Errorf("the killed member is %s", e.Member)
	}

	// Somebody takes its port, and opens its key to all.
	l, err := net.Listen("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(b.Data, "ca", "seal.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.finds("with a port that is taken and an open key", flags,
		finding{"agents' port", "fail", "another process has " + b.Addr}, finding{"files", "fail", "ca/seal.key is open to others than its owner"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	// A member that hangs holds nobody up.
	if err := a.proc.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.finds("of one that hangs", nil, finding{"member", "fail", "does not tell how it does: no answer in "})
	b.finds("beside one that hangs", flags, finding{"members", "fail", "localhost of site east does not answer"})
	if err := a.proc.signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.finds("of one that goes on", nil, good("member", "journal")...)
}
