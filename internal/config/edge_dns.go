package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// This file reads and checks what an edge is told about its zone.

// Services are what agents look up under names of their own.
func services() []string { return []string{"puppet", "ca", "report", "fileserver"} }

// EdgeDNSName is a name with addresses: the sites whose edges it stands for, none meaning all, and what they must serve.
type EdgeDNSName struct {
	Sites   []string `yaml:"sites,omitempty"`
	Service string   `yaml:"service,omitempty"` // puppet, if nothing is said
	Max     int      `yaml:"max,omitempty"`     // addresses in one answer
}

// UnmarshalYAML reads a list of sites, or all of it.
func (n *EdgeDNSName) UnmarshalYAML(text []byte) error {
	if err := yaml.Unmarshal(text, &n.Sites); err == nil {
		return nil
	}
	type plain EdgeDNSName
	return yaml.UnmarshalWithOptions(text, (*plain)(n), yaml.Strict())
}

// EdgeSecondary is a server that copies the zone.
type EdgeSecondary struct {
	Address string `yaml:"address"`
	Key     string `yaml:"key,omitempty"` // that it must sign with
}

// UnmarshalYAML reads an address, or all of it.
func (s *EdgeSecondary) UnmarshalYAML(text []byte) error {
	if err := yaml.Unmarshal(text, &s.Address); err == nil {
		return nil
	}
	type plain EdgeSecondary
	return yaml.UnmarshalWithOptions(text, (*plain)(s), yaml.Strict())
}

// AddrPort is where it is. Without a port it is that of DNS.
func (s EdgeSecondary) AddrPort() (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s.Address); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	return netip.ParseAddrPort(s.Address)
}

// EdgeDNSKey is a TSIG key. Its secret is in a file, since what is in a configuration ends in backups and mails.
type EdgeDNSKey struct {
	Algorithm  string `yaml:"algorithm,omitempty"`
	SecretFile string `yaml:"secret_file"` // base64; mode 0600
}

// EdgeWeight is how much more than others an edge of a site gets; 0 means that nothing was said.
type EdgeWeight int

// WeightAuto has a weight follow what the edge can still take.
const WeightAuto EdgeWeight = -1

const maxEdgeWeight = 10_000

// UnmarshalYAML reads it.
func (w *EdgeWeight) UnmarshalYAML(text []byte) error {
	word := unquoted(text)
	if word == "auto" {
		*w = WeightAuto
		return nil
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > maxEdgeWeight {
		return fmt.Errorf("a weight is a number from 1 to %d, or auto; not %q. To send nobody to an edge, leave it out, or drain it", maxEdgeWeight, word)
	}
	*w = EdgeWeight(n)
	return nil
}

// MarshalYAML writes it.
func (w EdgeWeight) MarshalYAML() ([]byte, error) {
	if w == WeightAuto {
		return []byte("auto"), nil
	}
	return strconv.AppendInt(nil, int64(w), 10), nil
}

// EdgeOrder are the other sites, the nearest first. Measured has round-trip times decide.
type EdgeOrder struct {
	Measured bool     `json:"measured,omitempty"`
	Sites    []string `json:"sites,omitempty"`
}

// UnmarshalYAML reads a list, or the word measured.
func (o *EdgeOrder) UnmarshalYAML(text []byte) error {
	if unquoted(text) == "measured" {
		*o = EdgeOrder{Measured: true}
		return nil
	}
	if err := yaml.Unmarshal(text, &o.Sites); err != nil {
		return errors.New("an order is a list of sites, or the word measured")
	}
	return nil
}

// MarshalYAML writes it.
func (o EdgeOrder) MarshalYAML() ([]byte, error) {
	if o.Measured {
		return []byte("measured"), nil
	}
	return yaml.Marshal(o.Sites)
}

// IsZero leaves an order out of the file that says nothing.
func (o EdgeOrder) IsZero() bool { return !o.Measured && len(o.Sites) == 0 }

func unquoted(text []byte) string { return strings.Trim(strings.TrimSpace(string(text)), `"'`) }

func (d *EdgeDNS) check(p *edgeProblems, own string) {
	if strings.Trim(d.Zone, ".") == "" {
		p.add("dns.zone is missing: the name that is delegated to this edge")
	}
	for _, l := range d.Listen {
		p.address("dns.listen", l)
	}
	site := func(key, name string) {
		if _, ok := d.Sites[name]; !ok {
			p.add("%s: dns.sites has no site %q; there are %s", key, name, strings.Join(slices.Sorted(maps.Keys(d.Sites)), ", "))
		}
	}
	if own != "" {
		if _, ok := d.Sites[own]; !ok {
			p.add("dns.sites has no site %q, which is this edge's own: name it, if need be with edges: []", own)
		}
	}
	for _, domain := range slices.Sorted(maps.Keys(d.SRV)) {
		if d.SRV[domain] != "" { // that of who asks
			site("dns.srv_domains: "+domain, d.SRV[domain])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Names)) {
		n := d.Names[name]
		for _, s := range n.Sites {
			site("dns.names: "+name, s)
		}
		p.oneOf("dns.names: "+name+": service", n.Service, services()...)
		if n.Max < 0 {
			p.add("dns.names: %s: max is a number from 1", name)
		}
	}
	for _, network := range slices.Sorted(maps.Keys(d.Networks)) {
		site("dns.networks: "+network, d.Networks[network])
		if _, err := netip.ParsePrefix(network); err != nil {
			p.add("dns.networks: %q is no network such as 10.1.0.0/16", network)
		}
	}
	for _, prefix := range d.Trusted {
		if !prefix.IsValid() {
			p.add("dns.trusted: networks of resolvers, such as 192.0.2.53/32")
		}
	}
	d.checkSites(p)
	d.checkSecondaries(p)
	if d.RateLimit < 0 {
		p.add("dns.rate_limit is a number from 0")
	}
}

// checkSites looks at the edges. Checks and measures know an edge by its name, so no two may have the same.
func (d *EdgeDNS) checkSites(p *edgeProblems) {
	where := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(d.Sites)) {
		site := d.Sites[name]
		for _, other := range site.Order.Sites {
			if _, ok := d.Sites[other]; !ok || other == name {
				p.add("dns.sites: order of %s: there is no other site %q", name, other)
			}
		}
		for _, one := range site.Edges {
			key := "dns.sites: " + name + ": " + one.Name
			if one.Name == "" || strings.ContainsAny(one.Name, "/ \t") {
				p.add("dns.sites: %s: %q is no name of an edge: it has neither slashes nor blanks", name, one.Name)
			}
			if before, taken := where[one.Name]; taken {
				p.add("%s: an edge of site %s has this name, too: give each a name of its own", key, before)
			}
			where[one.Name] = name
			for _, s := range one.Services {
				if s == "" {
					p.add("%s: a service without a name", key)
				}
				p.oneOf(key+": services", s, services()...)
			}
			if one.Agent != "" {
				p.address(key+": agent_check", one.Agent)
			}
			if one.Agent != "" && one.Weight != WeightAuto {
				p.add("%s: agent_check says what the edge can take, which counts with weight: auto", key)
			}
			if one.Check != nil {
				one.Check.check(p, key+": check")
			}
		}
	}
}

func (d *EdgeDNS) checkSecondaries(p *edgeProblems) {
	for _, s := range d.Secondaries {
		if _, err := s.AddrPort(); err != nil {
			p.add("dns.secondaries: %q is no address with or without a port, such as 192.0.2.54", s.Address)
		}
		if _, ok := d.Keys[s.Key]; s.Key != "" && !ok {
			p.add("dns.secondaries: %s: dns.keys has no key %q", s.Address, s.Key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Keys)) {
		k := d.Keys[name]
		p.oneOf("dns.keys: "+name+": algorithm", k.Algorithm, "hmac-sha256", "hmac-sha384", "hmac-sha512")
		if k.SecretFile == "" {
			p.add("dns.keys: %s: secret_file is missing: a file with the secret in base64, mode 0600", name)
		}
	}
}
