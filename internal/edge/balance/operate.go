package balance

import "troupe/internal/fault"

// This file is what an operator changes while a pool works.

// SetWeight changes the weight of a server until the next [Pool.Set]; 0 keeps new work away from it.
func (p *Pool) SetWeight(name string, weight int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.servers {
		if s.Name != name {
			continue
		}
		if s.Server.Weight = weight; weight == 0 {
			s.Server.Weight = -1
		}
		now := p.o.Now()
		p.look(now)
		p.dispatch(now, true)
		return nil
	}
	return fault.New(fault.NotFound, "pool %s has no server %q", p.o.Name, name)
}
