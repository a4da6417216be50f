package troupetest

// This file runs the real nats-server, built from its own module.

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A NATS is one nats-server with JetStream on a loopback address.
type NATS struct {
	URL  string
	Data string // folder of its streams

	t       *testing.T
	dir     string
	process *process
}

// natsServer returns the program. The Go tool keeps it in its cache.
func natsServer(t *testing.T) string {
	t.Helper()
	path, err := buildNATS(moduleRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	natsOnce sync.Once
	natsPath string
	errNATS  error
)

func buildNATS(root string) (string, error) {
	natsOnce.Do(func() {
		cmd := exec.Command("go", "tool", "-n", "nats-server")
		cmd.Dir = filepath.Join(root, "tools", "nats")
		out, err := cmd.Output()
		natsPath, errNATS = strings.TrimSpace(string(out)), err
		if err != nil {
			errNATS = fmt.Errorf("build nats-server: %w", err)
		}
	})
	return natsPath, errNATS
}

// StartNATS starts a server. config is added to its configuration, and takes the place of JetStream's when it has a word of that.
func StartNATS(t *testing.T, config string) *NATS {
	t.Helper()
	n := prepareNATS(t, config)
	n.Start()
	return n
}

func prepareNATS(t *testing.T, config string) *NATS {
	t.Helper()
	addr := freeAddress(t)
	dir := TempDir(t)
	n := &NATS{URL: "nats://" + addr, Data: filepath.Join(dir, "streams"), t: t, dir: dir}
	text := fmt.Sprintf("listen: %q\n", addr)
	if !strings.Contains(config, "jetstream") {
		text += n.JetStream("256MB") + "\n"
	}
	writeFile(t, filepath.Join(dir, "nats.conf"), text+config)
	return n
}

// JetStream is the configuration of JetStream with so much room.
func (n *NATS) JetStream(room string) string {
	return fmt.Sprintf("jetstream: { store_dir: %q, sync_interval: always, max_file_store: %s, max_memory_store: 64MB }", n.Data, room)
}

// Start starts the server, again after [NATS.Kill], and waits until it can be reached.
func (n *NATS) Start() {
	n.t.Helper()
	n.begin()
	Eventually(n.t, Patience, "nats-server answers", func() bool {
		if n.process.ended() {
			n.t.Fatalf("nats-server has ended: %s", tail(n.process.log, 20))
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.URL, "nats://"))
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

func (n *NATS) begin() {
	n.t.Helper()
	cmd := exec.Command(natsServer(n.t), "-c", filepath.Join(n.dir, "nats.conf"))
	n.process = startProcess(n.t, "nats-server", filepath.Join(n.dir, "log"), cmd)
}

// Kill ends the server as a power failure would.
func (n *NATS) Kill() {
	n.t.Helper()
	n.signal(syscall.SIGKILL)
	if err := n.process.wait(Patience); err != nil {
		n.t.Fatal(err)
	}
}

// Pause stops the server without a word, and Resume lets it go on.
func (n *NATS) Pause() { n.t.Helper(); n.signal(syscall.SIGSTOP) }

// Resume lets a server go on that was paused.
func (n *NATS) Resume() { n.t.Helper(); n.signal(syscall.SIGCONT) }

func (n *NATS) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.process.signal(sig); err != nil {
		n.t.Fatal(err)
	}
}

// Wipe removes all streams of a server that does not run.
func (n *NATS) Wipe() {
	n.t.Helper()
	if err := os.RemoveAll(n.Data); err != nil {
		n.t.Fatal(err)
	}
}

// StartNATSCluster starts servers that keep streams together, and waits until they have a leader.
func StartNATSCluster(t *testing.T, count int) []*NATS {
	t.Helper()
	routes, quoted := make([]string, count), make([]string, count)
	for i := range routes {
		routes[i] = freeAddress(t)
		quoted[i] = fmt.Sprintf("%q", "nats-route://"+routes[i])
	}
	all := make([]*NATS, count)
	for i := range all {
		all[i] = prepareNATS(t, fmt.Sprintf("server_name: n%d\ncluster: { name: c, listen: %q, routes: [%s] }\n", i, routes[i], strings.Join(quoted, ", ")))
		all[i].begin()
	}
	for _, n := range all {
		Eventually(t, Patience, "the servers have a leader of JetStream", func() bool {
			return strings.Contains(tail(n.process.log, 200), "metadata leader")
		})
	}
	return all
}
