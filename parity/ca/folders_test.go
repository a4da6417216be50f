//go:build parity

package ca

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// This file lets folders of the real server travel: to a member, which goes on with them, and back to the real server.
// Real agents that were enrolled before go with them, and never notice.

func TestAFolderOfARootAloneTravelsAndComesBack(t *testing.T) {
	travel(t, journey{generations: []troupetest.Generation{troupetest.Puppet5, troupetest.Puppet7, troupetest.Puppet8}})
}

func TestAFolderOfARootAndAnIntermediateTravelsAndComesBack(t *testing.T) {
	dir := newFolder(t)
	offline(t, dir).MustRun(t, "setup", "--certname", serverName, "--subject-alt-names", "localhost", "--ca-name", "Own CA")
	travel(t, journey{dir: dir, generations: []troupetest.Generation{troupetest.Puppet7, troupetest.Puppet8}})
}

func TestAFolderOfAnIntermediateFromOutsideTravelsAndComesBack(t *testing.T) {
	dir := newFolder(t)
	outside := writeOutsideAuthority(t, dir)
	offline(t, dir).MustRun(t, "import", "--certname", serverName, "--subject-alt-names", "localhost",
		"--private-key", outside.key, "--cert-bundle", outside.bundle, "--crl-chain", outside.lists)
	travel(t, journey{dir: dir, generations: []troupetest.Generation{troupetest.Puppet7, troupetest.Puppet8}})
}

func TestAFolderOfYearsTravelsAndComesBack(t *testing.T) {
	travel(t, journey{grown: true, generations: []troupetest.Generation{troupetest.Puppet7, troupetest.Puppet8}})
}

// A journey begins in a folder that has ca/ and ssl/; "" lets the real server make its own.
type journey struct {
	dir         string
	grown       bool // years pass before the folder travels
	generations []troupetest.Generation
}

// company are the names of one journey. Those that are no agents have only their requests.
type company struct {
	veterans  []*troupetest.Agent // enrolled at the real server, go on everywhere
	leaver    *troupetest.Agent   // revoked at the real server
	dismissed *troupetest.Agent   // revoked by the member
	recruit   *troupetest.Agent   // enrolled at the member
}

const (
	signedHere   = "signed-here.example.test"   // waits at the real server, is signed by the member
	signedThere  = "signed-there.example.test"  // waits until it is back
	cleanedHere  = "cleaned-here.example.test"  // signed at the real server, cleaned by the member
	cleanedThere = "cleaned-there.example.test" // cleaned at the real server: revoked, without a file
)

func travel(t *testing.T, j journey) {
	old := startReal(t, j.dir)
	c := enrolAll(t, old, j.generations)
	if j.grown {
		old.submitMany(t, 30)
		old.Stop(t)
		grow(t, old.CA(), 5000, 500)
		old = startRealOn(t, old.CA(), old.SSL())
	}
	before := old.list(t)
	old.Stop(t)

	m := arrive(t, old, before, c)
	atMember := m.list(t)
	exported := filepath.Join(troupetest.TempDir(t), "ca")
	m.member.MustCLI("ca", "export", "--to", exported)
	m.member.Stop()

	comeBack(t, exported, old.SSL(), atMember, c)
}

// enrolAll brings the names to the real server.
func enrolAll(t *testing.T, s site, generations []troupetest.Generation) *company {
	t.Helper()
	c := &company{}
	for _, g := range generations {
		name := "veteran" + strings.ReplaceAll(string(g), ".", "") + ".example.test"
		c.veterans = append(c.veterans, s.enrol(t, newAgent(t, g, name, s.Addr)))
	}
	c.leaver = s.enrol(t, newAgent(t, troupetest.Puppet7, "leaver.example.test", s.Addr))
	c.dismissed = s.enrol(t, newAgent(t, troupetest.Puppet7, "dismissed.example.test", s.Addr))
	for _, name := range []string{signedHere, signedThere, cleanedHere, cleanedThere} {
		s.submit(t, name)
	}
	for _, name := range []string{cleanedHere, cleanedThere} {
		s.want(t, 204, s.sign(name))
	}
	s.command(t, "revoke", "--certname", c.leaver.Certname)
	s.command(t, "clean", "--certname", cleanedThere)
	return c
}

// arrive lets a member go on with the folder.
func arrive(t *testing.T, old site, before map[string]listed, c *company) site {
	t.Helper()
	s := site{member: troupetest.StartServer(t, troupetest.ServerOptions{Data: importFolder(t, old.CA()), Environments: emptySite(t)}), ssl: old.SSL()}
	s.Addr = s.member.Addr
	s.caller = newCaller(t, s.Addr, trust(t, s.ssl), identity(t, s.ssl, serverName))

	// The member has made itself a new certificate under the server's name; everything else is as it was.
	if diff := cmp.Diff(without(before, serverName), without(s.list(t), serverName)); diff != "" {
		t.Errorf("puppetserver ca list --all after the import: (-puppetserver +troupe)\n%s", diff)
	}
	c.goOn(t, s, "at the member")
	c.leaver.Server, c.dismissed.Server = s.Addr, s.Addr
	wantExit(t, c.leaver.Run(), 1, "revoked by the real server, at the member")
	wantExit(t, c.dismissed.Run(), 0, "not yet revoked, at the member")

	c.recruit = s.enrol(t, newAgent(t, troupetest.Puppet8, "recruit.example.test", s.Addr))
	s.want(t, 204, s.sign(signedHere))
	s.command(t, "revoke", "--certname", c.dismissed.Certname)
	s.command(t, "clean", "--certname", cleanedHere)
	wantExit(t, c.dismissed.Run(), 1, "revoked by the member, at the member")
	return s
}

// comeBack starts the real server on what the member has exported, and lets it go on.
func comeBack(t *testing.T, exported, ssl string, atMember map[string]listed, c *company) {
	t.Helper()
	before := readFolder(t, exported)
	s := startRealOn(t, exported, ssl)
	if diff := cmp.Diff(atMember, s.list(t)); diff != "" {
		t.Errorf("puppetserver ca list --all after the export: (-troupe +puppetserver)\n%s", diff)
	}
	c.goOn(t, s, "back at the real server")
	for _, a := range []*troupetest.Agent{c.leaver, c.dismissed} {
		a.Server = s.Addr
		wantExit(t, a.Run(), 1, "revoked, back at the real server: "+a.Certname)
	}
	c.recruit.Server = s.Addr
	wantExit(t, c.recruit.Run(), 0, "enrolled by the member, at the real server")

	// Serial, inventory and the number of the list go on where the export has left them.
	s.want(t, 204, s.sign(signedThere))
	s.enrol(t, newAgent(t, troupetest.Puppet7, "newcomer.example.test", s.Addr))
	s.command(t, "revoke", "--certname", signedThere)
	s.Stop(t)
	after := readFolder(t, s.CA())
	for i, name := range []string{signedThere, "newcomer.example.test"} {
		if got, want := after.serialOf(t, name), before.next+uint64(i); got != want {
			t.Errorf("%s has the serial number %d, want %d", name, got, want)
		}
	}
	if after.next != before.next+2 {
		t.Errorf("the next serial number is %d, was %d in the export", after.next, before.next)
	}
	if got, want := len(after.inventory), len(before.inventory)+2; got != want || !slices.Equal(after.inventory[:len(before.inventory)], before.inventory) {
		t.Errorf("the inventory has %d lines, want the %d of the export and two more", got, len(before.inventory))
	}
	if want := new(big.Int).Add(before.number, big.NewInt(1)); after.number.Cmp(want) != 0 || after.revoked != before.revoked+1 {
		t.Errorf("the list has number %d and %d entries after one more revocation, in the export %d and %d", after.number, after.revoked, before.number, before.revoked)
	}
}

// goOn runs the veterans, who must find nothing to do and keep every file of their ssldirs.
func (c *company) goOn(t *testing.T, s site, where string) {
	t.Helper()
	for _, a := range c.veterans {
		a.Server = s.Addr
		before := tree(t, filepath.Join(a.Dir, "ssl"))
		wantExit(t, a.Run(), 0, a.Certname+" "+where)
		if diff := cmp.Diff(before, tree(t, filepath.Join(a.Dir, "ssl"))); diff != "" {
			t.Errorf("the ssldir of %s has changed %s:\n%s", a.Certname, where, diff)
		}
	}
}

// A site is a server with this authority: the real one, or a member.
type site struct {
	*troupetest.PuppetServer
	member *troupetest.Server
	Addr   string
	ssl    string
	caller caller // with the real server's own certificate
}

// startReal starts the real server in a folder that has ca/ and ssl/, or lets it make its own.
func startReal(t *testing.T, dir string) site {
	t.Helper()
	if dir == "" {
		return startRealOn(t, "", "")
	}
	return startRealOn(t, filepath.Join(dir, "ca"), filepath.Join(dir, "ssl"))
}

func startRealOn(t *testing.T, ca, ssl string) site {
	t.Helper()
	p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{CA: ca, SSL: ssl, Environments: emptySite(t)})
	return site{PuppetServer: p, Addr: p.Addr, ssl: p.SSL(), caller: newCaller(t, p.Addr, trust(t, p.SSL()), identity(t, p.SSL(), serverName))}
}

// emptySite has one environment, without the modules of the machine: agents would fetch a thousand plugins first.
func emptySite(t *testing.T) string {
	t.Helper()
	dir := troupetest.TempDir(t)
	writeFile(t, filepath.Join(dir, "production", "environment.conf"), "modulepath = modules\n")
	writeFile(t, filepath.Join(dir, "production", "manifests", "site.pp"), "")
	return dir
}

// newAgent is an agent that may be slow: a server that has just started compiles its own code first.
func newAgent(t *testing.T, g troupetest.Generation, name, addr string) *troupetest.Agent {
	t.Helper()
	a := troupetest.NewAgent(t, g, name, addr)
	a.Limit = 15 * time.Minute
	return a
}

// enrol lets an agent ask, be signed, and run.
func (s site) enrol(t *testing.T, a *troupetest.Agent) *troupetest.Agent {
	t.Helper()
	wantExit(t, a.Run(), 1, a.Certname+" without a signature")
	s.want(t, 204, s.sign(a.Certname))
	wantExit(t, a.Run(), 0, a.Certname+" with its signature")
	return a
}

func (s site) submit(t *testing.T, name string) {
	t.Helper()
	s.want(t, 200, Step{Method: "PUT", Path: requestPath + name, Type: "text/plain", Body: csr{name: name, key: ecKey(t)}.encode(t)})
}

// submitMany lets the server sign some by itself, and revoke every fifth.
func (s site) submitMany(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		name := "early" + string(rune('a'+i/10)) + string(rune('0'+i%10)) + ".example.test"
		s.submit(t, name)
		s.want(t, 204, s.sign(name))
		if i%5 == 0 {
			s.want(t, 204, Step{Method: "PUT", Path: statusPath + name, Type: "application/json", Body: []byte(`{"desired_state":"revoked"}`)})
		}
	}
}

func (s site) sign(name string) Step {
	return Step{Method: "PUT", Path: statusPath + name, Type: "application/json", Body: []byte(`{"desired_state":"signed"}`)}
}

func (s site) want(t *testing.T, status int, step Step) {
	t.Helper()
	if a := s.caller.ask(step); a.Status != status {
		t.Fatalf("%s %s: %d %s, want %d", step.Method, step.Path, a.Status, a.Body, status)
	}
}

// command runs the real command line with the certificate of the real server.
func (s site) command(t *testing.T, verb string, args ...string) string {
	t.Helper()
	c := troupetest.CACLI{Config: writeCLIConfig(t, troupetest.TempDir(t), s.Addr, s.ssl)}
	return c.MustRun(t, verb, args...)
}

// listed is what a server says of a name.
type listed map[string]any

// list asks as `puppetserver ca list --all` does, but waits longer: the real server needs more than the command's minute
// for 5,000 names on a machine that does other things as well.
func (s site) list(t *testing.T) map[string]listed {
	t.Helper()
	c := s.caller
	c.client = &http.Client{Timeout: 15 * time.Minute, Transport: c.client.Transport}
	_, body, err := c.exchange(Step{Method: "GET", Path: "/puppet-ca/v1/certificate_statuses/any_key"})
	if err != nil {
		t.Fatal(err)
	}
	var names []listed
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // serial numbers of a member have 128 bits
	if err := d.Decode(&names); err != nil {
		t.Fatalf("%v\n%.500s", err, body)
	}
	all := map[string]listed{}
	for _, n := range names {
		all[n["name"].(string)] = n
	}
	if len(all) < 6 {
		t.Fatalf("the list has %d names", len(all))
	}
	return all
}

func without(all map[string]listed, name string) map[string]listed {
	rest := maps.Clone(all)
	delete(rest, name)
	return rest
}

func wantExit(t *testing.T, r troupetest.Result, exit int, what string) {
	t.Helper()
	if r.Exit != exit {
		t.Fatalf("%s: exit %d, want %d\n%s", what, r.Exit, exit, r.Output)
	}
}

// tree is the content of every file below a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[strings.TrimPrefix(path, dir)] = readFile(t, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// newFolder is one in which the command line makes an authority; it belongs to root until a server copies it.
func newFolder(t *testing.T) string { return troupetest.TempDir(t) }

// offline is the command line where no server runs.
func offline(t *testing.T, dir string) troupetest.CACLI {
	t.Helper()
	return troupetest.CACLI{Config: writeCLIConfig(t, dir, "localhost:1", filepath.Join(dir, "ssl"))}
}

var portOf = regexp.MustCompile(`\d+$`)

func writeCLIConfig(t *testing.T, dir, addr, ssl string) string {
	t.Helper()
	config := filepath.Join(dir, "puppet.conf")
	writeFile(t, config, strings.Join([]string{
		"[main]", "server = localhost", "serverport = " + portOf.FindString(addr), "certname = " + serverName, "keylength = 2048",
		"confdir = " + dir, "ssldir = " + ssl, "cadir = " + filepath.Join(dir, "ca"), "",
	}, "\n"))
	return config
}
