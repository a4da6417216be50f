package authz

import (
	"crypto/x509"
	"net/url"
	"os"
	"strings"
	"testing"

	"troupe/internal/puppet"
)

// This file compares our verdicts with those of the real library.

// stricter names the recorded verdicts that we do not follow, each with the
// reason. Whatever the original answers with an exception we deny.
func stricter(rules, path string) (why string, ok bool) {
	switch {
	case rules == "debian" && strings.HasPrefix(path, "/puppet/v3/catalog/*"):
		return "the original reads a captured * as a wildcard", true
	case rules == "custom" && strings.HasPrefix(path, "/ref/*"):
		return "the original reads a captured * as a wildcard", true
	case rules == "custom" && (path == "/node/x.y" || path == "/node/."):
		return "the original reads a captured dot as any character", true
	}
	return "", false
}

func TestVerdictsAreThoseOfTheRealLibrary(t *testing.T) {
	raw, err := os.ReadFile("testdata/verdicts.tsv")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]*Rules{}
	for _, name := range []string{"debian", "custom"} {
		if rules[name], err = Load("testdata/" + name + ".conf"); err != nil {
			t.Fatal(err)
		}
	}
	compared := 0
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		cell := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		path, query, _ := strings.Cut(cell[2], "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got := rules[cell[0]].Check(Request{Method: cell[1], Path: path, Query: values}, identityFrom(cell[3]))
		want := cell[4] == "allow"
		if _, ok := stricter(cell[0], path); ok && got.Allowed != want && !got.Allowed {
			want = false
		}
		if got.Allowed != want || got.Rule != cell[5] {
			t.Errorf("%s %s of %s by %q: allowed %t by rule %q (%s), the original says %s by %q",
				cell[0], cell[1], cell[2], cell[3], got.Allowed, got.Rule, got.Reason, cell[4], cell[5])
		}
		compared++
	}
	if compared < 600 {
		t.Errorf("compared %d verdicts only: the table is cut off", compared)
	}
}

// identityFrom reads the fourth column of the table.
func identityFrom(text string) Identity {
	name, extensions, _ := strings.Cut(text, " ")
	id := Identity{Extensions: map[string]string{}, RemoteAddr: "192.0.2.1:1"}
	if name != "-" {
		id.Certname, id.Authenticated = puppet.Certname(name), true
	}
	for e := range strings.FieldsSeq(extensions) {
		key, value, _ := strings.Cut(e, "=")
		if key != "dns" {
			id.Extensions[key] = value
			continue
		}
		if id.Certificate == nil {
			id.Certificate = &x509.Certificate{}
		}
		id.Certificate.DNSNames = append(id.Certificate.DNSNames, value)
	}
	return id
}

// TestDefaultRulesAllowWhatDebianAllows compares our defaults with Debian's: ours
// differ only where a newer server has more.
func TestDefaultRulesAllowWhatDebianAllows(t *testing.T) {
	debian, err := Load("testdata/debian.conf")
	if err != nil {
		t.Fatal(err)
	}
	ours := Default()
	raw, err := os.ReadFile("testdata/verdicts.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		cell := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if cell[0] != "debian" {
			continue
		}
		q, id := Request{Method: cell[1], Path: cell[2]}, identityFrom(cell[3])
		if a, b := debian.Check(q, id), ours.Check(q, id); a.Allowed != b.Allowed {
			t.Errorf("%s %s by %q: Debian's rules allow %t, our defaults %t (%s)", q.Method, q.Path, cell[3], a.Allowed, b.Allowed, b.Reason)
		}
	}
}
