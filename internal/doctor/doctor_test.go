package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/carrier/nats"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/engine/ruby"
	"troupe/internal/journal"
)

// This file makes a member that does well, of which each test makes one thing wrong.

const self = "puppet.example.test"

// A pki is a CA with the server certificate that it has issued.
type pki struct {
	ca, leaf []byte
	pair     tls.Certificate
}

func newPKI(t *testing.T, from, to time.Time, names ...string) pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var p pki
	if p.ca, err = x509.CreateCertificate(rand.Reader, root, root, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: self}, NotBefore: from, NotAfter: to, DNSNames: names}
	if p.leaf, err = x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	p.pair = tls.Certificate{Certificate: [][]byte{p.leaf}, PrivateKey: key}
	return p
}

func goodPKI(t *testing.T) pki {
	t.Helper()
	return newPKI(t, time.Now().Add(-time.Hour), time.Now().Add(365*24*time.Hour), self, "puppet", "alias.example.test")
}

// serveTLS accepts handshakes until the test ends.
func serveTLS(t *testing.T, pair tls.Certificate) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn) // makes the handshake, and ends with the client
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// well returns a running member of two that does well in all respects.
func well(t *testing.T) *exam {
	t.Helper()
	p := goodPKI(t)
	data := t.TempDir()
	for _, dir := range []string{"journal", "ca/keys", "cluster/keys"} {
		if err := os.MkdirAll(filepath.Join(data, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"ca/seal.key", "ca/keys/ab.sealed", "cluster/seal.key", "journal/journal.db"} {
		write(t, filepath.Join(data, file), "x", 0o600)
	}
	proc := t.TempDir()
	write(t, filepath.Join(proc, "meminfo"), "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   12000000 kB\n", 0o644)
	write(t, filepath.Join(proc, "sys/fs/inotify/max_user_watches"), "10\n", 0o644)
	write(t, filepath.Join(proc, "sys/fs/inotify/max_user_instances"), "128\n", 0o644)
	write(t, filepath.Join(proc, "4711/cgroup"), "0::/system.slice/troupe.service\n", 0o644)
	environment := t.TempDir()

	x := &exam{now: time.Now(), version: "1.2.3", presence: Running, config: &config.Config{Certname: self}}
	x.settings = adminapi.Settings{
		Data: data, Listen: "127.0.0.1:0", Certname: self, AltNames: []string{"alias.example.test"}, ClusterListen: "127.0.0.1:0",
		EnvironmentPath: []string{filepath.Dir(environment)}, Workers: 4, MaxMemory: 512 << 20,
	}
	enc := filepath.Join(t.TempDir(), "enc")
	write(t, enc, "#!/bin/sh\n", 0o755)
	x.settings.Commands = []adminapi.Command{{Setting: "classifier.command", Path: enc}, {Setting: "ca.autosign", Path: filepath.Join(data, "ca", "seal.key")}}
	x.process.value = adminapi.Process{
		Settings: x.settings, Version: "1.2.3", PID: 4711, UID: os.Geteuid(), Phase: "running", Address: serveTLS(t, p.pair), Files: 50, MaxFiles: 65536,
		Engine: ruby.Stats{Versions: ruby.Versions{Puppet: "7.23.0", Ruby: "3.1.2"}, Serving: true, Workers: 4, MaxQueue: 64}, User: "puppet", UserUID: 4242,
	}
	x.journal.value = journal.Condition{Records: 100, Origins: 2, Size: 1 << 20, Newest: x.now.Add(-time.Minute), Checked: true}
	x.authority.value = ca.Condition{Bundle: [][]byte{p.ca}, Server: p.leaf, Signed: 10, Lists: []ca.ListCondition{{Issuer: "the CA", NextUpdate: x.now.Add(365 * 24 * time.Hour)}}}
	x.cluster.value = cluster.Condition{Founded: true, CA: p.ca, Own: p.leaf}
	x.probes.value = []cluster.Probe{
		{Member: cluster.Member{Name: self, Site: "east", Address: "192.0.2.1:8143", Version: "1.2.3", Self: true}, Addresses: []string{"192.0.2.1"}},
		{Member: cluster.Member{Name: "b.example.test", Site: "west", Address: "192.0.2.2:8143", Version: "1.2.3"}, Addresses: []string{"192.0.2.2"}, Ahead: time.Second},
	}
	x.status.value = adminapi.Status{Founded: true, NATS: &nats.Status{
		Server: "tls://nats1.example.test:4222", Since: time.Now(), Streams: []nats.StreamStatus{{Name: "troupe_x_state", Replicas: 3}},
	}, Members: []adminapi.MemberStatus{
		{Member: x.probes.value[0].Member, State: adminapi.StateSelf}, {Member: x.probes.value[1].Member, State: adminapi.StateConnected, Behind: 3},
	}}
	x.environments.value = []adminapi.Environment{{Name: "production", Path: environment, Version: "0123456789abcdef"}}
	x.ruby.err = errNone
	x.host = host{
		proc: proc, cgroup: proc, systemd: proc,
		addresses:  func() ([]net.IP, error) { return []net.IP{net.ParseIP("192.0.2.1")}, nil },
		lookup:     func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil },
		reverse:    func(context.Context, string) ([]string, error) { return []string{self + "."}, nil },
		kernelTime: func() (bool, error) { return true, nil },
		systemctl: func(context.Context, ...string) (string, error) {
			return "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nNRestarts=0\nUnitFileState=enabled\n", nil
		},
	}
	return x
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// stop makes the member a stopped one.
func stop(x *exam) {
	x.presence, x.process.err, x.status.err, x.ruby.err = Stopped, errNone, errNone, nil
	x.ruby.value = ruby.Found{Versions: x.process.value.Engine.Versions, Interpreter: "/usr/bin/ruby", User: "puppet", UID: 4242}
	x.process.value, x.config = adminapi.Process{}, &config.Config{CA: config.CA{Enabled: true}}
}

func TestOfAMemberThatDoesWellNothingIsSaid(t *testing.T) {
	for name, change := range map[string]func(*exam){"running": func(*exam) {}, "stopped": stop} {
		t.Run(name, func(t *testing.T) {
			x := well(t)
			change(x)
			found := x.run(t.Context(), checks())
			seen := map[string]bool{}
			for _, f := range found {
				seen[f.Check] = true
				bad := f.State != OK && (f.Check != "member" || name == "running") &&
					f.Check != "disk" && f.Check != "disk speed" // this machine's own
				if bad || f.Found == "" || f.State == OK && f.Remedy != "" {
					t.Errorf("%+v", f)
				}
			}
			for _, c := range checks() {
				if !seen[c.name] && (c.name != "open files" && c.name != "NATS" || name == "running") {
					t.Errorf("%s says nothing", c.name)
				}
			}
		})
	}
}

// what returns the findings of one check as text.
func (x *exam) what(t *testing.T, name string) string {
	t.Helper()
	var b strings.Builder
	known := false
	for _, c := range checks() {
		if c.name != name {
			continue
		}
		known = true
		for _, f := range x.run(t.Context(), []check{c}) {
			fmt.Fprintf(&b, "%s: %s -> %s\n", f.State, f.Found, f.Remedy)
			if f.State != OK && f.State != Unknown && f.Remedy == "" {
				t.Errorf("without a remedy: %+v", f)
			}
		}
	}
	if !known {
		t.Fatalf("there is no check %q", name)
	}
	return b.String()
}

// A mishap is one thing that is wrong, and what is to be said of it.
type mishap struct {
	name, check string
	change      func(t *testing.T, x *exam)
	want        []string // each is part of the findings
}

func play(t *testing.T, rows []mishap) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			x := well(t)
			row.change(t, x)
			got := x.what(t, row.check)
			for _, want := range row.want {
				if !strings.Contains(got, want) {
					t.Errorf("want %q, got:\n%s", want, got)
				}
			}
			if len(row.want) == 0 && got != "" {
				t.Errorf("want nothing, got:\n%s", got)
			}
		})
	}
}

func TestACheckThatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		list := []check{
			{"good", func(_ context.Context, _ *exam, n *notes) { n.ok("fine") }},
			{"hangs", func(context.Context, *exam, *notes) { <-release }},
			{"slow", func(ctx context.Context, _ *exam, n *notes) { <-ctx.Done(); n.warn("r", "slow") }},
		}
		began := time.Now()
		got := fmt.Sprint((&exam{}).run(t.Context(), list))
		if want := "[{good ok fine } {hangs unknown no answer in 4s look for a disk or a file server that hangs: dmesg, mount} {slow warn slow r}]"; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		close(release)
	})
}

func TestWhatHangsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), gatherMost)
		defer cancel()
		release := make(chan struct{})
		var hangs, heeds, good answer[int]
		together(ctx,
			fetch(&hangs, func(context.Context) (int, error) { <-release; return 1, nil }),
			fetch(&heeds, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }),
			fetch(&good, func(context.Context) (int, error) { return 7, nil }),
		)
		if good.value != 7 || good.err != nil || hangs.err == nil || heeds.err == nil || hangs.err.Error() != "no answer in 5s" || heeds.err.Error() != "no answer in 5s" {
			t.Errorf("good %+v, hangs %+v, heeds %+v", good, hangs, heeds)
		}
		close(release)
	})
}

func TestTheWorstComesFirst(t *testing.T) {
	r := Examine(t.Context(), Options{Data: filepath.Join(t.TempDir(), "none"), ConfigError: errors.New("the configuration has problems:\ntroupe.yaml:3: what is this?"), Version: "1"})
	if r.State != Fail || len(r.Findings) < 2 || r.Findings[0].Found != "troupe.yaml:3: what is this?" || r.Findings[0].State != Fail {
		t.Errorf("%+v", r)
	}
	for i := 1; i < len(r.Findings); i++ {
		if r.Findings[i].State.severity() < r.Findings[i-1].State.severity() {
			t.Errorf("%+v comes after %+v", r.Findings[i], r.Findings[i-1])
		}
	}
}
