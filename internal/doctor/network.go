package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/cluster"
)

// This file examines what lies between the member, its agents and the other members: clocks, ports, names.

// How far clocks may differ. A member takes no record from more than five minutes in its future; certificates and tokens are
// judged by the clock, too. The clocks of others are seen to a second or so.
const (
	clockFail = 5 * time.Minute
	clockWarn = 3 * time.Second
)

const clockRemedy = "timedatectl, chronyc tracking: keep the time of every machine with NTP"

func clock(_ context.Context, x *exam, n *notes) {
	var compared, ahead, behind int
	for _, p := range x.probes.value {
		if p.Self || p.Problem != "" {
			continue
		}
		compared++
		off := p.Ahead.Abs().Round(time.Second)
		words := "ahead of"
		if p.Ahead < 0 {
			words = "behind"
		}
		switch {
		case off > clockFail:
			n.fail(clockRemedy, "the clock of %s is %v %s this one: records of the one that is ahead are not taken", p.Name, off, words)
		case off > clockWarn:
			n.warn(clockRemedy, "the clock of %s is %v %s this one", p.Name, off, words)
		default:
			continue
		}
		if p.Ahead > 0 {
			ahead++
		} else {
			behind++
		}
	}
	if off := max(ahead, behind); compared > 1 && off == compared {
		n.fail("set the clock of this machine: timedatectl set-ntp true", "all %d others agree against this machine", compared)
	}
	if x.journal.err == nil && !x.journal.value.Newest.IsZero() {
		switch lead := x.journal.value.Newest.Sub(x.now).Round(time.Second); {
		case lead > clockFail:
			n.fail("set the clock of this machine: timedatectl; if it is right, it was wrong before: other members take the records when their time has come",
				"the newest record of the journal is from %v in the future (%s)", lead, x.journal.value.Newest.UTC().Format(time.RFC3339))
		case lead > clockWarn:
			n.warn(clockRemedy, "the newest record of the journal is from %v in the future", lead)
		}
	}
	if synchronized, err := x.host.kernelTime(); err == nil && !synchronized {
		n.warn("apt-get install chrony, or: timedatectl set-ntp true", "nobody keeps this machine's clock: the kernel says that it is not synchronized")
	}
	switch {
	case !n.well():
	case compared > 0:
		n.ok("as those of %d other members, to a second or so", compared)
	default:
		n.ok("%s; there is no other member to compare with", x.now.UTC().Format(time.RFC3339))
	}
}

// portOf splits an address that something listens on.
func portOf(listen string) (host, port string) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", listen
	}
	return host, port
}

// free finds out whether a port could be had, by having it for a moment.
func free(ctx context.Context, n *notes, listen, setting string) {
	_, port := portOf(listen)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		n.fail(fmt.Sprintf("find who has it (ss -ltnp 'sport = :%s'; a puppetserver?) and stop it, or set %s to another port", port, setting), "another process has %s", listen)
	case errors.Is(err, syscall.EACCES):
		n.unknown("sudo troupe doctor", "no permission for a port as low as %s", port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		n.fail("set "+setting+" to an address of this machine: ip address", "%s is no address of this machine", listen)
	case err != nil:
		n.fail("set "+setting+" to an address such as :"+port, "%s: %s", listen, err)
	default:
		if err := l.Close(); err != nil {
			n.unknown("", "%s: %s", listen, err)
			return
		}
		n.ok("%s is free", listen)
	}
}

func agentsPort(ctx context.Context, x *exam, n *notes) {
	if x.presence != Running {
		if x.inUse() == "" && x.settings.Listen != "" {
			free(ctx, n, x.settings.Listen, "listen")
		}
		return
	}
	if x.process.err != nil {
		return // the check of the member tells
	}
	host, port := portOf(x.process.value.Address)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	cert, err := x.handshake(ctx, net.JoinHostPort(host, port))
	if err != nil {
		n.fail(x.restart(), "%s does not answer with the CA's certificate: %s", x.process.value.Address, err)
		return
	}
	if a := x.authority; a.err == nil && a.value.Server != nil && !cert.Equal(parsed(a.value.Server)) {
		n.warn(x.reload(), "%s shows another certificate than the one in the data folder", x.process.value.Address)
	}
	// The way of an agent. A balancer may stand there, which has a certificate of its own.
	if found, err := x.host.lookup(ctx, x.settings.Certname); err == nil && len(found) > 0 {
		addr := net.JoinHostPort(found[0], port)
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err != nil {
			n.warn("open the port in the firewall, or let the name lead to this machine", "agents that use the name %s do not reach the member: %s", x.settings.Certname, err)
		} else if err := conn.Close(); err != nil {
			n.unknown("", "%s: %s", addr, err)
		}
	}
	if n.well() {
		n.ok("%s answers with the server certificate", x.process.value.Address)
	}
}

func parsed(der []byte) *x509.Certificate {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil // the check of certificates tells
	}
	return cert
}

// handshake returns the certificate that is shown at an address, if it is of our CA.
func (x *exam) handshake(ctx context.Context, addr string) (*x509.Certificate, error) {
	pool := x509.NewCertPool()
	for _, der := range x.authority.value.Bundle {
		if cert := parsed(der); cert != nil {
			pool.AddCert(cert)
		}
	}
	var shown *x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // the chain is checked below; the address is no name
		VerifyConnection: func(cs tls.ConnectionState) error {
			shown = cs.PeerCertificates[0]
			if len(x.authority.value.Bundle) == 0 {
				return nil // there is nothing to check it with
			}
			above := x509.NewCertPool()
			for _, cert := range cs.PeerCertificates[1:] {
				above.AddCert(cert)
			}
			_, err := shown.Verify(x509.VerifyOptions{Roots: pool, Intermediates: above, CurrentTime: shown.NotBefore.Add(time.Second)})
			return err // its time, the check of certificates judges
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return shown, conn.Close()
}

func memberPort(ctx context.Context, x *exam, n *notes) {
	if x.presence != Running {
		if x.cluster.err == nil && x.cluster.value.Founded && x.settings.ClusterListen != "" {
			free(ctx, n, x.settings.ClusterListen, "cluster.listen")
		}
		return
	}
	if x.cluster.missing(n) {
		return
	}
	if !x.cluster.value.Founded {
		n.ok("closed: this member serves alone (troupe init opens it)")
		return
	}
	if x.probes.missing(n) {
		return
	}
	i := slices.IndexFunc(x.probes.value, func(p cluster.Probe) bool { return p.Self })
	if i < 0 {
		return // it was removed, see members
	}
	self := x.probes.value[i]
	if self.Problem != "" {
		n.fail("set cluster.address to a host:port by which others reach this machine, open it in the firewall, and see the log for \"other members cannot reach this one\"",
			"this member does not answer at %s, which it announces to others: %s", self.Address, self.Problem)
		return
	}
	n.ok("%s answers as this member", self.Address)
}

// slowNames is how long an answer of DNS may take: agents and members wait for it again and again.
const slowNames = time.Second

func names(ctx context.Context, x *exam, n *notes) {
	if x.settings.Certname == "" {
		return
	}
	own, err := x.host.addresses()
	if err != nil {
		n.unknown("", "addresses of this machine: %s", err)
	}
	var good []string
	var slowest time.Duration
	for _, name := range x.servedNames() {
		if net.ParseIP(name) != nil {
			continue
		}
		asked := time.Now()
		found, err := x.host.lookup(ctx, name)
		slowest = max(slowest, time.Since(asked))
		switch implied := name == "puppet" && !slices.Contains(x.settings.AltNames, name); {
		case err != nil && implied:
			good = append(good, "puppet has no address: agents need the setting server")
		case err != nil && name == x.settings.Certname:
			n.fail("give it an address in DNS (or in /etc/hosts of every machine), or set certname", "%s, the member's own name, does not resolve: %s", name, reason(err))
		case err != nil:
			n.warn("give it an address in DNS, or remove it from dns_alt_names", "%s does not resolve: %s", name, reason(err))
		case name == x.settings.Certname && !anyOwn(found, own):
			n.warn("let it lead to this machine, unless a balancer stands there", "%s leads to %s, which is not this machine", name, strings.Join(found, ", "))
		default:
			good = append(good, name+" "+strings.Join(found, " ")+x.back(ctx, name, found))
		}
	}
	if slowest > slowNames {
		n.warn("see which name server answers late: resolvectl query, dig", "an answer of DNS took %v", slowest.Round(time.Millisecond))
	}
	if len(good) > 0 {
		n.ok("%s", strings.Join(good, "; "))
	}
}

// reason leaves out what an error of DNS says twice.
func reason(err error) string {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return d.Err
	}
	return err.Error()
}

func anyOwn(found []string, own []net.IP) bool {
	return slices.ContainsFunc(found, func(text string) bool {
		ip := net.ParseIP(text)
		return ip != nil && (ip.IsLoopback() || slices.ContainsFunc(own, ip.Equal))
	})
}

// back says what the reverse look-up gives when that is not the name. Nothing depends on it but what people read in logs.
func (x *exam) back(ctx context.Context, name string, found []string) string {
	if ip := net.ParseIP(found[0]); ip == nil || ip.IsLoopback() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, slowNames)
	defer cancel()
	back, err := x.host.reverse(ctx, found[0])
	switch {
	case err != nil:
		return " (no reverse name)"
	case !slices.ContainsFunc(back, func(b string) bool { return strings.EqualFold(strings.TrimSuffix(b, "."), name) }):
		return " (its reverse name is " + strings.TrimSuffix(back[0], ".") + ")"
	}
	return ""
}

// farBehind is more than a member has in flight in a good moment.
const farBehind = 1000

func members(_ context.Context, x *exam, n *notes) {
	if x.cluster.err != nil {
		return // the check of certificates tells
	}
	c := x.cluster.value
	switch {
	case c.Joining:
		n.fail("run the same troupe join again, or begin with an empty data folder", "joining a troupe was interrupted: the member does not start")
	case c.Removed:
		n.fail("stop it; to come back, join with an empty data folder", "this member was removed from its troupe: nobody speaks to it")
	}
	if !c.Founded {
		if n.well() && x.presence != Fresh {
			n.ok("this member serves alone")
		}
		return
	}
	if x.probes.missing(n) {
		return
	}
	others := 0
	for _, p := range x.probes.value {
		if p.Self {
			continue
		}
		others++
		if p.Problem != "" {
			n.fail(fmt.Sprintf("see whether it runs (troupe doctor there) and whether port %s is open from here; if it is gone for good: troupe remove %s", portText(p.Address), p.Name),
				"%s of site %s does not answer at %s: %s", p.Name, p.Site, p.Address, p.Problem)
		}
		if p.Version != x.version && x.version != "" {
			n.warn("bring all members to one version", "%s runs version %s, and this program is %s", p.Name, p.Version, x.version)
		}
	}
	x.announced(n)
	for _, m := range x.status.value.Members {
		for _, alarm := range m.Alarms {
			n.fail("see docs/sites.md; troupe journal verify on both members", "%s: %s", m.Name, alarm)
		}
		switch {
		case m.State == adminapi.StateUnknown && m.Error != "" && !x.unheard(m.Name):
			n.warn("wait some seconds and look at troupe status", "%s could not be followed lately: %s", m.Name, m.Error)
		case m.State != adminapi.StateSelf && m.Behind > farBehind:
			n.warn("look at troupe status --watch: the number should fall", "%s is %d records behind", m.Name, m.Behind)
		}
	}
	if n.well() {
		n.ok("%d others answer", others)
	}
}

func portText(address string) string {
	_, port := portOf(address)
	return port
}

// unheard reports whether the probe of a member has failed, which is said already.
func (x *exam) unheard(name string) bool {
	return slices.ContainsFunc(x.probes.value, func(p cluster.Probe) bool { return p.Name == name && p.Problem != "" })
}

// announced judges the addresses that members announce to each other. Members that share a machine may use its loopback; one
// that does among others is not reached by them.
func (x *exam) announced(n *notes) {
	var loop, far []cluster.Probe
	for _, p := range x.probes.value {
		switch {
		case len(p.Addresses) == 0:
			if p.Self { // of others, the failed probe tells
				n.fail("set cluster.address to a host:port that others can resolve", "the address %s that this member announces does not resolve", p.Address)
			}
		case slices.ContainsFunc(p.Addresses, func(a string) bool { ip := net.ParseIP(a); return ip != nil && ip.IsLoopback() }):
			loop = append(loop, p)
		default:
			far = append(far, p)
		}
	}
	for _, p := range loop {
		// A host's own name often leads to its loopback on the host itself. What counts is what others resolve.
		if len(far) > 0 {
			n.warn("set cluster.address of that member to an address by which the others reach it, or mend /etc/hosts", "%s announces %s, which leads to this machine's loopback here", p.Name, p.Address)
		}
	}
	if len(far) == 0 && len(loop) > 1 {
		n.warn("set cluster.address on each of them, as soon as one is elsewhere", "all %d members announce loopback addresses: they reach each other on this machine only", len(loop))
	}
}
