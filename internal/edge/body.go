package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// This file holds bodies, of requests that may have to be sent again and of answers that may have to be asked for again. What is
// small stays in memory, the rest goes to unnamed files; both have a bound for the whole edge.

// smallBody is what one body may have of the memory; most catalogs fit.
const smallBody = 256 << 10

var (
	errBodyTooLarge = errors.New("the body is larger than this edge takes")
	errNoRoom       = errors.New("no room for another body")
)

// bodies is the room that all bodies share.
type bodies struct {
	dir                string
	maxMemory, maxDisk int64
	memory, disk       atomic.Int64
	onDisk             atomic.Int64 // bodies since the start
}

// A held body can be read again and again, from the beginning. The zero held is empty.
type held struct {
	room   *bodies
	memory []byte
	file   *os.File
	size   int64  // of all of it
	over   []byte // read after that, when there was no room any more
}

func take(n *atomic.Int64, size, most int64) bool {
	if n.Add(size) <= most {
		return true
	}
	n.Add(-size)
	return false
}

// hold reads at most most bytes. If there are more it returns errBodyTooLarge together with what it has read, so that the caller
// may go on from there; with any other error what was read is returned, too, and the caller releases it.
func (b *bodies) hold(r io.Reader, most int64) (*held, error) {
	h := &held{room: b}
	first := min(smallBody, most)
	if !take(&b.memory, first, b.maxMemory) {
		first = 0
	}
	if first > 0 {
		var buffer bytes.Buffer
		n, err := io.CopyN(&buffer, r, first)
		b.memory.Add(n - first)
		h.memory, h.size = buffer.Bytes(), n
		if errors.Is(err, io.EOF) {
			return h, nil
		}
		if err != nil {
			return h, err
		}
	}
	return h, h.spill(r, most)
}

// spill writes what does not fit into memory to a file without a name, which is gone with the process.
func (h *held) spill(r io.Reader, most int64) error {
	chunk := make([]byte, 64<<10)
	for {
		// One byte more than fits tells that there is more. It is kept, or whoever goes on from here would miss it.
		n, err := r.Read(chunk[:min(int64(len(chunk)), most-h.size+1)])
		if n > 0 {
			before := h.size
			if werr := h.write(chunk[:n]); werr != nil {
				h.over = bytes.Clone(chunk[h.size-before : n])
				return werr
			}
		}
		switch {
		case h.size > most:
			return errBodyTooLarge
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (h *held) write(p []byte) error {
	if !take(&h.room.disk, int64(len(p)), h.room.maxDisk) {
		return errNoRoom
	}
	if h.file == nil {
		f, err := os.CreateTemp(h.room.dir, "body-*")
		if err != nil {
			h.room.disk.Add(-int64(len(p)))
			return fmt.Errorf("%w: %w", errNoRoom, err)
		}
		h.file = f
		h.room.onDisk.Add(1)
		if err := os.Remove(f.Name()); err != nil {
			h.room.disk.Add(-int64(len(p)))
			return err
		}
	}
	n, err := h.file.WriteAt(p, h.size-int64(len(h.memory)))
	h.room.disk.Add(int64(n - len(p)))
	h.size += int64(n)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return nil
}

// reader begins at the first byte.
func (h *held) reader() io.Reader {
	if h == nil || h.size == 0 {
		return bytes.NewReader(nil)
	}
	if h.file == nil {
		return bytes.NewReader(h.memory)
	}
	rest := io.NewSectionReader(h.file, 0, h.size-int64(len(h.memory)))
	return io.MultiReader(bytes.NewReader(h.memory), rest)
}

// release gives the room back. The body must not be read any more.
func (h *held) release() {
	if h == nil || h.room == nil {
		return
	}
	h.room.memory.Add(-int64(len(h.memory)))
	h.room.disk.Add(int64(len(h.memory)) - h.size)
	if h.file != nil {
		_ = h.file.Close() // it has no name: nothing is left of it
	}
	*h = held{}
}
