package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/journal"
)

// This file is the form of the records that the store appends, and their order.

// The kinds of records in the bulk stream. They are part of the record format.
const (
	kindFacts      = "facts"
	kindCatalog    = "catalog"
	kindCompile    = "compile"
	kindReport     = "report"
	kindENC        = "enc"
	kindBucket     = "bucket"
	kindDeactivate = "node.deactivated"
)

// kinds are those that this program folds.
func kinds() []string {
	return append([]string{kindFacts, kindCatalog, kindCompile, kindReport, kindENC, kindBucket, kindDeactivate}, nextKinds()...)
}

// joinParts makes a body of a JSON object and attachments that keep their bytes:
// each part is its length as a varint, then its bytes. A member that knows fewer
// parts or fewer keys ignores the others.
func joinParts(meta any, attached ...[]byte) ([]byte, error) {
	head, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	size := len(head)
	for _, p := range attached {
		size += len(p)
	}
	b := make([]byte, 0, size+binary.MaxVarintLen64*(1+len(attached)))
	for _, p := range append([][]byte{head}, attached...) {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b, nil
}

// splitParts undoes joinParts and expects at least n attachments.
func splitParts(r *journal.Record, meta any, n int) ([][]byte, error) {
	var parts [][]byte
	for b := r.Body; len(b) > 0; {
		length, used := binary.Uvarint(b)
		if used <= 0 || length > uint64(len(b)-used) {
			return nil, &malformedError{r, errors.New("its parts are cut short")}
		}
		parts = append(parts, b[used:used+int(length)])
		b = b[used+int(length):]
	}
	if len(parts) < n+1 {
		return nil, &malformedError{r, fmt.Errorf("it has %d parts, not %d", len(parts), n+1)}
	}
	if err := json.Unmarshal(parts[0], meta); err != nil {
		return nil, &malformedError{r, err}
	}
	return parts[1:], nil
}

// A malformedError says that a record can never be folded.
type malformedError struct {
	record *journal.Record
	err    error
}

func (e *malformedError) Error() string {
	return fmt.Sprintf("%s record %d of origin %s (%s): %v", e.record.Stream, e.record.Number, e.record.Origin, e.record.Kind, e.err)
}

func (e *malformedError) Unwrap() error { return e.err }

// A stamp orders the records of all origins; see migrations.
type stamp []byte

func stampOf(r *journal.Record) stamp {
	return append(binary.BigEndian.AppendUint64(nil, uint64(r.Time)), r.Origin...)
}

// stampAt is before every record of t's millisecond and after those of earlier ones.
func stampAt(t time.Time) stamp {
	return binary.BigEndian.AppendUint64(nil, uint64(journal.At(t)))
}

// time returns when the record was written, or the zero time for the empty stamp.
func (s stamp) time() time.Time {
	if len(s) < 8 {
		return time.Time{}
	}
	return journal.Time(binary.BigEndian.Uint64(s)).Time()
}

// A zipper compresses what lies in the tables. It is safe for concurrent use.
type zipper struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newZipper() (*zipper, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(journal.MaxBody), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up compression: %w", err), enc.Close())
	}
	return &zipper{enc: enc, dec: dec}, nil
}

func (z *zipper) close() { z.dec.Close() }

func (z *zipper) pack(b []byte) []byte {
	return z.enc.EncodeAll(b, make([]byte, 0, len(b)/4+64))
}

func (z *zipper) unpack(b []byte) ([]byte, error) {
	out, err := z.dec.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return out, nil
}
