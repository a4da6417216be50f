package balance

import (
	"fmt"
	"slices"
	"time"

	"troupe/internal/edge/health"
)

// This file narrows the servers down to those among which a method chooses:
// 1. the server that the run or the key sticks to, if it can take the request and has room;
// 2. else those that nothing bars: servers proper, or backups where there is none;
// 3. of these, a tier, by the share of work that it gets;
// 4. in that tier, those that have room.

// panics reports whether too few servers are up to believe it. p.mu is held.
func (p *Pool) panics(now time.Time) bool {
	if p.o.Panic <= 0 {
		return false
	}
	up, all := 0, 0
	for _, s := range p.servers {
		if s.Backup || s.verdict.State == health.Maint || s.verdict.State == health.Drain {
			continue // taken out on purpose
		}
		all++
		if s.verdict.State == health.Up && s.weight(now) > 0 {
			up++
		}
	}
	return all > 0 && float64(up) < p.o.Panic*float64(all)
}

// bar says what keeps a server from taking a request; nothing, when it can. p.mu is held.
func (p *Pool) bar(s *server, ask Ask, panics bool, now time.Time) string {
	if why := unfit(s, ask); why != "" {
		return why
	}
	state := s.verdict.State
	switch {
	case panics && p.o.PanicNone && !s.Backup:
		return "is not used: too few servers of the pool are up"
	case state == health.Up || panics && state == health.Down:
	case s.verdict.Reason != "":
		return fmt.Sprintf("is %s: %s", words[state], s.verdict.Reason)
	default:
		return "is " + words[state]
	}
	if s.weight(now) == 0 {
		return "has the weight 0"
	}
	return ""
}

var words = map[health.State]string{health.Down: "down", health.Drain: "in drain", health.Maint: "in maintenance", "": "down"}

// unfit says why a server cannot do this request, however well it is.
func unfit(s *server, ask Ask) string {
	switch {
	case slices.Contains(ask.Exclude, s.Name):
		return "has failed this request"
	case ask.Only != nil && !ask.Only(s.Server):
		return "cannot do this request"
	}
	return ""
}

// keeps reports whether a server that is not for new work still takes what belongs to a run of its own.
func keeps(s *server, ask Ask, now time.Time) bool {
	return ask.Run && unfit(s, ask) == "" &&
		(s.verdict.State == health.Drain || s.verdict.State == health.Up && s.weight(now) == 0)
}

// stuck returns the server that a request sticks to, whatever its state; nil without one. p.mu is held.
func (p *Pool) stuck(ask Ask) *server {
	if s := p.named(ask.Prefer); s != nil {
		return s
	}
	if p.table == nil || ask.Key == "" {
		return nil
	}
	name, _ := p.table.look(ask.Key)
	return p.named(name)
}

func (p *Pool) named(name string) *server {
	i := slices.IndexFunc(p.servers, func(s *server) bool { return s.Name == name })
	if name == "" || i < 0 {
		return nil
	}
	return p.servers[i]
}

// choose returns the server that takes a request now; nil when none has room, and whether one could take it at all. p.mu is held.
func (p *Pool) choose(ask Ask, now time.Time) (chosen *server, possible bool) {
	f := p.field(ask, now)
	chosen = f.stuck
	if chosen == nil || !chosen.room(now) {
		chosen = f.pick(p, ask, now)
		if chosen == nil {
			return nil, f.stuck != nil || len(f.tiers) > 0
		}
		if p.o.Method == RoundRobin {
			f.turn(chosen, now)
		}
	}
	if p.table != nil && ask.Key != "" {
		p.stick(ask, f, chosen)
	}
	return chosen, true
}

// stick remembers where a key went. One whose server was only full stays with it. p.mu is held.
func (p *Pool) stick(ask Ask, f field, chosen *server) {
	if f.stuck != nil && f.stuck != chosen {
		return
	}
	before, _ := p.table.look(ask.Key)
	p.moved = p.moved || before != chosen.Name
	p.table.Put(ask.Key, chosen.Name)
}

// A field is what can take a request.
type field struct {
	stuck *server // the one that it sticks to, if that can take it
	tiers []tier  // in order
}

type tier struct {
	number  int
	share   float64   // of all work
	servers []*server // that can take the request, with or without room
}

// field finds what can take a request. p.mu is held.
func (p *Pool) field(ask Ask, now time.Time) field {
	var f field
	panics := p.panics(now)
	var proper, backups []*server
	for _, s := range p.servers {
		switch {
		case p.bar(s, ask, panics, now) != "":
		case s.Backup:
			backups = append(backups, s)
		default:
			proper = append(proper, s)
		}
	}
	if len(proper) == 0 {
		if len(backups) > 1 && !p.o.AllBackups {
			backups = backups[:1]
		}
		proper = backups
	}
	shares := p.shares(panics)
	for _, s := range proper {
		at, found := slices.BinarySearchFunc(f.tiers, s.tier, func(t tier, number int) int { return t.number - number })
		if !found {
			f.tiers = slices.Insert(f.tiers, at, tier{number: s.tier, share: shares[s.tier]})
		}
		f.tiers[at].servers = append(f.tiers[at].servers, s)
	}
	s := p.stuck(ask)
	if s != nil && (keeps(s, ask, now) || p.bar(s, ask, panics, now) == "" && (ask.Run || p.o.StickToBackups || f.serves(s))) {
		f.stuck = s
	}
	return f
}

// serves reports whether a server gets new work now. Servers that do not are those that stand in for others: backups, and later tiers.
// What went there while the others were down goes back with its next run.
func (f field) serves(s *server) bool {
	sum := 0.0
	for _, t := range f.tiers {
		sum += t.share
	}
	return slices.ContainsFunc(f.tiers, func(t tier) bool { return (t.share > 0 || sum == 0) && slices.Contains(t.servers, s) })
}

// shares says how much of the work each tier gets: the first as much as its health allows, and each later one of what is left. While a
// tier has lost little, it gets all: its servers have some room to spare. p.mu is held.
func (p *Pool) shares(panics bool) map[int]float64 {
	up, all := map[int]float64{}, map[int]float64{}
	var numbers []int
	for _, s := range p.servers {
		if s.Backup || s.Weight <= 0 {
			continue
		}
		if all[s.tier] == 0 {
			numbers = append(numbers, s.tier)
		}
		all[s.tier] += float64(s.Weight)
		if s.verdict.State == health.Up || panics && s.verdict.State == health.Down {
			up[s.tier] += float64(s.Weight) * min(s.verdict.Share, 1)
		}
	}
	slices.Sort(numbers)
	shares := map[int]float64{}
	given := 0.0
	for _, n := range numbers {
		shares[n] = min(1-given, p.o.Overprovision*up[n]/all[n])
		given += shares[n]
	}
	for n := range shares {
		if given > 0 {
			shares[n] /= given
		}
	}
	return shares
}

// pick chooses a server that has room, first in a tier that is drawn by its share, then in the others that have one; in those that have
// none only when the queue is long, or when no other can take the request. p.mu is held.
func (f field) pick(p *Pool, ask Ask, now time.Time) *server {
	draw, sum, serving := p.o.Rand(), 0.0, 0
	for _, t := range f.tiers {
		sum += t.share
		if t.share > 0 {
			serving += len(t.servers)
		}
	}
	draw *= sum
	var first, later, spill []tier
	for _, t := range f.tiers {
		switch {
		case t.share <= 0:
			spill = append(spill, t)
		case len(first) == 0 && draw < t.share:
			first = append(first, t)
		default:
			draw -= t.share
			later = append(later, t)
		}
	}
	if sum == 0 || p.o.Spill > 0 && float64(len(p.queue)) >= p.o.Spill*float64(serving) {
		later = append(later, spill...)
	}
	for _, t := range append(first, later...) {
		free := slices.DeleteFunc(slices.Clone(t.servers), func(s *server) bool { return !s.room(now) })
		if len(free) > 0 {
			return p.method(t.servers, free, ask, now)
		}
	}
	return nil
}
