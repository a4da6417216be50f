package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"troupe/internal/puppet"
)

// BenchmarkExportedResources asks a site of 1,000 nodes whose catalogs hold 500
// resources each, of which 25 are exported in five types.
func BenchmarkExportedResources(b *testing.B) {
	m := newMember(b, Options{})
	for n := range 1000 {
		name := puppet.Certname(fmt.Sprintf("node%04d.example.com", n))
		var exported []puppet.Resource
		for i := range 25 {
			r := service(fmt.Sprintf("check%d_%s", i, name), "nagios_service", "service", "class", "profile::base", "profile", "base", fmt.Sprintf("dc%d", n%20))
			if i%5 > 0 {
				r.Type = fmt.Sprintf("Other%d", i%5)
			}
			exported = append(exported, r)
		}
		resources := strings.Repeat(`{"type":"File","title":"/etc/motd","parameters":{"ensure":"file","mode":"0644"}},`, 499)
		body := fmt.Appendf(nil, `{"name":%q,"resources":[%s{"type":"Notify","title":"x"}]}`, name, resources)
		must(b, m.SaveCatalog(b.Context(), CatalogMeta{Certname: name}, body, exported))
	}
	for name, filter := range map[string]string{
		"all":   ``,
		"tag":   `["=","tag","dc7"]`,
		"title": `["=","title","check0_node0500.example.com"]`,
		"param": `["=",["parameter","use"],"generic"]`,
	} {
		b.Run(name, func(b *testing.B) {
			var found int
			for b.Loop() {
				rs, err := m.ExportedResources(b.Context(), ResourceQuery{Type: "nagios_service", Filter: json.RawMessage(filter), NotCertname: "me"})
				must(b, err)
				found = len(rs)
			}
			b.ReportMetric(float64(found), "resources")
		})
	}
}

// BenchmarkRun saves what one run of an agent brings: facts, a compile, an
// unchanged catalog, a report.
func BenchmarkRun(b *testing.B) {
	m := newMember(b, Options{})
	values := `{` + strings.Repeat(`"interface_eth0":"10.0.0.1 255.255.255.0 00:11:22:33:44:55",`, 800) + `"last":1}`
	body := fmt.Appendf(nil, `{"resources":[%s{}]}`, strings.Repeat(`{"type":"File","title":"/etc/motd","parameters":{"ensure":"file"}},`, 4000))
	logs := strings.Repeat("a line of a log, ", 5000)
	i := 0
	for b.Loop() {
		i++
		name := puppet.Certname(fmt.Sprintf("node%04d.example.com", i%100))
		must(b, m.SaveFacts(b.Context(), facts(name, values), "m"))
		must(b, m.SaveCompile(b.Context(), Compile{Certname: name, Environment: "production"}))
		must(b, m.SaveCatalog(b.Context(), CatalogMeta{Certname: name}, body, nil))
		r := report(name, fmt.Sprint(i), "changed")
		r.Raw = json.RawMessage(fmt.Sprintf(`{"host":%q,"x":%q}`, name, logs))
		_, err := m.SaveReport(b.Context(), r)
		must(b, err)
	}
}
