//go:build long

package agentroute_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
)

// TestTheOldestAndTheNewestAgentsGoWhereThePlanSays needs the chroots of both.
func TestTheOldestAndTheNewestAgentsGoWhereThePlanSays(t *testing.T) {
	compare(t, troupetest.Puppet5, troupetest.OpenVox9)
}

// TestAnAddressThatSwallowsPacketsHidesTheOthersFromMostRubies is what a plan says of a name with several addresses.
func TestAnAddressThatSwallowsPacketsHidesTheOthersFromMostRubies(t *testing.T) {
	for g, want := range map[troupetest.Generation]string{
		troupetest.Puppet5:  "swallows.example.com timed out\nrefuses.example.com connected\n", // Ruby 2.7
		troupetest.Puppet7:  "swallows.example.com connected\nrefuses.example.com connected\n", // Ruby 3.1
		troupetest.Puppet8:  "swallows.example.com timed out\nrefuses.example.com connected\n", // Ruby 3.3
		troupetest.OpenVox9: "swallows.example.com timed out\nrefuses.example.com connected\n", // Ruby 3.3
	} {
		dir := troupetest.TempDir(t)
		script, err := os.ReadFile("testdata/hole.rb")
		if err != nil {
			t.Fatal(err)
		}
		hosts := "127.0.0.2 swallows.example.com\n127.0.0.3 swallows.example.com\n127.0.0.4 refuses.example.com\n127.0.0.3 refuses.example.com\n"
		for name, text := range map[string]string{"hole.rb": string(script), "hosts": hosts} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), troupetest.Patience)
		defer cancel()
		// The name lives in a mount namespace of its own.
		cmd := g.Command(ctx, t, []string{dir}, "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", "mount --bind "+dir+"/hosts /etc/hosts && exec ruby "+dir+"/hole.rb")
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("agent %s: %q, %v; want %q", g, out, err, want)
		}
	}
}
