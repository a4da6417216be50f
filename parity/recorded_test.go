package parity

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
	"troupe/parity/corpus"
)

// This file compares a part of the corpus with recorded answers of the real server, which catalogs_test.go writes.

// overflow is the node whose code includes itself for ever. The real server shows its web server's page of an exception in Java,
// so only the status is compared: docs/compat.md.
const overflow = "broken-cyclic-include.example.test"

func TestCatalogsAreThoseRecordedFromPuppetServer(t *testing.T) {
	dir := troupetest.TempDir(t)
	if err := corpus.Install(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	member := troupetest.StartServer(t, troupetest.ServerOptions{
		Certname: serverName, Environments: filepath.Join(dir, "environments"), Autosign: true,
		Config: "classifier: { command: " + dir + "/enc }\n",
	})
	p := newPeer(t, "troupe", member.Addr)
	nodes, accept := map[string]corpus.Node{}, map[string]string{failing: ofAgent}
	for _, n := range append(corpus.Nodes(), corpus.Broken()...) {
		nodes[n.Certname] = n
	}
	for _, f := range formats {
		accept[f.name] = f.accept
	}
	list := readRecording(t)
	if len(list) < 30 {
		t.Fatalf("%s has %d answers only", recording, len(list))
	}
	for _, r := range list {
		if r.Certname == overflow {
			continue
		}
		n, ok := nodes[r.Certname]
		if !ok {
			t.Fatalf("%s has an answer for %s, which is no node of the corpus", recording, r.Certname)
		}
		got := p.v3(t, n, accept[r.Format])
		body := string(ofThePlace(got.normal(), member.Environments))
		if got.status != r.Status || got.contentType != r.ContentType || body != r.Body {
			t.Errorf("%s, %s: %d %s, recorded %d %s: %s", n.Certname, r.Format, got.status, got.contentType, r.Status, r.ContentType,
				Difference([]byte(r.Body), []byte(body)))
		}
	}
}

func readRecording(t *testing.T) []recorded {
	t.Helper()
	file, err := os.Open(recording)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []recorded
	if err := json.NewDecoder(unzipped).Decode(&list); err != nil {
		t.Fatalf("%s: %v", recording, err)
	}
	return list
}
