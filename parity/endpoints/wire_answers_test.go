package endpoints

// This file compares a member's dialogues and handshakes with the recorded ones of the real server.

import (
	"crypto/tls"
	"maps"
	"slices"
	"strings"
	"testing"
)

const wireRecording = "testdata/wire.txt"

// A deviation is what a member says in a dialogue where the real server says something else, and why.
type deviation struct{ answer, reason string }

func TestDialoguesAndHandshakesAreThoseOfTheRealServer(t *testing.T) {
	c := startMember(t, newSite(t), readFile(t, rules))
	recorded := map[string]string{}
	for line := range strings.Lines(readFile(t, wireRecording)) {
		if name, answer, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			recorded[name] = answer
		}
	}
	for name, got := range wireAnswers(c) {
		want, ok := recorded[name]
		if !ok {
			t.Errorf("%s: not recorded: %s", name, recordAgain)
			continue
		}
		if d, differs := deviations[name]; differs {
			if got == want {
				t.Errorf("%s does not differ any more: %s", name, d.reason)
			}
			want = d.answer
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
	}
}

// wireAnswers plays all dialogues and handshakes.
func wireAnswers(c *client) map[string]string {
	c.t.Helper()
	answers := c.handshakes()
	for _, d := range wireDialogues() {
		answers[d.name] = c.converse(d)
	}
	return answers
}

// handshakes tries each version of TLS, and each cipher suite of version 1.2. Suites are told without the kind of the
// server's key, which is the site's choice.
func (c *client) handshakes() map[string]string {
	c.t.Helper()
	answers := map[string]string{}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		answers[tls.VersionName(version)] = "refused"
		if c.shakes(version, nil) {
			answers[tls.VersionName(version)] = "accepted"
		}
	}
	suites := map[string]bool{}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) && c.shakes(tls.VersionTLS12, []uint16{s.ID}) {
			suites[strings.NewReplacer("_ECDSA_", "_", "ECDHE_RSA_", "ECDHE_").Replace(s.Name)] = true
		}
	}
	answers["cipher suites of TLS 1.2"] = strings.Join(slices.Sorted(maps.Keys(suites)), " ")
	return answers
}

func (c *client) shakes(version uint16, suites []uint16) bool {
	c.t.Helper()
	config := tlsConfig(c.site.roots, nil)
	config.MinVersion, config.MaxVersion, config.CipherSuites = version, version, suites
	conn, err := tls.Dial("tcp", c.addr, config)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// deviations are the dialogues that end otherwise than with the real server.
var deviations = map[string]deviation{
	"a URL of 30 kB":               {`200 "running"`, "the line and the headers may have 256 kB together: file metadata of long paths"},
	"a header of 30 kB":            {`200 "running"`, "as above"},
	"a URL of 300 kB":              {"431 close", "Go knows one limit for the line and the headers"},
	"HTTP/1.0 without Host":        {`200 close "running"`, "HTTP/1.0 has no Host"},
	"HTTP/1.0 with keep-alive":     {`200 "running"; 200 "running"`, "the client asked for it"},
	"HTTP/0.9":                     {"400 close", "Go's words"},
	"HTTP/2.0":                     {"505 close", "Go's words"},
	"CONNECT":                      {"400", "Go wants a host there"},
	"an asterisk":                  {`200 ""`, "Go answers OPTIONS * itself"},
	"an unknown Transfer-Encoding": {"501 close", "RFC 9112, section 6.1"},
	"a chunk of a wrong size":      {"400 close", "the client is at fault"},
	"a method in lower case":       {"404", "methods are case-sensitive; Jetty reads them in any case"},
	"cipher suites of TLS 1.2":     {"TLS_ECDHE_WITH_AES_128_GCM_SHA256 TLS_ECDHE_WITH_AES_256_GCM_SHA384 TLS_ECDHE_WITH_CHACHA20_POLY1305_SHA256", "ChaCha20 is as good, and faster where AES has no instructions"},
	"Expect: 100-continue without certificate's right": {"403 close; closed", "a body that is refused is not asked for"},
	"Expect: 100-continue, body at once":               {"100", "the final answer follows; Go does not look whether the body is there already"},
	"another Host than the name in the handshake":      {`200 "running"`, "agents call the server by several names, and there is one host"},
	"gzip'd facts":                        {`200 "0"; 200 "running"`, "Puppet Server does not decode requests; we do"},
	"facts in an unknown encoding":        {"415", "a body that cannot be decoded is not stored"},
	"facts that only say they are gzip'd": {"400", "as above"},
	"a folded header":                     {`200 "running"`, "Go unfolds what RFC 9112, section 5.2, calls obsolete"},
	"an empty line before the request":    {"400 close", "Go wants the request line first"},
	"a body with length and chunks":       {`200 "0"`, "the chunks count, and the length is dropped (RFC 9112, section 6.3)"},
}
