// Package corpus is a site to compare compilers with: control code in two
// environments over Debian's module packages, and the nodes that it is for.
//
// [Install] lays the code out as a server wants it. [Nodes] are nodes that get
// a catalog, [Broken] are those whose compile fails. A [Node] has facts as its
// agent would send them: those of a real Debian 12 machine, rewritten for the
// node's name and operating system.
//
// Sizes go from about 60 to about 2,500 resources; testdata/README.md says which
// part of the language and which modules each role brings in.
package corpus

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed all:testdata
var files embed.FS

// modules is where Debian's packages install modules.
const modules = "/usr/share/puppet/modules"

// Install writes into dir: environments, a folder of environments that is
// complete with modules, and enc, an external node classifier. Everyone may read
// them. All modules that the machine has are copied; with names, only those.
func Install(ctx context.Context, dir string, names ...string) error {
	if err := copyFiles(dir); err != nil {
		return fmt.Errorf("laying out the corpus: %w", err)
	}
	if err := os.Chmod(filepath.Join(dir, "enc"), 0o755); err != nil { // #nosec G302 -- a program for any server's account
		return fmt.Errorf("laying out the corpus: %w", err)
	}
	if len(names) == 0 {
		installed, err := os.ReadDir(modules)
		if err != nil {
			return fmt.Errorf("listing installed modules: %w", err)
		}
		for _, module := range installed {
			names = append(names, module.Name())
		}
	}
	if err := copyModules(ctx, filepath.Join(dir, "environments", "production", "modules"), names); err != nil {
		return err
	}
	// staging has its own modulepath, with few modules in it.
	return copyModules(ctx, filepath.Join(dir, "environments", "staging", "vendor"), []string{"stdlib", "concat"})
}

func copyFiles(dir string) error {
	return fs.WalkDir(files, "testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, "testdata"), "/")
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(dir, rel), 0o755) // #nosec G301 -- read by any server's account
		}
		if rel == "facts.json" || rel == "README.md" {
			return nil
		}
		text, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), text, 0o644) // #nosec G306 -- as above
	})
}

func copyModules(ctx context.Context, to string, names []string) error {
	if err := os.MkdirAll(to, 0o755); err != nil { // #nosec G301 -- as above
		return fmt.Errorf("making the folder of modules: %w", err)
	}
	for _, name := range names {
		// A folder with a dash in its name is no module; the package of rsyslog installs such a one.
		target := filepath.Join(to, name[strings.LastIndexByte(name, '-')+1:])
		// Followed, because packages install links; modes kept, because files are served with them.
		copying := exec.CommandContext(ctx, "cp", "-RL", "--preserve=mode", filepath.Join(modules, name), target) // #nosec G204 -- names of folders
		if out, err := copying.CombinedOutput(); err != nil {
			return fmt.Errorf("copying module %s: %w\n%s", name, err, out)
		}
	}
	return nil
}
