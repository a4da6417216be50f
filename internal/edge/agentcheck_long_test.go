//go:build long

package edge

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/config"
)

// TestHAProxyFollowsAnEdge sets a real HAProxy in front of an edge and has it heed what the edge says of itself.
func TestHAProxyFollowsAnEdge(t *testing.T) {
	bin, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("%v: run tools/packages.sh haproxy", err)
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	agent := freePort(t)
	conf, err := config.ParseEdge("edge.yaml", []byte(fmt.Sprintf(`
listeners: [{listen: "127.0.0.1:0", mode: passthrough}]
agent_check: %q
runs: {drain: 300ms, linger: 10ms}
pools:
  workers:
    check: {type: tcp, interval: 50ms, rise: 1, fall: 1, observe: false}
    servers: [{name: s, address: %q, max_connections: 4}]
`, agent, server.Addr())))
	check(t, err)
	conf.Data = t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- Run(ctx, conf, Options{}) }()
	defer func() {
		stop()
		check(t, <-over)
	}()
	await(t, "the edge listens", func() bool { _, err := os.Stat(filepath.Join(conf.Data, "listen.addr")); return err == nil })
	text, err := os.ReadFile(filepath.Join(conf.Data, "listen.addr"))
	check(t, err)
	listen := strings.TrimSpace(string(text))

	socket := filepath.Join(t.TempDir(), "admin")
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	_, port, err := net.SplitHostPort(agent)
	check(t, err)
	_, front, err := net.SplitHostPort(freePort(t))
	check(t, err)
	check(t, os.WriteFile(path, []byte(fmt.Sprintf(`
global
	stats socket %s level admin
defaults
	mode tcp
	timeout connect 5s
	timeout client 60s
	timeout server 60s
listen edges
	bind 127.0.0.1:%s
	server edge1 %s weight 100 check inter 100ms agent-check agent-port %s agent-inter 100ms
`, socket, front, listen, port)), 0o600))
	cmd := exec.CommandContext(t.Context(), bin, "-db", "-f", path)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	check(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out)
		}
	}()
	is := func(status, weight string) func() bool {
		return func() bool {
			s, w := edgeAt(socket)
			return strings.HasPrefix(s, status) && (weight == "" || w == weight)
		}
	}
	await(t, "HAProxy sees all places free", is("UP", "100"))

	var held []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", listen)
		check(t, err)
		_, err = c.Write([]byte("x"))
		check(t, err)
		_, err = io.ReadFull(c, make([]byte, 1))
		check(t, err)
		held = append(held, c)
	}
	await(t, "three of four places are taken", is("UP", "25"))
	for _, c := range held {
		check(t, c.Close())
	}
	await(t, "they are free again", is("UP", "100"))

	operator, err := Dial(t.Context(), conf.Data)
	check(t, err)
	check(t, operator.ChangeEdge(t.Context(), "drain"))
	await(t, "HAProxy drains the edge", is("DRAIN", ""))
	check(t, operator.ChangeEdge(t.Context(), "ready"))
	await(t, "HAProxy uses the edge again", is("UP", "100"))
	check(t, server.Close())
	await(t, "HAProxy leaves an edge without a server", is("DOWN", ""))
}

// edgeAt is the state and the weight of the server in HAProxy's eyes.
func edgeAt(socket string) (status, weight string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err.Error(), ""
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "show stat\n")
	rows, err := csv.NewReader(conn).ReadAll()
	if err != nil {
		return err.Error(), ""
	}
	for _, row := range rows {
		if row[1] == "edge1" {
			return row[17], row[18]
		}
	}
	return "", ""
}
