package agentapi

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// This file compresses answers for those who accept gzip.

// minGzip is the size from which compression pays: a smaller answer fills one
// packet either way, and to compress it costs more than all the rest of its request.
const minGzip = 1400

// The levels of compression. Small answers are worth half a millisecond more of a
// catalog that took hundreds, and everything that is kept; what streams is not.
const (
	levelSmall = 6
	levelFast  = gzip.BestSpeed
)

// A compressor lends out gzip writers. Each has about a megabyte of tables, which
// cost more to set up than to use on a small body. The zero value is ready.
type compressor struct {
	small, fast sync.Pool
}

func (c *compressor) pool(level int) *sync.Pool {
	if level == levelSmall {
		return &c.small
	}
	return &c.fast
}

// compress writes what r gives to w as gzip.
func (c *compressor) compress(w io.Writer, r io.Reader, level int) error {
	pool := c.pool(level)
	z, ok := pool.Get().(*gzip.Writer)
	if ok {
		z.Reset(w)
	} else {
		var err error
		if z, err = gzip.NewWriterLevel(w, level); err != nil {
			return fmt.Errorf("setting up compression: %w", err)
		}
	}
	defer pool.Put(z)
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}

// acceptsGzip reads Accept-Encoding; q=0 refuses.
func (q *request) acceptsGzip() bool {
	for item := range strings.SplitSeq(strings.Join(q.Header.Values("Accept-Encoding"), ","), ",") {
		name, param, _ := strings.Cut(item, ";")
		if n := strings.ToLower(strings.TrimSpace(name)); n != "gzip" && n != "x-gzip" {
			continue
		}
		weight, found := strings.CutPrefix(strings.TrimSpace(param), "q=")
		v, err := strconv.ParseFloat(weight, 64)
		return !found || err == nil && v > 0
	}
	return false
}
