package corpus

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// This file lists the nodes and rewrites facts for each of them.

// Node is a machine of the corpus.
type Node struct {
	Certname    string
	Role        string // also the extension pp_role of its certificate
	OS          string // key of systems
	Environment string

	number int // makes addresses differ
}

// role says how many nodes there are of a role and what they run.
type role struct {
	name    string
	nodes   int
	systems []string // taken in turn
}

var debians = []string{"debian12", "ubuntu22", "debian11"}

// roles are those that compile, ordered by size.
func roles() []role {
	all := append([]string{"centos8", "redhat9", "debian13"}, debians...)
	return []role{
		{"plain", 9, append([]string{"centos7", "ubuntu24"}, all...)},
		{"language", 6, all},
		{"staging", 4, all},
		{"web", 8, all},
		{"proxy", 3, debians},
		{"database", 5, debians},
		{"messaging", 4, debians},
		{"mail", 4, debians},
		{"monitor", 3, debians},
		{"storage", 4, debians},
		{"compute", 6, debians},
		{"network", 4, debians},
		{"platform", 3, debians},
		{"many", 2, all},
		{"controller", 2, debians},
	}
}

// Roles returns the names of all roles that compile, smaller ones first.
func Roles() []string {
	var names []string
	for _, r := range roles() {
		names = append(names, r.name)
	}
	return names
}

// Nodes returns the nodes whose compile succeeds. Earlier nodes export what
// later ones collect, and the other way round: a server has seen all of them
// twice before its answers are final.
func Nodes() []Node {
	var nodes []Node
	for _, r := range roles() {
		for i := range r.nodes {
			n := Node{
				Certname: fmt.Sprintf("%s%d.example.test", r.name, i+1), Role: r.name, OS: r.systems[i%len(r.systems)],
				Environment: "production", number: len(nodes) + 1,
			}
			if r.name == "staging" {
				n.Environment = "staging"
			}
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Broken returns nodes whose compile fails, each in another way, which its name
// tells.
func Broken() []Node {
	var nodes []Node
	for i, trouble := range []string{
		"unknown-class", "duplicate-declaration", "missing-key", "type-mismatch", "cyclic-include", "epp-error",
		"erb-error", "failing-function", "fail", "unknown-function", "unknown-resource", "unknown-parameter",
		"missing-parameter", "reassignment", "bad-relation", "ruby-error", "syntax-error", "assert-type",
		"undefined-override", "unknown-variable-operator", "missing-template", "missing-file", "bad-regex", "frozen",
		"virtual-missing", "stage-missing", "bad-data", "collector-type", "missing-source", "deep-interpolation",
	} {
		nodes = append(nodes, Node{
			Certname: "broken-" + trouble + ".example.test", Role: "broken", OS: debians[i%len(debians)],
			Environment: "production", number: 200 + i,
		})
	}
	return nodes
}

// Collects reports whether the node's catalog has resources of other nodes, so that it depends on which of them are known.
func (n Node) Collects() bool { return slices.Contains([]string{"proxy", "mail", "monitor"}, n.Role) }

// collected are resources that the corpus exports, and what they contain.
var collected = regexp.MustCompile(`^(?:` +
	`(?:Host|Sshkey|Haproxy::Balancermember|Concat::Fragment|Concat_fragment)\[.*\d\.example\.test\w*` +
	`|Profile::(?:Check|Wide)\[.*|Notify\[wide .*|File\[/etc/(?:checks|shared)/.*)\]$`)

// Collected reports whether a resource, written Type[title], may be one that is collected from another node.
func Collected(reference string) bool { return collected.MatchString(reference) }

// Facts returns the document that an agent sends.
func (n Node) Facts() ([]byte, error) {
	template, err := files.ReadFile("testdata/facts.json")
	if err != nil {
		return nil, fmt.Errorf("reading the template of facts: %w", err)
	}
	var values map[string]any
	if err := json.Unmarshal(template, &values); err != nil {
		return nil, fmt.Errorf("reading the template of facts: %w", err)
	}
	n.rename(values)
	if err := systems()[n.OS].rewrite(values); err != nil {
		return nil, fmt.Errorf("facts of %s: %w", n.Certname, err)
	}
	now := time.Now().UTC()
	document, err := json.Marshal(map[string]any{
		"name": n.Certname, "values": values,
		"timestamp": now.Format(time.RFC3339Nano), "expiration": now.Add(30 * time.Minute).Format(time.RFC3339Nano),
	})
	if err != nil {
		return nil, fmt.Errorf("writing facts of %s: %w", n.Certname, err)
	}
	return document, nil
}

// rename gives the machine its name and addresses, in legacy and structured
// facts alike.
func (n Node) rename(v map[string]any) {
	hostname, domain, _ := strings.Cut(n.Certname, ".")
	ip := fmt.Sprintf("192.0.2.%d", n.number%250+2)
	mac := fmt.Sprintf("02:00:00:00:%02x:%02x", n.number/256, n.number%256)
	v["fqdn"], v["hostname"], v["domain"], v["clientcert"] = n.Certname, hostname, domain, n.Certname
	v["ipaddress"], v["ipaddress_eth0"], v["macaddress"], v["macaddress_eth0"] = ip, ip, mac, mac

	networking := object(v, "networking")
	networking["fqdn"], networking["hostname"], networking["domain"] = n.Certname, hostname, domain
	networking["ip"], networking["mac"] = ip, mac
	eth0 := object(object(networking, "interfaces"), "eth0")
	eth0["ip"], eth0["mac"] = ip, mac
	eth0["bindings"] = []any{map[string]any{"address": ip, "netmask": "255.255.255.0", "network": "192.0.2.0"}}
}

// object returns the map below a key, and makes it when there is none.
func object(in map[string]any, key string) map[string]any {
	if found, ok := in[key].(map[string]any); ok {
		return found
	}
	made := map[string]any{}
	in[key] = made
	return made
}
