// Package troupetest runs stories: the built binary as a real process, and against it unmodified agents of four Puppet
// generations, the real `puppetserver ca` command line and, in the long tests, the real Puppet Server.
//
// A story starts a Server with StartServer, makes Agents with NewAgent and lets them Run; it asks the server through
// its own command line (Server.JSON), as an operator would. Everything listens on the loopback address and lives in
// temporary folders; nothing outlives the test.
//
// The agents other than the machine's own live in chroots that tools/chroots/make.sh builds. Stories need root, as
// those do.
package troupetest

import (
	"os"
	"path/filepath"
	"testing"
)

// TempDir returns a temporary folder that other users can reach: servers give up root, and Ruby workers have never had
// it. The parent that [testing.T.TempDir] makes is open to its owner only.
func TempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// moduleRoot is the folder of go.mod. Tests run in the folder of their package, somewhere below it.
func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working folder")
		}
		dir = parent
	}
}

// Environments copies environments of this package's site to a folder of their own. They are named because the answers of
// a server list all that there are: a recording holds for those that it was made with.
func Environments(t *testing.T, names ...string) string {
	t.Helper()
	dir := TempDir(t)
	for _, name := range names {
		copyTree(t, filepath.Join(moduleRoot(t), "internal", "troupetest", "testdata", "environments", name), filepath.Join(dir, name))
	}
	return dir
}
