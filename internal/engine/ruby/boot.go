package ruby

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// This file says how long loading Puppet may take. 0.2 s is usual; on a machine that has a hundred other things to do it can be
// minutes, and to begin anew then would only add to them. So who still works is waited for.

const (
	bootStalled = time.Minute // without any CPU time used
	bootMost    = 15 * time.Minute
	bootLook    = time.Second

	bootLimit = time.Minute // for a fork of it, which has nothing to load
)

// A slowError says that Puppet was not loaded in time, which no package mends.
type slowError struct{ why string }

func (e *slowError) Error() string { return e.why }

// watchBoot cancels when a process that starts makes no progress, until ctx ends. cpu is the time that it has used.
func watchBoot(ctx context.Context, cpu func() (time.Duration, error), cancel context.CancelCauseFunc) {
	tick := time.NewTicker(bootLook)
	defer tick.Stop()
	began, used := time.Now(), time.Duration(-1)
	last := began
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := cpu()
		if err == nil && now > used {
			used, last = now, time.Now()
		}
		switch {
		case time.Since(began) >= bootMost:
			cancel(&slowError{fmt.Sprintf("it has not loaded in %v, with %v of CPU time: the machine has too much else to do (uptime, top); start again when it has less", bootMost, used)})
			return
		case time.Since(last) >= bootStalled:
			cancel(&slowError{fmt.Sprintf("it has used no CPU time for %v: it waits for something, such as a disk or a file server that does not answer, or the machine gives it none (uptime, dmesg); start again then", bootStalled)})
			return
		}
	}
}

// cpuTime is what a process has used of the CPUs.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	sum := 0
	for _, field := range fields[11:13] { // user and system, in ticks of 10 ms
		n, err := strconv.Atoi(string(field))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond, nil
}
