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
