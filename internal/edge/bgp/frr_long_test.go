//go:build long

package bgp

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// This file has FRR as the router: sessions and BFD of another hand than bird's.

// frr is a router by FRR's zebra, bgpd and bfdd on a machine.
type frr struct {
	*machine

	dir string
}

// frrFolder is where Debian has FRR's daemons.
const frrFolder = "/usr/lib/frr/"

func (m *machine) frr(bgp, bfd string) *frr {
	m.t.Helper()
	if _, err := os.Stat(frrFolder + "bgpd"); err != nil {
		m.t.Fatalf("%v: run tools/packages.sh frr", err)
	}
	dir, err := os.MkdirTemp("/tmp", "troupe-frr-") // its daemons are another user's, who cannot enter a test's folder
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { os.RemoveAll(dir) })
	configs := map[string]string{"zebra": "", "bfdd": bfd, "bgpd": bgp}
	for daemon, text := range configs {
		if err := os.WriteFile(filepath.Join(dir, daemon+".conf"), []byte("frr defaults traditional\n"+text), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	m.run("chown", "-R", "frr:frr", dir)
	f := &frr{machine: m, dir: dir}
	for _, daemon := range []string{"zebra", "bfdd", "bgpd"} {
		args := []string{"netns", "exec", m.ns, frrFolder + daemon, "-f", filepath.Join(dir, daemon+".conf"), "-i", filepath.Join(dir, daemon+".pid"), "-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir, "-P", "0", "--log", "stdout"}
		if daemon == "bfdd" {
			args = append(args, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		}
		m.start(daemon, exec.Command("ip", args...))
		eventually(m.t, daemon+" to answer", func() bool {
			return exec.Command("vtysh", "--vty_socket", dir, "-d", daemon, "-c", "show version").Run() == nil
		})
	}
	return f
}

func (f *frr) ask(daemon, command string) string {
	f.t.Helper()
	return f.run("vtysh", "--vty_socket", f.dir, "-d", daemon, "-c", command)
}

const frrBFD = `
bfd
 profile edges
  receive-interval 300
  transmit-interval 300
  detect-multiplier 3
 exit
exit
`

const frrBGP = `
route-map all permit 10
exit
router bgp 5408
 bgp router-id 62.217.126.166
 neighbor 62.217.126.167 remote-as 65500
 neighbor 62.217.126.167 bfd profile edges
 neighbor 62.217.126.167 timers connect 1
 neighbor 2001:db8:126::167 remote-as 65500
 neighbor 2001:db8:126::167 bfd profile edges
 neighbor 2001:db8:126::167 timers connect 1
 address-family ipv4 unicast
  neighbor 62.217.126.167 route-map all in
  no neighbor 2001:db8:126::167 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 2001:db8:126::167 activate
  neighbor 2001:db8:126::167 route-map all in
 exit-address-family
exit
`

// TestFRRSeesWhatTheSiteDoes: announced over IPv4 and IPv6, in its kernel, as about to go in a drain, and gone soon after a cut, by BFD.
func TestFRRSeesWhatTheSiteDoes(t *testing.T) {
	p := newPair(t)
	f := p.router.frr(frrBGP, frrBFD)
	s := p.edge.speaker(p.options(func(o *Options) {
		o.Prefixes = append(o.Prefixes, netip.MustParsePrefix(service6))
		o.Neighbors[0].BFD, o.Neighbors[0].HoldTime = &BFD{}, 90*time.Second
		o.Neighbors = append(o.Neighbors, Neighbor{Address: netip.MustParseAddr("2001:db8:126::166"), ASN: 5408, BFD: &BFD{}, HoldTime: 90 * time.Second})
		o.Grace = 3 * time.Second
	}))
	up := func(st Status) bool {
		return established(st) && st.Neighbors[0].BFD == "up" && st.Neighbors[1].BFD == "up" && len(st.Alarms) == 0
	}
	s.until("both sessions and BFD", up)
	has := func(yes bool) time.Duration {
		t.Helper()
		begin := time.Now()
		eventually(t, "the routes", func() bool {
			four := strings.Contains(p.router.in("ip", "route"), "62.217.126.165 ")
			six := strings.Contains(p.router.in("ip", "-6", "route"), "2001:db8:165::1 ")
			return four == yes && six == yes
		})
		return time.Since(begin)
	}
	s.tell("serve")
	has(true)
	p.edge.cut("to-router")
	t.Logf("gone from the kernel %v after the cut", has(false))
	p.edge.heal()
	t.Logf("back %v after the repair", has(true))
	s.until("BFD to be up again", up)

	s.tell("drain")
	eventually(t, "the word that it is about to go", func() bool {
		return strings.Contains(f.ask("bgpd", "show bgp ipv4 unicast 62.217.126.165/32"), "graceful-shutdown") &&
			strings.Contains(f.ask("bgpd", "show bgp ipv6 unicast 2001:db8:165::1/128"), "graceful-shutdown")
	})
	has(false)
	if !established(s.status()) {
		t.Error("a session ended with the drain")
	}
}
