package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// This file is how members compare what they have made of the same records.

// A Digest sums a fold of journals. Two members whose folds of one name have the same At and another Sum have folded the same
// records, and one of them wrongly.
type Digest struct {
	Name string `json:"name"`
	At   Hash   `json:"at"`  // sums how far each chain is folded, see [SumPositions]
	Sum  Hash   `json:"sum"` // of what came of it
}

// A Scope says which part of a large fold is summed: what the records since a time have made, of one of several slices. Small
// folds are summed whole.
type Scope struct {
	Since  Time `json:"since"`
	Slice  int  `json:"slice"`
	Slices int  `json:"slices"`
}

// SumPositions sums how far chains of one stream are folded. Chains without a record do not count.
func SumPositions(positions map[Origin]uint64) Hash {
	h := sha256.New()
	for _, o := range slices.Sorted(maps.Keys(positions)) {
		if positions[o] == 0 {
			continue
		}
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(o))))
		h.Write([]byte(o))
		h.Write(binary.BigEndian.AppendUint64(nil, positions[o]))
	}
	return Hash(h.Sum(nil))
}
