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

// BenchmarkReport stores reports of 1.2 MB: 900 resources that changed, with an
// event and a log line each. No two have the same transaction.
func BenchmarkReport(b *testing.B) {
	s := newSite(b, siteOptions{})
	var logs, statuses []string
	const tags = `["file","class","profile::web","profile","web","node","apache::vhost"]`
	const now = `"2026-11-20T08:17:43.123456789+01:00"`
	for i := range 900 {
		message := fmt.Sprintf("defined content as '{sha256}%064x'", i)
		logs = append(logs, fmt.Sprintf(`{"level":"notice","message":%q,"source":"/Stage[main]/Profile::Web/File[/srv/www/site%04d/index.html]/ensure","tags":%s,"time":%s,"file":null,"line":null}`, message, i, tags, now))
		statuses = append(statuses, fmt.Sprintf(`"File[/srv/www/site%04[1]d/index.html]":{"title":"/srv/www/site%04[1]d/index.html",
			"file":"/srv/code/environments/production/modules/profile/manifests/web.pp","line":12,"resource":"File[/srv/www/site%04[1]d/index.html]","resource_type":"File",
			"provider_used":"posix","containment_path":["Stage[main]","Profile::Web","File[/srv/www/site%04[1]d/index.html]"],"evaluation_time":0.0123,"tags":%[2]s,"time":%[3]s,
			"failed":false,"failed_to_restart":false,"changed":true,"out_of_sync":true,"skipped":false,"change_count":1,"out_of_sync_count":1,"corrective_change":false,
			"events":[{"audited":false,"property":"ensure","previous_value":"absent","desired_value":"file","historical_value":null,"message":%[4]q,"name":"file_created",
				"status":"success","time":%[3]s,"redacted":null,"corrective_change":false}]}`, i, tags, now, message))
	}
	body := fmt.Sprintf(`{"host":%q,"time":%s,"configuration_version":1795259666,"report_format":12,"puppet_version":"7.23.0","status":"changed","environment":"production",
		"metrics":{},"logs":[%s],"resource_statuses":{%s},"transaction_uuid":`, agent, now, strings.Join(logs, ","), strings.Join(statuses, ","))
	cert, i := certificate(b, agent), 0
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		i++
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPut, "/puppet/v3/report/"+agent+"?environment=production", strings.NewReader(fmt.Sprintf(`%s"t%d"}`, body, i)))
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
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
