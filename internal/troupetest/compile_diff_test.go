package troupetest

// This file has the stories about `troupe compile`: what an operator compares is what an agent would get.

import (
	"path/filepath"
	"strings"
	"testing"
)

// wantDiff compares a node's fresh catalog with the one that it got last.
func wantDiff(t *testing.T, s *Server, exit int, certname string, flags ...string) string {
	t.Helper()
	status, stdout, stderr := s.CLI(append([]string{"compile", certname, "--diff", "stored"}, flags...)...)
	if status != exit {
		t.Fatalf("compile %s --diff stored %s: exit %d, want %d\n%s%s", certname, strings.Join(flags, " "), status, exit, stdout, stderr)
	}
	return stdout
}

func TestACatalogThatNothingChangedHasNoDifference(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true})
	s.WriteCode("production/modules/site/files/motd", "welcome\n")
	s.WriteCode("production/modules/site/files/tree/leaf", "green\n")
	manifest := `
		$root = $facts['sandbox']
		node /^exporter/ { @@file { 'exported': path => '/nowhere', content => "by ${trusted['certname']}\n", tag => 'service' } }
		node default {
			$from = [$server_facts['servername'], $server_facts['serverip'], $server_facts['environment']].join(' ')
			file { "${root}/from": content => "${from} ${trusted['extensions']['pp_role']}\n" }
			file { "${root}/secret": content => Sensitive("<pass & word>\\n") }
			file { "${root}/motd": source => 'puppet:///modules/site/motd' }
			file { "${root}/tree": ensure => directory, recurse => true, source => 'puppet:///modules/site/tree' }
			File <<| tag == 'service' |>> { path => "${root}/service" }
		}`
	s.WriteCode("production/manifests/site.pp", manifest)
	enrolled(t, s, Puppet7, "exporter.example.test")
	node := NewAgent(t, Puppet7, "compared.example.test", s.Addr)
	writeFile(t, filepath.Join(node.Dir, "conf", "csr_attributes.yaml"), "extension_requests:\n  pp_role: web\n")
	node.Run().want(t, 2, "first run")
	wantFile(t, node.Sandbox("service"), "by exporter.example.test\n")

	wantDiff(t, s, 0, node.Certname)

	// The same code in a folder of the operator's own, compiled by the command itself with what the member knows.
	own := filepath.Join(TempDir(t), "environments")
	copyTree(t, s.Environments, own)
	wantDiff(t, s, 0, node.Certname, "--environmentpath", own)

	writeFile(t, filepath.Join(own, "production/manifests/site.pp"), strings.Replace(manifest, "/motd\":", "/motd.new\":", 1))
	found := wantDiff(t, s, 1, node.Certname, "--environmentpath", own)
	for _, resource := range []string{node.Sandbox("motd"), node.Sandbox("motd.new")} {
		if !strings.Contains(found, "File["+resource+"]") {
			t.Errorf("the differences do not name %s:\n%s", resource, found)
		}
	}
	if strings.Contains(found, "File[exported]") || strings.Contains(found, "/from]") {
		t.Errorf("differences in what did not change:\n%s", found)
	}

	wantDiff(t, s, 2, "nobody.example.test")

	// Without a running server the command opens the data folder; only the server's own name must be told.
	s.Stop()
	config := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, config, "certname: "+s.Certname+"\n")
	wantDiff(t, s, 0, node.Certname, "--environmentpath", s.Environments, "--config", config)
}
