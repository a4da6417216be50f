package corpus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFactsTellOneStory(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range append(Nodes(), Broken()...) {
		if seen[n.Certname] {
			t.Errorf("%s is there twice", n.Certname)
		}
		seen[n.Certname] = true

		document, err := n.Facts()
		if err != nil {
			t.Fatal(err)
		}
		var facts struct {
			Name   string
			Values struct {
				FQDN, OSFamily, IPAddress string
				Major                     string `json:"operatingsystemmajrelease"`
				Networking                struct{ FQDN, IP string }
				OS                        struct {
					Family  string
					Release struct{ Major string }
				}
			}
		}
		if err := json.Unmarshal(document, &facts); err != nil {
			t.Fatal(err)
		}
		v := facts.Values
		legacy := []string{v.FQDN, v.OSFamily, v.IPAddress, v.Major, facts.Name}
		structured := []string{v.Networking.FQDN, v.OS.Family, v.Networking.IP, v.OS.Release.Major, n.Certname}
		if diff := cmp.Diff(legacy, structured); diff != "" {
			t.Errorf("%s: legacy and structured facts disagree:\n%s", n.Certname, diff)
		}
	}
	if n := len(Nodes()); n < 60 {
		t.Errorf("the corpus has %d nodes, fewer than 60", n)
	}
}

func TestInstallLaysOutEnvironmentsWithTheirModules(t *testing.T) {
	dir := t.TempDir()
	if err := Install(t.Context(), dir, "stdlib"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{
		"environments/production/hiera.yaml", "environments/production/modules/stdlib/manifests/init.pp",
		"environments/staging/site.pp", "environments/staging/vendor/concat/manifests/init.pp", "enc",
	} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
}
