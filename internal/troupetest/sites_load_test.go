package troupetest

// This file is the work that goes on while faults strike, and the checker that knows afterwards what was acknowledged.

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
)

// A record of what members have acknowledged. Whatever is in it must be there for ever.
type acknowledged struct {
	mu        sync.Mutex
	serials   map[string]string // of certificates by name, hexadecimal
	reports   map[string]string // certname by transaction_uuid
	catalogs  int
	failures  []string // whole steps that no member of the list served
	moved     int      // requests that a second member served because the first did not
	slowest   time.Duration
	slowestOf string
}

func newAcknowledged() *acknowledged {
	return &acknowledged{serials: map[string]string{}, reports: map[string]string{}}
}

func (a *acknowledged) note(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// summary is one line for the record.
func (a *acknowledged) summary() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d certificates, %d reports, %d catalogs; %d steps failed, %d requests went to the next member, slowest %v (%s)",
		len(a.serials), len(a.reports), a.catalogs, len(a.failures), a.moved, a.slowest.Round(10*time.Millisecond), a.slowestOf)
}

// A worker is a node of a site that works without pause. It asks the members of its list in their order, as server_list does.
type worker struct {
	t        *testing.T
	book     *acknowledged
	certname string
	node     *Client
	stranger *Client
	members  []*SiteMember
	done     int
}

// load are the workers of some sites.
type load struct {
	book   *acknowledged
	stop   context.CancelFunc
	all    sync.WaitGroup
	roots  *x509.CertPool
	probes map[string]*worker // one a site, which asks the members of that site only
}

// startLoad begins with n workers at each of the sites; each prefers the members of its own site. tag is part of their names.
func (s *Sites) startLoad(t *testing.T, book *acknowledged, tag string, n int, members ...*SiteMember) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{book: book, stop: stop, roots: s.Bundle(members[0]), probes: map[string]*worker{}}
	var sites []string
	for _, m := range members {
		if !slices.Contains(sites, m.Site) {
			sites = append(sites, m.Site)
		}
	}
	for _, site := range sites {
		order := slices.Clone(members)
		slices.SortStableFunc(order, func(a, b *SiteMember) int {
			return strings.Compare(map[bool]string{true: "a", false: "b"}[a.Site == site], map[bool]string{true: "a", false: "b"}[b.Site == site])
		})
		for i := range n {
			w := s.worker(t, l, site, fmt.Sprintf("%s-%s-%d.example.test", tag, site, i), members[0], order)
			// Half of them begin with the second member of the site.
			if i%2 == 1 && len(order) > 1 && order[1].Site == site {
				w.members = slices.Concat(order[1:2], order[:1], order[2:])
			}
			l.all.Go(func() { w.run(ctx) })
		}
		own := slices.DeleteFunc(slices.Clone(order), func(m *SiteMember) bool { return m.Site != site })
		l.probes[site] = s.worker(t, l, site, tag+"-"+site+"-probe.example.test", members[0], own)
	}
	t.Cleanup(l.end)
	return l
}

// end stops the workers. It may be called twice.
func (l *load) end() { l.stop(); l.all.Wait() }

func (s *Sites) worker(t *testing.T, l *load, site, certname string, first *SiteMember, members []*SiteMember) *worker {
	t.Helper()
	pair := first.Generate(certname)
	return &worker{
		t: t, book: l.book, certname: certname, members: members,
		node: s.Client(site, l.roots, pair), stranger: s.Client(site, l.roots),
	}
}

func (w *worker) run(ctx context.Context) {
	defer w.node.Close()
	defer w.stranger.Close()
	for n := 0; ctx.Err() == nil; n++ {
		step, name := w.enrol, "enrol"
		switch {
		case n%20 == 7:
			step, name = w.catalog, "catalog"
		case n%3 != 0:
			step, name = w.report, "report"
		}
		begun := time.Now()
		err := step(ctx)
		took := time.Since(begun)
		if ctx.Err() != nil {
			return
		}
		w.book.note(func() {
			if took > w.book.slowest {
				w.book.slowest, w.book.slowestOf = took, name
			}
			if err != nil {
				w.book.failures = append(w.book.failures, fmt.Sprintf("%s %s of %s after %v: %v", begun.Format("15:04:05.000"), name, w.certname, took.Round(time.Millisecond), err))
			}
		})
		// A node is no benchmark: disks and CPUs are to be left for what is to be seen.
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
		}
	}
}

// ask sends a request to the first member that answers it with one of the statuses.
func (w *worker) ask(ctx context.Context, c *Client, method, path, contentType, body string, statuses ...int) (string, error) {
	var errs []error
	for i, m := range w.members {
		status, text, err := c.Do(ctx, m, method, path, contentType, body)
		if err == nil && slices.Contains(statuses, status) {
			if i > 0 {
				w.book.note(func() { w.book.moved++ })
			}
			return text, nil
		}
		if err == nil {
			err = fmt.Errorf("%d %.200s", status, text)
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.Certname, err))
	}
	return "", errors.Join(errs...)
}

// enrol asks for a certificate, which every member signs at once, and fetches it. A request whose answer was lost is sent to the next
// member, which may know it.
func (w *worker) enrol(ctx context.Context) error {
	w.done++
	name := fmt.Sprintf("n%d-%x.%s", w.done, rand.Uint64(), w.certname)
	if _, err := w.ask(ctx, w.stranger, http.MethodPut, "/puppet-ca/v1/certificate_request/"+name, "text/plain", csr(w.t, name), http.StatusOK, http.StatusBadRequest); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	text, err := w.ask(ctx, w.stranger, http.MethodGet, "/puppet-ca/v1/certificate/"+name, "", "", http.StatusOK)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return fmt.Errorf("no certificate: %.200s", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	w.book.note(func() { w.book.serials[name] = fmt.Sprintf("%X", cert.SerialNumber) })
	return nil
}

func (w *worker) report(ctx context.Context) error {
	id := fmt.Sprintf("%08x-0000-4000-8000-%012x", rand.Uint32(), rand.Uint64()>>16)
	if _, err := w.ask(ctx, w.node, http.MethodPut, "/puppet/v3/report/"+w.certname+"?environment=production", "application/json", reportOf(w.certname, id).Body, http.StatusOK); err != nil {
		return err
	}
	w.book.note(func() { w.book.reports[id] = w.certname })
	return nil
}

func (w *worker) catalog(ctx context.Context) error {
	_, err := w.ask(ctx, w.node, http.MethodPost, "/puppet/v3/catalog/"+w.certname+"?environment=production", "application/x-www-form-urlencoded", catalogForm("production", w.certname), http.StatusOK)
	if err == nil {
		w.book.note(func() { w.book.catalogs++ })
	}
	return err
}

// everything is what a site must go on to do: a node enrols, gets its catalog, reports; the lists of revoked certificates are there.
func (w *worker) everything(ctx context.Context) error {
	_, list := w.ask(ctx, w.stranger, http.MethodGet, "/puppet-ca/v1/certificate_revocation_list/ca", "", "", http.StatusOK)
	_, node := w.ask(ctx, w.node, http.MethodGet, "/puppet/v3/node/"+w.certname+"?environment=production", "", "", http.StatusOK)
	return errors.Join(list, node, w.enrol(ctx), w.catalog(ctx), w.report(ctx))
}

// serves lets the probe of a site do everything once, and returns how long that took since the moment given.
func (l *load) serves(t *testing.T, site string, since time.Time) time.Duration {
	t.Helper()
	if err := l.probes[site].everything(t.Context()); err != nil {
		t.Errorf("site %s does not serve: %v", site, err)
	}
	return time.Since(since)
}

// heads returns where each chain ends in the journal of a member, as the file says.
func (s *Server) heads(t *testing.T) map[string]string {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(s.Data, "journal", "journal.db"), 1, "query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT origin, stream, last, hex(last_hash) FROM chain WHERE last > 0")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var origin, hash string
		var stream, number int
		if err := rows.Scan(&origin, &stream, &number, &hash); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("%s/%d", origin, stream)] = fmt.Sprintf("%d %s", number, hash)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// equalAfter waits until all chains of all members have the same ends, and returns how long that took since the moment given.
func equalAfter(t *testing.T, since time.Time, members ...*SiteMember) time.Duration {
	t.Helper()
	Eventually(t, Patience, "all members have the same records", func() bool {
		first := fmt.Sprint(members[0].heads(t))
		for _, m := range members[1:] {
			if fmt.Sprint(m.heads(t)) != first {
				return false
			}
		}
		return true
	})
	return time.Since(since)
}

// check looks at every member for everything that was acknowledged. The members must be equal already, and the load be over.
func (a *acknowledged) check(t *testing.T, s *Sites, members ...*SiteMember) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	certnames := map[string]bool{}
	for _, certname := range a.reports {
		certnames[certname] = true
	}
	for _, m := range members {
		// What has arrived in the journal is folded a moment later.
		var known map[string]Certificate
		Eventually(t, Patience, m.Certname+" lists all certificates that were given out", func() bool {
			known = m.Certificates()
			for name := range a.serials {
				if known[name].State == "" {
					return false
				}
			}
			return true
		})
		for name, serial := range a.serials {
			if c := known[name]; c.State != "signed" || strings.TrimLeft(strings.TrimPrefix(strings.ToUpper(c.SerialNumber), "0X"), "0") != serial {
				t.Errorf("%s: the certificate of %s with serial %s was given out; here is %+v", m.Certname, name, serial, c)
			}
		}
		stored := map[string]int{}
		for certname := range certnames {
			for _, r := range m.Reports(certname) {
				stored[r.TransactionUUID]++
			}
		}
		for id := range a.reports {
			if stored[id] != 1 {
				t.Errorf("%s: the report %s is stored %d times", m.Certname, id, stored[id])
			}
		}
		for id, n := range stored {
			if n != 1 {
				t.Errorf("%s: the report %s is stored %d times", m.Certname, id, n)
			}
		}
		m.MustCLI("journal", "verify")
		s.checkLists(t, m)
	}
}

// withoutReportsThatWent takes the reports out of the ledger that a member does not have, and returns how many those are.
func (a *acknowledged) withoutReportsThatWent(m *SiteMember) (gone int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	stored := map[string]bool{}
	asked := map[string]bool{}
	for id, certname := range a.reports {
		if !asked[certname] {
			asked[certname] = true
			for _, r := range m.Reports(certname) {
				stored[r.TransactionUUID] = true
			}
		}
		if !stored[id] {
			delete(a.reports, id)
			gone++
		}
	}
	return gone
}

// checkLists verifies what a member publishes with OpenSSL: list and certificates are of the same issuer, a certificate that was
// revoked is refused, another is good.
func (s *Sites) checkLists(t *testing.T, m *SiteMember) {
	t.Helper()
	dir := t.TempDir()
	c := s.Client(m.Site, s.Bundle(m))
	defer c.Close()
	for file, path := range map[string]string{"crl.pem": "/puppet-ca/v1/certificate_revocation_list/ca", "ca.pem": "/puppet-ca/v1/certificate/ca"} {
		status, text, err := c.Do(t.Context(), m, http.MethodGet, path, "", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s of %s: %d %v", path, m.Certname, status, err)
		}
		writeFile(t, filepath.Join(dir, file), text)
	}
	if out, err := exec.CommandContext(t.Context(), "openssl", "crl", "-in", filepath.Join(dir, "crl.pem"), "-CAfile", filepath.Join(dir, "ca.pem"), "-noout").CombinedOutput(); err != nil || !strings.Contains(string(out), "verify OK") {
		t.Errorf("%s: OpenSSL does not verify its list: %v\n%s", m.Certname, err, out)
	}
	for name, certificate := range m.Certificates() {
		revoked := certificate.State == "revoked"
		if !revoked && name != m.Certname {
			continue
		}
		status, text, err := c.Do(t.Context(), m, http.MethodGet, "/puppet-ca/v1/certificate/"+name, "", "")
		if err != nil || status != http.StatusOK {
			t.Errorf("certificate %s at %s: %d %v", name, m.Certname, status, err)
			continue
		}
		file := filepath.Join(dir, "cert.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "openssl", "verify", "-crl_check_all", "-CRLfile", filepath.Join(dir, "crl.pem"), "-CAfile", filepath.Join(dir, "ca.pem"), file).CombinedOutput()
		if good := err == nil; good == revoked || revoked && !strings.Contains(string(out), "revoked") {
			t.Errorf("%s: OpenSSL says of %s (%s): %v\n%s", m.Certname, name, certificate.State, err, out)
		}
	}
}

// checkSerials reads all certificates that were ever signed in the journal of a member that has stopped.
func checkSerials(t *testing.T, m *SiteMember) (certificates int) {
	t.Helper()
	j, err := journal.Open(filepath.Join(m.Data, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	origins, err := j.Origins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, o := range origins {
		for after, end := uint64(0), uint64(1); after < end; {
			records, last, err := j.Select(t.Context(), o, journal.State, "ca.issued", after)
			if err != nil {
				t.Fatal(err)
			}
			after, end = last, last
			if len(records) > 0 {
				end = last + 1 // there may be more
			}
			for _, r := range records {
				var issued struct{ DER []byte }
				if err := json.Unmarshal(r.Body, &issued); err != nil {
					t.Fatal(err)
				}
				cert, err := x509.ParseCertificate(issued.DER)
				if err != nil {
					t.Fatal(err)
				}
				serial := cert.SerialNumber.String()
				if other, used := names[serial]; used {
					t.Errorf("%s and %s have the serial number %s", r.Key, other, serial)
				}
				names[serial] = r.Key
				certificates++
			}
		}
	}
	return certificates
}
