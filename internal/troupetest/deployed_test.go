package troupetest

// This story deploys code at one site and loses that site.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
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
	east.WriteCode("production/environment.conf", "config_version = scripts/version.sh\nenvironment_timeout = unlimited\n")
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

// TestR10kDeploysToAllMembers has the real r10k deploy a branch on one member.
func TestR10kDeploysToAllMembers(t *testing.T) {
	t.Parallel()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true})
	east.MustCLI("init", "--site", "east")
	data := Join(t, east, "west", "west.example.test", westPort)
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: data, Config: westPort, Autosign: true})

	work := TempDir(t)
	control := filepath.Join(work, "control")
	git := func(args ...string) {
		t.Helper()
		command := append([]string{"-C", control, "-c", "user.name=A", "-c", "user.email=a@example.test", "-c", "commit.gpgsign=false"}, args...)
		run(t, exec.CommandContext(t.Context(), "git", command...))
	}
	mkdir(t, control)
	git("init", "--quiet", "--initial-branch", "production")
	commit := func(text string) {
		t.Helper()
		writeFile(t, filepath.Join(control, "manifests/site.pp"), text)
		git("add", ".")
		git("commit", "--quiet", "-m", "x")
	}
	config := filepath.Join(work, "r10k.yaml")
	writeFile(t, config, fmt.Sprintf("cachedir: %s/cache\nsources:\n  main:\n    remote: %s\n    basedir: %s\npostrun: ['%s', 'code', 'deploy', '$modifiedenvs', '--data', '%s']\n",
		work, control, east.Environments, Binary(t), east.Data))
	r10k := func() {
		t.Helper()
		run(t, exec.CommandContext(t.Context(), "r10k", "deploy", "environment", "--config", config))
	}
	agent := NewAgent(t, Puppet7, "web1.example.test", west.Addr)
	for _, word := range []string{"one", "two"} {
		commit("notify { 'word " + word + "': }\n")
		git("branch", "--force", "test")
		r10k()
		if r := agent.Run(); r.Exit != 2 || !strings.Contains(r.Output, "word "+word) {
			t.Errorf("after r10k has deployed %s at east, a run at west: exit %d\n%s", word, r.Exit, r.Output)
		}
	}
	agent.Run("--environment", "test").want(t, 2, "a run at west in the other branch")
}
