package troupetest

// This file has the stories about catalogs: exported resources, environments, failed compiles, the filebucket.

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExportedResourcesReachOtherNodes(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true})
	s.WriteCode("production/manifests/site.pp", `
		$root = $facts['sandbox']
		node /^exporter/ {
			$role = $trusted['extensions']['pp_role']
			@@file { "from ${trusted['certname']}": path => '/nowhere', content => "${role} on ${facts['port']}\n", tag => 'service' }
		}
		node /^collector/ {
			File <<| tag == 'service' |>> { path => "${root}/service" }
		}`)
	exporter := NewAgent(t, Puppet7, "exporter.example.test", s.Addr)
	writeFile(t, filepath.Join(exporter.Dir, "conf", "csr_attributes.yaml"), "extension_requests:\n  pp_role: web\n")
	exporter.Facts["port"] = "80"
	exporter.Run().want(t, 0, "run of the exporter")
	collector := enrolled(t, s, Puppet8, "collector.example.test")
	wantFile(t, collector.Sandbox("service"), "web on 80\n")

	exporter.Facts["port"] = "443"
	exporter.Run().want(t, 0, "second run of the exporter")
	collector.Run().want(t, 2, "second run of the collector")
	wantFile(t, collector.Sandbox("service"), "web on 443\n")
}

func TestTheClassifierDecidesTheEnvironment(t *testing.T) {
	t.Parallel()
	enc := filepath.Join(TempDir(t), "enc")
	decide := func(environment string) {
		writeFile(t, enc, "#!/bin/sh\ncat <<E\n---\nclasses: { chosen: { word: from the classifier } }\nenvironment: "+environment+"\nE\n")
		if err := os.Chmod(enc, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	decide("testing")
	s := StartServer(t, ServerOptions{Autosign: true, Config: "classifier:\n  command: " + enc + "\n"})
	for _, e := range []string{"testing", "staging"} {
		s.WriteCode(e+"/modules/chosen/manifests/init.pp", `class chosen(String $word) {
			file { "${facts['sandbox']}/chosen": content => "`+e+` ${word} ${server_facts['environment']}\n" }
		}`)
	}

	a := NewAgent(t, Puppet7, "classified.example.test", s.Addr)
	first := a.Run()
	first.want(t, 2, "first run")
	first.wantText(t, "switching agent to 'testing'")
	wantFile(t, a.Sandbox("chosen"), "testing from the classifier testing\n")

	// Later runs do not ask for the node: the catalog itself sends the agent into the other environment.
	decide("staging")
	second := a.Run()
	second.want(t, 2, "run in the other environment")
	second.wantText(t, "restarting agent run with environment 'staging'")
	wantFile(t, a.Sandbox("chosen"), "staging from the classifier staging\n")
	if got := s.Node(a.Certname).Environment; got != "staging" {
		t.Errorf("the node is in environment %q, want staging", got)
	}
}

func TestAFailedCompileLeavesTheAgentItsCachedCatalog(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true, Environments: site})
	a := enrolled(t, s, Puppet8, "cached.example.test")
	if err := os.Remove(a.Sandbox("message")); err != nil {
		t.Fatal(err)
	}
	s.WriteCode("production/manifests/site.pp", `node default { fail("nothing for ${trusted['certname']}") }`)

	// Without -t, which implies --no-usecacheonfailure whatever else is said.
	r := a.Puppet("agent", "--onetime", "--no-daemonize", "--verbose", "--detailed-exitcodes")
	r.want(t, 2, "run with the cached catalog")
	r.wantText(t, "nothing for cached.example.test")
	r.wantText(t, "Using cached catalog from environment 'production'")
	wantFile(t, a.Sandbox("message"), "hello "+a.Certname+"\n")

	if n := s.Node(a.Certname); !n.LastCompile.Failed || !strings.Contains(n.LastCompile.Error, "nothing for cached.example.test") {
		t.Errorf("the last compile is %+v", n.LastCompile)
	}
	if got := s.Reports(a.Certname)[0].CachedCatalog; got != "on_failure" {
		t.Errorf("the newest report has cached_catalog_status %q", got)
	}

	a.Run().want(t, 1, "run without the cached catalog")
	if got := s.Reports(a.Certname)[0].Status; got != "failed" {
		t.Errorf("the newest report is %s, want failed", got)
	}
}

func TestChangedFilesAreBackedUpAndRestored(t *testing.T) {
	t.Parallel()
	s := StartServer(t, ServerOptions{Autosign: true})
	s.WriteCode("production/manifests/site.pp", `
		filebucket { 'main': path => false }
		file { "${facts['sandbox']}/kept": content => "${facts['kept']}\n", backup => 'main' }`)
	a := NewAgent(t, Puppet7, "bucket.example.test", s.Addr)
	a.Facts["kept"] = "the old words"
	a.Run().want(t, 2, "first run")
	a.Facts["kept"] = "the new words"
	a.Run().want(t, 2, "second run")
	wantFile(t, a.Sandbox("kept"), "the new words\n")

	sum := sha256.Sum256([]byte("the old words\n"))
	a.Puppet("filebucket", "restore", a.Sandbox("kept"), hex.EncodeToString(sum[:]), "--remote").want(t, 0, "restore")
	wantFile(t, a.Sandbox("kept"), "the old words\n")
	a.Puppet("filebucket", "get", strings.Repeat("0", 64), "--remote").want(t, 1, "get of what was never stored")
}
