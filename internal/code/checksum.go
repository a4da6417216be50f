package code

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	stdhash "hash"
	"io"
	"strings"
	"sync"
	"time"
)

// This file computes the checksums that agents ask for
// (puppet/util/checksums.rb).

// liteSize is how much of a file the lite checksums cover.
const liteSize = 512

// maxChecksums bounds what is remembered; then everything is forgotten and
// computed again.
const maxChecksums = 200_000

// checksums remembers digests of blobs. A blob never changes, so neither do they.
type checksums struct {
	store *snapshots

	mu    sync.Mutex
	known map[checksumKey]string
}

type checksumKey struct {
	sum       hash
	algorithm string
}

func newChecksums(store *snapshots) *checksums {
	return &checksums{store: store, known: map[checksumKey]string{}}
}

// of returns the digest of a file of a version. SHA-256 is its name.
func (c *checksums) of(n *node, algorithm string) (string, error) {
	if algorithm == "sha256" {
		return n.sum.String(), nil
	}
	key := checksumKey{n.sum, algorithm}
	c.mu.Lock()
	sum, ok := c.known[key]
	c.mu.Unlock()
	if ok {
		return sum, nil
	}

	f, err := c.store.open(n)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if sum, err = digest(f, algorithm); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxChecksums {
		clear(c.known)
	}
	c.known[key] = sum
	return sum, nil
}

// newDigest returns nil for names that are no digest. MD5 and SHA-1 are here
// because agents ask for them; they protect nothing.
func newDigest(algorithm string) stdhash.Hash {
	switch strings.TrimSuffix(algorithm, "lite") {
	case "md5":
		return md5.New()
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	}
	switch algorithm { // these have no lite form
	case "sha224":
		return sha256.New224()
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// digest reads r with the algorithm.
func digest(r io.Reader, algorithm string) (string, error) {
	h := newDigest(algorithm)
	if h == nil {
		return "", fmt.Errorf("unknown digest %q", algorithm)
	}
	if strings.HasSuffix(algorithm, "lite") {
		r = io.LimitReader(r, liteSize)
	}
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("computing %s: %w", algorithm, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// knownChecksumType reports whether agents may ask for it.
func knownChecksumType(t string) bool {
	return t == "mtime" || t == "ctime" || t == "none" || newDigest(t) != nil
}

// rubyTime is Ruby's Time#to_s: local, with the zone's offset.
func rubyTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 -0700") }
