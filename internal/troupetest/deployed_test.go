package troupetest

// This story deploys code at one site and loses that site.

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestASiteThatIsLostLeavesCodeAndBackedUpFiles(t *testing.T) {
	t.Parallel()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true})
	agent := NewAgent(t, Puppet7, "web1.example.test", east.Addr)
	east.WriteCode("production/environment.conf", "config_version = scripts/version.sh\n")
	east.WriteCode("production/scripts/version.sh", "#!/bin/sh\necho commit-1\n")
	east.WriteCode("production/modules/motd/files/motd", "from the module\n")
	east.WriteCode("production/manifests/site.pp", `
		filebucket { 'main': path => false }
		File { backup => 'main' }
		file { "${facts['sandbox']}/motd": source => 'puppet:///modules/motd/motd' }
	`)
	if err := os.Chmod(filepath.Join(east.Environments, "production/scripts/version.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, agent.Sandbox("motd"), "what was there before\n")
	agent.Run().want(t, 2, "a run at east, which backs up a file")

	east.MustCLI("init", "--site", "east")
	data := Join(t, east, "west", "west.example.test", westPort)
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: data, Config: westPort, Autosign: true})
	if err := os.RemoveAll(filepath.Join(west.Environments, "production")); err != nil {
		t.Fatal(err)
	}
	agent.Server = west.Addr
	if r := agent.Run(); r.Exit != 1 || !strings.Contains(r.Output, "Could not find environment") {
		t.Errorf("a run at west, where no code is: exit %d\n%s", r.Exit, r.Output)
	}
	if words := east.MustCLI("code", "deploy", "production"); !strings.Contains(words, "commit-1") {
		t.Errorf("deploy says %s", words)
	}
	result := agent.Run()
	result.want(t, 0, "a run at west after the deploy")
	if v := result.Summary.Version.Config; v != "commit-1" {
		t.Errorf("its configuration version is %q", v)
	}
	sum := sha256.Sum256([]byte("what was there before\n"))
	Eventually(t, Patience, "the backed-up file is at west", func() bool {
		_, err := os.Stat(filepath.Join(west.Data, "store", "bucket", hex.EncodeToString(sum[:])))
		return err == nil
	})

	// A change of the folder counts when it is deployed.
	east.WriteCode("production/modules/motd/files/motd", "changed\n")
	agent.Server = east.Addr
	agent.Run().want(t, 0, "a run at east after a change that was not deployed")
	east.MustCLI("code", "deploy", "production")
	var all []struct {
		Version string
		Members []struct{ Name, Version string }
	}
	east.JSON(&all, "code", "list")
	if len(all) != 1 || len(all[0].Members) != 2 || all[0].Members[1].Name != "west.example.test" || all[0].Members[1].Version != all[0].Version {
		t.Errorf("code list: %+v", all)
	}

	// The site is lost, and west starts again on its own.
	east.Kill()
	agent.Server = west.Addr
	agent.Run().want(t, 2, "a run at west with the new code")
	west.Kill()
	west.Start()
	agent.Run().want(t, 0, "a run at west, alone")
	agent.Puppet("filebucket", "restore", agent.Sandbox("motd"), hex.EncodeToString(sum[:]), "--remote").want(t, 0, "restore")
	if got := readFile(t, agent.Sandbox("motd")); got != "what was there before\n" {
		t.Errorf("restored: %q", got)
	}
}
