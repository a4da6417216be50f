package ruby

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"troupe/internal/fault"
)

// This file lets code of an environment do its worst.

func TestTroubleOfOneCompileIsToldAndHurtsNoOther(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Deadline = 8 * time.Second
		o.MaxMemory = 128 << 20
	})
	r.wake(r.request("db01.example.test")) // trouble must not depend on a cold start

	for _, row := range []struct{ kind, want string }{
		{"loop", "took longer than 8s and was stopped"},
		{"memory", "needed more than 256 MiB of memory"},
		{"recursion", "stack level too deep"},
		{"exit", "called exit(3) while the catalog was compiled"},
		{"exit!", "ended itself with exit status 4"},
		{"abort", "ended by signal 6"},
		{"kill", "ended by signal 9"},
		{"close", "ended its worker process"},
		{"ruby", "undefined method `no_such_method' for nil:NilClass"},
		{"unknown", "unknown trouble unknown"},
	} {
		t.Run(row.kind, func(t *testing.T) {
			r := r.on(t)
			other := make(chan error, 1)
			go func() {
				_, err := r.Compile(t.Context(), r.request("db01.example.test"))
				other <- err
			}()
			_, err := r.Compile(t.Context(), r.trouble(row.kind))
			if fault.KindOf(err) != fault.Failed {
				t.Fatalf("got %v, want a fault of kind Failed", err)
			}
			if got := compileError(t, err).Msg; !strings.Contains(got, row.want) {
				t.Errorf("message is %q, want it to contain %q", got, row.want)
			}
			if err := <-other; err != nil {
				t.Errorf("the compile beside it failed: %v", err)
			}
			r.compile(r.request("db01.example.test"))
		})
	}
	if boots := r.Stats().Zygotes; len(boots) != 1 {
		t.Errorf("there are %d zygotes, want the one of the beginning", len(boots))
	}
}

func TestTroubleThatDoesNotStopACompileLeavesNothingBehind(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	r.wake(r.request("db01.example.test"))
	for _, kind := range []string{"child", "fork", "rubbish", "none"} {
		t.Run(kind, func(t *testing.T) {
			r := r.on(t)
			result := r.compile(r.trouble(kind))
			if result.Resources == 0 {
				t.Error("the catalog is empty")
			}
			r.compile(r.request("db01.example.test"))
			eventually(t, "template, zygote and one worker are left", func() bool { return len(r.processes()) == 3 })
		})
	}
	eventually(t, "no child of a compile is left", func() bool { return len(processesWith("sleep\x001000\x00")) == 0 })
	if !strings.Contains(r.log.String(), "rubbish") {
		t.Error("what was printed is not in the log")
	}
}

func TestAFloodOfMessagesIsCut(t *testing.T) {
	r := newRig(t)
	result := r.compile(r.trouble("logs"))
	if n := len(result.Logs); n != 5001 {
		t.Fatalf("got %d messages, want 5000 and one more", n)
	}
	if last := result.Logs[5000].Message; !strings.Contains(last, "further messages were dropped") {
		t.Errorf("the last message is %q", last)
	}
}

func TestAWarmingCompileThatHangsIsLeftOut(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Deadline = 8 * time.Second })
	_, err := r.Compile(t.Context(), r.trouble("loop")) // the first request warms its zygote
	if fault.KindOf(err) != fault.Failed {
		t.Fatalf("got %v, want a fault of kind Failed", err)
	}
	if !strings.Contains(r.log.String(), "starting again") {
		t.Error("the log does not say that warming failed")
	}
	r.compile(r.request("db01.example.test"))
}

func TestAWorkerKilledFromOutsideIsReplacedWithinTheRequest(t *testing.T) {
	r := newRig(t)
	r.wake(r.request("db01.example.test"))
	r.compile(r.request("db01.example.test"))
	var idle []int
	for _, z := range r.Stats().Zygotes {
		idle = append(idle, z.Workers...)
	}
	if len(idle) == 0 {
		t.Fatal("no worker is idle")
	}
	for _, pid := range idle {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.compile(r.request("db01.example.test")); got.WorkerPID == idle[0] {
		t.Error("a dead worker answered")
	}
}

func TestAZygoteKilledFromOutsideIsReplaced(t *testing.T) {
	r := newRig(t)
	r.wake(r.request("db01.example.test"))
	r.compile(r.request("db01.example.test"))
	old := r.Stats().Zygotes[0].PID
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pool has noticed", func() bool { return len(r.Stats().Zygotes) == 0 })
	r.compile(r.request("db01.example.test"))
	if got := r.Stats().Zygotes[0].PID; got == old {
		t.Error("the zygote is still the dead one")
	}
}

func TestATemplateKilledFromOutsideIsReplacedAndZygotesServeOn(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	r.mu.Lock()
	pid := r.template.process.Pid
	r.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.compile(r.request("db01.example.test"))
	r.Drop("production")
	r.compile(r.request("db01.example.test")) // needs a new zygote, so a new template
}

func TestAZygoteGoesOnForkingWhileItsChildrenDie(t *testing.T) {
	r := newRig(t)
	q := r.request("db01.example.test")
	r.compile(q)
	z, err := r.acquire(t.Context(), q.Version, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release(z)
	for i := range 50 {
		w, err := z.fork(t.Context(), r.o.Log)
		if err != nil {
			t.Fatalf("fork %d: %v", i, err)
		}
		w.kill()
	}
}
