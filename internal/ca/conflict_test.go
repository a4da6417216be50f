package ca

import (
	"bytes"
	"testing"

	"troupe/internal/journal"
)

// carry brings everything of the state stream from one journal to another.
func carry(t *testing.T, from, to *journal.Journal) {
	t.Helper()
	var frames bytes.Buffer
	if _, err := from.Export(t.Context(), &frames, from.Origin(), journal.State, 0, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Import(t.Context(), &frames); err != nil {
		t.Fatal(err)
	}
}

// twoMembers have the same authority.
func twoMembers(t *testing.T, o Options) (a, b *bench) {
	t.Helper()
	a = newBench(t, o)
	keys, err := a.Keys()
	if err != nil {
		t.Fatal(err)
	}
	b = &bench{dir: t.TempDir(), jdir: t.TempDir()}
	b.j = openJournal(t, b.jdir)
	if err := TakeKeys(b.dir, "", keys); err != nil {
		t.Fatal(err)
	}
	carry(t, a.j, b.j)
	b.open(t, o)
	return a, b
}

func TestTwoMembersAreOneAuthority(t *testing.T) {
	a, b := twoMembers(t, testOptions())
	if !bytes.Equal(a.Bundle(), b.Bundle()) {
		t.Error("the bundles differ")
	}
	a.sign(t, "web1.example.test")
	b.sign(t, "web2.example.test")
	if err := b.Revoke(t.Context(), "web2.example.test"); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]*bench{{a, b}, {b, a}} {
		carry(t, way[0].j, way[1].j)
		if err := way[1].refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []*bench{a, b} {
		if state, err := m.stateOf(t.Context(), "web1.example.test"); err != nil || state != StateSigned {
			t.Errorf("web1 is %q, %v", state, err)
		}
		if state, err := m.stateOf(t.Context(), "web2.example.test"); err != nil || state != StateRevoked {
			t.Errorf("web2 is %q, %v", state, err)
		}
		if conflicts, err := m.Conflicts(t.Context()); err != nil || len(conflicts) != 0 {
			t.Errorf("conflicts: %+v, %v", conflicts, err)
		}
	}
}

func TestTwoKeysForOneNameAreAConflict(t *testing.T) {
	for _, revoke := range []bool{false, true} {
		o := testOptions()
		o.Policy.RevokeLater = revoke
		a, b := twoMembers(t, o)
		a.sign(t, "web1.example.test")
		b.sign(t, "web1.example.test")
		for range 2 { // what one does about it is news for the other
			for _, way := range [][2]*bench{{a, b}, {b, a}} {
				carry(t, way[0].j, way[1].j)
				if err := way[1].refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := way[1].settleConflicts(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, m := range []*bench{a, b} {
			conflicts, err := m.Conflicts(t.Context(), "web1.example.test")
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case revoke && len(conflicts) != 0:
				t.Errorf("still open: %+v", conflicts)
			case !revoke && (len(conflicts) != 1 || len(conflicts[0].Certificates) != 2 || conflicts[0].Certificates[0].Origin != a.j.Origin()):
				t.Errorf("conflicts: %+v", conflicts)
			}
		}
	}
}
