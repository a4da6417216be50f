package adminapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"troupe/internal/backup"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file streams the content of a backup. Whoever asks encrypts it and brings it to its place, with their own rights there: the
// passphrase never leaves their process.

// What stands around the stream: the first two before it, the others after it.
const (
	backupHeader   = "Troupe-Backup"
	backupEstimate = "Troupe-Estimate"
	backupSummary  = "Troupe-Summary"
	backupError    = "Troupe-Error"

	backupSilence = 10 * time.Minute // whoever reads nothing for so long has forgotten us
)

func (a *API) backup(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	over := make(chan struct{})
	defer func() { cancel(); <-over }()
	go func() { // a member that stops does not wait for the end of a long backup
		defer close(over)
		select {
		case <-a.ending:
			cancel()
		case <-ctx.Done():
		}
	}()
	m := a.m.Backup()
	h := m.Header(time.Now())
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", backupSummary+", "+backupError)
	w.Header().Set(backupEstimate, strconv.FormatInt(m.Estimate(), 10))
	w.Header().Set(backupHeader, inHeader(h))
	w.WriteHeader(http.StatusOK)
	summary, err := m.Write(ctx, h, &patientWriter{w, http.NewResponseController(w)})
	if err != nil {
		a.log.Info("operator's backup failed", telemetry.KeyErr, err)
		w.Header().Set(backupError, inHeader(wireError{fault.KindOf(err), err.Error()}))
		return
	}
	w.Header().Set(backupSummary, inHeader(summary))
}

// patientWriter gives up when nobody reads.
type patientWriter struct {
	w io.Writer
	c *http.ResponseController
}

func (w *patientWriter) Write(p []byte) (int, error) {
	if err := w.c.SetWriteDeadline(time.Now().Add(backupSilence)); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

func inHeader(v any) string {
	text, err := json.Marshal(v)
	if err != nil { // texts and numbers always become JSON
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(text)
}

func outOfHeader(text string, v any) error {
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, v)
}

// BackupStream is the content of a backup that is on its way.
type BackupStream struct {
	Header   backup.Header
	Estimate int64 // bytes, about

	response *http.Response
}

// Backup begins a backup. The caller closes it.
func (c *Client) Backup(ctx context.Context) (*BackupStream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://member/v1/backup", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // Close does
	if err != nil {
		return nil, fmt.Errorf("ask the member: %w", err)
	}
	s := &BackupStream{response: resp}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(decodeFault(resp), s.Close())
	}
	if s.Estimate, err = strconv.ParseInt(resp.Header.Get(backupEstimate), 10, 64); err == nil {
		err = outOfHeader(resp.Header.Get(backupHeader), &s.Header)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the member's answer: %w", err), s.Close())
	}
	return s, nil
}

// Close ends the stream.
func (s *BackupStream) Close() error { return s.response.Body.Close() }

// Copy is a [backup.Source]. It may be called once.
func (s *BackupStream) Copy(_ context.Context, w io.Writer) (sum backup.Summary, err error) {
	if _, err := io.Copy(w, s.response.Body); err != nil {
		return sum, fmt.Errorf("the stream from the member broke off: %w", err)
	}
	if text := s.response.Trailer.Get(backupError); text != "" {
		var e wireError
		if err := outOfHeader(text, &e); err != nil {
			return sum, fmt.Errorf("read the member's answer: %w", err)
		}
		return sum, fault.New(e.Kind, "%s", e.Message)
	}
	if err := outOfHeader(s.response.Trailer.Get(backupSummary), &sum); err != nil {
		return sum, errors.New("the stream from the member has no end: was it stopped?")
	}
	return sum, nil
}
