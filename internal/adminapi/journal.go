package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file verifies the journal and tells how far it is, one JSON line at a time.

// Verification is the outcome of reading every record of the journal.
type Verification struct {
	Records uint64   `json:"records"`
	Whole   bool     `json:"whole"`
	Damage  []string `json:"damage"`
}

// VerificationOf puts the journal's own verdict into words.
func VerificationOf(v journal.Verification) Verification {
	out := Verification{Records: v.Records, Whole: v.OK(), Damage: []string{}}
	for _, d := range v.Damaged {
		out.Damage = append(out.Damage, d.Error())
	}
	out.Damage = append(out.Damage, v.File...)
	return out
}

// verifyLine is one line of the answer: progress, and at last the result.
type verifyLine struct {
	Done   uint64        `json:"done"`
	Total  uint64        `json:"total"`
	Result *Verification `json:"result,omitempty"`
	Error  *wireError    `json:"error,omitempty"`
}

func (a *API) verify(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(l verifyLine) {
		if err := enc.Encode(l); err != nil {
			a.log.Debug("operator went away", telemetry.KeyErr, err)
			return
		}
		_ = flush.Flush() // progress that arrives late is no harm
	}
	v, err := a.m.Journal.Verify(r.Context(), func(done, total uint64) { say(verifyLine{Done: done, Total: total}) })
	if err != nil {
		say(verifyLine{Error: &wireError{fault.KindOf(err), err.Error()}})
		return
	}
	result := VerificationOf(v)
	say(verifyLine{Result: &result})
}

// Verify reads the whole journal again, which takes as long as it takes; ctx ends
// it. progress may be nil.
func (c *Client) Verify(ctx context.Context, progress func(done, total uint64)) (Verification, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://member/v1/journal/verify", http.NoBody)
	if err != nil {
		return Verification{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Verification{}, fmt.Errorf("ask the member: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Verification{}, decodeFault(resp)
	}
	for d := json.NewDecoder(resp.Body); ; {
		var l verifyLine
		if err := d.Decode(&l); err != nil {
			return Verification{}, fmt.Errorf("the verification was cut: %w", err)
		}
		switch {
		case l.Error != nil:
			return Verification{}, fault.New(l.Error.Kind, "verify the journal: %s", l.Error.Message)
		case l.Result != nil:
			return *l.Result, nil
		case progress != nil:
			progress(l.Done, l.Total)
		}
	}
}

// damageOf tells what was found damaged in the journal and is not mended yet.
func damageOf(j *journal.Journal) (all []string) {
	damaged, _ := j.Damaged()
	for _, s := range damaged[:min(len(damaged), maxDamage)] {
		all = append(all, s.Why)
	}
	if more := len(damaged) - maxDamage; more > 0 {
		all = append(all, fmt.Sprintf("and %d more places of the journal are damaged", more))
	}
	return all
}

// maxDamage bounds what a list of members shows.
const maxDamage = 20
