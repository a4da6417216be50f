//go:build bench

package bench

// This file reads from /proc what a server costs: a process, its children, and theirs.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// stat is what one line of /proc/PID/stat says.
type stat struct {
	parent int
	cpu    time.Duration // of all threads, and of children that have ended
}

// tree returns the processes started with a path below folder, and all that they have started.
func tree(t *testing.T, folder string) map[int]stat {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	all, found := map[int]stat{}, map[int]stat{}
	for _, dir := range entries {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		s, statErr := readStat(dir)
		if gone(err) || gone(statErr) {
			continue
		}
		if err := errors.Join(err, statErr); err != nil {
			t.Fatal(err)
		}
		all[pid] = s
		if pid != os.Getpid() && bytes.Contains(line, []byte(folder)) {
			found[pid] = s
		}
	}

	for grown := true; grown; {
		grown = false
		for pid, s := range all {
			if _, known := found[pid]; known {
				continue
			}
			if _, child := found[s.parent]; child {
				found[pid], grown = s, true
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no process was started with a path below %s", folder)
	}
	return found
}

// gone reports that a process ended while it was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

func readStat(dir string) (stat, error) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return stat{}, err
	}
	// The second field is a name in parentheses, which may hold spaces.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("%s/stat has %d fields behind the name", dir, len(fields))
	}
	var s stat
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return stat{}, err
	}
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return stat{}, err
		}
		s.cpu += time.Duration(ticks) * tick
	}
	return s, nil
}

// cpu is the time that a whole tree has used.
func cpu(t *testing.T, folder string) (sum time.Duration) {
	t.Helper()
	for _, s := range tree(t, folder) {
		sum += s.cpu
	}
	return sum
}

// pss is the memory of a whole tree in MiB; what processes share counts once.
func pss(t *testing.T, folder string) (sum float64, processes int) {
	t.Helper()
	found := tree(t, folder)
	for pid := range found {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(err) || err == nil && len(text) == 0 { // it has ended, though its parent has not asked for it yet
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Pss:") })
		if i < 0 {
			t.Fatalf("smaps_rollup of %d has no Pss", pid)
		}
		kb, err := strconv.Atoi(strings.Fields(lines[i])[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += float64(kb) / 1024
	}
	return sum, len(found)
}
