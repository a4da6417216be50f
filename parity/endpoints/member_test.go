package endpoints

// This file starts a member on a site's CA.

import (
	"os/exec"
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
)

const rules = "testdata/auth.conf"

// environments are those that both servers serve.
func environments(t *testing.T) string {
	t.Helper()
	return troupetest.Environments(t, "production", "broken", "failing")
}

// startMember starts a member on the site's CA, with the given rules.
func startMember(t *testing.T, s *site, authConf string) *client {
	t.Helper()
	dir := troupetest.TempDir(t)
	data, conf := filepath.Join(dir, "data"), filepath.Join(dir, "auth.conf")
	writeFile(t, conf, authConf)
	take := exec.CommandContext(t.Context(), troupetest.Binary(t), "ca", "import", "--cadir", s.cadir, "--data", data, "--confdir", "none")
	if out, err := take.CombinedOutput(); err != nil {
		t.Fatalf("troupe ca import: %v\n%s", err, out)
	}
	m := troupetest.StartServer(t, troupetest.ServerOptions{
		Certname: serverName, Environments: environments(t), Data: data, Config: "auth_conf: " + conf + "\n",
	})
	return newClient(t, s, m.Addr, filepath.Dir(m.Environments), "/srv/code", data, "/srv/data")
}
