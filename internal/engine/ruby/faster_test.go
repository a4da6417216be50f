package ruby

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// This file checks that the faster methods are in force, without which the
// comparison with the plain library would say nothing about them.

func TestFasterMethodsReplaceThoseOfEveryGeneration(t *testing.T) {
	const templates = "testdata/control/environments/production/modules/fixture/templates"
	want := []string{
		"Troupe::FasterTemplates", "Troupe::FasterAutoload",
		"names.erb compiled with limits,no_such,odd_name,os,packages,secret,title,undefined",
		"variables.erb compiled with all variables", "frame.erb evaluated",
	}
	for name, lib := range libraries(t) {
		t.Run(name, func(t *testing.T) {
			args := []string{"-W0"}
			for _, dir := range lib {
				args = append(args, "-I", dir)
			}
			args = append(args, "testdata/faster.rb")
			for _, file := range []string{"names.erb", "variables.erb", "frame.erb"} {
				args = append(args, filepath.Join(templates, file))
			}
			out, err := exec.CommandContext(t.Context(), "ruby", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
				t.Errorf("faster methods differ (-want +got):\n%s", diff)
			}
		})
	}
}
