// Package classes compares what a member makes of every class of Debian's puppet-module-* packages, each included by
// itself, with what the real Puppet Server 7.9.5 made of it: the same catalog, or the same error, byte for byte.
//
// The real server's answers lie in testdata/puppetserver-7.9.5 (record_test.go writes them). `make test` compares the classes of a few modules, `make parity` all of them. README.md has the result.
package classes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/troupetest"
)

func TestMain(m *testing.M) { os.Exit(troupetest.Main(m)) }

const (
	installed = "/usr/share/puppet/modules" // where Debian's packages put modules
	node      = "node.example.test"
)

// An answer is what a server made of one class.
type answer struct {
	Class  string `json:"class"`
	Status int    `json:"status"`
	Type   string `json:"type"`
	Body   string `json:"body"`
}

// codeWith makes a folder of environments whose production has the given modules, and includes the class that a fact
// names.
func codeWith(t *testing.T, modules []string) string {
	t.Helper()
	dir := troupetest.TempDir(t)
	production := filepath.Join(dir, "production")
	for _, path := range []string{filepath.Join(production, "modules"), filepath.Join(production, "manifests")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, module := range modules {
		// The package is named for its author, whom no class name has.
		name := strings.TrimPrefix(module, "saz-")
		cp := exec.CommandContext(t.Context(), "cp", "-RL", filepath.Join(installed, module), filepath.Join(production, "modules", name))
		if out, err := cp.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cp, err, out)
		}
	}
	manifest := filepath.Join(production, "manifests", "site.pp")
	if err := os.WriteFile(manifest, []byte("include $facts['class_under_test']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A peer is a server under comparison.
type peer struct {
	addr   string
	code   string // its folder of environments, masked in answers
	client *http.Client
}

// enrolled returns a peer with the certificate of a node that a real agent asked for.
func enrolled(t *testing.T, addr, code string) *peer {
	t.Helper()
	agent := troupetest.NewAgent(t, troupetest.Puppet7, node, addr)
	if r := agent.Puppet("ssl", "bootstrap"); r.Exit != 0 {
		t.Fatalf("puppet ssl bootstrap: exit %d\n%s", r.Exit, r.Output)
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(agent.Dir, "ssl", "certs", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{agent.Identity()}},
	}
	t.Cleanup(transport.CloseIdleConnections)
	// The first compile of a big module takes a cold JRuby minutes on a busy machine.
	return &peer{addr: addr, code: code, client: &http.Client{Timeout: 10 * time.Minute, Transport: transport}}
}

// ask asks for the catalog of the node with one class. It writes the name of the class into the facts.
func (p *peer) ask(ctx context.Context, class string, facts map[string]any) (answer, error) {
	facts["class_under_test"] = class
	text, err := json.Marshal(map[string]any{
		"name": node, "values": facts,
		"timestamp": "2026-11-20T10:00:00.000000000+00:00", "expiration": "2026-11-20T11:00:00.000000000+00:00",
	})
	if err != nil {
		return answer{}, err
	}
	form := strings.Join([]string{
		"facts_format=application%2Fjson", "facts=" + url.QueryEscape(url.QueryEscape(string(text))),
		"environment=production", "transaction_uuid=00000000-0000-0000-0000-000000000000",
	}, "&")
	request, err := http.NewRequestWithContext(ctx, http.MethodPost,
		p.url("/puppet/v3/catalog/"+node+"?environment=production"), strings.NewReader(form))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("X-Puppet-Version", "7.23.0")

	got, err := p.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{Class: class, Status: got.StatusCode, Type: got.Header.Get("Content-Type"), Body: p.mask(string(body))}, nil
}

// url names the server as its certificate does.
func (p *peer) url(target string) string {
	return "https://" + strings.Replace(p.addr, "127.0.0.1", "localhost", 1) + target
}

// These are the parts of a catalog that two compiles of the same code do not share.
var (
	version     = regexp.MustCompile(`"version":\d{9,}`)
	catalogUUID = regexp.MustCompile(`"catalog_uuid":"[0-9a-f-]{36}"`)
	codeID      = regexp.MustCompile(`"code_id":(null|"[^"]*")`) // the real server has none without versioned code
)

func (p *peer) mask(body string) string {
	body = strings.ReplaceAll(body, p.code, "/srv/environments")
	body = version.ReplaceAllString(body, `"version":0`)
	body = catalogUUID.ReplaceAllString(body, `"catalog_uuid":""`)
	return codeID.ReplaceAllString(body, `"code_id":null`)
}

// factsOf reads a set of facts.
func factsOf(t *testing.T, set string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "facts", set+".json"))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a number is sent as it is written
	var facts map[string]any
	if err := decoder.Decode(&facts); err != nil {
		t.Fatal(err)
	}
	return facts
}

// recordingFolder holds the recordings: <facts>.<number>.jsonl.zst, one for each process of the real server, in the order
// in which it was asked.
const recordingFolder = "testdata/puppetserver-7.9.5"

// recorded reads one recording.
func recorded(t *testing.T, path string) []answer {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := zstd.NewReader(file, zstd.WithDecoderMaxWindow(recordingWindow))
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()

	var answers []answer
	for decoder := json.NewDecoder(unpacked); ; {
		var a answer
		err := decoder.Decode(&a)
		if errors.Is(err, io.EOF) {
			return answers
		}
		if err != nil {
			t.Fatalf("%s, answer %d: %v", path, len(answers), err)
		}
		answers = append(answers, a)
	}
}

// recordingWindow is large, because a class repeats much of what the class before it did.
const recordingWindow = 64 << 20
