package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/internal/ca"
	"troupe/internal/config"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/stages"
	"troupe/internal/store"
	"troupe/internal/troupetest"
)

// This file flips bits in the data folder of a member that has stopped, and cuts its files off. What the member serves afterwards
// must be what it served before, or it must refuse and name the remedy. It opens all parts in the order and by the code of [Run],
// and runs journal, tables and CA, but neither the ports nor Ruby: what they serve is read from the parts directly, all of it.

var (
	damages    = flag.Int("damages", 36, "how many files are damaged")
	damageSeed = flag.Uint64("damageseed", 1, "the first of the seeds")
)

// A specimen is a data folder and what a member serves from it.
type specimen struct {
	work   string
	folder string // closed as a member closes it
	torn   string // as a kill leaves it: all that is new is in write-ahead logs
	truth  map[string]string
	ends   []string            // the newest record of each chain
	kinds  map[string][]string // files by kind
}

// kindOf names the kind of a file, by its path below the data folder; "" is not damaged.
func kindOf(path string) string {
	switch dir, name := filepath.Split(path); {
	case strings.HasSuffix(name, "-shm"), strings.HasSuffix(name, ".lock"), strings.HasSuffix(name, ".sock"):
		return "" // made anew at each start
	case strings.HasSuffix(name, ".sealed"):
		return dir + "*.sealed"
	case dir == "ca/server/":
		return "ca/server/*.pem"
	case dir == "store/bucket/":
		return "store/bucket/*"
	case strings.HasPrefix(dir, "versions/blobs/"):
		return "versions/blobs/*"
	case name == "manifest.json" && strings.HasPrefix(dir, "versions/versions/"):
		return "versions/*/manifest.json"
	case strings.HasPrefix(dir, "versions/versions/") && name == "environment.conf":
		return "versions/*/environment.conf"
	case strings.HasPrefix(dir, "versions/versions/"):
		return "" // hard links to blobs
	case strings.HasPrefix(dir, "engine/"), strings.HasPrefix(dir, "code/"):
		return "" // made at each start; the operator's own
	}
	return path
}

func newSpecimen(t *testing.T) *specimen {
	t.Helper()
	s := &specimen{work: troupetest.TempDir(t), kinds: map[string][]string{}}
	s.folder, s.torn = filepath.Join(s.work, "closed"), filepath.Join(s.work, "torn")
	live := filepath.Join(s.work, "data")
	environment := filepath.Join(s.work, "environments", "production")
	for path, text := range map[string]string{
		"manifests/site.pp": "node default { include demo }\n", "environment.conf": "config_version = '/bin/echo 1'\n",
		"modules/demo/manifests/init.pp": "class demo { file { '/etc/motd': source => 'puppet:///modules/demo/motd' } }\n",
		"modules/demo/files/motd":        strings.Repeat("welcome\n", 100),
	} {
		writeText(t, filepath.Join(environment, path), text)
	}
	s.fill(t, live)
	if err := os.Rename(live, s.folder); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.torn, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(s.torn, path)
		if kind := kindOf(rel); kind != "" {
			s.kinds[kind] = append(s.kinds[kind], rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{s.folder, s.torn} {
		got := s.start(t, folder)
		if got.err != nil {
			t.Fatal(got.err)
		}
		if s.truth == nil {
			s.truth = got.served
		}
		if d := differences(s.truth, got.served); len(d) > 0 {
			t.Fatalf("undamaged folders serve different things: %v", d)
		}
	}
	return s
}

func (s *specimen) config(t *testing.T, data string) *config.Config {
	t.Helper()
	file := filepath.Join(s.work, "troupe.yaml")
	writeText(t, file, "data: "+data+"\ncertname: one.example.test\nenvironmentpath: "+filepath.Join(s.work, "environments")+"\nca: {key_type: ec256, autosign: false}\n")
	cfg, err := config.Load(config.Sources{File: file, ConfDir: "none"})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// fill makes a member of a troupe of two that has something of everything, and leaves a copy of its folder as a kill leaves it.
func (s *specimen) fill(t *testing.T, data string) {
	t.Helper()
	ctx := t.Context()
	other, err := open(ctx, s.config(t, filepath.Join(s.work, "other")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { check(t, other.close()) }()
	m, err := open(ctx, s.config(t, data), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, m.cluster.Found(ctx, "east", "one.example.test:8143"))
	if _, err := m.serverCertificate(ctx, m.cfg.Load()); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		name := puppet.Certname(fmt.Sprintf("node%d.example.test", i))
		if i%4 == 0 {
			check(t, m.authority.SubmitRequest(ctx, "waits-"+string(name), requestPEM(t, "waits-"+string(name))))
		}
		if _, _, err := m.authority.Generate(ctx, ca.GenerateRequest{Certname: name, KeyType: ca.EC256}); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			check(t, m.authority.Revoke(ctx, name))
		}
		// The same kinds of records from both members.
		from := []*member{m, other}[i%2]
		fact := fmt.Sprintf(`{"number":%d,"noise":"%x"}`, i, sha256.Sum256([]byte(name)))
		check(t, from.store.SaveFacts(ctx, puppet.Facts{Certname: name, Environment: "production", Timestamp: time.Now(), Values: json.RawMessage(fact)}, "one.example.test"))
		raw := fmt.Sprintf(`{"host":%q,"time":"2026-11-20T10:00:00.000000000+00:00","configuration_version":1,"transaction_uuid":"uuid-%d","report_format":12,`+
			`"puppet_version":"7.23.0","status":"unchanged","environment":"production","logs":[],"metrics":{},"resource_statuses":{}}`, name, i)
		report, err := puppet.DecodeReport(puppet.TypeJSON, []byte(raw))
		check(t, err)
		_, err = from.store.SaveReport(ctx, report)
		check(t, err)
		catalog := fmt.Sprintf(`{"name":%q,"version":1,"resources":[{"type":"Notify","title":"%d"}],"edges":[],"classes":[]}`, name, i)
		check(t, from.store.SaveCatalog(ctx, store.CatalogMeta{Certname: name, Environment: "production", CatalogUUID: fmt.Sprint(i)}, []byte(catalog),
			[]puppet.Resource{{Type: "Notify", Title: fmt.Sprint("exported ", i), Exported: true, Parameters: json.RawMessage(`{"message":"x"}`)}}))
		content := fmt.Sprintf("content %d %s", i, strings.Repeat("old\n", 100))
		check(t, m.store.BucketPut(ctx, "sha256", fmt.Sprintf("%x", sha256.Sum256([]byte(content))), "/etc/motd", strings.NewReader(content)))
	}
	var chain bytes.Buffer
	_, err = other.journal.Export(ctx, &chain, other.journal.Origin(), journal.Bulk, 0, 1000)
	check(t, err)
	_, err = m.journal.Import(ctx, &chain)
	check(t, err)
	_, err = m.code.Current(ctx, "production")
	check(t, err)
	heads, err := m.journal.Heads(ctx)
	check(t, err)
	for _, h := range heads {
		s.ends = append(s.ends, fmt.Sprintf("journal %s %s %d", h.Origin, h.Stream, h.Last))
	}
	copyFolder(t, data, s.torn)
	check(t, m.close())
}

// An outcome is what became of one start.
type outcome struct {
	err    error // why the member does not start
	served map[string]string
	told   []string // warnings and errors of the log
	verify []string // what journal verify names
	mended bool     // what is served is as before since another member gave its records
}

// start opens the folder as a member does and asks it for everything.
func (s *specimen) start(t *testing.T, folder string) (o outcome) {
	t.Helper()
	data := filepath.Join(s.work, "data")
	copyFolder(t, folder, data)
	return s.startAt(t, data)
}

func (s *specimen) startAt(t *testing.T, data string) (o outcome) {
	t.Helper()
	var log bytes.Buffer
	defer func() {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				o.told = append(o.told, strings.TrimSpace(line))
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m, err := open(ctx, s.config(t, data), Options{Log: slog.New(slog.NewTextHandler(&locked{w: &log}, nil))})
	if err != nil {
		o.err = err
		return o
	}
	defer func() {
		if err := m.close(); err != nil && o.err == nil {
			o.err = fmt.Errorf("close: %w", err)
		}
	}()
	pair, err := m.serverCertificate(ctx, m.cfg.Load())
	if err != nil {
		o.err = err
		return o
	}
	ended := make(chan error, 1)
	go func() {
		ended <- stages.Run(ctx, []stages.Stage{
			stages.Of("journal", m.journal.Run, time.Minute), stages.Of("store", m.store.Run, time.Minute), stages.Of("ca", m.authority.Run, time.Minute), stages.Of("code", m.code.Run, time.Minute),
		})
	}()
	if o.served, err = s.settled(ctx, m, ended); err != nil {
		o.err = err
		return o
	}
	if short := s.behind(ctx, m); short && len(differences(s.truth, o.served)) > 0 {
		// As the carrier does at the start, if another member can be reached.
		if err := s.takeFromPeer(t, m); err != nil {
			o.told = append(o.told, err.Error())
		}
		if o.served, err = s.settled(ctx, m, ended); err != nil {
			o.err = err
			return o
		}
		o.mended = len(differences(s.truth, o.served)) == 0
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: m.authority.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		o.served["server certificate"] = "not good: " + err.Error()
	}
	if v, err := m.journal.Verify(ctx, nil); err != nil {
		o.verify = append(o.verify, err.Error())
	} else {
		for _, d := range v.Damaged {
			o.verify = append(o.verify, d.Error())
		}
		o.verify = append(o.verify, v.File...)
	}
	cancel()
	if err := <-ended; err != nil {
		o.err = err
	}
	return o
}

// quiet is how long nothing must change before what is served counts as all that will be: longer than until the store checks itself.
const quiet = 5 * time.Second

// settled returns what is served when all is folded: when it is the truth, or has been the same for long.
func (s *specimen) settled(ctx context.Context, m *member, ended <-chan error) (map[string]string, error) {
	for last, since := "", time.Now(); ; {
		served := m.everything(ctx)
		now := fmt.Sprint(served)
		if now != last {
			last, since = now, time.Now()
		}
		if s.truth != nil && len(differences(s.truth, served)) == 0 || time.Since(since) > quiet {
			return served, nil
		}
		select {
		case err := <-ended:
			return nil, errors.Join(errors.New("a part ended"), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// behind reports whether the journal has fewer records than it had.
func (s *specimen) behind(ctx context.Context, m *member) bool {
	heads, err := m.journal.Heads(ctx)
	if err != nil {
		return false
	}
	has := map[string]bool{}
	for _, h := range heads {
		has[fmt.Sprintf("journal %s %s %d", h.Origin, h.Stream, h.Last)] = true
	}
	for _, last := range s.ends {
		if !has[last] {
			return true
		}
	}
	return false
}

// takeFromPeer gives the journal what another member has of its chains, by the means of the carrier.
func (s *specimen) takeFromPeer(t *testing.T, m *member) (err error) {
	t.Helper()
	dir := filepath.Join(s.work, "peer")
	copyFolder(t, filepath.Join(s.folder, "journal"), dir)
	peer, err := journal.Open(dir, journal.Options{})
	check(t, err)
	defer func() { err = errors.Join(err, peer.Close()) }()
	heads, err := peer.Heads(t.Context())
	check(t, err)
	var errs []error
	for _, h := range heads {
		after, err := m.journal.Last(t.Context(), h.Origin, h.Stream)
		check(t, err)
		var chain bytes.Buffer
		_, err = peer.Export(t.Context(), &chain, h.Origin, h.Stream, after, 1000)
		check(t, err)
		_, err = m.journal.Import(t.Context(), &chain)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// everything is all that a member serves, by what it is. An error is written as one.
func (m *member) everything(ctx context.Context) map[string]string {
	all := map[string]string{}
	put := func(what string, value any, err error) {
		text, merr := json.Marshal(value)
		if err = errors.Join(err, merr); err != nil {
			all[what] = "error: " + err.Error()
			return
		}
		all[what] = string(text)
	}
	put("ca bundle", m.authority.Bundle(), nil)
	put("ca list", m.revocations(), nil)
	statuses, err := m.authority.Statuses(ctx, "")
	// A certificate of its own that is damaged is made again; whether it is good is asked after the start.
	statuses = slices.DeleteFunc(statuses, func(s ca.Status) bool { return s.Name == m.cfg.Load().Certname })
	put("ca statuses", statuses, err)
	for _, s := range statuses {
		cert, err := m.authority.Certificate(ctx, s.Name)
		if s.State == ca.StateRequested {
			cert, err = m.authority.Request(ctx, s.Name)
		}
		put("ca certificate "+s.Name, cert, err)
		if block, _ := pem.Decode(cert); block != nil && s.State != ca.StateRequested {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				put("ca revoked "+s.Name, m.authority.Revoked(c), nil)
			}
		}
	}
	put("members", m.cluster.Members(), nil)
	put("origin", m.journal.Origin(), nil)
	nodes, err := m.store.Nodes(ctx, store.NodeQuery{})
	put("nodes", nodes, err)
	for _, n := range nodes {
		facts, err := m.store.Facts(ctx, n.Certname)
		put("facts "+string(n.Certname), facts, err)
		meta, body, err := m.store.Catalog(ctx, n.Certname)
		put("catalog "+string(n.Certname), []any{meta, string(body)}, err)
	}
	reports, err := m.store.Reports(ctx, store.ReportQuery{Limit: 1000})
	put("reports", reports, err)
	for _, r := range reports {
		_, report, err := m.store.Report(ctx, r.ID)
		put("report "+r.ID, string(report.Raw), err)
	}
	exported, err := m.store.ExportedResources(ctx, store.ResourceQuery{Type: "Notify"})
	put("exported", exported, err)
	for i := range 40 {
		content := fmt.Sprintf("content %d %s", i, strings.Repeat("old\n", 100))
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		f, _, err := m.store.BucketGet(ctx, "sha256", sum)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(f)
			err = errors.Join(err, f.Close())
		}
		put("bucket "+sum, string(got), err)
	}
	m.codeInto(ctx, put)
	m.journalInto(ctx, put)
	return all
}

// revocations are the lines of the published list, if its signature is good.
func (m *member) revocations() []string {
	block, _ := pem.Decode(m.authority.CRLs())
	if block == nil {
		return []string{"no list"}
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err == nil {
		err = list.CheckSignatureFrom(m.authority.Issuer())
	}
	if err != nil {
		return []string{err.Error()}
	}
	lines := []string{list.Number.String()}
	for _, e := range list.RevokedCertificateEntries {
		lines = append(lines, e.SerialNumber.String())
	}
	return lines
}

// codeInto reads the current version as the workers do, below its Root, and as agents do.
func (m *member) codeInto(ctx context.Context, put func(string, any, error)) {
	v, err := m.code.Current(ctx, "production")
	if err != nil {
		put("code", nil, err)
		return
	}
	put("code", v.ID, nil)
	err = filepath.WalkDir(v.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "manifest.json" {
			return err
		}
		text, err := os.ReadFile(path)
		put("code "+strings.TrimPrefix(path, v.Root), string(text), err)
		return nil
	})
	put("code tree", "", err)
}

// journalInto reads every record.
func (m *member) journalInto(ctx context.Context, put func(string, any, error)) {
	heads, err := m.journal.Heads(ctx)
	if err != nil {
		put("journal", nil, err)
	}
	for _, h := range heads {
		name := fmt.Sprintf("journal %s %s ", h.Origin, h.Stream)
		for after := uint64(0); ; {
			records, err := m.journal.Read(ctx, h.Origin, h.Stream, after, 1000)
			if damage, ok := errors.AsType[*journal.DamageError](err); ok {
				put(name+fmt.Sprint(damage.Number), nil, err)
				after = damage.Number
				continue
			}
			if err != nil {
				put(name, nil, err)
			}
			if err != nil || len(records) == 0 {
				break
			}
			for _, r := range records {
				put(name+fmt.Sprint(r.Number), r, nil)
			}
			after = records[len(records)-1].Number
		}
	}
}

// differences names what is served otherwise than before. What is new since is none.
func differences(truth, served map[string]string) (d []string) {
	for what, want := range truth {
		if served[what] != want {
			d = append(d, what)
		}
	}
	slices.Sort(d)
	return d
}

// remedies are words of a refusal that tells what to do.
var remedies = regexp.MustCompile(`(?i)restore|remove|join again|move this|make one|openssl|start a newer|made again|verify`)

// TestDamagedFilesAreMendedOrRefusedInWords counts outcomes by kind of file.
func TestDamagedFilesAreMendedOrRefusedInWords(t *testing.T) {
	s := newSpecimen(t)
	kinds := slices.Sorted(maps.Keys(s.kinds))
	counts := map[string]map[string]int{}
	for n := range *damages {
		seed := *damageSeed + uint64(n)
		r := mathrand.New(mathrand.NewPCG(seed, 0))
		kind := kinds[(seed-1)%uint64(len(kinds))] // each kind gets its share
		file := s.kinds[kind][r.IntN(len(s.kinds[kind]))]
		what, o := s.hurt(t, r, file)
		how, why := s.judge(o)
		if counts[kind] == nil {
			counts[kind] = map[string]int{}
		}
		counts[kind][how]++
		if strings.HasPrefix(how, "WRONG") {
			t.Errorf("seed %d, %s: %s: %s", seed, what, how, why)
		}
	}
	for _, kind := range kinds {
		t.Logf("%-40s %v", kind, counts[kind])
	}
}

// hurt damages one file and starts the member on it.
func (s *specimen) hurt(t *testing.T, r *mathrand.Rand, file string) (what string, o outcome) {
	t.Helper()
	folder := s.folder
	if strings.HasSuffix(file, "-wal") || r.IntN(4) == 0 {
		folder = s.torn
	}
	data := filepath.Join(s.work, "data")
	copyFolder(t, folder, data)
	path := filepath.Join(data, file)
	text, err := os.ReadFile(path)
	check(t, err)
	if at := r.IntN(len(text)); r.IntN(4) == 0 {
		text, what = text[:at], fmt.Sprintf("%s cut to %d of %d bytes", file, at, len(text))
	} else {
		bit := byte(1) << r.IntN(8)
		text[at] ^= bit
		what = fmt.Sprintf("%s bit %#x of byte %d of %d", file, bit, at, len(text))
	}
	check(t, os.WriteFile(path, text, 0o600)) // in place: hard links see it
	o = s.startAt(t, data)
	if _, err := os.Stat(filepath.Join(data, "store", "store.db.rebuild")); o.err != nil && err == nil {
		// The member has stopped to make its tables anew, and said so: systemd starts it again.
		why := o.told
		o = s.startAt(t, data)
		o.told = append(why, o.told...)
	}
	return what, o
}

// judge names an outcome; one that must not be begins with WRONG, and why has the details.
func (s *specimen) judge(o outcome) (how, why string) {
	if o.err != nil {
		if !remedies.MatchString(o.err.Error()) {
			return "WRONG: refused without a remedy", o.err.Error()
		}
		return "refused", ""
	}
	var wrong, errs []string
	for _, what := range differences(s.truth, o.served) {
		if got, there := o.served[what]; strings.HasPrefix(got, "error: ") {
			errs = append(errs, what+": "+got)
		} else {
			wrong = append(wrong, fmt.Sprintf("%s: %.200q, want %.200q (there: %v)", what, got, s.truth[what], there))
		}
	}
	switch {
	case o.mended:
		return "mended from a peer", ""
	case len(o.verify) > 0 && len(wrong) == 0:
		return "named by verify", ""
	case len(o.verify) > 0:
		return "named by verify, served without that record", ""
	case len(wrong) > 0:
		return "WRONG", fmt.Sprint(wrong, o.told)
	case len(errs) > 0:
		return "an error in place of an answer", ""
	case len(o.told) > 0:
		return "repaired", ""
	}
	return "harmless", ""
}

type locked struct{ w io.Writer }

func (l *locked) Write(p []byte) (int, error) { return l.w.Write(p) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyFolder copies a folder with modes and hard links: a blob and the versions that it is in are one file.
func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	check(t, os.RemoveAll(to))
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(text), 0o644))
}

func requestPEM(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
