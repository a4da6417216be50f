package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// TestKilledProcessLosesNothingItSaved kills a process that saves facts and
// reports, at random instants, and asks for everything that it had reported.
func TestKilledProcessLosesNothingItSaved(t *testing.T) {
	m := &member{dir: t.TempDir()}
	reports, lastFacts := map[string]bool{}, map[string]int{}
	for range kills {
		killOnce(t, m.dir, reports, lastFacts)
		m.open(t, Options{})
		must(t, m.foldAll(t.Context()))
		stored, err := m.Reports(t.Context(), ReportQuery{Limit: maxRows})
		must(t, err)
		have := map[string]int{}
		for _, r := range stored {
			have[r.TransactionUUID]++
		}
		for id := range reports {
			if have[id] != 1 {
				t.Errorf("acknowledged report %s is stored %d times", id, have[id])
			}
		}
		for name, want := range lastFacts {
			f, err := m.Facts(t.Context(), puppet.Certname(name))
			must(t, err)
			var got int
			if _, err := fmt.Sscanf(string(f.Values), `{"serial":%d}`, &got); err != nil || got < want {
				t.Errorf("facts of %s are %s, older than the acknowledged %d", name, f.Values, want)
			}
		}
		if v, err := m.journal.Verify(t.Context(), nil); err != nil || !v.OK() {
			t.Fatalf("verification after a kill = %+v, %v", v, err)
		}
		m.close(t)
	}
	t.Logf("%d kills, %d reports acknowledged, none lost", kills, len(reports))
}

func killOnce(t *testing.T, dir string, reports map[string]bool, lastFacts map[string]int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "report":
			reports[rest] = true
		case "facts":
			var name string
			var serial int
			if _, err := fmt.Sscan(rest, &name, &serial); err != nil {
				t.Fatalf("the process says %q", lines.Text())
			}
			lastFacts[name] = max(lastFacts[name], serial)
		}
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

// saveForEver is the process that is killed. Each acknowledged save is a line.
func saveForEver(dir string) int {
	ctx := context.Background()
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	db, err := Open(ctx, filepath.Join(dir, "store"), j, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	start := int(time.Now().UnixMilli())
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			name := puppet.Certname(fmt.Sprintf("n%d.example.com", c))
			for i := start; ; i++ {
				if err := db.SaveFacts(ctx, facts(name, fmt.Sprintf(`{"serial":%d}`, i)), "m"); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Printf("facts %s %d\n", name, i)
				id := fmt.Sprintf("%d-%d", c, i)
				if _, err := db.SaveReport(ctx, report(name, id, "changed")); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Printf("report %s\n", id)
			}
		})
	}
	wg.Wait()
	return 1
}
