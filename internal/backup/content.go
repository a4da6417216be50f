package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/store"
)

// This file writes what is inside a backup, a tar in this order:
//
//	backup.json        the header once more, so that nobody puts another one before this content
//	keys.json          of the CAs, and of what stands for sensitive parameters
//	journal/00000001 … records as journal.Export writes them, state before bulk
//	bucket/SHA256 …    contents of the filebucket
//	code/NAME/…        environments, in the state that is served
//	end.json           counts, and where each chain ends
//
// It is a plain tar so that somebody without troupe gets at the keys with age, zstd and tar.

// Member is what is backed up: the open parts of one member.
type Member struct {
	Name, Site, Version string
	Data                string // the data folder

	Journal   *journal.Journal
	Authority *ca.Authority
	Cluster   *cluster.Cluster
	Store     *store.DB
	Code      *code.Repo
	Outside   []string // folders of modules that belong to no environment: they are told as left out

	Busy chan struct{} // holds one token while a backup is made; shared by copies
}

// The entries of the tar.
const (
	headerEntry  = "backup.json"
	keysEntry    = "keys.json"
	endEntry     = "end.json"
	journalDir   = "journal/"
	contentDir   = "bucket/"
	codeDir      = "code/"
	maxSmall     = 16 << 20 // of an entry that is held in memory
	recordsOnce  = 500      // in one entry, and fewer when they are large
	maxSnapshots = 1 << 16  // environments
)

// secrets is keys.json.
type secrets struct {
	Authority      map[string][]byte `json:"authority"`                // PEM by key id
	Infrastructure []byte            `json:"infrastructure,omitempty"` // PEM
	Store          []byte            `json:"store"`
}

// contentEnd is end.json.
type contentEnd struct {
	Summary Summary        `json:"summary"`
	Heads   []journal.Head `json:"heads"`
}

// Header returns what anybody may know of a backup that is made now.
func (m Member) Header(now time.Time) Header {
	sum := sha256.Sum256(m.Authority.Issuer().Raw)
	return Header{
		Time: now.UTC().Truncate(time.Millisecond), Member: m.Name, Site: m.Site, Origin: m.Journal.Origin(), Troupe: m.Cluster.ID(),
		Authority: hex.EncodeToString(sum[:]), Version: m.Version,
	}
}

// Estimate returns about how many bytes Write will write.
func (m Member) Estimate() int64 {
	var total int64
	for _, dir := range []string{"journal", "store/bucket"} {
		entries, err := os.ReadDir(filepath.Join(m.Data, dir))
		if err != nil {
			continue // it is an estimate
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && e.Type().IsRegular() {
				total += info.Size()
			}
		}
	}
	return total
}

// Write writes the content of a backup. The member may serve meanwhile.
func (m Member) Write(ctx context.Context, h Header, w io.Writer) (Summary, error) {
	select {
	case m.Busy <- struct{}{}:
		defer func() { <-m.Busy }()
	default:
		return Summary{}, fault.New(fault.Conflict, "a backup of this member is being made: wait until it is done")
	}
	out := newWriter(w, h.Time)
	// Chains first, then keys: no chain tells of a key that is not there.
	heads, err := m.Journal.Heads(ctx)
	if err != nil {
		return out.sum, err
	}
	if err := m.writeKeys(out, h); err != nil {
		return out.sum, err
	}
	ends, err := m.writeRecords(ctx, out, heads)
	if err != nil {
		return out.sum, err
	}
	err = m.Store.Contents(ctx, func(name string, f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		out.sum.Contents++
		return out.file(contentDir+name, 0o600, info.Size(), info.ModTime(), f)
	})
	if err != nil {
		return out.sum, err
	}
	if err := m.writeCode(ctx, out); err != nil {
		return out.sum, err
	}
	told := out.sum
	if err := out.json(endEntry, contentEnd{Summary: told, Heads: ends}); err != nil {
		return told, err
	}
	return told, out.tar.Close()
}

func (m Member) writeKeys(out *writer, h Header) error {
	if err := out.json(headerEntry, h); err != nil {
		return err
	}
	authority, err := m.Authority.Keys()
	if err != nil {
		return fmt.Errorf("keys of the certificate authority: %w", err)
	}
	if len(authority[hex.EncodeToString(m.Authority.Issuer().SubjectKeyId)]) == 0 {
		return fault.New(fault.Conflict, "this member does not hold the key of the certificate authority, so nobody could sign after a restore: back up one that does")
	}
	infrastructure, err := m.Cluster.CAKey()
	if err != nil {
		return err
	}
	return out.json(keysEntry, secrets{Authority: authority, Infrastructure: infrastructure, Store: m.Store.Key()})
}

// writeRecords writes all chains up to where they end now. What is written is checked on the way, so that no backup is made of what
// could not be restored.
func (m Member) writeRecords(ctx context.Context, out *writer, heads []journal.Head) ([]journal.Head, error) {
	check, err := journal.NewChecker()
	if err != nil {
		return nil, err
	}
	defer check.Close()
	var entry bytes.Buffer
	for _, s := range []journal.Stream{journal.State, journal.Bulk} {
		for _, h := range heads {
			if h.Stream != s {
				continue
			}
			if err := m.writeChain(ctx, out, check, h, &entry); err != nil {
				return nil, err
			}
		}
	}
	ends := check.Heads()
	out.sum.Records, out.sum.Chains = check.Records(), len(ends)
	return ends, nil
}

func (m Member) writeChain(ctx context.Context, out *writer, check *journal.Checker, h journal.Head, entry *bytes.Buffer) error {
	for after := uint64(0); after < h.Last; {
		entry.Reset()
		n, err := m.Journal.Export(ctx, entry, h.Origin, h.Stream, after, int(min(recordsOnce, h.Last-after)))
		if err != nil {
			return m.damaged(out, h, err)
		}
		if n == 0 {
			return m.damaged(out, h, fmt.Errorf("%s record %d of member %s is not there", h.Stream, after+1, h.Origin))
		}
		frames := entry.Bytes()
		good, bad := check.Check(bytes.NewReader(frames))
		if good > 0 {
			out.entries++
			if err := out.file(fmt.Sprintf("%s%08d", journalDir, out.entries), 0o600, good, out.now, bytes.NewReader(frames[:good])); err != nil {
				return err
			}
		}
		if bad != nil {
			return m.damaged(out, h, bad)
		}
		after = check.Last(h.Origin, h.Stream)
	}
	return nil
}

// damaged decides what becomes of a chain that cannot be read on. Without the state there is no authority, and no backup that is
// worth its name; facts and reports come again, and must not keep the keys from being backed up.
func (m Member) damaged(out *writer, h journal.Head, err error) error {
	if h.Stream == journal.State {
		return fault.Wrap(fault.Internal, err, "the journal of this member is damaged, so no backup was made. Back up another member, then join again with this one (troupe journal verify tells more)")
	}
	_, damage := errors.AsType[*journal.DamageError](err)
	_, gap := errors.AsType[*journal.GapError](err)
	if !damage && !gap {
		return err
	}
	out.leaveOut("bulk records of member %s from a damaged one on: %v", h.Origin, err)
	return nil
}

// writeCode writes each environment as it is served now. One that cannot be read must not keep the rest from being backed up.
func (m Member) writeCode(ctx context.Context, out *writer) error {
	for _, dir := range m.Outside {
		modules, err := os.ReadDir(dir)
		if err == nil && len(modules) > 0 {
			out.leaveOut("%d modules in %s, which belongs to no environment (basemodulepath): keep a copy of this folder", len(modules), dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			out.leaveOut("modules in %s, which belongs to no environment (basemodulepath) and cannot be read: %v", dir, err)
		}
	}
	all, err := m.Code.Environments(ctx)
	if err != nil {
		return fmt.Errorf("list environments: %w", err)
	}
	for _, e := range all {
		v, err := m.Code.Current(ctx, e.Name)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			out.leaveOut("environment %s: %v", e.Name, err)
			continue
		}
		v.Retain()
		err = v.Walk(ctx, func(e code.Entry, content *os.File) error { return out.code(string(v.Environment), e, content) })
		v.Release()
		if err != nil {
			return fmt.Errorf("environment %s: %w", e.Name, err)
		}
		out.sum.Environments++
	}
	return nil
}

// A writer writes entries and counts them.
type writer struct {
	tar     *tar.Writer
	now     time.Time
	entries int // of records
	sum     Summary
}

// maxLeftOut bounds what is told: the end of a backup has room for it.
const maxLeftOut = 50

func (w *writer) leaveOut(format string, args ...any) {
	if len(w.sum.LeftOut) < maxLeftOut {
		w.sum.LeftOut = append(w.sum.LeftOut, fmt.Sprintf("%.500s", fmt.Sprintf(format, args...)))
	}
}

func newWriter(w io.Writer, now time.Time) *writer { return &writer{tar: tar.NewWriter(w), now: now} }

func (w *writer) json(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxSmall {
		return fmt.Errorf("%s has %d bytes, more than %d", name, len(text), maxSmall)
	}
	return w.file(name, 0o600, int64(len(text)), w.now, bytes.NewReader(text))
}

func (w *writer) file(name string, mode fs.FileMode, size int64, modified time.Time, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: modified.Truncate(time.Second)}
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	w.sum.Bytes += size
	n, err := io.Copy(w.tar, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s changed while it was read: %d bytes, not %d", name, n, size)
	}
	return err
}

func (w *writer) code(environment string, e code.Entry, content *os.File) error {
	name := codeDir + path.Join(environment, e.Path)
	h := &tar.Header{Name: name, Mode: int64(e.Mode.Perm()), ModTime: e.Modified.Truncate(time.Second)}
	switch {
	case content != nil:
		w.sum.Files++
		return w.file(name, e.Mode, e.Size, e.Modified, content)
	case e.Mode&fs.ModeSymlink != 0:
		w.sum.Files++
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	default:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	}
	return w.tar.WriteHeader(h)
}
