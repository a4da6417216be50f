package troupetest

// These stories lose machines and begin again from a backup.

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const backupPassphrase = "a passphrase for stories"

// passphraseFile writes one that only its owner reads.
func passphraseFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "passphrase")
	writeFile(t, path, backupPassphrase+"\n")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// troupe runs a command that has no member to ask, and returns what it says.
func troupe(t *testing.T, env []string, args ...string) (status int, stdout, words string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary(t), append(args, "--confdir", "none")...)
	cmd.Env = append(os.Environ(), env...)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("troupe %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), told.String()
}

func mustTroupe(t *testing.T, env []string, args ...string) string {
	t.Helper()
	status, out, words := troupe(t, env, args...)
	if status != 0 {
		t.Fatalf("troupe %s: exit %d\n%s%s", strings.Join(args, " "), status, out, words)
	}
	return out
}

// crlNumber is the number of the issuer's list, as OpenSSL reads it.
func (s *Server) crlNumber() string {
	s.t.Helper()
	answer, err := s.Client().Get(s.URL("/puppet-ca/v1/certificate_revocation_list/ca"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	cmd := exec.CommandContext(s.t.Context(), "openssl", "crl", "-noout", "-crlnumber")
	cmd.Stdin = answer.Body
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("openssl crl: %v\n%s", err, out)
	}
	_, number, _ := strings.Cut(strings.TrimSpace(string(out)), "0x")
	return strings.Repeat("0", 40-len(number)) + number
}

// TestAMachineIsLostAndItsBackupServesInItsPlace is the drill of docs/backup.md.
func TestAMachineIsLostAndItsBackupServesInItsPlace(t *testing.T) {
	t.Parallel()
	place, secret := filepath.Join(TempDir(t), "backups"), passphraseFile(t)
	old := StartServer(t, ServerOptions{Environments: site, Autosign: true})
	agent := enrolled(t, old, Puppet7, "web1.example.test")
	leaver := old.Generate("leaver.example.test")
	old.MustCLI("ca", "revoke", "--certname", "leaver.example.test")
	was, reports := old.Certificates(), old.Reports(agent.Certname)
	if len(reports) != 1 {
		t.Fatalf("there are %d reports", len(reports))
	}
	old.MustCLI("backup", "create", "--to", place, "--passphrase-file", secret)
	if _, out, _ := old.CLI("backup", "verify", "--from", place, "--passphrase-file", secret); !strings.Contains(out, "whole") {
		t.Errorf("verify says %q", out)
	}

	// After the backup one more is revoked: what was written then is lost, and only that. The lists that agents hold are not.
	old.MustCLI("ca", "generate", "--certname", "made-later.example.test", "--to", t.TempDir())
	old.MustCLI("ca", "revoke", "--certname", "made-later.example.test")
	number := old.crlNumber()
	old.Kill()
	if err := os.RemoveAll(old.Data); err != nil {
		t.Fatal(err)
	}

	data := filepath.Join(TempDir(t), "data")
	var restored struct {
		Summary struct{ Environments int }
		Kept    []string
	}
	out := mustTroupe(t, nil, "backup", "restore", "--from", place, "--passphrase-file", secret, "--data", data, "--certname", old.Certname, "-o", "json")
	if err := json.Unmarshal([]byte(out), &restored); err != nil || restored.Summary.Environments == 0 || len(restored.Kept) != 0 {
		t.Errorf("restore says %s (%v)", out, err)
	}
	environments := filepath.Join(data, "code", "environments")
	again := StartServer(t, ServerOptions{Data: data, Environments: environments, Autosign: true})
	agent.Server = again.Addr
	agent.Run().want(t, 0, "a run with the certificate that it had")
	if got := again.Reports(agent.Certname); len(got) != 2 || got[1] != reports[0] {
		t.Errorf("reports: %+v, want one more than %+v", got, reports)
	}
	now := again.Certificates()
	for _, name := range []string{agent.Certname, "leaver.example.test"} {
		if now[name] != was[name] {
			t.Errorf("%s is %+v, and was %+v", name, now[name], was[name])
		}
	}
	if answer, err := again.Client(leaver).Get(again.URL("/puppet/v3/node/leaver.example.test")); err == nil {
		answer.Body.Close()
		t.Errorf("a certificate that was revoked before the backup gets %s", answer.Status)
	}
	if got := again.crlNumber(); got <= number {
		t.Errorf("the number of the list goes back, from %s to %s", number, got)
	}
	recruit := enrolled(t, again, Puppet7, "recruit.example.test")
	if c := again.Certificates()[recruit.Certname]; c.State != "signed" {
		t.Errorf("the recruit is %+v", c)
	}
	if out := again.MustCLI("ca", "conflicts"); !strings.Contains(out, "No conflicts") {
		t.Errorf("conflicts: %s", out)
	}
	again.MustCLI("journal", "verify")

	// A folder in use is not overwritten, and neither is one that was.
	for name, folder := range map[string]string{"running": again.Data, "occupied": func() string { again.Stop(); return again.Data }()} {
		if status, _, words := troupe(t, nil, "backup", "restore", "--from", place, "--passphrase-file", secret, "--data", folder); status != 1 {
			t.Errorf("%s: exit %d: %s", name, status, words)
		}
	}
	again.Start()
	agent.Run().want(t, 0, "a run after all that")
}

// TestARestoreThatWasInterruptedIsRepeated kills a restore at many moments. No member begins on what it leaves, and the next one makes
// it whole.
func TestARestoreThatWasInterruptedIsRepeated(t *testing.T) {
	t.Parallel()
	place, secret := filepath.Join(TempDir(t), "backups"), passphraseFile(t)
	first := StartServer(t, ServerOptions{Environments: site})
	for _, name := range []string{"a", "b", "c"} {
		first.MustCLI("ca", "generate", "--certname", name+".example.test", "--to", t.TempDir())
	}
	first.MustCLI("init")
	first.MustCLI("backup", "create", "--to", place, "--passphrase-file", secret)
	want := first.Certificates()
	first.Kill()
	data := filepath.Join(TempDir(t), "data")
	restore := []string{"backup", "restore", "--from", place, "--passphrase-file", secret, "--data", data, "--certname", "new.example.test", "--confdir", "none"}
	marker := filepath.Join(data, "cluster", "joining")
	stopped := 0
	for _, until := range []string{"cluster/joining", "journal/journal.db", "ca/keys", "store/redact.key", "code/environments", "ca/ca.db", "cluster/keys"} {
		cmd := exec.CommandContext(t.Context(), Binary(t), restore...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		over := false
		Eventually(t, Patience, until+" is there", func() bool {
			select {
			case <-ended:
				over = true
			default:
			}
			_, err := os.Stat(filepath.Join(data, until))
			return over || err == nil
		})
		if !over {
			_ = cmd.Process.Kill() // it may just have ended
			<-ended
		}
		if _, err := os.Stat(marker); err != nil {
			break // it was faster than the kill, and is done
		}
		stopped++
		if status, _, words := troupe(t, nil, "ca", "list", "--data", data); status != 1 || !strings.Contains(words, "interrupted") {
			t.Fatalf("stopped at %s, a command opens the folder: exit %d %s", until, status, words)
		}
	}
	if stopped < 2 {
		t.Errorf("only %d were stopped in time", stopped)
	}
	if _, err := os.Stat(marker); err == nil {
		mustTroupe(t, nil, restore[:len(restore)-2]...)
	}
	s := StartServer(t, ServerOptions{Certname: "new.example.test", Data: data})
	got := s.Certificates()
	for _, name := range []string{"a.example.test", "b.example.test", "c.example.test"} {
		if got[name] != want[name] {
			t.Errorf("%s is %+v, and was %+v", name, got[name], want[name])
		}
	}
	if m := s.members(); m["new.example.test"].State != "self" || len(m) != 2 {
		t.Errorf("members: %+v", m)
	}
}

// TestALostMemberComesBackWhileOthersGoOn restores one of two members from a backup that is older than what the other knows.
func TestALostMemberComesBackWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	place, secret := filepath.Join(TempDir(t), "backups"), passphraseFile(t)
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true})
	east.MustCLI("init", "--site", "east")
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: Join(t, east, "west", "west.example.test", westPort), Config: westPort, Autosign: true})
	Eventually(t, Patience, "both are connected", func() bool { return east.members()["west.example.test"].State == "connected" })
	east.MustCLI("backup", "create", "--to", place, "--passphrase-file", secret)
	east.MustCLI("ca", "generate", "--certname", "after-the-backup.example.test", "--to", t.TempDir())
	Eventually(t, Patience, "west knows it", func() bool { return west.Certificates()["after-the-backup.example.test"].State == "signed" })

	// While it is there, nobody takes its place.
	data := filepath.Join(TempDir(t), "data")
	file := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, file, eastPort)
	restore := []string{"backup", "restore", "--from", place, "--passphrase-file", secret, "--data", data, "--config", file, "--certname", "east.example.test"}
	if status, _, words := troupe(t, nil, restore...); status != 1 || !strings.Contains(words, "answers at") {
		t.Errorf("the place of a member that is there is taken: exit %d %s", status, words)
	}
	east.Kill()
	mustTroupe(t, nil, restore...)
	back := StartServer(t, ServerOptions{Certname: "east.example.test", Data: data, Config: eastPort, Autosign: true})
	// Whoever holds a stolen backup could do as much: an operator takes it in.
	Eventually(t, Patience, "it waits at west", func() bool {
		var status struct{ Waiting []struct{ Name string } }
		west.JSON(&status, "status")
		return len(status.Waiting) == 1 && status.Waiting[0].Name == "east.example.test"
	})
	if got := west.members()["east.example.test"]; got.State == "connected" {
		t.Errorf("west takes what nobody has admitted: %+v", got)
	}
	west.MustCLI("accept", "east.example.test")
	Eventually(t, Patience, "what was signed after the backup is at the member that is back", func() bool {
		return back.Certificates()["after-the-backup.example.test"].State == "signed"
	})
	Eventually(t, Patience, "both know each other, and the lost one is gone", func() bool {
		a, b := back.members(), west.members()
		return len(a) == 2 && len(b) == 2 && a["west.example.test"].State == "connected" && b["east.example.test"].State == "connected"
	})
	west.MustCLI("ca", "generate", "--certname", "at-last.example.test", "--to", t.TempDir())
	Eventually(t, Patience, "what west signs is known", func() bool { return back.Certificates()["at-last.example.test"].State == "signed" })
	for _, s := range []*Server{back, west} {
		s.MustCLI("journal", "verify")
	}
}
