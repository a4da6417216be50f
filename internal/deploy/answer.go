package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"troupe/internal/carrier"
	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file gives versions to other members, and tells what each of them serves. Who they are, the port has found out before.

// maxAsking bounds a request for contents: some 120 bytes each.
const maxAsking = 1 << 20

// Handler answers the requests of other members below /deploy/v1/.
func (d *Deployer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /deploy/v1/manifests/{id}", d.answerManifest)
	mux.HandleFunc("POST /deploy/v1/contents", d.answerContents)
	mux.HandleFunc("GET /deploy/v1/served", d.answerServed)
	return mux
}

func (d *Deployer) answerManifest(w http.ResponseWriter, r *http.Request) {
	f, err := d.repo.OpenManifest(r.PathValue("id"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	d.stream(w, r, func(z io.Writer) error {
		_, err := io.Copy(z, f)
		return errors.Join(err, f.Close())
	})
}

func (d *Deployer) answerContents(w http.ResponseWriter, r *http.Request) {
	var q asking
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsking)).Decode(&q); err != nil {
		d.fail(w, r, fault.Wrap(fault.Invalid, err, "what is wanted cannot be read: %v", err))
		return
	}
	d.stream(w, r, func(z io.Writer) error {
		for _, c := range q.Contents {
			if err := d.give(z, c); err != nil {
				return err
			}
		}
		_, err := z.Write(make([]byte, headSize))
		return err
	})
}

// give writes a content, or nothing when this member does not have it.
func (d *Deployer) give(z io.Writer, c code.Content) error {
	f, err := d.repo.OpenContent(c)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := writeHead(z, keyOf(c), c.Size); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = io.CopyN(z, f, c.Size) // a shorter file ends the answer: what is damaged here must come from elsewhere
	return errors.Join(err, f.Close())
}

// stream sends what write gives, compressed. An answer that fails midway is broken off, so that nobody takes its end for the end.
func (d *Deployer) stream(w http.ResponseWriter, r *http.Request, write func(io.Writer) error) {
	w.Header().Set("Content-Type", "application/zstd")
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err == nil {
		err = errors.Join(write(z), z.Close())
	}
	if err != nil {
		if r.Context().Err() == nil {
			d.log.WarnContext(r.Context(), "a member was not given what it asked for", "path", r.URL.Path, telemetry.KeyErr, err)
		}
		panic(http.ErrAbortHandler)
	}
}

// served is what a member serves: content ids of deployed environments.
type served map[puppet.Environment]string

func (d *Deployer) answerServed(w http.ResponseWriter, r *http.Request) {
	all := served{}
	for _, one := range d.Deployments() {
		all[one.Environment] = d.repo.Pinned(one.Environment)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(all); err != nil {
		d.log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
	}
}

func (d *Deployer) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch fault.KindOf(err) {
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Invalid:
		status = http.StatusBadRequest
	default:
		d.log.WarnContext(r.Context(), "request of a member failed", "path", r.URL.Path, telemetry.KeyErr, err)
	}
	http.Error(w, fault.Message(err), status)
}

// A Status is a deployed environment and who serves it.
type Status struct {
	Deployment

	Problem string         `json:"problem,omitempty"` // why this member does not serve it
	Members []MemberStatus `json:"members"`
}

// A MemberStatus is what a member serves of an environment.
type MemberStatus struct {
	Name    string `json:"name"`
	Site    string `json:"site,omitempty"`
	Version string `json:"version,omitempty"` // content id; "" where its own folder serves
	Error   string `json:"error,omitempty"`   // why it cannot be asked
}

// askServedMost bounds the question what a member serves.
const askServedMost = 3 * time.Second

// Status tells what is deployed, and asks the other members what they serve.
func (d *Deployer) Status(ctx context.Context) []Status {
	peers, _ := d.o.Peers()
	answers, errs := make([]served, len(peers)), make([]error, len(peers))
	var asked sync.WaitGroup
	for i, p := range peers {
		asked.Go(func() { answers[i], errs[i] = askServed(ctx, d.o.Dial(p)) })
	}
	asked.Wait()
	all := []Status{}
	for _, one := range d.Deployments() {
		if one.Version == "" {
			continue // withdrawn
		}
		d.mu.Lock()
		s := Status{Deployment: one, Problem: d.failed[one.Environment]}
		d.mu.Unlock()
		s.Members = append(s.Members, MemberStatus{Name: d.o.Name, Version: d.repo.Pinned(one.Environment)})
		for i, p := range peers {
			m := MemberStatus{Name: p.Name, Site: p.Site, Version: answers[i][one.Environment]}
			if errs[i] != nil {
				m.Error = fault.Message(errs[i])
			}
			s.Members = append(s.Members, m)
		}
		all = append(all, s)
	}
	return all
}

func askServed(ctx context.Context, ask carrier.Asker) (all served, err error) {
	defer ask.HTTP.CloseIdleConnections()
	err = ask.Do(ctx, http.MethodGet, "/deploy/v1/served", nil, askServedMost, func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxAsking)).Decode(&all)
	})
	return all, err
}
