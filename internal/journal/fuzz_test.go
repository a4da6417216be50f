package journal

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// This file fuzzes what is read back from a disk.

// A stored body either is the one that was written or is refused, whatever the file says of its form and length.
func FuzzUnpack(f *testing.F) {
	p, err := newPacker()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(p.close)
	body := bytes.Repeat([]byte(`{"name":"agent.example.test"}`), 100)
	packed := p.pack(body)
	f.Add(packed.form, packed.data, packed.length, body)
	f.Add(formPlain, []byte("x"), 1, []byte("x"))
	f.Add(formZstd, []byte("\x28\xb5\x2f\xfd\xa4\xff\xff\xff\xff"), MaxBody, []byte{})
	f.Add(7, []byte{}, -1, []byte{})
	f.Fuzz(func(t *testing.T, form int, data []byte, length int, written []byte) {
		got, err := p.unpack(stored{form: form, data: data, length: length % (1 << 20), sum: sha256.Sum256(written)})
		if err == nil && !bytes.Equal(got, written) {
			t.Errorf("%q came back as %q", written, got)
		}

		again, err := p.unpack(p.pack(written))
		if err != nil || !bytes.Equal(again, written) {
			t.Errorf("%q was packed and came back as %q (%v)", written, again, err)
		}
	})
}

// Two records that differ have different hashes: no field can borrow bytes from its neighbour.
func FuzzChain(f *testing.F) {
	f.Add("facts", "a.example.test", "facts", "a.example.tes")
	f.Add("a", "bc", "ab", "c")
	f.Fuzz(func(t *testing.T, kind, key, otherKind, otherKey string) {
		one, two := Record{Origin: "o", Kind: kind, Key: key}, Record{Origin: "o", Kind: otherKind, Key: otherKey}
		same := kind == otherKind && key == otherKey
		if hashes := one.chain([32]byte{}, 0, [32]byte{}) == two.chain([32]byte{}, 0, [32]byte{}); hashes != same {
			t.Errorf("%q %q and %q %q: equal hashes %t", kind, key, otherKind, otherKey, hashes)
		}
	})
}
