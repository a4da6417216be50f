package code

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/puppet"
)

// This file reads fileserver.conf and fuzzes what is parsed here.

func TestFileserverConf(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	tests := []struct {
		name, text string
		want       []FileMount
		warning    string // part of it
		err        string
	}{
		{name: "empty", text: "\n# nothing\n"},
		{name: "one", text: "[files]\n  path DIR # comment\n  allow *\n", want: []FileMount{{"files", dir}}},
		{name: "two", text: "[a]\npath DIR\n[b-c]\npath DIR/%h/x\r\n", want: []FileMount{{"a", dir}, {"b-c", dir + "/%h/x"}}},
		{name: "rules that have no effect", text: "[a]\npath DIR\ndeny *.example.com\n", want: []FileMount{{"a", dir}}, warning: "conf:3: entry 'deny *.example.com' is unsupported"},
		{name: "path of a built-in mount", text: "[modules]\npath DIR\n", warning: "conf:2: the modules mount can not have a path"},
		{name: "missing folder", text: "[a]\npath DIR/none\n", warning: "mount [a] is left out"},
		{name: "file as folder", text: "[a]\npath DIR/file\n", warning: "is not a folder"},
		{name: "relative path", text: "[a]\npath x\n", warning: "is not an absolute path"},
		{name: "without path", text: "[a]\nallow *\n", err: "mount [a] has no path"},
		{name: "twice", text: "[a]\npath DIR\n[a]\n", err: "conf:3: mount [a] is already there"},
		{name: "equals sign", text: "[a]\npath = DIR\n", err: "conf:2: fileserver configuration does not use '='"},
		{name: "unknown setting", text: "[a]\ncolour blue\n", err: "conf:2: invalid argument 'colour'"},
		{name: "no section", text: "path DIR\n", err: "conf:1: path stands before the first [mount]"},
		{name: "no value", text: "[a]\npath\n", err: "conf:2: invalid entry"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, warnings, err := ParseFileMounts("conf", []byte(strings.ReplaceAll(test.text, "DIR", dir)))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error is %v, want %q", err, test.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
			if text := strings.Join(warnings, "\n"); (text == "") != (test.warning == "") || !strings.Contains(text, test.warning) {
				t.Errorf("warnings are %q, want %q", text, test.warning)
			}
		})
	}
	if mounts, _, err := LoadFileMounts(filepath.Join(dir, "none")); err != nil || mounts != nil {
		t.Errorf("missing file gives %v, %v", mounts, err)
	}
}

func TestPathsOfMountsAsPuppetExpandsThem(t *testing.T) {
	for name, want := range map[puppet.Certname]string{
		"web1.example.com": "/s/web1/web1.example.com/example.com/%/%x",
		"web1":             "/s/web1/web1/web1/%/%x",
	} {
		got, ok := FileMount{"m", "/s/%h/%H/%d/%%/%x"}.path(name)
		if got != want || !ok {
			t.Errorf("path for %s is %s (%v), want %s", name, got, ok, want)
		}
	}
}

func FuzzFileserverConf(f *testing.F) {
	f.Add("[a]\npath /x\nallow *\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, _, err := ParseFileMounts("conf", []byte(text))
		for _, m := range mounts {
			if err == nil && !filepath.IsAbs(m.Path) {
				t.Errorf("mount %q has path %q", m.Name, m.Path)
			}
		}
	})
}

func FuzzEnvironmentConf(f *testing.F) {
	f.Add("modulepath = a:$basemodulepath\nmanifest = 'x'\n[s]\ny=z\n")
	f.Fuzz(func(t *testing.T, text string) {
		conf, _, err := parseEnvironmentConf("conf", []byte(text))
		if err != nil {
			return
		}
		c := settingsContext{name: "e", dir: "/nowhere/e", o: Options{BaseModulePath: []string{"/base"}}}
		s, err := c.settings(conf)
		if err != nil {
			return
		}
		for _, p := range append(s.ModulePath, s.Manifest) {
			if !filepath.IsAbs(p) {
				t.Errorf("path %q is not absolute", p)
			}
		}
	})
}

func FuzzFnmatch(f *testing.F) {
	f.Add("*[a-c]?", "xb1")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if fnmatch("*", name) && name != "" && name[0] == '.' {
			t.Errorf("* matches %q", name)
		}
		fnmatch(pattern, name)
	})
}
