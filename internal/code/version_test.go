package code

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file follows versions through their life.

// read returns the content that the version serves.
func read(t testing.TB, v *Version, mount, path string) string {
	t.Helper()
	f, _, err := v.Open(t.Context(), mount, path, "agent1.example.com")
	must(t, err)
	defer f.Close()
	text, err := io.ReadAll(f)
	must(t, err)
	return string(text)
}

func TestRubyFindsInTheSnapshotWhatItFindsInTheOriginal(t *testing.T) {
	files := oracleFiles()
	files["environments/production/environment.conf"] = "modulepath = site:modules:../../shared:$basemodulepath\nmanifest = ../../site.pp\nconfig_version = scripts/v.sh $environment\n"
	files["environments/production/site/role/manifests/init.pp"] = "class role {}"
	files["shared/common/files/c"] = "c"
	files["site.pp"] = "node default {}"
	files["packages/puppet-extra/lib/extra.rb"] = "e"
	files["base/extra"] = "-> ../packages/puppet-extra"
	files["environments/emptyconf/modules"] = "-> ../../shared"
	s := newSite(t, files)
	for _, env := range []string{"production", "emptyconf", "nomodules"} {
		queries := []query{{"modules", env, "", map[string]any{}}, {"settings", env, "", map[string]any{}}}
		want := s.ask(t, queries)
		v := s.version(t, puppet.Environment(env))
		got := s.askAt(t, v.EnvironmentPath, strings.Join(v.BaseModulePath, ":"), queries)
		for i := range got {
			for _, p := range v.Paths {
				got[i] = strings.ReplaceAll(got[i], `"`+p[0], `"`+p[1])
			}
			if diff := cmp.Diff(decode(t, []byte(want[i])), decode(t, []byte(got[i]))); diff != "" {
				t.Errorf("%s of %s differ in the snapshot (-original +snapshot):\n%s", queries[i].Kind, env, diff)
			}
		}
	}
}

func TestTheContentIDFollowsTheContent(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		files := map[string]string{"environments/production/manifests/site.pp": ""}
		for range 1 + rng.IntN(30) {
			name := "environments/production/modules/" + randomText(rng, "ab") + "m/" + randomText(rng, "abc/") + "f"
			files[filepath.Clean(name)] = randomText(rng, "xyz\n")
		}
		for name := range files { // a file cannot also be a folder
			for other := range files {
				if strings.HasPrefix(other, name+"/") {
					delete(files, name)
				}
			}
		}
		one, two := newSite(t, files), newSite(t, files)
		before := one.current(t)
		if other := two.current(t); before.ID != other.ID {
			t.Fatalf("seed %d: equal folders have ids %s and %s", seed, before.ID, other.ID)
		}
		if len(before.ID) != 64 {
			t.Fatalf("id %q has not 64 digits", before.ID)
		}

		changed := one.path(pick(rng, files))
		change(t, rng, changed)
		after := one.current(t)
		if before.ID == after.ID {
			t.Errorf("seed %d: id is the same after %s changed", seed, changed)
		}
		must(t, os.RemoveAll(one.path("environments")))
		lay(t, one.path(""), files)
		if again := one.current(t); again.ID != before.ID {
			t.Errorf("seed %d: id is %s after the first content came back, was %s", seed, again.ID, before.ID)
		}
	}
}

func pick(rng *rand.Rand, files map[string]string) string {
	n := rng.IntN(len(files))
	for name := range files {
		if n--; n < 0 {
			return name
		}
	}
	return ""
}

// change makes one change that must be seen.
func change(t *testing.T, rng *rand.Rand, path string) {
	t.Helper()
	switch rng.IntN(5) {
	case 0:
		must(t, os.WriteFile(path, []byte("changed"), 0o644))
	case 1:
		must(t, os.Chmod(path, 0o755))
	case 2:
		must(t, os.Remove(path))
	case 3:
		must(t, os.Rename(path, path+"2"))
	case 4:
		must(t, os.Mkdir(filepath.Join(filepath.Dir(path), "newfolder"), 0o755))
	}
}

func TestAttributesAreThoseOfTheOriginal(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/m/files/tree/one": "1", "environments/production/modules/m/files/link": "-> tree/one"})
	file := s.path("environments/production/modules/m/files/tree/one")
	must(t, os.Chmod(file, 0o750))
	modified := time.Unix(1_000_000_000, 0)
	must(t, os.Chtimes(file, modified, modified))
	v := s.current(t)

	got, ok := v.Attributes(filepath.Join(v.ModulePath[0], "m/files/link"), true)
	if !ok || got.Mode != 0o750 || !got.Modified.Equal(modified) || got.Owner != os.Geteuid() || got.Group != os.Getegid() {
		t.Errorf("attributes of a link's target in the snapshot: %+v %v", got, ok)
	}
	if own, ok := v.Attributes(file, false); !ok || own != got {
		t.Errorf("by the path of the original: %+v %v", own, ok)
	}
	if link, ok := v.Attributes(filepath.Join(v.ModulePath[0], "m/files/link"), false); !ok || link.Modified.Equal(modified) {
		t.Errorf("attributes of a link itself: %+v %v", link, ok)
	}
	for _, path := range []string{"/etc/passwd", v.Root, filepath.Join(v.ModulePath[0], "m/none"), v.ModulePath[0] + "/../../../../etc/passwd"} {
		if a, ok := v.Attributes(path, true); ok {
			t.Errorf("attributes of %s, which is not part of the version: %+v", path, a)
		}
	}
}

func TestARunKeepsItsVersion(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "one"})
	v := s.current(t)
	must(t, os.WriteFile(s.path("environments/production/modules/a/files/f"), []byte("two"), 0o644))
	now := s.current(t)

	if got := read(t, now, "modules", "a/f"); got != "two" {
		t.Errorf("new version serves %q, want two", got)
	}
	if got := read(t, v, "modules", "a/f"); got != "one" {
		t.Errorf("old version serves %q, want one", got)
	}
	on, err := os.ReadFile(v.EnvironmentPath + "/production/modules/a/files/f")
	must(t, err)
	if string(on) != "one" {
		t.Errorf("old snapshot has %q, want one", on)
	}
	byID, err := s.repo.Version(t.Context(), "production", v.ID)
	must(t, err)
	f, _, err := byID.OpenStatic(t.Context(), "modules/a/files/f")
	must(t, err)
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != "one" {
		t.Errorf("static content of %s is %q (%v), want one", v.ID, text, err)
	}
	for _, id := range []string{"", "x", "../" + v.ID, strings.Repeat("0", 64), strings.ToUpper(v.ID)} {
		if _, err := s.repo.Version(t.Context(), "production", id); fault.KindOf(err) != fault.NotFound {
			t.Errorf("version %q: %v, want not found", id, err)
		}
	}
	if _, err := s.repo.Version(t.Context(), "other", v.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("version of another environment: %v, want not found", err)
	}
}

func TestOldVersionsAndTheirBlobsGo(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "0"}, func(o *Options) { o.Keep = 2 })
	var all []*Version
	for i := range 6 {
		must(t, os.WriteFile(s.path("environments/production/modules/a/files/f"), fmt.Appendf(nil, "content %d", i), 0o644))
		all = append(all, s.current(t))
	}
	all[1].Retain()
	for i, v := range all { // as if they were that much older
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		must(t, os.Chtimes(v.Root, at, at))
	}
	s.repo.prune()

	for i, v := range all {
		_, err := os.Stat(v.Root)
		kept := i == 1 || i >= 4
		if kept != (err == nil) {
			t.Errorf("version %d: kept is %v, want %v", i, err == nil, kept)
		}
		_, err = s.repo.Version(t.Context(), "production", v.ID)
		if kept != (err == nil) {
			t.Errorf("version %d: found is %v, want %v", i, err == nil, kept)
		}
		_, err = os.Stat(s.repo.store.blob(sha256.Sum256(fmt.Appendf(nil, "content %d", i)), false))
		if kept != (err == nil) {
			t.Errorf("blob of version %d: kept is %v, want %v", i, err == nil, kept)
		}
	}
	if got := read(t, all[1], "modules", "a/f"); got != "content 1" {
		t.Errorf("retained version serves %q", got)
	}
	all[1].Release()
	s.repo.prune()
	if _, err := os.Stat(all[1].Root); err == nil {
		t.Error("released version is still there")
	}
}

func TestARestartReadsOnlyWhatChanged(t *testing.T) {
	files := map[string]string{"environments/production/environment.conf": "environment_timeout = unlimited\n"}
	for i := range 50 {
		files[fmt.Sprintf("environments/production/modules/a/files/f%d", i)] = fmt.Sprint(i)
	}
	s := newSite(t, files)
	past := time.Now().Add(-time.Hour)
	must(t, filepath.WalkDir(s.path(""), func(path string, _ fs.DirEntry, _ error) error {
		return os.Chtimes(path, past, past)
	}))
	old := s.current(t)
	old.plan.calm()
	must(t, s.repo.store.writeManifest(old.Root, "production", old.plan))

	registry := prometheus.NewRegistry()
	s.repo = s.open(t, func(o *Options) { o.Registerer = registry })
	must(t, os.WriteFile(s.path("environments/production/modules/a/files/f7"), []byte("changed"), 0o644))
	now := s.current(t)
	if got := counter(t, registry, "troupe_code_files_read_total"); got != 1 {
		t.Errorf("%v files were read after the restart, want 1", got)
	}
	if now.ID == old.ID {
		t.Error("the change was not seen")
	}
	again, err := s.repo.Version(t.Context(), "production", old.ID)
	must(t, err)
	if got := read(t, again, "modules", "a/f7"); got != "7" {
		t.Errorf("version of the earlier process serves %q, want 7", got)
	}
}

// calm marks every file as unchanged for long, as a scan a second later would.
func (p *plan) calm() {
	var walk func(n *node)
	walk = func(n *node) {
		n.recent = false
		for _, c := range n.children {
			walk(c)
		}
	}
	for _, r := range p.tree.roots {
		walk(r.node)
	}
}

func counter(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestAnotherUserCanReadTheSnapshotAndNothingCanBeWritten(t *testing.T) {
	s := newSite(t, map[string]string{
		"environments/production/modules/a/files/f":  "one",
		"environments/production/modules/a/files/x":  "#!/bin/sh\n",
		"environments/production/.git/config":        "secret",
		"environments/production/modules/a/.svn/x":   "secret",
		"environments/production/modules/a/.fixture": "kept",
	})
	must(t, os.Chmod(s.path("environments/production/modules/a/files/f"), 0o600))
	v := s.current(t)
	got := map[string]string{}
	must(t, filepath.WalkDir(v.EnvironmentPath, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		rel, err := filepath.Rel(v.EnvironmentPath, path)
		must(t, err)
		got[rel] = info.Mode().String()
		return nil
	}))
	want := map[string]string{
		".": "drwxr-xr-x", "production": "drwxr-xr-x", "production/modules": "drwxr-xr-x", "production/modules/a": "drwxr-xr-x",
		"production/modules/a/files": "drwxr-xr-x", "production/modules/a/files/f": "-r--r--r--", "production/modules/a/files/x": "-r-xr-xr-x",
		"production/modules/a/.fixture": "-r--r--r--", "production/environment.conf": "-r--r--r--",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	m, err := v.Metadata(t.Context(), "modules", "a/f", MetadataOptions{SourcePermissions: "use"})
	must(t, err)
	if m.Mode != 0o600 || m.Path != s.path("environments/production/modules/a/files/f") {
		t.Errorf("metadata has mode %o and path %s, want the original's", m.Mode, m.Path)
	}
}

func TestOnlyTheWorkersGroupReadsTheFolderOfVersions(t *testing.T) {
	group := os.Getegid()
	if group == 0 {
		group = 65534
	}
	dir := filepath.Join(t.TempDir(), "versions")
	_, err := New(Options{EnvironmentPath: []string{t.TempDir()}, Dir: dir, Group: group})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if st.Mode&0o777 != 0o750 || int(st.Gid) != group {
		t.Errorf("mode is %o and group %d, want 750 and %d", st.Mode&0o777, st.Gid, group)
	}
}

func TestAFolderThatCannotBeReadLeavesTheLastVersionInService(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "one"})
	v := s.current(t)
	deep := "environments/production/modules/a/files" + strings.Repeat("/d", maxDepth+5)
	lay(t, s.path(""), map[string]string{deep + "/f": "x"})
	still, err := s.repo.Current(t.Context(), "production")
	must(t, err)
	if still.ID != v.ID {
		t.Errorf("version is %s, want the last good one %s", still.ID, v.ID)
	}
	list, err := s.repo.Environments(t.Context())
	must(t, err)
	if list[0].Err == nil || !strings.Contains(list[0].Err.Error(), "folders deep") {
		t.Errorf("listed error is %v, want one about the depth", list[0].Err)
	}
	must(t, os.RemoveAll(s.path("environments/production/modules/a/files/d")))
	must(t, os.WriteFile(s.path("environments/production/modules/a/files/f"), []byte("mended"), 0o644))
	eventually(t, "serving the mended folder", func() bool { return s.current(t).ID != v.ID })

	if err := unreadable("/x/y", fs.ErrPermission); fault.KindOf(err) != fault.Failed || !strings.Contains(fault.Message(err), "cannot read /x/y; let the user") {
		t.Errorf("permission error is %v, want path and remedy", err)
	}
}

func TestADeployIsWaitedFor(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "one"})
	s.current(t)
	const files = 30
	started := make(chan struct{})
	var deploy sync.WaitGroup
	deploy.Go(func() {
		step := time.NewTicker(15 * time.Millisecond)
		defer step.Stop()
		for i := range files {
			if err := os.WriteFile(s.path(fmt.Sprintf("environments/production/modules/a/files/n%d", i)), []byte("n"), 0o644); err != nil {
				t.Error(err)
			}
			if i == 0 {
				close(started)
			}
			<-step.C
		}
	})
	<-started
	v := s.current(t)
	deploy.Wait()
	list, err := v.Search(t.Context(), "modules", "a", SearchOptions{Recurse: true})
	must(t, err)
	if len(list) != files+2 {
		t.Errorf("version has %d files of the deploy, want all %d", len(list)-2, files)
	}
}

func TestADeployThatIsSaidToHaveEndedIsNotWaitedFor(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/manifests/site.pp": "one"})
	before, fastest := s.current(t), time.Hour
	for i := range 20 { // the machine may be slow once, but who waits is never faster than quiet
		began := time.Now()
		must(t, os.WriteFile(s.path("environments/production/manifests/site.pp"), fmt.Appendf(nil, "change %d", i), 0o644))
		s.repo.Deployed("production")
		v := s.current(t)
		fastest = min(fastest, time.Since(began))
		if v.ID == before.ID {
			t.Fatal("the version is that before the deploy")
		}
		before = v
	}
	if fastest >= quiet {
		t.Errorf("the fastest of 20 took %v, as if the deploy still went on", fastest)
	}
	if s.repo.environment("production").isSettled() {
		t.Error("the next deploy would not be waited for either")
	}
}

func TestAVersionIsConsistentWhileFilesChange(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": strings.Repeat("a", 100_000)})
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			text := strings.Repeat(string(rune('a'+i%26)), 100_000+i%7)
			if err := os.WriteFile(s.path("environments/production/modules/a/files/f"), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		v, err := s.repo.Current(t.Context(), "production")
		if fault.KindOf(err) == fault.Unavailable {
			continue // it may give up, but not lie
		}
		must(t, err)
		m, err := v.Metadata(t.Context(), "modules", "a/f", MetadataOptions{})
		must(t, err)
		sum := sha256.Sum256([]byte(read(t, v, "modules", "a/f")))
		if want := "{sha256}" + hex.EncodeToString(sum[:]); m.Checksum != want {
			t.Errorf("metadata says %s, content is %s", m.Checksum, want)
		}
		s.repo.Drop("production")
	}
	stop()
	writers.Wait()
}

func TestRequestsAreAnsweredWhileVersionsComeAndGo(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "0"}, func(o *Options) { o.Keep = 1 })
	s.current(t)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				v, err := s.repo.Current(t.Context(), "production")
				if err != nil {
					t.Error(err)
					return
				}
				v.Retain()
				m, err := v.Metadata(t.Context(), "modules", "a/f", MetadataOptions{ChecksumType: "md5"})
				text := read(t, v, "modules", "a/f")
				if want := fmt.Sprintf("{md5}%x", md5.Sum([]byte(text))); err != nil || m.Checksum != want {
					t.Errorf("metadata says %s (%v), content %q has %s", m.Checksum, err, text, want)
				}
				v.Release()
			}
		})
	}
	for i := range 5 {
		must(t, os.WriteFile(s.path("environments/production/modules/a/files/f"), fmt.Append(nil, i), 0o644))
		v := s.current(t)
		old := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(v.Root, old, old))
		s.repo.prune()
	}
	stop()
	readers.Wait()
}

func TestRunPicksUpChangesAheadOfRequests(t *testing.T) {
	s := newSite(t, map[string]string{"environments/production/modules/a/files/f": "one"})
	v := s.current(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.repo.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	must(t, os.WriteFile(s.path("environments/production/modules/a/files/f"), []byte("two"), 0o644))
	env := s.repo.environment("production")
	eventually(t, "scan ahead", func() bool { return env.current().ID != v.ID })
	must(t, os.RemoveAll(s.path("environments/production")))
	if _, err := s.repo.Current(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("removed environment: %v, want not found", err)
	}
	stop()
	running.Wait()
	lay(t, s.path(""), map[string]string{"environments/production/modules/a/files/f": "three"})
	eventually(t, "noticing without inotify", func() bool { return read(t, s.current(t), "modules", "a/f") == "three" })
}

func TestTheSwitchOfALinkIsNoticed(t *testing.T) {
	s := newSite(t, map[string]string{
		"releases/1/modules/a/files/f": "one",
		"releases/2/modules/a/files/f": "two",
		"environments/production":      "-> ../releases/1",
	})
	v := s.current(t)
	lay(t, s.path(""), map[string]string{"environments/next": "-> ../releases/2"})
	must(t, os.Rename(s.path("environments/next"), s.path("environments/production")))
	now := s.current(t)
	if got := read(t, now, "modules", "a/f"); got != "two" || now.ID == v.ID {
		t.Errorf("after the switch version %s serves %q", now.ID, got)
	}
	if got := now.OriginalPath(now.EnvironmentPath + "/production/modules/a/files/f"); got != s.path("environments/production/modules/a/files/f") {
		t.Errorf("original path is %s", got)
	}
}

// TestADamagedSnapshotIsMadeAgain flips bits while no process uses the folder: neither a worker nor an agent may get them.
func TestADamagedSnapshotIsMadeAgain(t *testing.T) {
	manifest := "node default { notify { 'whole': } }\n"
	for _, damaged := range []string{"blobs/*/*", "versions/*/manifest.json", "versions/*/environments/production/environment.conf"} {
		t.Run(damaged, func(t *testing.T) {
			s := newSite(t, map[string]string{"environments/production/manifests/site.pp": manifest})
			before := s.current(t)
			conf, err := os.ReadFile(filepath.Join(before.EnvironmentPath, "production", "environment.conf"))
			must(t, err)
			files, err := filepath.Glob(filepath.Join(s.dir, "versions", damaged))
			must(t, err)
			text, err := os.ReadFile(files[0])
			must(t, err)
			text[len(text)/2] ^= 4
			must(t, os.WriteFile(files[0], text, 0o644)) // in place, as the links see it
			s.repo = s.open(t)
			after := s.current(t)
			for path, want := range map[string]string{
				filepath.Join(after.Manifest, "site.pp"):                               manifest,
				filepath.Join(after.EnvironmentPath, "production", "environment.conf"): string(conf),
			} {
				got, err := os.ReadFile(path)
				must(t, err)
				if string(got) != want || after.ID != before.ID {
					t.Errorf("%s of version %s is %q, and was %q of %s", path, after.ID, got, want, before.ID)
				}
			}
		})
	}
}
