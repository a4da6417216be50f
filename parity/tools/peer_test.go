//go:build parity

package tools

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// This file starts the two servers that the tools are run against.

// A peer is a server, the real one or a member.
type peer struct {
	name     string
	addr     string
	code     string // its folder of environments
	data     string // its other folders
	autosign string // the path that its setting autosign has
	sign     func(t *testing.T, certname string)
	clean    func(t *testing.T, certname string)
	facts    func(t *testing.T, certname string) map[string]any // that it has stored
}

// startPeers starts both; each has a list for autosign, in which nobody is.
func startPeers(t *testing.T) (real, member peer) {
	t.Helper()
	return startReal(t), startMember(t)
}

func startReal(t *testing.T) peer {
	t.Helper()
	list := emptyList(t)
	s := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{
		Environments: environments(t), AutosignPath: list,
		Conf: map[string]string{
			"auth.conf":         openToAdmin,
			"puppetserver.conf": "\njruby-puppet.environment-class-cache-enabled: true\n",
		},
		// Without the modules that happen to be installed on this machine.
		Settings: []string{"basemodulepath = $codedir/modules"},
	})
	return realPeer(s.Addr, s.Dir, list)
}

func realPeer(addr, dir, list string) peer {
	ca := troupetest.CACLI{Config: filepath.Join(dir, "puppet", "puppet.conf")}
	return peer{
		name: "puppetserver", addr: addr, code: filepath.Join(dir, "code", "environments"), data: dir, autosign: list,
		sign:  func(t *testing.T, certname string) { ca.MustRun(t, "sign", "--certname", certname) },
		clean: func(t *testing.T, certname string) { ca.MustRun(t, "clean", "--certname", certname) },
		facts: func(t *testing.T, certname string) map[string]any {
			var stored struct {
				Values map[string]any `json:"values"`
			}
			decode(t, readFile(t, filepath.Join(dir, "var", "server_data", "facts", certname+".json")), &stored)
			return stored.Values
		},
	}
}

func startMember(t *testing.T) peer {
	t.Helper()
	list := emptyList(t)
	rules := filepath.Join(troupetest.TempDir(t), "auth.conf")
	writeFile(t, rules, readFile(t, "../../internal/authz/default.conf")+openToAdmin)
	s := troupetest.StartServer(t, troupetest.ServerOptions{
		Environments: environments(t), Config: "auth_conf: " + rules + "\nca:\n  autosign: " + list + "\n",
	})
	return peer{
		name: "troupe", addr: s.Addr, code: s.Environments, data: s.Data, autosign: list,
		sign:  func(_ *testing.T, certname string) { s.Sign(certname) },
		clean: func(_ *testing.T, certname string) { s.MustCLI("ca", "clean", "--certname", certname) },
		facts: func(t *testing.T, certname string) map[string]any {
			var stored map[string]any
			decode(t, s.MustCLI("node", "facts", certname), &stored)
			return stored
		},
	}
}

// environments is a folder of those that both servers have.
func environments(t *testing.T) string {
	t.Helper()
	dir := troupetest.TempDir(t)
	for _, from := range []string{"../../internal/troupetest/testdata/environments/.", "testdata/environments/."} {
		if out, err := exec.CommandContext(t.Context(), "cp", "-R", from, dir).CombinedOutput(); err != nil {
			t.Fatalf("cp -R %s: %v\n%s", from, err, out)
		}
	}
	return dir
}

func emptyList(t *testing.T) string {
	t.Helper()
	list := filepath.Join(troupetest.TempDir(t), "autosign")
	writeFile(t, list, "# nobody yet\n")
	return list
}

// openToAdmin lets one certificate ask for what the default rules give to nobody, or to other nodes: catalogs of every
// node, the classes of environments, the CA, and the cache of environments. An operator does the same for these tools.
const openToAdmin = `
authorization.rules += {
  match-request: { path: "^/puppet/v3/catalog/([^/]+)$", type: regex, method: [get, post] }
  allow: ["$1", "admin.example.test"], sort-order: 300, name: "catalogs of all"
}
authorization.rules += {
  match-request: { path: "^/puppet/v4/catalog/?$", type: regex, method: post }
  allow: "admin.example.test", sort-order: 300, name: "catalogs for services"
}
authorization.rules += {
  match-request: { path: "/puppet/v3/environment_", type: path, method: get }
  allow: "admin.example.test", sort-order: 300, name: "classes, modules and transports"
}
authorization.rules += {
  match-request: { path: "/puppet-ca/v1/certificate_status", type: path, method: [get, put, delete] }
  allow: ["admin.example.test", { extensions: { pp_cli_auth: "true" } }], sort-order: 300, name: "certificates for Foreman"
}
authorization.rules += {
  match-request: { path: "/puppet-admin-api/v1/environment-cache", type: path, method: delete }
  allow: "admin.example.test", sort-order: 300, name: "the end of a deploy"
}
`

// newAgent is an agent that has time on a machine that does other things as well, and does not load the facts of modules
// that happen to be installed on it.
func newAgent(t *testing.T, g troupetest.Generation, certname string, p peer) *troupetest.Agent {
	t.Helper()
	a := troupetest.NewAgent(t, g, certname, p.addr)
	a.Limit = 15 * time.Minute
	writeFile(t, filepath.Join(a.Dir, "conf", "puppet.conf"), "[main]\nbasemodulepath = "+a.Dir+"/modules\n")
	return a
}

// requested returns an agent that has asked for a certificate.
func requested(t *testing.T, p peer, certname string) *troupetest.Agent {
	t.Helper()
	a := newAgent(t, troupetest.Puppet7, certname, p)
	if r := a.Puppet("ssl", "submit_request"); r.Exit != 0 {
		t.Fatalf("%s, puppet ssl submit_request: exit %d\n%s", p.name, r.Exit, r.Output)
	}
	return a
}

// enrolled returns an agent with a certificate.
func enrolled(t *testing.T, p peer, certname string) *troupetest.Agent {
	t.Helper()
	a := requested(t, p, certname)
	p.sign(t, certname)
	if r := a.Puppet("ssl", "download_cert"); r.Exit != 0 {
		t.Fatalf("%s, puppet ssl download_cert: exit %d\n%s", p.name, r.Exit, r.Output)
	}
	return a
}

func (p peer) port() string { return p.addr[strings.LastIndex(p.addr, ":"):] }

var (
	dates        = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d|Z| ?UTC)?`)
	fingerprints = regexp.MustCompile(`([0-9A-F]{2}:){15,}[0-9A-F]{2}`)
	uuids        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	versions     = regexp.MustCompile(`("version": ?|configuration version ')\d{9,}`)
	facterNoise  = regexp.MustCompile(`(?m)^Error: Facter: .*\n`) // what the machine hides from its facts
	durations    = regexp.MustCompile(`in \d+\.\d+ seconds`)
)

// mask removes what belongs to one server, one folder or one minute.
func (p peer) mask(text, folder string) string {
	text = strings.NewReplacer(p.code, "/srv/code", p.data, "/srv/data", folder, "/srv/agent", p.port(), ":PORT").Replace(text)
	text = facterNoise.ReplaceAllString(text, "")
	text = uuids.ReplaceAllString(dates.ReplaceAllString(fingerprints.ReplaceAllString(text, "FINGERPRINT"), "DATE"), "UUID")
	return durations.ReplaceAllString(versions.ReplaceAllString(text, "${1}0"), "in N seconds")
}

// same fails the test where a member did not do what the real server did. A difference that is listed must be there.
func same[T any](t *testing.T, real, member []T, what func(T) string, differs map[string]string) {
	t.Helper()
	if len(real) != len(member) {
		t.Fatalf("%d steps with the real server, %d with a member", len(real), len(member))
	}
	for i := range real {
		name := what(real[i])
		reason, known := differs[name]
		switch diff := cmp.Diff(real[i], member[i]); {
		case diff == "" && known:
			t.Errorf("%s: is the same, but listed as different (%s)", name, reason)
		case diff != "" && !known:
			t.Errorf("%s: (-puppetserver +troupe)\n%s", name, diff)
		}
	}
}

func decode(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

func writeExecutable(t *testing.T, path, text string) {
	t.Helper()
	writeFile(t, path, text)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
