package fakeagent

// This file keeps identities in a folder, laid out like an agent's ssldir, for many nodes at once.

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// SSLDir is a folder with certs/NAME.pem and private_keys/NAME.pem. What the server publishes is asked for each time.
type SSLDir string

func (d SSLDir) certificate(name string) string {
	return filepath.Join(string(d), "certs", name+".pem")
}

func (d SSLDir) key(name string) string { return filepath.Join(string(d), "private_keys", name+".pem") }

// Load gives the agent the identity that the folder has of it. It reports false if there is none.
func (d SSLDir) Load(a *Agent) (bool, error) {
	text, err := os.ReadFile(d.certificate(a.certname))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the certificate of %s: %w", a.certname, err)
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return false, fmt.Errorf("read the certificate of %s: %w", a.certname, err)
	}
	if text, err = os.ReadFile(d.key(a.certname)); err != nil {
		return false, fmt.Errorf("read the key of %s: %w", a.certname, err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return false, fmt.Errorf("read the key of %s: %w", a.certname, err)
	}
	if time.Now().After(certs[0].NotAfter) {
		return false, nil
	}
	a.identity.Certificate, a.identity.Key = certs[0], key
	return true, nil
}

// Save writes the agent's certificate and key.
func (d SSLDir) Save(a *Agent) error {
	for _, folder := range []string{"certs", "private_keys"} {
		if err := os.MkdirAll(filepath.Join(string(d), folder), 0o700); err != nil {
			return fmt.Errorf("keep the certificate of %s: %w", a.certname, err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.identity.Key)
	if err != nil {
		return fmt.Errorf("keep the key of %s: %w", a.certname, err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.identity.Certificate.Raw})
	err = os.WriteFile(d.key(a.certname), key, 0o600) // first: a certificate without it would be of no use
	if err == nil {
		err = os.WriteFile(d.certificate(a.certname), cert, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", a.certname, err)
	}
	return nil
}
