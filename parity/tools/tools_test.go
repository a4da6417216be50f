// Package tools runs the tools that people use with a Puppet Server. `troupe lookup` is compared with `puppet lookup` in
// every test run; with the tag parity, octocatalog-diff and the subcommands of puppet run against the real server and a
// member, and both get the requests of Foreman's smart proxy, of Bolt's server and of Choria.
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
