package code

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file compares settings with those that Puppet reads, and lists environments.

// settingsConfs are environment.conf files by environment.
func settingsConfs() map[string]string {
	return map[string]string{
		"none":      "",
		"empty":     "# nothing\n\n",
		"path":      "modulepath = site:modules:$basemodulepath\n",
		"absolute":  "modulepath = /opt/modules:./x/../y\nmanifest = /opt/site.pp\n",
		"quoted":    "modulepath = 'site'\nmanifest = \"manifests/site.pp\"  \n",
		"glob":      "modulepath = many/*:modules\n",
		"variable":  "modulepath = $codedir/shared:modules\nmanifest=$codedir/site.pp\n",
		"version":   "config_version = scripts/version.sh $environmentpath $environment\n",
		"version2":  "config_version = /bin/echo 1\n",
		"unlimited": "environment_timeout = unlimited\n",
		"minutes":   "environment_timeout = 3m\n",
		"seconds":   "environment_timeout=42\n",
		"section":   "manifest = one\n[other]\nmanifest = two\n",
		"mainagain": "[main]\nmanifest = one\n[x]\ny = z\n[main]\nconfig_version = /bin/true\n",
		"twice":     "manifest = one\nmanifest = two\n",
		"unknown":   "colour = blue\nmanifest = m\n",
		"unset":     "modulepath = $nosuchsetting/x\n",
		"broken":    "this is no setting\n",
		"badttl":    "environment_timeout = soon\n",
		"crlf":      "manifest = crlf\r\n",
	}
}

func TestSettingsEqualPuppets(t *testing.T) {
	confs := settingsConfs()
	files := map[string]string{"environments/glob/many/a/": "", "environments/glob/many/b/": ""}
	for name, text := range confs {
		files["environments/"+name+"/manifests/site.pp"] = ""
		if text != "" {
			files["environments/"+name+"/environment.conf"] = text
		}
	}
	s := newSite(t, files, func(o *Options) { o.Settings["codedir"] = "/changed/below" })
	s.repo = s.open(t, func(o *Options) {
		o.Settings["codedir"] = filepath.Join(s.dir, "puppet/code") // as the oracle has it
		o.Dir += "2"
	})

	var queries []query
	for name := range confs {
		queries = append(queries, query{"settings", name, "", map[string]any{}})
	}
	want := s.ask(t, queries)
	list, err := s.repo.Environments(t.Context())
	must(t, err)
	for i, q := range queries {
		at := slices.IndexFunc(list, func(e EnvironmentInfo) bool { return string(e.Name) == q.Environment })
		if at < 0 {
			t.Errorf("environment %s is not listed", q.Environment)
			continue
		}
		got := list[at]
		if strings.HasPrefix(want[i], "error: ") {
			if got.Err == nil {
				t.Errorf("environment %s has no error, Puppet says %s", q.Environment, want[i])
			}
			continue
		}
		if got.Err != nil {
			t.Errorf("environment %s: %v; Puppet says %s", q.Environment, got.Err, want[i])
			continue
		}
		if diff := cmp.Diff(decode(t, []byte(want[i])), decode(t, encode(t, got.Settings))); diff != "" {
			t.Errorf("settings of %s differ from Puppet's (-want +got):\n%s", q.Environment, diff)
		}
	}
}

func TestABrokenEnvironmentDoesNotStopOthers(t *testing.T) {
	s := newSite(t, map[string]string{
		"environments/production/manifests/site.pp": "",
		"environments/broken/environment.conf":      "no setting\n",
		"environments/not-a-name/manifests/site.pp": "",
		"environments/afile":                        "x",
	})
	s.current(t)

	_, err := s.repo.Current(t.Context(), "broken")
	if fault.KindOf(err) != fault.Failed || !strings.Contains(fault.Message(err), "environment.conf:1: could not match line no setting") {
		t.Errorf("broken environment: %v, want a fault that names file and line", err)
	}
	for _, name := range []puppet.Environment{"nowhere", "afile"} {
		if _, err := s.repo.Current(t.Context(), name); fault.KindOf(err) != fault.NotFound || fault.Message(err) != "Could not find environment '"+string(name)+"'" {
			t.Errorf("environment %s: %v, want not found", name, err)
		}
	}

	list, err := s.repo.Environments(t.Context())
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, string(e.Name))
	}
	if diff := cmp.Diff([]string{"broken", "production"}, names); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
}

func TestTheFirstEnvironmentpathWins(t *testing.T) {
	s := newSite(t, map[string]string{
		"environments/production/manifests/site.pp": "first",
		"more/production/manifests/site.pp":         "second",
		"more/testing/manifests/site.pp":            "third",
	})
	s.repo = s.open(t, func(o *Options) {
		o.EnvironmentPath = append(o.EnvironmentPath, s.path("more"))
		o.Dir += "2"
	})
	list, err := s.repo.Environments(t.Context())
	must(t, err)
	got := map[puppet.Environment]string{}
	for _, e := range list {
		got[e.Name] = e.Path
	}
	want := map[puppet.Environment]string{"production": s.path("environments/production"), "testing": s.path("more/testing")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
	paths, err := json.Marshal(s.repo.SearchPaths())
	must(t, err)
	if want := `["file://` + s.path("environments") + `","file://` + s.path("more") + `"]`; string(paths) != want {
		t.Errorf("search paths are %s, want %s", paths, want)
	}
}
