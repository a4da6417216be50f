package backup

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"troupe/internal/fault"
	"troupe/internal/secretfile"
)

// This file is what a backup is locked with: a passphrase, or recipients whose identities are kept elsewhere.

// Locks lock a backup: either Passphrase or Recipients.
type Locks struct {
	Passphrase string
	Recipients []string // age1…

	work int // of scrypt, for tests; 0 means that of age
}

// Keys open one.
type Keys struct {
	Passphrase string
	Identities string // text of a file of identities
}

const (
	minPassphrase = 12
	maxWork       = 22
)

func (l Locks) recipients() ([]age.Recipient, error) {
	switch {
	case l.Passphrase != "" && len(l.Recipients) > 0:
		return nil, fault.New(fault.Invalid, "a backup is locked with a passphrase or for recipients, not with both")
	case l.Passphrase != "":
		if len(l.Passphrase) < minPassphrase {
			return nil, fault.New(fault.Invalid, "the passphrase has %d characters: the key of the CA is worth at least %d", len(l.Passphrase), minPassphrase)
		}
		r, err := age.NewScryptRecipient(l.Passphrase)
		if err != nil {
			return nil, err
		}
		if l.work > 0 {
			r.SetWorkFactor(l.work)
		}
		return []age.Recipient{r}, nil
	case len(l.Recipients) > 0:
		return parseRecipients(l.Recipients)
	}
	return nil, fault.New(fault.Invalid, "a backup holds the keys of the CA and is always encrypted: give --passphrase-file FILE, the variable TROUPE_BACKUP_PASSPHRASE, or --recipient age1…")
}

func parseRecipients(texts []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for i, text := range texts {
		some, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(some) != 1 {
			// It is not quoted: it may be an identity, which is a secret.
			return nil, fault.New(fault.Invalid, "recipient %d is no recipient: age-keygen prints one, age1…", i+1)
		}
		all = append(all, some[0])
	}
	return all, nil
}

func (l Locks) describe() []string {
	if l.Passphrase != "" {
		return []string{"passphrase"}
	}
	return l.Recipients
}

// Check says whether a backup can be locked with l.
func (l Locks) Check() error {
	_, err := l.recipients()
	return err
}

func (k Keys) identities() ([]age.Identity, error) {
	var all []age.Identity
	if k.Passphrase != "" {
		i, err := age.NewScryptIdentity(k.Passphrase)
		if err != nil {
			return nil, err
		}
		i.SetMaxWorkFactor(maxWork)
		all = append(all, i)
	}
	if k.Identities != "" {
		some, err := age.ParseIdentities(strings.NewReader(k.Identities))
		if err != nil {
			return nil, fault.New(fault.Invalid, "the file of identities cannot be read: age-keygen writes one, with a line AGE-SECRET-KEY-1…")
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, fault.New(fault.Invalid, "backups are encrypted: give --passphrase-file FILE, the variable TROUPE_BACKUP_PASSPHRASE, or --identity FILE")
	}
	return all, nil
}

// open returns the content of a backup.
func (k Keys) open(r io.Reader, h Header) (io.Reader, error) {
	identities, err := k.identities()
	if err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(r, identities...)
	if _, none := errors.AsType[*age.NoIdentityMatchError](err); none {
		with := "the passphrase is not the one"
		if k.Passphrase == "" {
			with = "no identity of the file is the one"
		}
		return nil, fault.New(fault.Denied, "%s with which this backup was locked (it is locked with: %s)", with, strings.Join(h.Locks, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("open the encryption: %w", err)
	}
	return plain, nil
}

// ReadPassphrase reads the first line of a file that only its owner may read.
func ReadPassphrase(path string) (string, error) {
	text, err := secretfile.Line(path, "the passphrase", secretfile.Limit)
	if err != nil {
		return "", fmt.Errorf("passphrase of the backups: %w", err)
	}
	return text, nil
}
