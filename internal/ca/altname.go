package ca

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/fault"
)

// This file handles subject alternative names.

type altNames struct {
	dns []string
	ips []net.IP
}

func newAltNames(dns []string, ips []net.IP) altNames { return altNames{dns: dns, ips: ips} }

// list gives IP addresses before DNS names, as puppetserver's subject-alt-names does.
func (a altNames) list() []string {
	var all []string
	for _, ip := range a.ips {
		all = append(all, "IP:"+ipText(ip))
	}
	for _, n := range a.dns {
		all = append(all, "DNS:"+n)
	}
	return all
}

// ipText writes an address as Java does, which never shortens zeros.
func ipText(ip net.IP) string {
	if v4 := ip.To4(); v4 != nil || len(ip) != net.IPv6len {
		return ip.String()
	}
	groups := make([]string, 0, net.IPv6len/2)
	for i := 0; i < net.IPv6len; i += 2 {
		groups = append(groups, strconv.FormatUint(uint64(ip[i])<<8|uint64(ip[i+1]), 16))
	}
	return strings.Join(groups, ":")
}

// with returns a with name among the DNS names. Every certificate carries its own
// name, since verifiers no longer look at the common name (RFC 2818).
func (a altNames) with(name string) altNames {
	if slices.Contains(a.dns, name) {
		return a
	}
	a.dns = append(slices.Clone(a.dns), name)
	return a
}

// parseAltNames reads names as people write them: "DNS:a", "IP:10.0.0.1" or a
// bare name, which is a DNS name as in puppet.conf's dns_alt_names.
func parseAltNames(names []string) (altNames, error) {
	var a altNames
	for _, n := range names {
		n = strings.TrimSpace(n)
		if ip, ok := strings.CutPrefix(n, "IP:"); ok {
			parsed := net.ParseIP(ip)
			if parsed == nil {
				return altNames{}, fault.New(fault.Invalid, "Alternative name %q is not an IP address", n)
			}
			if v4 := parsed.To4(); v4 != nil {
				parsed = v4
			}
			a.ips = append(a.ips, parsed)
			continue
		}
		n = strings.TrimPrefix(n, "DNS:")
		if err := checkAltDNS(n); err != nil {
			return altNames{}, err
		}
		a.dns = append(a.dns, n)
	}
	return a, nil
}

// checkAltDNS refuses wildcards in the words of validate-subject-alt-names!.
func checkAltDNS(n string) error {
	if strings.Contains(n, "*") {
		return fault.New(fault.Invalid, "Cert subjectAltName contains a wildcard, which is not allowed: %s", n)
	}
	if n == "" || len(n) > 253 || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fault.New(fault.Invalid, "Alternative name %q is not a DNS name", n)
	}
	return nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
