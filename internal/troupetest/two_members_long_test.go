//go:build long

package troupetest

// These stories have two members and agents of all generations.

import (
	"path/filepath"
	"testing"
)

// twoSites are a member with the given data, which begins a troupe, and one of another site.
func twoSites(t *testing.T, data string) (east, west *Server) {
	t.Helper()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east = StartServer(t, ServerOptions{Certname: "east.example.test", Data: data, Config: eastPort, Environments: site, Autosign: true})
	east.MustCLI("init", "--site", "east")
	west = StartServer(t, ServerOptions{Certname: "west.example.test", Data: Join(t, east, "west", "west.example.test", westPort), Config: westPort, Environments: site, Autosign: true})
	return east, west
}

func TestEveryGenerationEnrolsAtOneSiteAndRunsAtTheOther(t *testing.T) {
	east, west := twoSites(t, "")
	var agents []*Agent
	for i, g := range []Generation{Puppet5, Puppet7, Puppet8, OpenVox9} {
		first := []*Server{east, west}[i%2]
		a := enrolled(t, first, g, "node-"+string(g)+".example.test")
		a.Server = []*Server{west, east}[i%2].Addr
		a.Run().want(t, 0, "run of "+a.Certname+" at the other site")
		agents = append(agents, a)
	}
	east.Kill()
	for _, a := range agents {
		a.Server = west.Addr
		a.Run().want(t, 0, "run of "+a.Certname+" after the death of a site")
	}
	recruit := enrolled(t, west, Puppet8, "recruit.example.test")
	east.Start()
	recruit.Server = east.Addr
	recruit.Run().want(t, 0, "run of the recruit at the site that is back")
}

// TestVeteransOfARealServerOutliveTheMemberThatTookItsCA has agents that hold what they got from the real server long ago: its
// ca.pem, and a revocation list that the oldest of them never fetch again.
func TestVeteransOfARealServerOutliveTheMemberThatTookItsCA(t *testing.T) {
	old := StartPuppetServer(t, PuppetServerOptions{Autosign: true, Environments: site})
	var veterans []*Agent
	for _, g := range []Generation{Puppet5, Puppet7, Puppet8} {
		a := NewAgent(t, g, "veteran-"+string(g)+".example.test", old.Addr)
		a.Run().want(t, 2, "first run at the real server")
		veterans = append(veterans, a)
	}
	old.Stop(t)

	data := filepath.Join(TempDir(t), "data")
	(&Server{t: t, Data: data}).MustCLI("ca", "import", "--cadir", old.CA())
	east, west := twoSites(t, data)
	for _, a := range veterans {
		for _, s := range []*Server{east, west} {
			a.Server = s.Addr
			a.Run().want(t, 0, "run of "+a.Certname+" at "+s.Certname)
		}
	}
	east.Kill()
	for _, a := range veterans {
		a.Server = west.Addr
		a.Run().want(t, 0, "run of "+a.Certname+" after the loss of the member that took the CA")
	}
	west.MustCLI("ca", "revoke", "--certname", veterans[0].Certname)
	veterans[0].Run().want(t, 1, "run of a revoked veteran")
}
