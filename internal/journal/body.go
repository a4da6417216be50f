package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// This file decides how a body lies in the file: as it is, or compressed.

// packFrom is the size from which compression saves more than it costs.
const packFrom = 1 << 10

// The forms of a stored body.
const (
	formPlain = 0
	formZstd  = 1
)

// A stored body is what the file holds of it.
type stored struct {
	form   int
	data   []byte
	length int // uncompressed
	sum    [32]byte
}

// A packer compresses and opens bodies. Both coders are safe for concurrent use.
type packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newPacker() (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up compression: %w", err), enc.Close())
	}
	return &packer{enc: enc, dec: dec}, nil
}

func (p *packer) close() { p.dec.Close() }

func (p *packer) pack(body []byte) stored {
	s := stored{form: formPlain, data: body, length: len(body), sum: sha256.Sum256(body)}
	if len(body) < packFrom {
		return s
	}
	if small := p.enc.EncodeAll(body, make([]byte, 0, len(body)/4)); len(small) < len(body) {
		s.form, s.data = formZstd, small
	}
	return s
}

// unpack returns the body, or why it is not the one that was written.
func (p *packer) unpack(s stored) ([]byte, error) {
	body := s.data
	switch s.form {
	case formPlain:
	case formZstd:
		if s.length < 0 || s.length > MaxBody {
			return nil, fmt.Errorf("its length is said to be %d", s.length)
		}
		var err error
		if body, err = p.dec.DecodeAll(s.data, make([]byte, 0, s.length)); err != nil {
			return nil, fmt.Errorf("cannot be decompressed: %w", err)
		}
	default:
		return nil, fmt.Errorf("its form %d is unknown", s.form)
	}
	if sha256.Sum256(body) != s.sum {
		return nil, errors.New("its SHA-256 is not the one that was recorded")
	}
	return body, nil
}
