package classes

// This file compares a member's answers with the recorded ones.

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"troupe/internal/troupetest"
)

// sample are the modules whose classes every run of the tests compares; they need no others.
var sample = []string{"apache", "apt", "concat", "ntp", "stdlib"}

func TestTheClassesOfAFewModulesAreThoseOfTheRealServer(t *testing.T) {
	t.Parallel()
	for _, module := range sample {
		if _, err := os.Stat(installed + "/" + module); err != nil {
			t.Fatalf("%v: make packages installs what this test needs", err)
		}
	}
	member := startMember(t, sample)
	answers := slices.DeleteFunc(recorded(t, filepath.Join(recordingFolder, "debian-12.1.jsonl.zst")), func(a answer) bool {
		module, _, _ := strings.Cut(a.Class, "::")
		return !slices.Contains(sample, module)
	})
	if len(answers) < 40 {
		t.Fatalf("the recording has %d classes of %v, want at least 40", len(answers), sample)
	}
	t.Log(compare(t, member, "debian-12", answers))
}

// startMember starts a member with the given modules. It has one Ruby worker, which is not replaced, as the real server had
// one JRuby instance: a type whose provider cannot be loaded is an error for the class that needs it first, and is there for
// all later ones. So answers depend on what was asked before, and both are asked the same in the same order.
func startMember(t *testing.T, modules []string) *peer {
	t.Helper()
	s := troupetest.StartServer(t, troupetest.ServerOptions{
		Environments: codeWith(t, modules), Autosign: true, Config: "engine: { workers: 1 }\n",
	})
	return enrolled(t, s.Addr, s.Environments)
}

// counts is how many classes had which outcome.
type counts struct {
	Catalogs, Errors int
	Different        []string
}

func (c counts) String() string {
	return fmt.Sprintf("%d equal catalogs, %d equal errors, %d different", c.Catalogs, c.Errors, len(c.Different))
}

// compare asks a member for each class, in the order in which the real server was asked, and reports what differs.
func compare(t *testing.T, member *peer, set string, answers []answer) counts {
	t.Helper()
	var done counts
	facts := factsOf(t, set)
	for _, want := range answers {
		got, err := member.ask(t.Context(), want.Class, facts)
		if err != nil {
			t.Fatalf("%s: %v", want.Class, err)
		}
		got.Body, want.Body = sameInterpreter(got.Body), sameInterpreter(want.Body)
		switch {
		case got != want:
			done.Different = append(done.Different, want.Class)
			t.Errorf("%s, %s: %s", set, want.Class, firstDifference(got, want))
		case want.Status == http.StatusOK:
			done.Catalogs++
		default:
			done.Errors++
		}
	}
	return done
}

// sameInterpreter gives an error of require the words of CRuby. They are the interpreter's own, so that JRuby's differ.
func sameInterpreter(body string) string {
	return strings.ReplaceAll(body, "no such file to load -- ", "cannot load such file -- ")
}

// firstDifference says where two answers part.
func firstDifference(got, want answer) string {
	if got.Status != want.Status || got.Type != want.Type {
		return fmt.Sprintf("status %d %s, want %d %s\n got %.600s\nwant %.600s",
			got.Status, got.Type, want.Status, want.Type, got.Body, want.Body)
	}
	i := 0
	for i < len(got.Body) && i < len(want.Body) && got.Body[i] == want.Body[i] {
		i++
	}
	from := max(0, i-120)
	return fmt.Sprintf("at byte %d of %d, want %d\n got …%.500s\nwant …%.500s",
		i, len(got.Body), len(want.Body), got.Body[from:], want.Body[from:])
}
