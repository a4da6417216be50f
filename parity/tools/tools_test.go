// Package tools runs the tools that people use with a Puppet Server, unmodified, against the real one and against a member:
// the subcommands of several generations of agents, octocatalog-diff, and the requests of Foreman's smart proxy, Bolt and
// Choria. Each tool must end the same way and say the same. Behind the build tag parity is what needs the real server;
// without it, `troupe lookup` is compared with `puppet lookup`.
package tools

import (
	"os"
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
)

func TestMain(m *testing.M) { os.Exit(troupetest.Main(m)) }

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
