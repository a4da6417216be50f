package cluster

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"troupe/internal/journal"
)

// This file lets members prove to each other who has written something that others have carried.

// Sign signs a message with the key by which the other members know this one, and returns its public half, too (PKIX), since records
// name only the sum of it.
func (c *Cluster) Sign(message []byte) (key, signature []byte, err error) {
	own := c.own.Load()
	if own == nil {
		return nil, nil, errors.New("this member has no certificate of a troupe")
	}
	private, ok := own.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("the key of this member is %T, not ECDSA", own.PrivateKey)
	}
	sum := sha256.Sum256(message)
	if signature, err = ecdsa.SignASN1(rand.Reader, private, sum[:]); err != nil {
		return nil, nil, err
	}
	return own.Leaf.RawSubjectPublicKeyInfo, signature, nil
}

// CheckSigned holds that a message was signed by a member, with a key that the records name for it. Unlike on the member port, a
// member of which no key is recorded proves nothing here.
func (c *Cluster) CheckSigned(by journal.Origin, key, signature, message []byte) error {
	name := sha256.Sum256(key)
	c.mu.Lock()
	_, known := c.state.members[by]
	removed, named := c.state.removed[by], c.state.keys[by].has(hex.EncodeToString(name[:]))
	c.mu.Unlock()
	switch {
	case !known:
		return &strangerError{string(by)}
	case removed:
		return fmt.Errorf("member %s was removed from this troupe", by)
	case !named:
		return fmt.Errorf("the key is not one that member %s is known by", by)
	}
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("the key cannot be read: %w", err)
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the key is %T, not ECDSA", public)
	}
	if sum := sha256.Sum256(message); !ecdsa.VerifyASN1(ec, sum[:], signature) {
		return errors.New("the signature is not of this message")
	}
	return nil
}
