// Package backup keeps everything that a member must not lose in a folder or an S3 bucket, and puts it back into an empty one: the
// keys of its CAs, the journals of all members, the contents of the filebucket, the environments.
//
// A backup is one file: a header that anybody may read, the encrypted content, and an end that tells a whole backup from one that was
// cut off. It is made and read as a stream. A [Place] holds many of them.
//
// Begin with [OpenPlace]; then [Create] with what [Member.Write] gives, [List], [Verify] and [Extract]. DESIGN.md beside this file has
// the format and what must stay true.
package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// Info is a backup in its place, as far as it can be told without a key.
type Info struct {
	Name    string  `json:"name"`
	Size    int64   `json:"size"`
	Whole   bool    `json:"whole"` // nothing is missing at its end; whether every byte is right, only Verify tells
	Problem string  `json:"problem,omitempty"`
	Header  Header  `json:"header,omitzero"`
	Summary Summary `json:"summary,omitzero"`
}

// Summary counts what is in a backup.
type Summary struct {
	Records      uint64   `json:"records"`
	Chains       int      `json:"chains"`
	Contents     int      `json:"contents"` // of the filebucket
	Environments int      `json:"environments"`
	Files        int      `json:"files"` // of the environments
	Bytes        int64    `json:"bytes"` // before compression
	LeftOut      []string `json:"left_out,omitempty"`
}

const (
	prefix = "troupe-"
	suffix = ".backup"
	stamp  = "20060102T150405.000Z"
)

// nameOf makes the name of a backup: names sort by time.
func nameOf(h Header) string {
	return prefix + h.Time.UTC().Format(stamp) + "-" + string(h.Origin) + suffix
}

// isName reports whether a file may be a backup.
func isName(name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return false
	}
	rest, ok = strings.CutSuffix(rest, suffix)
	at, origin, cut := strings.Cut(rest, "-")
	_, err := time.Parse(stamp, at)
	return ok && cut && origin != "" && err == nil
}

// A Source writes the content of a backup and says what it was.
type Source func(ctx context.Context, w io.Writer) (Summary, error)

// Create writes a backup and returns it when it is whole and durable in its place. After an error there is nothing of it.
// progress is told how many bytes of content went in; it may be nil.
func Create(ctx context.Context, p Place, h Header, l Locks, src Source, progress func(done int64)) (Info, error) {
	lockers, err := l.recipients()
	if err != nil {
		return Info{}, err
	}
	h.Locks = l.describe()
	h.Format = formatVersion
	name := nameOf(h)
	making, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	made := make(chan error, 1)
	var summary Summary
	counted := &meter{progress: progress}
	go func() {
		var err error
		summary, err = seal(w, h, lockers, func(w io.Writer) (Summary, error) {
			counted.w = w
			return src(making, counted)
		})
		_ = w.CloseWithError(broken(err)) // it never fails
		made <- err
	}()
	err = p.Create(ctx, name, r)
	_ = r.CloseWithError(errPlace) // whoever still writes ends; likewise
	cancel()
	why := <-made
	_, ofSource := errors.AsType[*brokenError](err)
	switch {
	case ctx.Err() != nil && err != nil:
		return Info{}, fmt.Errorf("the backup was interrupted: %w", ctx.Err())
	case err != nil && !ofSource:
		return Info{}, err
	case why != nil:
		return Info{}, why
	}
	info := examine(ctx, p, Object{Name: name, Size: -1})
	if !info.Whole {
		return info, fault.New(fault.Unavailable, "the backup was written to %s, but is not whole there: %s", p, info.Problem)
	}
	info.Summary = summary
	return info, nil
}

// errPlace ends the writing of a backup whose place has failed.
var errPlace = errors.New("the place of the backup takes no more")

// A meter counts what is written through it.
type meter struct {
	w        io.Writer
	n        int64
	progress func(done int64)
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.n += int64(n)
	if m.progress != nil {
		m.progress(m.n)
	}
	return n, err
}

// List returns the backups of a place, the newest first, whole ones and others.
func List(ctx context.Context, p Place) ([]Info, error) {
	objects, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	all := []Info{}
	for _, o := range objects {
		if !isName(o.Name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		all = append(all, examine(ctx, p, o))
	}
	slices.SortFunc(all, func(a, b Info) int { return cmp.Compare(b.Name, a.Name) })
	return all, nil
}

// Newest returns the newest whole backup, or the one of that name. Several authorities in one place are no mistake to be guessed at.
func Newest(ctx context.Context, p Place, name string) (Info, error) {
	if name != "" {
		if !isName(name) {
			return Info{}, fault.New(fault.Invalid, "%q is no name of a backup: troupe backup list shows them", name)
		}
		h, e, size, err := frame(ctx, p, Object{Name: name, Size: -1})
		if fault.KindOf(err) == fault.Invalid {
			return Info{}, fault.Wrap(fault.Invalid, err, "the backup %s is not whole: %s. Choose another one (troupe backup list)", name, fault.Message(err))
		}
		return Info{Name: name, Size: size, Whole: err == nil, Header: h, Summary: e.Summary}, err
	}
	all, err := List(ctx, p)
	if err != nil {
		return Info{}, err
	}
	whole := slices.DeleteFunc(slices.Clone(all), func(i Info) bool { return !i.Whole })
	if len(whole) == 0 && len(all) > 0 {
		return Info{}, fault.New(fault.NotFound, "%s has %d backups and none of them is whole (troupe backup list)", p, len(all))
	}
	if len(whole) == 0 {
		return Info{}, fault.New(fault.NotFound, "%s has no backup", p)
	}
	for _, i := range whole[1:] {
		if i.Header.Authority != whole[0].Header.Authority {
			return Info{}, fault.New(fault.Conflict, "%s has backups of different certificate authorities, such as %s and %s: say which one with --name", p, whole[0].Name, i.Name)
		}
	}
	return whole[0], nil
}

// Prune removes the oldest backups of one member beyond keep whole ones, and what is older than those and not whole. It returns
// the names.
func Prune(ctx context.Context, p Place, of Header, keep int) ([]string, error) {
	all, err := List(ctx, p)
	if err != nil {
		return nil, err
	}
	var gone []string
	whole := 0
	for _, i := range all {
		if i.Header.Member != of.Member || i.Header.Authority != of.Authority {
			continue // that of another one, or nobody can tell whose
		}
		if i.Whole {
			whole++
		}
		if whole <= keep && (i.Whole || whole < keep) {
			continue
		}
		if err := p.Remove(ctx, i.Name); err != nil {
			return gone, err
		}
		gone = append(gone, i.Name)
	}
	return gone, nil
}

// Header is what anybody may know of a backup.
type Header struct {
	Format    int            `json:"format"`
	Time      time.Time      `json:"time"`
	Member    string         `json:"member"` // its certname
	Site      string         `json:"site"`
	Origin    journal.Origin `json:"origin"`
	Troupe    string         `json:"troupe,omitempty"` // "" when the member served alone
	Authority string         `json:"authority"`        // SHA-256 of the certificate that signs agents, hex
	Version   string         `json:"version"`          // of troupe
	Locks     []string       `json:"locks"`            // "passphrase", or recipients
}

// A brokenError is why the stream of a backup has ended before its end. It is no io.EOF of any sort: a place that took it for one
// would keep half of a backup.
type brokenError struct{ why error }

func (e *brokenError) Error() string { return e.why.Error() }

func broken(err error) error {
	if err == nil {
		return nil
	}
	return &brokenError{err}
}
