package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
	"troupe/internal/vault"
)

// This file gives the troupe to a backup, and makes a machine a member from one. The machine has an origin of its own: the
// journals of those who wrote before are in its journal as those of others, and nobody goes on with them.

// CAKey returns the key of the infrastructure CA as PEM; nil where no troupe was founded. It is an error not to hold it.
func (c *Cluster) CAKey() ([]byte, error) {
	c.mu.Lock()
	f := c.state.founded
	c.mu.Unlock()
	if f == nil {
		return nil, nil
	}
	text, err := c.vault.Open(f.cert.SubjectKeyId)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Conflict, "this member does not hold the key of the infrastructure CA: back up a member of role server")
	}
	return text, err
}

// ID returns the random name of the troupe, "" before it is founded.
func (c *Cluster) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.founded == nil {
		return ""
	}
	return c.state.founded.ID
}

// BeginRestore notes that the folder gets its content from somewhere, until [Restore] is done. Meanwhile no member opens it.
func BeginRestore(dir, from string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, joiningName), []byte(restoring+from+"\n"), 0o600); err != nil {
		return err
	}
	return atomicfile.SyncFolder(filepath.Dir(dir))
}

// restoring is how the note of [BeginRestore] begins; that of [Join] is an address.
const restoring = "backup "

// IsRestoring reports whether a restore has begun in the folder and has not ended.
func IsRestoring(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, joiningName))
	return err == nil && len(text) > len(restoring) && string(text[:len(restoring)]) == restoring
}

// RestoreRequest says how the troupe goes on.
type RestoreRequest struct {
	CAKey []byte // PEM of the infrastructure CA's key; nil where none was founded
	Alone bool   // all other members are gone: they are removed
	Found bool   // begin a troupe if there was none
}

// Restored says who is a member now.
type Restored struct {
	Self    Member   // its Name is empty when there is no troupe
	Removed []Member // this machine has taken their place, or they are gone
	Others  []Member // who may still be there
}

// Restore makes this machine a member of the troupe that the journal tells of. The member of the same name is replaced by it;
// if that one still answers, nothing happens and the error says so. Afterwards the folder can be opened.
func Restore(ctx context.Context, dir string, j *journal.Journal, o Options, q RestoreRequest) (r Restored, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	v, err := vault.Open(dir, o.SealKey)
	if err != nil {
		return r, err
	}
	c := &Cluster{dir: dir, j: j, o: o, vault: v, state: newState(), changed: make(chan struct{}), log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "cluster")}
	if err := c.refresh(ctx); err != nil {
		return r, err
	}
	switch {
	case c.Founded():
		err = c.succeed(ctx, q, &r)
	case q.Found:
		err = c.Found(ctx, "", "")
	default:
		return r, c.endRestore()
	}
	if err != nil {
		return r, err
	}
	r.Self = c.self().Member
	return r, c.endRestore()
}

func (c *Cluster) endRestore() error {
	if err := os.Remove(filepath.Join(c.dir, joiningName)); err != nil {
		return err
	}
	return atomicfile.SyncFolder(c.dir)
}

// succeed makes this machine a member beside, or in place of, those that there were.
func (c *Cluster) succeed(ctx context.Context, q RestoreRequest, r *Restored) error {
	f := c.state.founded // nobody else has this Cluster
	key, err := parseKey(q.CAKey)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the key of the infrastructure CA cannot be read")
	}
	if !key.PublicKey.Equal(f.cert.PublicKey) {
		return fault.New(fault.Invalid, "the key of the infrastructure CA is not the one that the journal tells of")
	}
	if err := errors.Join(c.vault.Stage(f.cert.SubjectKeyId, q.CAKey), c.vault.Settle(f.cert.SubjectKeyId)); err != nil {
		return err
	}
	var drafts []draft
	for _, m := range c.Members() {
		switch {
		case m.Self:
			continue
		case m.Name == c.o.Name:
			if c.answers(ctx, m) {
				return fault.New(fault.Conflict, "member %s of this troupe answers at %s: to replace it, stop it first; to add a member, choose another --certname", m.Name, m.Address)
			}
			c.o.Site, c.o.Address = cmp.Or(c.o.Site, m.Site), cmp.Or(c.o.Address, m.Address)
		case !q.Alone:
			r.Others = append(r.Others, m)
			continue
		}
		r.Removed = append(r.Removed, m)
		drafts = append(drafts, draft{kindRemoved, m.Name, removedRecord{Origin: m.Origin}})
	}
	if err := c.append(ctx, append(drafts, draft{kindMember, c.o.Name, c.self()})...); err != nil {
		return err
	}
	return c.ensureCertificate()
}

// answersMost is how long the member whose place is to be taken is waited for.
const answersMost = 3 * time.Second

// answers reports whether that very member is there.
func (c *Cluster) answers(ctx context.Context, m Member) bool {
	ctx, cancel := context.WithTimeout(ctx, answersMost)
	defer cancel()
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: answersMost}, Config: c.ClientTLS(m.Origin)}
	d.Config.GetClientCertificate = nil // this machine has none yet
	conn, err := d.DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was said
	return true
}
