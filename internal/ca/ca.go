// Package ca is the certificate authority of a troupe: it takes requests, signs
// and revokes certificates, and publishes the bundle and the revocation lists
// that agents ask for.
//
// The issuer is the key that signs agents. What happened is in the journal: one
// record for each request, certificate and revocation. A projection (ca.db) is
// folded from those records for lists and look-ups, and a set of revoked serials
// is kept in memory. Nothing is answered before its record is on the disk.
//
// Begin with [Open]; [ImportFolder] and [ImportExternal] come before it when a
// certificate authority exists already. Rules for signing are in [Policy].
// DESIGN.md beside this file tells what must stay true and why.
//
//	a, err := ca.Open(ctx, dir, j, ca.Options{Name: "Puppet CA: puppet.example.com"})
//	…
//	err = a.SubmitRequest(ctx, "web1.example.com", csr)
//	err = a.Sign(ctx, "web1.example.com", 0)
package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
	"troupe/internal/vault"
)

// Options tunes an Authority. The zero value suits a new installation whose
// oldest agents are Puppet 5.5.
type Options struct {
	Name       string        // common name of a new issuer; "" means "Puppet CA: " and the host name
	KeyType    KeyType       // of new authorities; "" means RSA3072
	Hierarchy  Hierarchy     // of new authorities; "" means CrossSigned
	CALifetime time.Duration // of new authorities; 0 means 20 years
	Policy     Policy        // who is signed, and for how long; replaced by SetPolicy
	SealKey    string        // file with the key that seals the issuer's key; "" means the systemd credential troupe-seal, else seal.key in the folder
	// Copied returns nil when another member has the record of that number, too. What it does not have in time counts all the
	// same: this member says so in its log. nil means that there is no other member.
	Copied func(ctx context.Context, number uint64) error
	// Members returns the members that may sign, this one among them. nil means that there is no other.
	Members func() []journal.Origin

	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil discards
}

const (
	year              = 365 * 24 * time.Hour // as in puppet.conf's durations
	defaultCALifetime = 20 * year
)

// An Authority is an open certificate authority. Its methods may be called
// concurrently.
type Authority struct {
	dir      string
	j        *journal.Journal
	o        Options
	now      func() time.Time
	log      *slog.Logger
	policy   atomic.Pointer[Policy]
	vault    *vault.Vault
	db       *projection
	names    *nameLocks
	suspects suspects
	hands    chan struct{} // one token for each policy executable that may run

	trust   atomic.Pointer[trust]
	revoked revokedSet
	known   knownCerts
	seen    sightings

	crlMu      sync.Mutex                // held while a list is signed
	crl        atomic.Pointer[published] // nil when something changed
	last       atomic.Pointer[published] // the newest that could be signed
	generation uint64                    // of what the lists are made from; guarded by db.mu
}

// Open opens the certificate authority in dir and creates one when the journal
// knows none.
func Open(ctx context.Context, dir string, j *journal.Journal, o Options) (*Authority, error) {
	a, err := open(ctx, dir, j, o)
	if err != nil {
		return nil, err
	}
	if err := a.begin(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// open brings the projection up to date; there may be no issuer yet.
func open(ctx context.Context, dir string, j *journal.Journal, o Options) (*Authority, error) {
	a := &Authority{
		dir: dir, j: j, o: o, now: o.Now,
		log:   telemetry.Discard(o.Log).With(telemetry.KeySystem, "ca"),
		names: newNameLocks(),
		hands: make(chan struct{}, maxPolicyRuns),
	}
	if a.now == nil {
		a.now = time.Now
	}
	if err := a.SetPolicy(o.Policy); err != nil {
		return nil, err
	}
	v, err := vault.Open(dir, o.SealKey)
	if err != nil {
		return nil, err
	}
	a.vault = v
	if a.db, err = openProjection(ctx, dir, j, a.log); err != nil {
		return nil, err
	}
	if err := a.refresh(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if err := a.loadRevoked(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// begin loads the issuer, or makes one when this is a new installation.
func (a *Authority) begin(ctx context.Context) error {
	known, err := a.loadTrust(ctx)
	if err != nil {
		return err
	}
	if known {
		return a.loadSeen(ctx)
	}
	if err := a.refuseOrphans(); err != nil {
		return err
	}
	if err := a.refuseHalfImport(ctx); err != nil {
		return err
	}
	if err := a.create(ctx); err != nil {
		return fmt.Errorf("create certificate authority: %w", err)
	}
	return nil
}

// refuseHalfImport keeps an import that was interrupted from ending in a new
// authority that knows the old one's certificates.
func (a *Authority) refuseHalfImport(ctx context.Context) error {
	var some bool
	if err := a.db.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM cert) OR EXISTS (SELECT 1 FROM revoked)").Scan(&some); err != nil {
		return fmt.Errorf("look for certificates: %w", err)
	}
	if some {
		return fault.New(fault.Conflict, "The import of a certificate authority was interrupted: run it again, or begin with an empty data folder")
	}
	return nil
}

// refuseOrphans keeps a lost journal from ending in a second certificate
// authority beside the first.
func (a *Authority) refuseOrphans() error {
	sealed, err := a.vault.Sealed()
	if err != nil || len(sealed) == 0 {
		return err
	}
	return fault.New(fault.Conflict, "%s holds the key of a certificate authority that the journal does not know: "+
		"restore the journal from a backup, or move this file away to begin with a new authority", sealed[0])
}

// Exists reports whether dir holds the key of a certificate authority.
func Exists(dir string) bool { return vault.Exists(dir) }

// Close closes the projection. The journal stays open.
func (a *Authority) Close() error {
	if a.db == nil {
		return nil
	}
	return a.db.close()
}

// SetPolicy replaces the rules for signing. Requests that are being judged keep
// the rules they began with.
func (a *Authority) SetPolicy(p Policy) error {
	if err := p.check(); err != nil {
		return err
	}
	a.policy.Store(&p)
	return nil
}

// refreshEvery is how often Run looks at the ages of the lists.
const refreshEvery = time.Hour

// Run follows what other members write to the journal and renews revocation
// lists before they end, until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		changed := a.j.Changed()
		if err := a.refresh(ctx); err != nil && ctx.Err() == nil {
			a.log.ErrorContext(ctx, "follow the journal", telemetry.KeyErr, err)
		}
		if err := a.settleConflicts(ctx); err != nil && ctx.Err() == nil {
			a.log.ErrorContext(ctx, "look for names that two members have signed", telemetry.KeyErr, err)
		}
		if err := a.advance(ctx); err != nil && ctx.Err() == nil {
			a.log.ErrorContext(ctx, "go on with the roll-over of the issuer", telemetry.KeyErr, err)
		}
		if err := a.refreshCRLs(ctx); err != nil && ctx.Err() == nil {
			a.log.ErrorContext(ctx, "renew revocation lists", telemetry.KeyErr, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-a.seen.news():
		case <-tick.C:
		}
	}
}

// refresh folds all records that are in the journal by now, and what they mean
// for the memory of this process.
func (a *Authority) refresh(ctx context.Context) error {
	origins, err := a.j.Origins(ctx)
	if err != nil {
		return fmt.Errorf("list origins of the journal: %w", err)
	}
	return a.db.follow(ctx, origins, a.learn)
}

// learn takes over what new records changed. It is called in the order of the
// records, after they are in the projection, with db.mu held.
func (a *Authority) learn(ctx context.Context, l learned) error {
	if err := a.revoked.add(l.revoked); err != nil {
		return err
	}
	a.suspects.add(l.elsewhere)
	if l.lists {
		a.generation++
		a.crl.Store(nil)
	}
	if l.setup && a.trust.Load() != nil {
		if _, err := a.loadTrust(ctx); err != nil {
			return err
		}
	}
	if t := a.trust.Load(); t != nil && len(l.seen) > 0 {
		a.seen.learn(t.force.id, l.seen)
	}
	return nil
}

// append writes records and folds them. When it returns they are durable and
// every method of this Authority sees them.
func (a *Authority) append(ctx context.Context, drafts ...journal.Draft) error {
	records, err := a.j.Append(ctx, drafts...)
	if err != nil {
		return err
	}
	// What is durable must be seen, even if the client has gone meanwhile.
	if err := a.db.follow(context.WithoutCancel(ctx), []journal.Origin{a.j.Origin()}, a.learn); err != nil {
		return err
	}
	journal.AwaitCopy(ctx, a.o.Copied, records[len(records)-1], a.log)
	return nil
}
