package code

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file brings versions from one repo to another, as members do.

// carry installs a version of one repo in another one and returns how many contents were asked for.
func carry(t *testing.T, from, to *Repo, id string) (asked int) {
	t.Helper()
	text := manifestOf(t, from, id)
	env, err := to.Install(t.Context(), id, text, func(_ context.Context, want []Content, take func(Content, io.Reader) error) error {
		asked += len(want)
		for _, c := range want {
			f, err := from.OpenContent(c)
			if err != nil {
				return err
			}
			if err := errors.Join(take(c, f), f.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	if env != "production" {
		t.Errorf("it is of environment %s", env)
	}
	return asked
}

func manifestOf(t *testing.T, r *Repo, id string) []byte {
	t.Helper()
	f, err := r.OpenManifest(id)
	must(t, err)
	defer f.Close()
	text, err := io.ReadAll(f)
	must(t, err)
	return text
}

var rich = map[string]string{
	"environments/production/manifests/site.pp":           "include a\n",
	"environments/production/environment.conf":            "modulepath = modules:$basemodulepath\nconfig_version = scripts/version\nenvironment_timeout = unlimited\n",
	"environments/production/scripts/version":             "#!/bin/sh\necho one\n",
	"environments/production/modules/a/manifests/init.pp": "class a {}\n",
	"environments/production/modules/a/files/one":         "same\n",
	"environments/production/modules/a/files/two":         "same\n",
	"environments/production/modules/a/files/link":        "-> one",
	"environments/production/modules/a/lib/facter/a.rb":   "#!ruby\n",
	"base/b/files/three":                                  "three\n",
}

func TestAVersionComesWholeToAMemberWithoutTheFolder(t *testing.T) {
	from, to := newSite(t, rich), newSite(t, nil)
	v := from.current(t)
	if _, err := to.repo.Current(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Fatalf("before: %v", err)
	}
	if asked := carry(t, from.repo, to.repo, v.ID); asked != 7 {
		t.Errorf("%d contents were asked for, want each once: 7", asked)
	}
	if _, err := to.repo.Current(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("what is only installed serves: %v", err)
	}
	must(t, to.repo.Pin("production", v.ID, Deployment{ConfigVersion: "one"}))
	got := to.current(t)
	if got.ID != v.ID || got.ConfigVersion != "one" || to.repo.Pinned("production") != v.ID {
		t.Errorf("version %s %q", got.ID, got.ConfigVersion)
	}
	for _, name := range []string{"a/one", "a/two", "a/link", "b/three"} {
		if a, b := read(t, got, "modules", name), read(t, v, "modules", name); a != b {
			t.Errorf("%s is %q there and %q here", name, b, a)
		}
	}
	text, err := os.ReadFile(filepath.Join(got.Manifest, "site.pp"))
	if must(t, err); string(text) != "include a\n" {
		t.Errorf("main manifest: %q", text)
	}
	all, err := to.repo.Environments(t.Context())
	if must(t, err); len(all) != 1 || all[0].Name != "production" || all[0].Current != v.ID {
		t.Errorf("environments: %+v", all)
	}

	// The next one brings only what is new.
	lay(t, filepath.Join(from.dir, "code"), map[string]string{"environments/production/modules/a/files/two": "changed\n"})
	next := from.current(t)
	if asked := carry(t, from.repo, to.repo, next.ID); asked != 1 {
		t.Errorf("%d contents were asked for, want the one that is new", asked)
	}
	must(t, to.repo.Pin("production", next.ID, Deployment{}))
	if got := read(t, to.current(t), "modules", "a/two"); got != "changed\n" {
		t.Errorf("after the next deploy: %q", got)
	}
	if d, err := to.repo.store.deployment(v.ID); d != nil || err != nil {
		t.Errorf("the version before is kept as if it served: %v %v", d, err)
	}
}

func TestADeployedVersionServesInPlaceOfTheFolder(t *testing.T) {
	s := newSite(t, rich)
	v := s.current(t)
	must(t, s.repo.Pin("production", v.ID, Deployment{}))
	lay(t, filepath.Join(s.dir, "code"), map[string]string{"environments/production/modules/a/files/one": "changed\n"})
	if got := s.current(t); got.ID != v.ID {
		t.Error("a change of the folder is served")
	}
	folder, err := s.repo.Folder(t.Context(), "production")
	if must(t, err); folder.ID == v.ID {
		t.Error("the folder is not looked at")
	}
	if again := s.open(t); again.Pinned("production") != v.ID {
		t.Error("a restarted process does not know what was deployed")
	}
	must(t, s.repo.Unpin("production"))
	if got := s.current(t); got.ID != folder.ID {
		t.Error("after Unpin the folder does not serve")
	}
}

// TestWhatWasDeployedStaysOverACrashOfTheMachine says that the kernel was started anew.
func TestWhatWasDeployedStaysOverACrashOfTheMachine(t *testing.T) {
	s := newSite(t, rich)
	first := s.current(t)
	lay(t, filepath.Join(s.dir, "code"), map[string]string{"environments/production/modules/a/files/one": "changed\n"})
	v := s.current(t)
	must(t, s.repo.Pin("production", v.ID, Deployment{ConfigVersion: "7"}))
	must(t, os.RemoveAll(s.path("environments")))
	crash := func() *Repo {
		must(t, os.WriteFile(filepath.Join(s.dir, "versions/boot"), []byte("another\n"), 0o644))
		return s.open(t)
	}

	r := crash()
	got, err := r.Current(t.Context(), "production")
	must(t, err)
	if got.ID != v.ID || got.ConfigVersion != "7" || read(t, got, "modules", "a/one") != "changed\n" {
		t.Errorf("after the crash: %s %q", got.ID, got.ConfigVersion)
	}
	if _, err := os.Stat(s.repo.store.version(first.ID)); err == nil {
		t.Error("a version that nobody needs is there after the crash")
	}
	if _, err := os.Stat(filepath.Join(got.EnvironmentPath, "production/modules/a/files/one")); err != nil {
		t.Error(err)
	}

	// What nobody links is removed at a crash, and everything that the version needs is linked: it stays over the next one.
	for c, n := range got.plan.contents() {
		if _, err := os.Stat(r.store.blob(n.sum, c.Executable)); err != nil {
			t.Errorf("a content of the version is gone after the crash: %v", err)
		}
	}
	r = crash()
	if again, err := r.Current(t.Context(), "production"); err != nil || again.ID != v.ID {
		t.Fatalf("after the second crash: %v", err)
	}

	// One bit, and the version is not believed any more.
	for c, n := range got.plan.contents() {
		if c.Executable {
			continue
		}
		blob := r.store.blob(n.sum, false)
		must(t, os.Chmod(blob, 0o644))
		text, err := os.ReadFile(blob)
		must(t, err)
		text[0] ^= 1
		must(t, os.WriteFile(blob, text, 0o444))
		break
	}
	r = crash()
	if _, err := r.Current(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a damaged version serves: %v", err)
	}
}

func TestABadManifestOrContentIsRefused(t *testing.T) {
	from, to := newSite(t, rich), newSite(t, nil)
	v := from.current(t)
	good := manifestOf(t, from.repo, v.ID)
	nothing := func(context.Context, []Content, func(Content, io.Reader) error) error { return nil }
	for name, change := range map[string]func(m *manifest){
		"a name that climbs":         func(m *manifest) { m.Roots[0].Node.Children[0].Name = "../../../up" },
		"a name that is a folder up": func(m *manifest) { m.Roots[0].Node.Children[0].Name = ".." },
		"a label that climbs":        func(m *manifest) { m.Roots[1].Label = "../../etc" },
		"an absolute label":          func(m *manifest) { m.Roots[1].Label = "/etc" },
		"a root in a root":           func(m *manifest) { m.Roots[1].Label = "environments/production/modules/a/x" },
		"a manifest outside":         func(m *manifest) { m.Manifest = "../site.pp" },
		"another environment":        func(m *manifest) { m.Environment = "test" },
		"no environment":             func(m *manifest) { m.Environment = "../x" },
		"another content":            func(m *manifest) { m.Conf = []byte("modulepath = /\n") },
		"no roots":                   func(m *manifest) { m.Roots = nil },
		"another format":             func(m *manifest) { m.Format = 1 },
		"out of order":               func(m *manifest) { c := m.Roots[0].Node.Children; c[0], c[1] = c[1], c[0] },
		"a file with entries": func(m *manifest) {
			m.Roots[0].Node.Children[0].Kind = fileKind
			m.Roots[0].Node.Children[0].Sum = strings.Repeat("0", 64)
			m.Roots[0].Node.Children[0].Children = []*manifestNode{{Name: "x"}}
		},
		"a link to nothing": func(m *manifest) {
			c := m.Roots[0].Node.Children
			c[0].Kind, c[0].ToLabel, c[0].Children = linkKind, "../x", nil
		},
	} {
		var m manifest
		must(t, json.Unmarshal(good, &m))
		change(&m)
		text, err := json.Marshal(m)
		must(t, err)
		if _, err := to.repo.Install(t.Context(), v.ID, text, nothing); err == nil || fault.KindOf(err) == fault.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"no JSON": "{", "nothing": "", "a list": "[]"} {
		if _, err := to.repo.Install(t.Context(), v.ID, []byte(text), nothing); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := to.repo.Install(t.Context(), v.ID, good, nothing); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("contents that do not come: %v", err)
	}
	_, err := to.repo.Install(t.Context(), v.ID, good, func(_ context.Context, want []Content, take func(Content, io.Reader) error) error {
		return take(want[0], strings.NewReader("something else"))
	})
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("a wrong content: %v", err)
	}
	for _, dir := range []string{"versions", "tmp"} {
		left, err := os.ReadDir(filepath.Join(to.dir, "versions", dir))
		if must(t, err); len(left) > 0 {
			t.Errorf("%s has %v after what was refused", dir, left)
		}
	}
	if err := to.repo.Pin(puppet.Environment("production"), v.ID, Deployment{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("what is not there is pinned: %v", err)
	}
	for _, c := range []Content{{Sum: "../../x"}, {Sum: strings.Repeat("g", 64)}, {}} {
		if _, err := from.repo.OpenContent(c); fault.KindOf(err) != fault.Invalid {
			t.Errorf("content %q: %v", c.Sum, err)
		}
	}
}
