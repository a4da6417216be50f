// Package parity compares troupe with the real Puppet Server, side by side: the
// two serve one corpus to the same nodes, and every byte of every catalog has to
// be the same.
//
// The real servers run behind a build tag (make parity). Without it, a part of
// the corpus is compared with what Puppet Server answered when it was recorded;
// testdata/README.md says how. README.md has the last result.
package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
)

// free are the values that two compiles of one catalog may differ in: an id, and
// the version, which is the time of the compile. A code_id is the server's own
// unless it is told one.
var free = regexp.MustCompile(`"(version|catalog_uuid)":("[^"]*"|\d+)`)

// Normalize returns a catalog or an error without the values that are free.
func Normalize(answer []byte) []byte {
	return free.ReplaceAll(answer, []byte(`"$1":0`))
}

// Difference says where two answers first differ, in words for a person. It is
// "" when they are equal.
func Difference(want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	around := func(text []byte) string {
		return string(text[max(0, at-160):min(len(text), at+160)])
	}
	same := "the values differ as well"
	if equalJSON(want, got) {
		same = "as JSON they are equal"
	}
	return fmt.Sprintf("first difference at byte %d (%d and %d bytes; %s)\nwant …%s…\ngot  …%s…",
		at, len(want), len(got), same, around(want), around(got))
}

func equalJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, err := json.Marshal(x)
	if err != nil {
		return false
	}
	q, err := json.Marshal(y)
	return err == nil && bytes.Equal(p, q)
}
