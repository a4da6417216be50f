package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file makes members without a port.

const passphrase = "correct horse battery"

// locks cost little.
func locks() Locks { return Locks{Passphrase: passphrase, work: 2} }

func keys() Keys { return Keys{Passphrase: passphrase} }

// A bench is an open member.
type bench struct {
	Member

	t            testing.TB
	environments string
}

func newBench(t testing.TB, data string) *bench {
	t.Helper()
	b := &bench{t: t, environments: filepath.Join(data, "code", "environments")}
	b.Member = Member{Name: "puppet.example.test", Site: "east", Version: "test", Data: data, Busy: make(chan struct{}, 1)}
	b.lay("production/environment.conf", "manifest = manifests\n", 0o644)
	b.open()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	ctx := b.t.Context()
	var err error
	b.Journal, err = journal.Open(filepath.Join(b.Data, "journal"), journal.Options{})
	b.must(err)
	b.Store, err = store.Open(ctx, filepath.Join(b.Data, "store"), b.Journal, store.Options{})
	b.must(err)
	b.Cluster, err = cluster.Open(ctx, filepath.Join(b.Data, "cluster"), b.Journal, cluster.Options{Name: b.Name, Site: b.Site})
	b.must(err)
	b.Authority, err = ca.Open(ctx, filepath.Join(b.Data, "ca"), b.Journal, ca.Options{Name: "Puppet CA: test", KeyType: ca.EC256})
	b.must(err)
	b.Code, err = code.New(code.Options{EnvironmentPath: []string{b.environments}, Dir: filepath.Join(b.Data, "versions")})
	b.must(err)
	authority, store, journal := b.Authority, b.Store, b.Journal
	b.t.Cleanup(func() { b.must(errors.Join(authority.Close(), store.Close(), journal.Close())) })
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) lay(path, text string, mode os.FileMode) {
	b.t.Helper()
	path = filepath.Join(b.environments, path)
	b.must(os.MkdirAll(filepath.Dir(path), 0o755))
	b.must(os.WriteFile(path, []byte(text), mode))
	b.must(os.Chmod(path, mode))
}

// content puts a file into the bucket and returns its name there.
func (b *bench) content(text string) string {
	b.t.Helper()
	sum := sha256.Sum256([]byte(text))
	name := hex.EncodeToString(sum[:])
	b.must(b.Store.BucketPut(b.t.Context(), "sha256", name, "/etc/motd", strings.NewReader(text)))
	return name
}

// live gives the member something of everything.
func (b *bench) live() *bench {
	b.t.Helper()
	ctx := b.t.Context()
	for i := range 5 {
		_, err := b.Authority.ServerCertificate(ctx, ca.ServerRequest{Certname: puppet.Certname(fmt.Sprintf("node%d.example.test", i))})
		b.must(err)
	}
	b.must(b.Authority.Revoke(ctx, "node1.example.test"))
	b.records(60)
	b.content(strings.Repeat("what was here before\n", 500))
	b.content("short")
	b.lay("production/manifests/site.pp", "notify { 'hello': }\n", 0o640)
	b.lay("production/bin/run.sh", "#!/bin/sh\n", 0o755)
	b.lay("testing/manifests/site.pp", strings.Repeat("# a comment\n", 10_000), 0o644)
	b.must(os.Symlink("site.pp", filepath.Join(b.environments, "production/manifests/link.pp")))
	return b
}

// records appends bulk records of a kind that nobody folds.
func (b *bench) records(n int) {
	b.t.Helper()
	for i := range n {
		_, err := b.Journal.Append(b.t.Context(), journal.Draft{Stream: journal.Bulk, Kind: "test", Key: fmt.Sprint(i), Body: []byte(strings.Repeat("word ", i*50))})
		b.must(err)
	}
}

// backUp makes a backup as it would be at that time.
func (b *bench) backUp(p Place, at time.Time) (Info, error) {
	b.t.Helper()
	h := b.Header(at)
	return Create(b.t.Context(), p, h, locks(), func(ctx context.Context, w io.Writer) (Summary, error) { return b.Write(ctx, h, w) }, nil)
}

func (b *bench) mustBackUp(p Place) Info {
	b.t.Helper()
	info, err := b.backUp(p, time.Now())
	b.must(err)
	return info
}

// place is an empty folder for backups.
func place(t testing.TB) folder {
	t.Helper()
	return folder{filepath.Join(t.TempDir(), "backups")}
}

// target is an empty member.
func target(t testing.TB) Target {
	t.Helper()
	data := t.TempDir()
	j, err := journal.Open(filepath.Join(data, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return Target{Data: data, Environments: filepath.Join(data, "code", "environments"), Journal: j}
}
