package agentroute

import (
	"fmt"
	"regexp"
	"strconv"
)

// This file names versions of agents.

// Version is that of a Puppet or OpenVox agent; both count alike.
type Version struct{ Major, Minor, Patch int }

var versionForm = regexp.MustCompile(`^(?:openvox-?)?(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?(?:[-~+].*)?$`)

// ParseVersion reads what `puppet --version` prints, or a part of it: 7, 7.23, 8.10.0, 9.0.0-rc1, openvox9.
func ParseVersion(s string) (Version, error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return Version{}, fmt.Errorf("%q is no version of an agent; write it as `puppet --version` does, like 7.23.0", s)
	}
	var v Version
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if m[i+1] != "" {
			*part, _ = strconv.Atoi(m[i+1]) // the form admits numbers only
		}
	}
	if v.Major < 5 {
		return v, fmt.Errorf("agent %v is older than 5.0: nothing is known of it here", v)
	}
	return v, nil
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// since tells whether v is a version or a later one.
func (v Version) since(major, minor, patch int) bool {
	switch {
	case v.Major != major:
		return v.Major > major
	case v.Minor != minor:
		return v.Minor > minor
	}
	return v.Patch >= patch
}

// Sections are those that a puppet.conf may have. Any other one spoils the file for the agent.
func (v Version) Sections() []string {
	if v.since(6, 19, 0) {
		return []string{"main", "server", "master", "agent", "user"}
	}
	return []string{"main", "master", "agent", "user"}
}

// refusesDefault tells whether the agent goes nowhere unless the setting server is set, whatever else is (OpenVox 9).
func (v Version) refusesDefault() bool { return v.since(9, 0, 0) }

// sessions tells whether the agent chooses a server once for a run and a service (Puppet::HTTP::Session, puppet PR 8008),
// instead of anew for each request.
func (v Version) sessions() bool { return v.since(6, 14, 0) }

// diesOfRetryAfter tells whether the agent sleeps as a Retry-After says and then fails (PUP-11853).
func (v Version) diesOfRetryAfter() bool {
	return v.since(6, 14, 0) && !v.since(7, 26, 0) || v.since(8, 0, 0) && !v.since(8, 2, 0)
}
