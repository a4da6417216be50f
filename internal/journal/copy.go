package journal

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"troupe/internal/fault"
)

// This file gives records to the journals of other members and says how far this one is. import.go takes them.

// A Hash is the hash of a record, see [Record.chain]. It is hexadecimal in JSON.
type Hash [32]byte

// MarshalText writes 64 hexadecimal digits.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("a hash has %d digits, not %d", hex.EncodedLen(len(h)), len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// A Head says which part of a chain a journal holds: the records after Base up to Last.
type Head struct {
	Origin Origin `json:"origin"`
	Stream Stream `json:"stream"`
	Base   uint64 `json:"base"` // the last pruned record, 0 when there is none
	Last   uint64 `json:"last"`
	Hash   Hash   `json:"hash"` // of the last
	Time   Time   `json:"time"` // likewise
}

// Heads returns the chains of this journal by origin and stream, those of other members included.
func (j *Journal) Heads(ctx context.Context) ([]Head, error) {
	chains, err := j.chains(ctx)
	if err != nil {
		return nil, err
	}
	heads := make([]Head, 0, len(chains))
	for _, c := range chains {
		if c.last > 0 {
			heads = append(heads, Head{Origin: c.origin, Stream: c.stream, Base: c.base, Last: c.last, Hash: c.lastHash, Time: c.lastTime})
		}
	}
	return heads, nil
}

// Records travel as frames, all numbers big endian:
//
//	length  4 bytes, of the rest
//	type    1 byte
//	record: header (record.go), hash, form 1 byte, the body as it is stored
//	base:   stream 1 byte, number 8 bytes, hash, origin
//
// A base says that the records up to its number are pruned where the frames come from.
const (
	frameRecord = 'r'
	frameBase   = 'b'

	maxHeader = 66 + 3*(1<<16)
	maxFrame  = 1 + maxHeader + len(Hash{}) + 1 + MaxBody + MaxBody>>8
)

// Export writes up to limit records of a chain whose number is greater than after, as [Journal.Import] reads them, and
// returns how many; fewer when their bodies are large. Records leave as they lie in the file: whoever imports them checks them.
func (j *Journal) Export(ctx context.Context, w io.Writer, o Origin, s Stream, after uint64, limit int) (int, error) {
	chains, err := j.chains(ctx)
	if err != nil {
		return 0, err
	}
	out := bufio.NewWriter(w)
	for _, c := range chains {
		if c.origin == o && c.stream == s && c.base > after {
			if err := writeFrame(out, c.baseFrame()); err != nil {
				return 0, err
			}
		}
	}
	rows, err := j.rows(ctx, o, s, after, min(limit, maxRead))
	if err != nil && len(rows) == 0 {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	for i := range rows {
		if err := writeFrame(out, rows[i].frame()); err != nil {
			return i, err
		}
	}
	return len(rows), out.Flush()
}

func writeFrame(w io.Writer, frame []byte) error {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(frame)))
	if _, err := w.Write(length[:]); err != nil {
		return err
	}
	_, err := w.Write(frame)
	return err
}

func (r *row) frame() []byte {
	b := append([]byte{frameRecord}, r.header(r.stored.length, r.stored.sum)...)
	b = append(b, r.Hash[:]...)
	b = append(b, byte(r.stored.form))
	return append(b, r.stored.data...)
}

func (c *chainRow) baseFrame() []byte {
	b := binary.BigEndian.AppendUint64([]byte{frameBase, byte(c.stream)}, c.base)
	b = append(b, c.baseHash[:]...)
	return append(b, c.origin...)
}

// A frame is what one of them says: a record, or the base of a chain, of which only Origin, Stream, Number and Hash count.
type frame struct {
	row

	base bool
}

// readFrame returns io.EOF at the end of the frames, and fault.Invalid for what is no frame.
func readFrame(r io.Reader) (*frame, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fault.Wrap(fault.Invalid, err, "records are cut off")
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || int64(n) > int64(maxFrame) {
		return nil, fault.New(fault.Invalid, "a record is said to have %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "records are cut off")
	}
	f, err := parseFrame(b)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "a record cannot be read")
	}
	return f, nil
}

func parseFrame(b []byte) (*frame, error) {
	p := parser{rest: b}
	f := &frame{}
	switch kind := p.byte(); kind {
	case frameBase:
		f.base = true
		f.Stream, f.Number = Stream(p.byte()), p.uint64()
		p.copy(f.Hash[:])
		f.Origin = Origin(p.rest)
	case frameRecord:
		if v := p.byte(); v != headerVersion && p.err == nil {
			return nil, fmt.Errorf("its format %d is newer than this troupe: upgrade this member", v)
		}
		f.Stream, f.Number, f.Time = Stream(p.byte()), p.uint64(), Time(p.uint64())
		f.Origin, f.Kind, f.Key = Origin(p.text()), p.text(), p.text()
		f.stored.length = int(min(p.uint64(), MaxBody+1))
		p.copy(f.stored.sum[:])
		p.copy(f.Hash[:])
		f.stored.form, f.stored.data = int(p.byte()), p.rest
	default:
		return nil, fmt.Errorf("its type %q is unknown", kind)
	}
	switch {
	case p.err != nil:
		return nil, p.err
	case f.Stream != State && f.Stream != Bulk:
		return nil, fmt.Errorf("its %s is unknown", f.Stream)
	case f.Origin == "" || len(f.Origin) > maxName || f.Number == 0:
		return nil, errors.New("its origin or number is missing")
	case f.stored.length > MaxBody:
		return nil, errors.New("its body is too long")
	}
	return f, nil
}

// A parser takes fields from the front; after the first that is missing, all are zero.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) take(n int) []byte {
	if p.err != nil || len(p.rest) < n {
		p.err = io.ErrUnexpectedEOF
		return make([]byte, n)
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) byte() byte     { return p.take(1)[0] }
func (p *parser) uint64() uint64 { return binary.BigEndian.Uint64(p.take(8)) }
func (p *parser) copy(to []byte) { copy(to, p.take(len(to))) }
func (p *parser) text() string   { return string(p.take(int(binary.BigEndian.Uint16(p.take(2))))) }

// A ForkError tells that two different records have the same place in a chain: the journal of their member was put back to an
// earlier state and went on from there.
type ForkError struct {
	Origin Origin
	Stream Stream
	Number uint64
	Own    bool // it is the chain of this member itself
}

func (e *ForkError) Error() string {
	who, remedy := "of member "+string(e.Origin), "On that member, move the data folder away and let it join again"
	if e.Own {
		who, remedy = "of this member", "Stop this member, move its data folder away and join again: other members have all that it wrote before"
	}
	return fmt.Sprintf("the %s journal %s exists in two versions from record %d on, so it was put back from an older copy. %s", e.Stream, who, e.Number, remedy)
}

// A FutureError tells that a record is from a clock that is far ahead. It is not imported; it may be later.
type FutureError struct {
	Origin Origin
	Number uint64
	Ahead  time.Duration
}

func (e *FutureError) Error() string {
	return fmt.Sprintf("record %d of member %s is %v ahead of the clock of this machine and is not taken yet: compare the clocks of both machines",
		e.Number, e.Origin, e.Ahead.Round(time.Second))
}

// A GapError tells that records before this one are missing: they must be imported first.
type GapError struct {
	Origin Origin
	Stream Stream
	Want   uint64
	Got    uint64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s record %d of member %s came where %d is next", e.Stream, e.Got, e.Origin, e.Want)
}
