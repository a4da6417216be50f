package ca

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"troupe/internal/vault"
)

// This file gives keys to other members and takes them. They travel inside connections between members and are sealed where they
// arrive; they are in no record.

// Keys returns the keys of the authority that this member holds, PEM by key id in hex, for another member that is to sign, too.
// What was retired is not handed on.
func (a *Authority) Keys() (map[string][]byte, error) {
	keys := map[string][]byte{}
	for _, i := range a.trust.Load().all {
		for _, cert := range i.bundle {
			plain, err := a.vault.Open(cert.SubjectKeyId)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			keys[hex.EncodeToString(cert.SubjectKeyId)] = plain
		}
	}
	return keys, nil
}

// MissingKeys returns the ids of the issuers that count and whose key this member does not hold.
func (a *Authority) MissingKeys() []string {
	var ids []string
	for _, i := range a.trust.Load().all {
		if i.key == nil {
			ids = append(ids, i.id)
		}
	}
	return ids
}

// AddKeys takes keys of issuers from another member. What is not the key of an issuer that counts is refused.
func (a *Authority) AddKeys(ctx context.Context, keys map[string][]byte) error {
	t := a.trust.Load()
	for id, plain := range keys {
		i := t.by(id)
		if i == nil || i.key != nil {
			continue // of a root, or known
		}
		key, err := parseKey(plain)
		if err != nil {
			return err
		}
		if !samePublicKey(key.Public(), i.cert.PublicKey) {
			return fmt.Errorf("the key that came is not that of issuer %s", i.cert.Subject.CommonName)
		}
		if err := errors.Join(a.vault.Stage(i.cert.SubjectKeyId, plain), a.vault.Settle(i.cert.SubjectKeyId)); err != nil {
			return fmt.Errorf("seal key: %w", err)
		}
	}
	if err := a.reloadTrust(ctx); err != nil {
		return err
	}
	return a.advance(ctx)
}

func (a *Authority) reloadTrust(ctx context.Context) error {
	a.db.mu.Lock()
	defer a.db.mu.Unlock()
	a.generation++
	a.crl.Store(nil)
	_, err := a.loadTrust(ctx)
	return err
}

// Reseal seals the keys that this member holds under another sealing key; see [vault.Vault.Reseal].
func (a *Authority) Reseal(keyFile string) (pending bool, err error) { return a.vault.Reseal(keyFile) }

// TakeKeys seals keys that another member gave, below the folder of an authority that is not open. They count when the journal
// tells what they are for.
func TakeKeys(dir, sealKey string, keys map[string][]byte) error {
	v, err := vault.Open(dir, sealKey)
	if err != nil {
		return err
	}
	for id, plain := range keys {
		raw, err := checkKey(id, plain)
		if err != nil {
			return err
		}
		if err := v.Stage(raw, plain); err != nil {
			return fmt.Errorf("seal key: %w", err)
		}
	}
	return nil
}

// CheckKeys says whether keys are such as [Authority.Keys] returns.
func CheckKeys(keys map[string][]byte) error {
	for id, plain := range keys {
		if _, err := checkKey(id, plain); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(id string, plain []byte) (raw []byte, err error) {
	if raw, err = hex.DecodeString(id); err != nil {
		return nil, fmt.Errorf("id of a key: %w", err)
	}
	_, err = parseKey(plain)
	return raw, err
}
