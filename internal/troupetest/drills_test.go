package troupetest

// This file has the drills of docs/security.md: something is stolen, the thief uses it, the drill shuts it out. That an agent's key
// is shut out by its revocation is told by TestARevokedAgentIsRefusedWithinASecond and TestAnAgentEnrolsAtOneSiteAndRunsAtTheOther.

import (
	"crypto/tls"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// twoMembers are connected members of one troupe.
func twoMembers(t *testing.T) (east, west *Server, eastPort string) {
	t.Helper()
	eastPort, eastConfig := MemberPort(t)
	_, westConfig := MemberPort(t)
	east = StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastConfig, Autosign: true})
	east.MustCLI("init", "--site", "east")
	west = StartServer(t, ServerOptions{Certname: "west.example.test", Data: Join(t, east, "west", "west.example.test", westConfig), Config: westConfig, Autosign: true})
	Eventually(t, Patience, "both are connected", func() bool {
		return east.members()["west.example.test"].State == "connected" && west.members()["east.example.test"].State == "connected"
	})
	return east, west, eastPort
}

// mayList asks for all certificates, which needs pp_cli_auth. It returns the status, or 0 when the connection was refused. A client in
// Go keeps a certificate to itself whose issuer the server does not name, and is then a stranger: 403.
func (s *Server) mayList(identity tls.Certificate) int {
	s.t.Helper()
	answer, err := s.Client(identity).Get(s.URL("/puppet-ca/v1/certificate_statuses/all"))
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}

// TestAStolenDiskIsShutOut has a thief with a copy of a member's data folder. With its sealing key the copy is a CA that signs
// whatever the thief wants; without it, nothing.
func TestAStolenDiskIsShutOut(t *testing.T) {
	t.Parallel()
	east, west, _ := twoMembers(t)
	agent := enrolled(t, east, Puppet7, "web1.example.test")
	west.Stop()
	stolen := &Server{t: t, Data: filepath.Join(TempDir(t), "data")}
	copyTree(t, west.Data, stolen.Data)

	sealed := &Server{t: t, Data: filepath.Join(TempDir(t), "data")}
	copyTree(t, west.Data, sealed.Data)
	for _, part := range []string{"ca", "cluster"} {
		if err := os.Remove(filepath.Join(sealed.Data, part, "seal.key")); err != nil {
			t.Fatal(err)
		}
	}
	status, _, words := sealed.CLI("ca", "generate", "--certname", "admin.example.test", "--ca-client", "--to", t.TempDir())
	if status == 0 || !strings.Contains(words, "seal.key is missing") {
		t.Errorf("a data folder without its sealing key signs: %d %s", status, words)
	}

	forged := stolen.Generate("admin.example.test", "--ca-client")
	if got := east.mayList(forged); got != http.StatusOK {
		t.Fatalf("the forgery is answered %d before the drill: the test proves nothing", got)
	}

	// The drill. The agent's own certificate is known and goes on; the forgery is not.
	east.MustCLI("remove", "west.example.test")
	east.MustCLI("ca", "rollover", "begin", "--compromised")
	if got := east.mayList(forged); got != 0 {
		t.Errorf("the forgery is answered %d after begin --compromised", got)
	}
	agent.Run().want(t, 0, "run of an agent that the thief has nothing to do with")
	east.MustCLI("ca", "rollover", "module", "--to", east.Environments+"/production/modules/troupe_rollover")
	east.WriteCode("production/manifests/rollover.pp", "include troupe_rollover\n")
	agent.Run().want(t, 2, "run that brings the new CA and certificate")
	east.MustCLI("ca", "rollover", "show")
	fresh := east.rollover().issuer(t, "new").Name
	Eventually(t, Patience, "east shows the new issuer", func() bool { return east.shown() == fresh })
	agent.Run().want(t, 0, "run with the new CA and certificate")

	late := stolen.Generate("late.example.test", "--ca-client")
	east.MustCLI("ca", "rollover", "finish", "--compromised")
	for what, identity := range map[string]tls.Certificate{"the first": forged, "a new": late} {
		if got := east.mayList(identity); got == http.StatusOK {
			t.Errorf("%s forgery is answered %d after the roll-over", what, got)
		}
	}
	agent.Run().want(t, 0, "run after the roll-over")

	if r := east.rollover(); r.Open || len(r.Issuers) != 1 || r.Issuers[0].Name != fresh {
		t.Errorf("after the roll-over: %+v", r)
	}
}

// TestARemovedMemberGetsNoKeyOfANewIssuer starts the thief's copy as a member.
func TestARemovedMemberGetsNoKeyOfANewIssuer(t *testing.T) {
	t.Parallel()
	east, west, _ := twoMembers(t)
	east.MustCLI("remove", "west.example.test")
	east.MustCLI("ca", "rollover", "begin", "--compromised")
	east.MustCLI("ca", "rollover", "finish", "--compromised")
	Eventually(t, Patience, "the removed member knows that nobody speaks to it", func() bool { return west.members()["east.example.test"].State != "connected" })
	if r := west.rollover(); r.Open || r.Issuers[0].Name == east.rollover().Issuers[0].Name {
		t.Errorf("the removed member knows the new issuer: %+v", r)
	}
	forged := west.Generate("late.example.test", "--ca-client")
	if got := east.mayList(forged); got == http.StatusOK {
		t.Errorf("what a removed member signed is answered %d", got)
	}
}

// TestAMemberThatWasAwayFetchesTheNewKey has one that is stopped while the issuer rolls over, and another begin at the same time.
func TestAMemberThatWasAwayFetchesTheNewKey(t *testing.T) {
	t.Parallel()
	east, west, _ := twoMembers(t)
	agent := enrolled(t, west, Puppet7, "web1.example.test")
	west.Kill()
	east.MustCLI("ca", "rollover", "begin")
	if r := east.rollover(); r.Signs || len(r.WaitingFor) != 1 || r.WaitingFor[0] != "west.example.test" {
		t.Errorf("with a member away: %+v", r)
	}
	status, _, words := east.CLI("ca", "rollover", "show")
	if status == 0 || !strings.Contains(words, "do not hold the key") {
		t.Errorf("show with a member away: %d %s", status, words)
	}
	// It began one of its own while it heard nobody.
	offline := &Server{t: t, Data: west.Data}
	offline.MustCLI("ca", "rollover", "begin")
	west.Start()
	for _, s := range []*Server{east, west} {
		Eventually(t, Patience, "both issuers are known at "+s.Certname+", and the earlier one signs", func() bool {
			r := s.rollover()
			return r.Signs && len(r.Issuers) == 3 && r.Issuers[0].Held
		})
	}
	if a, b := east.rollover().issuer(t, "new"), west.rollover().issuer(t, "new"); a.Key != b.Key {
		t.Errorf("the members go over to different issuers: %+v and %+v", a, b)
	}
	if e := east.rollover().issuer(t, "extra"); e.Name == "" {
		t.Error("the roll-over that lost is not told")
	}
	agent.Run().want(t, 0, "run at the member that was away")
	east.MustCLI("ca", "rollover", "cancel")
	for _, s := range []*Server{east, west} {
		Eventually(t, Patience, s.Certname+" goes on with the other roll-over", func() bool {
			r := s.rollover()
			return r.Signs && len(r.Issuers) == 2 && r.Issuers[0].Held
		})
	}
	agent.Run().want(t, 0, "run after all that")
}

// TestAStolenTokenIsShutOut has tokens that were read by somebody else, before and after their use.
func TestAStolenTokenIsShutOut(t *testing.T) {
	t.Parallel()
	_, config := MemberPort(t)
	first := StartServer(t, ServerOptions{Certname: "first.example.test", Config: config, Autosign: true})
	first.MustCLI("init")
	var token struct{ ID, Text, Address string }
	join := func(certname string) (int, string) {
		t.Helper()
		_, port := MemberPort(t)
		return tryJoin(t, token.Text+"@"+token.Address, certname, port)
	}
	first.JSON(&token, "token", "create")
	first.MustCLI("token", "revoke", token.ID)
	if status, words := join("thief.example.test"); status == 0 || !strings.Contains(words, "revoked") {
		t.Errorf("a revoked token: %d %s", status, words)
	}
	first.JSON(&token, "token", "create")
	if status, words := join("second.example.test"); status != 0 {
		t.Fatalf("a good token: %d %s", status, words)
	}
	if status, words := join("thief.example.test"); status == 0 {
		t.Errorf("a token that was used is good again: %s", words)
	}
	if got := first.members(); len(got) != 2 {
		t.Errorf("the members are %v", got)
	}
}

// tryJoin runs troupe join for a fresh machine.
func tryJoin(t *testing.T, invitation, certname, config string) (status int, words string) {
	t.Helper()
	dir := TempDir(t)
	file := filepath.Join(dir, "troupe.yaml")
	writeFile(t, file, config)
	cmd := exec.CommandContext(t.Context(), Binary(t), "join", "-", "--data", filepath.Join(dir, "data"), "--confdir", "none", "--config", file, "--certname", certname)
	cmd.Stdin = strings.NewReader(invitation + "\n")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestResealingARunningMember changes the sealing key of a member that serves, and starts it again.
func TestResealingARunningMember(t *testing.T) {
	t.Parallel()
	_, config := MemberPort(t)
	s := StartServer(t, ServerOptions{Config: config, Autosign: true})
	s.MustCLI("init")
	agent := enrolled(t, s, Puppet7, "web1.example.test")
	before := filepath.Join(TempDir(t), "data")
	copyTree(t, s.Data, before)
	s.MustCLI("ca", "reseal")
	agent.Run().want(t, 0, "run after the change of the sealing key")
	s.Generate("one.example.test")
	s.Stop()

	// The old sealing key with the new folder.
	mixed := &Server{t: t, Data: filepath.Join(TempDir(t), "data")}
	copyTree(t, s.Data, mixed.Data)
	for _, part := range []string{"ca", "cluster"} {
		old := readFile(t, filepath.Join(before, part, "seal.key"))
		if old == readFile(t, filepath.Join(s.Data, part, "seal.key")) {
			t.Errorf("the sealing key of %s is the old one", part)
		}
		writeFile(t, filepath.Join(mixed.Data, part, "seal.key"), old)
	}
	if status, _, words := mixed.CLI("ca", "generate", "--certname", "admin.example.test", "--to", t.TempDir()); status == 0 || !strings.Contains(words, "sealed with another key") {
		t.Errorf("the old sealing key opens the new folder: %d %s", status, words)
	}

	// A key for systemd, which counts from the next start with it.
	file := filepath.Join(TempDir(t), "next.key")
	writeFile(t, file, strings.Repeat("5a", 32)+"\n")
	s.Start()
	s.MustCLI("ca", "reseal", "--key-file", file)
	s.Stop()
	s.Start() // once more with the old one
	s.Generate("two.example.test")
	s.MustCLI("ca", "reseal", "--key-file", file)
	s.Stop()
	credentials := TempDir(t)
	writeFile(t, filepath.Join(credentials, "troupe-seal"), readFile(t, file))
	if err := os.Chmod(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"CREDENTIALS_DIRECTORY=" + credentials}
	s.Start()
	agent.Run().want(t, 0, "run with the sealing key of systemd")
	s.Generate("three.example.test")
}
