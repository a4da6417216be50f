package haproxy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/config"
	"troupe/internal/edge/haproxy"
)

var update = flag.Bool("update", false, "write what comes out as what is wanted")

// beside reads files next to the test's configurations.
func beside(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join("testdata", filepath.Base(path)))
}

func load(t *testing.T, name string) (text []byte, res *haproxy.Result) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	res, err = haproxy.Import(name, text, haproxy.Options{ReadFile: beside})
	if err != nil {
		t.Fatal(err)
	}
	return text, res
}

// all writes a result as the files of testdata have it.
func all(res *haproxy.Result) string {
	var b strings.Builder
	b.WriteString(res.YAML + "---\n")
	for _, l := range res.Lines {
		for _, n := range l.Became {
			fmt.Fprintf(&b, "%d %s: %s: %s\n", l.Number, l.What, n.State, n.Text)
		}
	}
	for _, text := range res.General {
		fmt.Fprintf(&b, "in general: %s\n", text)
	}
	return b.String()
}

// TestWhatBecomesOfWholeFiles compares configuration and report with those that were read and found right.
func TestWhatBecomesOfWholeFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.cfg")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, res := load(t, filepath.Base(file))
			path := strings.TrimSuffix(file, ".cfg") + ".want"
			if *update {
				if err := os.WriteFile(path, []byte(all(res)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), all(res)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			again, err := config.ParseEdge(file, []byte(res.YAML))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(res.Edge, again, cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() })); diff != "" {
				t.Errorf("the text says another configuration than the result: %s", diff)
			}
		})
	}
}

// TestEveryLineIsAnswered counts the lines that say something.
func TestEveryLineIsAnswered(t *testing.T) {
	for _, name := range []string{"anycast.cfg", "tls.cfg", "sni.cfg", "legacy.cfg", "corners.cfg"} {
		text, res := load(t, name)
		answered := map[int]bool{}
		for _, l := range res.Lines {
			if len(l.Became) == 0 || l.State == "" || l.Became[0].State != l.State {
				t.Errorf("%s:%d: state %q, %+v", name, l.Number, l.State, l.Became)
			}
			answered[l.Number] = true
		}
		for i, line := range strings.Split(string(text), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' && !answered[i+1] {
				t.Errorf("%s:%d: nothing is said of %q", name, i+1, line)
			}
		}
	}
}

func TestNoSecretComesOut(t *testing.T) {
	_, res := load(t, "tls.cfg") // its password stands in it three times
	if out := all(res); strings.Contains(out, "hunter2") {
		t.Errorf("a password is in the report:\n%s", out)
	}
	const secrets = `
global
    setenv KEY hunter2
    unheard-of hunter2
frontend f
    bind :8140
    unheard-of hunter2
    default_backend b
backend b
    option httpchk GET / HTTP/1.1\r\nX-Token:\ hunter2
    http-check expect header name authorization value hunter2
    server s 192.0.2.1:8140 check unheard-of hunter2
`
	res, err := haproxy.Import("secrets.cfg", []byte(secrets), haproxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if out := all(res); strings.Contains(out, "hunter2") || res.Count(haproxy.Unmapped) != 6 {
		t.Errorf("%d lines are lost, want 6, and no password:\n%s", res.Count(haproxy.Unmapped), out)
	}
}

// minimal is a configuration with a place for one more line in each section.
func minimal(front, back, server string) string {
	return "global\ndefaults\n mode tcp\n timeout connect 1s\nfrontend f\n bind :8140\n" + front + "\n default_backend b\nbackend b\n" + back + "\n server s 192.0.2.1:8140 " + server + "\nbackend c\n server s 192.0.2.2:8140\n"
}

func TestMistakesAreNamedWithTheirLines(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no section":           {"mode tcp\n", "h.cfg:1: a line before the first section"},
		"quote":                {"global\n log 'x\n", "h.cfg:2: a ' is not closed"},
		"double quote":         {"global\n log \"x\n", `h.cfg:2: a " is not closed`},
		"backslash":            {"global\n log x\\\n", `h.cfg:2: a \ stands at the end`},
		"time":                 {minimal("", "", "check inter soon"), `h.cfg:11: inter: "soon" is not a time such as 500, 10s or 5m`},
		"number":               {minimal("", "", "weight 300"), `h.cfg:11: weight: "300" is not a number from 0 to 256`},
		"missing value":        {minimal("", "", "check inter"), "h.cfg:11: inter needs a value"},
		"word":                 {minimal("", "", "observe layer5"), `h.cfg:11: observe: "layer5" is not one of layer4, layer7`},
		"variable":             {minimal("", "", `maxconn "$MOST"`), "h.cfg:11: maxconn: it has a variable of HAProxy's environment"},
		"acl":                  {minimal(" use_backend c if nowhere", "", ""), `h.cfg:7: there is no acl "nowhere" in frontend f`},
		"open condition":       {minimal(" use_backend c if { src 192.0.2.1", "", ""), "h.cfg:7: the condition in { } is not closed"},
		"backend":              {minimal(" use_backend d if { src 192.0.2.1 }", "", ""), `h.cfg:7: there is no backend "d"`},
		"port":                 {"listen l\n bind :99999\n server s 192.0.2.1:1\n", `h.cfg:2: the port "99999" is not a number from 1 to 65535`},
		"two servers":          {minimal("", " server s 192.0.2.9:8140", ""), `h.cfg:11: two servers of backend b are called "s"`},
		"two sections":         {minimal("", "", "") + "backend b\n", "h.cfg:14: backend b has the name of the one in line 9"},
		"from":                 {"defaults a\nfrontend f from b\n", "h.cfg:2: from: there is no section defaults of that name"},
		"short server":         {minimal("", " server x", ""), "h.cfg:10: server needs a name and an address"},
		"timeout":              {"defaults\n timeout connect never\n", `h.cfg:2: timeout connect: "never" is not a time`},
		"nothing":              {"global\n daemon\n", "h.cfg has nothing that an edge could do"},
		"plain HTTP alone":     {"listen l\n mode http\n bind :80\n server s 192.0.2.1:80\n", "h.cfg has nothing that an edge could do"},
		"stick table's size":   {minimal("", " stick-table type ip size lots\n stick on src", ""), `h.cfg:10: stick-table: size: "lots"`},
		"path of a check":      {minimal("", " option httpchk GET status", "check"), "h.cfg:10: httpchk: the path must begin with /"},
		"too many words":       {"global\n" + strings.Repeat("a ", 2000), "h.cfg:2: the line has more than 1024 words"},
		"all at once (first)":  {minimal("", "", "check inter soon weight 300"), "inter:"},
		"all at once (second)": {minimal(" bind nowhere", "", "check inter soon"), "h.cfg:7: bind needs a port"},
	} {
		res, err := haproxy.Import("h.cfg", []byte(c.text), haproxy.Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q (%v)", name, err, c.want, res != nil)
		}
	}
}

// TestSmallThings has one line each, and what of the edge's configuration it becomes.
func TestSmallThings(t *testing.T) {
	for name, c := range map[string]struct {
		front, back, server string
		want                string // in the YAML, without blanks and line ends
		state               haproxy.State
		says                string // a note with this state
	}{
		"above the average":        {front: " use_backend c if { avg_queue(b) ge 3 }", want: "overflow:pool:cabove:2.0", state: haproxy.Mapped, says: "overflow.above: 2 "},
		"average as a range":       {front: " use_backend c if { avg_queue(b) 3: }", want: "overflow:pool:cabove:2.0", state: haproxy.Mapped, says: "overflow.above: 2 "},
		"average is equal":         {front: " use_backend c if { avg_queue(b) 3 }", state: haproxy.Unmapped, says: "avg_queue gt N"},
		"a circle":                 {front: " use_backend b if { avg_queue(b) gt 3 }", state: haproxy.Unmapped, says: "circle"},
		"few servers":              {front: " use_backend c if { nbsrv(b) lt 2 }", want: "above:100000.0", state: haproxy.Differs, says: "when no server is left"},
		"not":                      {front: " use_backend c unless { src 192.0.2.0/24 }", state: haproxy.Unmapped, says: "unless"},
		"a rule of two sources":    {front: " use_backend c if { src 192.0.2.7 } { src 192.0.2.0/24 }", state: haproxy.Unmapped, says: "two conditions on source"},
		"or":                       {front: " use_backend c if { src 192.0.2.7 } || { src 2001:db8::/32 }", want: "source:-192.0.2.7/32-2001:db8::/32pool:c", state: haproxy.Mapped, says: "rule: pool c"},
		"file without a reader":    {front: " use_backend c if { src -f lab.lst }", state: haproxy.Unmapped, says: "was not read"},
		"PROXY from some":          {front: " tcp-request connection expect-proxy layer4 if { src 192.0.2.0/28 }", want: "proxy_protocol:-192.0.2.0/28", state: haproxy.Mapped, says: "proxy_protocol"},
		"defaults written out":     {server: "check", want: "type:tcpinterval:2srise:2fall:3observe:false", state: haproxy.Mapped},
		"no check":                 {want: "check:type:noneobserve:false", state: haproxy.Mapped, says: "type: none"},
		"milliseconds":             {server: "check inter 1500 downinter 10s", want: "interval:1500msdown_interval:10s", state: haproxy.Mapped, says: "downinter"},
		"option undone":            {server: "check no-check", want: "check:type:none", state: haproxy.Mapped, says: "type: none"},
		"old check":                {back: " option httpchk /status/v1/simple", server: "check", want: "type:httpmethod:OPTIONSpath:/status/v1/simple", state: haproxy.Mapped, says: "type: http"},
		"check over TLS":           {back: " option httpchk", server: "check check-ssl verify none", want: "type:httpsmethod:OPTIONSpath:/verify:false", state: haproxy.Mapped, says: "type: https"},
		"status not":               {back: " option httpchk\n http-check expect ! rstatus ^5", server: "check", want: "status:100-499", state: haproxy.Mapped, says: "100-499"},
		"status list":              {back: " option httpchk\n http-check expect status 200,204-206", server: "check", want: "status:200,204-206", state: haproxy.Mapped, says: "200,204-206"},
		"body not":                 {back: " option httpchk\n http-check expect ! string error", server: "check", state: haproxy.Unmapped, says: "the status alone"},
		"other protocol":           {back: " option mysql-check", server: "check", want: "type:tcp", state: haproxy.Unmapped, says: "no such protocol"},
		"sessions cut":             {server: "check on-marked-down shutdown-sessions", want: "cut_when_down:true", state: haproxy.Mapped, says: "cut_when_down"},
		"agent elsewhere":          {server: "agent-check agent-addr 192.0.2.99 agent-port 7777", want: "agent_check:192.0.2.99:7777", state: haproxy.Mapped, says: "192.0.2.99:7777"},
		"PROXY to servers":         {server: "send-proxy-v2", want: "send_proxy:v2", state: haproxy.Mapped, says: "send_proxy: v2"},
		"TLS of its own":           {server: "ssl verify none", state: haproxy.Unmapped, says: "begins no TLS of its own"},
		"table of counters":        {back: " stick-table type ip size 1m expire 1m store conn_rate(3s)", state: haproxy.Unmapped, says: "nothing sticks by it"},
		"no expiry":                {back: " stick-table type ip size 1k\n stick on src", want: "stick:sourcestick_size:1024", state: haproxy.Differs, says: "no expire"},
		"queue of its own time":    {back: " timeout queue 7s", server: "maxconn 2", want: "queue:timeout:7s", state: haproxy.Mapped, says: "queue.timeout"},
		"queue's default time":     {server: "maxconn 2", want: "queue:timeout:1s", state: haproxy.Mapped, says: "HAProxy's default is timeout connect"},
		"path in bytes":            {front: " use_backend c if { path_beg /puppet-ca/ }", state: haproxy.Unmapped, says: "inside of TLS"},
		"certname in bytes":        {back: " stick on ssl_c_s_dn(cn)", state: haproxy.Unmapped, says: "inside of TLS"},
		"quoted words":             {front: ` use_backend c if { req.ssl_sni -i "Puppet.Example.COM" 'p2.example.com' }`, want: "sni:-puppet.example.com-p2.example.com", state: haproxy.Mapped, says: "names.sni"},
		"the rest of a default":    {front: " use_backend c\n use_backend b if { src 192.0.2.7 }", want: "pool:c", state: haproxy.Mapped, says: "what follows is not reached"},
		"computed backend":         {front: " use_backend %[req.ssl_sni] if { src 192.0.2.1 }", state: haproxy.Unmapped, says: "named, not computed"},
		"conditions of the file":   {front: " .if defined(X)\n .endif", state: haproxy.Unmapped, says: "conditions of the file"},
		"converter of a source":    {front: " use_backend c if { src,ipmask(24) 192.0.2.0 }", state: haproxy.Unmapped, says: "not what ipmask(24) makes of it"},
		"converter of a name":      {front: " use_backend c if { req.ssl_sni,field(2,.) lab }", state: haproxy.Unmapped, says: "not what field(2,.) makes of it"},
		"small letters of a name":  {front: " use_backend c if { req.ssl_sni,lower p.example.com }", want: "sni:-p.example.com", state: haproxy.Mapped, says: "names.sni"},
		"converter of stick":       {back: " stick-table type ip size 1k expire 1m\n stick on src,ipmask(24)", state: haproxy.Unmapped, says: "what a converter makes of it"},
		"two expectations":         {back: " option httpchk\n http-check expect status 200\n http-check expect string running", server: "check", want: "status:200body:running", state: haproxy.Mapped, says: "since 2.2"},
		"two the other way":        {back: " option httpchk\n http-check expect string running\n http-check expect status 200", server: "check", want: "status:200body:running", state: haproxy.Mapped, says: "check.status: 200"},
		"two statuses":             {back: " option httpchk\n http-check expect status 200-299\n http-check expect ! status 204", server: "check", want: "status:200-203,205-299", state: haproxy.Mapped, says: "205-299"},
		"no status fits both":      {back: " option httpchk\n http-check expect status 200\n http-check expect status 404", server: "check", want: "status:200", state: haproxy.Unmapped, says: "no status fits"},
		"two texts":                {back: " option httpchk\n http-check expect string a\n http-check expect string b", server: "check", want: "body:a", state: haproxy.Unmapped, says: "one text"},
		"server without limit":     {back: " timeout server 0", state: haproxy.Differs, says: "default of 20m holds"},
		"client without limit":     {front: " timeout client 0", back: " timeout server 1m", want: "idle_timeout:1m", state: haproxy.Differs, says: "an edge has one for both sides"},
		"variable in a file":       {server: `check ssl verify required ca-file "$DIR/ca.pem"`, state: haproxy.Unmapped, says: "a variable of HAProxy's environment"},
		"variable without quotes":  {server: `check ssl verify required ca-file ${DIR}/ca.pem`, state: haproxy.Unmapped, says: "a variable of HAProxy's environment"},
		"range of ports":           {front: " bind :8200-8202", want: "listen::8202", state: haproxy.Mapped, says: "listener :8201"},
		"WAIT_END":                 {front: " use_backend c if { src 192.0.2.1 } WAIT_END", want: "source:-192.0.2.1/32", state: haproxy.Mapped, says: "rules.source"},
		"FALSE":                    {front: " use_backend c if FALSE", state: haproxy.Unneeded, says: "never fits"},
		"LOCALHOST":                {front: " use_backend c if LOCALHOST", want: "source:-127.0.0.0/8", state: haproxy.Mapped, says: "rules.source"},
		"METH_GET":                 {front: " use_backend c if METH_GET", state: haproxy.Unmapped, says: "rules do not look at METH_GET"},
		"not HTTP":                 {front: " use_backend c if !HTTP { src 192.0.2.1 }", state: haproxy.Unneeded, says: "never fits"},
		"words that nobody knows":  {server: "check frobnicate", state: haproxy.Unmapped, says: `"frobnicate" is not known here`},
		"weight":                   {server: "weight 0", want: "weight:0", state: haproxy.Differs, says: "weight 0"},
		"slow start, in the words": {server: "slowstart 90s", want: "slow_start:90s", state: haproxy.Mapped, says: "slow_start"},
	} {
		res, err := haproxy.Import("h.cfg", []byte(minimal(c.front, c.back, c.server)), haproxy.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(c.says, "makes of it") && (strings.Contains(bare(res), "rules:") || strings.Contains(bare(res), "names:") || strings.Contains(bare(res), "stick:")) {
			t.Errorf("%s: it became\n%s", name, res.YAML)
		}
		if !strings.Contains(bare(res), c.want) {
			t.Errorf("%s: no %q in\n%s", name, c.want, res.YAML)
		}
		found := c.says == ""
		for _, l := range res.Lines {
			for _, n := range l.Became {
				found = found || n.State == c.state && strings.Contains(n.Text, c.says)
			}
		}
		if !found {
			t.Errorf("%s: nobody says %q, %s:\n%s", name, c.says, c.state, all(res))
		}
	}
}

// bare is a configuration without blanks and quotes.
func bare(res *haproxy.Result) string {
	return regexp.MustCompile(`[\s"]`).ReplaceAllString(res.YAML, "")
}

// FuzzImport: whatever is read, each line is answered, and what is written an edge takes.
func FuzzImport(f *testing.F) {
	files, err := filepath.Glob("testdata/*.cfg")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(minimal(" acl a src 192.0.2.1\n use_backend c if a !a or { avg_queue(b) gt 1 }", " option httpchk GET / HTTP/1.1\\r\\nHost:x", "check agent-check agent-port 1")))
	f.Fuzz(func(t *testing.T, text []byte) {
		res, err := haproxy.Import("fuzz.cfg", text, haproxy.Options{})
		if err != nil {
			if res != nil || strings.Contains(err.Error(), "mistake of the import") {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(res.Edge.Listeners) == 0 || len(res.Edge.Pools) == 0 {
			t.Fatal("a configuration of nothing")
		}
		for _, l := range res.Lines {
			if l.State == "" || len(l.Became) == 0 || len(l.What) > 400 {
				t.Fatalf("line %d: %+v", l.Number, l)
			}
		}
		if _, err := config.ParseEdge("again", []byte(res.YAML)); err != nil {
			t.Fatal(err)
		}
	})
}
