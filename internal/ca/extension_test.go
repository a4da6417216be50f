package ca

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
)

func TestTheServerCertificateHasTheOperatorsExtensions(t *testing.T) {
	b := newBench(t, testOptions())
	request := ServerRequest{Certname: "puppet.example.test", Client: true}
	get := func(extensions map[string]string) (serial string, texts []string) {
		t.Helper()
		request.Extensions = extensions
		cert, err := b.ServerCertificate(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		return serialText(cert.Leaf.SerialNumber), extensionTexts(cert.Leaf.Extensions)
	}
	plain, texts := get(nil)
	if diff := cmp.Diff([]string{`1.3.6.1.4.1.34380.1.3.39="true"`}, texts); diff != "" {
		t.Errorf("without extensions (-want +got):\n%s", diff)
	}
	first, texts := get(map[string]string{"pp_role": "Puppet & café", "1.3.6.1.4.1.34380.1.2.7": "own", "pp_auth_role": "server", "pp_cli_auth": "true"})
	want := []string{
		`1.3.6.1.4.1.34380.1.1.13="Puppet & café"`, `1.3.6.1.4.1.34380.1.2.7="own"`,
		`1.3.6.1.4.1.34380.1.3.13="server"`, `1.3.6.1.4.1.34380.1.3.39="true"`,
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("with extensions (-want +got):\n%s", diff)
	}
	if first == plain {
		t.Error("extensions did not make a new certificate")
	}
	again, _ := get(map[string]string{"1.3.6.1.4.1.34380.1.1.13": "Puppet & café", "1.3.6.1.4.1.34380.1.2.7": "own", "1.3.6.1.4.1.34380.1.3.13": "server"})
	if again != first {
		t.Error("the same extensions by OID made a new certificate")
	}
	changed, _ := get(map[string]string{"pp_role": "other"})
	if changed == first {
		t.Error("another value did not make a new certificate")
	}
	if without, _ := get(nil); without == changed {
		t.Error("extensions that are gone did not make a new certificate")
	}
}

func TestForbiddenExtensionsOfTheServerAreRefused(t *testing.T) {
	b := newBench(t, testOptions())
	for _, test := range []struct {
		name       string
		extensions map[string]string
		client     bool
		want       string
	}{
		{"foreign", map[string]string{"1.2.3.4": "x"}, true, "Found extensions that are not permitted: 1.2.3.4"},
		{"alternative names", map[string]string{"2.5.29.17": "DNS:x"}, true, "Found extensions that are not permitted: 2.5.29.17"},
		{"an arc itself", map[string]string{"ppRegCertExt": "x"}, true, "Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.1"},
		{"pp_cli_auth without Client", map[string]string{"pp_cli_auth": "true"}, false, "Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.3.39"},
		{"pp_cli_auth with another value", map[string]string{"pp_cli_auth": "false"}, true, "Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.3.39"},
		{"unknown name", map[string]string{"pp_rule": "x"}, true, `"pp_rule" is neither an OID nor the short name of a Puppet extension: write pp_role, or 1.3.6.1.4.1.34380.1.2.1 for one of your own`},
		{"negative", map[string]string{"1.3.6.1.4.1.34380.1.1.-1": "x"}, true, `"1.3.6.1.4.1.34380.1.1.-1" is neither an OID nor the short name of a Puppet extension: write pp_role, or 1.3.6.1.4.1.34380.1.2.1 for one of your own`},
		{"twice", map[string]string{"pp_role": "x", "1.3.6.1.4.1.34380.1.1.13": "x"}, true, "The extension 1.3.6.1.4.1.34380.1.1.13 is given twice: by name and by OID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := b.ServerCertificate(t.Context(), ServerRequest{Certname: "puppet.example.test", Client: test.client, Extensions: test.extensions})
			wantFault(t, err, fault.Invalid, test.want)
		})
	}
}

func TestCSRAttributesAreReadAsPuppetReadsThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csr_attributes.yaml")
	if got, err := LoadCSRAttributes(path); err != nil || len(got) > 0 {
		t.Errorf("a missing file gives %v, %v", got, err)
	}
	for _, test := range []struct {
		name, text string
		want       map[string]string
		err        string
	}{
		{name: "empty"},
		{name: "comments alone", text: "# nothing\n---\n# here\n"},
		{name: "empty section", text: "extension_requests:\n"},
		{name: "custom attributes", text: "custom_attributes:\n  1.2.840.113549.1.9.7: secret\n"},
		{
			name: "extensions", text: "---\nextension_requests:\n  pp_role: \"a: b\"\n  1.3.6.1.4.1.34380.1.2.1: 017\n  pp_zone: true\n  pp_uuid: |\n    x\n",
			want: map[string]string{"pp_role": "a: b", "1.3.6.1.4.1.34380.1.2.1": "017", "pp_zone": "true", "pp_uuid": "x\n"},
		},
		{name: "flow", text: "{extension_requests: {pp_role: 'x'}}", want: map[string]string{"pp_role": "x"}},
		{name: "another key", text: "---\nextensions_request:\n  pp_role: x\n", err: `:2: unexpected attribute "extensions_request": only custom_attributes and extension_requests can stand here`},
		{name: "a list", text: "extension_requests:\n  - pp_role\n", err: ":2: extension_requests must hold keys and values"},
		{name: "a text", text: "hello\n", err: ":1: the file must hold keys and values"},
		{name: "no value", text: "extension_requests:\n  pp_zone: x\n  pp_role:\n", err: ":3: the value of pp_role must be a text"},
		{name: "a list as value", text: "extension_requests:\n  pp_role: [a]\n", err: ":2: the value of pp_role must be a text"},
		{name: "a typing error", text: "extension_requests:\n\n  pp_rolle: a\n", err: `:3: "pp_rolle" is neither an OID`},
		{name: "a foreign OID", text: "extension_requests:\n  1.2.3: a\n", err: ":2: Found extensions that are not permitted: 1.2.3"},
		{name: "no YAML", text: "extension_requests:\n  pp_role: 'a\n", err: "csr_attributes.yaml:2: "},
		{name: "huge", text: strings.Repeat("#", maxCSRAttributes+1), err: "is larger than 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			writeText(t, path, 0o600, test.text)
			got, err := LoadCSRAttributes(path)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), path) {
					t.Errorf("error is %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got)+len(test.want) > 0 && !cmp.Equal(test.want, got) {
				t.Errorf("extensions differ (-want +got):\n%s", cmp.Diff(test.want, got))
			}
		})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCSRAttributes(path); err == nil {
		t.Error("a folder in place of the file is taken")
	}
}
