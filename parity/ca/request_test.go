package ca

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// This file sends the recorded requests to a member, and compares with what the real server answered.

// A suite is all rows under one configuration of both servers.
type suite struct {
	name     string
	member   string            // YAML
	conf     map[string]string // appended to files of the real server
	settings []string          // of its puppet.conf
	autosign bool              // of the real server
}

func suites() []suite {
	return []suite{
		{
			name:   "open",
			member: "ca:\n  allow_subject_alt_names: true\n  allow_authorization_extensions: true\n  allow_duplicate_certs: true\n",
			conf: map[string]string{"ca.conf": "\ncertificate-authority.allow-subject-alt-names: true\n" +
				"certificate-authority.allow-authorization-extensions: true\n"},
			settings: []string{"allow_duplicate_certs = true"},
		},
		{name: "careful"}, // what both have without configuration
		{name: "autosign", member: "ca:\n  autosign: true\n", autosign: true},
	}
}

func (s suite) recording() string { return "testdata/" + s.name + ".json.gz" }

func TestRequestsAreAnsweredAsByTheRealServer(t *testing.T) {
	used := map[int]bool{}
	for _, each := range suites() {
		t.Run(each.name, func(t *testing.T) {
			m := startMember(t, each.member)
			c := newCaller(t, m.Addr, trust(t, ssldir), identity(t, ssldir, serverName))
			for _, row := range readRecording(t, each) {
				for _, step := range row.Steps {
					got := c.ask(step)
					diff := cmp.Diff(step.Answer, got)
					i := explanation(each.name, row.Name, step, got)
					switch {
					case diff == "":
					case i >= 0:
						used[i] = true
					default:
						t.Errorf("%s: %s %s: (-puppetserver +troupe)\n%s", row.Name, step.Method, step.Path, diff)
					}
				}
			}
		})
	}
	for i, d := range differences() {
		if !used[i] {
			t.Errorf("nothing differs any more by: %s", d.reason)
		}
	}
}

// A difference is one on purpose.
type difference struct {
	rows       string // a regular expression of suite/name
	step       string // of method and path
	real, ours int    // statuses; 0 is any
	reason     string
}

// explanation returns the index of the difference that explains an answer, or -1.
func explanation(suite, row string, s Step, got Answer) int {
	for i, d := range differences() {
		if matches(d.rows, suite+"/"+row) && matches(d.step, s.Method+" "+s.Path) &&
			(d.real == 0 || d.real == s.Answer.Status) && (d.ours == 0 || d.ours == got.Status) {
			return i
		}
	}
	return -1
}

func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }

func readRecording(t *testing.T, s suite) []Row {
	t.Helper()
	f, err := os.Open(s.recording())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	if err := json.NewDecoder(z).Decode(&rows); err != nil {
		t.Fatal(err)
	}
	return rows
}
