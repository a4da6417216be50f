package carrier

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file proves on demand that the journals of all members are whole and the same.

// A Mark is a record that every member must have: the newest of its chain that anybody had when the question began.
type Mark struct {
	Origin journal.Origin `json:"origin"`
	Stream journal.Stream `json:"stream"`
	Number uint64         `json:"number"`
}

// MarkState is what a member has at a mark. Its hash covers all records before it.
type MarkState struct {
	Mark

	Hash    journal.Hash `json:"hash"`
	Missing bool         `json:"missing,omitempty"`
	Pruned  bool         `json:"pruned,omitempty"` // it was there, and is too old
}

// Verified is what a member found in its own journal.
type Verified struct {
	Records uint64      `json:"records"`
	Damage  []string    `json:"damage"`
	Marks   []MarkState `json:"marks"`
}

// A MemberVerification is what came of the question to one member.
type MemberVerification struct {
	Peer

	Verified

	Error string // why it could not be asked; "" when it could
}

// A TroupeVerification is the verdict over all members.
type TroupeVerification struct {
	Members     []MemberVerification // this one first
	Chains      int
	Differences []string // what is not the same, by name; none when all is well
}

const (
	markWait    = time.Minute      // for what a member does not have yet
	verifyAlive = 5 * time.Second  // a member that verifies says so
	verifyIdle  = 40 * time.Second // silence after which it counts as away
	maxVerify   = 64 << 20         // bytes of an answer
)

// verifyLine is one line of the answer of a member that verifies: progress, and at last the result.
type verifyLine struct {
	Done   uint64    `json:"done"`
	Total  uint64    `json:"total"`
	Result *Verified `json:"result,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// Verify lets every member read its whole journal, and compares what they have. self says who this one is; progress, which may
// be nil, hears of each member by name.
func (c *Carrier) Verify(ctx context.Context, self Peer, progress func(member string, done, total uint64)) (TroupeVerification, error) {
	if progress == nil {
		progress = func(string, uint64, uint64) {}
	}
	peers, _ := c.o.Peers()
	marks, err := c.marks(ctx, peers)
	if err != nil {
		return TroupeVerification{}, err
	}
	v := TroupeVerification{Members: make([]MemberVerification, 1+len(peers)), Chains: len(marks)}
	var told sync.Mutex
	tell := func(name string) func(done, total uint64) {
		return func(done, total uint64) {
			told.Lock()
			defer told.Unlock()
			progress(name, done, total)
		}
	}
	var all sync.WaitGroup
	for i, p := range append([]Peer{self}, peers...) {
		m := &v.Members[i]
		m.Peer = p
		all.Go(func() {
			var err error
			if i == 0 {
				m.Verified, err = c.verifyOwn(ctx, marks, tell(p.Name))
			} else {
				ask := c.o.Dial(p)
				m.Verified, err = ask.verify(ctx, marks, tell(p.Name))
				ask.HTTP.CloseIdleConnections()
			}
			if err != nil {
				m.Error = err.Error()
			}
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return v, err
	}
	v.Differences = differences(marks, v.Members)
	return v, nil
}

// marks returns the newest record of each chain that anybody has now. Who cannot be asked is no reason to fail: it is told later.
func (c *Carrier) marks(ctx context.Context, peers []Peer) ([]Mark, error) {
	own, err := c.j.Heads(ctx)
	if err != nil {
		return nil, err
	}
	newest := map[chain]uint64{}
	add := func(heads []journal.Head) {
		for _, h := range heads {
			name := chain{h.Origin, h.Stream}
			newest[name] = max(newest[name], h.Last)
		}
	}
	add(own)
	for _, p := range peers {
		ask := c.o.Dial(p)
		theirs, err := ask.heads(ctx, asking{Heads: own})
		ask.HTTP.CloseIdleConnections()
		if err != nil {
			c.log.DebugContext(ctx, "member cannot be asked for its heads", "member", p.Name, telemetry.KeyErr, err)
			continue
		}
		add(theirs)
	}
	marks := make([]Mark, 0, len(newest))
	for name, number := range newest {
		marks = append(marks, Mark{name.origin, name.stream, number})
	}
	slices.SortFunc(marks, func(a, b Mark) int { return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Stream, b.Stream)) })
	return marks, nil
}

// verifyOwn waits for what is on its way, reads the whole journal, and tells what it has at the marks.
func (c *Carrier) verifyOwn(ctx context.Context, marks []Mark, progress func(done, total uint64)) (v Verified, err error) {
	if err := c.awaitMarks(ctx, marks); err != nil {
		return v, err
	}
	got, err := c.j.Verify(ctx, progress)
	if err != nil {
		return v, err
	}
	v = Verified{Records: got.Records, Damage: []string{}, Marks: make([]MarkState, 0, len(marks))}
	for _, d := range got.Damaged {
		v.Damage = append(v.Damage, d.Error())
	}
	v.Damage = append(v.Damage, got.File...)
	heads, err := c.j.Heads(ctx)
	if err != nil {
		return v, err
	}
	for _, m := range marks {
		one := MarkState{Mark: m, Missing: true}
		for _, h := range heads {
			if h.Origin == m.Origin && h.Stream == m.Stream {
				one.Missing, one.Pruned = h.Last < m.Number, h.Base >= m.Number
			}
		}
		if !one.Missing && !one.Pruned {
			var there bool
			if one.Hash, there, err = c.j.HashAt(ctx, m.Origin, m.Stream, m.Number); err != nil {
				return v, err
			}
			one.Missing = !there
		}
		v.Marks = append(v.Marks, one)
	}
	return v, nil
}

// awaitMarks returns when this journal reaches to all marks, or after a while: what is missing then is told.
func (c *Carrier) awaitMarks(ctx context.Context, marks []Mark) error {
	limit := time.NewTimer(markWait)
	defer limit.Stop()
	for {
		changed := c.j.Changed()
		heads, err := c.j.Heads(ctx)
		if err != nil {
			return err
		}
		last := map[chain]uint64{}
		for _, h := range heads {
			last[chain{h.Origin, h.Stream}] = h.Last
		}
		if !slices.ContainsFunc(marks, func(m Mark) bool { return last[chain{m.Origin, m.Stream}] < m.Number }) {
			return nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// differences names what is not the same, or could not be compared.
func differences(marks []Mark, members []MemberVerification) []string {
	all := []string{}
	for _, m := range members {
		if m.Error != "" {
			all = append(all, fmt.Sprintf("%s could not be asked: %s", m.Name, m.Error))
		}
		for _, d := range m.Damage {
			all = append(all, fmt.Sprintf("%s: %s", m.Name, d))
		}
	}
	names := map[journal.Origin]string{}
	for _, m := range members {
		names[m.Origin] = m.Name
	}
	for i, mark := range marks {
		what := fmt.Sprintf("record %d of the %s journal of %s", mark.Number, mark.Stream, cmp.Or(names[mark.Origin], string(mark.Origin)))
		by := map[journal.Hash][]string{}
		for _, m := range members {
			switch {
			case len(m.Marks) != len(marks):
			case m.Marks[i].Missing:
				all = append(all, fmt.Sprintf("%s does not have %s", m.Name, what))
			case !m.Marks[i].Pruned:
				by[m.Marks[i].Hash] = append(by[m.Marks[i].Hash], m.Name)
			}
		}
		if len(by) > 1 {
			groups := slices.SortedFunc(maps.Values(by), slices.Compare)
			words := make([]string, len(groups))
			for k, g := range groups {
				words[k] = strings.Join(g, ", ")
			}
			all = append(all, fmt.Sprintf("%s, or one before it, is not the same at %s", what, strings.Join(words, " as at ")))
		}
	}
	return all
}

// verify lets another member verify its journal.
func (a Asker) verify(ctx context.Context, marks []Mark, progress func(done, total uint64)) (Verified, error) {
	body, err := json.Marshal(marks)
	if err != nil {
		return Verified{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(verifyIdle, func() {
		cancel(fault.New(fault.Unavailable, "it has said nothing for %v", verifyIdle))
	})
	defer idle.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL+"/carrier/v1/verify", bytes.NewReader(body))
	if err != nil {
		return Verified{}, err
	}
	answer, err := a.HTTP.Do(request)
	if err != nil {
		return Verified{}, withCause(ctx, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return Verified{}, fault.New(fault.Unavailable, "it is of an older version, which cannot verify on demand: upgrade it")
	default:
		text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return Verified{}, errors.Join(fault.New(fault.Unavailable, "it answered %s: %s", answer.Status, bytes.TrimSpace(text)), err)
	}
	for d := json.NewDecoder(io.LimitReader(answer.Body, maxVerify)); ; {
		var l verifyLine
		if err := d.Decode(&l); err != nil {
			return Verified{}, fmt.Errorf("its answer was cut: %w", withCause(ctx, err))
		}
		idle.Reset(verifyIdle)
		switch {
		case l.Error != "":
			return Verified{}, fault.New(fault.Unavailable, "%s", l.Error)
		case l.Result != nil:
			return *l.Result, nil
		case l.Total > 0:
			progress(l.Done, l.Total)
		}
	}
}

// withCause tells why we gave up, if we did.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// answerVerify verifies for another member. It says something every few seconds, so that the other knows that it lives.
func (c *Carrier) answerVerify(w http.ResponseWriter, r *http.Request) {
	var marks []Mark
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsking)).Decode(&marks); err != nil {
		http.Error(w, "what is to be compared cannot be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	ctx, cancel := context.WithCancel(r.Context())
	var at sync.Mutex
	var now verifyLine
	ended := make(chan verifyLine, 1)
	go func() {
		v, err := c.verifyOwn(ctx, marks, func(done, total uint64) {
			at.Lock()
			defer at.Unlock()
			now = verifyLine{Done: done, Total: total}
		})
		if err != nil {
			ended <- verifyLine{Error: fault.Message(err)}
			return
		}
		ended <- verifyLine{Result: &v}
	}()
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(l verifyLine) bool {
		err := enc.Encode(l)
		if err == nil {
			err = flush.Flush()
		}
		if err != nil {
			c.log.DebugContext(ctx, "member went away", telemetry.KeyErr, err)
			cancel()
		}
		return err == nil
	}
	tick := time.NewTicker(verifyAlive)
	defer tick.Stop()
	for alive := true; ; {
		select {
		case l := <-ended:
			cancel()
			if alive {
				say(l)
			}
			return
		case <-tick.C:
			at.Lock()
			l := now
			at.Unlock()
			alive = alive && say(l)
		}
	}
}
