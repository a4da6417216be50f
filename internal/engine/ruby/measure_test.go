package ruby

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"troupe/internal/code"
	"troupe/internal/engine"
)

func smaps(pid int) (rss, pss, private int) {
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

func cpuOf(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(text))
	var u, s int
	fmt.Sscan(f[13], &u)
	fmt.Sscan(f[14], &s)
	return (u + s) * 10
}

func TestMeasure(t *testing.T) {
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
	start := time.Now()
	res := r.compile(q)
	fmt.Println("first", time.Since(start), res.Timings, "resources", res.Resources, "bytes", len(res.Catalog))
	for _, z := range r.Stats().Zygotes {
		fmt.Println("zygote boot", z.Boot, "resident", z.Resident>>20)
	}
	os.Setenv("ORACLE_TIME", "1")
	var walls []float64
	pid := res.WorkerPID
	var cpus []int
	for range 5 {
		c := cpuOf(pid)
		s := time.Now()
		res = r.compile(q)
		walls = append(walls, float64(time.Since(s).Microseconds())/1000)
		if res.WorkerPID == pid {
			cpus = append(cpus, cpuOf(pid)-c)
		}
	}
	sort.Float64s(walls)
	sort.Ints(cpus)
	fmt.Println("warm wall ms p50", walls[2], "min", walls[0], "max", walls[4], "cpu p50", cpus[len(cpus)/2], res.Timings)
	rss, pss, priv := smaps(pid)
	fmt.Println("worker MB rss", rss/1024, "pss", pss/1024, "private", priv/1024)
	for _, z := range r.Stats().Zygotes {
		rss, pss, priv = smaps(z.PID)
		fmt.Println("zygote MB rss", rss/1024, "pss", pss/1024, "private", priv/1024)
		zz := r.zygotes[zygoteKey{z.Environment, z.CodeID}]
		var forks []float64
		for range 20 {
			s := time.Now()
			w, err := zz.fork(t.Context(), r.o.Log)
			if err != nil {
				t.Fatal(err)
			}
			forks = append(forks, float64(time.Since(s).Microseconds())/1000)
			w.kill()
		}
		sort.Float64s(forks)
		fmt.Println("fork ms p50", forks[10], "min", forks[0], "max", forks[19])
	}
	s := time.Now()
	r.Drop("production")
	r.compile(q)
	fmt.Println(r.log)
	fmt.Println("dropped, first again", time.Since(s))
}
