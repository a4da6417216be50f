//go:build parity

package parity

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"troupe/internal/puppet"
	"troupe/internal/troupetest"
	"troupe/parity/corpus"
)

// This file compares catalogs with those of the real servers.

var (
	roles  = flag.String("roles", "", "compare only nodes of these roles (a list with commas)")
	first  = flag.Int("first", 0, "of each role, compare only so many nodes; 0 means all")
	update = flag.Bool("update", false, "write the recording of puppetserver 7.9.5 anew")
	only   = flag.String("formats", "", "compare only these formats (a list with commas)")
	keep   = flag.String("keep", "", "folder for all answers, as they are compared")
)

func TestCatalogsAreThoseOfPuppetServer7(t *testing.T) {
	c := compareWith(t, "puppetserver 7.9.5", "")
	if *update {
		writeRecording(t, c.recording)
	}
}

func TestCatalogsAreThoseOfPuppetServer8(t *testing.T) {
	compareWith(t, "puppetserver 8.7.0", "trixie-server")
}

// comparison is one run of the corpus on two servers.
type comparison struct {
	t         *testing.T
	got, want *peer
	database  *troupetest.PuppetDB // of the real one

	environments string     // folder that both servers read
	recording    []recorded // what the real one answered, as far as it is kept
	accounts     bool       // the servers run as users of other numbers: one of them in a chroot

	equal     map[string]int // catalogs by format
	different map[string]int
}

func compareWith(t *testing.T, name, chroot string) *comparison {
	t.Helper()
	c := start(t, name, chroot)
	nodes := selected(corpus.Nodes())

	// A first pass, after which it is known what all nodes export.
	for _, n := range nodes {
		got, want := c.got.v3(t, n, ofAgent), c.want.v3(t, n, ofAgent)
		if want.status != http.StatusOK { // the first use of a type with a provider that cannot be loaded; see docs/compat.md
			want = c.want.v3(t, n, ofAgent)
		}
		if want.status != http.StatusOK {
			t.Errorf("%s: the first catalog of %s: %d\n%s", c.want.name, n.Certname, want.status, want.body)
		}
		if !n.Collects() {
			c.compare(n, agentFormat, got, want)
		}
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Certname
	}
	c.database.Knows(t, names)
	for _, f := range formats {
		for _, n := range nodes {
			if wanted(f.name) && (f.name != agentFormat || n.Collects()) {
				c.format(n, f.name, f.accept)
			}
		}
	}
	for _, n := range nodes {
		if wanted("v4") {
			c.compare(n, "v4", c.got.v4(t, n), c.want.v4(t, n))
		}
	}
	for _, n := range selected(corpus.Broken()) {
		if wanted(failing) {
			c.compare(n, failing, c.got.v3(t, n, ofAgent), c.want.v3(t, n, ofAgent))
		}
		if wanted(failingV4) {
			c.compare(n, failingV4, c.got.v4(t, n), c.want.v4(t, n))
		}
	}
	c.table(name, len(nodes))
	return c
}

// format compares what an agent gets that accepts so much. Where the real server has no gem for MessagePack, or is Puppet 8, which
// has no PSON, its JSON is asked for.
func (c *comparison) format(n corpus.Node, name, accept string) {
	c.t.Helper()
	got, want := c.got.v3(c.t, n, accept), c.want.v3(c.t, n, accept)
	if want.status == http.StatusNotAcceptable && isMsgpack(got) {
		want = c.want.v3(c.t, n, strings.NewReplacer("rich+msgpack", "rich+json", "x-msgpack", "json").Replace(accept))
	}
	if want.status == http.StatusNotAcceptable && accept == puppet.TypePSON {
		want = c.want.v3(c.t, n, puppet.TypeJSON)
		want.contentType = puppet.TypePSON
	}
	c.compare(n, name, got, want)
}

// wanted reports whether the flags leave a format.
func wanted(format string) bool {
	return *only == "" || slices.Contains(strings.Split(*only, ","), format)
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
	if err := corpus.Install(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	auth := filepath.Join(dir, "auth.conf")
	text, err := os.ReadFile("/etc/puppet/puppetserver/conf.d/auth.conf")
	if err != nil {
		t.Fatal(err)
	}
	write(t, auth, allowV4(string(text)), 0o644)
	config := "classifier: { command: " + dir + "/enc }\nauth_conf: " + auth + "\n"
	settings := []string{"node_terminus = exec", "external_nodes = " + dir + "/enc"}
	if chroot != "" {
		// Debian's modules are older than Puppet 8, whose default is to refuse what they do.
		config += "engine: { puppet_lib: [" + troupetest.PuppetLib(chroot) + "], settings: { strict: warning, strict_variables: false } }\n"
		settings = append(settings, "strict = warning", "strict_variables = false")
	}
	member := troupetest.StartServer(t, troupetest.ServerOptions{
		Certname: serverName, Environments: filepath.Join(dir, "environments"), Autosign: true, Config: config,
	})
	got := newPeer(t, "troupe", member.Addr)

	// The real server says the ids that troupe has for the same code, so that it makes static catalogs.
	// A node that is not compared must not export anything here alone, so it is asked only if no other has its environment.
	for _, n := range append(selected(corpus.Nodes()), corpus.Nodes()...) {
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
		Settings: append(settings, "environmentpath = "+member.Environments),
		Rewrite: func(name, text string) string {
			switch name {
			case "auth.conf":
				return allowV4(text)
			case "puppetserver.conf":
				// Debian 13's JRuby does not bring rexml, which providers of Debian's modules load.
				return strings.Replace(text, "gem-path: [", `gem-path: ["/usr/lib/ruby/gems/3.3.0", `, 1) + "\nversioned-code: { code-id-command: " + dir + "/code-id, code-content-command: " + dir + "/code-content }\n"
			}
			return text
		},
	})
	database.Start(t, real)
	return &comparison{
		t: t, got: got, want: newPeer(t, name, real.Addr), database: database, environments: member.Environments, accounts: chroot != "", equal: map[string]int{}, different: map[string]int{},
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

// v4 asks as a service does, on behalf of the node.
func (p *peer) v4(t *testing.T, n corpus.Node) answer {
	t.Helper()
	facts, err := n.Facts()
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Values json.RawMessage }
	if err := json.Unmarshal(facts, &document); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"certname": n.Certname, "environment": n.Environment, "persistence": map[string]bool{"facts": false, "catalog": false},
		"facts": map[string]any{"values": document.Values}, "transaction_uuid": "00000000-0000-0000-0000-000000000000",
		"trusted_facts": map[string]any{"values": map[string]any{
			"authenticated": "remote", "certname": n.Certname, "hostname": strings.TrimSuffix(n.Certname, ".example.test"),
			"domain": "example.test", "extensions": map[string]any{"pp_role": n.Role}, "external": map[string]any{},
		}},
		"options": map[string]any{"prefer_requested_environment": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.do(t, p.client(t, n), http.MethodPost, "/puppet/v4/catalog", []string{"Content-Type", "application/json"}, string(body))
}

// codeID is what the server calls the version of the node's environment.
func (p *peer) codeID(t *testing.T, n corpus.Node) string {
	t.Helper()
	got := p.v3(t, n, ofAgent) // staging has no rich data
	var catalog struct {
		CodeID string `json:"code_id"`
	}
	if err := json.Unmarshal(got.body, &catalog); err != nil || catalog.CodeID == "" {
		t.Fatalf("%s: no code_id in the catalog of %s: %d %v\n%s", p.name, n.Certname, got.status, err, got.body[:min(len(got.body), 800)])
	}
	return catalog.CodeID
}

// compare holds two answers against each other. What troupe says as MessagePack has to mean the JSON that it says when
// the real server has no MessagePack.
func (c *comparison) compare(n corpus.Node, format string, got, want answer) {
	c.t.Helper()
	if kept(n, format) {
		c.recording = append(c.recording, recorded{
			n.Certname, format, want.contentType, string(ofThePlace(want.normal(), c.environments)), want.status,
		})
	}
	var problems []string
	translated := isMsgpack(got) && !isMsgpack(want) && got.status == want.status
	if translated {
		got = decoded(c.t, got, want.contentType)
	}
	gotBody, wantBody := CollectedInOneOrder(got.normal(), corpus.Collected), CollectedInOneOrder(want.normal(), corpus.Collected)
	if strings.HasSuffix(format, "v4") {
		gotBody, wantBody = InOneSpelling(gotBody), InOneSpelling(wantBody)
	}
	if c.accounts {
		number := []byte(`"owner":0,"group":0`)
		gotBody, wantBody = owner.ReplaceAll(gotBody, number), owner.ReplaceAll(wantBody, number)
		wantBody = binaryMessage.ReplaceAllFunc(wantBody, textOfBinary)
		if want.status != http.StatusOK {
			wantBody = PlaceOnce(wantBody)
		}
	}
	if got.status != want.status {
		problems = append(problems, fmt.Sprintf("status %d, not %d", got.status, want.status))
	}
	if got.contentType != want.contentType {
		problems = append(problems, fmt.Sprintf("content type %q, not %q", got.contentType, want.contentType))
	}
	if d := Difference(wantBody, gotBody); d != "" && (!translated || !SameTokens(wantBody, gotBody)) {
		problems = append(problems, d)
	}
	if *keep != "" {
		base := filepath.Join(*keep, n.Certname+"."+strings.ReplaceAll(format, " ", "-"))
		write(c.t, base+".got", string(gotBody), 0o644)
		write(c.t, base+".want", string(wantBody), 0o644)
	}
	if n.Certname == overflow && got.status == want.status {
		problems = nil
	}
	if len(problems) == 0 {
		c.equal[format]++
		return
	}
	c.different[format]++
	c.t.Errorf("%s, %s: %s", n.Certname, format, strings.Join(problems, "; "))
}

// binaryMessage is what puppetserver 8.7.0 makes of a text with the server's own name: its JRuby takes the name of the host for
// binary data. docs/compat.md.
var binaryMessage = regexp.MustCompile(`"message":\{"__ptype":"Binary","__pvalue":"([^"]*)"\}`)

func textOfBinary(message []byte) []byte {
	text, err := base64.StdEncoding.DecodeString(string(binaryMessage.FindSubmatch(message)[1]))
	if err != nil {
		return message
	}
	quoted, err := json.Marshal(string(text))
	if err != nil {
		return message
	}
	// Catalogs leave > as it is.
	return slices.Concat([]byte(`"message":`), bytes.ReplaceAll(quoted, []byte(`\u003e`), []byte(">")))
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
	for _, f := range append(names, "v4", failing, failingV4) {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", f, c.equal[f], c.different[f])
	}
	c.t.Log(b.String())
}

func writeRecording(t *testing.T, list []recorded) {
	t.Helper()
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(w).Encode(list); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, recording, zipped.String(), 0o644)
}
