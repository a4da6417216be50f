package fakeagent_test

// This file compares runs with those of real agents, recorded in testdata.

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fakeagent"
)

// recorded is one request of a real agent, as internal/troupetest records them.
type recorded struct {
	Connection int      `json:"connection"`
	Method     string   `json:"method"`
	Target     string   `json:"target"`
	Header     []string `json:"header"`
	Body       string   `json:"body"`
}

const node = "agent.example.test"

// siteStub serves what the environment of the recordings holds.
func siteStub(t *testing.T) *stub {
	t.Helper()
	s := newStub(t)
	s.files = map[string]string{
		"pluginfacts/site_external.txt": "a", "plugins/facter/site_custom.rb": "b",
		"plugins/puppet/provider/site_entry/file.rb": "c", "plugins/puppet/type/site_entry.rb": "d",
		"modules/site/motd": "welcome\n", "modules/site/tree/a.txt": "a\n", "modules/site/tree/sub/b.bin": "\x00\x01",
	}
	s.catalog = `{"environment":"production","version":1,"catalog_uuid":"u","resources":[
		{"type":"Class","title":"Site"},
		{"type":"File","title":"/x/message","parameters":{"content":"hello\n"}},
		{"type":"File","title":"/x/motd","parameters":{"source":["puppet:///modules/site/motd.absent","puppet:///modules/site/motd"]}},
		{"type":"File","title":"/x/tree","parameters":{"source":"puppet:///modules/site/tree","recurse":true}},
		{"type":"Site_entry","title":"first","parameters":{"value":"1"}}]}`
	return s
}

func TestRunsAskWhatRealAgentsAsk(t *testing.T) {
	for _, g := range []fakeagent.Generation{fakeagent.Puppet5, fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9} {
		t.Run(string(g), func(t *testing.T) {
			s := siteStub(t)
			agent, err := fakeagent.New(node, s.address(), fakeagent.Options{Generation: g, ShowDiff: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"first-run", "second-run", "changed-run"} {
				if name == "changed-run" {
					s.files["modules/site/motd"], s.files["plugins/facter/site_custom.rb"] = "changed\n", "changed"
				}
				if _, err := agent.Run(t.Context()); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want := readRecording(t, filepath.Join("testdata", string(g), name+".json"))
				if diff := cmp.Diff(want, masked(t, s.requests())); diff != "" {
					t.Errorf("%s: requests differ (-real agent +fake agent):\n%s", name, diff)
				}
			}
		})
	}
}

func TestBackupsGoToTheBucketAsRealAgentsSendThem(t *testing.T) {
	s := siteStub(t)
	agent, err := fakeagent.New(node, s.address(), fakeagent.Options{Generation: fakeagent.Puppet7, Environment: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"old", "new"} {
		s.requests()
		s.catalog = `{"environment":"backup","catalog_uuid":"u","resources":[{"type":"Filebucket","title":"main","parameters":{"path":false}},
			{"type":"File","title":"/srv/agent/sandbox/kept","parameters":{"content":"` + content + `\n","backup":"main"}}]}`
		mustRun(t, agent)
	}
	if diff := cmp.Diff(bucketRequests(readRecording(t, "testdata/7.23/backup-run.json")), bucketRequests(masked(t, s.requests()))); diff != "" {
		t.Errorf("requests to the filebucket differ (-real agent +fake agent):\n%s", diff)
	}
}

func bucketRequests(all []recorded) []recorded {
	var found []recorded
	for _, r := range all {
		if strings.Contains(r.Target, "/file_bucket_file/") {
			found = append(found, r)
		}
	}
	return found
}

// readRecording leaves the connection out, which depends on how slow the server was, and sorts nothing: order counts.
func readRecording(t *testing.T, path string) []recorded {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i].Connection = 0
		all[i].Header = sortedCopy(all[i].Header)
	}
	return all
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// masked brings the stub's requests into the form of a recording.
func masked(t *testing.T, asked []seen) []recorded {
	t.Helper()
	var all []recorded
	for _, q := range asked {
		r := recorded{Method: q.Method, Target: uuid.ReplaceAllString(q.Target, "UUID"), Body: shape(t, q.Body)}
		for name := range q.Header {
			value := q.Header.Get(name)
			switch name {
			case "Host":
				value = "localhost:PORT"
			case "Content-Length", "If-Modified-Since":
				value = "N"
			}
			r.Header = append(r.Header, name+": "+value)
		}
		r.Header = sortedCopy(r.Header)
		all = append(all, r)
	}
	return all
}

func shape(t *testing.T, body string) string {
	t.Helper()
	switch {
	case strings.Contains(body, "facts="):
		var fields []string
		for field := range strings.SplitSeq(body, "&") {
			key, value, _ := strings.Cut(field, "=")
			if key == "facts" {
				value = "(object of " + strings.Join(keys(t, unescapeTwice(t, value)), ", ") + ", escaped twice)"
			}
			fields = append(fields, key+"="+uuid.ReplaceAllString(value, "UUID"))
		}
		return strings.Join(fields, "&")
	case strings.HasPrefix(body, "{"):
		return "object of " + strings.Join(keys(t, body), ", ")
	case strings.HasPrefix(body, "-----BEGIN"):
		return "PEM" + strings.Trim(strings.SplitN(body, "\n", 2)[0], "-")
	case body == "":
		return ""
	default:
		return fmt.Sprintf("%d bytes", len(body))
	}
}

func unescapeTwice(t *testing.T, value string) string {
	t.Helper()
	for range 2 {
		text, err := url.QueryUnescape(value)
		if err != nil {
			t.Fatal(err)
		}
		value = text
	}
	return value
}

// keys returns the keys of a JSON object in their order.
func keys(t *testing.T, object string) []string {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(object))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	var found []string
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, key.(string))
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return found
}
