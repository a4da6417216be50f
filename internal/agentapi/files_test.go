package agentapi

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"troupe/internal/puppet"
	"troupe/internal/store"
)

const acceptBinary = "Accept: application/octet-stream"

func TestFilesAreStreamedWhole(t *testing.T) {
	s := newSite(t, siteOptions{})
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	zip := "PK\x03\x04" + strings.Repeat("z", 5000)
	dir := filepath.Join(s.envs, "production/modules/site/files")
	makeFile(t, filepath.Join(dir, "large"), large)
	makeFile(t, filepath.Join(dir, "a.zip"), zip)
	makeFile(t, filepath.Join(dir, "empty"), "")
	makeFile(t, filepath.Join(dir, "öl & <x>"), "name\n")

	tests := []struct {
		name, path, encoding, body, length string
		header                             []string
	}{
		{"small", "motd", "", "welcome to production\n", "22", []string{"Accept-Encoding: gzip"}},
		{"empty", "empty", "", "", "0", nil},
		{"a name of many signs", "%C3%B6l%20%26%20%3Cx%3E", "", "name\n", "5", nil},
		{"large, plain", "large", "", large, "1048576", nil},
		{"a range is not given", "large", "", large, "1048576", []string{"Range: bytes=0-9"}},
		{"large, compressed", "large", "gzip", gzipped(t, large), "", []string{"Accept-Encoding: gzip"}},
		{"compressed already", "a.zip", "", zip, "5004", []string{"Accept-Encoding: gzip"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, body := s.do(ask{
				as: agent, target: "/puppet/v3/file_content/modules/site/" + tt.path + "?environment=production",
				header: append([]string{acceptBinary}, tt.header...),
			})
			if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("got %d %s", r.StatusCode, r.Header.Get("Content-Type"))
			}
			if body != tt.body {
				t.Errorf("body has %d bytes, want %d", len(body), len(tt.body))
			}
			if got := r.Header.Get("Content-Length"); got != tt.length {
				t.Errorf("Content-Length = %q, want %q", got, tt.length)
			}
			if got := r.Header.Get("Content-Encoding"); got != tt.encoding {
				t.Errorf("Content-Encoding = %q, want %q", got, tt.encoding)
			}
		})
	}
}

func TestSearchesTakeTheirParameters(t *testing.T) {
	s := newSite(t, siteOptions{})
	dir := filepath.Join(s.envs, "production/modules/site/files/tree")
	for _, name := range []string{"a.txt", "b.svn/c", "d/e/f"} {
		makeFile(t, filepath.Join(dir, name), "x")
	}
	tests := []struct {
		query string
		want  []string
	}{
		{"recurse=true", []string{".", "a.txt", "b.svn", "b.svn/c", "d", "d/e", "d/e/f"}},
		{"recurse=false", []string{"."}},
		{"", []string{"."}},
		{"recurse=true&recurselimit=1", []string{".", "a.txt", "b.svn", "d"}},
		{"recurse=true&recurselimit=infinite&ignore=*.svn&ignore=f", []string{".", "a.txt", "d", "d/e"}},
		{"recurse=true&max_files=-1&ignore=d", []string{".", "a.txt", "b.svn", "b.svn/c"}},
	}
	for _, tt := range tests {
		r, body := s.do(ask{
			as: agent, target: "/puppet/v3/file_metadatas/modules/site/tree?environment=production&links=manage&" + tt.query,
			header: []string{acceptJSON},
		})
		var list []struct {
			Path string `json:"relative_path"`
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s (%v)", tt.query, r.StatusCode, body, err)
		}
		var got []string
		for _, m := range list {
			got = append(got, m.Path)
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.query, got, tt.want)
		}
	}
	for _, query := range []string{"recurse=true&recurselimit=x", "recurse=true&max_files=x"} {
		if r, body := s.do(ask{
			as: agent, target: "/puppet/v3/file_metadatas/modules/site/tree?environment=production&" + query, header: []string{acceptJSON},
		}); r.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: got %d %s", query, r.StatusCode, body)
		}
	}
}

func TestMetadataIsSpokenInMessagePack(t *testing.T) {
	s := newSite(t, siteOptions{})
	get := func(accept string) (answer, string) {
		return s.do(ask{
			as: agent, target: "/puppet/v3/file_metadata/modules/site/motd?environment=production", header: []string{"Accept: " + accept},
		})
	}
	_, text := get("application/json")
	r, packed := get("application/x-msgpack, application/json")
	if r.Header.Get("Content-Type") != "application/x-msgpack" {
		t.Fatalf("Content-Type = %q", r.Header.Get("Content-Type"))
	}
	got, err := puppet.MsgpackToJSON([]byte(packed))
	if err != nil || string(got) != text {
		t.Errorf("got %s (%v), want %s", got, err, text)
	}
}

func TestTheBucketKeepsWhatAgentsReplace(t *testing.T) {
	s := newSite(t, siteOptions{options: Options{Limits: Limits{Bucket: 100}}})
	const content = "old\n"
	sha, md := sha256.Sum256([]byte(content)), md5.Sum([]byte(content))
	key := func(algorithm string, sum []byte, path string) string {
		return "/puppet/v3/file_bucket_file/" + algorithm + "/" + hex.EncodeToString(sum) + path + "?environment=production"
	}
	request := func(method, target, body string) ask {
		return ask{as: agent, method: method, target: target, body: body, header: []string{acceptBinary, "Content-Type: application/octet-stream"}}
	}
	s.want(request("HEAD", key("md5", md[:], "/etc/x"), ""), http.StatusNotFound,
		`{"message":"Not Found: Could not find file_bucket_file md5/`+hex.EncodeToString(md[:])+`/etc/x","issue_kind":"RESOURCE_NOT_FOUND"}`)
	s.want(request("PUT", key("md5", md[:], "/etc/x"), content), http.StatusOK, "")
	s.want(request("HEAD", key("md5", md[:], "/etc/x"), ""), http.StatusOK, "")
	r := s.want(request("GET", key("sha256", sha[:], ""), ""), http.StatusOK, content)
	if r.Header.Get("Content-Length") != "4" || r.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("headers are %v", r.Header)
	}

	s.want(request("PUT", key("md5", md[:], "/etc/x"), strings.Repeat("x", 200)), http.StatusRequestEntityTooLarge,
		`{"message":"Payload Too Large: The body is larger than 100 bytes, the limit for this request","issue_kind":"RUNTIME_ERROR"}`)
	long := request("PUT", key("md5", md[:], "/etc/x"), gzipped(t, strings.Repeat("x", 50_000)))
	long.header = append(long.header, "Content-Encoding: gzip")
	if r, body := s.do(long); r.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a bomb got %d %s", r.StatusCode, body)
	}
	list := request("GET", key("sha256", sha[:], "")+"&list_all=true", "")
	s.want(list, http.StatusInternalServerError, `{"message":"Server Error: Listing remote file buckets is not allowed","issue_kind":"RUNTIME_ERROR"}`)
}

func TestTheBucketTellsHowTwoFilesDiffer(t *testing.T) {
	s := newSite(t, siteOptions{})
	target := func(content string) string {
		sum := sha256.Sum256([]byte(content))
		return "/puppet/v3/file_bucket_file/sha256/" + hex.EncodeToString(sum[:]) + "?environment=production"
	}
	sum := func(content string) string {
		s := sha256.Sum256([]byte(content))
		return hex.EncodeToString(s[:])
	}
	header := []string{acceptBinary, "Content-Type: application/octet-stream"}
	before, after := "same\nold\n", "same\nnew\n"
	for _, content := range []string{before, after} {
		s.want(ask{as: agent, method: "PUT", target: target(content), body: content, header: header}, http.StatusOK, "")
	}
	for other, want := range map[string]struct {
		status int
		body   string
	}{
		sum(after):  {http.StatusOK, "--- " + sum(before) + "\n+++ " + sum(after) + "\n@@ -1,2 +1,2 @@\n same\n-old\n+new\n"},
		sum(before): {http.StatusOK, ""},
		sum("x"):    {http.StatusInternalServerError, `{"message":"Server Error: could not find diff_with ` + sum("x") + `","issue_kind":"RUNTIME_ERROR"}`},
		"--help":    {http.StatusInternalServerError, `{"message":"Server Error: could not find diff_with --help","issue_kind":"RUNTIME_ERROR"}`},
	} {
		s.want(ask{as: agent, method: "GET", target: target(before) + "&diff_with=" + other, header: header}, want.status, want.body)
	}
}

func TestReportsAreStoredOnce(t *testing.T) {
	s := newSite(t, siteOptions{})
	text, err := os.ReadFile("../puppet/testdata/reports/agent-8.10.0.json")
	if err != nil {
		t.Fatal(err)
	}
	packed, err := puppet.JSONToMsgpack(text)
	if err != nil {
		t.Fatal(err)
	}
	put := func(kind, body string) ask {
		return ask{
			as: agent, method: http.MethodPut, target: "/puppet/v3/report/" + agent + "?environment=production", body: body,
			header: []string{"Content-Type: " + kind, acceptJSON},
		}
	}
	s.want(put("application/json", string(text)), http.StatusOK, `["store"]`)
	s.want(put("application/json; charset=utf-8", string(text)), http.StatusOK, `["store"]`)
	s.want(put("application/x-msgpack", string(packed)), http.StatusOK, `["store"]`)
	s.want(put("text/pson", string(text)), http.StatusOK, `["store"]`)
	list, err := s.db.Reports(t.Context(), store.ReportQuery{Certname: agent, Limit: 10})
	if err != nil || len(list) != 1 {
		t.Errorf("%d reports are stored (%v), want 1", len(list), err)
	}
	other := strings.Replace(string(text), agent, "other.example.test", 1)
	s.want(put("application/json", other), http.StatusInternalServerError,
		`{"message":"Server Error: Instance name \"other.example.test\" does not match requested key \"agent.example.test\"","issue_kind":"RUNTIME_ERROR"}`)
}

func TestClassesAreAskedForOnlyWhenTheyMayHaveChanged(t *testing.T) {
	s := newSite(t, siteOptions{})
	get := func(header ...string) ask {
		return ask{as: "puppet.example.test", target: "/puppet/v3/environment_classes?environment=production", header: header}
	}
	first := s.want(get(), http.StatusOK, `{"files":[],"name":"production"}`)
	tag := first.Header.Get("Etag")
	if tag == "" {
		t.Fatal("no tag")
	}
	for _, asked := range []string{tag, tag + "--gzip", `"` + tag + `"`} {
		if r := s.want(get("If-None-Match: "+asked), http.StatusNotModified, ""); r.Header.Get("Etag") != tag {
			t.Errorf("tag is %q, want %q", r.Header.Get("Etag"), tag)
		}
	}
	if s.engine.classes != 1 {
		t.Errorf("the engine was asked %d times, want once", s.engine.classes)
	}
	makeFile(t, filepath.Join(s.envs, "production/manifests/site.pp"), "# changed")
	s.want(get("If-None-Match: "+tag), http.StatusNotModified, "") // the classes are the same after all
	if s.engine.classes != 2 {
		t.Errorf("the engine was asked %d times after a change, want twice", s.engine.classes)
	}
	s.want(get("If-None-Match: other"), http.StatusOK, `{"files":[],"name":"production"}`)
}

func TestDeploysDropWhatTheyReplaced(t *testing.T) {
	s := newSite(t, siteOptions{})
	drop := func(path string) {
		t.Helper()
		s.want(ask{as: "puppet.example.test", method: http.MethodDelete, target: "/puppet-admin-api/v1/" + path}, http.StatusNoContent, "")
	}
	drop("environment-cache?environment=staging")
	drop("environment-cache?environment=no-name")
	drop("environment-cache")
	drop("jruby-pool")
	want := []string{"staging", "production", "staging", "production with Ruby", "staging with Ruby"}
	if !slices.Equal(s.engine.dropped, want) {
		t.Errorf("dropped %v, want %v", s.engine.dropped, want)
	}
}
