package deploy

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/carrier"
	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file brings the repo to what is deployed.

const (
	manifestMost = 2 * time.Minute // for a manifest
	contentsMost = 5 * time.Minute // for a group of contents
	groupCount   = 2000            // contents of one group …
	groupSize    = 64 << 20        // … and their bytes, unless one alone is larger
	maxWindow    = 8 << 20         // memory that a sender may ask for
)

// settle serves what is deployed and complete, and fetches what is not. It reports whether nothing is left to fetch.
func (d *Deployer) settle(ctx context.Context) (done bool) {
	if !d.takeTurn(ctx) {
		return false
	}
	defer d.endTurn()
	done, serves := true, true
	for _, w := range d.Deployments() {
		err := d.settleOne(ctx, w)
		if ctx.Err() != nil {
			return false
		}
		d.tell(ctx, w, err)
		done = done && err == nil
		serves = serves && (w.Version == "" || d.repo.Serves(w.Environment))
	}
	if serves {
		d.isOnce.Do(func() { close(d.settled) })
	}
	return done
}

func (d *Deployer) settleOne(ctx context.Context, w Deployment) error {
	pinned := d.repo.Pinned(w.Environment)
	switch {
	case pinned == w.Version:
		return nil
	case w.Version == "":
		return d.repo.Unpin(w.Environment)
	}
	began := time.Now()
	_, err := d.repo.Version(ctx, w.Environment, w.Version)
	if fault.KindOf(err) == fault.NotFound {
		// This member's own folder may hold just that, after a restore or where r10k runs on every member.
		if v, ferr := d.repo.Folder(ctx, w.Environment); ferr == nil && v.ID == w.Version {
			err = nil
		} else {
			err = d.fetch(ctx, w)
		}
	}
	if err == nil {
		err = d.repo.Pin(w.Environment, w.Version, code.Deployment{ConfigVersion: w.ConfigVersion})
	}
	if err == nil {
		d.log.InfoContext(ctx, "deployed version serves", telemetry.KeyEnvironment, w.Environment, telemetry.KeyCodeID, w.Version,
			"by", w.By, telemetry.KeyDuration, time.Since(began))
	}
	return err
}

// tell says once why an environment cannot be brought to what is deployed.
func (d *Deployer) tell(ctx context.Context, w Deployment, err error) {
	problem := ""
	if err != nil {
		problem = fault.Message(err)
	}
	if problem != "" && problem != d.failed[w.Environment] {
		d.log.WarnContext(ctx, "deployed version cannot be had yet; what was served before is served", telemetry.KeyEnvironment, w.Environment,
			telemetry.KeyCodeID, w.Version, "by", w.By, telemetry.KeyErr, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed[w.Environment] = problem
}

// fetch makes a version complete here, from any member that has it or parts of it.
func (d *Deployer) fetch(ctx context.Context, w Deployment) error {
	peers, _ := d.o.Peers()
	// Who has deployed it has it.
	slices.SortStableFunc(peers, func(a, b carrier.Peer) int { return order(a.Origin != w.Origin) - order(b.Origin != w.Origin) })
	var askers []carrier.Asker
	for _, p := range peers {
		askers = append(askers, d.o.Dial(p))
	}
	defer func() {
		for _, a := range askers {
			a.HTTP.CloseIdleConnections()
		}
	}()
	var manifest []byte
	errs := []error{fault.New(fault.Unavailable, "no member has version %s", w.Version)}
	for _, ask := range askers {
		var err error
		if manifest, err = askManifest(ctx, ask, w.Version); err == nil {
			break
		}
		errs = append(errs, err)
	}
	if manifest == nil {
		return errors.Join(errs...)
	}
	env, err := d.repo.Install(ctx, w.Version, manifest, func(ctx context.Context, want []code.Content, take func(code.Content, io.Reader) error) error {
		return fetchAll(ctx, askers, want, take)
	})
	if err == nil && env != w.Environment {
		err = fault.New(fault.Invalid, "version %s was deployed for environment '%s' and is of '%s'", w.Version, w.Environment, env)
	}
	return err
}

func order(behind bool) int {
	if behind {
		return 1
	}
	return 0
}

func askManifest(ctx context.Context, ask carrier.Asker, id string) (manifest []byte, err error) {
	err = ask.Do(ctx, http.MethodGet, "/deploy/v1/manifests/"+id, nil, manifestMost, func(r io.Reader) error {
		z, err := unzip(r)
		if err != nil {
			return err
		}
		defer z.Close()
		manifest, err = io.ReadAll(io.LimitReader(z, code.MaxManifest+1))
		if err == nil && len(manifest) > code.MaxManifest {
			err = fault.New(fault.TooLarge, "the manifest of version %s has more than %d bytes", id, code.MaxManifest)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return manifest, nil
}

// fetchAll asks one member after the other for what is still wanted.
func fetchAll(ctx context.Context, askers []carrier.Asker, want []code.Content, take func(code.Content, io.Reader) error) error {
	wanted := map[contentKey]code.Content{}
	for _, c := range want {
		wanted[keyOf(c)] = c
	}
	var errs []error
	for _, ask := range askers {
		var missing []code.Content
		for _, c := range want {
			if _, ok := wanted[keyOf(c)]; ok {
				missing = append(missing, c)
			}
		}
		for group := range groups(missing) {
			if err := askContents(ctx, ask, group, wanted, take); err != nil {
				errs = append(errs, err)
				break // of this member
			}
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return errors.Join(errs...) // nil: nobody failed, and some were left out
}

// groups cuts what is wanted into requests of bearable size.
func groups(want []code.Content) func(yield func([]code.Content) bool) {
	return func(yield func([]code.Content) bool) {
		var size int64
		begin := 0
		for i, c := range want {
			if i > begin && (i-begin >= groupCount || size+c.Size > groupSize) {
				if !yield(want[begin:i]) {
					return
				}
				begin, size = i, 0
			}
			size += c.Size
		}
		if begin < len(want) {
			yield(want[begin:])
		}
	}
}

// A contentKey is a content without its size.
type contentKey struct {
	sum        string
	executable bool
}

func keyOf(c code.Content) contentKey { return contentKey{c.Sum, c.Executable} }

// asking is a request for contents.
type asking struct {
	Contents []code.Content `json:"contents"`
}

// askContents hands what a member gives to take and removes it from wanted.
func askContents(ctx context.Context, ask carrier.Asker, group []code.Content, wanted map[contentKey]code.Content, take func(code.Content, io.Reader) error) error {
	body, err := json.Marshal(asking{group})
	if err != nil {
		return err
	}
	return ask.Do(ctx, http.MethodPost, "/deploy/v1/contents", body, contentsMost, func(r io.Reader) error {
		z, err := unzip(r)
		if err != nil {
			return err
		}
		defer z.Close()
		for {
			key, size, err := readHead(z)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			c, ok := wanted[key]
			if !ok || size != c.Size {
				return fault.New(fault.Invalid, "content %s of %d bytes was not asked for", key.sum, size)
			}
			if err := take(c, io.LimitReader(z, size)); err != nil {
				return err
			}
			delete(wanted, key)
		}
	})
}

// The head of a content: sum (32 bytes), whether it is executable (1), length (8, big endian).
const headSize = 32 + 1 + 8

func writeHead(w io.Writer, key contentKey, size int64) error {
	sum, err := hex.DecodeString(key.sum)
	if err != nil {
		return err
	}
	head := append(sum, byte(order(key.executable)))
	_, err = w.Write(binary.BigEndian.AppendUint64(head, uint64(size)))
	return err
}

// readHead returns io.EOF at the end, which is marked: a connection that broke off is another error.
func readHead(r io.Reader) (key contentKey, size int64, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return key, 0, fmt.Errorf("contents broke off: %w", err)
	}
	if bytes.Equal(head[:], make([]byte, headSize)) {
		return key, 0, io.EOF
	}
	size = int64(binary.BigEndian.Uint64(head[33:]))
	if size < 0 || head[32] > 1 {
		return key, 0, fault.New(fault.Invalid, "what came is no content")
	}
	return contentKey{hex.EncodeToString(head[:32]), head[32] == 1}, size, nil
}

func unzip(r io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
}
