package edge

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/config"
)

// TestThePagesNameEveryMetric compares the tables of docs/edge.md and docs/dns.md with what an edge with all its parts counts.
func TestThePagesNameEveryMetric(t *testing.T) {
	conf, err := config.ParseEdge("edge.yaml", []byte(`
listeners: [{listen: "127.0.0.1:0", mode: passthrough}]
pools: {workers: {servers: [{address: "192.0.2.1:8140"}]}}
dns: {zone: puppet.example.com, listen: ["127.0.0.1:0"], name_servers: [{name: ns1.example.org}], sites: {east: {edges: []}}}
bgp: {mode: file, file: `+filepath.Join(t.TempDir(), "announced")+`, prefixes: [203.0.113.1/32]}
`))
	check(t, err)
	conf.Data = t.TempDir()
	e, err := open(t.Context(), conf, Options{})
	check(t, err)
	said := ""
	for _, page := range []string{"edge.md", "dns.md"} {
		text, err := os.ReadFile("../../docs/" + page)
		check(t, err)
		said += string(text)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		e.registry.Describe(descs)
		close(descs)
	}()
	there := map[string]bool{}
	for d := range descs {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		if strings.HasPrefix(name, "troupe_") {
			there[name] = true
		}
	}
	if len(there) < 30 {
		t.Fatalf("only %d metrics", len(there))
	}
	for name := range there {
		if !strings.Contains(said, "`"+name+"`") {
			t.Errorf("no page names %s", name)
		}
	}
	for _, name := range regexp.MustCompile("`(troupe_[a-z_]+)`").FindAllStringSubmatch(said, -1) {
		if !there[name[1]] {
			t.Errorf("a page names %s, which there is not", name[1])
		}
	}
}
