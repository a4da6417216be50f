package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/vault"
)

// This file makes a fresh machine a member. From its admission to [Joined.Finish] a file says that it is not one yet, so that a machine that got
// half of a troupe never begins one of its own.

const (
	joiningName = "joining"
	joinMost    = time.Minute

	// DefaultPort is where members listen for each other.
	DefaultPort = "8143"
)

// Joined is a machine that was admitted and has its certificate, but not yet the journal.
type Joined struct {
	From Member // whose journal to take
	Self Member // what it is now
	Keys Keys
	TLS  *tls.Config // of connections to From

	cluster *Cluster
}

// Join asks to be admitted. text is TOKEN@HOST[:PORT]. It may be repeated until [Joined.Finish].
func Join(ctx context.Context, dir string, j *journal.Journal, o Options, text string) (*Joined, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	invited, err := parseInvitation(text, DefaultPort)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	v, err := vault.Open(dir, o.SealKey)
	if err != nil {
		return nil, err
	}
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	answer, err := invited.ask(ctx, joinRequest{
		Token: invited.id, Secret: invited.secret, Request: csr, Origin: j.Origin(),
		Name: o.Name, Site: o.Site, Address: cmp.Or(o.Address, net.JoinHostPort(o.Name, DefaultPort)), Version: o.Version, Format: journal.Format, Time: o.Now().UTC(),
	})
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(dir, joiningName), []byte(invited.address+"\n"), 0o600); err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, j: j, o: o, vault: v, state: newState(), changed: make(chan struct{})}
	if err := c.settleIn(answer, key); err != nil {
		return nil, err
	}
	return &Joined{From: answer.From, Self: answer.Member, Keys: answer.Keys, TLS: c.ClientTLS(answer.From.Origin), cluster: c}, nil
}

// newRequest makes a key, and the certificate request that proves it.
func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return key, csr, err
}

// settleIn takes over what the troupe gave.
func (c *Cluster) settleIn(a joinAnswer, key *ecdsa.PrivateKey) error {
	ca, err := x509.ParseCertificate(a.CA)
	if err != nil {
		return fmt.Errorf("certificate of the infrastructure CA: %w", err)
	}
	cert, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return fmt.Errorf("certificate of this member: %w", err)
	}
	if len(a.CAKey) > 0 {
		if err := errors.Join(c.vault.Stage(ca.SubjectKeyId, a.CAKey), c.vault.Settle(ca.SubjectKeyId)); err != nil {
			return fmt.Errorf("seal the key of the infrastructure CA: %w", err)
		}
	}
	if err := c.saveCertificate(cert, ca, key); err != nil {
		return err
	}
	f := &founded{foundedRecord: foundedRecord{ID: a.ID, CA: a.CA}, cert: ca, pool: x509.NewCertPool()}
	f.pool.AddCert(ca)
	c.state.founded = f
	pair, err := c.loadCertificate(f)
	if err != nil {
		return err
	}
	c.own.Store(pair)
	return nil
}

// Finish says that this machine is a member: its journal knows the troupe.
func (m *Joined) Finish(ctx context.Context) error {
	m.cluster.state = newState()
	if err := m.cluster.refresh(ctx); err != nil {
		return err
	}
	if !m.cluster.Founded() {
		return errors.New("the journal that came does not know the troupe: join again")
	}
	if err := os.Remove(filepath.Join(m.cluster.dir, joiningName)); err != nil {
		return err
	}
	return atomicfile.SyncFolder(m.cluster.dir)
}

// ask sends the request to whoever proves to be of the troupe that the token is of.
func (i invitation) ask(ctx context.Context, q joinRequest) (answer joinAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinMost)
	defer cancel()
	body, err := json.Marshal(q) //nolint:gosec // the secret is for the member that the token pins
	if err != nil {
		return answer, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // the token pins the CA: see VerifyConnection
		VerifyConnection:   i.verify,
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+i.address+"/cluster/v1/join", bytes.NewReader(body))
	if err != nil {
		return answer, fault.Wrap(fault.Invalid, err, "%s is no address", i.address)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return answer, fault.Wrap(fault.Unavailable, err, "the member at %s cannot be asked: %v", i.address, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return answer, fault.Wrap(fault.Unavailable, err, "the answer of the member at %s was cut off: join again with the same token", i.address)
	}
	if response.StatusCode != http.StatusOK {
		return answer, fault.New(fault.Denied, "the member at %s says: %s", i.address, strings.TrimSpace(string(text)))
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("read the answer of the member at %s: %w", i.address, err)
	}
	return answer, nil
}

// verify holds that the other side is a member under the CA that the token pins.
func (i invitation) verify(cs tls.ConnectionState) error {
	for _, cert := range cs.PeerCertificates {
		if sum := sha256.Sum256(cert.Raw); !bytes.Equal(sum[:], i.pin) {
			continue
		}
		pool := x509.NewCertPool()
		pool.AddCert(cert)
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	return errors.New("it is not of the troupe that the token is of: check the address, or make a new token there")
}
