package config

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// This file finds the default certname.

// HostName returns this machine's full name, as Facter finds it, in lower case.
func HostName() string { return hostCertname("/") }

// hostCertname returns the host's full name in lower case: as Puppet does, the
// host name, completed by /etc/hosts or by the domain of resolv.conf. It is
// "localhost" when the host has no name. The network is not asked.
func hostCertname(root string) string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.Contains(name, ".") {
		return name
	}
	if full := fullNameFromHosts(filepath.Join(root, "etc/hosts"), name); full != "" {
		return full
	}
	if domain := domainFromResolver(filepath.Join(root, "etc/resolv.conf")); domain != "" {
		return name + "." + domain
	}
	return name
}

// fields calls fn with the words of each line of a file that can be read.
func fields(path string, fn func([]string)) {
	f, err := os.Open(path)
	if err != nil {
		return // a host without the file has a short name
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if words := strings.Fields(text); len(words) > 0 {
			fn(words)
		}
	}
}

func fullNameFromHosts(path, name string) string {
	full := ""
	fields(path, func(words []string) {
		for _, w := range words[1:] {
			if lower := strings.ToLower(w); full == "" && strings.HasPrefix(lower, name+".") && !strings.HasSuffix(lower, ".localdomain") {
				full = lower
			}
		}
	})
	return full
}

func domainFromResolver(path string) string {
	domain := ""
	fields(path, func(words []string) {
		if (words[0] == "domain" || words[0] == "search") && len(words) > 1 {
			domain = strings.ToLower(strings.Trim(words[1], "."))
		}
	})
	return domain
}
