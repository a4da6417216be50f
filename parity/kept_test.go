package parity

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"troupe/parity/corpus"
)

// This file says which part of the corpus is compared in every test run, and how it is made independent of its place.

const recording = "testdata/puppetserver-7.9.5.json.gz"

// recorded is one answer of the real server.
type recorded struct {
	Certname, Format, ContentType, Body string
	Status                              int
}

// failing and failingV4 are the formats of answers to nodes whose compile fails.
const (
	failing   = "failing v3"
	failingV4 = "failing v4"
)

// kept reports whether an answer is part of the recording: two nodes of each role that needs few modules and one of each
// other role, but for those that collect what others export; and all that fail.
func kept(n corpus.Node, format string) bool {
	name, number := strings.TrimSuffix(n.Certname, ".example.test"), n.Certname[len(n.Role):][:1]
	switch {
	case n.Role == "broken":
		return format == failing
	case slices.Contains([]string{"language1", "language2", "staging1", "staging2", "many1"}, name):
		return format == formats[0].name || format == formats[1].name
	}
	return number == "1" && !n.Collects() && format == agentFormat
}

// light reports whether a node is of a role that needs few modules and no other nodes.
func light(n corpus.Node) bool { return kept(n, formats[0].name) }

// lightModules are the modules that light nodes use.
func lightModules() []string {
	return []string{"stdlib", "concat", "host_core", "cron_core", "sshkeys_core", "firewall", "chrony"}
}

var (
	codeID = regexp.MustCompile(`"code_id":"[^"]*"`)
	ctime  = regexp.MustCompile(`"\{ctime\}[^"]*"`)
	owner  = regexp.MustCompile(`"owner":\d+,"group":\d+`) // of inlined files: the account that compiles
)

// ofThePlace replaces values that depend on where and when the code was laid out: its path and version, the account of the
// compiler, and the time at which a folder was made, which is the checksum of folders.
func ofThePlace(body []byte, environments string) []byte {
	body = bytes.ReplaceAll(body, []byte(environments), []byte("/code/environments"))
	body = codeID.ReplaceAll(body, []byte(`"code_id":0`))
	body = owner.ReplaceAll(body, []byte(`"owner":0,"group":0`))
	return ctime.ReplaceAll(body, []byte(`"{ctime}"`))
}
