package agentapi

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkPluginMetadata answers the question with which every run begins, about
// 840 plugin files, as the whole stack does behind TLS.
func BenchmarkPluginMetadata(b *testing.B) {
	envs := b.TempDir()
	for i := range 840 {
		makeFile(b, filepath.Join(envs, "production/modules/site/lib/facter", fmt.Sprintf("f%d.rb", i)), "# fact")
	}
	s := newSite(b, siteOptions{envs: envs})
	benchmark(b, s, http.MethodGet, "/puppet/v3/file_metadatas/plugins?recurse=true&max_files=-1&ignore=.git&links=follow&checksum_type=sha256&source_permissions=ignore&environment=production", "")
}

// BenchmarkCatalog is all around a compile: facts stored durably, the engine
// answering at once, catalog and compile stored durably.
func BenchmarkCatalog(b *testing.B) {
	s := newSite(b, siteOptions{})
	benchmark(b, s, http.MethodPost, "/puppet/v3/catalog/"+agent+"?environment=production", catalogForm(factsOfAgent))
}

func benchmark(b *testing.B, s *site, method, target, body string) {
	b.Helper()
	cert := certificate(b, agent)
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), method, target, strings.NewReader(body))
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
		r.Header.Set("Accept", "application/json, text/pson")
		r.Header.Set("Accept-Encoding", "gzip")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
}
