//go:build parity

package tools

// This file lets octocatalog-diff fetch catalogs from both servers, with the v3 and the v4 API.

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// compared is the node whose catalogs octocatalog-diff compares; admin may ask for them.
const compared = "compared.example.test"

// compareWithOctocatalog uses one version of the API to compare the environments of the real server, those of a member,
// and the real server with the member.
func compareWithOctocatalog(t *testing.T, real, member *client, api string) {
	t.Helper()
	of := func(from, to *client) []string {
		return slices.Concat(fetchFrom(from, "from"), fetchFrom(to, "to"), []string{"--puppet-master-api-version", api})
	}
	for _, format := range []string{"--no-color", "--output-format=json"} {
		for _, to := range []struct {
			environment string
			exit        int
		}{
			{"before", 0}, {"after", 2}, {"failing", 1}, {"broken", 1},
		} {
			args := []string{"-n", compared, "-f", "before", "-t", to.environment, format}
			want := octocatalogDiff(t, real, slices.Concat(of(real, real), args))
			got := octocatalogDiff(t, member, slices.Concat(of(member, member), args))
			if want.Exit != to.exit {
				t.Errorf("puppetserver: before and %s: exit %d, want %d\n%s", to.environment, want.Exit, to.exit, want.Output)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("before and %s, %s: (-puppetserver +troupe)\n%s", to.environment, format, diff)
			}
		}
	}
	for _, environment := range []string{"before", "after"} {
		args := []string{"-n", compared, "-f", environment, "-t", environment, "--display-source", "--compare-file-text"}
		if across := octocatalogDiff(t, member, slices.Concat(of(real, member), args)); across.Exit != 0 {
			t.Errorf("%s of the real server and of a member: exit %d, want 0: no difference\n%s", environment, across.Exit, across.Output)
		}
		if diff := cmp.Diff(fetchedCatalog(t, real, of(real, real), environment), fetchedCatalog(t, member, of(member, member), environment)); diff != "" {
			t.Errorf("--catalog-only, %s: (-puppetserver +troupe)\n%s", environment, diff)
		}
	}
}

// fetchFrom returns the flags that fetch one side's catalogs from a server.
func fetchFrom(c *client, side string) []string {
	prefix := "--" + side + "-puppet-master"
	return []string{
		prefix, "localhost" + c.peer.port(), prefix + "-ssl-ca", filepath.Join(c.ssl, "certs", "ca.pem"),
		prefix + "-ssl-client-cert", filepath.Join(c.ssl, "certs", admin+".pem"),
		prefix + "-ssl-client-key", filepath.Join(c.ssl, "private_keys", admin+".pem"),
	}
}

// codeID is there without a value, because that server has no versioned code.
var codeID = regexp.MustCompile(`"code_id": ?("[0-9a-f]{64}"|null)`)

// fetchedCatalog is the catalog as the tool writes it, without the values that are free.
func fetchedCatalog(t *testing.T, c *client, flags []string, environment string) map[string]any {
	t.Helper()
	to := filepath.Join(t.TempDir(), "catalog.json")
	r := octocatalogDiff(t, c, slices.Concat(flags, []string{"-n", compared, "-t", environment, "--catalog-only", "-o", to}))
	if r.Exit != 0 {
		t.Fatalf("%s, --catalog-only: exit %d\n%s", c.peer.name, r.Exit, r.Output)
	}
	var catalog map[string]any
	if err := json.Unmarshal([]byte(codeID.ReplaceAllString(c.peer.mask(readFile(t, to), c.dir), `"code_id":0`)), &catalog); err != nil {
		t.Fatal(err)
	}
	return catalog
}

// stamped is what the tool writes at the head of a line of its log.
var stamped = regexp.MustCompile(`[A-Z], \[DATE[.0-9]* #\d+\]`)

// javaClass is what errors of v4 catalogs begin with there (docs/compat.md).
var javaClass = regexp.MustCompile(`org\.jruby\.exceptions\.\w+: (\(\w+\) )?`)

// octocatalogDiff compares two environments of the servers that the flags name.
func octocatalogDiff(t *testing.T, c *client, flags []string) said {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "octocatalog-diff", slices.Concat(flags, []string{"--fact-file", "testdata/facts.yaml"})...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	text := javaClass.ReplaceAllString(c.peer.mask(string(out), c.dir), "")
	text = stamped.ReplaceAllString(text, "")
	return said{What: "octocatalog-diff", Exit: cmd.ProcessState.ExitCode(), Output: text}
}
