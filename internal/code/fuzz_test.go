package code

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"troupe/internal/fault"
)

// This file fuzzes paths of mounts, and the JSON files of modules.

// No path and no option shows what lies outside of a mount; metadata and content agree on what is there.
func FuzzMountPath(f *testing.F) {
	s := escapeSite(f)
	v := s.current(f)
	for _, p := range []string{"a/f", "a/inside", "a/folder/shadow", "../../secret/shadow", "a//f", "a/./f", `a\f`, "a/%2e%2e/really", "", "top", "per/x/own"} {
		for _, mount := range []string{"modules", "plugins", "live", "host"} {
			f.Add(mount, p, "follow")
		}
	}
	f.Fuzz(func(t *testing.T, mount, path, links string) {
		o := MetadataOptions{Links: links, ChecksumType: "sha256", Node: "x"}
		m, err := v.Metadata(t.Context(), mount, path, o)
		told(t, err)
		if err == nil && !json.Valid(m.AppendJSON(nil)) {
			t.Errorf("metadata of %q %q is %q", mount, path, m.AppendJSON(nil))
		}
		limit := 3
		_, err = v.Search(t.Context(), mount, path, SearchOptions{MetadataOptions: o, Recurse: true, RecurseLimit: &limit, Ignore: []string{links}})
		told(t, err)

		file, _, err := v.Open(t.Context(), mount, path, "x")
		told(t, err)
		if err != nil {
			return
		}
		content, err := io.ReadAll(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "SECRET") {
			t.Errorf("%q %q leaves its mount", mount, path)
		}
		if _, err := v.Metadata(t.Context(), mount, path, MetadataOptions{Links: "follow", Node: "x"}); err != nil {
			t.Errorf("%q %q has content and no metadata: %v", mount, path, err)
		}
	})
}

// told holds for every refusal: it is the caller's, in words of a bounded length.
func told(t *testing.T, err error) {
	t.Helper()
	if err != nil && (fault.KindOf(err) == fault.Internal || len(fault.Message(err)) > 64<<10) {
		t.Errorf("refused with %.500v", err)
	}
}

// metadata.json and the metadata of tasks come with modules from anywhere.
func FuzzModuleJSON(f *testing.F) {
	f.Add(`{"name":"puppetlabs-a","version":"1.0.0","dependencies":[{"name":"x/y","version_requirement":">= 1"}]}`,
		`{"description":"x","implementations":[{"name":"t.sh","requirements":["shell"]}],"files":["a/files/f","b/lib/"],"private":true}`)
	f.Add(`{"name":null}`, `{"implementations":{"name":1},"files":"../../x"}`)
	f.Add(`[`, `{"files":["a/../../b","/","a/files/"],"parameters":[]}`)
	dir := newSite(f, map[string]string{"environments/production/modules/a/tasks/t.sh": "#!x", "environments/production/modules/a/files/f": "f"})
	f.Fuzz(func(t *testing.T, module, task string) {
		lay(t, dir.path(""), map[string]string{
			"environments/production/modules/a/metadata.json": module, "environments/production/modules/a/tasks/t.json": task,
		})
		dir.repo.Drop("production")
		v, err := dir.repo.Current(t.Context(), "production")
		if err != nil {
			t.Fatalf("a module's JSON makes the environment unusable: %v", err)
		}
		if _, err := v.Tasks(t.Context()); err != nil {
			if _, words := errors.AsType[*TaskError](err); !words {
				told(t, err)
			}
		}
		detail, err := v.Task(t.Context(), "a", "t")
		if err != nil {
			if _, words := errors.AsType[*TaskError](err); !words {
				told(t, err)
			}
			return
		}
		text, err := json.Marshal(detail)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "..") && !strings.Contains(task, "..") {
			t.Errorf("files of the task lead elsewhere: %s", text)
		}
	})
}
