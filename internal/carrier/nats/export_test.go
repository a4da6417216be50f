package nats

import (
	"testing"

	"troupe/internal/journal"
)

// A Forgery is a message that somebody makes by hand.
type Forgery struct {
	Troupe      string
	Origin      journal.Origin
	Stream      journal.Stream
	First, Last uint64
	Payload     []byte
	Sign        func([]byte) (key, signature []byte, err error) // nil signs not
}

// Bytes returns it as it travels.
func (f Forgery) Bytes(t *testing.T) []byte {
	t.Helper()
	m := message{troupe: f.Troupe, origin: f.Origin, stream: f.Stream, first: f.First, last: f.Last, parts: 1, payload: f.Payload}
	var p proof
	if f.Sign != nil {
		var err error
		if p.key, p.signature, err = f.Sign(m.signed()); err != nil {
			t.Fatal(err)
		}
	}
	return m.encode(p)
}
