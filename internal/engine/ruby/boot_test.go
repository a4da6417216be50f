package ruby

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestALoadIsWaitedForWhileItWorks(t *testing.T) {
	for _, row := range []struct {
		name string
		cpu  func(since time.Duration) time.Duration
		want time.Duration
		says string
	}{
		{"it hangs at once", func(time.Duration) time.Duration { return 0 }, bootLook + bootStalled, "no CPU time"},
		{"it hangs after five minutes", func(d time.Duration) time.Duration { return min(d, 5*time.Minute) / 100 }, 5*time.Minute + bootStalled, "no CPU time"},
		{"a little each half minute", func(d time.Duration) time.Duration { return d.Truncate(30*time.Second) / 1000 }, bootMost, "too much else"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				began := time.Now()
				watchBoot(ctx, func() (time.Duration, error) { return row.cpu(time.Since(began)), nil }, cancel)
				slow, ok := errors.AsType[*slowError](context.Cause(ctx))
				if took := time.Since(began); !ok || took != row.want || !strings.Contains(slow.Error(), row.says) {
					t.Errorf("given up after %v, want %v: %v", took, row.want, context.Cause(ctx))
				}
			})
		})
	}
}

func TestCPUTimeOfAProcess(t *testing.T) {
	for {
		used, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if used > 0 {
			return
		}
	}
}
