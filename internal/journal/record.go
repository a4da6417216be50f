package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"troupe/internal/fault"
)

// This file defines the canonical form of a record, over which members agree.

// Format is the newest form of records that this program writes and reads. Members must know each other's.
const Format = headerVersion

// headerVersion is the first byte of every header. A change of the layout is a
// new version; records keep the one with which they were written.
const headerVersion = 1

// header returns the canonical form of everything but the body, which is
// represented by its length and sum:
//
//	version  1 byte
//	stream   1 byte
//	number   8 bytes, big endian like all numbers here
//	time     8 bytes
//	origin   2 bytes of length, then the bytes
//	kind     the same
//	key      the same
//	length   8 bytes, of the uncompressed body
//	sum      32 bytes, SHA-256 of the uncompressed body
//
// Compression is not part of it: members may store a body as they like.
func (r *Record) header(length int, sum [32]byte) []byte {
	b := make([]byte, 0, 66+len(r.Origin)+len(r.Kind)+len(r.Key))
	b = append(b, headerVersion, byte(r.Stream))
	b = binary.BigEndian.AppendUint64(b, r.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time))
	for _, s := range []string{string(r.Origin), r.Kind, r.Key} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(length))
	return append(b, sum[:]...)
}

// chain returns the record's hash: SHA-256 over the hash of the record before it
// in its chain (32 zero bytes before the first) and its header.
func (r *Record) chain(previous [32]byte, length int, sum [32]byte) [32]byte {
	h := sha256.New()
	h.Write(previous[:])
	h.Write(r.header(length, sum))
	return [32]byte(h.Sum(nil))
}

// check says whether the draft fits the record format.
func (d *Draft) check() error {
	switch {
	case d.Stream != State && d.Stream != Bulk:
		return fmt.Errorf("append to journal: unknown %s", d.Stream)
	case d.Kind == "" || len(d.Kind) > maxName:
		return fmt.Errorf("append to journal: the kind must have 1 to %d bytes, not %d", maxName, len(d.Kind))
	case len(d.Key) > maxName:
		return fault.New(fault.TooLarge, "the name has %d bytes, more than %d", len(d.Key), maxName)
	case len(d.Body) > MaxBody:
		return fault.New(fault.TooLarge, "%s of %s has %d bytes, more than the limit of %d", d.Kind, d.Key, len(d.Body), MaxBody)
	}
	return nil
}
