package endpoints

// This file tells two answers apart, field by field, and looks up why they may differ.

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A difference is one thing that a client could see. When the status differs, that is the whole difference: the rest follows.
type difference struct {
	request Request
	field   string // "status", "body" or the name of a header
	want    string // the real server's
	got     string // the member's
	answers [2]Answer
}

func (d difference) String() string {
	return fmt.Sprintf("%s: %s\n  %s\n  real:   %.300q\n  member: %.300q\n  bodies: %.200q\n          %.200q",
		d.request.Endpoint, d.field, d.request.key(), d.want, d.got, d.answers[0].Body, d.answers[1].Body)
}

// compare lists what differs between the real server's answer and a member's.
func compare(q Request, want, got Answer) []difference {
	both := [2]Answer{want, got}
	if want.Status != got.Status {
		return []difference{{q, "status", fmt.Sprint(want.Status), fmt.Sprint(got.Status), both}}
	}
	var found []difference
	for _, name := range clientHeaders {
		if want.Header[name] != got.Header[name] {
			found = append(found, difference{q, name, want.Header[name], got.Header[name], both})
		}
	}
	if w, g := comparable(q.Target, want.Body), comparable(q.Target, got.Body); w != g {
		found = append(found, difference{q, "body", w, g, both})
	}
	return found
}

// What the bodies of equal answers differ in, by the set-up of the test or on purpose.
var (
	owners   = regexp.MustCompile(`"owner":\d+,"group":\d+`)           // the real server's folder belongs to its user
	codeIDs  = regexp.MustCompile(`"code_id":(null|"[0-9a-f]{64}")`)   // a member's versions always have one
	serials  = regexp.MustCompile(`"serial_number":"?\d+"?`)           // they go up with each certificate of either
	folders  = regexp.MustCompile(`/srv/data/(ca|var)/`)               // only one of the two has files there
	products = regexp.MustCompile(`"service_version":"\d+\.\d+\.\d+"`) // each has its own
)

// unordered are the targets whose lists the real server takes from a folder or a hash as they come.
var unordered = regexp.MustCompile(`file_metadatas|certificate_statuses|environment_modules|nvironments(\?|;|%| |$)|^/status/v1/services(\?|$)`)

// comparable is what of a body must be the same.
func comparable(target, body string) string {
	body = owners.ReplaceAllString(body, `"owner":0,"group":0`)
	body = codeIDs.ReplaceAllString(body, `"code_id":"CODE"`)
	body = serials.ReplaceAllString(body, `"serial_number":0`)
	body = folders.ReplaceAllString(body, "")
	body = products.ReplaceAllString(body, `"service_version":"V"`)
	if unordered.MatchString(target) {
		return inOrder(body)
	}
	return body
}

// inOrder sorts the entries of a list and the members of all objects.
func inOrder(body string) string {
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return body
	}
	if list, ok := value.([]any); ok {
		slices.SortFunc(list, func(a, b any) int { return strings.Compare(encoded(a), encoded(b)) })
	}
	return encoded(value)
}

func encoded(value any) string {
	text, err := json.Marshal(value) // sorts the members of objects
	if err != nil {
		panic(err) // it has just been decoded
	}
	return string(text)
}

// plain undoes the compression of a body, whose bytes depend on the compressor.
func plain(encoding, body string) string {
	if encoding != "gzip" {
		return body
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		return body
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return body
	}
	return string(text)
}

// An explanation is a reason why answers may differ, and to which differences it applies: those that match all patterns.
type explanation struct {
	reason   string // for readers of docs/compat.md
	endpoint string // of the request's endpoint
	request  string // of its key
	field    string
	change   string // of "real → member", the two values of the field
	bodies   string // of "real → member", the two bodies
}

func (e explanation) covers(d difference) bool {
	for pattern, text := range map[string]string{
		e.endpoint: d.request.Endpoint, e.request: d.request.key(), e.field: d.field,
		e.change: d.want + " → " + d.got, e.bodies: d.answers[0].Body + " → " + d.answers[1].Body,
	} {
		if pattern != "" && !regexp.MustCompile("(?s)"+pattern).MatchString(text) {
			return false
		}
	}
	return true
}

// A tally is what docs/compat.md says about one endpoint.
type tally struct {
	requests, equal int
	reasons         map[int]bool // indexes of explanations
}

// A comparison collects the tallies of all endpoints.
type comparison struct {
	order   []string
	tallies map[string]*tally
	used    map[int]int // explanation to requests
}

func newComparison() *comparison {
	return &comparison{tallies: map[string]*tally{}, used: map[int]int{}}
}

// add compares one pair of answers and returns the differences that nothing explains.
func (c *comparison) add(q Request, want, got Answer) []difference {
	t := c.tallies[q.Endpoint]
	if t == nil {
		t = &tally{reasons: map[int]bool{}}
		c.tallies[q.Endpoint] = t
		c.order = append(c.order, q.Endpoint)
	}
	t.requests++
	found := compare(q, want, got)
	if len(found) == 0 {
		t.equal++
		return nil
	}
	var unexplained []difference
	reasons := map[int]bool{}
	for _, d := range found {
		i := slices.IndexFunc(explained, func(e explanation) bool { return e.covers(d) })
		if i < 0 {
			unexplained = append(unexplained, d)
			continue
		}
		reasons[i] = true
	}
	for i := range reasons {
		t.reasons[i] = true
		c.used[i]++
	}
	return unexplained
}

// table writes the comparison for readers.
func (c *comparison) table() string {
	var b strings.Builder
	total, equal := 0, 0
	b.WriteString("| endpoint | requests | the same | differ by |\n|---|---:|---:|---|\n")
	for _, name := range c.order {
		t := c.tallies[name]
		total, equal = total+t.requests, equal+t.equal
		var why []string
		for _, i := range slices.Sorted(maps.Keys(t.reasons)) {
			why = append(why, fmt.Sprint(i+1))
		}
		fmt.Fprintf(&b, "| `%s` | %d | %d | %s |\n", name, t.requests, t.equal, strings.Join(why, ", "))
	}
	fmt.Fprintf(&b, "| all | %d | %d | |\n\n", total, equal)
	for i, e := range explained {
		fmt.Fprintf(&b, "%d. %s (%d)\n", i+1, e.reason, c.used[i])
	}
	return b.String()
}
