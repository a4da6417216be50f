//go:build record

package classes

// This file records the real Puppet Server's answers, for as long as it is told to:
//
//	go test -tags record -run TestRecord -timeout 5h ./parity/classes -set debian-12 -for 4h
//
// Classes that an earlier recording has are not asked for again. The order is that of a checksum of the names, so that what
// has been recorded so far is a fair sample of all.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/troupetest"
)

var (
	recordSet = flag.String("set", "debian-12", "the facts to record with")
	recordFor = flag.Duration("for", 4*time.Hour, "when to stop asking")
	collect   = flag.String("collect", "", "ask a fresh server with PuppetDB for these classes only, separated by commas, and replace their answers")
	again     = flag.String("again", "", "ask a fresh server for these classes only, separated by commas, and compare")
)

// openToNode lets the node ask which classes there are.
const openToNode = `
authorization.rules += {
  match-request: { path: "/puppet/v3/environment_classes", type: path, query-params: {} }
  allow: "` + node + `", sort-order: 300, name: "class listing"
}
`

// startRecorded starts the real server, with a new environment for each compile as is Puppet's default. Ruby code that
// was loaded for one class is there for the next.
func startRecorded(t *testing.T, database *troupetest.PuppetDB) *peer {
	t.Helper()
	o := troupetest.PuppetServerOptions{
		Environments: codeWith(t, allModules(t)), Autosign: true,
		Conf: map[string]string{"auth.conf": openToNode},
	}
	if database != nil {
		o.PuppetDB = database.URL()
	}
	server := troupetest.StartPuppetServer(t, o)
	if database != nil {
		database.Start(t, server)
	}
	t.Cleanup(func() { server.Stop(t) })
	return enrolled(t, server.Addr, server.Code())
}

func TestRecord(t *testing.T) {
	if *again+*collect != "" {
		return
	}
	done := map[string]bool{}
	recordings := recordingsOf(t, *recordSet)
	for _, path := range recordings {
		for _, a := range recorded(t, path) {
			done[a.Class] = true
		}
	}

	server, facts, end := startRecorded(t, nil), factsOf(t, *recordSet), time.Now().Add(*recordFor)
	var answers []answer
	for _, class := range server.classes(t) {
		if done[class] || time.Now().After(end) {
			continue
		}
		got, err := server.ask(t.Context(), class, facts)
		if err != nil {
			t.Errorf("%s: %v", class, err)
			break // what was answered is kept
		}
		answers = append(answers, got)
	}
	pack(t, answers, filepath.Join(recordingFolder, fmt.Sprintf("%s.%d.jsonl.zst", *recordSet, len(recordings)+1)))
}

// TestRecordCollectors replaces the answers of classes that collect exported resources: the server of the others has no
// PuppetDB, and collects nothing.
func TestRecordCollectors(t *testing.T) {
	if *collect == "" {
		return
	}
	server, facts := startRecorded(t, troupetest.NewPuppetDB(t)), factsOf(t, *recordSet)
	got := map[string]answer{}
	for class := range strings.SplitSeq(*collect, ",") {
		a, err := server.ask(t.Context(), class, facts)
		if err != nil {
			t.Fatalf("%s: %v", class, err)
		}
		got[class] = a
	}
	for _, path := range recordingsOf(t, *recordSet) {
		answers := recorded(t, path)
		for i, a := range answers {
			if collected, ok := got[a.Class]; ok {
				answers[i] = collected
			}
		}
		pack(t, answers, path)
	}
}

// TestAFreshServerAnswersTheSame shows whether an answer depended on the classes that were asked for before it.
func TestAFreshServerAnswersTheSame(t *testing.T) {
	if *again == "" {
		return
	}
	want := map[string]answer{}
	for _, path := range recordingsOf(t, *recordSet) {
		for _, a := range recorded(t, path) {
			want[a.Class] = a
		}
	}
	server, facts := startRecorded(t, nil), factsOf(t, *recordSet)
	for class := range strings.SplitSeq(*again, ",") {
		got, err := server.ask(t.Context(), class, facts)
		if err != nil {
			t.Fatalf("%s: %v", class, err)
		}
		if got != want[class] {
			t.Errorf("%s: %s", class, firstDifference(got, want[class]))
		}
	}
}

// classes asks the server which classes the modules have, and puts them in the order of the recordings.
func (p *peer) classes(t *testing.T) []string {
	t.Helper()
	answer, err := p.client.Get(p.url("/puppet/v3/environment_classes?environment=production"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("environment_classes: %s\n%s", answer.Status, body)
	}
	var listing struct {
		Files []struct {
			Path    string `json:"path"`
			Error   string `json:"error"`
			Classes []struct {
				Name string `json:"name"`
			} `json:"classes"`
		} `json:"files"`
	}
	if err := json.Unmarshal(body, &listing); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range listing.Files {
		if file.Error != "" {
			t.Logf("%s: %s", file.Path, file.Error)
		}
		for _, class := range file.Classes {
			names = append(names, class.Name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return bytes.Compare(x[:], y[:])
	})
	return slices.Compact(names)
}

// pack writes a recording.
func pack(t *testing.T, answers []answer, to string) {
	t.Helper()
	file, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packed, err := zstd.NewWriter(file, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(recordingWindow))
	if err != nil {
		t.Fatal(err)
	}
	encoder := json.NewEncoder(packed)
	encoder.SetEscapeHTML(false)
	for _, a := range answers {
		if err := encoder.Encode(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
}
