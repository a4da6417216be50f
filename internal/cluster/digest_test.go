package cluster

import (
	"testing"
)

func TestAStateThatIsNotWhatTheJournalSaysIsMadeAnew(t *testing.T) {
	c := newBench(t)
	if _, _, err := c.CreateToken(t.Context(), TokenRequest{Uses: 1, TTL: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	want, err := c.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func(){
		func() { c.state.removed["somebody"] = true },
		func() { clear(c.state.members) },
		func() { clear(c.state.tokens) },
		func() { c.state.founded.ID = "another" },
	} {
		spoil()
		got, err := c.Digest(t.Context())
		if err != nil || got.At != want.At || got.Sum == want.Sum {
			t.Errorf("digest = %+v, %v; before it was %+v", got, err, want)
		}
		if err := c.Refold(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Digest(t.Context()); err != nil || got != want {
			t.Errorf("made anew: %+v, %v; want %+v", got, err, want)
		}
	}
}
