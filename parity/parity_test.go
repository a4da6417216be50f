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
