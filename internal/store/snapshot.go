package store

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/sqlite"
)

// This file gives a member what it can no longer have from any journal: the rows that were made of records which are pruned.
// They travel as the records that would make them, with their stamps, so that folding them in any order and twice is no harm.

// kindNode is a record of a snapshot only: the row of a node, whose records may all be gone.
const kindNode = "snapshot.node"

// Missing says what must come as a snapshot.
type Missing struct {
	Before  journal.Time              // what is newer comes as records
	Origins map[journal.Origin]uint64 // the last record of each that did not come
}

// A gap in a journal is noticed when its records are folded. One that begins anew on purpose, at 0, has had them.
func (db *DB) noteGap(ctx context.Context, o journal.Origin, recs []journal.Record) error {
	p, known := db.positions[o]
	first := recs[0]
	if first.Number == p.number+1 || known && p.number == 0 {
		return nil
	}
	heads, err := db.journal.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if h.Origin != o || h.Stream != journal.Bulk || h.Base < first.Number-1 {
			continue // not pruned: it is damaged, and will be mended
		}
		db.o.Log.InfoContext(ctx, "records were pruned before this member had them; what was made of them comes from another member", "origin", o, "from", p.number+1, "to", first.Number-1)
		if _, err := db.write.ExecContext(ctx, `INSERT INTO gap (origin, number, stamp) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET number = max(number, excluded.number), stamp = max(stamp, excluded.stamp)`, o, first.Number-1, stampOf(&first)); err != nil {
			return fmt.Errorf("note what is missing: %w", err)
		}
	}
	return nil
}

// Missing returns what must come as a snapshot; ok is false when nothing must.
func (db *DB) Missing(ctx context.Context) (m Missing, ok bool, err error) {
	rows, err := db.read.QueryContext(ctx, `SELECT origin, number, stamp FROM gap`)
	if err != nil {
		return m, false, fmt.Errorf("look for what is missing: %w", err)
	}
	defer rows.Close()
	m.Origins = map[journal.Origin]uint64{}
	for rows.Next() {
		var o journal.Origin
		var number uint64
		var at stamp
		if err := rows.Scan(&o, &number, &at); err != nil {
			return m, false, fmt.Errorf("look for what is missing: %w", err)
		}
		m.Origins[o] = number
		if len(at) >= 8 {
			m.Before = max(m.Before, journal.Time(binary.BigEndian.Uint64(at)))
		}
	}
	return m, len(m.Origins) > 0, rows.Err()
}

// GiveUp forgets what is missing: no member has it any more.
func (db *DB) GiveUp(ctx context.Context) error {
	return db.update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM gap`)
		return err
	})
}

// entryHead says what an entry of a snapshot is: a record, or the end.
type entryHead struct {
	Kind   string         `json:"kind"`
	Time   journal.Time   `json:"time"`
	Origin journal.Origin `json:"origin"`
	Key    string         `json:"key"`

	End *snapshotEnd `json:"end,omitempty"`
}

// snapshotEnd says what was folded into the tables that the snapshot is of.
type snapshotEnd struct {
	Folded map[journal.Origin]uint64 `json:"folded"`
	Gaps   map[journal.Origin]uint64 `json:"gaps"` // what that member itself never had
}

// maxEntry bounds one entry: a record with its head.
const maxEntry = journal.MaxBody + 1<<16

// snapshotStep is how many nodes are read at a time, so that no transaction is long.
const snapshotStep = 100

// WriteSnapshot writes what was made of records before a time: of each node its row, facts, newest catalog, ENC answer, last
// compile and last report, and which files the bucket has had. Histories are not part of it.
func (db *DB) WriteSnapshot(ctx context.Context, w io.Writer, before journal.Time) error {
	end := &snapshotEnd{Folded: map[journal.Origin]uint64{}}
	missing, _, err := db.Missing(ctx)
	if err != nil {
		return err
	}
	end.Gaps = missing.Origins
	if err := db.takeFold(ctx); err != nil {
		return err
	}
	for o, p := range db.positions {
		end.Folded[o] = p.number
	}
	db.endFold()
	s := snapshot{db: db, w: bufio.NewWriterSize(w, 1<<16), before: binary.BigEndian.AppendUint64(nil, uint64(before))}
	if err := s.nodes(ctx); err != nil {
		return fmt.Errorf("give a snapshot: %w", err)
	}
	if err := s.bucket(ctx); err != nil {
		return fmt.Errorf("give a snapshot: %w", err)
	}
	if err := s.entry(entryHead{End: end}, nil); err != nil {
		return err
	}
	return s.w.Flush()
}

// A snapshot is being written.
type snapshot struct {
	db     *DB
	w      *bufio.Writer
	before stamp
}

func (s *snapshot) entry(head entryHead, body []byte) error {
	b, err := joinParts(head, body)
	if err != nil {
		return err
	}
	if _, err := s.w.Write(binary.AppendUvarint(nil, uint64(len(b)))); err != nil {
		return err
	}
	_, err = s.w.Write(b)
	return err
}

// record writes the record that makes a row.
func (s *snapshot) record(kind, key string, at stamp, meta any, attached ...[]byte) error {
	if len(at) < 8 {
		return nil // never
	}
	body, err := joinParts(meta, attached...)
	if err != nil {
		return err
	}
	return s.entry(entryHead{Kind: kind, Time: journal.Time(binary.BigEndian.Uint64(at)), Origin: journal.Origin(at[8:]), Key: key}, body)
}

func (s *snapshot) nodes(ctx context.Context) error {
	for after := puppet.Certname(""); ; {
		names, err := s.page(ctx, after)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			for _, write := range []func(context.Context, puppet.Certname) error{s.node, s.facts, s.catalog, s.enc, s.compile, s.report} {
				if err := write(ctx, name); err != nil && !errors.Is(err, sql.ErrNoRows) {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
		after = names[len(names)-1]
	}
}

func (s *snapshot) page(ctx context.Context, after puppet.Certname) (names []puppet.Certname, err error) {
	rows, err := s.db.read.QueryContext(ctx, `SELECT certname FROM node WHERE certname > ? ORDER BY certname LIMIT ?`, after, snapshotStep)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n puppet.Certname
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, rows.Err()
}

func (s *snapshot) node(ctx context.Context, name puppet.Certname) error {
	var n nodeRow
	var seen, off stamp
	err := s.db.read.QueryRowContext(ctx, `SELECT seen, deactivated, facts, catalog, compile, report, environment_stamp, environment, report_id, status, cached_catalog, noop, compile_failed
		FROM node WHERE certname = ?`, name).Scan(&seen, &off, &n.Facts, &n.Catalog, &n.Compile, &n.Report, &n.EnvironmentStamp, &n.Environment, &n.ReportID, &n.Status, &n.CachedCatalog, &n.Noop, &n.CompileFailed)
	if err != nil {
		return err
	}
	if err := s.record(kindDeactivate, string(name), off, deactivated{name}); err != nil {
		return err
	}
	return s.record(kindNode, string(name), seen, n)
}

func (s *snapshot) facts(ctx context.Context, name puppet.Certname) error {
	var at stamp
	var producer string
	var packed []byte
	if err := s.db.read.QueryRowContext(ctx, `SELECT stamp, producer, facts FROM facts WHERE certname = ? AND stamp < ?`, name, s.before).Scan(&at, &producer, &packed); err != nil {
		return err
	}
	f, err := s.db.Facts(ctx, name)
	if err != nil {
		return err
	}
	return s.record(kindFacts, string(name), at, factsRecord{name, f.Environment, f.Timestamp, producer}, f.Values)
}

func (s *snapshot) catalog(ctx context.Context, name puppet.Certname) error {
	var m CatalogMeta
	var at stamp
	var body, exported []byte
	err := s.db.read.QueryRowContext(ctx, `SELECT c.certname, c.hash, c.stamp, c.environment, c.code_id, c.catalog_uuid, c.transaction_uuid, c.version, c.bytes, b.body, b.exported
		FROM catalog c JOIN catalog_body b ON b.certname = c.certname AND b.hash = c.hash
		WHERE c.certname = ? AND b.journalled < ? ORDER BY c.stamp DESC LIMIT 1`, name, s.before).
		Scan(&m.Certname, &m.Hash, &at, &m.Environment, &m.CodeID, &m.CatalogUUID, &m.TransactionUUID, &m.Version, &m.Bytes, &body, &exported)
	if err != nil {
		return err
	}
	if body, err = s.db.zip.unpack(body); err != nil {
		return err
	}
	if exported, err = s.db.zip.unpack(exported); err != nil {
		return err
	}
	return s.record(kindCatalog, string(name), at, m, body, exported)
}

func (s *snapshot) enc(ctx context.Context, name puppet.Certname) error {
	var at stamp
	var body []byte
	if err := s.db.read.QueryRowContext(ctx, `SELECT stamp, body FROM enc WHERE certname = ? AND stamp < ?`, name, s.before).Scan(&at, &body); err != nil {
		return err
	}
	return s.record(kindENC, string(name), at, encRecord{name}, body)
}

func (s *snapshot) compile(ctx context.Context, name puppet.Certname) error {
	var at stamp
	if err := s.db.read.QueryRowContext(ctx, `SELECT coalesce(max(stamp), x'') FROM compile WHERE certname = ?`, name).Scan(&at); err != nil {
		return err
	}
	if len(at) == 0 || string(at) >= string(s.before) {
		return nil
	}
	last, err := s.db.Compiles(ctx, name, 1)
	if err != nil || len(last) == 0 {
		return err
	}
	return s.record(kindCompile, string(name), at, last[0])
}

func (s *snapshot) report(ctx context.Context, name puppet.Certname) error {
	var at stamp
	var summary string
	var body []byte
	if err := s.db.read.QueryRowContext(ctx, `SELECT r.stamp, r.summary, r.body FROM report r JOIN node n ON n.report_id = r.id WHERE n.certname = ? AND r.stamp < ?`, name, s.before).
		Scan(&at, &summary, &body); err != nil {
		return err
	}
	raw, err := s.db.zip.unpack(body)
	if err != nil {
		return err
	}
	return s.record(kindReport, string(name), at, json.RawMessage(summary), raw)
}

func (s *snapshot) bucket(ctx context.Context) error {
	sum, path := "", ""
	for {
		rows, err := s.db.read.QueryContext(ctx, `SELECT p.sha256, p.path, p.stamp, f.size, (SELECT json_group_object(algo, sum) FROM bucket_sum WHERE sha256 = p.sha256)
			FROM bucket_path p JOIN bucket_file f ON f.sha256 = p.sha256 WHERE (p.sha256, p.path) > (?, ?) AND p.stamp < ? ORDER BY p.sha256, p.path LIMIT ?`, sum, path, s.before, snapshotStep)
		if err != nil {
			return err
		}
		n, err := s.bucketPage(rows, &sum, &path)
		if err != nil || n == 0 {
			return err
		}
	}
}

func (s *snapshot) bucketPage(rows *sql.Rows, sum, path *string) (n int, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for ; rows.Next(); n++ {
		var b bucketRecord
		var at stamp
		var sums string
		if err := rows.Scan(&b.SHA256, &b.Path, &at, &b.Size, &sums); err != nil {
			return n, err
		}
		if err := json.Unmarshal([]byte(sums), &b.Sums); err != nil {
			return n, err
		}
		if err := s.record(kindBucket, b.SHA256, at, b); err != nil {
			return n, err
		}
		*sum, *path = b.SHA256, b.Path
	}
	return n, rows.Err()
}

// TakeSnapshot folds a snapshot and reports whether nothing is missing any more. A snapshot that is cut off is an error, and may
// be taken again.
func (db *DB) TakeSnapshot(ctx context.Context, r io.Reader) (whole bool, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	var group []journal.Record
	flush := func() error {
		changes := db.changes(group)
		if err := db.takeFold(ctx); err != nil {
			return err
		}
		defer db.endFold()
		err := db.apply(ctx, group, changes, nil)
		group = group[:0]
		return err
	}
	for size := 0; ; {
		head, body, err := readEntry(in)
		if err != nil {
			return false, fault.Wrap(fault.Invalid, err, "the snapshot cannot be read: %v", err)
		}
		if head.End != nil {
			if err := flush(); err != nil {
				return false, err
			}
			if err := db.expireNodes(ctx); err != nil {
				return false, err
			}
			return db.closeGaps(ctx, head.End)
		}
		group = append(group, journal.Record{Origin: head.Origin, Stream: journal.Bulk, Time: head.Time, Kind: head.Kind, Key: head.Key, Body: body})
		if size += len(body); len(group) >= foldStep || size > 16<<20 {
			size = 0
			if err := flush(); err != nil {
				return false, err
			}
		}
	}
}

func readEntry(in *bufio.Reader) (head entryHead, body []byte, err error) {
	length, err := binary.ReadUvarint(in)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return head, nil, err
	}
	if length > maxEntry || length > math.MaxInt32 {
		return head, nil, fmt.Errorf("an entry is said to have %d bytes", length)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(in, b); err != nil {
		return head, nil, err
	}
	parts, err := splitParts(&journal.Record{Body: b}, &head, 1)
	if err != nil {
		return head, nil, err
	}
	if head.End == nil && (head.Kind == "" || head.Origin == "" || head.Time == 0) {
		return head, nil, errors.New("an entry does not say what it is")
	}
	return head, parts[0], nil
}

// closeGaps drops what the other member had folded.
func (db *DB) closeGaps(ctx context.Context, end *snapshotEnd) (whole bool, err error) {
	m, ok, err := db.Missing(ctx)
	if err != nil || !ok {
		return !ok, err
	}
	left := len(m.Origins)
	err = db.update(ctx, func(tx *sqlite.Tx) error {
		for o, number := range m.Origins {
			if _, gap := end.Gaps[o]; gap || end.Folded[o] < number {
				continue
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM gap WHERE origin = ? AND number <= ?`, o, number); err != nil {
				return err
			}
			left--
		}
		return nil
	})
	return left == 0, err
}

// foldNode brings in the row of a node: each part by its own stamp.
func foldNode(r *journal.Record) (change, error) {
	var n nodeRow
	if _, err := splitParts(r, &n, 0); err != nil {
		return nil, err
	}
	return func(_ context.Context, tx *folding) error {
		tx.node(puppet.Certname(r.Key)).add(stampOf(r), n)
		return nil
	}, nil
}
