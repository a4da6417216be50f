package ca

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"troupe/internal/authn"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file reads the folder of a puppetserver's certificate authority (cadir).

// The files of a cadir.
const (
	fileCert      = "ca_crt.pem"
	fileKey       = "ca_key.pem"
	filePublic    = "ca_pub.pem"
	fileCRL       = "ca_crl.pem"
	fileInventory = "inventory.txt"
	fileSerial    = "serial"
	dirSigned     = "signed"
	dirRequests   = "requests"
	fileInfraCRL  = "infra_crl.pem"
	fileInfra     = "infra_inventory.txt"
	fileInfraNums = "infra_serials"
)

const (
	maxSmallFile = 1 << 20   // a bundle, a certificate, a request
	maxLargeFile = 512 << 20 // a revocation list, an inventory
)

// An authorityFiles is an issuer with its surroundings: bundle, key and lists.
type authorityFiles struct {
	bundle []*x509.Certificate // the issuer first
	key    crypto.Signer
	own    *x509.RevocationList   // nil when there is none yet
	above  []*x509.RevocationList // of the other certificates of the bundle
}

// newAuthorityFiles joins what belongs together and refuses what does not, with
// the checks of puppetserver ca import.
func newAuthorityFiles(bundlePEM, keyPEM, crlPEM []byte) (authorityFiles, error) {
	var f authorityFiles
	bundle, err := parseCertificates(bundlePEM)
	if err != nil {
		return f, fault.Wrap(fault.Invalid, err, "The certificate bundle is unreadable: %v", err)
	}
	if f.key, err = parseKey(keyPEM); err != nil {
		return f, fault.Wrap(fault.Invalid, err, "The private key is unreadable: %v", err)
	}
	i := slices.IndexFunc(bundle, func(c *x509.Certificate) bool { return samePublicKey(c.PublicKey, f.key.Public()) })
	if i < 0 {
		return f, fault.New(fault.Invalid, "Could not find certificate matching private key")
	}
	f.bundle = append([]*x509.Certificate{bundle[i]}, slices.Delete(slices.Clone(bundle), i, i+1)...)
	for _, c := range f.bundle {
		if len(c.SubjectKeyId) == 0 {
			return f, fault.New(fault.Invalid, "Certificate %s of the bundle has no subject key identifier, which revocation lists need", c.Subject.CommonName)
		}
	}
	if err := f.checkChain(); err != nil {
		return f, err
	}
	lists, err := parseLists(crlPEM)
	if err != nil {
		return f, err
	}
	return f, f.sortLists(lists)
}

func (f *authorityFiles) checkChain() error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range f.bundle {
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			roots.AddCert(c)
		} else {
			between.AddCert(c)
		}
	}
	// Dates are not looked at: an authority that has ended is a worry of its own.
	at := f.bundle[0].NotBefore.Add(time.Minute)
	if _, err := f.bundle[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fault.Wrap(fault.Invalid, err, "Leaf certificate could not be validated: %v", err)
	}
	return nil
}

func (f *authorityFiles) sortLists(lists []*x509.RevocationList) error {
	for n, c := range f.bundle {
		for _, l := range lists {
			if !authn.SameName(l.RawIssuer, c.RawSubject) || l.CheckSignatureFrom(c) != nil {
				continue
			}
			if n == 0 {
				f.own = newerOf(f.own, l)
				continue
			}
			f.above = append(f.above, l)
		}
		if n > 0 && !slices.ContainsFunc(f.above, func(l *x509.RevocationList) bool { return authn.SameName(l.RawIssuer, c.RawSubject) }) {
			return fault.New(fault.Invalid, "No revocation list of %s was given: agents refuse every server without it", c.Subject.CommonName)
		}
	}
	return nil
}

func newerOf(a, b *x509.RevocationList) *x509.RevocationList {
	if a == nil || sortableNumber(b.Number) > sortableNumber(a.Number) {
		return b
	}
	return a
}

// A cadir is an open folder. All paths are inside it, links included.
type cadir struct {
	root *os.Root
}

func openCADir(path string) (*cadir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open CA folder: %w", err)
	}
	return &cadir{root}, nil
}

func (c *cadir) close() error { return c.root.Close() }

func (c *cadir) read(name string, limit int64) ([]byte, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// readOptional reads a file that may be missing.
func (c *cadir) readOptional(name string, limit int64) ([]byte, error) {
	b, err := c.read(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (c *cadir) authority() (authorityFiles, error) {
	var texts [3][]byte
	for i, name := range []string{fileCert, fileKey, fileCRL} {
		b, err := c.read(name, maxLargeFile)
		if err != nil {
			return authorityFiles{}, fmt.Errorf("read %s: %w", name, err)
		}
		texts[i] = b
	}
	return newAuthorityFiles(texts[0], texts[1], texts[2])
}

// A namedFile is a certificate or a request of a cadir.
type namedFile struct {
	name puppet.Certname
	der  []byte
}

// files yields the PEM files of a folder; problem is told of those that are none.
func (c *cadir) files(dir string, types []string, problem func(string, ...any)) func(func(namedFile) bool) {
	return func(yield func(namedFile) bool) {
		d, err := c.root.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			problem("%s: %v", dir, err)
			return
		}
		defer d.Close()
		entries, err := d.ReadDir(-1)
		if err != nil {
			problem("%s: %v", dir, err)
			return
		}
		slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			base, ok := strings.CutSuffix(e.Name(), ".pem")
			if !ok {
				continue
			}
			file := filepath.Join(dir, e.Name())
			name, err := puppet.ParseCertname(base)
			if err != nil {
				problem("%s: %v", file, err)
				continue
			}
			der, err := c.one(file, types)
			if err != nil {
				problem("%s: %v", file, err)
				continue
			}
			if !yield(namedFile{name, der}) {
				return
			}
		}
	}
}

func (c *cadir) one(file string, types []string) ([]byte, error) {
	text, err := c.read(file, maxSmallFile)
	if err != nil {
		return nil, err
	}
	ders, err := pemBlocks(text, types...)
	if err != nil {
		return nil, err
	}
	if len(ders) == 0 {
		return nil, errors.New("no PEM block found")
	}
	return ders[0], nil
}

// An inventoryLine is "0x000D 2026-11-20T08:17:46UTC 2031-11-20T08:17:46UTC /CN=name".
type inventoryLine struct {
	serial              *big.Int
	notBefore, notAfter time.Time
	name                string
}

func (l inventoryLine) String() string {
	return fmt.Sprintf("0x%04X %s %s /CN=%s", l.serial, timeText(l.notBefore), timeText(l.notAfter), l.name)
}

func parseInventory(text []byte, problem func(string, ...any)) []inventoryLine {
	var all []inventoryLine
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		l, err := parseInventoryLine(lines.Text())
		if err != nil {
			problem("%s line %d: %v", fileInventory, n, err)
			continue
		}
		all = append(all, l)
	}
	if err := lines.Err(); err != nil {
		problem("%s: %v", fileInventory, err)
	}
	return all
}

func parseInventoryLine(line string) (l inventoryLine, err error) {
	parts := strings.SplitN(strings.TrimSpace(line), " ", 4)
	if len(parts) != 4 {
		return l, errors.New("it has less than four columns")
	}
	digits, ok := strings.CutPrefix(strings.ToLower(parts[0]), "0x")
	if !ok || len(digits) > 40 || strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		return l, fmt.Errorf("%q is no serial number", parts[0])
	}
	if l.serial, ok = new(big.Int).SetString(digits, 16); !ok {
		return l, fmt.Errorf("%q is no serial number", parts[0])
	}
	if l.notBefore, err = parseTimeText(parts[1]); err != nil {
		return l, err
	}
	if l.notAfter, err = parseTimeText(parts[2]); err != nil {
		return l, err
	}
	_, l.name, ok = strings.Cut(parts[3], "CN=")
	if !ok || l.name == "" {
		return l, fmt.Errorf("%q has no common name", parts[3])
	}
	return l, nil
}
