//go:build parity

package endpoints

// This file asks the real Puppet Server: `make parity`, or with -update to record its answers anew.

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// startReal starts puppetserver 7.9.5 on the site's CA, with the given rules.
func startReal(t *testing.T, s *site, authConf string) *client {
	t.Helper()
	p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{
		Certname: serverName, Environments: environments(t), CA: s.cadir, SSL: s.ssldir,
		// An array that comes later replaces the one before, so these rules are the only ones.
		Conf:     map[string]string{"auth.conf": "\n" + authConf},
		Settings: []string{"basemodulepath = $codedir/modules"}, // Debian's default has the modules of its packages
	})
	t.Cleanup(func() { p.Stop(t) })
	return newClient(t, s, p.Addr, filepath.Join(p.Dir, "code", "environments"), "/srv/code/environments", p.Dir, "/srv/data")
}

var only = flag.String("only", "", "with -update: record the requests anew whose keys match; the others keep their answers")

// TestTheRecordingIsWhatTheRealServerAnswers asks the real server everything, and records its answers with -update.
func TestTheRecordingIsWhatTheRealServerAnswers(t *testing.T) {
	chosen := regexp.MustCompile(*only)
	for _, each := range suites(t) {
		t.Run(each.name, func(t *testing.T) {
			c := startReal(t, newSite(t), each.rules)
			old := make([]Recorded, len(each.requests))
			if !*update || *only != "" {
				old = readRecording(t, each)
			}
			for i, q := range each.requests {
				if !chosen.MatchString(q.key()) {
					continue
				}
				answer := c.ask(q)
				if *update {
					old[i] = Recorded{q.key(), answer}
					continue
				}
				for _, d := range compare(q, old[i].Answer, answer) {
					t.Errorf("the real server has changed its answer: %v", d)
				}
			}
			if *update {
				writeRecording(t, each, old)
			}
		})
	}
}

func writeRecording(t *testing.T, s suite, recorded []Recorded) {
	t.Helper()
	f, err := os.Create(s.recording())
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	for _, r := range recorded {
		if err := enc.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, close := range []func() error{z.Close, f.Close} {
		if err := close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheRecordingOfDialoguesIsWhatTheRealServerAnswers plays all dialogues with the real server, and records them with -update.
func TestTheRecordingOfDialoguesIsWhatTheRealServerAnswers(t *testing.T) {
	answers := wireAnswers(startReal(t, newSite(t), readFile(t, rules)))
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		text.WriteString(name + "\t" + answers[name] + "\n")
	}
	if *update {
		writeFile(t, wireRecording, text.String())
		return
	}
	if diff := cmp.Diff(readFile(t, wireRecording), text.String()); diff != "" {
		t.Errorf("the real server has changed its answers (-recorded +now):\n%s", diff)
	}
}
