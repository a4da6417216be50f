// Package vault keeps private keys sealed on the disk: AES-256-GCM under a key of this member, which lies in a file of its own
// or comes from systemd, so that a copy of the data folder alone signs nothing.
//
// A key is staged first and counts after [Vault.Settle]; between the two stands the journal's record of what it is for.
package vault

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"troupe/internal/atomicfile"
	"troupe/internal/failpoint"
)

const (
	sealKeyName    = "seal.key"
	sealCredential = "troupe-seal" // name of the systemd credential
	sealedType     = "TROUPE SEALED KEY"
	sealedSuffix   = ".sealed"
	stagedSuffix   = ".new" // sealed, but not yet in the journal
)

// A Vault seals keys in a folder. Keys are named by an id, such as their subject key identifier, which is hexadecimal in the
// names of files.
type Vault struct {
	dir        string
	sealKey    string // where the sealing key lies
	ownSealKey bool   // it was made here, and may be replaced here

	mu   sync.Mutex // one change of keys or of their seals at a time
	aead cipher.AEAD

	afterStep func() // of Reseal, in tests
}

// Open opens the vault below dir, and makes it and its sealing key when there is none. sealKey is the file with the sealing
// key; "" means the systemd credential troupe-seal, else seal.key in dir.
func Open(dir, sealKey string) (*Vault, error) {
	v := &Vault{dir: filepath.Join(dir, "keys"), sealKey: sealKey}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder of sealed keys: %w", err)
	}
	if v.sealKey == "" {
		v.sealKey = defaultSealKey(dir)
	}
	v.ownSealKey = v.sealKey == filepath.Join(dir, sealKeyName)
	key, err := readSealKey(v.sealKey)
	if errors.Is(err, fs.ErrNotExist) && v.ownSealKey {
		key, err = v.createSealKey()
	}
	if err := v.use(key, err); err != nil {
		return nil, err
	}
	if err := v.promote(); err != nil {
		return nil, fmt.Errorf("finish the change of the sealing key: %w", err)
	}
	return v, nil
}

// Look opens the vault below dir to read keys, and makes neither the folder nor the sealing key.
func Look(dir, sealKey string) (*Vault, error) {
	v := &Vault{dir: filepath.Join(dir, "keys"), sealKey: sealKey}
	if v.sealKey == "" {
		v.sealKey = defaultSealKey(dir)
	}
	key, err := readSealKey(v.sealKey)
	return v, v.use(key, err)
}

// use makes key, or the error of reading it, the sealing key.
func (v *Vault) use(key []byte, err error) error {
	if err != nil {
		return fmt.Errorf("key that seals other keys: %w", err)
	}
	v.aead, err = newAEAD(key)
	return err
}

func defaultSealKey(dir string) string {
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" {
		path := filepath.Join(credentials, sealCredential)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return filepath.Join(dir, sealKeyName)
}

func readSealKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("%s must hold 64 hexadecimal digits: make one with openssl rand -hex 32", path)
	}
	return key, nil
}

// createSealKey makes the member's own key, unless sealed keys exist that a new
// one could never open.
func (v *Vault) createSealKey() ([]byte, error) {
	sealed, err := v.Sealed()
	if err != nil {
		return nil, err
	}
	if len(sealed) > 0 {
		return nil, fmt.Errorf("%s is missing, but %s is sealed with it: restore it from a backup", v.sealKey, sealed[0])
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, atomicfile.Write(v.sealKey, []byte(hex.EncodeToString(key)+"\n"), 0o600)
}

// Sealed returns the files of the keys that count.
func (v *Vault) Sealed() ([]string, error) {
	return filepath.Glob(filepath.Join(v.dir, "*"+sealedSuffix))
}

// Exists reports whether a vault below dir holds any key. It opens nothing.
func Exists(dir string) bool {
	sealed, err := (&Vault{dir: filepath.Join(dir, "keys")}).Sealed()
	return err == nil && len(sealed) > 0
}

func (v *Vault) path(id []byte, suffix string) string {
	return filepath.Join(v.dir, hex.EncodeToString(id)+suffix)
}

// Stage writes a sealed key that counts only after Settle.
func (v *Vault) Stage(id, plain []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	text, err := seal(v.aead, id, plain)
	if err != nil {
		return err
	}
	return atomicfile.Write(v.path(id, stagedSuffix), text, 0o600)
}

// Settle makes a staged key the one in use. It may be repeated.
func (v *Vault) Settle(id []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	failpoint.Here("vault.staged")
	err := os.Rename(v.path(id, stagedSuffix), v.path(id, sealedSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncFolder(v.dir)
}

// Open unseals a key. The error is fs.ErrNotExist when this member does not hold it.
func (v *Vault) Open(id []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return unseal(v.aead, v.path(id, sealedSuffix), id, v.sealKey)
}
