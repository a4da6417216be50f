package agentapi

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/code"
)

const searchOfFiles = "/puppet/v3/file_metadatas/modules/site?recurse=true&checksum_type=sha256&environment=production"

func TestKeptAnswersFollowTheCode(t *testing.T) {
	s := newSite(t, siteOptions{})
	file := filepath.Join(s.envs, "production/modules/site/files/motd")
	for i := range 3 {
		text := strings.Repeat(fmt.Sprintf("welcome for the %d. time\n", i), 100)
		makeFile(t, file, text)
		list := ""
		for range 2 { // the second answer is the kept one
			for _, encoding := range []string{"gzip", "identity"} {
				accept := "Accept-Encoding: " + encoding
				r, body := s.do(ask{as: agent, target: "/puppet/v3/file_content/modules/site/motd?environment=production", header: []string{acceptBinary, accept}})
				if got := r.Header.Get("Content-Encoding"); (got == "gzip") != (encoding == "gzip") {
					t.Errorf("Accept-Encoding %s was answered with Content-Encoding %q", encoding, got)
				}
				if encoding == "gzip" {
					body = gunzipped(t, body)
				}
				if body != text {
					t.Errorf("change %d: content is %.40q, want %.40q", i, body, text)
				}
			}
			_, body := s.do(ask{as: agent, target: searchOfFiles, header: []string{acceptJSON}})
			if !strings.Contains(body, sha256Of(text)) {
				t.Errorf("change %d: the list lacks the new sum: %s", i, body)
			}
			if list != "" && body != list {
				t.Errorf("change %d: the kept list differs:\n%s\n%s", i, body, list)
			}
			list = body
		}
	}
}

func TestKeptListsBelongToTheirQuestion(t *testing.T) {
	s := newSite(t, siteOptions{})
	ask := func(target, accept string) string {
		r, body := s.do(ask{as: agent, target: target, header: []string{"Accept: " + accept}})
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", target, r.StatusCode, body)
		}
		return body
	}
	seen := map[string]string{}
	for range 2 {
		for _, target := range []string{
			searchOfFiles, searchOfFiles + "&ignore=motd", strings.Replace(searchOfFiles, "sha256", "md5", 1),
			strings.Replace(searchOfFiles, "production", "staging", 1), searchOfFiles + "&source_permissions=use",
		} {
			for _, accept := range []string{"application/json", "application/x-msgpack"} {
				question, body := target+" as "+accept, ask(target, accept)
				for other, answer := range seen {
					if (other == question) != (answer == body) {
						t.Errorf("%s\nhas the answer of\n%s", question, other)
					}
				}
				seen[question] = body
			}
		}
	}
}

func TestFoldersOfCustomMountsAreNotKept(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, siteOptions{mounts: []code.FileMount{{Name: "private", Path: dir + "/%H"}}})
	for i := range 2 {
		for _, node := range []string{"one.example.test", "two.example.test"} {
			text := strings.Repeat(fmt.Sprintf("secret %d of %s\n", i, node), 100)
			makeFile(t, filepath.Join(dir, node, "secret"), text)
			s.want(ask{as: node, target: "/puppet/v3/file_content/private/secret?environment=production", header: []string{acceptBinary}}, http.StatusOK, text)
			_, list := s.do(ask{as: node, target: "/puppet/v3/file_metadatas/private?recurse=true&environment=production", header: []string{acceptJSON}})
			if !strings.Contains(list, sha256Of(text)) {
				t.Errorf("%s got %s", node, list)
			}
		}
	}
}

func TestKeptAnswersAreForTheAdmittedOnly(t *testing.T) {
	s := newSite(t, siteOptions{})
	for _, as := range []string{agent, ""} {
		r, body := s.do(ask{as: as, target: searchOfFiles, header: []string{acceptJSON}})
		if (r.StatusCode == http.StatusOK) != (as == agent) || as == "" && strings.Contains(body, "motd") {
			t.Errorf("%q got %d %s", as, r.StatusCode, body)
		}
	}
}

func TestKeptBodiesAreBounded(t *testing.T) {
	var b bodies
	for i := range 2 * keptBytes / (100 << 10) {
		b.put(bodyKey{of: fmt.Sprint(i)}, sentBody{data: make([]byte, 100<<10)})
		b.get(bodyKey{of: "0"}) // what is asked for stays
	}
	b.put(bodyKey{of: "too large"}, sentBody{data: make([]byte, maxKept+1)})
	sum := 0
	for e := b.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(keptBody).weight()
	}
	if sum != b.size || sum > keptBytes || sum < keptBytes/2 || b.order.Len() != len(b.known) {
		t.Errorf("%d bytes in %d bodies are kept, %d said to be, %d known; the limit is %d", sum, b.order.Len(), b.size, len(b.known), keptBytes)
	}
	for key, want := range map[string]bool{"0": true, "1": false, "too large": false} {
		if _, got := b.get(bodyKey{of: key}); got != want {
			t.Errorf("body %s is kept: %t, want %t", key, got, want)
		}
	}
}

func TestOnlyWhatShrinksIsCompressed(t *testing.T) {
	var a API
	random := make([]byte, 20_000)
	rand.Read(random)
	for name, tt := range map[string]struct {
		data []byte
		want bool
	}{
		"text":    {bytes.Repeat([]byte("0123456789\n"), 1000), true},
		"program": {bytes.Repeat(random[:1000], 5), true},
		"hex":     {fmt.Appendf(nil, "%x", random), true},
		"random":  {random, false},
		"picture": {append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 5000)...), false},
		"short":   {make([]byte, minGzip-1), false},
	} {
		for _, accepts := range []bool{true, false} {
			body, err := a.encodeBody(tt.data, accepts)
			if err != nil {
				t.Fatal(err)
			}
			if body.gzip != (tt.want && accepts) {
				t.Errorf("%s, gzip accepted %t: compressed %t", name, accepts, body.gzip)
			}
			if got := string(body.data); body.gzip && gunzipped(t, got) != string(tt.data) || !body.gzip && got != string(tt.data) {
				t.Errorf("%s, gzip accepted %t: the bytes differ", name, accepts)
			}
		}
	}
}

func gunzipped(t *testing.T, s string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(s))
	if err != nil {
		t.Fatalf("%.40q: %v", s, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
