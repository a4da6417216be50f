package ruby

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file follows processes from their start to their end.

// poolFolder names the variable that makes the test binary run a pool instead of
// tests: a process of its own that can be killed.
const poolFolder = "TROUPE_TEST_POOL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(poolFolder); dir != "" {
		if err := serveForTest(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveForTest compiles a catalog in the zygote and one in a worker, leaves a
// third compile in an endless loop, and waits for the end of stdin.
func serveForTest(dir string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	repo, err := code.New(code.Options{
		EnvironmentPath: []string{filepath.Join(dir, "control/environments")}, BaseModulePath: []string{filepath.Join(dir, "control/modules")},
		Dir: filepath.Join(dir, "code"),
	})
	if err != nil {
		return err
	}
	v, err := repo.Current(ctx, "production")
	if err != nil {
		return err
	}
	p, err := New(Options{Dir: filepath.Join(dir, "engine"), Workers: 2})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for !p.Stats().Serving {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}

	request := func(certname puppet.Certname, trouble string) engine.Request {
		return engine.Request{
			Certname: certname, Version: v, Trusted: puppet.Trusted{Authenticated: "remote", Certname: certname},
			Facts: puppet.Facts{Certname: certname, Values: []byte(`{"os":{"family":"Debian"},"trouble":"` + trouble + `"}`)},
		}
	}
	if _, err := p.Compile(ctx, request("db01.example.test", "none")); err != nil {
		return err
	}
	for !p.Stats().Zygotes[0].Ready { // it would take the next one too
		<-time.After(time.Millisecond)
	}
	result, err := p.Compile(ctx, request("db01.example.test", "none"))
	if err != nil {
		return err
	}
	looping, endLoop := context.WithCancel(ctx)
	defer endLoop()
	loop := make(chan error, 1)
	go func() {
		_, err := p.Compile(looping, request("trouble.example.test", "loop"))
		loop <- err
	}()
	for p.Stats().Busy == 0 {
		<-time.After(time.Millisecond)
	}
	fmt.Println("resources:", result.Resources)

	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	endLoop()
	stop()
	return errors.Join(<-ended, ignore(<-loop))
}

// ignore is for the loop, whose compile was cancelled.
func ignore(error) error { return nil }

// startPool runs a pool in a process of its own and returns when it has
// compiled a catalog.
func startPool(t *testing.T, change func(*exec.Cmd)) (*exec.Cmd, io.Closer, string) {
	t.Helper()
	dir := openDir(t)
	if err := os.CopyFS(filepath.Join(dir, "control"), os.DirFS("testdata/control")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "control/environments/production/scripts/version.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "pool")
	copyFile(t, os.Args[0], binary)

	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), poolFolder+"="+dir)
	cmd.Dir = dir
	if change != nil {
		change(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "resources: ") {
		t.Fatalf("the pool says %q, %v", line, err)
	}
	return cmd, stdin, filepath.Join(dir, "engine/worker/boot.rb")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNothingSurvivesTheSuddenDeathOfTheServer(t *testing.T) {
	cmd, _, script := startPool(t, nil)
	if n := len(processesWith(script)); n < 3 {
		t.Fatalf("there are %d Ruby processes, want template, zygote and worker", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the killed pool ended without an error")
	}
	eventually(t, "every Ruby process has ended, the one in an endless loop too", func() bool { return len(processesWith(script)) == 0 })
}

func TestAPoolRunsAsAnyUserAndEndsCleanly(t *testing.T) {
	const nobody = 65534
	cmd, stdin, script := startPool(t, func(cmd *exec.Cmd) {
		if os.Geteuid() != 0 {
			return // as we are
		}
		if err := os.Chown(cmd.Dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	})
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the pool ended with %v", err)
	}
	if left := processesWith(script); len(left) > 0 {
		t.Errorf("processes %v are left after Run has returned", left)
	}
}

func TestRunReturnsAfterTheLastProcess(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	r.stop()
	if left := r.processes(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if _, err := r.Compile(t.Context(), r.request("db01.example.test")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a late compile gets %v, want Unavailable", err)
	}
}

func TestACompileThatRunsIsNotCutOffByTheEndOfRun(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Deadline = 3 * time.Second })
	r.wake(r.request("db01.example.test"))
	done := make(chan error, 1)
	go func() {
		_, err := r.Compile(t.Context(), r.trouble("sleep"))
		done <- err
	}()
	eventually(t, "it runs", func() bool { return r.Stats().Busy == 1 })
	r.stop()
	if err := <-done; fault.KindOf(err) != fault.Failed {
		t.Errorf("got %v, want the deadline that the compile ran into", err)
	}
}

func TestANewVersionTakesOverUnderLoadAndTheOldOneGoes(t *testing.T) {
	r := newRig(t)
	before := r.request("db01.example.test")
	r.compile(before)

	ctx, stop := context.WithCancel(t.Context())
	calls := context.WithoutCancel(ctx) // each call ends by itself
	var load sync.WaitGroup
	results := make(chan engine.Result, 1000)
	for range 3 {
		load.Go(func() {
			for ctx.Err() == nil {
				v, err := r.repo.Current(calls, "production")
				if err != nil {
					t.Error(err)
					return
				}
				q := before
				q.Version = v
				result, err := r.Compile(calls, q)
				if err != nil {
					t.Errorf("a compile failed during the change: %v", err)
					return
				}
				results <- result
			}
		})
	}
	<-results
	r.edit("environments/production/modules/fixture/manifests/init.pp", "class fixture (", "class fixture (String $added = 'new',")
	eventually(t, "the new version is compiled", func() bool { return strings.Contains(string((<-results).Catalog), `"added":"new"`) })
	stop()
	load.Wait()

	if now := r.version().ID; now == before.Version.ID {
		t.Fatal("the version did not change")
	}
	eventually(t, "only the new version's zygote is left", func() bool {
		z := r.Stats().Zygotes
		return len(z) == 1 && z[0].CodeID == r.version().ID
	})
	eventually(t, "the old processes are gone", func() bool { return len(r.processes()) <= 4 })
}

func TestTheNumberOfVersionsIsBounded(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxVersions = 2; o.WarmNodes = 1 })
	for _, name := range []string{"one", "two", "three"} {
		dir := filepath.Join(r.root, "environments", name, "manifests")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "site.pp"), []byte("notify { $environment: }\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, name := range []puppet.Environment{"one", "two", "three"} {
			v, err := r.repo.Current(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			q := r.request("db01.example.test")
			q.Version = v
			if got := string(r.compile(q).Catalog); !strings.Contains(got, `"title":"`+string(name)+`"`) {
				t.Errorf("the catalog of environment %s is another's: %s", name, got)
			}
			if n := len(r.Stats().Zygotes); n > 2 {
				t.Errorf("there are %d zygotes, want 2 at most", n)
			}
			if s := r.Stats(); s.Alive > s.Workers {
				t.Errorf("there are %d workers alive, want %d at most", s.Alive, s.Workers)
			}
		}
	}
}

func TestWorkersAreReplacedAfterSoManyCompiles(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1; o.MaxRequests = 2 })
	r.wake(r.request("db01.example.test"))
	var pids []int
	for range 4 {
		pids = append(pids, r.compile(r.request("db01.example.test")).WorkerPID)
	}
	if pids[0] != pids[1] || pids[1] == pids[2] || pids[2] != pids[3] {
		t.Errorf("workers were %v, want a new one after each second compile", pids)
	}
}

func TestAFullQueueRefusesTheHastyAndTakesThePatient(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1; o.MaxQueue = 1; o.Deadline = 30 * time.Second })
	r.wake(r.request("db01.example.test"))

	sleeper, patient := r.trouble("sleep"), r.request("db01.example.test")
	patient.Patient = true
	held, release := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := r.Compile(held, sleeper); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("the compile that was cancelled gets %v, want Unavailable", err)
		}
	})
	eventually(t, "the only worker is busy", func() bool { s := r.Stats(); return s.Busy == 1 && s.Waiting == 0 })
	all.Go(func() {
		if _, err := r.Compile(t.Context(), r.request("db01.example.test")); err != nil {
			t.Errorf("the first in the queue gets %v", err)
		}
	})
	eventually(t, "the queue is full", func() bool { return r.Stats().Waiting == 1 })

	_, err := r.Compile(t.Context(), r.request("db02.example.test"))
	refusal, ok := errors.AsType[*fault.Error](err)
	if !ok || refusal.Kind != fault.Unavailable || refusal.After < time.Second {
		t.Errorf("the hasty gets %#v, want Unavailable with a time to come back", err)
	}
	gone, leave := context.WithCancel(t.Context())
	all.Go(func() {
		if _, err := r.Compile(gone, patient); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that went away gets %v", err)
		}
	})
	eventually(t, "the patient one waits", func() bool { return r.Stats().Waiting == 2 })
	leave()
	eventually(t, "its place is free", func() bool { return r.Stats().Waiting == 1 })
	all.Go(func() {
		if _, err := r.Compile(t.Context(), r.request("db02.example.test")); err != nil {
			t.Errorf("the hasty that is back gets %v", err)
		}
	})
	eventually(t, "the hasty that is back waits", func() bool { return r.Stats().Waiting == 2 })
	release()
	all.Wait()
}

func TestAnEstimateIsOfCompilesThatGetACPU(t *testing.T) {
	r := newRig(t)
	r.wake(r.request("db01.example.test"))
	r.mu.Lock()
	r.average, r.learned = 0, 0
	r.mu.Unlock()

	// More of them than CPUs that never wait.
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 8 * runtime.GOMAXPROCS(0) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		busy.Go(func() {
			<-stop
			if err := errors.Join(cmd.Process.Kill(), ignoreExit(cmd.Wait())); err != nil {
				t.Error(err)
			}
		})
	}
	began := time.Now()
	for range 5 {
		r.compile(r.request("db01.example.test"))
	}
	took := time.Since(began) / 5
	close(stop)
	busy.Wait()
	if average := r.Stats().Average; average > took/2 {
		t.Errorf("the average of compiles that took %v is %v, want less than half", took, average)
	}
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil // it was killed
	}
	return err
}

func TestTroubleAtTheStartIsExplained(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Options, string)
		want   string
	}{
		{"no ruby", func(o *Options, _ string) { o.Ruby = "/no/ruby" }, "the configured Ruby cannot be run"},
		{"no puppet", func(o *Options, dir string) {
			o.Ruby = filepath.Join(dir, "ruby")
			script := "#!/bin/sh\nfor a; do l=$a; done\nexec ruby --disable-gems -e '$:.clear; $:.concat(Dir[\"/nowhere\"]); load ARGV[0]' \"$l\"\n"
			if err := os.WriteFile(o.Ruby, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "cannot load the Puppet library"},
		{"not ruby", func(o *Options, _ string) { o.Ruby = "/bin/true" }, "cannot load the Puppet library"},
		{"closed folder", func(o *Options, dir string) {
			closed := filepath.Join(dir, "closed")
			if err := os.Mkdir(closed, 0o700); err != nil {
				t.Fatal(err)
			}
			o.Dir = filepath.Join(closed, "engine")
			if os.Geteuid() != 0 {
				o.Dir = filepath.Join("/proc", "engine") // nobody can make it
			}
		}, "the engine's folder"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := openDir(t)
			o := Options{Dir: filepath.Join(dir, "engine")}
			row.change(&o, dir)
			p, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			if err = p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Run returned %v, want it to contain %q", err, row.want)
			}
			if _, err := p.Compile(t.Context(), engine.Request{Version: &code.Version{}}); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("Compile after that returned %v, want Unavailable", err)
			}
		})
	}
}

func TestRootNeverRunsRubyAsRootByItself(t *testing.T) {
	p, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if name, uid, gid := p.Account(); uid == 0 || gid == 0 || name == "root" {
		t.Errorf("Ruby would run as %s (%d, %d)", name, uid, gid)
	}
}
