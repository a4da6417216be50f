package ruby

import (
	"slices"

	"troupe/internal/engine"
)

// This file lets a zygote that is still warming compile for requests that wait
// for it: their catalogs warm it as well as any, and nothing is compiled twice.

// An offer is a request that a warming zygote may answer itself. A request whose
// offer nobody takes, or whose compile ends the zygote, gets a worker like any
// other.
type offer struct {
	request engine.Request
	done    chan struct{} // closed when answer is set
	answer  answer
}

func newOffer(q engine.Request) *offer { return &offer{request: q, done: make(chan struct{})} }

// answered is closed when the offer was; never for no offer.
func (o *offer) answered() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.done
}

// take returns the answer if there is one.
func (o *offer) take() (answer, bool) {
	select {
	case <-o.answered():
		return o.answer, true
	default:
		return answer{}, false
	}
}

func (o *offer) resolve(a answer) {
	o.answer = a
	close(o.done)
}

// withdraw ends an offer, and says whether it did: not if the zygote has taken it.
func (p *Pool) withdraw(z *zygote, o *offer) bool {
	if o == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(z.offers, o)
	if i >= 0 {
		z.offers = slices.Delete(z.offers, i, i+1)
	}
	return i >= 0
}
