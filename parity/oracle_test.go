package parity

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/troupetest"
	"troupe/parity/corpus"
)

// This file compares a part of the corpus with the plain Ruby library, which compiles the operator's own folder in one
// process that knows nothing of troupe.

func TestCatalogsAreThoseOfThePlainLibrary(t *testing.T) {
	var nodes []corpus.Node
	for _, n := range corpus.Nodes() {
		if n.Environment == "production" && light(n) {
			nodes = append(nodes, n)
		}
	}
	compareWithLibrary(t, nodes, lightModules()...)
}

// compareWithLibrary asks for rich catalogs of nodes that collect nothing of others.
func compareWithLibrary(t *testing.T, nodes []corpus.Node, modules ...string) {
	t.Helper()
	dir := troupetest.TempDir(t)
	if err := corpus.Install(t.Context(), dir, modules...); err != nil {
		t.Fatal(err)
	}
	member := troupetest.StartServer(t, troupetest.ServerOptions{
		Certname: serverName, Environments: filepath.Join(dir, "environments"), Autosign: true,
		Config: "classifier: { command: " + dir + "/enc }\n",
	})
	p := newPeer(t, "troupe", member.Addr)
	var got []answer
	for _, n := range nodes {
		got = append(got, p.v3(t, n, formats[0].accept))
	}
	var first struct {
		CodeID string `json:"code_id"`
	}
	if err := json.Unmarshal(got[0].body, &first); err != nil || first.CodeID == "" {
		t.Fatalf("no code_id in the catalog of %s: %d %v", nodes[0].Certname, got[0].status, err)
	}
	for i, want := range askLibrary(t, member.Environments, filepath.Join(dir, "enc"), first.CodeID, nodes) {
		if d := Difference(ofThePlace(answer{body: want}.normal(), dir), ofThePlace(got[i].normal(), dir)); d != "" {
			t.Errorf("%s: %s", nodes[i].Certname, d)
		}
	}
}

// askLibrary compiles with the script that is the oracle of the engine's own tests as well.
func askLibrary(t *testing.T, environments, enc, codeID string, nodes []corpus.Node) [][]byte {
	t.Helper()
	var requests []map[string]any
	for _, n := range nodes {
		text, err := n.Facts()
		if err != nil {
			t.Fatal(err)
		}
		var facts struct{ Values json.RawMessage }
		if err := json.Unmarshal(text, &facts); err != nil {
			t.Fatal(err)
		}
		requests = append(requests, map[string]any{
			"certname": n.Certname, "facts": facts.Values, "extensions": map[string]string{"pp_role": n.Role},
			"static": true, "rich": true, "enc": true,
		})
	}
	home := t.TempDir()
	settings := map[string]string{}
	for name := range strings.FieldsSeq("confdir vardir codedir rundir logdir publicdir") {
		settings[name] = filepath.Join(home, name)
	}
	query, err := json.Marshal(map[string]any{
		"environment": "production", "environmentpath": environments, "basemodulepath": filepath.Join(home, "modules"),
		"code_id": codeID, "server_facts": map[string]string{"servername": serverName}, "exported": []string{}, "enc": enc,
		"settings": settings, "requests": requests,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ruby", "../internal/engine/ruby/testdata/oracle.rb")
	cmd.Stdin = bytes.NewReader(query)
	cmd.Stderr = &bytes.Buffer{}
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8")
	out, err := cmd.Output()
	answers := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err != nil || len(answers) != len(requests) {
		t.Fatalf("the oracle fails: %v\n%s%s", err, out[:min(len(out), 500)], cmd.Stderr)
	}
	return answers
}
