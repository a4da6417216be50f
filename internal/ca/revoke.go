package ca

import (
	"context"
	"fmt"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file revokes certificates and removes them from the lists.

// Revoke revokes every certificate of name that is not revoked yet, also those
// that were replaced or cleaned without being revoked. Revoking what is revoked
// changes nothing and is no error.
func (a *Authority) Revoke(ctx context.Context, name puppet.Certname) error {
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	serials, err := a.revocable(ctx, name)
	if err != nil {
		return err
	}
	if len(serials) == 0 {
		return a.nothingToRevoke(ctx, name)
	}
	d, err := a.revocationDraft(string(name), serials)
	if err != nil {
		return err
	}
	if err := a.append(ctx, d); err != nil {
		return fmt.Errorf("revoke certificate of %s: %w", name, err)
	}
	a.log.InfoContext(ctx, "certificate revoked", telemetry.KeyCertname, string(name), telemetry.KeySerial, serials)
	return nil
}

func (a *Authority) nothingToRevoke(ctx context.Context, name puppet.Certname) error {
	state, err := a.stateOf(ctx, name)
	switch {
	case err != nil:
		return err
	case state == StateRequested:
		return fault.New(fault.Conflict, "Cannot revoke certificate for host %s without a signed certificate", name)
	case state == "":
		return errUnknownSubject()
	}
	return nil
}

// revocable returns the serials of name that can still do harm: not revoked, and
// either current or not expired.
func (a *Authority) revocable(ctx context.Context, name puppet.Certname) ([]string, error) {
	return a.serials(ctx, name, "revoked = 0 AND (current = 1 OR not_after > ?)", a.now().Unix())
}

// serials returns those of the certificates of name for which a condition holds.
func (a *Authority) serials(ctx context.Context, name puppet.Certname, condition string, args ...any) ([]string, error) {
	rows, err := a.db.read.QueryContext(ctx, "SELECT serial FROM cert WHERE name = ? AND "+condition+" ORDER BY serial",
		append([]any{name}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("look up certificates of %s: %w", name, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var serial string
		if err := rows.Scan(&serial); err != nil {
			return nil, fmt.Errorf("look up certificates of %s: %w", name, err)
		}
		all = append(all, serial)
	}
	return all, rows.Err()
}

func (a *Authority) revocationDraft(key string, serials []string) (d journal.Draft, err error) {
	body := revokedRecord{}
	at := a.now().UTC().Truncate(time.Second)
	for _, s := range serials {
		body.Revoked = append(body.Revoked, revocation{Serial: s, At: at, Reason: reasonKey})
	}
	return draft(kindRevoked, key, body)
}

// maxClean bounds the names of one call.
const maxClean = 10_000

// Clean revokes and removes the certificates of many names in one record, so
// that the revocation list is signed once. Names without a certificate are
// returned as missing.
func (a *Authority) Clean(ctx context.Context, names ...puppet.Certname) (missing []puppet.Certname, err error) {
	if len(names) > maxClean {
		return nil, fault.New(fault.TooLarge, "%d certificate names in one call, more than %d", len(names), maxClean)
	}
	unlock, err := a.names.lock(ctx, names...)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var revoke, clean []string
	seen := map[puppet.Certname]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		r, err := a.revocable(ctx, name)
		if err != nil {
			return nil, err
		}
		c, err := a.serials(ctx, name, "cleaned = 0")
		if err != nil {
			return nil, err
		}
		if len(r)+len(c) == 0 {
			missing = append(missing, name)
		}
		revoke, clean = append(revoke, r...), append(clean, c...)
	}
	if err := a.appendClean(ctx, revoke, clean); err != nil {
		return nil, fmt.Errorf("clean certificates: %w", err)
	}
	if len(clean) > 0 {
		a.log.InfoContext(ctx, "certificates cleaned", "certificates", len(clean), "revoked", len(revoke))
	}
	return missing, nil
}

func (a *Authority) appendClean(ctx context.Context, revoke, clean []string) error {
	var drafts []journal.Draft
	if len(revoke) > 0 {
		d, err := a.revocationDraft(keyCA, revoke)
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	if len(clean) > 0 {
		d, err := draft(kindCleaned, keyCA, cleanedRecord{Serials: clean})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	if len(drafts) == 0 {
		return nil
	}
	return a.append(ctx, drafts...)
}

// Delete removes the certificate and the request of name from the lists without
// revoking anything, as DELETE certificate_status does.
func (a *Authority) Delete(ctx context.Context, name puppet.Certname) error {
	unlock, err := a.names.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	certificates, err := a.serials(ctx, name, "cleaned = 0")
	if err != nil {
		return err
	}
	requests, err := a.requests(ctx, name)
	if err != nil {
		return err
	}
	var drafts []journal.Draft
	if len(certificates) > 0 {
		d, err := draft(kindCleaned, string(name), cleanedRecord{Serials: certificates})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	if len(requests) > 0 {
		d, err := draft(kindDeleted, string(name), deletedRecord{Requests: requests})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	if len(drafts) == 0 {
		return fault.New(fault.NotFound, "Resource not found.")
	}
	if err := a.append(ctx, drafts...); err != nil {
		return fmt.Errorf("delete files of %s: %w", name, err)
	}
	a.log.InfoContext(ctx, "certificate and request removed from the lists", telemetry.KeyCertname, string(name))
	return nil
}
