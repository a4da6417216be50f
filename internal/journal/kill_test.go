package journal

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKilledProcessLosesNothingItAcknowledged kills a process that appends, at
// random instants, and looks for everything that it had reported as written.
func TestKilledProcessLosesNothingItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]string{} // stream and number -> sum of the body
	for range kills {
		killOnce(t, dir, acked)

		j, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v := mustVerify(t, j); !v.OK() {
			t.Fatalf("verification after a kill = %+v", v)
		}
		have := map[string]string{}
		for _, s := range []Stream{State, Bulk} {
			for _, r := range readAll(t, j, s) {
				have[fmt.Sprintf("%d/%d", s, r.Number)] = fmt.Sprintf("%x", sha256.Sum256(r.Body))
			}
		}
		for id, sum := range acked {
			if have[id] != sum {
				t.Errorf("acknowledged record %s is lost", id)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d records acknowledged, none lost", kills, len(acked))
}

func killOnce(t *testing.T, dir string, acked map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "JOURNAL_TEST_CHILD=append", "JOURNAL_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		id, sum, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			t.Fatalf("the process says %q", lines.Text())
		}
		acked[id] = sum
		if timer == nil { // it works: let it live for a moment that nobody can foresee
			timer = time.AfterFunc(time.Duration(rand.Int64N(int64(150*time.Millisecond))), func() { _ = cmd.Process.Kill() })
		}
	}
	if timer == nil {
		t.Error("the process ended before it acknowledged anything")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
}

// appendForEver is the process that is killed. Each acknowledged record is a line.
func appendForEver(dir string) int {
	j, err := Open(dir, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(c)))
			for {
				body := make([]byte, r.IntN(20_000))
				for i := range body {
					body[i] = byte(r.Uint32() >> 28)
				}
				recs, err := j.Append(context.Background(), Draft{Stream: Stream(1 + r.IntN(2)), Kind: "facts", Key: fmt.Sprint(c), Body: body})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Printf("%d/%d %x\n", recs[0].Stream, recs[0].Number, sha256.Sum256(recs[0].Body))
			}
		})
	}
	wg.Wait()
	return 1
}
