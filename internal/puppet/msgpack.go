package puppet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// This file converts between MessagePack and JSON, value by value, so that the
// order of keys survives.

// MsgpackToJSON converts one MessagePack value to JSON. Keys that are not
// strings become strings, as Ruby's to_json has it; bytes that are not UTF-8
// become U+FFFD; extension types are refused.
func MsgpackToJSON(b []byte) ([]byte, error) {
	r := bytes.NewReader(b)
	m := &msgpackReader{dec: msgpack.NewDecoder(r), left: r}
	out, err := m.value(make([]byte, 0, len(b)+len(b)/4), 0)
	if err != nil {
		return nil, err
	}
	if r.Len() > 0 {
		return nil, fmt.Errorf("%d bytes follow the value", r.Len())
	}
	return out, nil
}

type msgpackReader struct {
	dec  *msgpack.Decoder
	left *bytes.Reader
}

// value appends the next value as JSON; depth counts the arrays and maps around it.
func (m *msgpackReader) value(out []byte, depth int) ([]byte, error) {
	code, err := m.dec.PeekCode()
	if err != nil {
		return nil, endOf(err)
	}
	switch {
	case code == msgpcode.Nil:
		return append(out, "null"...), endOf(m.dec.DecodeNil())
	case code == msgpcode.True || code == msgpcode.False:
		v, err := m.dec.DecodeBool()
		return strconv.AppendBool(out, v), endOf(err)
	case code == msgpcode.Uint64:
		v, err := m.dec.DecodeUint64()
		return strconv.AppendUint(out, v, 10), endOf(err)
	case msgpcode.IsFixedNum(code), code >= msgpcode.Uint8 && code <= msgpcode.Int64:
		v, err := m.dec.DecodeInt64()
		return strconv.AppendInt(out, v, 10), endOf(err)
	case code == msgpcode.Float || code == msgpcode.Double:
		v, err := m.dec.DecodeFloat64()
		if err != nil {
			return nil, endOf(err)
		}
		return appendFloat(out, v)
	case msgpcode.IsString(code), msgpcode.IsBin(code):
		v, err := m.text()
		return appendText(out, v), err
	case msgpcode.IsFixedArray(code), code == msgpcode.Array16, code == msgpcode.Array32:
		return m.array(out, depth)
	case msgpcode.IsFixedMap(code), code == msgpcode.Map16, code == msgpcode.Map32:
		return m.object(out, depth)
	}
	return nil, fmt.Errorf("a value of type 0x%02x has no JSON form", code)
}

// text reads a string or bytes. The length is compared with what is there
// before anything is allocated.
func (m *msgpackReader) text() ([]byte, error) {
	n, err := m.dec.DecodeBytesLen()
	if err != nil {
		return nil, endOf(err)
	}
	if n < 0 || n > m.left.Len() {
		return nil, io.ErrUnexpectedEOF
	}
	v := make([]byte, n)
	return v, endOf(m.dec.ReadFull(v))
}

func (m *msgpackReader) array(out []byte, depth int) ([]byte, error) {
	n, err := m.dec.DecodeArrayLen()
	if err != nil {
		return nil, endOf(err)
	}
	if depth >= maxDepth {
		return nil, errTooDeep
	}
	out = append(out, '[')
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = m.value(out, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

func (m *msgpackReader) object(out []byte, depth int) ([]byte, error) {
	n, err := m.dec.DecodeMapLen()
	if err != nil {
		return nil, endOf(err)
	}
	if depth >= maxDepth {
		return nil, errTooDeep
	}
	out = append(out, '{')
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		start := len(out)
		if out, err = m.value(out, depth+1); err != nil {
			return nil, err
		}
		switch out[start] {
		case '"':
		case '{', '[':
			return nil, errors.New("a key is an array or a map")
		default:
			out = append(slices.Insert(out, start, '"'), '"')
		}
		out = append(out, ':')
		if out, err = m.value(out, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// endOf gives the end of the input in the middle of a value its right name.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFloat keeps a float a float: 1.0 stays 1.0.
func appendFloat(out []byte, v float64) ([]byte, error) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, fmt.Errorf("%v has no JSON form", v)
	}
	start := len(out)
	out = strconv.AppendFloat(out, v, 'g', -1, 64)
	if !bytes.ContainsAny(out[start:], ".e") {
		out = append(out, ".0"...)
	}
	return out, nil
}

// appendText appends a JSON string; unlike json.Marshal it leaves <, > and & alone.
func appendText(out, v []byte) []byte {
	out = append(out, '"')
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, `\n`...)
		case r < ' ':
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = utf8.AppendRune(out, r)
		}
		v = v[n:]
	}
	return append(out, '"')
}

// JSONToMsgpack converts one JSON value to MessagePack.
func JSONToMsgpack(b []byte) ([]byte, error) {
	if err := checkDepth(b); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	p := &packer{json: d, out: make([]byte, 0, len(b))}
	p.enc = msgpack.NewEncoder(p)
	p.enc.UseCompactInts(true)
	if err := p.value(); err != nil {
		return nil, endOf(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the value")
	}
	return p.out, nil
}

// A packer writes what it reads from json; enc writes to the packer itself.
type packer struct {
	json *json.Decoder
	enc  *msgpack.Encoder
	out  []byte
}

// Write appends to the output.
func (p *packer) Write(b []byte) (int, error) {
	p.out = append(p.out, b...)
	return len(b), nil
}

func (p *packer) value() error {
	t, err := p.json.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case bool:
		return p.enc.EncodeBool(t)
	case string:
		return p.enc.EncodeString(t)
	case json.Number:
		return p.number(t)
	case json.Delim:
		if t == '[' {
			return p.many(p.enc.EncodeArrayLen, 1)
		}
		return p.many(p.enc.EncodeMapLen, 2)
	}
	return p.enc.EncodeNil()
}

// many packs the members of an array (one value each) or an object (two) up to
// the closing bracket. How many there are is known only then, so the head is
// put in front last.
func (p *packer) many(head func(int) error, each int) error {
	start, n := len(p.out), 0
	for ; p.json.More(); n++ {
		for range each {
			if err := p.value(); err != nil {
				return err
			}
		}
	}
	if _, err := p.json.Token(); err != nil {
		return err
	}

	end := len(p.out)
	if err := head(n); err != nil {
		return err
	}
	front := slices.Clone(p.out[end:])
	p.out = slices.Insert(p.out[:end], start, front...)
	return nil
}

func (p *packer) number(n json.Number) error {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return p.enc.EncodeInt(i)
	}
	if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return p.enc.EncodeUint(u)
	}
	f, err := n.Float64()
	if err != nil {
		return err
	}
	return p.enc.EncodeFloat64(f)
}
