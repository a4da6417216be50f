package tools

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// This file compares `troupe lookup` with `puppet lookup` on the same data and the same stored facts.

const lookedUp = "looked.example.test"

// lookups are what both are asked. The environment's data depends on $trusted, on facts, and on a variable of its manifest.
var lookups = [][]string{
	{"motd"},
	{"packages"},
	{"alias", "--render-as", "json"},
	{"users"},
	{"users", "--merge", "first"},
	{"users", "--explain"},
	{"users", "--explain", "--render-as", "json"},
	{"packages", "--explain-options"},
	{"--explain-options"},
	{"kernel", "--type", "String"},
	{"kernel", "--type", "Integer"},
	{"kernel", "--facts", "{facts}"},
	{"groups", "--merge", "deep"},
	{"groups", "--merge", "deep", "--knock-out-prefix=--", "--sort-merged-arrays"},
	{"groups", "--merge", "hash", "--render-as", "s"},
	{"groups", "--sort-merged-arrays"},
	{"groups.admins.gid"},
	{"motd", "--merge", "odd"},
	{"service"},
	{"service", "--compile"},
	{"service", "--compile", "--explain"},
	{"nosuch"},
	{"nosuch", "--explain"},
	{"nosuch", "--default", "something"},
	{"nosuch", "motd", "users"},
}

// An outcome is what a command did.
type outcome struct {
	Exit   int
	Stdout string
	Stderr string
}

func TestLookupsAreThoseOfPuppetByteForByte(t *testing.T) {
	s := troupetest.StartServer(t, troupetest.ServerOptions{})
	if out, err := exec.CommandContext(t.Context(), "cp", "-R", "testdata/lookup", s.Environments).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	given := filepath.Join(troupetest.TempDir(t), "facts.json")
	writeFile(t, given, `{"kernel":"Linux","release":"given"}`)
	storeFacts(t, s)
	var asked [][]string
	for _, words := range lookups {
		asked = append(asked, strings.Split(strings.ReplaceAll(strings.Join(words, "\n"), "{facts}", given), "\n"))
	}
	if *update {
		record(t, puppetLookups(t, s.Environments, asked), s.Environments)
	}

	want := recorded(t, s.Environments)
	if len(want) != len(asked) {
		t.Fatalf("%s has %d answers, want %d: run this test with -update", recording, len(want), len(asked))
	}
	for i, words := range asked {
		t.Run(strings.Join(lookups[i], " "), func(t *testing.T) {
			exit, stdout, stderr := s.CLI(slices.Concat([]string{"lookup", "--node", lookedUp, "--environment", "lookup"}, words)...)
			if diff := cmp.Diff(want[i], outcome{exit, stdout, stderr}); diff != "" {
				t.Errorf("(-puppet +troupe)\n%s", diff)
			}
		})
	}
}

var update = flag.Bool("update", false, "record what the installed puppet lookup says")

// recording is what `puppet lookup` 7.23 says of the lookups, in their order.
const recording = "testdata/lookups.json"

func record(t *testing.T, done []outcome, environments string) {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(done); err != nil {
		t.Fatal(err)
	}
	writeFile(t, recording, strings.ReplaceAll(out.String(), environments, "{environments}"))
}

func recorded(t *testing.T, environments string) []outcome {
	t.Helper()
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	var done []outcome
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte("{environments}"), []byte(environments)), &done); err != nil {
		t.Fatal(err)
	}
	return done
}

// storeFacts sends facts as an agent does.
func storeFacts(t *testing.T, s *troupetest.Server) {
	t.Helper()
	body := `{"name":"` + lookedUp + `","values":` + lookupFacts + `}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut,
		s.URL("/puppet/v3/facts/"+lookedUp+"?environment=production"), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := s.Client(s.Generate(lookedUp)).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("storing facts: %s", answer.Status)
	}
}

const lookupFacts = `{"kernel":"Linux","release":"stored","clientcert":"` + lookedUp + `"}`

// words are what the two say differently about the same: puppet's label of a message, and its prefix of an error.
var (
	label   = regexp.MustCompile(`(?m)^(Warning|Notice|Info): `)
	failure = "Error: Could not run: "
)

// puppetLookups runs the installed `puppet lookup`, whose facts are in a folder, as the real server leaves them there.
func puppetLookups(t *testing.T, environments string, asked [][]string) []outcome {
	t.Helper()
	dir := troupetest.TempDir(t)
	writeFile(t, filepath.Join(dir, "yaml", "facts", lookedUp+".yaml"),
		"--- !ruby/object:Puppet::Node::Facts\nname: "+lookedUp+"\nvalues: "+lookupFacts+"\n")
	input, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ruby", "testdata/lookups.rb", "--node", lookedUp, "--environment", "lookup",
		"--environmentpath", environments, "--confdir", dir, "--vardir", dir, "--basemodulepath", filepath.Join(dir, "modules"), "--color", "false")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var done []outcome
	if err := json.Unmarshal(output, &done); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for i := range done {
		done[i].Stderr = strings.ReplaceAll(label.ReplaceAllStringFunc(done[i].Stderr, strings.ToLower), failure, "troupe: ")
	}
	return done
}
