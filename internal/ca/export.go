package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
)

// This file writes the authority as a cadir on which a real puppetserver starts.

// Modes of a cadir (private-key-perms and its neighbours).
const (
	modeFolder  = 0o750
	modePrivate = 0o640
	modePublic  = 0o644
)

// Export writes the authority into a new or empty folder. The folder then holds
// the issuer's key in the clear.
func (a *Authority) Export(ctx context.Context, folder string) error {
	t := a.trust.Load()
	if t.open() {
		return fault.New(fault.Conflict, "A roll-over of the issuer is going on, and puppetserver knows one issuer only: finish it first (troupe ca rollover status)")
	}
	i := t.force
	if i.key == nil {
		return fault.New(fault.Unavailable, "This member does not hold the key of the certificate authority; export on one that does")
	}
	if !isRSA(i.key) {
		return fault.New(fault.Conflict, "The key of this authority is %s, but puppetserver can only sign with RSA keys", typeOf(i.key.Public()))
	}
	if err := emptyFolder(folder); err != nil {
		return err
	}
	e := &export{a: a, i: i, folder: folder}
	for _, step := range []func(context.Context) error{e.folders, e.authority, e.lists, e.certificates, e.requests, e.inventory} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("export to %s: %w", folder, err)
		}
	}
	a.log.InfoContext(ctx, "certificate authority exported", "folder", folder)
	return nil
}

func emptyFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("export: %w", err)
	}
	if len(entries) > 0 {
		return fault.New(fault.Conflict, "%s is not empty: export into a new folder", folder)
	}
	return nil
}

type export struct {
	a      *Authority
	i      *issuer
	folder string
}

func (e *export) write(name string, data []byte, mode os.FileMode) error {
	return atomicfile.Write(filepath.Join(e.folder, name), data, mode)
}

func (e *export) folders(context.Context) error {
	for _, dir := range []string{"", dirSigned, dirRequests} {
		path := filepath.Join(e.folder, dir)
		if err := os.MkdirAll(path, modeFolder); err != nil {
			return err
		}
		if err := os.Chmod(path, modeFolder); err != nil {
			return err
		}
	}
	return nil
}

// authority writes key and bundle. Where the issuer has two certificates the one
// by the root is written: a puppetserver wants a chain.
func (e *export) authority(context.Context) error {
	i := e.i
	key, err := encodeKey(i.key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		return err
	}
	bundle := i.bundlePEM
	if i.cross != nil && i.from == "" {
		bundle = certificatePEM(i.cross.Raw)
		for _, c := range i.ancestors() {
			bundle = append(bundle, certificatePEM(c.Raw)...)
		}
	}
	return errors.Join(
		e.write(fileKey, key, modePrivate),
		e.write(filePublic, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), modePublic),
		e.write(fileCert, bundle, modePublic),
	)
}

func (e *export) lists(ctx context.Context) error {
	p, err := e.a.lists(ctx)
	if err != nil {
		return err
	}
	infra := e.i.infra
	return errors.Join(
		e.write(fileCRL, p.pem, modePublic),
		e.write(fileInfraCRL, p.pem, modePublic),
		e.write(fileInfra, []byte(infra), modePrivate),
		e.infraSerials(ctx, infra),
	)
}

// infraSerials writes the serials of the certificates that the infrastructure's
// own list is for, in decimal (write-infra-serials-to-writer).
func (e *export) infraSerials(ctx context.Context, infra string) error {
	var text bytes.Buffer
	for name := range strings.FieldsSeq(infra) {
		s, err := e.a.Status(ctx, name)
		if fault.KindOf(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		if s.Serial != nil {
			fmt.Fprintln(&text, s.Serial)
		}
	}
	return e.write(fileInfraNums, text.Bytes(), modePublic)
}

func (e *export) certificates(ctx context.Context) error {
	return e.each(ctx, "SELECT name, der FROM cert WHERE current = 1", dirSigned, certificatePEM)
}

func (e *export) requests(ctx context.Context) error {
	return e.each(ctx, "SELECT name, der FROM request WHERE current = 1", dirRequests, requestPEM)
}

func (e *export) each(ctx context.Context, query, dir string, encode func([]byte) []byte) error {
	rows, err := e.a.db.read.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var der []byte
		if err := rows.Scan(&name, &der); err != nil {
			return err
		}
		// One fsync of the folder at the end is enough: the export counts when it is complete.
		path := filepath.Join(e.folder, dir, filepath.Base(name)+".pem")
		if err := os.WriteFile(path, encode(der), modePublic); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), atomicfile.SyncFolder(filepath.Join(e.folder, dir)))
}

// inventory writes the inventory and the serial counter. The real server counts
// with 32 bits, so the counter goes on behind the small serials and never meets a
// random one.
func (e *export) inventory(ctx context.Context) error {
	var text bytes.Buffer
	next := big.NewInt(1)
	count := func(serial *big.Int) {
		if serial.BitLen() < 31 && serial.Cmp(next) >= 0 {
			next.Add(serial, big.NewInt(1))
		}
	}
	i := e.i
	for _, c := range i.bundle {
		fmt.Fprintln(&text, inventoryLine{c.SerialNumber, c.NotBefore, c.NotAfter, c.Subject.CommonName})
		if bytes.Equal(c.RawIssuer, i.cert.RawSubject) {
			count(c.SerialNumber)
		}
	}
	rows, err := e.a.db.read.QueryContext(ctx, "SELECT serial, not_before, not_after, name FROM cert ORDER BY not_before, serial")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var serial, name string
		var before, after int64
		if err := rows.Scan(&serial, &before, &after, &name); err != nil {
			return err
		}
		n, ok := new(big.Int).SetString(serial, 16)
		if !ok {
			return fmt.Errorf("stored serial %q is no number", serial)
		}
		count(n)
		fmt.Fprintln(&text, inventoryLine{n, unix(before), unix(after), name})
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return errors.Join(
		e.write(fileInventory, text.Bytes(), modePrivate),
		e.write(fileSerial, fmt.Appendf(nil, "%04X", next), modePublic),
	)
}
