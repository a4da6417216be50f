package code

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// This file measures scans and answers of a large environment.

// bigSite has an environment of about 5,000 files in 100 modules, 1,000 of them
// plugins.
func bigSite(b *testing.B) *site {
	b.Helper()
	files := map[string]string{}
	for m := range 100 {
		module := fmt.Sprintf("environments/production/modules/m%d/", m)
		for i := range 10 {
			files[fmt.Sprintf("%slib/puppet/provider/m%d/p%d.rb", module, m, i)] = fmt.Sprintf("# %d %d\n", m, i)
		}
		for i := range 30 {
			files[fmt.Sprintf("%smanifests/d%d/c%d.pp", module, i%5, i)] = fmt.Sprintf("class m%d::d%d::c%d {}\n", m, i%5, i)
		}
		for i := range 10 {
			files[fmt.Sprintf("%sfiles/f%d", module, i)] = fmt.Sprintf("file %d\n", m*i)
		}
	}
	s := newSite(b, files)
	past := time.Now().Add(-time.Hour)
	must(b, filepath.WalkDir(s.path(""), func(path string, _ os.DirEntry, err error) error {
		must(b, err)
		return os.Chtimes(path, past, past)
	}))
	s.current(b)
	e := s.repo.environment("production")
	e.now.plan.calm()
	e.cache = e.now.plan.files()
	return s
}

func BenchmarkScanOfAnUnchangedEnvironment(b *testing.B) {
	s := bigSite(b)
	e := s.repo.environment("production")
	for b.Loop() {
		if _, _, err := e.scanOnce(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCurrentOfAnUnchangedEnvironment(b *testing.B) {
	s := bigSite(b)
	for b.Loop() {
		s.current(b)
	}
}

func BenchmarkFirstScan(b *testing.B) {
	s := bigSite(b)
	for i := 0; b.Loop(); i++ {
		r := s.open(b, func(o *Options) { o.Dir += fmt.Sprint(i) })
		if _, err := r.Current(b.Context(), "production"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewVersionAfterOneChange(b *testing.B) {
	s := bigSite(b)
	e := s.repo.environment("production")
	for i := 0; b.Loop(); i++ {
		must(b, os.WriteFile(s.path("environments/production/modules/m1/files/f1"), fmt.Append(nil, i), 0o644))
		if _, _, err := e.scanOnce(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMetadatasOfPlugins(b *testing.B) {
	v := bigSite(b).current(b)
	var buf []byte
	for b.Loop() {
		list, err := v.Search(b.Context(), "plugins", "", SearchOptions{
			MetadataOptions: MetadataOptions{Links: "follow", ChecksumType: "sha256"},
			Recurse:         true, MaxFiles: -1, Ignore: []string{".svn", "CVS", ".git", ".hg"},
		})
		must(b, err)
		buf = AppendMetadatas(buf[:0], list)
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}
