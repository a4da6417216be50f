//go:build parity

package parity

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"testing"
)

// This file records what the real server answers for a part of the corpus.

var update = flag.Bool("update", false, "write the recording anew; otherwise it is compared with the real server")

func TestTheRecordingIsWhatTheRealServerAnswers(t *testing.T) {
	c := start(t, "puppetserver 7.9.5", "")
	for _, n := range recordedNodes() {
		if got := c.want.v3(t, n, formats[0].accept); n.Role != "broken" && got.status != http.StatusOK {
			t.Errorf("the first catalog of %s: %d\n%s", n.Certname, got.status, got.body)
		}
	}
	var list []recorded
	for _, n := range recordedNodes() {
		for _, f := range formats[:2] {
			got := c.want.v3(t, n, f.accept)
			list = append(list, recorded{n.Certname, f.name, got.contentType, string(ofThePlace(got.normal(), c.environments)), got.status})
		}
	}
	if *update {
		writeRecording(t, list)
	}
	for i, r := range readRecording(t) {
		if i >= len(list) || r != list[i] {
			t.Errorf("answer %d, %s %s, is not the recorded one: %s", i, r.Certname, r.Format, Difference([]byte(r.Body), []byte(list[min(i, len(list)-1)].Body)))
		}
	}
}

func writeRecording(t *testing.T, list []recorded) {
	t.Helper()
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(w).Encode(list); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recording, zipped.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
