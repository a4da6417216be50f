//go:build long

package troupetest

// This file does to members and edges whatever comes to chance's mind, under load, and looks at every run. A schedule is repeated by the
// seed that it prints: go test -tags long -run RandomSchedule ./internal/troupetest -seed N. make edge-schedule runs one.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

var scheduleSeed = flag.Uint64("seed", 0, "of TestNoRunFailsUnderARandomSchedule; 0 draws one")

// A circus is three members at two sites, two edges in front of them, and agents that know both edges, as by an address that moves.
type circus struct {
	t       *testing.T
	members []*Server
	edges   []*Edge
	metrics []string
	fleet   *fakeagent.Fleet
	byName  map[string]*performer
	book    *toll

	memberMu []sync.Mutex // held while a member is away, or while code is deployed from it
	edgeMu   sync.Mutex   // held while an edge is away or is asked by its command line
	lives    [2]int       // of each edge; guarded by edgeMu

	mu       sync.Mutex
	versions map[string]int // checksum: code version
	version  int
	deaths   []edgeDeath
	past     []spoiled
	acts     map[string]int
	found    time.Duration // the longest time until both edges knew that a member is gone
	queue    int
	memory   float64
}

// A performer is one agent, and the edges that its run went to.
type performer struct {
	agent *fakeagent.Agent
	home  int
	used  [2]atomic.Bool
}

// An edgeDeath is a kill -9 of an edge, which happened between two moments.
type edgeDeath struct {
	edge        int
	from, until time.Time
}

// A spoiled run failed, or saw two versions of the code.
type spoiled struct {
	name, why  string
	requests   string
	begin, end time.Time
	used       [2]bool
}

const (
	circusAgents = 100
	circusBeside = 6 // agents that run at the same time at each edge
)

func newCircus(t *testing.T) *circus {
	t.Helper()
	c := &circus{t: t, versions: map[string]int{}, acts: map[string]int{}, byName: map[string]*performer{}, book: newToll()}
	var first *Server
	for _, one := range []struct{ site, name string }{{"east", "east1"}, {"east", "east2"}, {"west", "west1"}} {
		_, port := MemberPort(t)
		o := ServerOptions{Certname: one.name + ".example.test", Config: port, Autosign: true}
		if first != nil {
			o.Data = Join(t, first, one.site, o.Certname, port)
		}
		m := StartServer(t, o)
		if first == nil {
			m.MustCLI("init", "--site", one.site)
			first = m
		}
		c.members = append(c.members, m)
	}
	c.memberMu = make([]sync.Mutex, len(c.members))
	c.deploy(first)
	for _, site := range []string{"east", "west"} {
		metrics := freeAddress(t)
		c.metrics = append(c.metrics, metrics)
		c.edges = append(c.edges, StartEdge(t, EdgeOptions{Troupe: first, Site: site, Config: bothSites + "name: edge." + site + "\nmetrics: " + metrics + "\n"}))
	}
	for i := range c.edges {
		c.awaitUp(i)
	}
	c.fleet = &fakeagent.Fleet{AtOnce: circusBeside * len(c.edges), Observe: c.observe}
	for i := range circusAgents {
		c.engage(i)
	}
	return c
}

// engage makes one agent. Every other one applies a catalog that leaves the metadata of files to later requests: these must meet the
// version of the catalog.
func (c *circus) engage(i int) {
	c.t.Helper()
	p := &performer{home: i % 2}
	name := fmt.Sprintf("fake%d.example.test", i)
	a, err := fakeagent.New(name, c.edges[p.home].Addr, fakeagent.Options{
		Generation: []fakeagent.Generation{fakeagent.Puppet7, fakeagent.Puppet8, fakeagent.OpenVox9}[i%3],
		ServerName: "localhost", WaitForCert: time.Second, PlainCatalogs: i%4 < 2, Dial: c.dialer(p),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	p.agent = a
	c.byName[name] = p
	c.fleet.Agents = append(c.fleet.Agents, a)
}

// dialer connects to the agent's own edge, or else to the other one, as routers do.
func (c *circus) dialer(p *performer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		for _, i := range []int{p.home, 1 - p.home} {
			if conn, err = (&net.Dialer{}).DialContext(ctx, network, c.edges[i].Addr); err == nil {
				p.used[i].Store(true)
				return conn, nil
			}
		}
		return nil, err
	}
}

// versionText is what a file of a code version has.
func versionText(n int) string { return fmt.Sprintf("# version %d\n", n) }

// deploy gives the troupe another version of the code, from the folder of a member. What the manifest says, what a file and a folder of
// a module have, and a plugin tell which.
func (c *circus) deploy(m *Server) {
	c.t.Helper()
	c.mu.Lock()
	c.version++
	n := c.version
	text := versionText(n)
	sum := sha256.Sum256([]byte(text))
	c.versions["{sha256}"+hex.EncodeToString(sum[:])] = n
	c.mu.Unlock()
	m.WriteCode("production/manifests/site.pp", fmt.Sprintf(`node default {
	file { '/nowhere/said': content => %q }
	file { '/nowhere/sent': source => 'puppet:///modules/turn/version' }
	file { '/nowhere/tree': source => 'puppet:///modules/turn/tree', recurse => true }
}
`, text))
	for _, file := range []string{"files/version", "files/tree/leaf", "lib/facter/turn.rb"} {
		m.WriteCode("production/modules/turn/"+file, text)
	}
	m.MustCLI("code", "deploy", "production")
}

// observe judges a run when it has ended.
func (c *circus) observe(r fakeagent.RunResult, err error) {
	c.book.note(r, err)
	p := c.byName[r.Certname]
	one := spoiled{name: r.Certname, begin: time.Now().Add(-r.Took), end: time.Now(), used: [2]bool{p.used[0].Swap(false), p.used[1].Swap(false)}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.book.count(r)
	version := func(sum string) int { return c.versions[sum] }
	said, sent := version(p.agent.FileSum("/nowhere/said")), version(p.agent.FileSum("/nowhere/sent"))
	tree, plugin := version(p.agent.FileSum("/nowhere/tree/leaf")), version(p.agent.PluginSum("plugins/facter/turn.rb"))
	switch {
	case err != nil:
		one.why = err.Error()
	case r.Status == "failed", r.CachedCatalog, !r.ReportSent, len(r.Failures) > 0:
		one.why = fmt.Sprintf("status %s, cached %v, report sent %v: %s", r.Status, r.CachedCatalog, r.ReportSent, strings.Join(r.Failures, "; "))
	case said == 0 || sent != said || tree != said || plugin != said:
		one.why = fmt.Sprintf("its catalog is of version %d, the file of %d, the folder of %d, the plugin of %d", said, sent, tree, plugin)
	}
	if one.why != "" {
		for _, q := range r.Requests {
			one.requests += fmt.Sprintf("; %s %s %d on connection %d in %v", q.Start.Format("15:04:05.000"), q.Kind, q.Status, q.Connection, q.Took.Round(time.Millisecond))
		}
		c.past = append(c.past, one)
	}
}

// count is [toll.add] for a single run, without a verdict.
func (o *toll) count(r fakeagent.RunResult) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.runs++
	if r.Status == "failed" {
		o.failed++
	}
	if r.CachedCatalog {
		o.cached++
	}
	if !r.ReportSent {
		o.unreported++
	}
}

// under tells whether a run was at an edge while something happened to that.
func (r spoiled) under(what []edgeDeath) bool {
	return slices.ContainsFunc(what, func(d edgeDeath) bool { return r.used[d.edge] && !r.begin.After(d.until) && !r.end.Before(d.from) })
}

// awaitUp waits until an edge takes every member for up.
func (c *circus) awaitUp(edge int) {
	c.t.Helper()
	Eventually(c.t, Patience, "all members are up", func() bool {
		up := 0
		for _, b := range c.ask(edge) {
			if b.State == "up" {
				up++
			}
		}
		return up == len(c.members)
	})
}

// ask asks an edge for its servers. An edge that is away is waited for.
func (c *circus) ask(edge int) map[string]EdgeBackend {
	c.t.Helper()
	c.edgeMu.Lock()
	defer c.edgeMu.Unlock()
	return c.edges[edge].Backends("members")
}

// settled waits until all edges take all members for up.
func (c *circus) settled() {
	c.t.Helper()
	for i := range c.edges {
		c.awaitUp(i)
	}
}

// gone waits until both edges know that a member is away, and returns what they have sent it until then.
func (c *circus) gone(m *Server, since time.Time) (totals [2]uint64, lives [2]int) {
	c.t.Helper()
	alone := true // no edge was restarted meanwhile
	for i := range c.edges {
		Eventually(c.t, Patience, "an edge knows that "+m.Certname+" is away", func() bool {
			if !c.edgeMu.TryLock() {
				alone = false
				c.edgeMu.Lock()
			}
			defer c.edgeMu.Unlock()
			b := c.edges[i].Backends("members")[m.Certname]
			totals[i], lives[i] = b.Total, c.lives[i]
			return b.State != "up"
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if alone {
		c.found = max(c.found, time.Since(since))
	}
	return totals, lives
}

// untouched says that no edge has sent anything to a member since it knew.
func (c *circus) untouched(m *Server, what string, totals [2]uint64, lives [2]int) {
	c.t.Helper()
	for i, e := range c.edges {
		c.edgeMu.Lock()
		now, same := e.Backends("members")[m.Certname].Total, c.lives[i] == lives[i]
		c.edgeMu.Unlock()
		if same && now != totals[i] {
			c.t.Errorf("an edge sent %d requests to %s after it knew that it was %s", now-totals[i], m.Certname, what)
		}
	}
}

// An act is one trouble, and how it is mended.
type act struct {
	name string
	do   func(c *circus, chance *rand.Rand)
}

// hands are what happens one after the other; the three of them go on beside each other.
var hands = []struct {
	acts  []act
	pause time.Duration // at most, between two
}{
	{[]act{
		{"kill -9 of a member", away((*circus).killMember)},
		{"hang of a member", away((*circus).hangMember)},
		{"a member that stutters", away((*circus).stutter)},
		{"drain and ready", away((*circus).drain)},
		{"restart of a member", away((*circus).restart)},
	}, 2 * time.Second},
	{[]act{{"kill -9 of an edge", (*circus).killEdge}, {"take-over of an edge", (*circus).takeover}}, 12 * time.Second},
	{[]act{{"deploy", (*circus).deployAnywhere}}, 10 * time.Second},
}

// away draws a member and keeps it to the act until all edges take all members for up again.
func away(do func(c *circus, m *Server, chance *rand.Rand)) func(*circus, *rand.Rand) {
	return func(c *circus, chance *rand.Rand) {
		i := chance.IntN(len(c.members))
		c.memberMu[i].Lock()
		defer c.memberMu[i].Unlock()
		do(c, c.members[i], chance)
		c.settled()
	}
}

// deployAnywhere deploys from a member that is not away; others may be, and learn of the new version when they are back.
func (c *circus) deployAnywhere(chance *rand.Rand) {
	for i := chance.IntN(len(c.members)); ; i++ {
		if i %= len(c.members); c.memberMu[i].TryLock() { // at most one is away
			defer c.memberMu[i].Unlock()
			c.deploy(c.members[i])
			return
		}
	}
}

func (c *circus) wait(least, most time.Duration, chance *rand.Rand) {
	c.t.Helper()
	timer := time.NewTimer(least + time.Duration(chance.Int64N(int64(most-least))))
	defer timer.Stop()
	select {
	case <-c.t.Context().Done():
	case <-timer.C:
	}
}

func (c *circus) killMember(m *Server, chance *rand.Rand) {
	m.Kill()
	totals, lives := c.gone(m, time.Now())
	c.wait(0, 3*time.Second, chance)
	c.untouched(m, "dead", totals, lives)
	m.Start()
}

func (c *circus) hangMember(m *Server, chance *rand.Rand) {
	m.Pause()
	since := time.Now()
	totals, lives := c.gone(m, since)
	c.wait(0, 5*time.Second, chance)
	c.untouched(m, "hanging", totals, lives)
	m.Resume()
}

func (c *circus) stutter(m *Server, chance *rand.Rand) {
	for range 3 + chance.IntN(5) {
		m.Pause()
		c.wait(100*time.Millisecond, 700*time.Millisecond, chance)
		m.Resume()
		c.wait(100*time.Millisecond, 500*time.Millisecond, chance)
	}
}

// drain looks at the runs that began while a member was drained: none of them may go there.
func (c *circus) drain(m *Server, chance *rand.Rand) {
	each := func(mode string) {
		for _, e := range c.edges {
			c.edgeMu.Lock()
			e.MustCLI(mode, "members/"+m.Certname)
			c.edgeMu.Unlock()
		}
	}
	each("drain")
	since := time.Now()
	for range 1 + chance.IntN(4) {
		c.wait(500*time.Millisecond, time.Second, chance)
		for _, e := range c.edges {
			var runs []struct {
				Client  string
				Began   time.Time
				Servers []string
			}
			c.edgeMu.Lock()
			e.JSON(&runs, "runs")
			c.edgeMu.Unlock()
			for _, r := range runs {
				if r.Began.After(since) && slices.Contains(r.Servers, "members/"+m.Certname) {
					c.t.Errorf("the run of %s began %v after %s was drained and went there", r.Client, r.Began.Sub(since), m.Certname)
				}
			}
		}
	}
	each("ready")
}

func (c *circus) restart(m *Server, _ *rand.Rand) {
	m.Stop()
	m.Start()
}

func (c *circus) killEdge(chance *rand.Rand) {
	i := chance.IntN(len(c.edges))
	c.edgeMu.Lock()
	defer c.edgeMu.Unlock()
	from := time.Now()
	c.edges[i].Kill()
	c.mu.Lock()
	c.deaths = append(c.deaths, edgeDeath{i, from, time.Now()})
	c.mu.Unlock()
	c.wait(0, time.Second, chance)
	c.edges[i].Start()
	c.lives[i]++
}

func (c *circus) takeover(chance *rand.Rand) {
	i := chance.IntN(len(c.edges))
	c.edgeMu.Lock()
	defer c.edgeMu.Unlock()
	c.edges[i].Start("--takeover")
	c.lives[i]++
}

// perform has one of the hands act until ctx ends: all that it can do in any order, then again in another.
func (c *circus) perform(ctx context.Context, seed uint64, hand int) {
	chance := rand.New(rand.NewPCG(seed, uint64(hand)))
	acts, pause := hands[hand].acts, hands[hand].pause
	for {
		for _, i := range chance.Perm(len(acts)) {
			c.wait(pause/4, pause, chance)
			if ctx.Err() != nil {
				return
			}
			acts[i].do(c, chance)
			c.mu.Lock()
			c.acts[acts[i].name]++
			c.mu.Unlock()
		}
	}
}

// watch reads the bounds that an edge must keep, until ctx ends.
func (c *circus) watch(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, address := range c.metrics {
			now, err := scrape(ctx, address)
			if err != nil {
				continue // it is being killed
			}
			c.mu.Lock()
			c.queue = max(c.queue, int(now[`troupe_edge_pool_queue{pool="members"}`]))
			c.memory = max(c.memory, now["process_resident_memory_bytes"])
			c.mu.Unlock()
		}
	}
}

func TestNoRunFailsUnderARandomSchedule(t *testing.T) {
	c := newCircus(t)
	seed := *scheduleSeed
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	t.Logf("seed %d", seed)
	c.fleet.Run(t.Context()) // certificates, first catalogs
	for _, r := range c.past {
		t.Errorf("before anything happened: %s: %s%s", r.name, r.why, r.requests)
	}

	lasts := time.Duration(number(t, "SECONDS", 120)) * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	began := time.Now()
	watched, stop := context.WithCancel(t.Context())
	defer stop()
	var acting, watcher, load sync.WaitGroup
	watcher.Go(func() { c.watch(watched) })
	load.Go(func() {
		f := *c.fleet
		f.Duration = lasts + 5*time.Second
		f.Run(t.Context())
	})
	for i := range hands {
		acting.Go(func() { c.perform(ctx, seed, i) })
	}
	acting.Wait()
	load.Wait()

	t.Logf("seed %d, %v: %v", seed, time.Since(began).Round(time.Second), c.book)
	for _, name := range slices.Sorted(maps.Keys(c.acts)) {
		t.Logf("%3d × %s", c.acts[name], name)
	}
	under := 0
	for _, r := range c.past {
		if r.under(c.deaths) { // nobody can help it: what it had begun is gone with the edge
			under++
			t.Logf("at an edge that was killed: %.200s", r.name+": "+r.why)
			continue
		}
		t.Errorf("run of %s from %s to %s: %s%s", r.name, r.begin.Format("15:04:05.000"), r.end.Format("15:04:05.000"), r.why, r.requests)
	}
	t.Logf("%d runs broke at an edge that was killed under them, %d otherwise", under, len(c.past)-under)
	t.Logf("a member that was gone was known as such after %v at most; queue %d and memory %.0f MiB of an edge at most", c.found.Round(time.Millisecond), c.queue, c.memory/(1<<20))
	if c.queue > circusAgents {
		t.Errorf("%d requests waited in the queue of an edge: more than there are agents", c.queue)
	}
	if c.memory > 512<<20 {
		t.Errorf("an edge had %.0f MiB", c.memory/(1<<20))
	}
	c.fair()
	stop()
	watcher.Wait()
	c.book.stored(t, c.members...)
}

// fair says that members who are well get their share.
func (c *circus) fair() {
	t := c.t
	c.settled()
	before := make([]map[string]EdgeBackend, len(c.edges))
	for i := range c.edges {
		before[i] = c.ask(i)
	}
	c.fleet.Run(t.Context())
	for i := range c.edges {
		sum, shares := uint64(0), map[string]uint64{}
		for name, b := range c.ask(i) {
			shares[name] = b.Total - before[i][name].Total
			sum += shares[name]
		}
		t.Logf("requests of edge %d in a calm time: %v", i+1, shares)
		for name, n := range shares {
			if n < sum/uint64(4*len(c.members)) {
				t.Errorf("%s got %d of %d requests of edge %d while all members were well", name, n, sum, i+1)
			}
		}
	}
}
