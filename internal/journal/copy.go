package journal

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"troupe/internal/fault"
	"troupe/internal/sqlite"
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

const (
	exportStep    = 250      // records that are read and checked at once: the other side works on them while the next are read
	maxExportSize = 32 << 20 // stored bytes after which an answer takes no more
)

// Export writes up to limit records of a chain whose number is greater than after, as [Journal.Import] reads them, and
// returns how many; fewer when their bodies are large.
//
// A damaged record ends what is written. When it is the first, nothing is, and the error is a [*DamageError]: who imports it
// could not tell it from a fork.
func (j *Journal) Export(ctx context.Context, w io.Writer, o Origin, s Stream, after uint64, limit int) (n int, err error) {
	out := bufio.NewWriter(w)
	for size := 0; n < limit && size < maxExportSize; {
		c, rows, err := j.exportable(ctx, o, s, after, min(limit-n, exportStep))
		if n > 0 && (err != nil || c.base > after) {
			break // who asks for the rest is told
		}
		if err != nil && len(rows) == 0 {
			return 0, err
		}
		if c.base > after {
			if err := writeFrame(out, c.baseFrame()); err != nil {
				return 0, err
			}
		}
		for i := range rows {
			if err := writeFrame(out, rows[i].frame()); err != nil {
				return n, err
			}
			n++
			size += len(rows[i].stored.data)
			after = rows[i].Number
		}
		if len(rows) < exportStep {
			break
		}
		if err := out.Flush(); err != nil {
			return n, err
		}
	}
	return n, out.Flush()
}

// exportable returns records after a number up to the first that is not whole. When there is none, the error names that one.
func (j *Journal) exportable(ctx context.Context, o Origin, s Stream, after uint64, limit int) (c chainRow, rows []row, err error) {
	for {
		if c, err = j.chainOf(ctx, o, s); err != nil || c.last <= after || limit <= 0 {
			return c, nil, err
		}
		rows, bad, err := j.wholeAfter(ctx, c, max(after, c.base), limit)
		if err != nil || bad == nil {
			return c, rows, err
		}
		now, err := j.chainOf(ctx, o, s)
		if err != nil {
			return c, nil, err
		}
		if now.base != c.base {
			continue // what is missing was pruned meanwhile
		}
		from := bad.Number
		if bad.What == DamagedHeader {
			from = max(from-1, c.base+1) // or the hash of the record before is what is damaged
		}
		j.found(ctx, bad.DamageError, from, bad.to)
		if len(rows) == 0 {
			return c, nil, bad.DamageError
		}
		return c, rows, nil
	}
}

// wholeAfter reads records that follow a number of a chain, and names the one before which it had to stop.
func (j *Journal) wholeAfter(ctx context.Context, c chainRow, after uint64, limit int) (rows []row, bad *spot, err error) {
	broken := func(from, to uint64, what Damage, detail string) *spot {
		return &spot{&DamageError{Origin: c.origin, Stream: c.stream, Number: from, What: what, Detail: detail}, to}
	}
	previous := c.baseHash
	if after > c.base {
		h, there, err := j.HashAt(ctx, c.origin, c.stream, after)
		if err != nil {
			return nil, nil, err
		}
		if !there {
			return nil, broken(after, after, Missing, "it is not there"), nil
		}
		previous = h
	}
	rows, err = j.rows(ctx, c.origin, c.stream, after, limit)
	if sqlite.IsCorrupt(err) && len(rows) == 0 {
		return nil, broken(after+1, after+1, Unreadable, err.Error()), nil
	}
	if err != nil && !sqlite.IsCorrupt(err) {
		return nil, nil, fmt.Errorf("read journal: %w", err)
	}
	for i := range rows {
		r := &rows[i]
		if next := after + 1 + uint64(i); r.Number != next {
			return rows[:i], broken(next, r.Number-1, Missing, fmt.Sprintf("records %d to %d are not there", next, r.Number-1)), nil
		}
		if _, err := j.pack.unpack(r.stored); err != nil {
			return rows[:i], broken(r.Number, r.Number, DamagedBody, err.Error()), nil
		}
		if r.chain(previous, r.stored.length, r.stored.sum) != r.Hash {
			return rows[:i], broken(r.Number, r.Number, DamagedHeader, "its hash does not follow from what it says and the record before"), nil
		}
		previous = r.Hash
	}
	if len(rows) == 0 {
		return nil, broken(after+1, c.last, Missing, fmt.Sprintf("records %d to %d are not there", after+1, c.last)), nil
	}
	return rows, nil, nil
}

// HashAt returns the hash of a record; false when it is not here.
func (j *Journal) HashAt(ctx context.Context, o Origin, s Stream, number uint64) (h Hash, there bool, err error) {
	var hash []byte
	err = j.read.QueryRowContext(ctx, `SELECT hash FROM record r JOIN chain c ON c.id = r.chain WHERE c.origin = ? AND c.stream = ? AND r.number = ?`, o, s, number).Scan(&hash)
	if errors.Is(err, sql.ErrNoRows) {
		return h, false, nil
	}
	if err != nil {
		return h, false, fmt.Errorf("read journal: %w", err)
	}
	copy(h[:], hash)
	return h, true, nil
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
			return nil, &FormatError{Format: int(v)}
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

// A FormatError tells that a record has a form that this program does not know. It is not imported; a newer program imports it.
type FormatError struct {
	Format int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("its format is %d, and this troupe knows formats up to %d: upgrade this member, which then takes it", e.Format, Format)
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

// Refused tells records that a journal does not take from a journal, or a connection, that failed: who brings them may not
// try again at once.
func Refused(err error) bool {
	_, fork := errors.AsType[*ForkError](err)
	_, future := errors.AsType[*FutureError](err)
	_, gap := errors.AsType[*GapError](err)
	_, damage := errors.AsType[*DamageError](err) // on the other's disk: it mends it, and other members have it whole
	_, newer := errors.AsType[*FormatError](err)  // until this member is upgraded
	return fork || future || gap || damage || newer
}
