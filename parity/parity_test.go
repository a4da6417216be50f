package parity

import (
	"strings"
	"testing"
)

func TestDifferenceNamesThePlaceAndTheKind(t *testing.T) {
	if d := Difference([]byte(`{"a":1,"b":2}`), []byte(`{"b":2,"a":1}`)); !strings.Contains(d, "byte 2") || !strings.Contains(d, "as JSON they are equal") {
		t.Errorf("another order is described as %q", d)
	}
	if d := Difference([]byte(`[1]`), []byte(`[2]`)); !strings.Contains(d, "the values differ as well") {
		t.Errorf("another value is described as %q", d)
	}
	a, b := []byte(`{"version":1,"catalog_uuid":"x","code_id":"c"}`), []byte(`{"version":"two","catalog_uuid":"y","code_id":"c"}`)
	if d := Difference(Normalize(a), Normalize(b)); d != "" {
		t.Errorf("free values make a difference: %s", d)
	}
}

func TestTokensAreTheSameInWhateverSpelling(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`{"a":"x\ty","f":1.0e-10,"n":[null,true]}`, `{ "a": "x\u0009y", "f": 1e-10, "n": [null, true] }`, true},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, false},
		{`{"a":1}`, `{"a":1.0}`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, false},
		{`{"a":1.5}`, `{"a":1.25}`, false},
		{`{"a":"1"}`, `{"a":1}`, false},
		{`[1,2]`, `[1,2,3]`, false},
		{`[1,2]`, `[1,2`, false},
		{`{"a":{"b":1}}`, `{"a":["b",1]}`, false},
	} {
		if got := SameTokens([]byte(c.a), []byte(c.b)); got != c.same {
			t.Errorf("%s and %s: %t", c.a, c.b, got)
		}
	}
}
