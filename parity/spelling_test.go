package parity

import (
	"strings"
	"testing"
)

func TestFloatsAndEscapesGetOneSpelling(t *testing.T) {
	java := `{"a":1.0E-10,"b":[1.0E7,2.5,7,-0.0],"c":"1.0E7 \u001F \\u001F \"","d":"\u00DC"}`
	ruby := `{"a":1.0e-10,"b":[10000000.0,2.5,7,-0.0],"c":"1.0E7 \u001f \\u001F \"","d":"\u00DC"}`
	if d := Difference(InOneSpelling([]byte(ruby)), InOneSpelling([]byte(java))); d != "" {
		t.Error(d)
	}
	named := InOneSpelling([]byte("Internal Server Error: org.jruby.exceptions.RuntimeError: (PreformattedError) Evaluation Error: 1.5"))
	if plain := "Internal Server Error: Evaluation Error: 1.5"; string(named) != plain {
		t.Errorf("an error becomes %q, not %q", named, plain)
	}
	if d := Difference(InOneSpelling([]byte(`{"a":1.5}`)), InOneSpelling([]byte(`{"a":1.25}`))); d == "" {
		t.Error("two numbers get one spelling")
	}
}

func TestOnlyCollectedResourcesAreSorted(t *testing.T) {
	catalog := `{"name":"n","resources":[{"type":"Host","title":"b"},{"type":"File","title":"z"},{"type":"Host","title":"a"}],` +
		`"edges":[{"source":"Class[x]","target":"Host[b]"},{"source":"Class[x]","target":"File[z]"},{"source":"Class[x]","target":"Host[a]"}],"classes":["x"]}`
	want := `{"name":"n","resources":[{"type":"Host","title":"a"},{"type":"File","title":"z"},{"type":"Host","title":"b"}],` +
		`"edges":[{"source":"Class[x]","target":"Host[a]"},{"source":"Class[x]","target":"File[z]"},{"source":"Class[x]","target":"Host[b]"}],"classes":["x"]}`
	got := CollectedInOneOrder([]byte(catalog), func(reference string) bool { return strings.HasPrefix(reference, "Host[") })
	if d := Difference([]byte(want), got); d != "" {
		t.Error(d)
	}
	if message := `{"message":"no catalog"}`; string(CollectedInOneOrder([]byte(message), func(string) bool { return true })) != message {
		t.Error("an error is changed")
	}
}

func TestAPlaceThatIsNamedTwiceInARowCountsOnce(t *testing.T) {
	for in, want := range map[string]string{
		"":      "",
		"plain": "plain",
		"x (file: a, line: 1) (file: a, line: 1) on node": "x (file: a, line: 1) on node",
		"x (file: a, line: 1) (file: a, line: 2)":         "x (file: a, line: 1) (file: a, line: 2)",
		"(file: a, line: 1) y (file: a, line: 1)":         "(file: a, line: 1) y (file: a, line: 1)",
		"(file: a": "(file: a",
	} {
		if got := string(PlaceOnce([]byte(in))); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
