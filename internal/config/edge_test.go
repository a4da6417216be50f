package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

const edgeExample = `
site: east
listeners:
  - listen: ":8140"
    mode: passthrough
    proxy_protocol: [10.0.0.0/8]
    pool: workers
    rules:
      - {source: [192.0.2.7/32], pool: fast}
pools:
  workers:
    stick: source
    stick_expire: 15m
    overflow: {pool: fast, above: 1}
    check: {type: https, path: /production/status/koko, interval: 2s, timeout: 1500ms, rise: 2}
    servers:
      - {name: p0, address: "p0.example.com:8140", weight: 50, max_connections: 12, backup: true}
  fast:
    servers: [{address: "p1.example.com:8140"}]
`

func TestAnEdgesFileIsReadWholeAndWrittenBack(t *testing.T) {
	e, err := ParseEdge("edge.yaml", []byte(edgeExample))
	if err != nil {
		t.Fatal(err)
	}
	w := e.Pools["workers"]
	if time.Duration(w.StickExpire) != 15*time.Minute || *w.Servers[0].Weight != 50 || e.Pools["fast"].Servers[0].Name != "p1.example.com:8140" {
		t.Errorf("read %+v", e.Pools)
	}
	text, err := yaml.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseEdge("written.yaml", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	twice, err := yaml.Marshal(again)
	if err != nil || string(twice) != string(text) {
		t.Errorf("written\n%s\nthen\n%s", text, twice)
	}
}

func TestWhatIsWrongWithAnEdgesFileIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ change, to, want string }{
		"unknown key":        {"stick_expire: 15m", "stick_expires: 15m", "edge.yaml:13"},
		"circle of overflow": {`servers: [{address: "p1.example.com:8140"}]`, `servers: [{address: "p1.example.com:8140"}]` + "\n    overflow: {pool: workers}", "circle: fast → workers → fast"},
		"no such pool":       {"pool: fast}", "pool: quick}", `there is no pool "quick"; there are fast, workers`},
		"pool of nothing":    {`servers: [{address: "p1.example.com:8140"}]`, "balance: random", "says one of members: true, servers, and srv"},
		"no port":            {"p1.example.com:8140", "p1.example.com", "is not host:port"},
		"path in bytes":      {"{source: [192.0.2.7/32],", "{path: [/puppet-ca/],", "inside of TLS"},
		"time":               {"interval: 2s", "interval: 2 weeks", "is not a time such as"},
		"balance":            {"stick: source", "balance: leastconn", "is not one of round-robin"},
		"panic":              {"stick: source", "in_panic: none", "in_panic counts with panic"},
		"overprovision":      {"stick: source", "overprovision: 0.5", "overprovision is a number from 1 to 10"},
		"hash bound":         {"stick: source", "hash_bound: 2", "hash_bound counts with balance: hash"},
		"slow":               {"interval: 2s", "slow: 1.1, interval: 2s", "slow is how many times longer"},
		"spill":              {"stick: source", "spill: -1", "spill is a number from 0"},
		"restart and bfd":    {"site: east", "site: east\nbgp: {as: 65500, router_id: 192.0.2.7, prefixes: [203.0.113.1/32], neighbors: [{address: 192.0.2.1, as: 64496, graceful_restart: 5s, bfd: {interval: 300ms}}]}", "contradict each other"},
		"status":             {"path: /production", "status: \"200-\", path: /production", "no list of statuses"},
	} {
		text := strings.Replace(edgeExample, c.change, c.to, 1)
		if text == edgeExample {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := ParseEdge("edge.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func TestWhatDNSMayMeasureIsReadAndWrittenBack(t *testing.T) {
	text := `
dns:
  zone: puppet.example.com
  sites:
    east: {order: measured, edges: [{name: edge1, target: edge1.example.com, addresses: [], weight: auto, agent_check: "192.0.2.7:9999"}]}
    west: {order: [east], edges: [{name: edge2, target: edge2.example.com, addresses: [], weight: 70}]}
`
	for range 2 {
		e, err := ParseEdge("edge.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		east, west := e.DNS.Sites["east"], e.DNS.Sites["west"]
		if !east.Order.Measured || len(west.Order.Sites) != 1 || west.Order.Measured || east.Edges[0].Weight != WeightAuto || west.Edges[0].Weight != 70 {
			t.Errorf("read as %+v", e.DNS.Sites)
		}
		out, err := yaml.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		text = string(out)
	}
	for _, wrong := range []string{
		"order: measure", "order: {west: 1}", "edges: [{name: e, target: e, addresses: [], weight: some}]", "edges: [{name: e, target: e, addresses: [], weight: -1}]",
		"edges: [{name: e, target: e, addresses: [], agent_check: \"192.0.2.7:9999\"}]",
	} {
		if _, err := ParseEdge("edge.yaml", []byte("dns: {zone: puppet.example.com, sites: {east: {"+wrong+"}}}")); err == nil {
			t.Errorf("%s is good", wrong)
		}
	}
}

func TestAnEdgeWithoutAFileServesTheMembers(t *testing.T) {
	e, err := ParseEdge("edge.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Listeners) != 1 || e.Listeners[0].Pool != "members" || !e.Pools["members"].Members || !e.Terminates() {
		t.Errorf("%+v", e)
	}
}

// unwritten are settings that the example leaves out, with the reason.
var unwritten = map[string]string{}

func TestTheEdgesExampleIsGoodAndNamesEverySetting(t *testing.T) {
	const example = "../../docs/edge.example.yaml"
	e, err := LoadEdge(example)
	if err != nil {
		t.Fatal(err)
	}
	if time.Duration(e.BGP.Neighbors[0].BFD.Interval) != 300*time.Millisecond || !*e.Pools["old"].Check.Verify || int64(e.Runs.Disk) != 4<<30 {
		t.Errorf("values of the example: %+v", e)
	}
	src, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var written any
	if err := yaml.Unmarshal(src, &written); err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	keysOf("", written, said)
	n := 0
	settingsOf("", reflect.TypeFor[Edge](), func(key string) {
		n++
		if !said[key] && unwritten[key] == "" {
			t.Errorf("the example does not say %s", key)
		}
	})
	if n < 120 {
		t.Errorf("only %d settings were looked for", n)
	}
	for key := range unwritten {
		if said[key] {
			t.Errorf("the example says %s: take it out of unwritten", key)
		}
	}
}

// keysOf notes each key of a YAML text; * stands for an element of a list, and for a name that an operator chooses.
func keysOf(at string, value any, said map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for key, below := range v {
			for _, k := range []string{key, "*"} {
				said[at+k] = true
				keysOf(at+k+".", below, said)
			}
		}
	case []any:
		for _, below := range v {
			keysOf(at, below, said)
		}
	}
}

// settingsOf calls fn for each setting of a structure and of those below it.
func settingsOf(at string, t reflect.Type, fn func(key string)) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		settingsOf(at, t.Elem(), fn)
	case reflect.Map:
		settingsOf(at+"*.", t.Elem(), fn)
	case reflect.Struct:
		for field := range t.Fields() {
			key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if key == "-" {
				continue
			}
			if key == "" {
				return // an address or a network
			}
			fn(at + key)
			if field.Type == reflect.TypeFor[*EdgeCheck]() {
				continue // the pool's says it all
			}
			settingsOf(at+key+".", field.Type, fn)
		}
	default:
	}
}

// TestAZoneWithMistakesIsRefused: what would be answered wrongly, or not at all, is said before anybody asks.
func TestAZoneWithMistakesIsRefused(t *testing.T) {
	zone := func(more string) string {
		return "site: a\ndns:\n  zone: example.com\n  name_servers: [{name: ns1.example.net}]\n" + more
	}
	sites := "  sites: {a: {edges: [{name: e1, target: e1.example.net}]}, b: {edges: [{name: e2, target: e2.example.net}]}}\n"
	for name, c := range map[string]struct{ text, want string }{
		"good": {zone(sites + "  srv_domains: {example.com: ''}\n  names: {p.example.com: [a], q.example.com: {service: ca, max: 2}, r.example.com: }\n" +
			"  secondaries: [192.0.2.1, '192.0.2.1:54', '2001:db8::1', {address: '[2001:db8::1]:53', key: k}]\n  keys: {k: {secret_file: /k}}\n  trusted: [192.0.2.0/24]\n"), ""},
		"a name twice":           {zone("  sites: {a: {edges: [{name: e, target: e1.example.net}]}, b: {edges: [{name: e, target: e2.example.net}]}}\n"), "an edge of site a has this name, too"},
		"no name":                {zone("  sites: {a: {edges: [{target: e1.example.net}]}}\n"), "is no name of an edge"},
		"own site":               {zone("  sites: {b: {edges: []}}\n"), `no site "a", which is this edge's own`},
		"site of a name":         {zone(sites + "  names: {p.example.com: [nowhere]}\n"), `dns.names: p.example.com: dns.sites has no site "nowhere"; there are a, b`},
		"site of a network":      {zone(sites + "  networks: {10.0.0.0/8: nowhere}\n"), `dns.networks: 10.0.0.0/8: dns.sites has no site "nowhere"`},
		"network":                {zone(sites + "  networks: {10.0.0.0: a}\n"), "is no network"},
		"site of a domain":       {zone(sites + "  srv_domains: {example.com: nowhere}\n"), "dns.srv_domains: example.com: dns.sites has no site"},
		"service of a name":      {zone(sites + "  names: {p.example.com: {service: cA}}\n"), "is not one of puppet, ca, report, fileserver"},
		"word of a name":         {zone(sites + "  names: {p.example.com: {sits: [a]}}\n"), "sits"},
		"service of an edge":     {zone("  sites: {a: {edges: [{name: e, target: e1.example.net, services: [compile]}]}}\n"), `services: "compile" is not one of`},
		"weight 0":               {zone("  sites: {a: {edges: [{name: e, target: e1.example.net, weight: 0}]}}\n"), "a weight is a number from 1"},
		"key that there is not":  {zone(sites + "  secondaries: [{address: 192.0.2.1, key: k}]\n"), `dns.keys has no key "k"`},
		"secondary":              {zone(sites + "  secondaries: [ns.example.com]\n"), "is no address"},
		"algorithm":              {zone(sites + "  keys: {k: {algorithm: hmac-md5, secret_file: /k}}\n"), "hmac-md5"},
		"secret":                 {zone(sites + "  keys: {k: {}}\n"), "secret_file is missing"},
		"secret in the open":     {zone(sites + "  keys: {k: {secret: Zm9v}}\n"), "secret"},
		"check of an edge":       {zone("  sites: {a: {edges: [{name: e, target: e1.example.net, check: {type: ping}}]}}\n"), `"ping" is not one of`},
		"trusted that is no net": {zone(sites + "  trusted: [192.0.2.1]\n"), "192.0.2.1"},
	} {
		_, err := ParseEdge("edge.yaml", []byte(c.text))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
