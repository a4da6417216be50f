package nats

import (
	"encoding/binary"
	"errors"
	"fmt"

	"troupe/internal/journal"
)

// This file is what travels: a piece of a group of records, signed by the member that wrote them.
//
// A message is, all numbers big endian:
//
//	version   1 byte
//	stream    1 byte
//	first     8 bytes, the number of the first record of the group
//	last      8 bytes
//	part      2 bytes, from 0
//	parts     2 bytes
//	troupe    2 bytes of length, then the bytes
//	origin    the same
//	key       the same, PKIX
//	signature the same, over signPrefix and everything else but the key
//	payload   the rest: the part of what journal.Export writes for the group
const messageVersion = 1

// signPrefix keeps a signature from being good for anything else that members may sign one day.
const signPrefix = "troupe records through NATS\x00"

const (
	partMost    = 256 << 10 // bytes of a payload
	partLeast   = 16 << 10  // a server that takes less is refused
	headerMost  = 4 << 10   // bytes of what is before the payload, with NATS's own header
	messageMost = partMost + headerMost
	groupMost   = 100 << 20 // bytes of a group: what an export may have, which is half full when the largest record comes
	partsMost   = groupMost/partLeast + 1
	fieldMost   = 1 << 10 // bytes of a name, a key, a signature
)

// A message is one of them, without its proof.
type message struct {
	troupe      string
	origin      journal.Origin
	stream      journal.Stream
	first, last uint64
	part, parts int
	payload     []byte
}

// A proof says who has signed a message.
type proof struct {
	key, signature []byte
}

// id is unique to what the message says: the server drops a second one, not one that says more.
func (m *message) id() string {
	return fmt.Sprintf("%s/%s/%d-%d/%d.%d", m.origin, m.stream, m.first, m.last, m.part, m.parts)
}

// header is what comes before the key.
func (m *message) header() []byte {
	b := make([]byte, 0, 32+len(m.troupe)+len(m.origin))
	b = append(b, messageVersion, byte(m.stream))
	b = binary.BigEndian.AppendUint64(b, m.first)
	b = binary.BigEndian.AppendUint64(b, m.last)
	b = binary.BigEndian.AppendUint16(b, uint16(m.part))
	b = binary.BigEndian.AppendUint16(b, uint16(m.parts))
	b = appendField(b, []byte(m.troupe))
	return appendField(b, []byte(m.origin))
}

// signed is what the signature is over.
func (m *message) signed() []byte {
	return append(append([]byte(signPrefix), m.header()...), m.payload...)
}

// encode returns the message as it travels.
func (m *message) encode(p proof) []byte {
	b := appendField(m.header(), p.key)
	b = appendField(b, p.signature)
	return append(b, m.payload...)
}

func appendField(b, field []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
}

var errShort = errors.New("it is cut off")

// decode reads a message. Nobody has checked the proof yet.
func decode(b []byte) (m message, p proof, err error) {
	if len(b) > messageMost {
		return m, p, fmt.Errorf("it has %d bytes, more than %d", len(b), messageMost)
	}
	const fixed = 1 + 1 + 8 + 8 + 2 + 2
	if len(b) < fixed {
		return m, p, errShort
	}
	if b[0] != messageVersion {
		return m, p, fmt.Errorf("its version is %d, and this troupe knows %d: upgrade this member", b[0], messageVersion)
	}
	m.stream = journal.Stream(b[1])
	m.first, m.last = binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint64(b[10:])
	m.part, m.parts = int(binary.BigEndian.Uint16(b[18:])), int(binary.BigEndian.Uint16(b[20:]))
	b = b[fixed:]
	var fields [4][]byte
	for i := range fields {
		if len(b) < 2 {
			return m, p, errShort
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > fieldMost || len(b) < 2+n {
			return m, p, errShort
		}
		fields[i], b = b[2:2+n], b[2+n:]
	}
	m.troupe, m.origin, m.payload = string(fields[0]), journal.Origin(fields[1]), b
	p = proof{key: fields[2], signature: fields[3]}
	switch {
	case m.stream != journal.State && m.stream != journal.Bulk:
		err = fmt.Errorf("its %s is unknown", m.stream)
	case m.first == 0 || m.last < m.first:
		err = fmt.Errorf("it is said to have records %d to %d", m.first, m.last)
	case m.parts == 0 || m.parts > partsMost || m.part >= m.parts:
		err = fmt.Errorf("it is said to be part %d of %d", m.part, m.parts)
	case len(m.payload) == 0 || len(m.payload) > partMost:
		err = fmt.Errorf("its payload has %d bytes", len(m.payload))
	}
	return m, p, err
}

// split cuts a group into messages whose payloads have up to size bytes.
func split(group message, size int) []message {
	body := group.payload
	group.parts = (len(body) + size - 1) / size
	all := make([]message, group.parts)
	for i := range all {
		all[i] = group
		all[i].part, all[i].payload = i, body[i*size:min((i+1)*size, len(body))]
	}
	return all
}

// An assembly puts the parts of one group after the other together. A part that is missing ends its group: what comes next then is a
// gap, and gaps are filled over HTTPS.
type assembly struct {
	group message // its part is the one that comes next
	open  bool
}

// add takes a part and returns the whole group when it was the last one.
func (a *assembly) add(m message) (group []byte, whole bool) {
	if m.part == 0 {
		a.group, a.open = m, true
		a.group.payload = nil
	}
	same := a.open && a.group.first == m.first && a.group.last == m.last && a.group.parts == m.parts
	if same && m.part < a.group.part && m.part > 0 {
		return nil, false // once more, after an acknowledgement that was lost
	}
	if !same || m.part > 0 && m.part != a.group.part || len(a.group.payload)+len(m.payload) > groupMost {
		*a = assembly{}
		return nil, false
	}
	a.group.payload = append(a.group.payload, m.payload...)
	a.group.part = m.part + 1
	if a.group.part < a.group.parts {
		return nil, false
	}
	group = a.group.payload
	*a = assembly{}
	return group, true
}
