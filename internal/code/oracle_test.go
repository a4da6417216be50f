package code

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file compares answers with those of the real Puppet library.

// query is one request in the form that testdata/oracle.rb reads.
type query struct {
	Kind        string         `json:"kind"`
	Environment string         `json:"environment"`
	Key         string         `json:"key"`
	Options     map[string]any `json:"options"`
}

func (q query) String() string {
	var o []string
	for _, k := range slices.Sorted(maps.Keys(q.Options)) {
		o = append(o, fmt.Sprintf("%s=%v", k, q.Options[k]))
	}
	return strings.TrimSpace(q.Kind + " " + q.Key + " " + strings.Join(o, " "))
}

// ask lets Puppet answer queries on the site.
func (s *site) ask(t *testing.T, queries []query) []string {
	t.Helper()
	return s.askAt(t, s.path("environments"), s.path("base"), queries)
}

func (s *site) askAt(t *testing.T, environmentPath, baseModulePath string, queries []query) []string {
	t.Helper()
	input, err := json.Marshal(map[string]any{
		"dir":              filepath.Join(s.dir, "puppet"),
		"environmentpath":  environmentPath,
		"basemodulepath":   baseModulePath,
		"fileserverconfig": s.path("fileserver.conf"),
		"queries":          queries,
	})
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(s.dir, "puppet"), 0o755))
	cmd := exec.CommandContext(t.Context(), "ruby", "testdata/oracle.rb")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("asking Puppet: %v\n%s", err, stderr.String())
	}

	var raw []json.RawMessage
	must(t, json.Unmarshal(out, &raw))
	answers := make([]string, len(raw))
	for i, r := range raw {
		var failed struct{ Error string }
		switch {
		case string(r) == "null":
			answers[i] = "not found"
		case r[0] == '{':
			must(t, json.Unmarshal(r, &failed))
			answers[i] = "error: " + failed.Error
		default:
			must(t, json.Unmarshal(r, &answers[i]))
		}
	}
	return answers
}

// answer is ours, in the same form.
func answer(t *testing.T, v *Version, q query) string {
	t.Helper()
	mount, path, _ := strings.Cut(q.Key, "/")
	o := searchOptions(q.Options)
	var body []byte
	var err error
	if q.Kind == "find" {
		var m FileMetadata
		m, err = v.Metadata(t.Context(), mount, path, o.MetadataOptions)
		body = m.AppendJSON(nil)
	} else {
		var list []FileMetadata
		list, err = v.Search(t.Context(), mount, path, o)
		body = AppendMetadatas(nil, list)
	}
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return "not found"
	case err != nil:
		return "error: " + fault.Message(err)
	}
	return string(body)
}

func searchOptions(options map[string]any) SearchOptions {
	text := func(key string) string {
		s, _ := options[key].(string)
		return s
	}
	o := SearchOptions{Recurse: text("recurse") == "true"}
	o.Links, o.ChecksumType, o.SourcePermissions = text("links"), text("checksum_type"), text("source_permissions")
	o.Node = puppet.Certname(text("node"))
	if n, err := strconv.Atoi(text("recurselimit")); err == nil {
		o.RecurseLimit = &n
	}
	if n, err := strconv.Atoi(text("max_files")); err == nil {
		o.MaxFiles = n
	}
	switch ignore := options["ignore"].(type) {
	case string:
		o.Ignore = []string{ignore}
	case []string:
		o.Ignore = ignore
	}
	return o
}

const metadataJSON = `{"name":"acme-%s","version":"1.2.3","author":"acme","license":"MIT","source":"x","dependencies":[]}`

func oracleFiles() map[string]string {
	files := map[string]string{
		"environments/production/modules/alpha/metadata.json":           fmt.Sprintf(metadataJSON, "alpha"),
		"environments/production/modules/alpha/files/plain.txt":         "plain\n",
		"environments/production/modules/alpha/files/script.sh":         "#!/bin/sh\n",
		"environments/production/modules/alpha/files/empty":             "",
		"environments/production/modules/alpha/files/long":              strings.Repeat("0123456789", 200),
		"environments/production/modules/alpha/files/.hidden":           "h",
		"environments/production/modules/alpha/files/ünï \"q\" <&>.txt": "names\n",
		"environments/production/modules/alpha/files/dir/one":           "1",
		"environments/production/modules/alpha/files/dir/two.orig":      "2",
		"environments/production/modules/alpha/files/dir/CVS/Entries":   "s",
		"environments/production/modules/alpha/files/dir/sub/three":     "3",
		"environments/production/modules/alpha/files/dir/sub/deep/four": "4",
		"environments/production/modules/alpha/files/dir/empty/":        "",
		"environments/production/modules/alpha/files/tofile":            "-> plain.txt",
		"environments/production/modules/alpha/files/todir":             "-> dir",
		"environments/production/modules/alpha/files/linked/up":         "-> ../dir/sub",
		"environments/production/modules/alpha/files/linked/tolink":     "-> ../tofile",
		"environments/production/modules/alpha/files/broken/b":          "-> nowhere",
		"environments/production/modules/alpha/lib/facter/a.rb":         "a",
		"environments/production/modules/alpha/lib/puppet/both.rb":      "from alpha",
		"environments/production/modules/alpha/locales/de/alpha.po":     "de",
		"environments/production/modules/alpha/scripts/run.sh":          "#!/bin/sh\n",
		"environments/production/modules/beta/lib/puppet/both.rb":       "from beta",
		"environments/production/modules/beta/lib/puppet/beta.rb":       "beta",
		"environments/production/modules/beta/facts.d/ext.txt":          "a=b",
		"environments/production/modules/beta/facts.d/run.sh":           "#!/bin/sh\n",
		"environments/production/modules/beta/metadata.json":            "no json",
		"environments/production/modules/gamma/metadata.json":           `{"name":"acme-gamma","version":"1"}`,
		"environments/production/modules/gamma/lib/gamma.rb":            "not a module for Puppet",
		"environments/production/modules/Upper/files/x":                 "no module name",
		"environments/production/modules/delta":                         "-> ../elsewhere/delta",
		"environments/production/elsewhere/delta/files/d":               "d",
		"environments/production/modules/afile":                         "no folder",
		"base/beta/files/shadowed":                                      "hidden by the environment's beta",
		"base/omega/files/o":                                            "o",
		"base/omega/lib/omega.rb":                                       "o",
		"environments/production/modules/alpha/tasks/init.json":         `{"description":"d","private":true}`,
		"environments/production/modules/alpha/tasks/init.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/files.rb":          "#!/usr/bin/ruby\n",
		"environments/production/modules/alpha/tasks/files.json":        `{"files":["alpha/files/dir/","alpha/files/plain.txt","omega/files/o"]}`,
		"environments/production/modules/alpha/tasks/many.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/many.ps1":          "x",
		"environments/production/modules/alpha/tasks/impl.json":         `{"implementations":[{"name":"many.sh","requirements":["shell"],"files":["alpha/lib/facter/a.rb"]},{"name":"many.ps1"}]}`,
		"environments/production/modules/alpha/tasks/lost.json":         `{"implementations":[{"name":"nosuch"}]}`,
		"environments/production/modules/alpha/tasks/alone.json":        `{}`,
		"environments/production/modules/alpha/tasks/bad1.json":         `{"files":"x"}`,
		"environments/production/modules/alpha/tasks/bad1.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/bad2.json":         `{"files":["alpha/files/dir"]}`,
		"environments/production/modules/alpha/tasks/bad2.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/bad3.json":         `{"files":["alpha/files/plain.txt/"]}`,
		"environments/production/modules/alpha/tasks/bad3.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/bad4.json":         `{"files":["alpha/files/../lib/facter/a.rb"]}`,
		"environments/production/modules/alpha/tasks/bad4.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/bad5.json":         `{"files":["alpha/manifests/init.pp"]}`,
		"environments/production/modules/alpha/tasks/bad5.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/bad6.json":         `{"files":["nomod/files/x"]}`,
		"environments/production/modules/alpha/tasks/bad6.sh":           "#!/bin/sh\n",
		"environments/production/modules/alpha/tasks/notes.md":          "n",
		"environments/production/modules/alpha/tasks/Bad.sh":            "n",
		"environments/production/modules/alpha/plans/init.pp":           "plan",
		"environments/production/modules/alpha/plans/go.yaml":           "plan",
		"environments/production/modules/alpha/plans/go.pp":             "plan",
		"environments/production/modules/alpha/plans/class.pp":          "reserved",
		"environments/production/modules/alpha/plans/notes.md":          "n",
		"environments/empty/manifests/site.pp":                          "",
		"environments/nomodules/modules/":                               "",
		"live/top":                                                      "t",
		"live/dir/in":                                                   "i",
		"live/dir/link":                                                 "-> ../top",
		"live/agent1/own":                                               "1",
		"live/example.com/shared":                                       "s",
	}
	return files
}

// oracleSite has the files above and custom mounts.
func oracleSite(t *testing.T) *site {
	s := newSite(t, oracleFiles())
	conf := fmt.Sprintf("# mounts\n[live]\n  path %[1]s/live\n  allow *\n[own]\n path %[1]s/live/%%h\n[dom]\npath %[1]s/live/%%d # domain\n[modules]\n", filepath.Join(s.dir, "code"))
	must(t, os.WriteFile(s.path("fileserver.conf"), []byte(conf), 0o644))
	must(t, os.Chmod(s.path("environments/production/modules/alpha/files/plain.txt"), 0o640))
	mounts, _, err := LoadFileMounts(s.path("fileserver.conf"))
	must(t, err)
	s.repo = s.open(t, func(o *Options) { o.FileMounts = mounts; o.Dir += "2" })
	return s
}

func TestMetadataEqualsPuppets(t *testing.T) {
	s := oracleSite(t)
	keys := []string{
		"modules/alpha", "modules/alpha/", "modules/alpha/plain.txt", "modules/alpha/script.sh", "modules/alpha/empty",
		"modules/alpha/long", "modules/alpha/.hidden", "modules/alpha/ünï \"q\" <&>.txt", "modules/alpha/dir",
		"modules/alpha/dir/", "modules/alpha//dir//one", "modules/alpha/./dir/one", "modules/alpha/tofile", "modules/alpha/todir",
		"modules/alpha/todir/one", "modules/alpha/linked/up", "modules/alpha/linked/tolink", "modules/alpha/broken/b",
		"modules/alpha/plain.txt/", "modules/alpha/plain.txt/x", "modules/alpha/nothing", "modules/alpha/../beta",
		"modules/nomodule/x", "modules/gamma/x", "modules/Upper/x", "modules/beta/shadowed", "modules/omega/o", "modules/delta/d",
		"modules", "modules/", "plugins", "plugins/facter/a.rb", "plugins/puppet/both.rb", "plugins/puppet/beta.rb", "plugins/gamma.rb",
		"plugins/omega.rb", "plugins/none", "pluginfacts", "pluginfacts/ext.txt", "pluginfacts/run.sh", "locales", "locales/de/alpha.po",
		"scripts/alpha/run.sh", "scripts/alpha", "scripts/beta", "scripts", "tasks/alpha/init.sh", "tasks/alpha", "tasks",
		"live", "live/", "live/top", "live/dir", "live/dir/link", "live/none", "live/../x", "own/own", "dom/shared", "own/none", "bad mount/x",
	}
	var queries []query
	for _, key := range keys {
		for _, links := range []string{"", "manage", "follow", "ignore"} {
			o := map[string]any{"node": "agent1.example.com"}
			if links != "" {
				o["links"] = links
			}
			queries = append(queries, query{"find", "production", key, o})
		}
	}
	for _, kind := range []string{"sha256", "sha256lite", "md5", "md5lite", "sha1", "sha1lite", "sha224", "sha384", "sha512", "mtime", "ctime", "none", "crc", "sha512lite"} {
		for _, key := range []string{"modules/alpha/long", "modules/alpha/empty", "modules/alpha/dir", "modules/alpha/tofile", "modules/alpha/todir", "live/top", "live/dir/link"} {
			queries = append(queries, query{"find", "production", key, map[string]any{"checksum_type": kind}})
		}
	}
	for _, permissions := range []string{"use", "use_when_creating", "ignore", "steal"} {
		for _, key := range []string{"modules/alpha/plain.txt", "modules/alpha/dir", "modules/alpha/tofile", "live/top"} {
			queries = append(queries, query{"find", "production", key, map[string]any{"source_permissions": permissions}})
		}
	}
	queries = append(queries, query{"find", "production", "modules/alpha/plain.txt", map[string]any{"links": "cut"}})
	s.compare(t, queries)
}

func TestSearchesEqualPuppets(t *testing.T) {
	s := oracleSite(t)
	var queries []query
	base := []map[string]any{
		{},
		{"recurse": "false"},
		{"recurse": "true"},
		{"recurse": "true", "recurselimit": "0"},
		{"recurse": "true", "recurselimit": "1"},
		{"recurse": "true", "recurselimit": "2"},
		{"recurse": "true", "ignore": "CVS"},
		{"recurse": "true", "ignore": []string{".svn", "CVS", ".git", ".hg"}},
		{"recurse": "true", "ignore": "*.orig"},
		{"recurse": "true", "ignore": []string{"*"}},
		{"recurse": "true", "ignore": "s?b"},
		{"recurse": "true", "max_files": "3"},
		{"recurse": "true", "max_files": "-1"},
		{"recurse": "true", "max_files": "5000"},
		{"recurse": "true", "checksum_type": "md5"},
		{"recurse": "true", "source_permissions": "use"},
		{"recurse": "true", "checksum_type": "bad"},
	}
	keys := []string{
		"modules/alpha", "modules/alpha/dir", "modules/alpha/dir/", "modules/alpha/linked", "modules/alpha/plain.txt", "modules/alpha/todir",
		"modules/alpha/broken", "modules/none", "modules/alpha/none", "modules/delta", "plugins", "plugins/puppet", "pluginfacts", "locales",
		"scripts/alpha", "tasks/alpha", "live", "live/dir", "live/none", "own",
	}
	for _, key := range keys {
		for _, o := range base {
			for _, links := range []string{"manage", "follow"} {
				o := maps.Clone(o)
				o["links"] = links
				o["node"] = "agent1.example.com"
				queries = append(queries, query{"search", "production", key, o})
			}
		}
	}
	for _, env := range []string{"empty", "nomodules"} {
		for _, key := range []string{"plugins", "pluginfacts", "locales", "modules/alpha"} {
			queries = append(queries, query{"search", env, key, map[string]any{"recurse": "true", "links": "follow"}})
		}
	}
	queries = append(queries, query{"search", "production", "modules/alpha", map[string]any{"links": "ignore"}})
	s.compare(t, queries)
}

// compare checks that both answer all queries alike. Puppet's words about what is
// not authorised show the request's options; ours end before.
func (s *site) compare(t *testing.T, queries []query) {
	t.Helper()
	want := s.ask(t, queries)
	for i, q := range queries {
		got := answer(t, s.version(t, puppet.Environment(q.Environment)), q)
		if head, _, ok := strings.Cut(want[i], " with {"); ok && strings.HasPrefix(want[i], "error: Not authorized") {
			want[i] = head
		}
		if got != want[i] {
			t.Errorf("%s differs from Puppet's (-want +got):\n%s", q, cmp.Diff(strings.Split(want[i], "},{"), strings.Split(got, "},{")))
		}
	}
}

func TestTasksAndPlansEqualPuppets(t *testing.T) {
	s := oracleSite(t)
	v := s.current(t)
	queries := []query{{Kind: "tasks"}, {Kind: "plans"}, {Kind: "modules"}}
	names := []string{"init", "files", "many", "impl", "lost", "alone", "bad1", "bad2", "bad3", "bad4", "bad5", "bad6"}
	for _, name := range names {
		queries = append(queries, query{Kind: "task", Key: "alpha/" + name})
	}
	for i := range queries {
		queries[i].Environment, queries[i].Options = "production", map[string]any{}
	}
	want := s.ask(t, queries)

	tasks, err := v.Tasks(t.Context())
	must(t, err)
	listed := [][2]any{}
	for _, task := range tasks {
		listed = append(listed, [2]any{task.Name, task.Metadata})
	}
	plans, err := v.Plans(t.Context())
	must(t, err)
	modules := [][3]any{}
	for _, m := range v.Modules() {
		var version any
		if m.Version != "" {
			version = m.Version
		}
		modules = append(modules, [3]any{m.ListName(), version, m.Path})
	}
	got := []any{listed, plans, modules}
	for _, name := range names {
		got = append(got, describedTask(t, v, name))
	}
	for i, q := range queries {
		if diff := cmp.Diff(decode(t, []byte(want[i])), decode(t, encode(t, got[i]))); diff != "" {
			t.Errorf("%s differs from Puppet's (-want +got):\n%s", q, diff)
		}
	}
}

func describedTask(t *testing.T, v *Version, name string) any {
	t.Helper()
	d, err := v.Task(t.Context(), "alpha", name)
	if broken, ok := errors.AsType[*TaskError](err); ok {
		return broken
	}
	must(t, err)
	files := []string{}
	for _, f := range d.Files {
		files = append(files, f.Filename)
	}
	return map[string]any{"metadata": d.Metadata, "files": files}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

func decode(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("decoding %s: %v", b, err)
	}
	return v
}
