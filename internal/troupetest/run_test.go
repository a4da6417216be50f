package troupetest

// This file is the life of a node: request, signature, change, nothing to do, noop.

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAgentsRunFromRequestToIdempotence(t *testing.T) {
	for _, g := range []Generation{Puppet7, Puppet8} {
		t.Run(string(g), func(t *testing.T) {
			t.Parallel()
			s := StartServer(t, ServerOptions{Environments: site})
			lifeOfANode(t, s, NewAgent(t, g, "node1.example.test", s.Addr))
		})
	}
}

// large is more than any buffer on the way holds.
const large = 20 << 20

func lifeOfANode(t *testing.T, s *Server, a *Agent) {
	t.Helper()
	big := bytes.Repeat([]byte("0123456789abcdef"), large/16)
	s.WriteCode("production/modules/site/files/large", string(big))
	s.WriteCode("production/manifests/site.pp", `node default {
		include site
		file { "${facts['sandbox']}/large": source => 'puppet:///modules/site/large' }
	}`)

	// Nobody has signed yet: the request waits, the agent ends.
	a.Run().want(t, 1, "run without a signature")
	if got := s.Certificates()[a.Certname]; got.State != "requested" {
		t.Fatalf("the request is %+v", got)
	}
	s.Sign(a.Certname)

	first := a.Run()
	first.want(t, 2, "first run")
	wantSite(t, a, "hello")
	if got, err := os.ReadFile(a.Sandbox("large")); err != nil || !bytes.Equal(got, big) {
		t.Errorf("the large file arrived with %d bytes, error %v", len(got), err)
	}
	a.Run().want(t, 0, "second run")

	// A change of code is seen, previewed and applied.
	s.WriteCode("production/modules/site/manifests/init.pp",
		strings.Replace(readFile(t, filepath.Join(site, "production/modules/site/manifests/init.pp")), "'hello'", "'good evening'", 1))
	a.Run("--noop").want(t, 0, "noop run")
	wantFile(t, a.Sandbox("message"), "hello "+a.Certname+"\n")
	a.Run().want(t, 2, "run with a change")
	wantSite(t, a, "good evening")

	var statuses []string
	for _, r := range s.Reports(a.Certname) {
		if r.Noop {
			r.Status += " noop"
		}
		statuses = append(statuses, r.Status)
	}
	if got, want := strings.Join(statuses, ", "), "changed, unchanged noop, unchanged, changed"; got != want {
		t.Errorf("reports, newest first: %s; want %s", got, want)
	}
	n := s.Node(a.Certname)
	if n.Environment != "production" || n.Status != "changed" || n.FactsTimestamp.IsZero() || n.CatalogTimestamp.IsZero() || n.ReportTimestamp.IsZero() {
		t.Errorf("the node is %+v", n)
	}
	if !strings.Contains(s.MustCLI("node", "facts", a.Certname), "from an external fact") {
		t.Error("the stored facts lack the external fact that pluginsync brought")
	}
}

// wantSite checks everything that the module site manages: content, first source that exists, recursion with a binary
// file, template, and a custom type that uses a custom fact.
func wantSite(t *testing.T, a *Agent, message string) {
	t.Helper()
	wantFile(t, a.Sandbox("message"), message+" "+a.Certname+"\n")
	wantFile(t, a.Sandbox("motd"), "welcome\n")
	wantFile(t, a.Sandbox("tree/a.txt"), "a\n")
	wantFile(t, a.Sandbox("tree/sub/b.bin"), "\x00\x01\xff\xfebinary\r\n")
	wantFile(t, a.Sandbox("template"), "this is "+a.Certname+"\n")
	wantFile(t, a.Sandbox("entries"), "first=from a custom fact\n")
}
