package code

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/puppet"
)

// This file lays out environments for tests.

// lay writes files below dir. A path that ends in "/" is a folder, a text that
// begins with "-> " a link, one with "#!" an executable.
func lay(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		target, link := strings.CutPrefix(text, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(path, 0o755))
		case link:
			must(t, os.Symlink(target, path))
		case strings.HasPrefix(text, "#!"):
			must(t, os.WriteFile(path, []byte(text), 0o755))
		default:
			must(t, os.WriteFile(path, []byte(text), 0o644))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A site is a code folder with environments, and a repo that serves it.
type site struct {
	dir  string
	repo *Repo
}

// newSite lays files below code/ and opens a repo on code/environments, with
// code/base as basemodulepath.
func newSite(t testing.TB, files map[string]string, change ...func(*Options)) *site {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	lay(t, filepath.Join(dir, "code"), files)
	s := &site{dir: dir}
	s.repo = s.open(t, change...)
	return s
}

func (s *site) open(t testing.TB, change ...func(*Options)) *Repo {
	t.Helper()
	o := Options{
		EnvironmentPath: []string{filepath.Join(s.dir, "code/environments")},
		BaseModulePath:  []string{filepath.Join(s.dir, "code/base")},
		Settings:        map[string]string{"codedir": filepath.Join(s.dir, "code")},
		Dir:             filepath.Join(s.dir, "versions"),
	}
	for _, f := range change {
		f(&o)
	}
	r, err := New(o)
	must(t, err)
	t.Cleanup(func() { must(t, r.watch.close()) })
	return r
}

func (s *site) path(name string) string { return filepath.Join(s.dir, "code", name) }

func (s *site) current(t testing.TB) *Version { return s.version(t, "production") }

func (s *site) version(t testing.TB, e puppet.Environment) *Version {
	t.Helper()
	v, err := s.repo.Current(t.Context(), e)
	must(t, err)
	return v
}

// eventually polls until ok, for what another goroutine does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("%s did not happen within 10s", what)
}
