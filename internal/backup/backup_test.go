package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"troupe/internal/cluster"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/secretfile"
)

func TestWhatWasBackedUpComesBack(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	a.must(a.Cluster.Found(t.Context(), "east", "puppet.example.test:8143"))
	made := a.mustBackUp(p)
	all, err := List(t.Context(), p)
	a.must(err)
	if diff := cmp.Diff([]Info{made}, all); diff != "" || !made.Whole || made.Header.Member != a.Name || made.Header.Troupe == "" {
		t.Fatalf("what was made is not what is listed:\n%s", diff)
	}
	seen, err := Verify(t.Context(), p, made, keys(), nil)
	a.must(err)
	if diff := cmp.Diff(made.Summary, seen); diff != "" || seen.Environments != 2 || seen.Files != 5 || seen.Contents != 2 {
		t.Errorf("what was verified is not what was made:\n%s\n%+v", diff, seen)
	}

	to := target(t)
	got, err := Extract(t.Context(), p, made, keys(), to, nil)
	a.must(err)
	wantCA, err := a.Cluster.CAKey()
	a.must(err)
	if diff := cmp.Diff(Extracted{Summary: seen, CAKey: wantCA, Environments: []string{"production", "testing"}}, got); diff != "" {
		t.Errorf("extracted:\n%s", diff)
	}
	want, err := a.Journal.Heads(t.Context())
	a.must(err)
	heads, err := to.Journal.Heads(t.Context())
	a.must(err)
	heads = slices.DeleteFunc(heads, func(h journal.Head) bool { return h.Origin == to.Journal.Origin() })
	if diff := cmp.Diff(want, heads); diff != "" || to.Journal.Origin() == a.Journal.Origin() {
		t.Errorf("the journals differ, or the origin is the same:\n%s", diff)
	}
	for _, dir := range []string{"code/environments", "store/bucket"} {
		if diff := cmp.Diff(tree(t, filepath.Join(a.Data, dir)), tree(t, filepath.Join(to.Data, dir))); diff != "" {
			t.Errorf("%s differs:\n%s", dir, diff)
		}
	}
	b := &bench{Member: Member{Name: a.Name, Data: to.Data}, t: t, environments: to.Environments}
	a.must(cluster.BeginRestore(filepath.Join(to.Data, "cluster"), made.Name))
	_, err = cluster.Restore(t.Context(), filepath.Join(to.Data, "cluster"), to.Journal, cluster.Options{Name: a.Name}, cluster.RestoreRequest{CAKey: got.CAKey})
	a.must(errors.Join(err, to.Journal.Close()))
	b.open()
	if !b.Authority.Issuer().Equal(a.Authority.Issuer()) || string(b.Store.Key()) != string(a.Store.Key()) {
		t.Error("the authority, or the key for sensitive parameters, is another one")
	}
}

// tree describes all files of a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := []byte(nil)
		switch {
		case d.Type() == fs.ModeSymlink:
			var to string
			to, err = os.Readlink(path)
			text = []byte(to)
		case d.Type().IsRegular():
			text, err = os.ReadFile(path)
		}
		out[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%s %q", info.Mode(), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEnvironmentsThatAreThereStay(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	made := a.mustBackUp(p)
	to := target(t)
	own := filepath.Join(to.Environments, "production", "mine.pp")
	a.must(os.MkdirAll(filepath.Dir(own), 0o755))
	a.must(os.WriteFile(own, []byte("mine"), 0o644))
	got, err := Extract(t.Context(), p, made, keys(), to, nil)
	a.must(err)
	if diff := cmp.Diff([]string{"production"}, got.Kept); diff != "" || len(got.Environments) != 1 {
		t.Errorf("kept, and new %v:\n%s", got.Environments, diff)
	}
	if entries, err := os.ReadDir(filepath.Dir(own)); err != nil || len(entries) != 1 {
		t.Errorf("the environment that was there has now %v (%v)", entries, err)
	}
}

func TestOnlyTheRightKeyOpensABackup(t *testing.T) {
	a, p := newBench(t, t.TempDir()), place(t)
	made := a.mustBackUp(p)
	other, err := age.GenerateX25519Identity()
	a.must(err)
	for name, c := range map[string]struct {
		keys Keys
		want string
	}{
		"another passphrase": {Keys{Passphrase: passphrase + "!"}, "the passphrase is not the one"},
		"an identity":        {Keys{Identities: other.String()}, "no identity of the file is the one"},
		"nothing":            {Keys{}, "backups are encrypted"},
		"no identity":        {Keys{Identities: "hello"}, "cannot be read"},
	} {
		to := target(t)
		_, verr := Verify(t.Context(), p, made, c.keys, nil)
		_, xerr := Extract(t.Context(), p, made, c.keys, to, nil)
		for _, err := range []error{verr, xerr, Unlock(t.Context(), p, made, c.keys)} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
		}
		if _, err := os.Stat(filepath.Join(to.Data, "ca")); err == nil {
			t.Errorf("%s: there are keys", name)
		}
	}

	h := a.Header(time.Now())
	src := func(ctx context.Context, w io.Writer) (Summary, error) { return a.Write(ctx, h, w) }
	mine, err := age.GenerateX25519Identity()
	a.must(err)
	both, err := Create(t.Context(), p, h, Locks{Recipients: []string{other.Recipient().String(), mine.Recipient().String()}}, src, nil)
	a.must(err)
	for _, i := range []*age.X25519Identity{other, mine} {
		if _, err := Verify(t.Context(), p, both, Keys{Identities: "# a comment\n" + i.String() + "\n"}, nil); err != nil {
			t.Error(err)
		}
	}
	for name, c := range map[string]struct {
		locks Locks
		want  string
	}{
		"none":         {Locks{}, "always encrypted"},
		"short":        {Locks{Passphrase: "elevenchars"}, "at least 12"},
		"both":         {Locks{Passphrase: passphrase, Recipients: []string{mine.Recipient().String()}}, "not with both"},
		"no recipient": {Locks{Recipients: []string{mine.String()}}, "is no recipient"},
	} {
		if _, err := Create(t.Context(), p, h, c.locks, src, nil); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), mine.String()) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestASecretThatOthersCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "p")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o620} {
		write(passphrase+"\n", mode)
		if _, err := ReadPassphrase(file); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	write(passphrase+"\r\nsecond line", 0o400)
	if got, err := ReadPassphrase(file); got != passphrase || err != nil {
		t.Errorf("passphrase %q, %v", got, err)
	}
	write("\n", 0o600)
	if _, err := ReadPassphrase(file); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: %v", err)
	}
	write(strings.Repeat("x", secretfile.Limit+1), 0o600)
	if _, err := ReadPassphrase(file); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a large file: %v", err)
	}
}

func TestTheNewestWholeBackupIsFound(t *testing.T) {
	a, p := newBench(t, t.TempDir()), place(t)
	if _, err := Newest(t.Context(), p, ""); !errors.Is(err, ErrNoFolder) {
		t.Errorf("without a folder: %v", err)
	}
	a.must(os.Mkdir(p.dir, 0o700))
	if _, err := Newest(t.Context(), p, ""); err == nil || !strings.Contains(err.Error(), "has no backup") {
		t.Errorf("an empty folder: %v", err)
	}
	now := time.Now()
	older, err := a.backUp(p, now.Add(-time.Hour))
	a.must(err)
	newer, err := a.backUp(p, now)
	a.must(err)
	a.must(os.WriteFile(filepath.Join(p.dir, "README"), []byte("not a backup"), 0o644))
	a.must(os.WriteFile(filepath.Join(p.dir, "troupe-20261121T222048.689Z-hello.backup"), []byte("not a backup either"), 0o644))
	if got, err := Newest(t.Context(), p, ""); err != nil || got.Name != newer.Name {
		t.Errorf("the newest is %s, %v", got.Name, err)
	}
	a.must(os.Truncate(filepath.Join(p.dir, newer.Name), newer.Size-1))
	if got, err := Newest(t.Context(), p, ""); err != nil || got.Name != older.Name {
		t.Errorf("the newest whole one is %s, %v", got.Name, err)
	}
	if _, err := Newest(t.Context(), p, newer.Name); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("the damaged one by name: %v", err)
	}
	for _, name := range []string{"../" + older.Name, "x", "troupe-20261121T222048.689Z-missing.backup"} {
		if _, err := Newest(t.Context(), p, name); err == nil {
			t.Errorf("%q is found", name)
		}
	}
	a.must(os.Rename(filepath.Join(p.dir, older.Name), filepath.Join(p.dir, strings.Replace(older.Name, "troupe-2", "troupe-3", 1))))
	if _, err := Newest(t.Context(), p, ""); err == nil || !strings.Contains(err.Error(), "none of them is whole") {
		t.Errorf("a renamed one: %v", err)
	}
	a.mustBackUp(p)
	newBench(t, t.TempDir()).mustBackUp(p)
	if _, err := Newest(t.Context(), p, ""); err == nil || !strings.Contains(err.Error(), "different certificate authorities") {
		t.Errorf("two authorities: %v", err)
	}
}

func TestPruningLeavesTheNewestOfThisMemberAndAllOfOthers(t *testing.T) {
	a, p := newBench(t, t.TempDir()), place(t)
	other := newBench(t, t.TempDir())
	now := time.Now()
	var made []Info
	for i := range 5 {
		info, err := a.backUp(p, now.Add(time.Duration(i)*time.Minute))
		a.must(err)
		made = append(made, info)
	}
	theirs, err := other.backUp(p, now.Add(-time.Hour))
	a.must(err)
	a.must(os.Truncate(filepath.Join(p.dir, made[4].Name), 900)) // the newest is damaged and does not count
	a.must(os.Truncate(filepath.Join(p.dir, made[0].Name), 900))
	gone, err := Prune(t.Context(), p, a.Header(now), 2)
	a.must(err)
	if diff := cmp.Diff([]string{made[1].Name, made[0].Name}, gone); diff != "" {
		t.Errorf("removed:\n%s", diff)
	}
	all, err := List(t.Context(), p)
	a.must(err)
	var left []string
	for _, i := range all {
		left = append(left, i.Name)
	}
	if diff := cmp.Diff([]string{made[4].Name, made[3].Name, made[2].Name, theirs.Name}, left); diff != "" {
		t.Errorf("left:\n%s", diff)
	}
}

// TestABackupThatCannotBeMadeLeavesNothing lets each side fail in the middle.
func TestABackupThatCannotBeMadeLeavesNothing(t *testing.T) {
	a, p := newBench(t, t.TempDir()).live(), place(t)
	h := a.Header(time.Now())
	write := func(ctx context.Context, w io.Writer) (Summary, error) { return a.Write(ctx, h, w) }
	ctx, cancel := context.WithCancel(t.Context())
	for name, c := range map[string]struct {
		ctx   context.Context
		place Place
		src   Source
		want  string
	}{
		"the member fails": {t.Context(), p, func(ctx context.Context, w io.Writer) (Summary, error) {
			_, err := write(ctx, &short{w: w, left: 30_000, err: io.ErrUnexpectedEOF}) // an error that some take for an end
			return Summary{}, err
		}, io.ErrUnexpectedEOF.Error()},
		"the member stops": {t.Context(), p, func(context.Context, io.Writer) (Summary, error) { return Summary{}, io.EOF }, io.EOF.Error()},
		"the place fails":  {t.Context(), fullPlace{p}, write, "is full"},
		"the operator stops it": {ctx, p, func(ctx context.Context, w io.Writer) (Summary, error) {
			cancel()
			return write(ctx, w)
		}, "interrupted"},
		"the folder is a file": {t.Context(), folder{filepath.Join(a.environments, "production/environment.conf")}, write, "not a directory"},
	} {
		if _, err := Create(c.ctx, c.place, h, locks(), c.src, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if entries, err := os.ReadDir(p.dir); len(entries) > 0 {
			t.Errorf("%s: there is %v (%v)", name, entries, err)
		}
	}
	a.Busy <- struct{}{}
	if _, err := a.backUp(p, time.Now()); fault.KindOf(err) != fault.Conflict {
		t.Errorf("two backups at once: %v", err)
	}
	<-a.Busy
	a.mustBackUp(p)
}

// short takes so many bytes.
type short struct {
	w    io.Writer
	left int
	err  error
}

func (s *short) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, s.err
	}
	return s.w.Write(p)
}

// fullPlace has a disk with little room.
type fullPlace struct{ folder }

func (f fullPlace) Create(ctx context.Context, name string, r io.Reader) error {
	return f.folder.Create(ctx, name, io.MultiReader(io.LimitReader(r, 4000), failing{syscall.ENOSPC}))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestModulesOutsideOfEnvironmentsAreToldAsLeftOut(t *testing.T) {
	b := newBench(t, t.TempDir()).live()
	shared, empty := filepath.Join(t.TempDir(), "modules"), t.TempDir()
	for _, module := range []string{"stdlib", "ntp"} {
		b.must(os.MkdirAll(filepath.Join(shared, module, "manifests"), 0o755))
	}
	b.Outside = []string{shared, empty, filepath.Join(empty, "none")}
	got := b.mustBackUp(place(t)).Summary.LeftOut
	if len(got) != 1 || !strings.Contains(got[0], "2 modules in "+shared) {
		t.Errorf("left out: %q", got)
	}
}
