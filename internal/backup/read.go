package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/ca"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file reads a backup from its first byte to its last, and checks all of it on the way.

// A taker is told what is in a backup. What it does not read is read by the caller.
type taker interface {
	keys(k secrets) error
	records(ctx context.Context, r io.Reader) error
	content(h *tar.Header, name string, r io.Reader) error
	code(h *tar.Header, environment puppet.Environment, below string, r io.Reader) error
}

// read reads the backup and gives its parts to t. It returns nil only if every byte is as it was written.
func read(ctx context.Context, p Place, info Info, k Keys, t taker, progress func(done, total int64)) (Summary, error) {
	if _, err := k.identities(); err != nil {
		return Summary{}, err
	}
	summary, err := readAll(ctx, p, info, k, t, progress)
	if ctx.Err() != nil {
		return summary, ctx.Err()
	}
	if err == nil || fault.KindOf(err) == fault.Denied || fault.KindOf(err) == fault.Unavailable {
		return summary, err // the key, the network or the disk, not the backup
	}
	return summary, fault.Wrap(fault.Invalid, err, "the backup %s cannot be used: %v", info.Name, err)
}

func readAll(ctx context.Context, p Place, info Info, k Keys, t taker, progress func(done, total int64)) (summary Summary, err error) {
	h, e, size, err := frame(ctx, p, Object{Name: info.Name, Size: info.Size})
	if err != nil {
		return summary, err
	}
	file, _, err := p.Open(ctx, info.Name, 0, size)
	if err != nil {
		return summary, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in := &source{r: file, h: sha256.New(), left: size, total: size, progress: progress, ctx: ctx}
	if _, _, err := readHeader(in); err != nil {
		return summary, err
	}
	if summary, err = readContent(ctx, io.LimitReader(in, e.Content), h, k, t); err != nil {
		return summary, err
	}
	if got := hex.EncodeToString(in.h.Sum(nil)); got != e.Sum {
		return summary, errors.New("its SHA-256 is not the one that its end tells")
	}
	if !sameSummary(summary, e.Summary) {
		return summary, errors.New("its end does not tell what is in it")
	}
	return summary, nil
}

// A source sums what is read and tells how far it is.
type source struct {
	ctx      context.Context //nolint:containedctx // of this one reading
	r        io.Reader
	h        hash.Hash
	left     int64
	total    int64
	progress func(done, total int64)
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	s.h.Write(p[:n])
	s.left -= int64(n)
	if s.progress != nil {
		s.progress(s.total-s.left, s.total)
	}
	return n, err
}

func readContent(ctx context.Context, sealed io.Reader, h Header, k Keys, t taker) (Summary, error) {
	plain, err := k.open(sealed, h)
	if err != nil {
		return Summary{}, err
	}
	unpacked, err := zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(2*window), zstd.WithDecoderLowmem(true))
	if err != nil {
		return Summary{}, err
	}
	defer unpacked.Close()
	c := &contentReader{t: t, header: h}
	if c.check, err = journal.NewChecker(); err != nil {
		return Summary{}, err
	}
	defer c.check.Close()
	if err := c.all(ctx, tar.NewReader(unpacked)); err != nil {
		return c.sum, err
	}
	// To the last byte: the encryption has an end of its own, which tells that nothing is missing.
	for _, r := range []io.Reader{unpacked, plain, sealed} {
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			return c.sum, err
		}
		if n > 0 && r != unpacked { // a tar ends with blocks of zeros
			return c.sum, errors.New("there is something behind its end")
		}
	}
	return c.sum, nil
}

// A contentReader reads the entries and counts them.
type contentReader struct {
	t      taker
	header Header
	check  *journal.Checker
	sum    Summary
	stage  int
	told   *contentEnd
}

// The stages of a content, in their order.
const (
	stageHeader = iota
	stageKeys
	stageRecords
	stageContents
	stageCode
	stageEnd
)

func (c *contentReader) all(ctx context.Context, in *tar.Reader) error {
	for first := true; ; first = false {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		stage := stageOf(h.Name)
		if stage < c.stage || first != (stage == stageHeader) || c.stage < stageKeys && stage > stageKeys || c.told != nil {
			return fmt.Errorf("the entry %.100q is not where it belongs", h.Name)
		}
		c.stage = stage
		if err := c.entry(ctx, stage, h, in); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
	}
	if c.told == nil {
		return errors.New("its content has no end")
	}
	return c.compare()
}

func stageOf(name string) int {
	switch {
	case name == headerEntry:
		return stageHeader
	case name == keysEntry:
		return stageKeys
	case strings.HasPrefix(name, journalDir):
		return stageRecords
	case strings.HasPrefix(name, contentDir):
		return stageContents
	case strings.HasPrefix(name, codeDir):
		return stageCode
	case name == endEntry:
		return stageEnd
	}
	return -1
}

func (c *contentReader) entry(ctx context.Context, stage int, h *tar.Header, r io.Reader) error {
	if stage != stageCode && h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%.100q is no file", h.Name)
	}
	c.sum.Bytes += h.Size
	switch stage {
	case stageHeader:
		var inside Header
		if err := small(r, &inside); err != nil {
			return err
		}
		inside.Format, inside.Locks = c.header.Format, c.header.Locks // these are of the outside
		if !sameHeader(inside, c.header) {
			return errors.New("its header is not the one with which its content was made")
		}
	case stageKeys:
		var k secrets
		if err := small(r, &k); err != nil {
			return err
		}
		if len(k.Authority) == 0 {
			return errors.New("it has no key of a certificate authority")
		}
		if err := ca.CheckKeys(k.Authority); err != nil {
			return err
		}
		return c.t.keys(k)
	case stageRecords:
		return c.records(ctx, r)
	case stageContents:
		return c.content(h, r)
	case stageCode:
		return c.code(h, r)
	case stageEnd:
		c.sum.Bytes -= h.Size
		c.told = &contentEnd{}
		return small(r, c.told)
	}
	return nil
}

func sameHeader(a, b Header) bool {
	return a.Time.Equal(b.Time) && a.Member == b.Member && a.Site == b.Site && a.Origin == b.Origin && a.Troupe == b.Troupe && a.Authority == b.Authority && a.Version == b.Version
}

func small(r io.Reader, v any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxSmall))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// records gives one entry to the checker and to the taker at once.
func (c *contentReader) records(ctx context.Context, r io.Reader) error {
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		_, err := c.check.Check(pr)
		_ = pr.CloseWithError(err) // it never fails
		checked <- err
	}()
	tee := io.TeeReader(r, pw)
	err := c.t.records(ctx, tee)
	if err == nil {
		_, err = io.Copy(io.Discard, tee)
	}
	_ = pw.CloseWithError(err) // likewise; nil is the end
	if bad := <-checked; bad != nil && err == nil {
		err = bad
	}
	return err
}

func (c *contentReader) content(h *tar.Header, r io.Reader) error {
	name := strings.TrimPrefix(h.Name, contentDir)
	if !store.IsContent(name) {
		return fmt.Errorf("%.100q is no name of a content", h.Name)
	}
	sum := sha256.New()
	tee := io.TeeReader(r, sum)
	if err := c.t.content(h, name, tee); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != name {
		return fmt.Errorf("the content %s does not have that sum", name)
	}
	c.sum.Contents++
	return nil
}

func (c *contentReader) code(h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, codeDir), "/")
	top, below, _ := strings.Cut(name, "/")
	environment, err := puppet.ParseEnvironment(top)
	if err != nil || path.Clean("/"+name) != "/"+name {
		return fmt.Errorf("%.100q is no place in an environment", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeSymlink:
		if below == "" {
			return fmt.Errorf("%.100q is to be a folder", h.Name)
		}
		c.sum.Files++
	case tar.TypeDir:
		if below == "" {
			c.sum.Environments++
		}
	default:
		return fmt.Errorf("%.100q is neither folder, file nor link", h.Name)
	}
	if c.sum.Environments > maxSnapshots {
		return fmt.Errorf("it has more than %d environments", maxSnapshots)
	}
	return c.t.code(h, environment, below, r)
}

// compare holds what was read against what was said to be written.
func (c *contentReader) compare() error {
	heads := c.check.Heads()
	c.sum.Records, c.sum.Chains, c.sum.LeftOut = c.check.Records(), len(heads), c.told.Summary.LeftOut
	if !slices.Equal(heads, c.told.Heads) {
		return errors.New("the journals in it do not end where they are said to end")
	}
	if !sameSummary(c.sum, c.told.Summary) {
		return fmt.Errorf("it holds %+v and was written with %+v", c.sum, c.told.Summary)
	}
	return nil
}

func sameSummary(a, b Summary) bool {
	left := slices.Equal(a.LeftOut, b.LeftOut)
	a.LeftOut, b.LeftOut = nil, nil
	return left && a.Records == b.Records && a.Chains == b.Chains && a.Contents == b.Contents && a.Environments == b.Environments && a.Files == b.Files && a.Bytes == b.Bytes
}

// Verify reads a backup to its last byte and says what is in it. It writes nothing.
func Verify(ctx context.Context, p Place, info Info, k Keys, progress func(done, total int64)) (Summary, error) {
	return read(ctx, p, info, k, looker{}, progress)
}

// Unlock says whether the keys open a backup. It reads the beginning.
func Unlock(ctx context.Context, p Place, info Info, k Keys) error {
	file, _, err := p.Open(ctx, info.Name, 0, maxHeader+maxLock)
	if err != nil {
		return err
	}
	h, _, err := readHeader(file)
	if err == nil {
		_, err = k.open(file, h)
	}
	return errors.Join(err, file.Close())
}

// maxLock is more than the encryption says at its beginning about some hundreds of recipients.
const maxLock = 256 << 10

// A looker takes nothing.
type looker struct{}

func (looker) keys(secrets) error                                            { return nil }
func (looker) records(context.Context, io.Reader) error                      { return nil }
func (looker) content(*tar.Header, string, io.Reader) error                  { return nil }
func (looker) code(*tar.Header, puppet.Environment, string, io.Reader) error { return nil }
