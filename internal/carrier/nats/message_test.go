package nats

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"troupe/internal/journal"
)

func genMessage(t *rapid.T) message {
	first := rapid.Uint64Range(1, 1<<63).Draw(t, "first")
	parts := rapid.IntRange(1, partsMost).Draw(t, "parts")
	return message{
		troupe: rapid.StringN(0, 20, -1).Draw(t, "troupe"), origin: journal.Origin(rapid.StringN(0, 20, -1).Draw(t, "origin")),
		stream: rapid.SampledFrom([]journal.Stream{journal.State, journal.Bulk}).Draw(t, "stream"),
		first:  first, last: first + rapid.Uint64Range(0, 1000).Draw(t, "more"), parts: parts, part: rapid.IntRange(0, parts-1).Draw(t, "part"),
		payload: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "payload"),
	}
}

func TestAMessageIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := genMessage(t)
		p := proof{rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "signature")}
		got, proof, err := decode(m.encode(p))
		if err != nil {
			t.Fatal(err)
		}
		if got.id() != m.id() || got.troupe != m.troupe || !bytes.Equal(got.payload, m.payload) || !bytes.Equal(got.signed(), m.signed()) {
			t.Fatalf("got %+v, want %+v", got, m)
		}
		if !bytes.Equal(proof.key, p.key) || !bytes.Equal(proof.signature, p.signature) {
			t.Fatalf("got %x, want %x", proof, p)
		}
	})
}

// Any two messages that say different things are signed differently: else the proof of one would be good for the other.
func TestASignatureIsOfOneMessageOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genMessage(t), genMessage(t)
		same := a.id() == b.id() && a.troupe == b.troupe && bytes.Equal(a.payload, b.payload)
		if !same && bytes.Equal(a.signed(), b.signed()) {
			t.Fatalf("%+v and %+v", a, b)
		}
		c := a
		c.payload = append(bytes.Clone(a.payload), 0)
		if bytes.Equal(a.signed(), c.signed()) {
			t.Fatal("a longer payload is signed the same")
		}
	})
}

func TestAGroupIsPutTogetherFromItsParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 1, 400).Draw(t, "body")
		group := message{troupe: "t", origin: "o", stream: journal.Bulk, first: 5, last: 9, payload: body}
		all := split(group, rapid.IntRange(1, 100).Draw(t, "size"))
		var a assembly
		if lost := rapid.IntRange(-1, len(all)-1).Draw(t, "lost"); lost >= 0 { // the same once before, cut off or with a hole
			for i, m := range all {
				if i == lost {
					continue
				}
				if _, whole := a.add(m); whole {
					t.Fatal("a group without one of its parts is whole")
				}
			}
		}
		for i, m := range all {
			for range rapid.IntRange(1, 2).Draw(t, "times") {
				got, whole := a.add(m)
				if whole != (i == len(all)-1) {
					t.Fatalf("part %d of %d: whole is %t", m.part, m.parts, whole)
				}
				if whole {
					if !bytes.Equal(got, body) {
						t.Fatalf("got %q, want %q", got, body)
					}
					return
				}
			}
		}
	})
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	good := message{troupe: "t", origin: "o", stream: journal.State, first: 1, last: 1, parts: 1, payload: []byte("x")}
	for name, change := range map[string]func(*message){
		"no number":        func(m *message) { m.first, m.last = 0, 0 },
		"backwards":        func(m *message) { m.first = 2 },
		"no parts":         func(m *message) { m.parts = 0 },
		"too many parts":   func(m *message) { m.parts = partsMost + 1 },
		"a part behind":    func(m *message) { m.part = 1 },
		"an unknown chain": func(m *message) { m.stream = 3 },
		"nothing in it":    func(m *message) { m.payload = nil },
		"a long name":      func(m *message) { m.origin = journal.Origin(make([]byte, fieldMost+1)) },
		"too much in it":   func(m *message) { m.payload = make([]byte, partMost+1) },
		"far too much":     func(m *message) { m.payload = make([]byte, messageMost+1) },
	} {
		m := good
		change(&m)
		if _, _, err := decode(m.encode(proof{})); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	whole := good.encode(proof{[]byte("key"), []byte("signature")})
	if _, _, err := decode(whole); err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) - 1 {
		if _, _, err := decode(whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(whole))
		}
	}
}

func FuzzMessage(f *testing.F) {
	m := message{troupe: "t", origin: "o", stream: journal.State, first: 1, last: 3, parts: 2, payload: []byte("x")}
	f.Add(m.encode(proof{[]byte("key"), []byte("signature")}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, p, err := decode(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.encode(p), b) {
			t.Errorf("%x is read as %+v, which is written otherwise", b, m)
		}
		var a assembly
		if group, whole := a.add(m); whole && !bytes.Equal(group, m.payload) {
			t.Errorf("%x: a group of one part is not its payload", b)
		}
	})
}
