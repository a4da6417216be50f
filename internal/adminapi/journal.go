package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"troupe/internal/carrier"
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
func (c *Client) Verify(ctx context.Context, progress func(done, total uint64)) (v Verification, err error) {
	err = c.stream(ctx, "/v1/journal/verify", func(next func(any) error) error {
		for {
			var l verifyLine
			if err := next(&l); err != nil {
				return err
			}
			switch {
			case l.Error != nil:
				return fault.New(l.Error.Kind, "verify the journal: %s", l.Error.Message)
			case l.Result != nil:
				v = *l.Result
				return nil
			case progress != nil:
				progress(l.Done, l.Total)
			}
		}
	})
	return v, err
}

// ClusterVerification is the verdict over the journals of all members.
type ClusterVerification struct {
	Equal       bool                 `json:"equal"` // and whole, and everybody was asked
	Chains      int                  `json:"chains"`
	Members     []MemberVerification `json:"members"`
	Differences []string             `json:"differences"`
}

// MemberVerification is what one member found in its own journal.
type MemberVerification struct {
	Name    string   `json:"name"`
	Site    string   `json:"site"`
	Records uint64   `json:"records"`
	Whole   bool     `json:"whole"`
	Damage  []string `json:"damage,omitempty"`
	Error   string   `json:"error,omitempty"` // why it could not be asked
}

// clusterLine is one line of the answer: progress of a member, and at last the result.
type clusterLine struct {
	Member string               `json:"member,omitempty"`
	Done   uint64               `json:"done"`
	Total  uint64               `json:"total"`
	Result *ClusterVerification `json:"result,omitempty"`
	Error  *wireError           `json:"error,omitempty"`
}

func (a *API) verifyCluster(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(l clusterLine) {
		if err := enc.Encode(l); err != nil {
			a.log.Debug("operator went away", telemetry.KeyErr, err)
			return
		}
		_ = flush.Flush() // progress that arrives late is no harm
	}
	self := carrier.Peer{Origin: a.m.Journal.Origin(), Name: a.m.Name}
	for _, m := range a.m.Cluster.Members() {
		if m.Self {
			self.Name, self.Site = m.Name, m.Site
		}
	}
	got, err := a.m.Carrier.Verify(r.Context(), self, func(member string, done, total uint64) {
		say(clusterLine{Member: member, Done: done, Total: total})
	})
	if err != nil {
		say(clusterLine{Error: &wireError{fault.KindOf(err), err.Error()}})
		return
	}
	v := ClusterVerification{Equal: len(got.Differences) == 0, Chains: got.Chains, Differences: got.Differences}
	for _, m := range got.Members {
		v.Members = append(v.Members, MemberVerification{
			Name: m.Name, Site: m.Site, Records: m.Records, Whole: m.Error == "" && len(m.Damage) == 0, Damage: m.Damage, Error: m.Error,
		})
	}
	say(clusterLine{Result: &v})
}

// VerifyCluster lets every member verify its journal, and compares them. progress may be nil.
func (c *Client) VerifyCluster(ctx context.Context, progress func(member string, done, total uint64)) (v ClusterVerification, err error) {
	err = c.stream(ctx, "/v1/journal/verify-cluster", func(next func(any) error) error {
		for {
			var l clusterLine
			if err := next(&l); err != nil {
				return err
			}
			switch {
			case l.Error != nil:
				return fault.New(l.Error.Kind, "verify the journals: %s", l.Error.Message)
			case l.Result != nil:
				v = *l.Result
				return nil
			case progress != nil:
				progress(l.Member, l.Done, l.Total)
			}
		}
	})
	return v, err
}

// stream sends a request whose answer comes line by line. read takes them until it has what it wants.
func (c *Client) stream(ctx context.Context, path string, read func(next func(any) error) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://member"+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the member: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeFault(resp)
	}
	d := json.NewDecoder(resp.Body)
	return read(func(line any) error {
		if err := d.Decode(line); err != nil {
			return fmt.Errorf("the answer was cut: %w", err)
		}
		return nil
	})
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
