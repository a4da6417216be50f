package code

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAVersionIsGivenBackAsItsOriginalsWere also after the folder has gone on, and by a process that has only the snapshot.
func TestAVersionIsGivenBackAsItsOriginalsWere(t *testing.T) {
	s := newSite(t, map[string]string{
		"environments/production/environment.conf":  "modulepath = site:$basemodulepath\n",
		"environments/production/manifests/site.pp": "notify { 'x': }\n",
		"environments/production/bin/run":           "#!/bin/sh\n",
		"environments/production/empty/":            "",
		"environments/production/link":              "-> manifests/site.pp",
		"environments/production/out":               "-> /etc/hostname",
		"environments/production/.git/HEAD":         "ref",
		"base/ntp/manifests/init.pp":                "class ntp {}\n",
	})
	must(t, os.Chmod(s.path("environments/production/manifests/site.pp"), 0o640))
	v := s.current(t)
	v.Retain()
	defer v.Release()
	must(t, os.WriteFile(s.path("environments/production/manifests/site.pp"), []byte("later"), 0o600))
	want := map[string]string{
		"": "drwxr-xr-x", "environment.conf": "-rw-r--r-- modulepath = site:$basemodulepath\n", "manifests": "drwxr-xr-x",
		"manifests/site.pp": "-rw-r----- notify { 'x': }\n", "bin": "drwxr-xr-x", "bin/run": "-rwxr-xr-x #!/bin/sh\n", "empty": "drwxr-xr-x",
		"link": "Lrwxrwxrwx -> manifests/site.pp", "out": "Lrwxrwxrwx -> /etc/hostname",
	}
	if diff := cmp.Diff(want, walked(t, v)); diff != "" {
		t.Errorf("walked:\n%s", diff)
	}
	must(t, os.WriteFile(s.path("environments/production/manifests/site.pp"), []byte("notify { 'x': }\n"), 0o640))
	if diff := cmp.Diff(want, walked(t, (&site{dir: s.dir, repo: s.open(t)}).current(t))); diff != "" {
		t.Errorf("walked by another process:\n%s", diff)
	}
	wrong := errors.New("enough")
	if err := v.Walk(t.Context(), func(Entry, *os.File) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the error of the caller becomes %v", err)
	}
}

func walked(t *testing.T, v *Version) map[string]string {
	t.Helper()
	got := map[string]string{}
	seen := map[string]bool{".": true}
	err := v.Walk(t.Context(), func(e Entry, content *os.File) error {
		if !seen[filepath.Dir(e.Path)] {
			t.Errorf("%s comes before its folder", e.Path)
		}
		seen[e.Path] = true
		got[e.Path] = e.Mode.String()
		if e.Target != "" {
			got[e.Path] += " -> " + e.Target
		}
		if content == nil {
			return nil
		}
		text, err := io.ReadAll(content)
		if int64(len(text)) != e.Size {
			t.Errorf("%s has %d bytes, not %d", e.Path, len(text), e.Size)
		}
		got[e.Path] += " " + string(text)
		return err
	})
	must(t, err)
	return got
}
