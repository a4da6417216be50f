package ruby

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// This file speaks the frames that travel over every socket to a Ruby process:
// two lengths of four bytes, a JSON head and a body of any bytes. The Ruby side
// is worker/channel.rb.

// maxFrame bounds each part of a frame, so that a worker cannot make us allocate
// without end. The largest catalogs seen are below 10 MB.
const maxFrame = 256 << 20

// writeFrame sends a head without a body: nothing that we send needs one.
func writeFrame(w io.Writer, head any) error {
	text, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("encoding a command: %w", err)
	}
	if len(text) > maxFrame {
		return fmt.Errorf("command of %d bytes is longer than %d", len(text), maxFrame)
	}
	frame := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint32(frame, uint32(len(text))) // #nosec G115 -- checked above
	if _, err := w.Write(append(frame, text...)); err != nil {
		return fmt.Errorf("sending a command: %w", err)
	}
	return nil
}

// readFrame returns io.EOF if the other side has closed its end between frames.
func readFrame(r io.Reader) (head, body []byte, err error) {
	var lengths [8]byte
	if _, err := io.ReadFull(r, lengths[:]); err != nil {
		return nil, nil, err
	}
	n, m := binary.BigEndian.Uint32(lengths[:4]), binary.BigEndian.Uint32(lengths[4:])
	if n > maxFrame || m > maxFrame {
		return nil, nil, fmt.Errorf("frame of %d and %d bytes is longer than %d", n, m, maxFrame)
	}
	if head, err = readPart(r, int(n)); err != nil {
		return nil, nil, fmt.Errorf("reading the head of a frame: %w", err)
	}
	if body, err = readPart(r, int(m)); err != nil {
		return nil, nil, fmt.Errorf("reading the body of a frame: %w", err)
	}
	return head, body, nil
}

// trusted is how much is allocated on the word of a length alone; beyond that the
// bytes must have come.
const trusted = 16 << 20

// readPart reads n bytes, and none more.
func readPart(r io.Reader, n int) ([]byte, error) {
	if n <= trusted {
		part := make([]byte, n)
		_, err := io.ReadFull(r, part)
		return part, err
	}
	part := bytes.NewBuffer(make([]byte, 0, trusted))
	if _, err := io.CopyN(part, r, int64(n)); err != nil {
		return nil, err
	}
	return part.Bytes(), nil
}
