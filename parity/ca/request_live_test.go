//go:build parity

package ca

import (
	"bytes"
	"compress/gzip"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"flag"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// This file asks the real server, and records its answers with -update.

var update = flag.Bool("update", false, "write what the real server answers to testdata")

func TestTheRecordingIsWhatTheRealServerAnswers(t *testing.T) {
	if _, err := os.Stat(folder); err != nil && *update {
		recordFolder(t)
	}
	for _, each := range suites() {
		t.Run(each.name, func(t *testing.T) {
			p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{
				CA: folder, SSL: ssldir, Conf: each.conf, Settings: each.settings, Autosign: each.autosign,
			})
			t.Cleanup(func() { p.Stop(t) })
			c := newCaller(t, p.Addr, trust(t, ssldir), identity(t, ssldir, serverName))
			c.dir = p.Dir
			if *update {
				rows := rows(t)
				for i := range rows {
					for j := range rows[i].Steps {
						rows[i].Steps[j].Answer = c.ask(rows[i].Steps[j])
					}
				}
				writeRecording(t, each, rows)
				return
			}
			for _, row := range readRecording(t, each) {
				for _, step := range row.Steps {
					want, got := step.Answer, c.ask(step)
					if want.Leaf != nil && got.Leaf != nil && strings.HasSuffix(step.Path, "/"+serverName) {
						got.Leaf.Since = want.Leaf.Since // its age is that of the recorded folder
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: %s %s: the real server has changed its answer:\n%s", row.Name, step.Method, step.Path, diff)
					}
				}
			}
		})
	}
}

// recordFolder keeps what the real server makes when it has no authority.
func recordFolder(t *testing.T) {
	t.Helper()
	p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{Settings: []string{"ca_ttl = 40y"}})
	p.Stop(t)
	for from, to := range map[string]string{p.CA(): folder, p.SSL(): ssldir} {
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-R", from+"/.", to).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v\n%s", from, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "ca_key.pem")); err != nil {
		t.Fatal(err)
	}
}

const (
	requestPath = "/puppet-ca/v1/certificate_request/"
	statusPath  = "/puppet-ca/v1/certificate_status/"
	certPath    = "/puppet-ca/v1/certificate/"
)

// story submits a request, looks at it, signs it, and looks at what came of it.
func story(name, path string, body []byte) Row {
	return Row{Name: name, Steps: []Step{
		{Method: "PUT", Path: requestPath + path, Type: "text/plain", Body: body},
		{Method: "GET", Path: requestPath + path},
		{Method: "GET", Path: statusPath + path},
		{Method: "PUT", Path: statusPath + path, Type: "application/json", Body: []byte(`{"desired_state":"signed"}`)},
		{Method: "GET", Path: certPath + path},
		{Method: "GET", Path: statusPath + path},
	}}
}

func rows(t *testing.T) []Row {
	t.Helper()
	var all []Row
	all = append(all, goodRows(t)...)
	all = append(all, extensionRows(t)...)
	all = append(all, subjectRows(t)...)
	all = append(all, bodyRows(t)...)
	all = append(all, keyRows(t)...)
	return append(all, againRows(t)...)
}

func named(t *testing.T, name string, c csr) Row {
	t.Helper()
	c.name = strings.ToLower(strings.ReplaceAll(name, " ", "-")) + ".example.test"
	return story(name, c.name, c.encode(t))
}

func goodRows(t *testing.T) []Row {
	t.Helper()
	password := attribute{oidChallengePassword, []asn1.RawValue{utf8(t, "secret")}}
	return []Row{
		named(t, "plain", csr{}),
		named(t, "own name", csr{extensions: []pkix.Extension{altNames(t, []string{"own-name.example.test"})}}),
		named(t, "alternative names", csr{extensions: []pkix.Extension{altNames(t, []string{"zz.example.test", "alternative-names.example.test", "aa"}, "10.0.0.1", "::1")}}),
		named(t, "alternative names without the own", csr{extensions: []pkix.Extension{altNames(t, []string{"zz", "aa"})}}),
		named(t, "the same alternative name twice", csr{extensions: []pkix.Extension{altNames(t, []string{"aa", "aa"})}}),
		named(t, "alternative name in upper case", csr{extensions: []pkix.Extension{altNames(t, []string{"Upper.Example.Test"})}}),
		named(t, "alternative name with a wildcard", csr{extensions: []pkix.Extension{altNames(t, []string{"*.example.test"})}}),
		named(t, "an alternative address alone", csr{extensions: []pkix.Extension{altNames(t, nil, "192.0.2.7")}}),
		named(t, "challenge password", csr{attributes: []attribute{password}}),
		named(t, "other attributes", csr{attributes: []attribute{{oidUnstructuredName, []asn1.RawValue{tagged(t, asn1.TagIA5String, "name")}}, password}}),
		named(t, "renews itself", csr{attributes: []attribute{{puppetOID(3, 2), []asn1.RawValue{utf8(t, "true")}}}}),
		named(t, "duplicate attribute", csr{attributes: []attribute{password, password}}),
	}
}

func extensionRows(t *testing.T) []Row {
	t.Helper()
	role, center, uuid := says(t, "web", puppetOID(1, 13)), says(t, "fra", puppetOID(1, 19)), says(t, "ED803750", puppetOID(1, 1))
	critical := role
	critical.Critical = true
	return []Row{
		named(t, "registered extensions", csr{extensions: []pkix.Extension{role, center, uuid}}),
		named(t, "registered extension without a short name", csr{extensions: []pkix.Extension{says(t, "x", puppetOID(1, 999, 3))}}),
		named(t, "private extensions", csr{extensions: []pkix.Extension{says(t, "x", puppetOID(2, 1)), says(t, "y", puppetOID(2, 7, 7))}}),
		named(t, "extensions and alternative name", csr{extensions: []pkix.Extension{role, altNames(t, []string{"extensions-and-alternative-name.example.test"}), center}}),
		named(t, "critical extension", csr{extensions: []pkix.Extension{critical}}),
		named(t, "printable string", csr{extensions: []pkix.Extension{{Id: puppetOID(1, 13), Value: tagged(t, asn1.TagPrintableString, "web").FullBytes}}}),
		named(t, "text without a type", csr{extensions: []pkix.Extension{{Id: puppetOID(1, 13), Value: []byte("web")}}}),
		named(t, "not ASCII in an extension", csr{extensions: []pkix.Extension{says(t, "Büro €", puppetOID(1, 13))}}),
		named(t, "empty text in an extension", csr{extensions: []pkix.Extension{says(t, "", puppetOID(1, 13))}}),
		named(t, "large extension", csr{extensions: []pkix.Extension{says(t, strings.Repeat("x", 5000), puppetOID(1, 13))}}),
		named(t, "the same extension twice", csr{extensions: []pkix.Extension{role, says(t, "db", puppetOID(1, 13))}}),
		named(t, "pp auth role", csr{extensions: []pkix.Extension{says(t, "admins", puppetOID(3, 13))}}),
		named(t, "pp authorization", csr{extensions: []pkix.Extension{says(t, "x", puppetOID(3, 1))}}),
		named(t, "pp cli auth", csr{extensions: []pkix.Extension{says(t, "true", puppetOID(3, 39))}}),
		named(t, "the arc itself", csr{extensions: []pkix.Extension{says(t, "x", puppetOID(1))}}),
		named(t, "an arc that Puppet does not have", csr{extensions: []pkix.Extension{says(t, "x", puppetOID(4, 1))}}),
		named(t, "foreign extension", csr{extensions: []pkix.Extension{says(t, "x", asn1.ObjectIdentifier{1, 2, 3, 4})}}),
		named(t, "two foreign extensions", csr{extensions: []pkix.Extension{says(t, "x", asn1.ObjectIdentifier{1, 2, 3, 5}), role, says(t, "x", asn1.ObjectIdentifier{1, 2, 3, 4})}}),
		named(t, "wants to be an authority", csr{extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}}),
		named(t, "key usage", csr{extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 5, 0xa0}}}}),
		named(t, "alternative names and foreign and authorization", csr{extensions: []pkix.Extension{
			says(t, "x", asn1.ObjectIdentifier{1, 2, 3, 4}), says(t, "x", puppetOID(3, 1)), altNames(t, []string{"aa"}),
		}}),
		named(t, "broken alternative names", csr{extensions: []pkix.Extension{{Id: oidAltName, Value: []byte{0x30, 3, 0x82, 9, 'a'}}}}),
	}
}

func subjectRows(t *testing.T) []Row {
	t.Helper()
	commonName, country, organization := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 6}, asn1.ObjectIdentifier{2, 5, 4, 10}
	with := func(name string, names ...relativeName) Row {
		path := strings.ToLower(strings.ReplaceAll(name, " ", "-")) + ".example.test"
		return story(name, path, csr{subject: subjectOf(t, names...)}.encode(t))
	}
	cn := func(text string) relativeName { return relativeName{{commonName, utf8(t, text)}} }
	other := func(name, path, cn string) Row {
		return story(name, path, csr{name: cn}.encode(t))
	}
	long := strings.Repeat("a", 300)
	return []Row{
		with("printable name", relativeName{{commonName, tagged(t, asn1.TagPrintableString, "printable-name.example.test")}}),
		with("name and organization", relativeName{{country, tagged(t, asn1.TagPrintableString, "DE")}}, relativeName{{organization, utf8(t, "Troupe")}}, cn("name-and-organization.example.test")),
		with("multi valued", relativeName{{commonName, utf8(t, "multi-valued.example.test")}, {organization, utf8(t, "Troupe")}}),
		with("two common names", cn("first.example.test"), cn("two-common-names.example.test")),
		with("two common names turned", cn("two-common-names-turned.example.test"), cn("second.example.test")),
		with("no common name", relativeName{{organization, utf8(t, "Troupe")}}),
		with("empty subject"),
		with("empty common name", cn("")),
		other("another name", "other.example.test", "another.example.test"),
		other("upper case", "Upper.example.test", "Upper.example.test"),
		other("upper case in the path alone", "Lower.example.test", "lower.example.test"),
		other("upper case in the request alone", "lower2.example.test", "Lower2.example.test"),
		other("wildcard", "*.example.test", "*.example.test"),
		other("slash", "a%2Fb", "a/b"),
		other("climbing", "..%2F..%2Fetc%2Fpasswd", "../../etc/passwd"),
		other("two dots", "..", ".."),
		other("one dot", ".", "."),
		other("dot at the end", "dotted.example.test.", "dotted.example.test."),
		other("dot in front", ".front.example.test", ".front.example.test"),
		other("dash at the end", "dash-", "dash-"),
		other("a name of 300", long, long),
		other("a name of 255", long[:255], long[:255]),
		other("a name of 252", long[:252], long[:252]),
		other("a name of 251", long[:251], long[:251]),
		other("a name of 64 and dots", strings.Repeat("a", 64)+".example.test", strings.Repeat("a", 64)+".example.test"),
		other("space", "a%20b", "a b"),
		other("not ASCII", "caf%C3%A9", "café"),
		other("newline", "a%0Ab", "a\nb"),
		other("newline at the end", "newline%0A", "newline\n"),
		other("zero byte", "a%00b", "a\x00b"),
		other("underscores", "_under_score_.example.test", "_under_score_.example.test"),
		other("the name ca", "ca", "ca"),
		other("quotes and commas", url.PathEscape(`a",b`), `a",b`),
		other("the name of the server", serverName, serverName),
	}
}

func bodyRows(t *testing.T) []Row {
	t.Helper()
	body := func(name string, make func(good []byte) []byte) Row {
		path := strings.ToLower(strings.ReplaceAll(name, " ", "-")) + ".example.test"
		return story(name, path, make(csr{name: path}.encode(t)))
	}
	typed := func(name, contentType string) Row {
		row := body(name, func(good []byte) []byte { return good })
		row.Steps[0].Type = contentType
		return row
	}
	cut := func(good []byte, from int) []byte { return good[from:] }
	return []Row{
		body("empty body", func([]byte) []byte { return nil }),
		body("words", func([]byte) []byte { return []byte("this is no request\n") }),
		body("bytes of no encoding", func([]byte) []byte { return []byte("\xff\xfe\x80\x81\n") }),
		body("bytes of no encoding around", func(good []byte) []byte { return append([]byte("\xff\xfe\n"), good...) }),
		body("text in front", func(good []byte) []byte { return append([]byte("words\nmore: words\n\n"), good...) }),
		body("text behind", func(good []byte) []byte { return append(good, "words behind\n"...) }),
		body("no newline at the end", func(good []byte) []byte { return good[:len(good)-1] }),
		body("carriage returns", func(good []byte) []byte { return []byte(strings.ReplaceAll(string(good), "\n", "\r\n")) }),
		body("two requests", func(good []byte) []byte { return append(good, csr{name: "second.example.test"}.encode(t)...) }),
		body("no beginning", func(good []byte) []byte { return cut(good, 30) }),
		body("no end", func(good []byte) []byte { return good[:len(good)-40] }),
		body("cut in the middle", func(good []byte) []byte { return good[:len(good)/2] }),
		body("DER", func([]byte) []byte { return csr{name: "der.example.test", der: true}.encode(t) }),
		body("a certificate", func([]byte) []byte { return []byte(readFile(t, filepath.Join(folder, "ca_crt.pem"))) }),
		body("another label", func(good []byte) []byte {
			return []byte(strings.ReplaceAll(string(good), "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"))
		}),
		body("wrong base64", func(good []byte) []byte { return []byte(strings.Replace(string(good), "M", "!", 3)) }),
		body("huge body", func(good []byte) []byte { return append(good, strings.Repeat("x\n", 200_000)...) }),
		typed("octet stream", "application/octet-stream"),
		typed("as JSON", "application/json"),
		typed("no type", ""),
		typed("a broken type", "text"),
	}
}

func keyRows(t *testing.T) []Row {
	t.Helper()
	return []Row{
		named(t, "forged", csr{forged: true}),
		named(t, "RSA 512", csr{key: rsaKey(t, 512)}),
		named(t, "RSA 1024", csr{key: rsaKey(t, 1024)}),
		named(t, "RSA 4096", csr{key: rsaKey(t, 4096)}),
		named(t, "EC", csr{key: ecKey(t)}),
		named(t, "EC forged", csr{key: ecKey(t), forged: true}),
		named(t, "Ed25519", csr{key: edKey(t)}),
	}
}

// againRows ask twice for a name.
func againRows(t *testing.T) []Row {
	t.Helper()
	twice := func(name string, sameKey bool, between ...Step) Row {
		path := strings.ToLower(strings.ReplaceAll(name, " ", "-")) + ".example.test"
		first := csr{name: path, key: ecKey(t)}
		second := first
		if !sameKey {
			second.key = ecKey(t)
		}
		a, b := story(name, path, first.encode(t)), story(name, path, second.encode(t))
		if sameKey {
			b.Steps[0].Body = a.Steps[0].Body
		}
		return Row{name, append(append(a.Steps[:1:1], between...), b.Steps...)}
	}
	act := func(path, body string) Step {
		return Step{Method: "PUT", Path: statusPath + path + ".example.test", Type: "application/json", Body: []byte(body)}
	}
	const signed, revoked = `{"desired_state":"signed"}`, `{"desired_state":"revoked"}`
	remove := func(path string) Step { return Step{Method: "DELETE", Path: statusPath + path + ".example.test"} }
	return []Row{
		twice("again", true),
		twice("again with another key", false),
		twice("again when signed", true, act("again-when-signed", signed)),
		twice("another key when signed", false, act("another-key-when-signed", signed)),
		twice("another key when revoked", false, act("another-key-when-revoked", signed), act("another-key-when-revoked", revoked)),
		twice("another key when cleaned", false, act("another-key-when-cleaned", signed), act("another-key-when-cleaned", revoked), remove("another-key-when-cleaned")),
		twice("another key when deleted", false, act("another-key-when-deleted", signed), remove("another-key-when-deleted")),
		twice("signed twice", true, act("signed-twice", signed), act("signed-twice", signed)),
		twice("signed for an hour", true, act("signed-for-an-hour", `{"desired_state":"signed","cert_ttl":3600}`)),
		twice("signed for a long time", true, act("signed-for-a-long-time", `{"desired_state":"signed","cert_ttl":630720000}`)),
		twice("revoked while waiting", true, act("revoked-while-waiting", revoked)),
		twice("revoked twice", true, act("revoked-twice", signed), act("revoked-twice", revoked), act("revoked-twice", revoked)),
	}
}

func writeRecording(t *testing.T, s suite, rows []Row) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	e := json.NewEncoder(z)
	e.SetIndent("", " ")
	if err := e.Encode(rows); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.recording(), b.String())
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
