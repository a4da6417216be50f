package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"troupe/internal/fault"
)

// This file is the outside of a backup:
//
//	magic    16 bytes
//	length   4 bytes, big endian, of the header
//	header   JSON
//	content  age(zstd(tar)), see content.go
//	end      JSON: length of the content, SHA-256 of all before the end
//	length   4 bytes, of the end
//	magic    16 bytes, another one
//
// The end is written last. A place shows a backup only when all of it is there; the end tells the same of a copy of a copy.

const (
	formatVersion = 1

	magic    = "troupe backup 1\n"
	endMagic = "\ntroupe the end\n"

	maxHeader = 64 << 10
	maxEnd    = 64 << 10
	endFixed  = 4 + len(endMagic)
)

// end is the last that is written.
type end struct {
	Content int64   `json:"content"`
	Sum     string  `json:"sum"`
	Summary Summary `json:"summary"`
}

// seal writes a whole backup.
func seal(w io.Writer, h Header, lockers []age.Recipient, src func(io.Writer) (Summary, error)) (Summary, error) {
	sum := &summing{w: w, h: sha256.New()}
	if err := writeHeader(sum, h); err != nil {
		return Summary{}, err
	}
	before := sum.n
	summary, err := sealContent(sum, lockers, src)
	if err != nil {
		return summary, err
	}
	return summary, writeEnd(w, end{Content: sum.n - before, Sum: hex.EncodeToString(sum.h.Sum(nil)), Summary: summary})
}

func sealContent(w io.Writer, lockers []age.Recipient, src func(io.Writer) (Summary, error)) (Summary, error) {
	locked, err := age.Encrypt(w, lockers...)
	if err != nil {
		return Summary{}, fmt.Errorf("encrypt the backup: %w", err)
	}
	pressed, err := zstd.NewWriter(locked, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return Summary{}, fmt.Errorf("set up compression: %w", err)
	}
	summary, err := src(pressed)
	if err != nil {
		return summary, err // what was written is thrown away, so nothing has to be flushed
	}
	return summary, errors.Join(pressed.Close(), locked.Close())
}

// window bounds what must be in memory to read a backup.
const window = 4 << 20

type summing struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.h.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func writeHeader(w io.Writer, h Header) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(text) > maxHeader {
		return fmt.Errorf("the header of the backup has %d bytes, more than %d", len(text), maxHeader)
	}
	b := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(text)))
	_, err = w.Write(append(b, text...))
	return err
}

func writeEnd(w io.Writer, e end) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(text) > maxEnd {
		return fmt.Errorf("the end of the backup has %d bytes, more than %d", len(text), maxEnd)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(text, uint32(len(text))), endMagic...))
	return err
}

// readHeader reads the beginning of a backup and returns how long it is.
func readHeader(r io.Reader) (h Header, length int64, err error) {
	var fixed [len(magic) + 4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return h, 0, tooShort(err)
	}
	text, n := fixed[:len(magic)], binary.BigEndian.Uint32(fixed[len(magic):])
	switch {
	case strings.HasPrefix(string(text), "troupe backup ") && string(text) != magic:
		return h, 0, fault.New(fault.Invalid, "it has a newer format: use a newer troupe")
	case string(text) != magic || n > maxHeader:
		return h, 0, fault.New(fault.Invalid, "it does not begin as a backup does")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return h, 0, tooShort(err)
	}
	if err := json.Unmarshal(body, &h); err != nil {
		return h, 0, fault.Wrap(fault.Invalid, err, "its header cannot be read")
	}
	if h.Format != formatVersion || h.Member == "" || h.Origin == "" || h.Time.IsZero() {
		return h, 0, fault.New(fault.Invalid, "its header is not that of a backup")
	}
	return h, int64(len(fixed)) + int64(n), nil
}

// tooShort tells the end of a file from an error of its place.
func tooShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(fault.Invalid, io.ErrUnexpectedEOF, "it is cut off")
	}
	return err
}

// readEnd reads the end of a backup out of its last bytes. size is that of the whole backup, begin that of its header.
func readEnd(last []byte, size, begin int64) (e end, err error) {
	cut := fault.New(fault.Invalid, "its end is missing: it is cut off")
	if len(last) < endFixed || string(last[len(last)-len(endMagic):]) != endMagic {
		return e, cut
	}
	last = last[:len(last)-len(endMagic)]
	n := int64(binary.BigEndian.Uint32(last[len(last)-4:]))
	last = last[:len(last)-4]
	if n > maxEnd || n > int64(len(last)) {
		return e, cut
	}
	text := last[int64(len(last))-n:]
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fault.Wrap(fault.Invalid, err, "its end cannot be read")
	}
	// No sum covers the end, so it is held to the one way in which it is written.
	if same, err := json.Marshal(e); err != nil || !bytes.Equal(same, text) {
		return e, fault.New(fault.Invalid, "its end is damaged")
	}
	if e.Content < 0 || begin+e.Content+n+int64(endFixed) != size {
		return e, fault.New(fault.Invalid, "it has %d bytes, and its end tells of %d: a part is missing", size, begin+e.Content+n+int64(endFixed))
	}
	return e, nil
}

// examine reads header and end.
func examine(ctx context.Context, p Place, o Object) Info {
	info := Info{Name: o.Name, Size: o.Size}
	h, e, size, err := frame(ctx, p, o)
	info.Header, info.Size, info.Summary = h, size, e.Summary
	if err != nil {
		info.Problem = fault.Message(err)
		if fault.KindOf(err) == fault.Internal {
			info.Problem = err.Error()
		}
		return info
	}
	info.Whole = true
	return info
}

func frame(ctx context.Context, p Place, o Object) (h Header, e end, size int64, err error) {
	first, size, err := p.Open(ctx, o.Name, 0, maxHeader)
	if err != nil {
		return h, e, max(o.Size, 0), err
	}
	h, begin, err := readHeader(first)
	if err := errors.Join(err, first.Close()); err != nil {
		return h, e, size, err
	}
	if h.nameless() || nameOf(h) != o.Name {
		return h, e, size, fault.New(fault.Invalid, "its header is that of another backup")
	}
	from := max(begin, size-maxEnd-int64(endFixed))
	last, _, err := p.Open(ctx, o.Name, from, size-from)
	if err != nil {
		return h, e, size, err
	}
	text, err := io.ReadAll(io.LimitReader(last, maxEnd+int64(endFixed)))
	if err := errors.Join(err, last.Close()); err != nil {
		return h, e, size, err
	}
	e, err = readEnd(text, size, begin)
	return h, e, size, err
}

func (h Header) nameless() bool { return strings.ContainsAny(string(h.Origin), "/\x00") }
