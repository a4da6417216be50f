package agentroute_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"troupe/internal/agentroute"
	"troupe/internal/config"
	"troupe/internal/troupetest"
)

// plan reads a puppet.conf and plans without asking anybody.
func plan(t *testing.T, version, conf string) (*agentroute.Plan, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "puppet.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := agentroute.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	read, err := config.ReadAgentConf(path, v.Sections(), map[string]string{"server": "puppet"})
	if err != nil {
		t.Fatal(err)
	}
	return agentroute.New(v, read, agentroute.Options{Domain: "example.com"})
}

func TestVersionsAreReadAsPuppetPrintsThem(t *testing.T) {
	for text, want := range map[string]string{
		"7": "7.0.0", "7.23": "7.23.0", "8.10.0": "8.10.0", "9.0.0-rc1": "9.0.0", "openvox9": "9.0.0", "openvox-8.11.0": "8.11.0", "5.5.22-1+deb11u1": "5.5.22",
	} {
		if v, err := agentroute.ParseVersion(text); err != nil || v.String() != want {
			t.Errorf("%q became %v, %v; want %s", text, v, err, want)
		}
	}
	for _, text := range []string{"", "seven", "4.10.12", "7.x", "7.23.0.1", "9999"} {
		if v, err := agentroute.ParseVersion(text); err == nil {
			t.Errorf("%q became %v, want an error", text, v)
		}
	}
}

func TestWhatBreaksIsSaidForTheVersionThatItBreaks(t *testing.T) {
	const srv = "[main]\nuse_srv_records = true\nserver = x\n"
	const list = "[main]\nserver = x\nserver_list = a,b\n"
	for _, c := range []struct {
		version, conf, words string
		said                 bool
	}{
		{"7.23", srv, "costs 2m for each of the four services, 8m0s in a run", true},
		{"7.23", srv + "http_connect_timeout = 10s\n", "40s in a run", true},
		{"5.5.22", srv, "only when a connection is refused or unreachable", true},
		{"7.23", list, "is not used to find servers while server_list is set", true},
		{"7.23", list, "goes on with the cached catalog", true},
		{"6.18", list, "goes on with the cached catalog", false},
		{"6.18", list, "when none of server_list answers, the run fails", true},
		{"5.5.22", list, "certificates come from the first of server_list alone", true},
		{"7.23", list, "certificates come from the first of server_list alone", false},
		{"8.10", list + "ca_server = ca\n", "ca is its only server", true},
		{"8.10", "[main]\nserver_list = 2001:db8::1,b\nserver = x\n", "an IPv6 address cannot stand there", true},
		{"5.5.22", list, "only the first certificate and list are kept", true},
		{"6.0", list, "only the first certificate and list are kept", false},
		{"5.5.22", list, "holds a run for ever", true},
		{"5.5.22", list + "http_read_timeout = 10m\n", "holds a run for ever", false},
		{"7.23", list, "fails its request after the sleep", true},
		{"7.26", list, "fails its request after the sleep", false},
		{"8.1", list, "fails its request after the sleep", true},
		{"8.10", list, "fails its request after the sleep", false},
		{"5.2", list, "Retry-After is not dependable", true},
		{"6.4", list, "is sent twice", true},
		{"6.5", list, "is sent twice", false},
		{"7.23", list, "set crl_refresh_interval", true},
		{"6.4", list, "the CRL is fetched once", true},
		{"6.4", list, "set crl_refresh_interval", false},
		{"7.23", list + "crl_refresh_interval = 1h\n", "the CRL is fetched once", false},
		{"8.10", list, "the CRL is fetched once", false},
		{"9.0", "[main]\nserver_list = a\n", "goes nowhere without it", true},
		{"8.10", "[main]\nserver_list = a\n", "goes nowhere without it", false},
		{"8.10", "[main]\nserver = x\n[server]\nca_server = y\n", "[server] ca_server is not read by an agent", true},
		{"5.5.22", "[main]\nserver = x\n[server]\nca_server = y\n", "there is no section [server]", true},
		{"8.10", "[main]\nserver = x\n[server]\nbind_address = y\n", "bind_address", false},
		{"8.10", "[main]\nserver = x\nwhat is this\n", "reads nothing of its puppet.conf", true},
		{"8.10", "[main]\nserver = x\nusecacheonfailure = false\n", "cached", false},
	} {
		p, err := plan(t, c.version, c.conf)
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Contains(strings.Join(p.Breaks, "\n"), c.words); said != c.said {
			t.Errorf("agent %s with %q: %q said %v, want %v, in\n%s", c.version, c.conf, c.words, said, c.said, strings.Join(p.Breaks, "\n"))
		}
	}
}

func TestSettingsThatMakeNoSenseAreNamedWithTheirLine(t *testing.T) {
	for conf, want := range map[string]string{
		"[main]\nuse_srv_records = yes\n":     "puppet.conf:2 [main]: use_srv_records is \"yes\"",
		"[main]\nmasterport = puppet\n":       "puppet.conf:2 [main]: masterport is \"puppet\", which is no port",
		"[agent]\n\nca_port = 70000\n":        "puppet.conf:3 [agent]: ca_port is \"70000\"",
		"[main]\nserver = $nothing_of_this\n": "$nothing_of_this is not set",
	} {
		if _, err := plan(t, "7.23", conf); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that says %q", conf, err, want)
		}
	}
}

// server answers like a puppetserver in a certain mood.
func server(t *testing.T, status map[string]int) (port string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		code, ok := status[r.URL.Path]
		if !ok {
			code = http.StatusNotFound
		}
		w.WriteHeader(code)
	}))
	s.StartTLS() // its certificate is for 127.0.0.1 and example.com
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, asked
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// hole is a port that swallows connections: its queue is full and nobody takes from it.
func hole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
	for range 100 {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err != nil {
			return port
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("a queue of length 0 takes 100 connections")
	return ""
}

func probed(t *testing.T, version, conf string, o agentroute.ProbeOptions) map[string]agentroute.Service {
	t.Helper()
	p, err := plan(t, version, conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resolve(t.Context(), agentroute.Resolver{Timeout: troupetest.Patience}); err != nil {
		t.Fatal(err)
	}
	p.Probe(t.Context(), o)
	out := map[string]agentroute.Service{}
	for _, s := range p.Services {
		out[s.Name] = s
	}
	return out
}

// results are what a probe saw, one line for each contact.
func results(s agentroute.Service) string {
	b, _ := json.MarshalIndent(s.Tries, "", " ")
	return s.Result + "\n" + string(b)
}

func TestAProbeEndsWhereAnAgentWould(t *testing.T) {
	patient := agentroute.ProbeOptions{Timeout: troupetest.Patience}
	overloaded, _ := server(t, map[string]int{"/status/v1/simple/server": 503, "/status/v1/simple/master": 200})
	old, oldAsked := server(t, map[string]int{"/status/v1/simple/master": 200})
	forbids, _ := server(t, map[string]int{"/status/v1/simple/master": 403, "/status/v1/simple/server": 403})
	closed := closedPort(t)
	list := "[main]\nserver = 127.0.0.1\nmasterport = " + closed + "\nserver_list = 127.0.0.1:" + strings.Join([]string{closed, overloaded, forbids, old}, ",127.0.0.1:") + "\n"

	s := probed(t, "8.10", list, patient)["puppet"]
	if s.Chosen != "127.0.0.1:"+old || len(s.Tries) != 4 || !strings.Contains(s.Tries[0].Result, "refused") ||
		!strings.Contains(s.Tries[1].Result, "503") || !strings.Contains(s.Tries[2].Result, "403") || oldAsked.Load() != 8 {
		t.Errorf("agent 8 ends at %q after %d questions to it, want the fourth after 2 for each of 4 services:\n%s", s.Chosen, oldAsked.Load(), results(s))
	}
	// Agent 5 asks for the old path, and takes 403 for good.
	if s = probed(t, "5.5.22", list, patient)["puppet"]; s.Chosen != "127.0.0.1:"+overloaded {
		t.Errorf("agent 5 ends at %q, want the one that answers its path:\n%s", s.Chosen, results(s))
	}
	if s = probed(t, "5.5.22", strings.Replace(list, overloaded+",127.0.0.1:", "", 1), patient)["puppet"]; s.Chosen != "127.0.0.1:"+forbids {
		t.Errorf("agent 5 ends at %q, want the one that forbids:\n%s", s.Chosen, results(s))
	}
	if s = probed(t, "5.5.22", list, patient)["ca"]; s.Chosen != "" || len(s.Tries) != 1 {
		t.Errorf("agent 5 gets certificates from %q, want nobody: only the first is asked\n%s", s.Chosen, results(s))
	}
	dead := "[main]\nserver = 127.0.0.1\nmasterport = " + old + "\nserver_list = 127.0.0.1:" + closed + "\n"
	if s = probed(t, "8.10", dead, patient)["puppet"]; s.Chosen != "" || !strings.Contains(s.Result, "nothing follows server_list") {
		t.Errorf("agent 8 ends at %q, want nowhere: server is not tried after server_list\n%s", s.Chosen, results(s))
	}
	if s = probed(t, "8.10", "[main]\nserver = localhost\nmasterport = "+old+"\n", patient)["puppet"]; s.Chosen != "" || !strings.Contains(s.Result, "certificate does not fit") {
		t.Errorf("agent 8 ends at %q, want nowhere: the certificate is for another name\n%s", s.Chosen, results(s))
	}
	if s = probed(t, "8.10", "[main]\nserver = no-such-host.invalid\n", patient)["report"]; s.Chosen != "" || !strings.Contains(s.Tries[0].Result, "cannot be resolved") {
		t.Errorf("agent 8 ends at %q, want nowhere\n%s", s.Chosen, results(s))
	}
}

func TestAProbeDoesNotWaitAsLongAsAnAgent(t *testing.T) {
	good, _ := server(t, map[string]int{"/status/v1/simple/server": 200})
	conf := "[main]\nserver = x\nserver_list = 127.0.0.1:" + hole(t) + ",127.0.0.1:" + good + "\n"
	s := probed(t, "7.23", conf, agentroute.ProbeOptions{Timeout: time.Second})["puppet"]
	if s.Chosen != "127.0.0.1:"+good || !strings.Contains(s.Tries[0].Result, "nothing within 1s") {
		t.Errorf("ends at %q, want the second after a short wait:\n%s", s.Chosen, results(s))
	}
}

func TestSRVTargetsAreInTheOrderOfAgents(t *testing.T) {
	p, err := plan(t, "8.10", "[main]\nserver = x\nuse_srv_records = true\nsrv_domain = site-a.example.com\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resolve(t.Context(), agentroute.Resolver{Servers: []string{"127.0.0.1:" + closedPort(t), serveLadders(t)}, Timeout: troupetest.Patience}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Services, func(s agentroute.Service) bool { return s.Name == "puppet" })
	targets := p.Services[i].Steps[0].Targets
	if len(targets) != 3 || targets[0].Host != "edge-a.example.com" || targets[0].Share != "100%" || *targets[1].Priority != 1 || !slices.Equal(targets[0].Addresses, []string{"192.0.2.1"}) {
		t.Errorf("targets %+v, want three, the local one first, with its address", targets)
	}
}
