// Package troupe holds the tests of the repository itself: the direction of
// imports, package documentation, sizes and sleeps. The program is in cmd/troupe.
package troupe

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers lists every package, highest first: a package may import only
// packages on lines below its own. ARCHITECTURE.md tells the same in words.
const layers = `
	cmd/troupe
	internal/cli
	internal/demo internal/doctor
	internal/server internal/edge
	internal/edge/haproxy
	internal/edge/dns internal/edge/bgp internal/agentroute internal/edge/balance
	internal/edge/health
	internal/adminapi
	internal/backup
	internal/agentapi internal/caapi internal/statusapi
	internal/engine/ruby
	internal/engine
	internal/classifier internal/deploy
	internal/code internal/ca
	internal/store
	internal/carrier/nats
	internal/cluster internal/carrier
	internal/journal
	internal/vault
	internal/authz internal/authn internal/account internal/jetty
	internal/config
	internal/hocon
	internal/puppet
	internal/telemetry internal/sqlite internal/atomicfile internal/stages internal/absence internal/secretfile
	internal/fault internal/failpoint
`

// apart are packages that stand beside the river: an agent that must know
// nothing of the server, and the harness that only tests use.
const apart = `internal/fakeagent internal/troupetest`

func TestLayers(t *testing.T) {
	rank := map[string]int{}
	for i, line := range strings.Split(layers, "\n") {
		for p := range strings.FieldsSeq(line) {
			rank[p] = i
		}
	}
	outside := strings.Fields(apart)
	forbidden := []string{"util", "utils", "common", "helpers", "pkg", "misc", "types", "manager"}

	eachSource(t, func(file string, f *ast.File) {
		from := path.Dir(file)
		if slices.Contains(forbidden, path.Base(from)) {
			t.Errorf("%s: a package named %q says nothing; name it for what it does", file, path.Base(from))
		}
		if slices.ContainsFunc(outside, func(p string) bool { return from == p || strings.HasPrefix(from, p+"/") }) {
			for _, imp := range f.Imports {
				p, _ := strconv.Unquote(imp.Path.Value)
				to, ours := strings.CutPrefix(p, "troupe/")
				if ours && from == "internal/fakeagent" {
					t.Errorf("%s imports %s: the fake agent knows nothing of the server", file, to)
				}
			}
			return
		}
		if from == "." || strings.HasPrefix(from, "tools") || strings.HasPrefix(from, "bench") || strings.HasPrefix(from, "parity") {
			return
		}
		if rank[from] == 0 {
			t.Errorf("%s: package %s is not in the layer list", file, from)
		}
		for _, imp := range f.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			to, ours := strings.CutPrefix(p, "troupe/")
			if !ours {
				continue
			}
			if slices.Contains(outside, to) && (from != "internal/cli" || to != "internal/fakeagent") {
				t.Errorf("%s imports %s, which stands beside the river", file, to)
				continue
			}
			if rank[to] <= rank[from] && !slices.Contains(outside, to) {
				t.Errorf("%s imports %s, which is not below it", file, to)
			}
		}
	})
}

// TestPackageDocs holds that each package has exactly one package comment, in
// the file that carries the package's name (main.go for a command).
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	eachSource(t, func(file string, f *ast.File) {
		dir := path.Dir(file)
		if dir == "." {
			return
		}
		docs[dir] = append(docs[dir], "")
		if f.Doc != nil {
			docs[dir] = append(docs[dir], file)
		}
	})
	for dir, files := range docs {
		files = slices.DeleteFunc(files, func(s string) bool { return s == "" })
		if len(files) != 1 {
			t.Errorf("%s has %d package comments (%v), want 1", dir, len(files), files)
		}
	}
}

// TestFileSizes holds the budget of 500 lines a file (800 for tests). An
// exception is a line here, with its reason.
func TestFileSizes(t *testing.T) {
	allowed := map[string]string{}
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") {
			return err
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		limit := 500
		if strings.HasSuffix(file, "_test.go") {
			limit = 800
		}
		if n := strings.Count(string(src), "\n"); n > limit && allowed[file] == "" {
			t.Errorf("%s has %d lines, more than %d: does it still tell one story?", file, n, limit)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSleeps holds that a test waits for a condition, not for the clock: a test
// file that sleeps must be inside a synctest bubble.
func TestSleeps(t *testing.T) {
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, "_test.go") || file == "layers_test.go" {
			return err
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(src), "time.Sleep(") && !strings.Contains(string(src), `"testing/synctest"`) {
			t.Errorf("%s sleeps outside a synctest bubble", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// eachSource calls fn for every Go file of the module that is not a test.
func eachSource(t *testing.T, fn func(file string, f *ast.File)) {
	t.Helper()
	root := os.DirFS(".")
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		fn(file, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
