package journal

import (
	"errors"
	"io"

	"troupe/internal/fault"
)

// This file checks records that are on their way, such as those in a backup, without writing them.

// A Checker reads records as [Journal.Export] writes them and checks of each what [Journal.Import] would check in an empty
// journal: the sum of its body, its number, its place in the chain. Only the clock is not looked at.
type Checker struct {
	pack    *packer
	chains  map[chainName]*Head
	order   []chainName
	records uint64
}

// NewChecker returns a Checker that has seen nothing. Close it.
func NewChecker() (*Checker, error) {
	pack, err := newPacker()
	if err != nil {
		return nil, err
	}
	return &Checker{pack: pack, chains: map[chainName]*Head{}}, nil
}

// Close lets go of memory.
func (c *Checker) Close() { c.pack.close() }

// Records returns how many good records were seen.
func (c *Checker) Records() uint64 { return c.records }

// Last returns the number of the last good record of a chain, 0 when there was none.
func (c *Checker) Last(o Origin, s Stream) uint64 {
	if h := c.chains[chainName{o, s}]; h != nil {
		return h.Last
	}
	return 0
}

// Heads returns the chains that were seen, in the order in which they began.
func (c *Checker) Heads() []Head {
	heads := make([]Head, len(c.order))
	for i, name := range c.order {
		heads[i] = *c.chains[name]
	}
	return heads
}

// Check reads all records of r. It stops at the first that is not good, with the errors of [Journal.Import]; good is how many
// bytes came before it. A later call goes on where this one ended.
func (c *Checker) Check(r io.Reader) (good int64, err error) {
	counted := &counting{r: r}
	for {
		f, err := readFrame(counted)
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err == nil {
			err = c.take(f)
		}
		if err != nil {
			return good, err
		}
		good = counted.n
	}
}

func (c *Checker) take(f *frame) error {
	name := chainName{f.Origin, f.Stream}
	h := c.chains[name]
	if h == nil {
		if len(c.chains) >= maxCheckedChains {
			return fault.New(fault.Invalid, "there are records of more than %d chains", maxCheckedChains)
		}
		h = &Head{Origin: f.Origin, Stream: f.Stream}
	}
	switch {
	case f.base && f.Number <= h.Last:
		return nil
	case f.base && f.Stream == State:
		return &GapError{Origin: f.Origin, Stream: f.Stream, Want: h.Last + 1, Got: f.Number + 1}
	case f.base:
		h.Base, h.Last, h.Hash = f.Number, f.Number, f.Hash
	default:
		if f.Number != h.Last+1 {
			return &GapError{Origin: f.Origin, Stream: f.Stream, Want: h.Last + 1, Got: f.Number}
		}
		if _, err := c.pack.unpack(f.stored); err != nil {
			return &DamageError{Origin: f.Origin, Stream: f.Stream, Number: f.Number, What: DamagedBody, Detail: err.Error()}
		}
		if f.chain(h.Hash, f.stored.length, f.stored.sum) != f.Hash || f.Time <= h.Time {
			return &DamageError{Origin: f.Origin, Stream: f.Stream, Number: f.Number, What: DamagedChain, Detail: "it does not follow the record before it"}
		}
		h.Last, h.Hash, h.Time = f.Number, f.Hash, f.Time
		c.records++
	}
	if c.chains[name] == nil {
		c.chains[name], c.order = h, append(c.order, name)
	}
	return nil
}

// maxCheckedChains bounds what a forged stream can make a Checker remember.
const maxCheckedChains = 1 << 16

// counting counts what was read.
type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
