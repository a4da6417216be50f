package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file keeps the catalogs: of each different one the body, of each compile
// only its hash.

// CatalogMeta describes a catalog. Hash and Stored are set by the store.
type CatalogMeta struct {
	Certname        puppet.Certname    `json:"certname"`
	Environment     puppet.Environment `json:"environment"`
	CodeID          string             `json:"code_id"`
	CatalogUUID     string             `json:"catalog_uuid"`
	TransactionUUID string             `json:"transaction_uuid"`
	Version         string             `json:"version"`
	Hash            string             `json:"hash"`  // hex; equal for catalogs that differ only in version, catalog_uuid and code_id
	Bytes           int                `json:"bytes"` // of the body
	Stored          time.Time          `json:"-"`     // when the last catalog with this hash was stored
}

// SaveCatalog stores what a compile gave: the catalog as JSON, without the values of
// sensitive parameters, and the exported resources of the node, those included that
// are not realised on it; they come without sensitive parameters. A body that
// this member has journalled within a third of the journal's age is not written
// again, so that the journal always holds the catalog of every active node.
func (db *DB) SaveCatalog(ctx context.Context, m CatalogMeta, body []byte, exported []puppet.Resource) error {
	list := []byte("[]")
	if len(exported) > 0 {
		var err error
		if list, err = json.Marshal(exported); err != nil {
			return fmt.Errorf("encode exported resources of %s: %w", m.Certname, err)
		}
	}
	body, err := db.Redact(body)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the catalog of %s is not JSON", m.Certname)
	}
	sum, err := catalogHash(body, list)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the catalog of %s is not a JSON object", m.Certname)
	}
	m.Hash, m.Bytes = sum, len(body)
	var known bool
	if err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM catalog_body WHERE certname = ? AND hash = ? AND journalled > ?)`,
		m.Certname, m.Hash, stampAt(db.o.Now().Add(-db.o.JournalAge/3))).Scan(&known); err != nil {
		return fmt.Errorf("look up catalog of %s: %w", m.Certname, err)
	}
	var rec []byte
	if known {
		rec, err = joinParts(m)
	} else {
		rec, err = joinParts(m, body, list)
	}
	if err != nil {
		return err
	}
	_, err = db.save(ctx, kindCatalog, string(m.Certname), rec)
	return err
}

// catalogHash sums a catalog and the exported resources that belong to it. What
// differs at each compile or each deploy, though the catalog is the same, does not
// count: version, catalog_uuid and code_id. PuppetDB's hash leaves them out too.
func catalogHash(body, exported []byte) (string, error) {
	h := sha256.New()
	err := puppet.Members(body, func(name []byte, value json.RawMessage) error {
		switch string(name) {
		case "version", "catalog_uuid", "code_id":
		default:
			writePart(h, name)
			writePart(h, value)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	writePart(h, exported)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ofThisCompile puts the identifiers of a compile into a body that may come from an
// earlier one.
func (m *CatalogMeta) ofThisCompile(body []byte) ([]byte, error) {
	out := make([]byte, 0, len(body)+len(m.CodeID)+len(m.CatalogUUID))
	err := puppet.Members(body, func(name []byte, value json.RawMessage) error {
		switch string(name) {
		case "catalog_uuid":
			value = quotedOr(m.CatalogUUID, value)
		case "code_id":
			value = quotedOr(m.CodeID, value)
		}
		key, err := json.Marshal(string(name))
		out = append(append(append(append(out, ','), key...), ':'), value...)
		return err
	})
	if err != nil || len(out) == 0 {
		return body, err
	}
	out[0] = '{'
	return append(out, '}'), nil
}

// quotedOr is a text as JSON, or what stood there when there is none.
func quotedOr(text string, otherwise json.RawMessage) json.RawMessage {
	if text == "" {
		return otherwise
	}
	return fmt.Appendf(nil, "%q", text)
}

// writePart sums a part with its length, so that parts cannot run together.
func writePart(h hash.Hash, p []byte) {
	fmt.Fprintf(h, "%d:", len(p))
	h.Write(p)
}

func (db *DB) foldCatalog(r *journal.Record) (change, error) {
	var m CatalogMeta
	parts, err := splitParts(r, &m, 0)
	if err != nil {
		return nil, err
	}
	body := db.recallBody // of a catalog that is the same as an earlier one
	if len(parts) >= 2 {
		var list []puppet.Resource
		if err := json.Unmarshal(parts[1], &list); err != nil {
			return nil, &malformedError{r, err}
		}
		body = db.foldCatalogBody(r, parts[0], parts[1])
	}
	return func(ctx context.Context, tx *folding) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO catalog (certname, hash, stamp, environment, code_id, catalog_uuid, transaction_uuid, version, bytes)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = excluded.stamp, environment = excluded.environment, code_id = excluded.code_id,
			catalog_uuid = excluded.catalog_uuid, transaction_uuid = excluded.transaction_uuid, version = excluded.version,
			bytes = excluded.bytes WHERE excluded.stamp >= stamp`,
			m.Certname, m.Hash, stampOf(r), m.Environment, m.CodeID, m.CatalogUUID, m.TransactionUUID, m.Version, m.Bytes); err != nil {
			return err
		}
		if err := body(ctx, tx.Tx, m); err != nil {
			return err
		}
		if err := db.trimCatalogs(ctx, tx.Tx, m.Certname); err != nil {
			return err
		}
		n := tx.touch(r, m.Certname, m.Environment)
		n.Catalog, n.exports = later(n.Catalog, stampOf(r)), true
		return nil
	}, nil
}

// foldCatalogBody packs the parts of a catalog's record and returns what writes them.
func (db *DB) foldCatalogBody(r *journal.Record, body, exported []byte) func(context.Context, *sqlite.Tx, CatalogMeta) error {
	sum := []byte{}
	if string(exported) != "[]" {
		s := sha256.Sum256(exported)
		sum = s[:]
	}
	packedExported, packedBody := db.zip.pack(exported), db.zip.pack(body)
	return func(ctx context.Context, tx *sqlite.Tx, m CatalogMeta) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO catalog_body (certname, hash, journalled, exported_sum, exported, body) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET journalled = excluded.journalled, exported_sum = excluded.exported_sum, exported = excluded.exported, body = excluded.body
			WHERE excluded.journalled >= journalled`,
			m.Certname, m.Hash, stampOf(r), sum, packedExported, packedBody)
		if err != nil || r.Number == 0 { // of a snapshot, not of the journal
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO catalog_record (certname, hash, stamp, origin, number) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET stamp = excluded.stamp, origin = excluded.origin, number = excluded.number WHERE excluded.stamp > stamp`,
			m.Certname, m.Hash, stampOf(r), r.Origin, r.Number)
		return err
	}
}

// recallBody brings back the body of a catalog that was trimmed: a member that was cut off still had it when it journalled only
// the hash. In another order of the same records it would not have been trimmed.
func (db *DB) recallBody(ctx context.Context, tx *sqlite.Tx, m CatalogMeta) error {
	var o journal.Origin
	var number uint64
	err := tx.QueryRowContext(ctx, `SELECT origin, number FROM catalog_record WHERE certname = ?1 AND hash = ?2
		AND NOT EXISTS (SELECT 1 FROM catalog_body WHERE certname = ?1 AND hash = ?2)`, m.Certname, m.Hash).Scan(&o, &number)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it is here, or still to come
	}
	if err != nil {
		return err
	}
	recs, err := db.journal.Read(ctx, o, journal.Bulk, number-1, 1)
	if _, damaged := errors.AsType[*journal.DamageError](err); damaged || len(recs) == 1 && recs[0].Number != number || err == nil && len(recs) == 0 {
		return nil // it will be folded when it is mended; or it was pruned
	}
	if err != nil {
		return err
	}
	var old CatalogMeta
	parts, err := splitParts(&recs[0], &old, 2)
	if err != nil {
		return err
	}
	return db.foldCatalogBody(&recs[0], parts[0], parts[1])(ctx, tx, old)
}

// trimCatalogs keeps the newest catalogs of a node.
func (db *DB) trimCatalogs(ctx context.Context, tx *sqlite.Tx, certname puppet.Certname) error {
	var newest stamp // of those that go
	err := tx.QueryRowContext(ctx, `SELECT stamp FROM catalog WHERE certname = ? ORDER BY stamp DESC LIMIT 1 OFFSET ?`, certname, db.o.CatalogsPerNode).Scan(&newest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM catalog_body WHERE certname = ?1 AND hash IN
		(SELECT hash FROM catalog WHERE certname = ?1 AND stamp <= ?2)`, certname, newest); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM catalog WHERE certname = ? AND stamp <= ?`, certname, newest)
	return err
}

// Catalog returns the last catalog of a node. Its body may come from an earlier
// compile with the same hash: version inside may be older than the one in the
// CatalogMeta.
func (db *DB) Catalog(ctx context.Context, certname puppet.Certname) (CatalogMeta, []byte, error) {
	var m CatalogMeta
	var at stamp
	var packed []byte
	err := db.read.QueryRowContext(ctx, `SELECT c.certname, c.hash, c.stamp, c.environment, c.code_id, c.catalog_uuid, c.transaction_uuid, c.version, c.bytes, b.body
		FROM catalog c JOIN catalog_body b ON b.certname = c.certname AND b.hash = c.hash
		WHERE c.certname = ? ORDER BY c.stamp DESC LIMIT 1`, certname).
		Scan(&m.Certname, &m.Hash, &at, &m.Environment, &m.CodeID, &m.CatalogUUID, &m.TransactionUUID, &m.Version, &m.Bytes, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return CatalogMeta{}, nil, fault.New(fault.NotFound, "no catalog of %s is known", certname)
	}
	if err != nil {
		return CatalogMeta{}, nil, fmt.Errorf("query catalog of %s: %w", certname, err)
	}
	body, err := db.zip.unpack(packed)
	if err != nil {
		return CatalogMeta{}, nil, fmt.Errorf("query catalog of %s: %w", certname, err)
	}
	if body, err = m.ofThisCompile(body); err != nil {
		return CatalogMeta{}, nil, fmt.Errorf("read catalog of %s: %w", certname, err)
	}
	m.Stored = at.time()
	return m, body, nil
}
