//go:build long

package dns_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/edge/dns"
	"troupe/internal/troupetest"
)

// TestResolversOfTheOldestAndNewestAgentsClimbAsMeant needs the chroots of both.
func TestResolversOfTheOldestAndNewestAgentsClimbAsMeant(t *testing.T) {
	climbs(t, troupetest.Puppet5)
	climbs(t, troupetest.OpenVox9)
}

// output collects what a program prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// knot runs Knot DNS as a secondary of a zone at an address, and returns what it logs.
func knot(t *testing.T, primary, listen netip.AddrPort, secret string) *output {
	t.Helper()
	dir := troupetest.TempDir(t)
	config := filepath.Join(dir, "knot.conf")
	text := fmt.Sprintf(`server:
    listen: %s
    rundir: %s
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: %[2]s
log:
  - target: stderr
    any: info
key:
  - id: copy.example.com
    algorithm: hmac-sha256
    secret: %[3]s
remote:
  - id: primary
    address: %[4]s
    key: copy.example.com
acl:
  - id: told
    address: 127.0.0.1
    key: copy.example.com
    action: notify
zone:
  - domain: example.com
    storage: %[2]s
    master: primary
    acl: told
`, strings.Replace(listen.String(), ":", "@", 1), dir, secret, strings.Replace(primary.String(), ":", "@", 1))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said := &output{}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "knotd", "-c", config)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = troupetest.Patience
	if err := cmd.Start(); err != nil {
		t.Fatalf("knotd: %v (tools/packages.sh knot)", err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it ends by a signal
		if t.Failed() {
			t.Logf("knotd said:\n%s", said)
		}
	})
	return said
}

func TestKnotCopiesTheZoneAndFollowsADeath(t *testing.T) {
	const secret = "c2VjcmV0IGtleSBvZiBhIHRlc3QsIGxvbmcgZW5vdWdo"
	s := twoSites()
	listen := freePort(t)
	o := options(s)
	o.Now = nil
	o.NotifyEvery = time.Second
	o.Keys = map[string]dns.Key{"copy.example.com": {Secret: secret}}
	o.Secondaries = []dns.Secondary{{Addr: listen, Key: "copy.example.com"}}
	primary := netip.MustParseAddrPort(serveZone(t, o))
	said := knot(t, primary, listen, secret)

	ladder := func() string {
		c := &wire.Client{Timeout: 2 * time.Second}
		r, _, err := c.ExchangeContext(t.Context(), ask("_x-puppet._tcp.site-a.example.com", wire.TypeSRV), listen.String())
		if err != nil {
			return err.Error()
		}
		var targets []string
		for _, rr := range r.Answer {
			targets = append(targets, rr.(*wire.SRV).Target)
		}
		return strings.Join(targets, " ")
	}
	const three, two = "master-1.site-a.example.com. master-2.site-a.example.com. master.site-b.example.com.", "master-2.site-a.example.com. master.site-b.example.com."
	sorted := func(want string) func() bool {
		return func() bool {
			got := strings.Fields(ladder())
			for name := range strings.FieldsSeq(want) {
				if !strings.Contains(strings.Join(got, " "), name) {
					return false
				}
			}
			return len(got) == len(strings.Fields(want))
		}
	}
	troupetest.Eventually(t, troupetest.Patience, "the copy has three servers", sorted(three))
	s.edge("a1", kill)
	troupetest.Eventually(t, troupetest.Patience, "the copy has lost the dead one", sorted(two))
	if !strings.Contains(said.String(), "notify, incoming") {
		t.Errorf("knotd was not told of the change:\n%s", said)
	}
	// What it copied is what it was given: the zone checks out record by record.
	if out := dig(t, listen.String(), "puppet.example.com", "A", "+short"); out != "192.0.2.2\n" {
		t.Errorf("the copy answers %q for the address, want the one that serves at the default site", out)
	}
}
