package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/atomicfile"
)

// This file changes the key that seals the others. Each sealed key first exists twice, once under each sealing key; then the new
// sealing key counts; then the new copies take the place of the old ones. Whoever opens the vault with either key, at any moment
// between, finds every key:
//
//	keys/ID.sealed            under the old sealing key
//	keys/ID.sealed.resealed   the same key under the new one
//	seal.key.next             the new one, renamed to seal.key when all copies are there
const (
	resealedSuffix = ".resealed"
	nextSuffix     = ".next"
)

// Reseal seals every key anew. Without a file a new sealing key is made in the place of seal.key, and counts at once. With one the
// file holds the new sealing key (64 hexadecimal digits), which counts when the vault is opened with it: after a restart, with
// systemd's credential replaced. pending says which of the two it was.
func (v *Vault) Reseal(keyFile string) (pending bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if keyFile != "" {
		key, err := readSealKey(keyFile)
		if err != nil {
			return false, err
		}
		_, err = v.copyUnder(key)
		return true, err
	}
	if !v.ownSealKey {
		return false, fmt.Errorf("the sealing key comes from outside, from %s: make a new one there (openssl rand -hex 32) and name its file", v.sealKey)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return false, err
	}
	next := v.sealKey + nextSuffix
	if err := atomicfile.Write(next, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return false, err
	}
	v.step()
	aead, err := v.copyUnder(key)
	if err != nil {
		return false, err
	}
	if err := os.Rename(next, v.sealKey); err != nil {
		return false, err
	}
	v.step()
	if err := atomicfile.SyncFolder(filepath.Dir(v.sealKey)); err != nil {
		return false, err
	}
	v.aead = aead
	return false, v.promote()
}

// step is where tests end the process.
func (v *Vault) step() {
	if v.afterStep != nil {
		v.afterStep()
	}
}

// files are the sealed keys, those that do not count yet among them.
func (v *Vault) files(suffix string) ([]string, error) {
	var all []string
	for _, s := range []string{sealedSuffix, stagedSuffix} {
		some, err := filepath.Glob(filepath.Join(v.dir, "*"+s+suffix))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.Sort(all)
	return all, nil
}

// copyUnder seals every key under another sealing key, beside the one that counts.
func (v *Vault) copyUnder(key []byte) (cipher.AEAD, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	files, err := v.files("")
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		id, err := idOf(path)
		if err != nil {
			return nil, err
		}
		plain, err := unseal(v.aead, path, id, v.sealKey)
		if err != nil {
			return nil, err
		}
		text, err := seal(aead, id, plain)
		if err != nil {
			return nil, err
		}
		if err := atomicfile.Write(path+resealedSuffix, text, 0o600); err != nil {
			return nil, err
		}
		v.step()
	}
	return aead, nil
}

// promote puts copies that the sealing key opens in the place of those that it does not. A copy that it does not open waits for
// another sealing key, unless that was to be made here and never counted.
func (v *Vault) promote() error {
	cutOff := false
	if v.ownSealKey {
		err := os.Remove(v.sealKey + nextSuffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		cutOff = err == nil
	}
	copies, err := v.files(resealedSuffix)
	if err != nil {
		return err
	}
	for _, path := range copies {
		counts := strings.TrimSuffix(path, resealedSuffix)
		id, err := idOf(counts)
		if err != nil {
			return err
		}
		if _, err := unseal(v.aead, path, id, v.sealKey); err != nil {
			if !cutOff {
				continue
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		if _, err := os.Stat(counts); errors.Is(err, fs.ErrNotExist) {
			// Its key has been settled since, under the old sealing key, and Open will tell.
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		if err := os.Rename(path, counts); err != nil {
			return err
		}
		v.step()
	}
	if len(copies) == 0 {
		return nil
	}
	return atomicfile.SyncFolder(v.dir)
}

// idOf reads the id in the name of a sealed key.
func idOf(path string) ([]byte, error) {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	id, err := hex.DecodeString(name)
	if err != nil {
		return nil, fmt.Errorf("%s is no name of a sealed key: move the file away", path)
	}
	return id, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func seal(aead cipher.AEAD, id, plain []byte) ([]byte, error) {
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{
		Type:    sealedType,
		Headers: map[string]string{"Cipher": "AES-256-GCM", "Key-Id": hex.EncodeToString(id)},
		Bytes:   aead.Seal(nonce, nonce, plain, id),
	}), nil
}

func unseal(aead cipher.AEAD, path string, id []byte, sealKey string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != sealedType || len(block.Bytes) < aead.NonceSize() {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup", path)
	}
	nonce, sealed := block.Bytes[:aead.NonceSize()], block.Bytes[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, sealed, id)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened with %s: it was sealed with another key, or one of the two is damaged: restore both from one backup "+
			"(if it was sealed after `troupe ca reseal --key-file`, go back to the sealing key of then and run that again)", path, sealKey)
	}
	return plain, nil
}
