package troupetest

// These stories have disks and tables that are not what they were, and members that notice it.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/sqlite"
)

// spoil changes a row of a running member's file behind its back.
func (s *Server) spoil(file, statement string) {
	s.t.Helper()
	db, err := sqlite.Open(filepath.Join(s.Data, file), 1)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := db.ExecContext(s.t.Context(), statement)
	if err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		s.t.Fatalf("%s: %d rows, %v", statement, n, err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// logged reports whether the member's log has these words.
func (s *Server) logged(words string) bool {
	s.t.Helper()
	text, err := os.ReadFile(s.proc.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(string(text), words)
}

func TestAMemberMendsItsJournalAndItsTablesFromAnother(t *testing.T) {
	t.Parallel()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true})
	east.MustCLI("init", "--site", "east")
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: Join(t, east, "west", "west.example.test", westPort), Config: westPort})
	Eventually(t, Patience, "both are connected", func() bool {
		return east.members()["west.example.test"].State == "connected" && west.members()["east.example.test"].State == "connected"
	})
	for _, name := range []string{"a.example.test", "b.example.test"} {
		east.Generate(name)
	}
	if text := west.MustCLI("journal", "verify", "--cluster"); !strings.Contains(text, "the same at all members and whole") {
		t.Errorf("verification:\n%s", text)
	}

	// A bit flips in east's own record of a certificate: west has it whole.
	east.spoil("journal/journal.db", `UPDATE record SET body = x'00', form = 0 WHERE kind = 'ca.issued' AND key = 'a.example.test'`)
	status, text, words := west.CLI("journal", "verify", "--cluster")
	if status != 1 || !strings.Contains(text, "east.example.test: state record") || !strings.Contains(text, "is damaged (body)") {
		t.Errorf("status %d:\n%s%s", status, text, words)
	}
	Eventually(t, Patience, "east has fetched the record from west", func() bool {
		status, _, _ := west.CLI("journal", "verify", "--cluster")
		return status == 0
	})

	// A row of the certificates is changed by hand: they are not the same any more, and east makes its table anew.
	want := west.Certificates()["b.example.test"]
	east.spoil("ca/ca.db", `UPDATE cert SET cleaned = 1, current = 0 WHERE name = 'b.example.test'`)
	if got := east.Certificates()["b.example.test"]; got == want {
		t.Error("the row was not changed")
	}
	Eventually(t, Patience, "the row is what the journal says", func() bool { return east.Certificates()["b.example.test"] == want })
	Eventually(t, Patience, "nobody complains any more", func() bool {
		for _, s := range []*Server{east, west} {
			if strings.Contains(s.MustCLI("status"), "differ") {
				return false
			}
		}
		return true
	})
	for _, want := range []string{"tables differ from those of a member", "the tables of this member were wrong, and were made anew"} {
		if !east.logged(want) {
			t.Errorf("the log of east does not say %q", want)
		}
	}
}
