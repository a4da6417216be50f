package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// This file examines certificates, revocation lists and keys.

// soon is how long before an end something is said.
const soon = 30 * 24 * time.Hour

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// ends judges one certificate, and returns a text when it is good.
func (x *exam) ends(n *notes, what string, der []byte, remedy string) (good string, cert *x509.Certificate) {
	cert, err := x509.ParseCertificate(der)
	switch {
	case err != nil:
		n.fail(remedy, "%s cannot be read: %s", what, err)
		return "", nil
	case x.now.Before(cert.NotBefore):
		n.fail("set the clock of this machine: timedatectl", "%s is valid from %s, and this machine's clock says %s", what, cert.NotBefore.UTC().Format(time.RFC3339), x.now.UTC().Format(time.RFC3339))
	case x.now.After(cert.NotAfter):
		n.fail(remedy, "%s has ended on %s", what, day(cert.NotAfter))
	case cert.NotAfter.Sub(x.now) < soon:
		n.warn(remedy, "%s ends on %s, in %d days", what, day(cert.NotAfter), int(cert.NotAfter.Sub(x.now).Hours()/24))
	default:
		good = fmt.Sprintf("%s until %s", what, day(cert.NotAfter))
	}
	return good, cert
}

func certificates(_ context.Context, x *exam, n *notes) {
	var good []string
	note := func(text string) {
		if text != "" && !slices.Contains(good, text) { // the issuer may have two
			good = append(good, text)
		}
	}
	const replaceCA = "begin with the certificate that replaces it now: agents must trust it before this one ends (docs/ca.md)"
	renew := x.start() + " (makes a new one)"
	if x.presence == Running {
		renew = x.reload() + " (makes a new one; if not, the log says why)"
	}
	if a := x.authority; !a.missing(n) {
		for _, der := range a.value.Bundle {
			what := "a certificate of the CA"
			if cert := parsed(der); cert != nil {
				what = cert.Subject.CommonName
			}
			text, _ := x.ends(n, what, der, replaceCA)
			note(text)
		}
		x.serverCertificate(n, renew, note)
	} else if a.absent() && x.presence == Stopped && x.config != nil {
		n.unknown(x.start(), "certificates of the CA are not looked at: their list is made at the start")
	}
	if c := x.cluster; !c.missing(n) && c.value.Founded {
		text, _ := x.ends(n, "the infrastructure CA's certificate", c.value.CA, "found a new troupe: it cannot be replaced yet")
		note(text)
		if c.value.Own != nil {
			text, _ = x.ends(n, "this member's certificate for others", c.value.Own, "restart the member, which renews it; if it does not hold the infrastructure CA's key, join again")
			note(text)
		}
	}
	if n.well() && len(good) > 0 {
		n.ok("%s", strings.Join(good, "; "))
	}
}

func (x *exam) serverCertificate(n *notes, renew string, note func(string)) {
	a := x.authority.value
	if a.ServerError != "" {
		n.fail("remove the file and restart the member, which makes a new one", "%s", a.ServerError)
	}
	if a.Server == nil {
		return
	}
	text, cert := x.ends(n, "the server certificate", a.Server, renew)
	note(text)
	if a.Revoked {
		n.fail(renew, "the server certificate is revoked: agents refuse it")
	}
	if cert == nil {
		return
	}
	var lacking []string
	for _, name := range x.servedNames() {
		if cert.VerifyHostname(name) != nil {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) > 0 {
		n.warn(renew, "the server certificate is not good for %s", strings.Join(lacking, ", "))
	}
}

// servedNames are those that agents may use, as the server has them in its certificate.
func (x *exam) servedNames() []string {
	all := []string{x.settings.Certname}
	for _, name := range append(slices.Clone(x.settings.AltNames), "puppet") {
		for _, prefix := range []string{"DNS:", "IP:"} {
			name = strings.TrimPrefix(name, prefix)
		}
		if name != "" && !strings.Contains(name, "*") && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func lists(_ context.Context, x *exam, n *notes) {
	if x.authority.err != nil {
		return // the check of certificates tells
	}
	var good []string
	for i, l := range x.authority.value.Lists {
		remedy := "upload a newer one: PUT /puppet-ca/v1/certificate_revocation_list"
		if i == 0 {
			remedy = "read the member's log for \"renew revocation lists\"; a member that holds the CA's key renews it by itself"
		}
		switch {
		case x.now.After(l.NextUpdate):
			n.fail(remedy, "agents take the revocation list of %s no more since %s", l.Issuer, day(l.NextUpdate))
		case l.NextUpdate.Sub(x.now) < soon:
			n.warn(remedy, "the revocation list of %s ends on %s", l.Issuer, day(l.NextUpdate))
		default:
			good = append(good, fmt.Sprintf("%s until %s", l.Issuer, day(l.NextUpdate)))
		}
	}
	if n.well() && len(good) > 0 {
		n.ok("%s", strings.Join(good, "; "))
	}
}

// keys finds out whether what is sealed opens. No key leaves the function that opens it.
func keys(_ context.Context, x *exam, n *notes) {
	judge := func(folder, what, problem string) {
		if problem == "" {
			return
		}
		// A sealing key that systemd gives to the service is not given to us.
		if _, err := os.Stat(filepath.Join(x.settings.Data, folder, "seal.key")); err != nil && x.presence != Running {
			n.unknown("start the member and ask again; without the systemd credential troupe-seal, restore seal.key from a backup", "%s is sealed with a key that is not in %s/%s", what, x.settings.Data, folder)
			return
		}
		n.fail("restore "+filepath.Join(x.settings.Data, folder)+" from a backup, or the sealing key (docs/ca.md)", "%s: %s", what, problem)
	}
	if x.authority.err == nil {
		a := x.authority.value
		judge("ca", "the CA's key", a.KeyError)
		if a.NoKey {
			n.warn("join again with an empty data folder, to a member that holds it", "this member does not hold the CA's key: it cannot sign or revoke")
		}
	}
	if c := x.cluster; c.err == nil && c.value.Founded {
		if c.value.OwnError != "" {
			judge("cluster", "this member's certificate for others", c.value.OwnError)
		} else if c.value.KeyError != "" {
			n.warn("join again with an empty data folder, to a member that holds it", "the infrastructure CA's key cannot be used: %s", c.value.KeyError)
		}
	}
	if n.well() && x.authority.err == nil {
		n.ok("they open with the sealing key")
	}
}

func agents(_ context.Context, x *exam, n *notes) {
	if x.authority.err != nil {
		return
	}
	a := x.authority.value
	if a.Ending > 0 {
		remedy := "puppet ssl clean on the agent, and a new run; agents of Puppet 8 renew by themselves with ca.allow_auto_renewal: true"
		if x.settings.AutoRenewal {
			remedy = "agents of Puppet 8 renew by themselves; for others: puppet ssl clean on the agent, and a new run"
		}
		more := ""
		if a.Ending > len(a.First) {
			more = ", …"
		}
		n.warn(remedy, "%d of %d certificates end in the next 30 days: %s%s", a.Ending, a.Signed, strings.Join(a.First, ", "), more)
	}
	if n.well() {
		text := fmt.Sprintf("%d certificates, none ends in the next 30 days", a.Signed)
		if a.Ended > 0 {
			text += fmt.Sprintf("; %d have ended", a.Ended)
		}
		if a.Waiting > 0 {
			text += fmt.Sprintf("; %d requests wait (troupe ca list)", a.Waiting)
		}
		n.ok("%s", text)
	}
}
