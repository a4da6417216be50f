package ruby

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"strings"
	"testing"


	"troupe/internal/code"
	"troupe/internal/engine"
)

func smaps2(pid int) (rss, pss, private int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for _, l := range strings.Split(string(text), "\n") {
		var n int
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		fmt.Sscan(f[1], &n)
		switch f[0] {
		case "Rss:":
			rss = n
		case "Pss:":
			pss = n
		case "Private_Dirty:", "Private_Clean:":
			private += n
		}
	}
	return
}

func cpuOf2(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(text))
	var u, s int
	fmt.Sscan(f[13], &u)
	fmt.Sscan(f[14], &s)
	return (u + s) * 10
}

func TestMeasure2(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 2 })
	dir := filepath.Join(r.root, "environments/production")
	os.WriteFile(filepath.Join(dir, "manifests/site.pp"), []byte(`
class { 'apache': }
range(1, 60).each |$i| {
  apache::vhost { "vhost${i}.example.test": port => 8000 + $i, docroot => "/srv/www/${i}", directories => [{'path' => "/srv/www/${i}", 'provider' => 'directory'}] }
}
range(1, 200).each |$i| { file { "/srv/f${i}": content => "x${i}" } }
`), 0o644)
	facts, _ := os.ReadFile("/tmp/E/facts.json")
	repo, err := code.New(code.Options{EnvironmentPath: []string{filepath.Join(r.root, "environments")}, BaseModulePath: []string{"/usr/share/puppet/modules"}, Dir: filepath.Join(filepath.Dir(r.root), "code2")})
	if err != nil {
		t.Fatal(err)
	}
	r.repo = repo
	q := r.request("db01.example.test", func(q *engine.Request) { q.Facts.Values = json.RawMessage(facts) })
	for range 4 {
		r.compile(q)
		fmt.Println(r.Stats().Zygotes[0].Boot)
		r.Drop("production")
	}


}
