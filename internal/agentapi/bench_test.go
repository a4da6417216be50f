package agentapi

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// This file measures answers as the whole stack below TLS gives them, for an agent
// that accepts gzip.

// pluginSite has about 840 plugin files, as many as a usual set of modules brings.
func pluginSite(b *testing.B) *site {
	b.Helper()
	envs := b.TempDir()
	for i := range 840 {
		makeFile(b, filepath.Join(envs, "production/modules/site/lib/facter", fmt.Sprintf("f%d.rb", i)), strings.Repeat("# a line of a fact\n", i%200))
	}
	return newSite(b, siteOptions{envs: envs})
}

const pluginList = "/puppet/v3/file_metadatas/plugins?recurse=true&max_files=-1&ignore=.git&links=follow&checksum_type=sha256&source_permissions=ignore&environment=production"

// BenchmarkPluginMetadata answers the question with which every run begins.
func BenchmarkPluginMetadata(b *testing.B) {
	benchmark(b, pluginSite(b), ask{target: pluginList, header: []string{acceptJSON}})
}

// BenchmarkFirstPluginSync gives a new agent the list and then every file.
func BenchmarkFirstPluginSync(b *testing.B) {
	s := pluginSite(b)
	asks := []ask{{target: pluginList, header: []string{acceptJSON}}}
	for i := range 840 {
		target := fmt.Sprintf("/puppet/v3/file_content/plugins/facter/f%d.rb?environment=production", i)
		asks = append(asks, ask{target: target, header: []string{acceptBinary}})
	}
	benchmark(b, s, asks...)
}

func BenchmarkFileMetadata(b *testing.B) {
	benchmark(b, newSite(b, siteOptions{}), ask{
		target: "/puppet/v3/file_metadata/modules/site/motd?links=manage&checksum_type=sha256&source_permissions=ignore&environment=production",
		header: []string{acceptJSON},
	})
}

func BenchmarkFileContent(b *testing.B) {
	s := newSite(b, siteOptions{})
	random := make([]byte, 200_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, text := range map[string]string{"small": "an issue\n", "200kB-random": string(random), "200kB-text": strings.Repeat("0123456789 abcdef\n", 200_000/18)} {
		makeFile(b, filepath.Join(s.envs, "production/modules/site/files", name), text)
		b.Run(name, func(b *testing.B) {
			benchmark(b, s, ask{target: "/puppet/v3/file_content/modules/site/" + name + "?environment=production", header: []string{acceptBinary}})
		})
	}
}

// BenchmarkCatalog is all around a compile: facts stored durably, the engine
// answering at once, catalog and compile stored durably.
func BenchmarkCatalog(b *testing.B) {
	benchmark(b, newSite(b, siteOptions{}), ask{
		method: http.MethodPost, target: "/puppet/v3/catalog/" + agent + "?environment=production", body: catalogForm(factsOfAgent),
		header: []string{acceptJSON, "Content-Type: application/x-www-form-urlencoded"},
	})
}

func benchmark(b *testing.B, s *site, asks ...ask) {
	b.Helper()
	cert := certificate(b, agent)
	first := asks[0] // the first answer waits for the scan of the environment
	first.as = agent
	s.do(first)
	b.ReportAllocs()
	for b.Loop() {
		for _, a := range asks {
			if a.method == "" {
				a.method = http.MethodGet
			}
			r := httptest.NewRequestWithContext(b.Context(), a.method, a.target, strings.NewReader(a.body))
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
			r.Header.Set("Accept-Encoding", "gzip")
			for _, h := range a.header {
				name, value, _ := strings.Cut(h, ": ")
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			s.http.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
	}
}
