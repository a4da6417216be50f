package carrier

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/failpoint"
	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file asks another member what it has, and fetches it.

// An Asker sends requests to one member.
type Asker struct {
	HTTP *http.Client // its connections go to that member only
	URL  string       // https://host:port
}

const (
	waitMost   = 20 * time.Second // a member answers then, although nothing is new
	answerMost = 30 * time.Second // of a whole request, beyond the waiting
	fetchMost  = 5 * time.Minute  // of one group of records
	fetchStep  = 4000             // records of one group, at most
	maxHeads   = 8 << 20          // bytes of an answer about heads
)

// asking is what a member has, and how long the answer may wait for something new.
type asking struct {
	Heads []journal.Head `json:"heads"`
	Wait  time.Duration  `json:"wait"`

	// Refused are chains that are no news: our journal has just refused what comes next in them.
	Refused []journal.Head `json:"refused,omitempty"`
}

// having is the answer.
type having struct {
	Heads []journal.Head `json:"heads"`
}

// exchange asks a member once, which answers when it has something new or after wait, and fetches what it has and we have not.
func (c *Carrier) exchange(ctx context.Context, p Peer, ask Asker, wait time.Duration) error {
	own, err := c.j.Heads(ctx)
	if err != nil {
		return err
	}
	before := c.refusedBy(p)
	fed, most := c.fed(own), wait
	if len(fed) > 0 {
		most = min(wait, feedWait)
	}
	theirs, again, err := c.askHeads(ctx, ask, asking{Heads: own, Wait: most, Refused: append(before.heads(), fed...)}, fed)
	if again {
		return c.exchange(ctx, p, ask, wait)
	}
	if err != nil {
		return err
	}
	if len(fed) > 0 { // much has come meanwhile
		if own, err = c.j.Heads(ctx); err != nil {
			return err
		}
	}
	answered := time.Now()
	c.mu.Lock()
	c.state(p.Origin).heard = answered
	c.mu.Unlock()
	refused := refusals{until: before.until, why: compareEnds(own, theirs)}
	for _, h := range missing(own, theirs) {
		name := chain{h.Origin, h.Stream}
		if c.isFed(name, lastOf(own, name)) {
			continue
		}
		if why := before.why[name]; why != nil {
			refused.why[name] = why
			continue
		}
		if !c.fetching.try(name) {
			continue // another member is giving it just now
		}
		err := fetch(ctx, c.j, ask, h, func(int) {})
		c.fetching.unlock(name)
		if journal.Refused(err) {
			// The other chains must not wait for this one. What is refused later than another is tried again with it.
			refused.why[name] = err
			if refused.until.IsZero() {
				refused.until = time.Now().Add(retryRefused)
			}
			continue
		}
		if err != nil {
			return err
		}
		failpoint.Here("carrier.fetched")
	}
	c.setReady()
	c.complain(ctx, p, refused)
	return c.noteAge(ctx, p, theirs, answered)
}

// missing returns the chains of which others have more, the small state first.
func missing(own, theirs []journal.Head) []journal.Head {
	last := map[chain]uint64{}
	for _, h := range own {
		last[chain{h.Origin, h.Stream}] = h.Last
	}
	more := slices.DeleteFunc(slices.Clone(theirs), func(h journal.Head) bool { return h.Last <= last[chain{h.Origin, h.Stream}] })
	slices.SortStableFunc(more, func(a, b journal.Head) int { return cmp.Compare(a.Stream, b.Stream) })
	return more
}

func lastOf(heads []journal.Head, c chain) uint64 {
	for _, h := range heads {
		if h.Origin == c.origin && h.Stream == c.stream {
			return h.Last
		}
	}
	return 0
}

// compareEnds finds forks that no record has shown yet: chains of the same length with different ends.
func compareEnds(own, theirs []journal.Head) map[chain]error {
	forks := map[chain]error{}
	for _, a := range own {
		for _, b := range theirs {
			if a.Origin == b.Origin && a.Stream == b.Stream && a.Last == b.Last && a.Hash != b.Hash {
				forks[chain{a.Origin, a.Stream}] = &journal.ForkError{Origin: a.Origin, Stream: a.Stream, Number: a.Last}
			}
		}
	}
	return forks
}

// fetch takes a chain as far as the other member has it by now. came hears how many records each answer had.
func fetch(ctx context.Context, j *journal.Journal, ask Asker, h journal.Head, came func(n int)) error {
	for {
		after, err := j.Last(ctx, h.Origin, h.Stream)
		if err != nil {
			return err
		}
		if after >= h.Last {
			return nil
		}
		n, err := ask.records(ctx, j, h, after)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s record %d of member %s was promised and is not there", h.Stream, after+1, h.Origin)
		}
		came(n)
	}
}

// Fill brings everything that a member has into the journal, which is that of a new member. progress may be nil.
func Fill(ctx context.Context, j *journal.Journal, ask Asker, progress func(done, total uint64)) error {
	own, err := j.Heads(ctx)
	if err != nil {
		return err
	}
	theirs, err := ask.heads(ctx, asking{Heads: own})
	if err != nil {
		return err
	}
	more := missing(own, theirs)
	var total, done uint64
	for _, h := range more {
		total += h.Last - h.Base
	}
	for _, h := range more {
		err := fetch(ctx, j, ask, h, func(n int) {
			if done += uint64(n); progress != nil {
				progress(done, total)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a Asker) heads(ctx context.Context, q asking) ([]journal.Head, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var answer having
	err = a.Do(ctx, http.MethodPost, "/carrier/v1/heads", body, q.Wait+answerMost, func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxHeads)).Decode(&answer)
	})
	return answer.Heads, err
}

// records imports what follows a number and returns how many records came.
func (a Asker) records(ctx context.Context, j *journal.Journal, h journal.Head, after uint64) (n int, err error) {
	q := url.Values{"origin": {string(h.Origin)}, "stream": {h.Stream.String()}, "after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(fetchStep)}}
	err = a.Do(ctx, http.MethodGet, "/carrier/v1/records?"+q.Encode(), nil, fetchMost, func(r io.Reader) error {
		n, err = j.Import(ctx, r)
		return err
	})
	return n, err
}

// A StatusError is what a member answered that has not done what it was asked for.
type StatusError struct {
	Code  int // status of HTTP
	Words string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s", e.Code, e.Words) }

// Do sends a request and has read take what the answer holds. Its error is that of the connection, of read, or fault.Unavailable
// around a [*StatusError] where the answer is not 200; limit bounds the whole.
func (a Asker) Do(ctx context.Context, method, path string, body []byte, limit time.Duration, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, a.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := a.HTTP.Do(request)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // the address is in the log line already
		}
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusUnprocessableEntity {
		var damage journal.DamageError
		if err := json.NewDecoder(io.LimitReader(answer.Body, 64<<10)).Decode(&damage); err != nil {
			return fmt.Errorf("read what is damaged at the other member: %w", err)
		}
		return &damage
	}
	if answer.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		said := &StatusError{Code: answer.StatusCode, Words: strings.TrimSpace(string(text))}
		return errors.Join(fault.Wrap(fault.Unavailable, said, "the member answered %s: %s", answer.Status, said.Words), err)
	}
	return read(answer.Body)
}
