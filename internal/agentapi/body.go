package agentapi

import (
	"bytes"
	"container/list"
	"net/http"
	"strconv"
	"sync"
)

// This file keeps the bodies of answers that can never change, as they are sent:
// files under the sum of their content, lists under the version of the code they
// describe. Whoever asks has been admitted before, and which file or version his
// question means has been found out again; only the work behind that is saved.

const (
	keptBytes = 32 << 20 // of all bodies together, their keys included
	maxKept   = 512 << 10
)

// A bodyKey says what a body is the answer to.
type bodyKey struct {
	version uint64 // code.Version.Serial; 0 for content
	of      string // content: its sum; otherwise the endpoint's name, its key, its query and the format
	gzip    bool   // the client accepts it
}

// A sentBody is a body as it goes out.
type sentBody struct {
	data []byte
	gzip bool
}

// encodeBody compresses data for those who accept that, unless it does not get
// smaller by a tenth at least.
func (a *API) encodeBody(data []byte, acceptsGzip bool) (sentBody, error) {
	if !acceptsGzip || len(data) < minGzip || compressed(data) {
		return sentBody{data: data}, nil
	}
	var z bytes.Buffer
	if err := a.gzip.compress(&z, bytes.NewReader(data), levelSmall); err != nil {
		return sentBody{}, err
	}
	if z.Len() > len(data)-len(data)/10 {
		return sentBody{data: data}, nil
	}
	return sentBody{data: bytes.Clone(z.Bytes()), gzip: true}, nil
}

// sendBody answers 200 with a body whose Content-Type is set.
func sendBody(w http.ResponseWriter, b sentBody) error {
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	if b.gzip {
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(b.data)))
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(b.data)
	return err
}

// bodies keeps bodies up to a sum of bytes; what nobody asked for longest leaves
// first. The zero value is empty and keeps keptBytes.
type bodies struct {
	mu    sync.Mutex
	size  int
	order list.List // of keptBody, the last asked for in front
	known map[bodyKey]*list.Element
}

type keptBody struct {
	key  bodyKey
	body sentBody
}

// weight is what an entry takes, roughly: its bytes and the map's and list's share.
func (k keptBody) weight() int { return len(k.key.of) + cap(k.body.data) + 200 }

func (b *bodies) get(key bodyKey) (sentBody, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.known[key]
	if !ok {
		return sentBody{}, false
	}
	b.order.MoveToFront(e)
	return e.Value.(keptBody).body, true
}

// put keeps a body, whose bytes nobody may change any more.
func (b *bodies) put(key bodyKey, body sentBody) {
	k := keptBody{key, body}
	if k.weight() > maxKept {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[bodyKey]*list.Element{}
	}
	if _, ok := b.known[key]; ok {
		return // somebody else was as quick
	}
	b.known[key] = b.order.PushFront(k)
	for b.size += k.weight(); b.size > keptBytes; {
		last := b.order.Remove(b.order.Back()).(keptBody)
		delete(b.known, last.key)
		b.size -= last.weight()
	}
}
