package cluster

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/journal"
)

// lookAt opens the journal of a bench once more, as who looks at a stopped member does.
func (b *bench) lookAt(t *testing.T) *Cluster {
	t.Helper()
	c, err := Look(t.Context(), b.dir, b.j, Options{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAStoppedMemberIsLookedAt(t *testing.T) {
	b := newBench(t)
	c := b.lookAt(t).Examine()
	if !c.Founded || c.Own == nil || c.CA == nil || c.OwnError != "" || c.KeyError != "" || c.Joining || c.Removed {
		t.Errorf("condition %+v", c)
	}
	if err := os.WriteFile(filepath.Join(b.dir, joiningName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := b.lookAt(t).Examine(); !c.Joining {
		t.Error("an interrupted joining is not told")
	}
	if err := os.Remove(filepath.Join(b.dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	if c := b.lookAt(t).Examine(); !strings.Contains(c.OwnError, "seal.key") {
		t.Errorf("without a sealing key: %+v", c)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "seal.key")); err == nil {
		t.Error("a sealing key was made")
	}
}

func TestOneThatServesAloneIsLookedAt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	c, err := Look(t.Context(), dir, openJournal(t), Options{Name: "a"})
	if err != nil || c.Examine().Founded {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made")
	}
}

func TestAProbeTellsWhoAnswersAndWhatTimeItHas(t *testing.T) {
	for _, row := range []struct {
		name    string
		date    func() string // "" for the true one
		ahead   time.Duration
		problem string
	}{
		{"clocks agree", nil, 0, ""},
		{"its clock is ahead", func() string { return time.Now().Add(time.Hour).UTC().Format(http.TimeFormat) }, time.Hour, ""},
		{"its clock is behind", func() string { return time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat) }, -time.Hour, ""},
		{"its clock is none", func() string { return "yesterday" }, 0, "without a date"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t)
			b.date = row.date
			all := b.lookAt(t).ProbeAll(t.Context(), nil)
			if len(all) != 1 || !all[0].Self || len(all[0].Addresses) != 1 {
				t.Fatalf("%+v", all)
			}
			p := all[0]
			// Whole seconds, and a busy machine: minutes are far from an hour.
			if (p.Ahead-row.ahead).Abs() > 10*time.Minute || (p.Problem == "") != (row.problem == "") || !strings.Contains(p.Problem, row.problem) {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestAProbeFindsWhoDoesNotAnswer(t *testing.T) {
	b, stranger := newBench(t), newBench(t)
	for name, row := range map[string]struct{ address, want string }{
		"nobody":         {"127.0.0.1:1", "refused"},
		"another troupe": {stranger.addr, "not one of this troupe"},
		"no such name":   {"nobody.invalid:8143", "nobody.invalid"},
		"no address":     {"8143", "missing port"},
	} {
		if p := b.probe(t.Context(), Member{Origin: journal.Origin("x"), Address: row.address}, nil); !strings.Contains(p.Problem, row.want) {
			t.Errorf("%s: %+v, want %q", name, p, row.want)
		}
	}
	if p := b.probe(t.Context(), Member{Origin: journal.Origin("x"), Address: b.addr}, nil); !strings.Contains(p.Problem, "another member answers") {
		t.Errorf("another member at the address: %+v", p)
	}
	if _, err := b.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if p := b.probe(t.Context(), Member{Origin: b.j.Origin(), Address: b.addr}, nil); !strings.Contains(p.Problem, "removed") {
		t.Errorf("a member that was removed: %+v", p)
	}
	if !b.Examine().Removed {
		t.Error("the removed member does not know it")
	}
}
