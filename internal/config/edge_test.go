package config

import (
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

func TestAnEdgeWithoutAFileServesTheMembers(t *testing.T) {
	e, err := ParseEdge("edge.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Listeners) != 1 || e.Listeners[0].Pool != "members" || !e.Pools["members"].Members || !e.Terminates() {
		t.Errorf("%+v", e)
	}
}
