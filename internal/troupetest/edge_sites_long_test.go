//go:build long

package troupetest

// This file proves what a site with edges promises: goals G3 and G5 to G8 of the edge, with real members, a real router and agents
// that run without pause. make edge-sites repeats it; docs/anycast.md has the figures.

import (
	"strings"
	"testing"
	"time"

	"troupe/internal/fakeagent"
)

// An actor is one story under load.
type actor struct {
	*EdgeSites

	t     *testing.T
	tr    *traffic
	begin time.Time // of the load
}

// act runs a story while agents run. Afterwards everything that began at the beginning is told.
func (s *EdgeSites) act(t *testing.T, name string, story func(a *actor)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		agents := s.fleet
		// Their certificates and first catalogs are no part of the story.
		Eventually(t, Patience, "all agents run well", func() bool {
			return (&fakeagent.Fleet{Agents: agents, AtOnce: 3}).Run(t.Context()).Succeeded == len(agents)
		})
		a := &actor{EdgeSites: s, t: t, tr: s.startTraffic(agents), begin: time.Now()}
		pause(t, 2*time.Second)
		story(a)
	})
}

// settle lets the load go on for a while, then ends it.
func (a *actor) settle(d time.Duration) {
	a.t.Helper()
	pause(a.t, d)
	a.tr.end()
}

// none says that no run which began after a time broke.
func (a *actor) none(what string, since time.Time) {
	a.t.Helper()
	bad, all := a.tr.broken(since)
	a.t.Logf("%s: %d runs, %d broken", what, all, len(bad))
	for _, r := range bad {
		a.t.Errorf("%s: %s", what, r)
	}
}

// knowMost is how long routers may take to know, on a machine however busy: far more than the goals, whose figures are printed. Without
// a bound a slow discovery would excuse the runs that it breaks.
const knowMost = 5 * time.Second

// inFlight says that only runs broke which were begun before the routers knew, a while after a time; it tells how many.
func (a *actor) inFlight(what string, at time.Time, grace time.Duration) {
	a.t.Helper()
	if grace > knowMost {
		a.t.Errorf("%s: the routers knew after %v, want %v at most", what, grace, knowMost)
	}
	bad, all := a.tr.broken(time.Time{})
	under := 0
	for _, r := range bad {
		if r.begin.After(at.Add(grace)) {
			a.t.Errorf("%s, %v before: %s", what, r.begin.Sub(at), r)
			continue
		}
		under++
		a.t.Logf("%s, at %s: %s", what, at.Format(clock), r)
	}
	a.t.Logf("%s: %d runs, %d broken of those begun until %v after", what, all, under, grace)
}

// sound says that no new connection failed within a time, and what the client saw of it.
func (a *actor) sound(what string, since, until time.Time, by *SiteEdge) seen {
	a.t.Helper()
	n := a.tr.seen(since, until, by)
	if n.failed > 0 {
		a.t.Errorf("%s: %d of %d new connections failed: %v", what, n.failed, n.all, n.why)
	}
	return n
}

// main is the edge to which the router sends agents now.
func (a *actor) main() (serving, other *SiteEdge) {
	a.t.Helper()
	Eventually(a.t, Patience, "an edge answers", func() bool {
		one := a.ask(serviceAddress + ":8140")
		for i, e := range a.Edges {
			if one.serial == e.Serial {
				serving, other = e, a.Edges[1-i]
			}
		}
		return serving != nil
	})
	return serving, other
}

func TestEdgeSites(t *testing.T) {
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: []string{"east", "west"}, BGP: "  up_after: 1s\n  rejoin: 3s\n"})
	s.fleet = s.agents(9, "fake")
	s.act(t, "planned stop of an edge", (*actor).plannedStop)
	s.act(t, "kill -9 of an edge", (*actor).killed)
	s.act(t, "a site is black-holed, and comes back", (*actor).blackhole)
	s.act(t, "all servers of a site die", (*actor).serversDie)
	s.act(t, "an edge hangs", func(a *actor) {
		a.away("a hang of the edge", func(e *SiteEdge) { e.Pause() }, func(e *SiteEdge) { e.Resume() })
	})
	s.act(t, "packets to a site are lost", func(a *actor) { a.away("a deaf edge", a.Deafen, func(*SiteEdge) { a.Restore() }) })
	s.act(t, "packets of a site are lost", func(a *actor) { a.away("a mute edge", a.Mute, func(*SiteEdge) { a.Restore() }) })
}

// TestEdgeSitesSpread has a router that takes both edges for equally good.
func TestEdgeSitesSpread(t *testing.T) {
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: []string{"east", "west"}, Spread: true, BGP: "  up_after: 1s\n  rejoin: 3s\n"})
	s.fleet = s.agents(9, "fake")
	s.act(t, "a site is black-holed, and comes back", (*actor).blackholeSpread)
}

// TestEdgeSitesTakeover has a bird of its own beside each edge, which keeps its session while the edge is replaced.
func TestEdgeSitesTakeover(t *testing.T) {
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: []string{"east", "west"}, Local: true, BGP: "  up_after: 5s\n"})
	s.fleet = s.agents(9, "fake")
	s.act(t, "another process takes over", (*actor).takeover)
}

func (a *actor) takeover() {
	serving, _ := a.main()
	w := a.watchRoutes()
	begin := time.Now()
	serving.Start("--takeover")
	took := time.Since(begin)
	a.settle(12 * time.Second) // longer than the kernel keeps an address that nobody renews
	a.t.Logf("%s taken over, the old process gone after %v; %v", serving.Site, took, a.sound("take-over", begin, time.Now(), nil))
	for _, line := range w.lines() {
		a.t.Errorf("the router's route changed: %s", line)
	}
	a.none("take-over", a.begin)
}

// TestEdgeSitesTakeoverOfASpeaker replaces an edge that speaks BGP and BFD itself: a restart of its sessions, and nothing worse.
func TestEdgeSitesTakeoverOfASpeaker(t *testing.T) {
	s := NewEdgeSites(t, EdgeSitesOptions{Sites: []string{"east", "west"}, BGP: "  up_after: 1s\n"})
	s.fleet = s.agents(9, "fake")
	s.act(t, "another process takes over", func(a *actor) {
		serving, other := a.main()
		begin := time.Now()
		serving.Start("--takeover")
		took := time.Since(begin)
		a.awaitRoute(serving)
		a.settle(5 * time.Second)
		a.t.Logf("%s taken over, the old process gone after %v; %v", serving.Site, took, a.tr.seen(begin, time.Now(), other))
		bad, all := a.tr.broken(begin)
		a.t.Logf("%d of %d runs broke while the sessions began anew", len(bad), all)
	})
}

func (a *actor) blackholeSpread() {
	one, other := a.Edges[0], a.Edges[1]
	Eventually(a.t, Patience, "both edges answer", func() bool {
		n := a.tr.seen(a.begin, time.Now(), nil)
		return n.by[one.Site] > 0 && n.by[other.Site] > 0
	})
	begin := time.Now()
	a.Blackhole(one)
	a.awaitNoRoute(one)
	gone := time.Since(begin)
	pause(a.t, 5*time.Second)
	back := time.Now()
	a.Restore()
	known := a.awaitRoute(one)
	a.settle(12 * time.Second)
	a.t.Logf("%s gone from the router's table %v after the cut; %v", one.Site, gone, a.tr.seen(begin, back, other))
	a.t.Logf("back in the router's table %v after the repair; %v", known, a.tr.seen(back, time.Now(), nil))
	a.inFlight("black hole", begin, gone)
	bad, all := a.tr.broken(back)
	a.t.Logf("return of a site into a set of equal routes: %d of %d runs broke", len(bad), all) // docs/anycast.md says what to do
	for _, r := range bad {
		if r.begin.After(back.Add(known + time.Second)) { // known is of bird's table, which the kernel's follows
			a.t.Errorf("begun when the site was back: %s", r)
		}
	}
}

func (a *actor) plannedStop() {
	before, after := a.main()
	w := a.watchRoutes()
	begin := time.Now()
	before.Stop()
	stopped := time.Since(begin)
	pause(a.t, 3*time.Second)
	again := time.Now()
	before.Start()
	back := a.awaitRoute(before)
	a.settle(5 * time.Second)
	a.t.Logf("%s stopped within %v; %v", before.Site, stopped, a.sound("planned stop", begin, time.Now(), after))
	a.t.Logf("back in the router's table %v after its start at %v; routes:\n%s", back, again.Format(clock), strings.Join(w.lines(), "\n"))
	a.none("planned stop", a.begin)
}

func (a *actor) killed() {
	before, after := a.main()
	begin := time.Now()
	before.Kill()
	a.awaitNoRoute(before)
	gone := time.Since(begin)
	pause(a.t, 3*time.Second)
	before.Start()
	a.awaitRoute(before)
	a.settle(5 * time.Second)
	a.t.Logf("%s gone from the router's table after %v; %v", before.Site, gone, a.tr.seen(begin, time.Now(), after))
	a.inFlight("kill -9", begin, gone)
}

func (a *actor) blackhole() {
	before, after := a.main()
	begin := time.Now()
	a.Blackhole(before)
	a.awaitNoRoute(before)
	gone := time.Since(begin)
	pause(a.t, 5*time.Second)
	back := time.Now()
	a.Restore()
	known := a.awaitRoute(before)
	a.settle(10 * time.Second)
	a.t.Logf("%s gone from the router's table %v after the cut; %v", before.Site, gone, a.tr.seen(begin, back, after))
	a.inFlight("black hole", begin, gone)
	a.t.Logf("back in the router's table %v after the repair; %v", known, a.sound("return of the site", back, time.Now(), nil))
	a.none("return of the site", back)
}

// away has an edge be no use for five seconds, although its process lives.
func (a *actor) away(what string, leave, comeBack func(*SiteEdge)) {
	before, after := a.main()
	begin := time.Now()
	leave(before)
	a.awaitNoRoute(before)
	gone := time.Since(begin)
	pause(a.t, 5*time.Second)
	back := time.Now()
	comeBack(before)
	known := a.awaitRoute(before)
	a.settle(10 * time.Second)
	a.t.Logf("%s: gone from the router's table after %v; %v", what, gone, a.tr.seen(begin, back, after))
	a.inFlight(what, begin, gone)
	a.t.Logf("back in the router's table after %v; %v", known, a.sound("the return after "+what, back, time.Now(), nil))
	a.none("the return after "+what, back)
}

func (a *actor) serversDie() {
	before, after := a.main()
	var dead *SiteMember
	for _, m := range a.Members {
		if m.Site == before.Site {
			dead = m
		}
	}
	begin := time.Now()
	dead.Kill()
	pause(a.t, 5*time.Second)
	a.t.Logf("the member of %s dies, lines between sites stand: %v", before.Site, a.tr.seen(begin, time.Now(), nil))
	if !strings.Contains(a.bird.route(), "via "+before.own+" ") {
		a.t.Errorf("the edge of %s withdrew although it could carry on with the members of %s", before.Site, after.Site)
	}
	dead.Start()
	before.AwaitUp("members", len(a.Members))
	a.none("the servers of a site die", a.begin)

	lines := time.Now()
	a.Isolate(before.Site)
	Eventually(a.t, Patience, "the edge has only its own site", func() bool { return before.Backends("members")[dead.Certname].State == "up" && up(before) == 1 })
	a.t.Logf("line between sites cut: %v", a.tr.seen(lines, time.Now(), nil))
	alone := time.Now()
	dead.Kill()
	a.awaitNoRoute(before)
	gone := time.Since(alone)
	pause(a.t, 5*time.Second)
	a.t.Logf("the member of %s dies while the line is cut: gone from the router's table after %v; %v", before.Site, gone, a.tr.seen(alone, time.Now(), after))
	dead.Start()
	a.Restore()
	a.awaitRoute(before)
	a.settle(5 * time.Second)
	a.inFlight("the servers of an isolated site die", alone, gone)
}

func up(e *SiteEdge) (n int) {
	for _, b := range e.Backends("members") {
		if b.State == "up" {
			n++
		}
	}
	return n
}
