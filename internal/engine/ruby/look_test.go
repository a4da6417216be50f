package ruby

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLookFindsWhatAPoolWouldStart(t *testing.T) {
	dir := openDir(t)
	f, err := Look(t.Context(), Options{Dir: filepath.Join(dir, "data", "engine")})
	if err != nil {
		t.Fatal(err)
	}
	if f.Puppet == "" || f.Ruby == "" || f.Interpreter == "" || f.User == "" || os.Geteuid() == 0 && f.UID == 0 {
		t.Errorf("%+v", f)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("something was made: %v, %v", entries, err)
	}
}

func TestLookSaysWhyAPoolWouldNotStart(t *testing.T) {
	library := func(text string) []string {
		dir := openDir(t)
		if err := os.WriteFile(filepath.Join(dir, "puppet.rb"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return []string{dir}
	}
	closed := openDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		o    Options
		want string
	}{
		"no interpreter":      {Options{Ruby: "/nowhere/ruby"}, "the configured Ruby cannot be run"},
		"no Ruby":             {Options{Ruby: "/bin/false"}, "cannot load the Puppet library"},
		"another program":     {Options{Ruby: "/bin/echo"}, "is it one?"},
		"no library":          {Options{PuppetLib: []string{"/nowhere/lib"}}, "finding the Puppet library in /nowhere/lib"},
		"a broken library":    {Options{PuppetLib: library("def broken(\n")}, "syntax error"},
		"an old library":      {Options{PuppetLib: library("module Puppet; def self.version; '6.28.0'; end; end\n")}, "Puppet 6.28.0 is too old"},
		"no such user":        {Options{User: "nosuchuser"}, "nosuchuser"},
		"a folder not for it": {Options{Dir: filepath.Join(closed, "engine")}, "cannot enter " + closed},
	} {
		t.Run(name, func(t *testing.T) {
			if row.o.Dir == "" {
				row.o.Dir = openDir(t)
			}
			if _, err := Look(t.Context(), row.o); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("err = %v, want %q", err, row.want)
			}
		})
	}
}
