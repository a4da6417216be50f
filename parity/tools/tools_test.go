// Package tools compares troupe's commands with the tools of a Puppet Server's host that they stand for: `troupe lookup`
// with `puppet lookup`.
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
