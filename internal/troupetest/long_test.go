//go:build long

package troupetest

// This file has the stories that need more time, more packages (puppetserver) or more chroots.

import (
	"path/filepath"
	"testing"
)

func TestTheOldestAndTheNewestAgentsRunFromRequestToIdempotence(t *testing.T) {
	t.Run(string(OpenVox9), func(t *testing.T) {
		t.Parallel()
		s := StartServer(t, ServerOptions{Environments: site})
		lifeOfANode(t, s, NewAgent(t, OpenVox9, "node9.example.test", s.Addr))
	})
	t.Run(string(Puppet5), func(t *testing.T) {
		t.Parallel()
		s := StartServer(t, ServerOptions{Environments: site})
		lifeOfANode(t, s, NewAgent(t, Puppet5, "node5.example.test", s.Addr))
	})
}

func TestNothingAcknowledgedIsLostInAHundredKills(t *testing.T) { killAndCount(t, 100) }

// TestAFolderTravelsFromTheRealServerAndBack starts with a CA that the real server made, goes on here, and ends with
// the real server on the exported folder.
func TestAFolderTravelsFromTheRealServerAndBack(t *testing.T) {
	old := StartPuppetServer(t, PuppetServerOptions{Autosign: true, Environments: site})
	veteran := NewAgent(t, Puppet7, "veteran.example.test", old.Addr)
	veteran.Run().want(t, 2, "first run at the real server")
	leaver := NewAgent(t, Puppet8, "leaver.example.test", old.Addr)
	leaver.Run().want(t, 2, "first run of the leaver at the real server")
	old.Stop(t)

	data := filepath.Join(TempDir(t), "data")
	(&Server{t: t, Data: data}).MustCLI("ca", "import", "--cadir", old.CA())
	s := StartServer(t, ServerOptions{Data: data, Environments: site, Autosign: true})
	veteran.Server, leaver.Server = s.Addr, s.Addr
	veteran.Run().want(t, 0, "run here with the old certificate")
	recruit := enrolled(t, s, Puppet8, "recruit.example.test")
	s.MustCLI("ca", "revoke", "--certname", leaver.Certname)
	exported := filepath.Join(TempDir(t), "ca")
	s.MustCLI("ca", "export", "--to", exported)
	s.Stop()

	again := StartPuppetServer(t, PuppetServerOptions{Autosign: true, Environments: site, CA: exported, SSL: old.SSL()})
	veteran.Server, recruit.Server, leaver.Server = again.Addr, again.Addr, again.Addr
	veteran.Run().want(t, 0, "run of the veteran, back at the real server")
	recruit.Run().want(t, 0, "run of the recruit at the real server")
	leaver.Run().want(t, 1, "run of the revoked leaver at the real server")
	again.Stop(t)
}
