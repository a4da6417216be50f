package carrier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file compares what this member and others have made of the same records. Members whose journals are equal must agree on
// every certificate and every node; if they do not, somebody's tables are wrong.

// A Fold is something that is made of journals.
type Fold struct {
	Name string
	// Scope says what part is to be compared in a round; nil for all.
	Scope func(round int) journal.Scope
	// Digest sums that part. ok is false when it cannot be compared now.
	Digest func(context.Context, journal.Scope) (d journal.Digest, ok bool, err error)
	// Refold makes it anew from the journal.
	Refold func(context.Context) error
}

const (
	compareEvery = time.Minute
	compareAgain = 5 * time.Second // when nothing could be compared
	refoldEvery  = 10 * time.Minute
	maxDigests   = 64 << 10
)

// A difference is two folds of the same records that are not the same.
type difference struct {
	since    time.Time
	refolded time.Time
}

func (d difference) words(name string) string {
	return fmt.Sprintf("its %s tables differ from ours since %s, although both are made of the same records", name, d.since.UTC().Format(time.RFC3339))
}

// comparing is the question for digests: which folds, and what part of each.
type comparing struct {
	Scopes map[string]journal.Scope `json:"scopes"`
}

type compared struct {
	Digests []journal.Digest `json:"digests"`
}

// runCompare compares with a member every so often, beside what follows it: to sum tables takes seconds where there are many nodes, and
// no record may wait for that, nor a certificate for its copy.
func (c *Carrier) runCompare(ctx context.Context, p Peer, ask Asker) {
	if len(c.o.Folds) == 0 {
		return
	}
	every := cmp.Or(c.o.CompareEvery, compareEvery)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if c.compare(ctx, p, ask, int(time.Now().Unix()/int64(max(every/time.Second, 1)))) {
			timer.Reset(every)
		} else {
			timer.Reset(min(every, compareAgain))
		}
	}
}

// compare asks a member for its digests and makes anew what differs. Both do: who is wrong shows by what changes then. It reports
// whether something could be compared, or nothing ever can be.
func (c *Carrier) compare(ctx context.Context, p Peer, ask Asker, round int) (compared bool) {
	q := comparing{Scopes: map[string]journal.Scope{}}
	for _, f := range c.o.Folds {
		q.Scopes[f.Name] = journal.Scope{}
		if f.Scope != nil {
			q.Scopes[f.Name] = f.Scope(round)
		}
	}
	theirs, err := ask.digests(ctx, q)
	if err != nil {
		c.log.DebugContext(ctx, "digests of a member cannot be had", "member", p.Name, telemetry.KeyErr, err)
		_, answered := errors.AsType[*StatusError](err)
		return answered // it may be older than this question; what it has is followed all the same
	}
	for _, f := range c.o.Folds {
		i := slices.IndexFunc(theirs, func(d journal.Digest) bool { return d.Name == f.Name })
		if i < 0 {
			continue
		}
		same, err := c.judge(ctx, p, f, q.Scopes[f.Name], theirs[i])
		if err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "tables cannot be compared with those of a member", "fold", f.Name, "member", p.Name, telemetry.KeyErr, err)
		}
		compared = compared || same
	}
	return compared
}

// judge compares one fold, and reports whether both had folded the same records.
func (c *Carrier) judge(ctx context.Context, p Peer, f Fold, scope journal.Scope, theirs journal.Digest) (comparable bool, err error) {
	own, ok, err := f.Digest(ctx, scope)
	if err != nil || !ok || own.At != theirs.At {
		return false, err
	}
	c.mu.Lock()
	s := c.state(p.Origin)
	before, differed := s.differs[f.Name]
	if own.Sum == theirs.Sum {
		delete(s.differs, f.Name)
	}
	c.mu.Unlock()
	if own.Sum == theirs.Sum {
		c.metrics.compared.WithLabelValues(f.Name, "equal").Inc()
		if differed {
			c.log.InfoContext(ctx, "tables are the same as those of a member again", "fold", f.Name, "member", p.Name)
		}
		return true, nil
	}
	c.metrics.compared.WithLabelValues(f.Name, "different").Inc()
	if time.Since(before.refolded) < refoldEvery {
		return true, nil // the other one may still be at it
	}
	if !differed {
		before.since = time.Now()
	}
	before.refolded = time.Now()
	c.mu.Lock()
	if s.differs == nil {
		s.differs = map[string]difference{}
	}
	s.differs[f.Name] = before
	c.mu.Unlock()
	c.log.ErrorContext(ctx, "tables differ from those of a member, although both are made of the same records: making them anew from the journal", "fold", f.Name, "member", p.Name)
	c.metrics.refolded.WithLabelValues(f.Name).Inc()
	if err := f.Refold(ctx); err != nil {
		return true, err
	}
	now, ok, err := f.Digest(ctx, scope)
	if err == nil && ok && now.At == own.At {
		if now.Sum != own.Sum {
			c.log.WarnContext(ctx, "the tables of this member were wrong, and were made anew", "fold", f.Name)
		} else {
			c.log.InfoContext(ctx, "the tables of this member are what its journal says", "fold", f.Name, "remedy",
				"if the alarm stays (troupe status), stop the other member, remove ca/ca.db and store/store.db in its data folder, and start it: they are made anew")
		}
	}
	return true, err
}

func (a Asker) digests(ctx context.Context, q comparing) ([]journal.Digest, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var answer compared
	err = a.Do(ctx, http.MethodPost, "/carrier/v1/digests", body, answerMost, func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxDigests)).Decode(&answer)
	})
	return answer.Digests, err
}

func (c *Carrier) answerDigests(w http.ResponseWriter, r *http.Request) {
	var q comparing
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDigests)).Decode(&q); err != nil {
		http.Error(w, "what is to be compared cannot be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer := compared{Digests: []journal.Digest{}}
	for _, f := range c.o.Folds {
		scope, asked := q.Scopes[f.Name]
		if !asked {
			continue
		}
		d, ok, err := f.Digest(r.Context(), scope)
		if err != nil {
			c.fail(w, r, err)
			return
		}
		if ok {
			answer.Digests = append(answer.Digests, d)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		c.log.DebugContext(r.Context(), "member went away", telemetry.KeyErr, err)
	}
}
