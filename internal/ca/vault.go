package ca

import (
	"crypto"
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
	"strings"

	"troupe/internal/fault"
)

// This file keeps private keys of certificate authorities sealed on the disk:
// AES-256-GCM under a key of this member, which lies in a file of its own or
// comes from systemd, so that a copy of the data folder alone signs nothing.

const (
	sealKeyName    = "seal.key"
	sealCredential = "troupe-seal" // name of the systemd credential
	sealedType     = "TROUPE SEALED KEY"
	sealedSuffix   = ".sealed"
	stagedSuffix   = ".new" // sealed, but not yet in the journal
)

// A vault seals keys in a folder. Keys are named by their subject key identifier in hex.
type vault struct {
	dir     string
	aead    cipher.AEAD
	sealKey string // where the sealing key lies, for messages
}

func openVault(dir, sealKey string) (*vault, error) {
	v := &vault{dir: filepath.Join(dir, "keys"), sealKey: sealKey}
	if v.sealKey == "" {
		v.sealKey = defaultSealKey(dir)
	}
	key, err := readSealKey(v.sealKey)
	if errors.Is(err, fs.ErrNotExist) && v.sealKey == filepath.Join(dir, sealKeyName) {
		key, err = v.createSealKey()
	}
	if err != nil {
		return nil, fmt.Errorf("key that seals the certificate authority: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	v.aead, err = cipher.NewGCM(block)
	return v, err
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
func (v *vault) createSealKey() ([]byte, error) {
	sealed, err := v.sealed()
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
	return key, writeFile(v.sealKey, []byte(hex.EncodeToString(key)+"\n"), 0o600)
}

func (v *vault) sealed() ([]string, error) {
	return filepath.Glob(filepath.Join(v.dir, "*"+sealedSuffix))
}

// refuseOrphans keeps a lost journal from ending in a second certificate
// authority beside the first.
func (v *vault) refuseOrphans() error {
	sealed, err := v.sealed()
	if err != nil || len(sealed) == 0 {
		return err
	}
	return fault.New(fault.Conflict, "%s holds the key of a certificate authority that the journal does not know: "+
		"restore the journal from a backup, or move this file away to begin with a new authority", sealed[0])
}

func (v *vault) path(id []byte, suffix string) string {
	return filepath.Join(v.dir, hex.EncodeToString(id)+suffix)
}

// stage writes a sealed key that counts only after settle. Between the two stands
// the journal's record of the authority.
func (v *vault) stage(id []byte, key crypto.Signer) error {
	plain, err := encodeKey(key)
	if err != nil {
		return err
	}
	nonce := make([]byte, v.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{
		Type:    sealedType,
		Headers: map[string]string{"Cipher": "AES-256-GCM", "Key-Id": hex.EncodeToString(id)},
		Bytes:   v.aead.Seal(nonce, nonce, plain, id),
	})
	return writeFile(v.path(id, stagedSuffix), text, 0o600)
}

// settle makes a staged key the one in use. It may be repeated.
func (v *vault) settle(id []byte) error {
	err := os.Rename(v.path(id, stagedSuffix), v.path(id, sealedSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncFolder(v.dir)
}

// open unseals a key. The error is fs.ErrNotExist when this member does not hold it.
func (v *vault) open(id []byte) (crypto.Signer, error) {
	path := v.path(id, sealedSuffix)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != sealedType || len(block.Bytes) < v.aead.NonceSize() {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup", path)
	}
	nonce, sealed := block.Bytes[:v.aead.NonceSize()], block.Bytes[v.aead.NonceSize():]
	plain, err := v.aead.Open(nil, nonce, sealed, id)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened with %s: it was sealed with another key, or one of the two is damaged", path, v.sealKey)
	}
	return parseKey(plain)
}
