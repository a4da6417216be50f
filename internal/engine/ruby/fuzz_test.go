package ruby

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

// This file fuzzes what a worker sends: code of an environment has the worker's end of the channel in its process.

// A frame is read back as it was written, or refused.
func FuzzFrame(f *testing.F) {
	var good bytes.Buffer
	if err := writeFrame(&good, event{Event: "done", CatalogUUID: "x"}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 1, '{', '}', 'x'})
	f.Add([]byte{0x0f, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		head, body, err := readFrame(bytes.NewReader(sent))
		if err != nil {
			if len(sent) == 0 && !errors.Is(err, io.EOF) {
				t.Errorf("a channel that was closed between frames: %v", err)
			}
			return
		}
		if got := 8 + len(head) + len(body); got > len(sent) {
			t.Fatalf("%d bytes were read from %d", got, len(sent))
		}
		e, err := parseEvent(head)
		if err != nil {
			return
		}
		if e.ending() == "" {
			t.Error("an ending without words")
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", head, err)
		}
		if again, err := parseEvent(text); err != nil || again.Event != e.Event || again.Message != e.Message {
			t.Errorf("%q came back as %+v (%v)", head, again, err)
		}
	})
}

// A worker that says that much follows, and sends nothing, costs what is allocated on its word alone.
func TestAFrameThatLiesAboutItsLengthTakesLittleMemory(t *testing.T) {
	lie := []byte{0x0f, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, '{'}
	got := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, _, err := readFrame(bytes.NewReader(lie)); err == nil {
				b.Fatal("a frame without its bytes was read")
			}
		}
	})
	if most := int64(2 * trusted); got.AllocedBytesPerOp() > most {
		t.Errorf("%d bytes were allocated, want at most %d", got.AllocedBytesPerOp(), most)
	}
}
