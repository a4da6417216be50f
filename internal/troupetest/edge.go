package troupetest

// This file starts edges.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Edge is one running edge.
type Edge struct {
	Data string
	Addr string // of its first listener; stays the same over restarts

	t      *testing.T
	config string // file
	within []string
	proc   *process
}

// EdgeOptions chooses what differs between stories.
type EdgeOptions struct {
	Config string  // text of edge.yaml, without data; %LISTEN% stands for a free address
	Troupe *Server // the edge joins the troupe of this member
	Site   string  // of an edge of a troupe
	Names  string  // that agents ask for, of an edge of a troupe; "" means localhost
	Within []string
	Listen string // what %LISTEN% stands for; "" means a free port of the loopback address
}

// StartEdge makes an edge and waits until it serves.
func StartEdge(t *testing.T, o EdgeOptions) *Edge {
	t.Helper()
	dir := TempDir(t)
	e := &Edge{t: t, Data: filepath.Join(dir, "data"), config: filepath.Join(dir, "edge.yaml"), within: o.Within, Addr: o.Listen}
	if e.Addr == "" {
		e.Addr = freeAddress(t)
	}
	if o.Config == "" {
		o.Config = "listeners:\n  - listen: %LISTEN%\n"
	}
	writeFile(t, e.config, "data: "+e.Data+"\n"+strings.ReplaceAll(o.Config, "%LISTEN%", e.Addr))
	if o.Troupe != nil {
		names := o.Names
		if names == "" {
			names = "localhost"
		}
		var token struct{ Text, Address string }
		o.Troupe.JSON(&token, "token", "create", "--role", "edge", "--site", o.Site, "--names", names)
		cmd := e.command("edge", "join", "-", "--config", e.config)
		cmd.Stdin = strings.NewReader(token.Text + "@" + token.Address + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("troupe edge join: %v\n%s", err, out)
		}
	}
	e.Start()
	return e
}

func (e *Edge) command(args ...string) *exec.Cmd {
	words := slices.Concat(e.within, []string{Binary(e.t)}, args)
	return exec.CommandContext(e.t.Context(), words[0], words[1:]...)
}

// Start starts the process; further arguments are those of troupe edge run.
func (e *Edge) Start(args ...string) {
	e.t.Helper()
	before := e.proc
	marker := filepath.Join(e.Data, "listen.addr")
	if err := os.Remove(marker); err != nil && !os.IsNotExist(err) {
		e.t.Fatal(err)
	}
	words := slices.Concat(e.within, []string{Binary(e.t), "edge", "run", "--config", e.config}, args)
	e.proc = startProcess(e.t, "troupe edge", filepath.Join(filepath.Dir(e.config), "edge.log"), exec.Command(words[0], words[1:]...))
	Eventually(e.t, Patience, "the edge writes its addresses", func() bool {
		if e.proc.ended() {
			e.t.Fatalf("the edge ended while it started: %v", e.proc.err)
		}
		text, err := os.ReadFile(marker)
		return err == nil && len(text) > 0
	})
	if len(args) > 0 && before != nil { // it was taken over
		if err := before.wait(Patience); err != nil {
			e.t.Fatal(err)
		}
		if before.err != nil {
			e.t.Errorf("the edge that was taken over ended with %v", before.err)
		}
	}
}

// Kill ends the process at once.
func (e *Edge) Kill() {
	e.t.Helper()
	if err := e.proc.signal(syscall.SIGKILL); err != nil {
		e.t.Fatal(err)
	}
	if err := e.proc.wait(Patience); err != nil {
		e.t.Fatal(err)
	}
}

// Pause stops the process in its tracks, as a machine that hangs: its connections stay open and nothing answers.
func (e *Edge) Pause() {
	e.t.Helper()
	if err := e.proc.signal(syscall.SIGSTOP); err != nil {
		e.t.Fatal(err)
	}
}

// Resume lets it go on.
func (e *Edge) Resume() {
	e.t.Helper()
	if err := e.proc.signal(syscall.SIGCONT); err != nil {
		e.t.Fatal(err)
	}
}

// Stop ends the process as a service manager does.
func (e *Edge) Stop() {
	e.t.Helper()
	if err := e.proc.signal(syscall.SIGTERM); err != nil {
		e.t.Fatal(err)
	}
	if err := e.proc.wait(Patience); err != nil {
		e.t.Fatal(err)
	}
	if e.proc.err != nil {
		e.t.Errorf("the edge ended with %v", e.proc.err)
	}
}

// MustCLI runs a command of troupe edge on the running edge and returns what it prints.
func (e *Edge) MustCLI(args ...string) string {
	e.t.Helper()
	cmd := e.command(append(append([]string{"edge"}, args...), "--config", e.config)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("troupe edge %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// JSON runs a command of troupe edge and reads what it answers.
func (e *Edge) JSON(to any, args ...string) {
	e.t.Helper()
	text := e.MustCLI(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), to); err != nil {
		e.t.Fatalf("troupe edge %s: %v\n%s", strings.Join(args, " "), err, text)
	}
}

// EdgeBackend is one server of a pool, as the edge sees it.
type EdgeBackend struct {
	Name, State, Reason, Check string
	Current                    int
	Total, Failed              uint64
}

// Backends returns the servers of a pool by name.
func (e *Edge) Backends(pool string) map[string]EdgeBackend {
	e.t.Helper()
	var pools []struct {
		Name    string
		Servers []EdgeBackend
	}
	e.JSON(&pools, "backends")
	all := map[string]EdgeBackend{}
	for _, p := range pools {
		for _, s := range p.Servers {
			if p.Name == pool {
				all[s.Name] = s
			}
		}
	}
	return all
}

// AwaitUp waits until so many servers of a pool are up.
func (e *Edge) AwaitUp(pool string, n int) {
	e.t.Helper()
	Eventually(e.t, Patience, fmt.Sprintf("%d servers of %s are up", n, pool), func() bool {
		up := 0
		for _, s := range e.Backends(pool) {
			if s.State == "up" {
				up++
			}
		}
		return up == n
	})
}

// scrape reads the numbers of an edge by name and labels.
func scrape(ctx context.Context, address string) (map[string]float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Timeout: Patience}).Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if cut := strings.LastIndexByte(lines.Text(), ' '); cut > 0 && !strings.HasPrefix(lines.Text(), "#") {
			if all[lines.Text()[:cut]], err = strconv.ParseFloat(lines.Text()[cut+1:], 64); err != nil {
				return nil, err
			}
		}
	}
	return all, lines.Err()
}
