package server_test

import (
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
)

// This file changes code and asks for nothing.

func newCode(t *testing.T, m *member) {
	const ready = "code version ready"
	before := len(m.log.lines(t, ready))
	write(t, filepath.Join(filepath.Dir(m.file), "environments", "production", "manifests", "site.pp"), manifest+"\n# changed\n")
	troupetest.Eventually(t, troupetest.Patience, "the new version is ready", func() bool { return len(m.log.lines(t, ready)) > before })
	if last := m.log.lines(t, ready)[before]; last["warmed"] != 1.0 {
		t.Errorf("the new version is ready with %v warming compiles, want that of the node that was there: %v", last["warmed"], last)
	}
}
