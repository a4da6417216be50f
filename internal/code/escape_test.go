package code

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file tries to leave mounts.

// escapeSite has one secret, beside everything that is served.
func escapeSite(t testing.TB) *site {
	t.Helper()
	s := newSite(t, map[string]string{
		"secret/shadow":                                           "SECRET",
		"environments/production/hiera.yaml":                      "inside",
		"environments/production/modules/a/files/f":               "fine",
		"environments/production/modules/a/files/inside":          "-> ../../b/files/b",
		"environments/production/modules/a/files/relative":        "-> ../../../../../secret/shadow",
		"environments/production/modules/a/files/folder":          "-> ../../../../../secret",
		"environments/production/modules/a/files/chain":           "-> relative",
		"environments/production/modules/a/files/loop":            "-> loop",
		"environments/production/modules/a/files/self":            "-> .",
		"environments/production/modules/a/lib/x.rb":              "-> ../../../../../secret/shadow",
		"environments/production/modules/b/files/b":               "b",
		"environments/production/modules/a/manifests/init.pp":     "class a {}",
		"environments/production/modules/c/files":                 "-> ../../../../secret",
		"environments/production/modules/a/files/%2e%2e/really":   "an odd name, but inside",
		"environments/production/modules/a/files/back\\slash":     "an odd name, but inside",
		"environments/production/modules/a/files/dots/..hidden/f": "an odd name, but inside",
		"live/top":       "fine",
		"live/out":       "-> ../secret/shadow",
		"live/folder":    "-> ../secret",
		"live/per/x/own": "fine",
	})
	lay(t, s.path(""), map[string]string{
		"environments/production/modules/a/files/absolute": "-> " + s.path("secret/shadow"),
		"environments/production/modules/a/files/home":     "-> " + s.path("environments/production/modules/b/files/b"),
		"live/absolute": "-> " + s.path("secret/shadow"),
	})
	s.repo = s.open(t, func(o *Options) {
		o.Dir += "2"
		o.FileMounts = []FileMount{
			{"live", s.path("live")}, {"host", s.path("live/per/%h")}, {"name", s.path("live/per/%H")}, {"domain", s.path("live/per/%d")},
		}
	})
	return s
}

func TestNoPathLeavesItsMount(t *testing.T) {
	s := escapeSite(t)
	v := s.current(t)
	secret := s.path("secret/shadow")
	up := strings.Repeat("../", 12)
	tricks := map[string]string{
		"parent":                 "../../../../../secret/shadow",
		"parent after a folder":  "a/../../../../../../secret/shadow",
		"parent at the end":      "a/..",
		"many parents":           up + secret,
		"absolute":               secret,
		"absolute after a slash": "/" + secret,
		"absolute in a module":   "a/" + secret,
		"double slashes":         "a//..//..//" + secret,
		"encoded dots":           "a/%2e%2e/%2e%2e/%2e%2e/secret/shadow",
		"encoded twice":          "a/%252e%252e/secret/shadow",
		"encoded slashes":        "a/..%2f..%2f..%2fsecret/shadow",
		"overlong dots":          "a/\xc0\xae\xc0\xae/secret/shadow",
		"full-width dots":        "a/．．/secret/shadow",
		"backslashes":            `a\..\..\..\secret\shadow`,
		"NUL":                    "a/f\x00../../secret/shadow",
		"NUL at the end":         "a/relative\x00",
		"newline":                "a/f\n/../secret",
		"four dots":              "a/....//....//secret/shadow",
		"relative link":          "a/relative",
		"absolute link":          "a/absolute",
		"link to a folder":       "a/folder/shadow",
		"chain of links":         "a/chain",
		"loop of links":          "a/loop",
		"linked files folder":    "c/shadow",
		"link in a live mount":   "out",
		"folder in a live mount": "folder/shadow",
		"absolute live link":     "absolute",
		"link among plugins":     "x.rb",
		"very long":              "a/" + strings.Repeat("x/", 100_000),
		"other parts of modules": "a/../manifests/init.pp",
	}
	for _, mount := range []string{"modules", "plugins", "pluginfacts", "locales", "scripts", "tasks", "live", "host", "..", "", "/", "a/b"} {
		for name, path := range tricks {
			for _, links := range []string{"manage", "follow"} {
				s.tryMount(t, v, mount, path, links, mount+", "+name)
			}
		}
	}
	for name, path := range tricks {
		for _, prefix := range []string{"", "modules/", "modules/a/files/", "modules/a/lib/"} {
			f, _, err := v.OpenStatic(t.Context(), prefix+path)
			if err == nil {
				text, _ := io.ReadAll(f)
				f.Close()
				t.Errorf("static content, %s: %q served %q", name, prefix+path, text)
			}
		}
	}
}

// tryMount fails if the secret, or anything that is no answer, comes back.
func (s *site) tryMount(t *testing.T, v *Version, mount, path, links, name string) {
	t.Helper()
	if f, _, err := v.Open(t.Context(), mount, path, "x.example.com"); err == nil {
		text, _ := io.ReadAll(f)
		f.Close()
		t.Errorf("%s: content is %q", name, text)
	}
	o := MetadataOptions{Links: links, SourcePermissions: "use", ChecksumType: "sha256", Node: "x.example.com"}
	m, err := v.Metadata(t.Context(), mount, path, o)
	if err == nil && (m.Type != "link" || m.Checksum != "") {
		t.Errorf("%s: metadata is %+v", name, m)
	}
	if err != nil && fault.KindOf(err) != fault.NotFound && fault.KindOf(err) != fault.Failed {
		t.Errorf("%s: error is %v, want a fault", name, err)
	}
	list, err := v.Search(t.Context(), mount, path, SearchOptions{MetadataOptions: o, Recurse: true})
	for _, m := range list {
		if strings.Contains(m.Path+m.RelativePath, "shadow") {
			t.Errorf("%s: search found %+v", name, m)
		}
	}
	if err != nil && fault.KindOf(err) != fault.NotFound && fault.KindOf(err) != fault.Failed {
		t.Errorf("%s: error of the search is %v, want a fault", name, err)
	}
}

func TestOddNamesAndLinksInsideAreServed(t *testing.T) {
	s := escapeSite(t)
	v := s.current(t)
	got := map[string]string{}
	for _, path := range []string{"a/f", "a/inside", "a/home", "a/self/self/f", "a/%2e%2e/really", `a/back\slash`, "a/dots/..hidden/f"} {
		got[path] = read(t, v, "modules", path)
	}
	got["live top"] = read(t, v, "live", "top")
	want := map[string]string{
		"a/f": "fine", "a/inside": "b", "a/home": "b", "a/self/self/f": "fine", "a/%2e%2e/really": "an odd name, but inside",
		`a/back\slash`: "an odd name, but inside", "a/dots/..hidden/f": "an odd name, but inside", "live top": "fine",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if len(v.Warnings) < 4 || !strings.Contains(strings.Join(v.Warnings, "\n"), "leads out of the environment to "+s.path("secret/shadow")) {
		t.Errorf("warnings are %q, want every link that leads out", v.Warnings)
	}

	// The workers' rights are their own: for them the link leads where it led.
	target, err := filepath.EvalSymlinks(v.EnvironmentPath + "/production/modules/a/files/relative")
	if err != nil || target != s.path("secret/shadow") {
		t.Errorf("in the snapshot the link leads to %s (%v)", target, err)
	}
	target, err = filepath.EvalSymlinks(v.EnvironmentPath + "/production/modules/a/files/home")
	if err != nil || !strings.HasPrefix(target, v.Root) {
		t.Errorf("in the snapshot a link inside leads to %s (%v), want a place in %s", target, err, v.Root)
	}
}

func TestACertnameDoesNotChooseTheMountsFolder(t *testing.T) {
	s := escapeSite(t)
	v := s.current(t)
	lay(t, s.path(""), map[string]string{"live/per/example.com/shared": "fine", "live/per/other": "of all agents"})
	tests := []struct {
		mount, path string
		node        puppet.Certname
		want        string // "" for not found
	}{
		{"host", "own", "x.example.com", "fine"},
		{"domain", "shared", "x.example.com", "fine"},
		{"host", "other", ".example.com", ""},
		{"domain", "other", "x..", ""},
		{"domain", "top", "x...", ""},
		{"name", "other", "nobody", ""},
		{"host", "own", "", ""},
	}
	for _, test := range tests {
		f, _, err := v.Open(t.Context(), test.mount, test.path, test.node)
		got := ""
		if err == nil {
			text, readErr := io.ReadAll(f)
			must(t, readErr)
			must(t, f.Close())
			got = string(text)
		} else if fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s/%s for %q: %v", test.mount, test.path, test.node, err)
		}
		if got != test.want {
			t.Errorf("%s/%s for %q serves %q, want %q", test.mount, test.path, test.node, got, test.want)
		}
	}
}

func TestStaticContentComesFromModuleFoldersOnly(t *testing.T) {
	s := newSite(t, map[string]string{
		"environments/production/site/a/files/f":           "f",
		"environments/production/site/a/tasks/t.sh":        "t",
		"environments/production/site/a/scripts/s":         "s",
		"environments/production/site/a/lib/l.rb":          "l",
		"environments/production/site/a/files/sub/deep/d":  "d",
		"environments/production/site/a/manifests/init.pp": "secret",
		"environments/production/site/a/data/x.yaml":       "secret",
		"environments/production/hiera.yaml":               "secret",
		"environments/production/data/files/x/y":           "secret",
	})
	v := s.current(t)
	kinds := map[string]fault.Kind{
		"":                                  fault.Invalid,
		"site/a/manifests/init.pp":          fault.Denied,
		"site/a/data/x.yaml":                fault.Denied,
		"hiera.yaml":                        fault.Denied,
		"data/files/x/y":                    fault.Denied,
		"site/a/files/":                     fault.Denied,
		"site/a/files/../manifests/init.pp": fault.Denied,
		"site/a/files/none":                 fault.NotFound,
		"site/a/files/sub":                  fault.NotFound,
		"site/none/files/f":                 fault.NotFound,
	}
	for path, want := range kinds {
		if _, _, err := v.OpenStatic(t.Context(), path); fault.KindOf(err) != want || err == nil {
			t.Errorf("%q: %v, want kind %d", path, err, want)
		}
	}
	for _, path := range []string{"site/a/files/f", "site/a/tasks/t.sh", "site/a/scripts/s", "site/a/lib/l.rb", "site/a/files/sub/deep/d"} {
		f, info, err := v.OpenStatic(t.Context(), path)
		must(t, err)
		if info.Size() != 1 {
			t.Errorf("%s has %d bytes, want 1", path, info.Size())
		}
		must(t, f.Close())
	}
}
