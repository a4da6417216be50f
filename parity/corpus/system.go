package corpus

import (
	"errors"
	"strings"
)

// This file knows operating systems as Facter describes them.

// system is one release of an operating system.
type system struct {
	family, name, full, codename, description string
	kernel, provider                          string
}

func systems() map[string]system {
	return map[string]system{
		"debian11": {"Debian", "Debian", "11.11", "bullseye", "Debian GNU/Linux 11 (bullseye)", "5.10.0-35-amd64", "apt"},
		"debian12": {"Debian", "Debian", "12.11", "bookworm", "Debian GNU/Linux 12 (bookworm)", "6.1.0-37-amd64", "apt"},
		"debian13": {"Debian", "Debian", "13.1", "trixie", "Debian GNU/Linux 13 (trixie)", "6.12.43-amd64", "apt"},
		"ubuntu22": {"Debian", "Ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS", "5.15.0-140-generic", "apt"},
		"ubuntu24": {"Debian", "Ubuntu", "24.04", "noble", "Ubuntu 24.04.2 LTS", "6.8.0-60-generic", "apt"},
		"centos7":  {"RedHat", "CentOS", "7.9.2009", "Core", "CentOS Linux release 7.9.2009 (Core)", "3.10.0-1160.el7.x86_64", "yum"},
		"centos8":  {"RedHat", "CentOS", "8", "Stream", "CentOS Stream release 8", "4.18.0-553.el8.x86_64", "dnf"},
		"redhat9":  {"RedHat", "RedHat", "9.4", "Plow", "Red Hat Enterprise Linux release 9.4 (Plow)", "5.14.0-427.el9.x86_64", "dnf"},
	}
}

// rewrite makes facts those of the system.
func (s system) rewrite(v map[string]any) error {
	if s.name == "" {
		return errors.New("unknown operating system")
	}
	major, minor, dotted := strings.Cut(s.full, ".")
	minor, _, _ = strings.Cut(minor, ".")
	release := map[string]any{"full": s.full, "major": major}
	if s.name == "Ubuntu" { // whose majors are dotted and which have no minor
		release["major"] = s.full
	} else if dotted {
		release["minor"] = minor
	}
	architecture := "x86_64"
	if s.family == "Debian" {
		architecture = "amd64"
	}

	v["os"] = map[string]any{
		"family": s.family, "name": s.name, "architecture": architecture, "hardware": "x86_64", "release": release,
		"distro": map[string]any{
			"id": s.name, "codename": s.codename, "description": s.description, "release": release,
		},
		"selinux": selinux(s.family == "RedHat"),
	}
	v["osfamily"], v["operatingsystem"], v["operatingsystemrelease"] = s.family, s.name, s.full
	v["operatingsystemmajrelease"], v["architecture"], v["selinux"] = release["major"], architecture, s.family == "RedHat"
	v["lsbdistid"], v["lsbdistcodename"], v["lsbdistdescription"] = s.name, s.codename, s.description
	v["lsbdistrelease"], v["lsbmajdistrelease"] = s.full, release["major"]
	delete(v, "lsbminordistrelease")
	if dotted && s.name != "Ubuntu" {
		v["lsbminordistrelease"] = minor
	}

	version, _, _ := strings.Cut(s.kernel, "-")
	v["kernelrelease"], v["kernelversion"] = s.kernel, version
	v["kernelmajversion"] = strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
	v["package_provider"] = s.provider
	return nil
}

func selinux(enabled bool) map[string]any {
	if !enabled {
		return map[string]any{"enabled": false}
	}
	return map[string]any{
		"enabled": true, "enforced": true, "current_mode": "enforcing", "config_mode": "enforcing",
		"config_policy": "targeted", "policy_version": "33",
	}
}
