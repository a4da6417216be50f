package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"troupe/internal/fault"
)

// anySum replaces the sums, which differ with the key.
func anySum(b []byte) string {
	return regexp.MustCompile(`hmac-sha256:[0-9a-f]{32}\]`).ReplaceAllString(string(b), "*]")
}

func TestSensitiveValuesAreRedactedAndNothingElseChanges(t *testing.T) {
	m := newMember(t, Options{})
	for _, tt := range []struct{ name, body, want string }{
		{"nothing sensitive", ` {"b" : 1.50, "a":"\u00e9"} `, ``},
		{"not even JSON, nothing sensitive", `hello`, ``},
		{"the word alone", `{"a":"Sensitive","b":["Sensitive","sensitive_parameters"]}`, ``},
		{
			"a text", "{ \"resources\" : [\n {\"type\":\"File\", \"parameters\": {\"mode\" : \"0600\",\t\"content\" : \"s3cret\" , \"n\":1e3},\"sensitive_parameters\":[\"content\"]} ] }\n",
			"{ \"resources\" : [\n {\"type\":\"File\", \"parameters\": {\"mode\" : \"0600\",\t\"content\" : \"[redacted *]\" , \"n\":1e3},\"sensitive_parameters\":[\"content\"]} ] }\n",
		},
		{
			"names before values", `{"resources":[{"sensitive_parameters":["a","b","gone"],"parameters":{"a":{"x":["s3cret",{"y":"s3cret"}]},"b":17,"c":["plain"]}}]}`,
			`{"resources":[{"sensitive_parameters":["a","b","gone"],"parameters":{"a":"[redacted *]","b":"[redacted *]","c":["plain"]}}]}`,
		},
		{
			"only the resource's own", `{"resources":[{"parameters":{"a":"x"}},{"parameters":{"a":null},"sensitive_parameters":["a"]},{"parameters":{"a":"z"},"sensitive_parameters":[]}]}`,
			`{"resources":[{"parameters":{"a":"x"}},{"parameters":{"a":"[redacted *]"},"sensitive_parameters":["a"]},{"parameters":{"a":"z"},"sensitive_parameters":[]}]}`,
		},
		{
			"rich data further down", `{"resources":[{"parameters":{"h":{"k":[{"__ptype":"Sensitive","__pvalue":{"p":"s3cret"}}]},"t":{"__ptype":"Timestamp","__pvalue":"1"}}}]}`,
			`{"resources":[{"parameters":{"h":{"k":[{"__ptype":"Sensitive","__pvalue":"[redacted *]"}]},"t":{"__ptype":"Timestamp","__pvalue":"1"}}}]}`,
		},
		{
			"one in another", `{"resources":[{"parameters":{"a":{"__pvalue":{"__ptype":"Sensitive","__pvalue":"s3cret"},"__ptype":"Sensitive"}},"sensitive_parameters":["a"]}]}`,
			`{"resources":[{"parameters":{"a":"[redacted *]"},"sensitive_parameters":["a"]}]}`,
		},
		{
			"parameters called parameters", `{"resources":[{"parameters":{"parameters":{"a":"x"},"a":"s3cret"},"sensitive_parameters":["a"]}]}`,
			`{"resources":[{"parameters":{"parameters":{"a":"x"},"a":"[redacted *]"},"sensitive_parameters":["a"]}]}`,
		},
		{
			"escaped", `{"parameters":{"\u0061":"s3cret\n\u0000","b":"\ud83d\ude00"},"sensitive_parameters":["a"]}`,
			`{"parameters":{"\u0061":"[redacted *]","b":"\ud83d\ude00"},"sensitive_parameters":["a"]}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == "" {
				tt.want = tt.body
			}
			got, err := m.Redact([]byte(tt.body))
			if err != nil || anySum(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", anySum(got), err, tt.want)
			}
			again, err := m.Redact(got)
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("redacted twice it is %s, %v", again, err)
			}
		})
	}
	deep := `{"sensitive_parameters":` + strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting) + `}`
	for _, bad := range []string{`{"sensitive_parameters":`, `{"sensitive_parameters":[]}}`, `{"sensitive_parameters":[]} {}`, deep} {
		if _, err := m.Redact([]byte(bad)); err == nil {
			t.Errorf("%.60s is taken", bad)
		}
		wantKind(t, fmt.Sprintf("catalog %.60s", bad), m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, []byte(bad), nil), fault.Invalid)
	}
}

func secretCatalog(secret string) []byte {
	return fmt.Appendf(nil, `{"name":"n","resources":[{"type":"User","title":"u","parameters":{"password":%s},"sensitive_parameters":["password"]}]}`, secret)
}

func TestASecretIsStoredNowhereAndItsChangeIsSeen(t *testing.T) {
	m := newMember(t, Options{})
	save := func(secret string) string {
		t.Helper()
		must(t, m.SaveCatalog(t.Context(), CatalogMeta{Certname: "n"}, secretCatalog(secret), nil))
		if r := lastRecord(t, m); bytes.Contains(r.Body, []byte("hunter")) {
			t.Errorf("the journal holds the secret: %q", r.Body)
		}
		meta, body, err := m.Catalog(t.Context(), "n")
		must(t, err)
		if bytes.Contains(body, []byte("hunter")) || !json.Valid(body) || meta.Bytes != len(body) {
			t.Errorf("the stored catalog is %s, said to have %d bytes", body, meta.Bytes)
		}
		fresh, err := m.Redact(secretCatalog(secret))
		must(t, err)
		if !bytes.Equal(fresh, body) {
			t.Errorf("a fresh catalog redacted is %s, the stored one %s", fresh, body)
		}
		return meta.Hash
	}
	first := save(`"hunter2"`)
	if again := save(`"hunter\u0032"`); again != first {
		t.Error("the same secret, written differently, is seen as a change")
	}
	if changed := save(`"hunter3"`); changed == first {
		t.Error("another secret is not seen as a change")
	}

	// The key outlives the process, and is another one elsewhere.
	path := filepath.Join(m.dir, "store", keyName)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key is %v, want 0600", info.Mode())
	}
	before, err := m.Redact(secretCatalog(`"x"`))
	must(t, err)
	key, err := loadKey(filepath.Join(m.dir, "store"))
	must(t, err)
	after, err := (&DB{key: key}).Redact(secretCatalog(`"x"`))
	must(t, err)
	other, err := newMember(t, Options{}).Redact(secretCatalog(`"x"`))
	must(t, err)
	if !bytes.Equal(before, after) || bytes.Equal(before, other) {
		t.Errorf("sums: %s, read again %s, another member %s", before, after, other)
	}
	must(t, os.WriteFile(path, []byte("short"), 0o600))
	if _, err := loadKey(filepath.Join(m.dir, "store")); err == nil || !strings.Contains(err.Error(), "put it back from a backup") {
		t.Errorf("a damaged key gives %v", err)
	}
}

func BenchmarkRedact(b *testing.B) {
	m := newMember(b, Options{})
	var resources []string
	for i := range 3000 {
		resources = append(resources, fmt.Sprintf(`{"type":"File","title":"/f%d","tags":["file","class"],"parameters":{"content":%q,"mode":"0600"},"sensitive_parameters":["content"]}`, i, strings.Repeat("x", 1000)))
	}
	body := []byte(`{"resources":[` + strings.Join(resources, ",") + `]}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := m.Redact(body); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzRedactLeavesValidJSON(f *testing.F) {
	f.Add(secretCatalog(`"x"`))
	f.Add([]byte(`{"a":[{"__ptype":"Sensitive","__pvalue":-1.5e3} , 2]}`))
	db := &DB{key: make([]byte, keySize)}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := db.Redact(body)
		if json.Valid(body) && !json.Valid(got) && err == nil {
			t.Errorf("%q became %q", body, got)
		}
		if err == nil && !json.Valid(body) && !bytes.Equal(got, body) {
			t.Errorf("%q is no JSON and became %q", body, got)
		}
	})
}
