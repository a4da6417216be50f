//go:build parity

package parity

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"troupe/internal/puppet"
	"troupe/internal/troupetest"
	"troupe/parity/corpus"
)

// This file compares catalogs with those of the real servers.

var (
	roles = flag.String("roles", "", "compare only nodes of these roles (a list with commas)")
	first = flag.Int("first", 0, "of each role, compare only so many nodes; 0 means all")
	keep  = flag.String("keep", "", "folder for answers that differ")
)

func TestCatalogsAreThoseOfPuppetServer7(t *testing.T) { compareWith(t, "puppetserver 7.9.5", "") }

func TestCatalogsAreThoseOfPuppetServer8(t *testing.T) {
	compareWith(t, "puppetserver 8.7.0", "trixie-server")
}

// comparison is one run of the corpus on two servers.
type comparison struct {
	t         *testing.T
	got, want *peer

	environments string // folder that both servers read

	equal     map[string]int // catalogs by format
	different map[string]int
}

func compareWith(t *testing.T, name, chroot string) {
	c := start(t, name, chroot)
	nodes := selected(corpus.Nodes())

	// A first pass, so that what all nodes export is known when catalogs are compared.
	for _, n := range nodes {
		for _, p := range []*peer{c.got, c.want} {
			if got := p.v3(t, n, formats[0].accept); got.status != http.StatusOK {
				t.Errorf("%s: the first catalog of %s: %d\n%s", p.name, n.Certname, got.status, got.body)
			}
		}
	}
	for _, f := range formats {
		for _, n := range nodes {
			c.compare(n, f.name, c.got.v3(t, n, f.accept), c.want.v3(t, n, f.accept))
		}
	}
	for _, n := range nodes {
		c.compare(n, "v4", c.got.v4(t, n), c.want.v4(t, n))
	}
	for _, n := range selected(corpus.Broken()) {
		accept := formats[5].accept
		c.compare(n, "failing v3", c.got.v3(t, n, accept), c.want.v3(t, n, accept))
		c.compare(n, "failing v4", c.got.v4(t, n), c.want.v4(t, n))
	}
	c.table(name, len(nodes))
}

// selected are the nodes that the flags leave.
func selected(nodes []corpus.Node) []corpus.Node {
	count := map[string]int{}
	return slices.DeleteFunc(nodes, func(n corpus.Node) bool {
		if *roles != "" && !slices.Contains(strings.Split(*roles, ","), n.Role) {
			return true
		}
		count[n.Role]++
		return *first > 0 && n.Role != "broken" && count[n.Role] > *first
	})
}

// start runs both servers on one copy of the corpus.
func start(t *testing.T, name, chroot string) *comparison {
	t.Helper()
	dir := troupetest.TempDir(t)
	if err := corpus.Install(dir); err != nil {
		t.Fatal(err)
	}
	auth := filepath.Join(dir, "auth.conf")
	text, err := os.ReadFile("/etc/puppet/puppetserver/conf.d/auth.conf")
	if err != nil {
		t.Fatal(err)
	}
	write(t, auth, allowV4(string(text)), 0o644)
	config := "classifier: { command: " + dir + "/enc }\nauth_conf: " + auth + "\n"
	if chroot != "" {
		config += "engine: { puppet_lib: [" + troupetest.PuppetLib(chroot) + "] }\n"
	}
	member := troupetest.StartServer(t, troupetest.ServerOptions{
		Certname: serverName, Environments: filepath.Join(dir, "environments"), Autosign: true, Config: config,
	})
	got := newPeer(t, "troupe", member.Addr)

	// The real server says the ids that troupe has for the same code, so that it makes static catalogs.
	for _, n := range corpus.Nodes() {
		id := filepath.Join(dir, "id."+n.Environment)
		if _, err := os.Stat(id); err != nil {
			write(t, id, got.codeID(t, n), 0o644)
		}
	}
	write(t, filepath.Join(dir, "code-id"), "#!/bin/sh\ncat "+dir+"/id.$1\n", 0o755)
	write(t, filepath.Join(dir, "code-content"), "#!/bin/sh\ncat "+member.Environments+"/$1/$3\n", 0o755)

	database := troupetest.NewPuppetDB(t)
	real := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{
		Certname: serverName, Autosign: true, PuppetDB: database.URL(), Chroot: chroot, Visible: []string{dir, member.Environments},
		Settings: []string{"environmentpath = " + member.Environments, "node_terminus = exec", "external_nodes = " + dir + "/enc"},
		Rewrite: func(name, text string) string {
			switch name {
			case "auth.conf":
				return allowV4(text)
			case "puppetserver.conf":
				return text + "\nversioned-code: { code-id-command: " + dir + "/code-id, code-content-command: " + dir + "/code-content }\n"
			}
			return text
		},
	})
	database.Start(t, real)
	return &comparison{
		t: t, got: got, want: newPeer(t, name, real.Addr), environments: member.Environments, equal: map[string]int{}, different: map[string]int{},
	}
}

// allowV4 opens /puppet/v4/catalog in Debian's auth.conf, which denies it.
func allowV4(text string) string {
	before, rule, found := strings.Cut(text, "/puppet/v4/catalog")
	if !found {
		return text
	}
	return before + "/puppet/v4/catalog" + strings.Replace(rule, `deny: "*"`, `allow: "*"`, 1)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// compare holds two answers against each other. What troupe says as MessagePack has to mean the JSON that it says when
// the real server has no MessagePack.
func (c *comparison) compare(n corpus.Node, format string, got, want answer) {
	c.t.Helper()
	var problems []string
	if isMsgpack(got) && !isMsgpack(want) && got.status == want.status {
		got = decoded(c.t, got, want.contentType)
	}
	if got.status != want.status {
		problems = append(problems, fmt.Sprintf("status %d, not %d", got.status, want.status))
	}
	if got.contentType != want.contentType {
		problems = append(problems, fmt.Sprintf("content type %q, not %q", got.contentType, want.contentType))
	}
	if d := Difference(want.normal(), got.normal()); d != "" {
		problems = append(problems, d)
	}
	if len(problems) == 0 {
		c.equal[format]++
		return
	}
	c.different[format]++
	c.t.Errorf("%s, %s: %s", n.Certname, format, strings.Join(problems, "; "))
	if *keep != "" {
		base := filepath.Join(*keep, n.Certname+"."+strings.ReplaceAll(format, " ", "-"))
		write(c.t, base+".got", string(got.normal()), 0o644)
		write(c.t, base+".want", string(want.normal()), 0o644)
	}
}

func isMsgpack(a answer) bool { return strings.Contains(a.contentType, "msgpack") }

func decoded(t *testing.T, a answer, contentType string) answer {
	t.Helper()
	text, err := puppet.ToJSON(puppet.TypeMsgpack, a.body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{a.status, contentType, bytes.TrimSpace(text)}
}

func (c *comparison) table(name string, nodes int) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, %d nodes\n\n| format | equal | different |\n|---|---|---|\n", name, nodes)
	names := []string{}
	for _, f := range formats {
		names = append(names, f.name)
	}
	for _, f := range append(names, "v4", "failing v3", "failing v4") {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", f, c.equal[f], c.different[f])
	}
	c.t.Log(b.String())
}
