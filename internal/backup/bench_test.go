package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"troupe/internal/journal"
)

// text is JSON of about so many bytes that compresses as facts and catalogs do, some eight times.
func text(r *rand.Rand, size int) json.RawMessage {
	var b strings.Builder
	b.WriteString(`[`)
	for b.Len() < size {
		fmt.Fprintf(&b, `{"type":"File","title":"/etc/app%d/conf.d/%04x","parameters":{"ensure":"file","owner":"root","group":"root","mode":"0644","content":"%08x"}},`,
			r.IntN(50), r.IntN(1<<16), r.Uint32())
	}
	b.WriteString(`{}]`)
	return json.RawMessage(b.String())
}

// BenchmarkThousandNodes backs up, verifies and restores a member with facts (48 KB), catalog (270 KB) and two reports (85 KB) of each
// of 1,000 nodes. The lock costs nothing here: a passphrase adds a second.
func BenchmarkThousandNodes(b *testing.B) {
	m := newBench(b, b.TempDir())
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		var drafts []journal.Draft
		for _, size := range []int{48_000, 270_000, 85_000, 85_000} {
			drafts = append(drafts, journal.Draft{Stream: journal.Bulk, Kind: "bench", Key: fmt.Sprint(i), Body: text(r, size)})
		}
		_, err := m.Journal.Append(b.Context(), drafts...)
		m.must(err)
	}
	p := place(b)
	var info Info
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			h := m.Header(time.Now())
			var err error
			info, err = Create(b.Context(), p, h, locks(), func(ctx context.Context, w io.Writer) (Summary, error) { return m.Write(ctx, h, w) }, nil)
			m.must(err)
		}
		b.ReportMetric(float64(info.Size)/1e6, "MB")
		b.ReportMetric(float64(info.Summary.Bytes)/1e6, "MB-content")
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			_, err := Verify(b.Context(), p, info, keys(), nil)
			m.must(err)
		}
	})
	b.Run("extract", func(b *testing.B) {
		for b.Loop() {
			_, err := Extract(b.Context(), p, info, keys(), target(b), nil)
			m.must(err)
		}
	})
}
