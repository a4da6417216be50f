package ruby

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// This file starts pools with Ruby files that were compiled before.

// compiledOnce makes the file of a rig as it is made after a start.
func (r *rig) compiledOnce() launch {
	r.t.Helper()
	l, err := r.prepare()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.compileLibrary(r.t.Context(), l, l.interpreters[0]); err != nil {
		r.t.Fatal(err)
	}
	return l
}

// startTemplateOnce says whether a template finds all that it loads in compiled form.
func (r *rig) startTemplateOnce(l launch) (compiled bool) {
	r.t.Helper()
	lifeline, end, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	defer end.Close()
	defer lifeline.Close()
	l.lifeline = lifeline
	tmpl, err := r.startTemplate(context.WithoutCancel(r.t.Context()), l.interpreters[0], l)
	if err != nil {
		r.t.Fatal(err)
	}
	defer tmpl.stop(r.o.Log)
	return tmpl.compiled
}

func TestTheLibraryIsLoadedFromItsCompiledFormAtTheNextStart(t *testing.T) {
	for name, lib := range libraries(t) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.PuppetLib = lib })
			l := r.compiledOnce()
			if !r.startTemplateOnce(l) {
				t.Error("a second start still parses files")
			}
			info, err := os.Stat(l.compiled)
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); mode&0o022 != 0 {
				t.Errorf("others can write the compiled files: mode %04o", mode)
			}
		})
	}
}

func TestCompiledFilesThatAreNotThoseOfTheLibraryAreNotUsed(t *testing.T) {
	r := newRig(t)
	l := r.compiledOnce()
	whole, err := os.ReadFile(l.compiled)
	if err != nil {
		t.Fatal(err)
	}
	head := string(whole[4:1000])
	for name, text := range map[string][]byte{
		"empty":                  {},
		"no length":              whole[:3],
		"half a head":            whole[:200],
		"without the files":      whole[:len(whole)/4],
		"a length without end":   append([]byte{0xff, 0xff, 0xff, 0xff}, whole[4:]...),
		"of another interpreter": append(append([]byte{}, whole[:4]...), append([]byte(`{"ruby":"other"`+head[len(`{"ruby":"other"`):]), whole[1000:]...)...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(l.compiled, text, 0o644); err != nil {
				t.Fatal(err)
			}
			if r.startTemplateOnce(l) {
				t.Error("it is used")
			}
		})
	}

	// One file of the library differs from what was compiled.
	if err := os.WriteFile(l.compiled, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(l.script), "zygote.rb")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "\n# changed\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if r.startTemplateOnce(l) {
		t.Error("a file that changed is not noticed")
	}
}

func TestCodeOfAnEnvironmentCannotPlantGemsForTheTemplate(t *testing.T) {
	r := newRig(t)
	home := filepath.Join(r.o.Dir, "home")
	planted := filepath.Join(home, ".gem", "planted")
	if err := os.MkdirAll(planted, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(planted); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a gem that was planted is still there: %v", err)
	}
	info, err := os.Stat(home)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		t.Errorf("the home folder belongs to user %d with mode %04o, want ours, and nobody else may write", owner, info.Mode().Perm())
	}
}
