package troupetest

// This file sends SIGHUP to a member whose files have been broken in between.

import (
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestABrokenFileAtAReloadChangesNothingAndIsNamedOnce(t *testing.T) {
	t.Parallel()
	dir := TempDir(t)
	auth, mounts, oids := filepath.Join(dir, "auth.conf"), filepath.Join(dir, "fileserver.conf"), filepath.Join(dir, "oids.yaml")
	good := map[string]string{
		auth:   readFile(t, "../authz/default.conf"),
		mounts: "[live]\n  path " + dir + "\n",
		oids:   "oid_mapping:\n  1.3.6.1.4.1.34380.1.2.77:\n    shortname: team\n",
	}
	for file, text := range good {
		writeFile(t, file, text)
	}
	m := afflict(t, ServerOptions{Config: "auth_conf: " + auth + "\nfileserver_conf: " + mounts + "\ntrusted_oid_mapping_file: " + oids + "\n"})
	config := filepath.Join(filepath.Dir(m.Environments), "troupe.yaml")
	good[config] = readFile(t, config)
	writeFile(t, filepath.Join(dir, "file"), "live")
	live := get("", "", "/puppet/v3/file_content/live/file?environment=production", "Accept: application/octet-stream")
	ask(t, m, m.node, live).want(t, http.StatusOK, "^live$")

	hup := func(t *testing.T) {
		t.Helper()
		if err := m.proc.signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ name, file, text, words string }{
		{"rules that end early", auth, "authorization: {\n version: 1,\n rules: [", auth + ":3"},
		{"rules without a version", auth, "authorization: {\n rules: []\n}", auth + ":1.*authorization.version must be 1"},
		{"a rule with a pattern that Java would refuse", auth, strings.Replace(good[auth], `"^/puppet/v3/catalog/([^/]+)$"`, `"^/puppet/v3/catalog/([^/]+$"`, 1), auth + `:\d+.*the path of rule`},
		{"a mount without a path", mounts, "[live]\n[other]\n  path /tmp\n", mounts},
		{"names of extensions that are no YAML", oids, "oid_mapping: [", oids},
		{"a setting that does not exist", config, good[config] + "wrokers: 2\n", config + `:\d+: there is no setting "wrokers"`},
		{"a setting of another type", config, good[config] + "http: {header_timeout: soon}\n", config + `:\d+: .*header_timeout`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.text == good[row.file] {
				t.Fatal("the file is not broken")
			}
			m.forget(t)
			writeFile(t, row.file, row.text)
			hup(t)
			m.said(t, "ERROR", row.words)
			ask(t, m, m.node, live).want(t, http.StatusOK, "^live$")
			ask(t, m, m.node, catalogOf("other.example.test", "production")).want(t, http.StatusForbidden, "Forbidden request")

			m.forget(t)
			writeFile(t, row.file, good[row.file])
			hup(t)
			m.said(t, "INFO", "^configuration read again$")
		})
	}
}
