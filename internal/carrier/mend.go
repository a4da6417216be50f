package carrier

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"troupe/internal/journal"
	"troupe/internal/telemetry"
)

// This file fetches the records that are damaged on our own disk from members that have them whole.

// mendAgain is how often a record that no member could give is asked for.
const mendAgain = 30 * time.Second

// mend waits for damage and mends it, until ctx ends.
func (c *Carrier) mend(ctx context.Context) {
	told := map[journal.Stretch]bool{} // for which no member had a copy
	for {
		_, changed := c.o.Peers()
		all, more := c.j.Damaged()
		left := map[journal.Stretch]bool{}
		var mended []journal.Stretch
		for _, s := range all {
			if ctx.Err() != nil {
				return
			}
			err := c.mendStretch(ctx, s)
			if err == nil {
				mended = append(mended, s)
			}
			if err != nil && ctx.Err() == nil {
				left[s] = true
				if !told[s] {
					c.log.ErrorContext(ctx, "damaged journal records are not mended yet", "origin", s.Origin, "stream", s.Stream.String(),
						"from", s.From, "to", s.To, telemetry.KeyErr, err, "remedy", "they are asked for again; if no member has them whole, restore this member from a backup")
				}
			}
		}
		told = left
		if len(mended) > 0 && c.o.Mended != nil {
			if err := c.o.Mended(ctx, mended); err != nil && ctx.Err() == nil {
				c.log.ErrorContext(ctx, "records that were mended could not be folded", telemetry.KeyErr, err, "remedy", "restart this member")
			}
		}
		var again <-chan time.Time
		if now, _ := c.j.Damaged(); len(now) > 0 {
			again = time.After(mendAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-more:
		case <-changed:
		case <-again:
		}
	}
}

// mendStretch asks one member after the other until nothing of the stretch is left.
func (c *Carrier) mendStretch(ctx context.Context, s journal.Stretch) error {
	if pruned, err := c.j.Forget(ctx, s); pruned || err != nil {
		return err
	}
	peers, _ := c.o.Peers()
	if len(peers) == 0 {
		return errors.New("there is no other member that could have a copy")
	}
	var errs []error
	for _, p := range peers {
		ask := c.o.Dial(p)
		n, err := ask.mend(ctx, c.j, s)
		ask.HTTP.CloseIdleConnections()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.log.InfoContext(ctx, "damaged journal records are mended", "origin", s.Origin, "stream", s.Stream.String(), "number", s.From, "records", n, "given_by", p.Name)
		return nil
	}
	return errors.Join(errs...)
}

// mend asks a member for the records of a stretch.
func (a Asker) mend(ctx context.Context, j *journal.Journal, s journal.Stretch) (n int, err error) {
	limit := min(s.To-s.Before(), fetchStep)
	q := url.Values{
		"origin": {string(s.Origin)}, "stream": {s.Stream.String()}, "after": {strconv.FormatUint(s.Before(), 10)},
		"limit": {strconv.FormatUint(max(limit+1, 10), 10)}, // and one behind it, whose hash proves them if those in between are damaged
	}
	err = a.Do(ctx, http.MethodGet, "/carrier/v1/records?"+q.Encode(), nil, fetchMost, func(r io.Reader) error {
		n, err = j.Mend(ctx, s, r)
		return err
	})
	return n, err
}
