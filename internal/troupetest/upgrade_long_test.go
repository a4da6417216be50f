//go:build long

package troupetest

// This story has members of two versions side by side. The next one is the same program with one kind of record more and facts
// with one part more (internal/store/next.go): what it writes, this version keeps and gives away without knowing it.

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/sqlite"
)

// nextVersion builds the next version.
func nextVersion(t *testing.T) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "troupe-next")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nextversion", "-o", path, "troupe/cmd/troupe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	return path
}

// count asks a file of a running member for a number.
func (s *Server) count(file, query string) (n int) {
	s.t.Helper()
	db, err := sqlite.Open(filepath.Join(s.Data, file), 1)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(s.t.Context(), query).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestMembersOfTwoVersionsServeSideBySide(t *testing.T) {
	t.Parallel()
	next := nextVersion(t)
	_, aPort := MemberPort(t)
	_, bPort := MemberPort(t)
	_, cPort := MemberPort(t)
	a := StartServer(t, ServerOptions{Certname: "a.example.test", Config: aPort, Autosign: true})
	a.MustCLI("init")
	b := StartServer(t, ServerOptions{Certname: "b.example.test", Data: Join(t, a, "west", "b.example.test", bPort), Config: bPort})
	c := StartServer(t, ServerOptions{Certname: "c.example.test", Data: Join(t, a, "south", "c.example.test", cPort), Config: cPort})
	identity := a.Generate("node.example.test")
	Eventually(t, Patience, "c knows both", func() bool { return len(c.members()) == 3 })
	c.Stop()
	a.Stop()
	a.binary = next
	a.Start()

	facts := func(s *Server, value string) {
		t.Helper()
		now := time.Now().UTC().Format(time.RFC3339Nano)
		body := fmt.Sprintf(`{"name":"node.example.test","values":{"told":%q},"timestamp":%q,"expiration":%q}`, value, now, now)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL("/puppet/v3/facts/node.example.test?environment=production"), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		answer, err := s.Client(identity).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusOK {
			t.Fatalf("facts are answered with %s", answer.Status)
		}
	}
	knows := func(s *Server, value string) func() bool {
		return func() bool {
			_, text, _ := s.CLI("node", "facts", "node.example.test")
			return strings.Contains(text, value)
		}
	}
	facts(a, "the next version")
	Eventually(t, Patience, "the old version has what the next one wrote, as far as it knows it", knows(b, "the next version"))
	const ofNext = `SELECT count(*) FROM record WHERE kind = 'next'`
	Eventually(t, Patience, "the old version keeps the record that it does not know", func() bool { return b.count("journal/journal.db", ofNext) == 1 })
	a.Stop()

	// The old one serves on, and gives the record to a member that was away.
	b.MustCLI("ca", "generate", "--certname", "made.example.test", "--to", t.TempDir())
	c.binary = next
	c.Start()
	Eventually(t, Patience, "the record came to c through b", func() bool {
		return c.count("store/store.db", `SELECT count(*) FROM next WHERE certname = 'node.example.test'`) == 2
	})
	if got := c.Certificates()["made.example.test"].State; got != "signed" {
		t.Errorf("c knows a certificate of the old version as %q", got)
	}
	facts(b, "the old version")
	Eventually(t, Patience, "the next version has what the old one wrote", knows(c, "the old version"))

	// Upgraded, it folds what it could not: the record, and the part of facts that it had not looked at.
	b.Stop()
	b.binary = next
	b.Start()
	Eventually(t, Patience, "b has folded what it did not know", func() bool {
		return b.count("store/store.db", `SELECT count(*) FROM next WHERE certname = 'node.example.test'`) == 2
	})
	if !knows(b, "the old version")() {
		t.Error("b does not have the last facts any more")
	}
	a.Start()
	Eventually(t, Patience, "all have the same", func() bool {
		status, _, _ := a.CLI("journal", "verify", "--cluster")
		return status == 0
	})
}
