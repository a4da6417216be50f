//go:build parity

package ca

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/troupetest"
)

// This file runs the real `puppetserver ca`, unmodified, against both servers: 2.4.0, of Puppet 7, and 2.7.0, of Puppet 8.
// Both start on one folder and get the same requests, so that it must say the same, byte by byte.

func TestTheRealCommandLineSaysTheSame(t *testing.T) {
	for _, g := range []troupetest.Generation{troupetest.Puppet7, troupetest.Puppet8} {
		t.Run(string(g), func(t *testing.T) {
			p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{CA: folder, SSL: ssldir})
			t.Cleanup(func() { p.Stop(t) })
			m := startMember(t, "")
			real, member := newCLI(t, g, p.Addr), newCLI(t, g, m.Addr)
			for _, q := range requestsOfCLI(t) {
				for _, c := range []cli{real, member} {
					if a := c.caller.ask(q); a.Status != 200 {
						t.Fatalf("%s: %s: %+v", c.addr, q.Path, a)
					}
				}
			}
			for _, words := range commands(g) {
				got, want := member.run(t, words), real.run(t, words)
				reason, known := otherWords[words]
				switch diff := cmp.Diff(want, got); {
				case diff == "" && known:
					t.Errorf("puppetserver ca %s: says the same, but is listed as different (%s)", words, reason)
				case diff != "" && !known:
					t.Errorf("puppetserver ca %s: (-puppetserver +troupe)\n%s", words, diff)
				}
			}
		})
	}
}

// otherWords are the commands that say something else, and why.
var otherWords = map[string]string{
	"sign --certname five --ttl 100y": "a lifetime above 50 years is the caller's fault (400); the real server answers 500 with an exception of Java",
}

// requestsOfCLI wait when the commands begin.
func requestsOfCLI(t *testing.T) []Step {
	t.Helper()
	var all []Step
	submit := func(name string, c csr) {
		c.name, c.key = name, ecKey(t)
		all = append(all, Step{Method: "PUT", Path: requestPath + name, Type: "text/plain", Body: c.encode(t)})
	}
	for _, name := range []string{"one", "two", "three", "four", "five", "six", "seven"} {
		submit(name, csr{})
	}
	submit("alt", csr{extensions: []pkix.Extension{altNames(t, []string{"alt", "other"}, "10.0.0.1")}})
	submit("role", csr{extensions: []pkix.Extension{says(t, "web", puppetOID(1, 13)), says(t, "x", puppetOID(2, 5))}})
	submit("auth", csr{extensions: []pkix.Extension{says(t, "admins", puppetOID(3, 13))}})
	return all
}

// commands are in the order of a life. The words after a colon say as whom.
func commands(g troupetest.Generation) []string {
	all := []string{
		"list", "list --all", "list --format json", "list --all --format json", "list --format yaml", "list --certname one,nosuch", "list --certname " + serverName,
		"list --certname nosuch --format json", "list --certname one --all", "list extra",
		"sign", "sign --certname", "sign --certname one", "sign --certname one", "sign --certname nosuch", "sign --certname two,nosuch,three",
		"sign --certname four --ttl 1d", "sign --certname five --ttl 1w", "sign --certname five --ttl 0", "sign --certname five --ttl 100y", "sign --certname five --all",
		"sign --certname alt", "sign --certname auth", "sign --certname Upper", "sign --certname *.example.test", "sign --certname a/b",
		"sign --all", "sign --all", "list", "list --all", "list --certname role,alt --format json",
		"revoke", "revoke --certname one", "revoke --certname one", "revoke --certname nosuch", "revoke --certname two,nosuch", "revoke --certname alt", "list --all",
		"clean", "clean --certname one", "clean --certname one", "clean --certname three,nosuch", "clean --certname alt", "clean --certname auth", "list --all", "list",
		"generate", "generate --certname made", "generate --certname made", "generate --certname four", "generate --certname made2,made3 --ttl 2d", "generate --certname made4 --subject-alt-names DNS:x,IP:10.0.0.9",
		"generate --certname Upper", "generate --certname *.wild", "generate --certname made5 --ttl x", "generate --certname made6 --subject-alt-names wrong:x", "list --all --format json", "list",
		"generate --certname tool --ca-client", "generate --certname tool --ca-client --ttl 1d", "setup", "setup --ca-name x", "import", "import --private-key x --cert-bundle y --crl-chain z",
		"enable", "enable --infracrl", "migrate", "prune", "nosuch", "", "--version",
		"list:agent", "list --all:agent", "sign --certname five:agent", "sign --all:agent", "revoke --certname five:agent", "clean --certname five:agent", "generate --certname made7:agent",
	}
	if g == troupetest.Puppet8 {
		all = append(all, "delete", "delete --all", "delete --expired", "delete --revoked", "delete --certname five", "prune --remove-duplicates", "prune --remove-entries --serial 1")
	}
	return all
}

// cli is the command line, configured for one server.
type cli struct {
	generation troupetest.Generation
	dir, addr  string
	caller     caller
}

func newCLI(t *testing.T, g troupetest.Generation, addr string) cli {
	t.Helper()
	c := cli{generation: g, dir: troupetest.TempDir(t), addr: addr, caller: newCaller(t, addr, trust(t, ssldir), identity(t, ssldir, serverName))}
	for _, name := range []string{"ca", "ssl"} {
		if out, err := exec.CommandContext(t.Context(), "cp", "-R", "testdata/"+name, filepath.Join(c.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("copy: %v\n%s", err, out)
		}
	}
	authority := openAuthority(t, folder)
	authority.issue(t, filepath.Join(c.dir, "ssl"), leafSpec{name: "agent.example.test", serial: 900})
	config := writeCLIConfig(t, c.dir, addr, filepath.Join(c.dir, "ssl"))
	writeFile(t, filepath.Join(c.dir, "agent.conf"), strings.Replace(readFile(t, config), "certname = "+serverName, "certname = agent.example.test", 1))
	return c
}

// A said is what one command did.
type said struct {
	Exit           int
	Stdout, Stderr string
}

func (c cli) run(t *testing.T, words string) said {
	t.Helper()
	config := filepath.Join(c.dir, "puppet.conf")
	if plain, agent := strings.CutSuffix(words, ":agent"); agent {
		words, config = plain, filepath.Join(c.dir, "agent.conf")
	}
	args := strings.Fields(words)
	command := []string{"ruby", "-e", `require "puppetserver/ca/cli"; exit Puppetserver::Ca::Cli.run(ARGV)`, "--"}
	if len(args) > 0 {
		command = append(command, args[0])
		if !strings.HasPrefix(args[0], "-") && args[0] != "nosuch" {
			command = append(command, "--config", config)
		}
		command = append(command, args[1:]...)
	}
	cmd := c.generation.Command(t.Context(), t, []string{c.dir}, command...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("puppetserver ca %s: %v", words, err)
	}
	return said{cmd.ProcessState.ExitCode(), c.mask(stdout.String()), c.mask(stderr.String())}
}

var (
	fingerprints = regexp.MustCompile(`([0-9A-F]{2}:){15,}[0-9A-F]{2}`)
	dates        = regexp.MustCompile(`"not_(before|after)":"[^"]*"`)
	serials      = regexp.MustCompile(`"serial_number":"?[0-9A-Fa-fx]+"?`)
	ownNames     = regexp.MustCompile(`"DNS:(puppet|localhost)", ?"DNS:(puppet|localhost)"`)
)

// mask removes what belongs to one server: folder and port; keys made by the command itself, and with them the
// fingerprints; serial numbers, which count there and are random here; dates; the order of names, which is that of a
// folder there and sorted here; the order of the alternative names of the server's own certificate, which a member has
// made itself.
func (c cli) mask(text string) string {
	_, port, _ := strings.Cut(c.addr, ":")
	text = strings.NewReplacer(c.dir, "/srv/cli", ":"+port, ":PORT").Replace(text)
	text = fingerprints.ReplaceAllString(dates.ReplaceAllString(text, `"not_$1":"DATE"`), "FINGERPRINT")
	text = ownNames.ReplaceAllString(serials.ReplaceAllString(text, `"serial_number":"N"`), `"OWN"`)
	return sortNames(text)
}

// sortNames sorts what `list` says below each heading.
func sortNames(text string) string {
	var groups map[string][]json.RawMessage
	if err := json.Unmarshal([]byte(text), &groups); err == nil {
		for _, names := range groups {
			slices.SortFunc(names, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
		}
		var b bytes.Buffer
		if err := json.NewEncoder(&b).Encode(groups); err == nil {
			return b.String()
		}
	}
	lines := strings.Split(text, "\n")
	for from := 0; from < len(lines); from++ {
		to := from
		for to < len(lines) && strings.Contains(lines[to], "(SHA256)") {
			to++
		}
		slices.Sort(lines[from:to])
		from = max(from, to-1)
	}
	return strings.Join(lines, "\n")
}
