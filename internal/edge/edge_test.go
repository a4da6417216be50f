package edge

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"troupe/internal/config"
	"troupe/internal/telemetry"
)

// patience only ends a hang.
const patience = 4 * time.Minute

// An authority signs what a test needs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Puppet CA: test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return authority{cert, key}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (a authority) pair(t testing.TB, name string, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(t, err)
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: append(names, name), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a authority) crl(t testing.TB, revoked ...*x509.Certificate) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func (a authority) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// A stage is an edge with servers behind it.
type theatre struct {
	t       *testing.T
	ca      authority
	dir     string
	servers []*backend
	address string
	stop    func()
}

// A backend is a server that does what the test wants.
type backend struct {
	*httptest.Server

	name    string
	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int64
	silent  atomic.Bool // its checks are not answered
}

func (b *backend) does(h http.HandlerFunc) { b.handler.Store(&h) }

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/status/") {
		if b.silent.Load() {
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, "running")
		return
	}
	b.asked.Add(1)
	(*b.handler.Load())(w, r)
}

func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Server-Name", name)
		fmt.Fprintf(w, "%s %s %s verify=%s dn=%s body=%d", name, r.Method, r.URL.RequestURI(), r.Header.Get("X-Client-Verify"), r.Header.Get("X-Client-Dn"), len(body))
	}
}

// open starts n servers and an edge in front of them; change may change the edge's configuration.
func openTheatre(t *testing.T, n int, change func(*config.Edge)) *theatre {
	t.Helper()
	th := &theatre{t: t, ca: newAuthority(t), dir: t.TempDir()}
	for i := range n {
		b := &backend{name: fmt.Sprintf("p%d", i)}
		b.does(echo(b.name))
		b.Server = httptest.NewUnstartedServer(b)
		b.TLS = &tls.Config{Certificates: []tls.Certificate{th.ca.pair(t, "127.0.0.1", "localhost")}, ClientAuth: tls.RequestClientCert}
		b.Config.ErrorLog = nil
		b.StartTLS()
		t.Cleanup(func() { b.CloseClientConnections(); b.Close() })
		th.servers = append(th.servers, b)
	}
	th.open(change)
	return th
}

// open starts the edge in front of servers that run.
func (th *theatre) open(change func(*config.Edge)) {
	th.t.Helper()
	t := th.t
	conf := &config.Edge{Data: th.dir, Name: "edge", Runs: config.EdgeRuns{Linger: config.Duration(10 * time.Millisecond)}, Listeners: []config.EdgeListener{{Listen: "127.0.0.1:0"}}}
	pool := config.EdgePool{Check: config.EdgeCheck{Interval: config.Duration(100 * time.Millisecond), Timeout: config.Duration(20 * time.Second), Fall: 2, Rise: 1}}
	for _, b := range th.servers {
		pool.Servers = append(pool.Servers, config.EdgeServer{Name: b.name, Address: b.Listener.Addr().String()})
	}
	pool.TLS.ServerName = "localhost"
	conf.Pools = map[string]config.EdgePool{"workers": pool}
	pair := th.ca.pair(t, "edge.example.com", "puppet")
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	check(t, err)
	conf.TLS = config.EdgeTLS{Certificate: th.file("edge.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})), Key: th.file("edge.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), CA: th.file("ca.pem", th.ca.bundle()), CRL: th.file("crl.pem", th.ca.crl(t))}
	if change != nil {
		change(conf)
	}
	text, err := yaml.Marshal(conf)
	check(t, err)
	th.file("edge.yaml", text)
	conf, err = config.ParseEdge("test.yaml", text)
	check(t, err)
	th.start(conf)
}

func (th *theatre) file(name string, text []byte) string {
	path := filepath.Join(th.dir, name)
	check(th.t, os.WriteFile(path, text, 0o600))
	return path
}

func (th *theatre) start(conf *config.Edge) {
	th.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, conf, Options{Log: telemetry.NewLogger(th.t.Output(), nil, false), Version: "test"})
	}()
	th.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			th.t.Error(err)
		}
	}
	stop := th.stop
	th.t.Cleanup(func() {
		if th.stop != nil {
			stop()
		}
	})
	th.wait("the edge serves", func() bool {
		select {
		case err := <-ended:
			th.t.Fatalf("the edge ended: %v", err)
		default:
		}
		client, err := Dial(th.t.Context(), conf.Data)
		if err != nil {
			return false
		}
		s, err := client.Status(th.t.Context())
		if err != nil || !s.Serving {
			return false
		}
		for _, p := range s.Pools {
			if p.Usable != len(p.Servers) {
				return false
			}
		}
		text, err := os.ReadFile(filepath.Join(conf.Data, "listen.addr"))
		th.address = strings.Split(string(text), "\n")[0]
		return err == nil
	})
}

func (th *theatre) wait(what string, ok func() bool) {
	th.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			th.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// agent is an HTTP client that speaks as an agent does.
func (th *theatre) agent(name string) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(th.ca.cert)
	conf := &tls.Config{RootCAs: roots, ServerName: "puppet"}
	if name != "" {
		conf.Certificates = []tls.Certificate{th.ca.pair(th.t, name)}
	}
	tr := &http.Transport{TLSClientConfig: conf}
	th.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// freeAddress is one that nobody has, and that the kernel gives to nobody who asks for any.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+mathrand.IntN(15_000)))
		if err == nil {
			check(t, l.Close())
			return l.Addr().String()
		}
	}
	t.Fatal("no address is free")
	return ""
}

type reply struct {
	status int
	header http.Header
	body   string
	closed bool // the connection ends with it
}

func (th *theatre) ask(c *http.Client, method, path, body string, header ...string) (reply, error) {
	r, err := http.NewRequestWithContext(th.t.Context(), method, "https://"+th.address+path, strings.NewReader(body))
	check(th.t, err)
	r.Header.Set("X-Puppet-Version", "8.10.0")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text), response.Close}, err
}

func (th *theatre) must(c *http.Client, method, path, body string, header ...string) reply {
	th.t.Helper()
	r, err := th.ask(c, method, path, body, header...)
	check(th.t, err)
	return r
}

func TestIdentityComesFromTheCertificateAlone(t *testing.T) {
	th := openTheatre(t, 1, nil)
	th.servers[0].does(func(w http.ResponseWriter, r *http.Request) {
		cert, err := url.PathUnescape(r.Header.Get("X-Client-Cert"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		name := "nobody"
		if block, _ := pem.Decode([]byte(cert)); block != nil {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			name = c.Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s %s", r.Header.Get("X-Client-Verify"), r.Header.Get("X-Client-Dn"), name)
	})
	forged := []string{"X-Client-Verify", "SUCCESS", "X-Client-DN", "CN=admin", "X-Client-Cert", url.QueryEscape(string(th.ca.bundle())), "Troupe-Client", "10.0.0.1:1"}
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", "", forged...); r.body != "SUCCESS CN=web1.example.com web1.example.com" {
		t.Errorf("with a certificate: %q", r.body)
	}
	if r := th.must(th.agent(""), "GET", "/puppet-ca/v1/certificate/ca", "", forged...); r.body != "NONE  nobody" {
		t.Errorf("without one: %q", r.body)
	}
}

func TestARevokedCertificateOpensNothing(t *testing.T) {
	th := openTheatre(t, 1, nil)
	agent := th.agent("web1.example.com")
	th.must(agent, "GET", "/puppet/v3/node/web1.example.com", "")
	leaf := agent.Transport.(*http.Transport).TLSClientConfig.Certificates[0].Leaf
	th.file("crl.pem.new", th.ca.crl(t, leaf))
	check(t, os.Rename(filepath.Join(th.dir, "crl.pem.new"), filepath.Join(th.dir, "crl.pem")))
	th.wait("the open connection is refused", func() bool {
		r, err := th.ask(agent, "GET", "/puppet/v3/node/web1.example.com", "")
		return err != nil || r.status == http.StatusForbidden
	})
	agent.CloseIdleConnections()
	if r, err := th.ask(agent, "GET", "/puppet/v3/node/web1.example.com", ""); err == nil {
		t.Errorf("a new connection was answered %d", r.status)
	}
	before := th.servers[0].asked.Load()
	stranger := newAuthority(t)
	other := th.agent("")
	other.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{stranger.pair(t, "web1.example.com")}
	if r, err := th.ask(other, "GET", "/puppet/v3/node/web1.example.com", ""); err == nil {
		t.Errorf("a stranger's certificate was answered %d", r.status)
	}
	if th.servers[0].asked.Load() != before {
		t.Error("the server was asked")
	}
}

func dies(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestARequestIsSentAgainByItsVerb(t *testing.T) {
	facts := strings.Repeat("facts", 200_000)
	for _, c := range []struct {
		method, path, body string
		again              bool
	}{
		{"GET", "/puppet/v3/file_content/modules/m/f?environment=production", "", true},
		{"POST", "/puppet/v3/catalog/web1.example.com?environment=production", facts, true},
		{"PUT", "/puppet/v3/report/web1.example.com?environment=production", facts, true},
		{"PUT", "/puppet-ca/v1/certificate_request/web1.example.com", "csr", true},
		{"POST", "/puppet-ca/v1/certificate_renewal", "", false},
		{"PUT", "/puppet-ca/v1/certificate_status/web1.example.com", "{}", false},
		{"DELETE", "/puppet-ca/v1/certificate_status/web1.example.com", "", false},
	} {
		th := openTheatre(t, 2, func(c *config.Edge) {
			p := c.Pools["workers"]
			p.Check.Observe = new(bool)
			c.Pools["workers"] = p
		})
		var taken atomic.Int64
		for _, s := range th.servers { // the first that is asked dies when it has all of the request
			good := echo(s.name)
			s.does(func(w http.ResponseWriter, r *http.Request) {
				if taken.Add(1) == 1 {
					_, _ = io.Copy(io.Discard, r.Body)
					dies(w, r)
				}
				good(w, r)
			})
		}
		r := th.must(th.agent("web1.example.com"), c.method, c.path, c.body)
		asked := th.servers[0].asked.Load() + th.servers[1].asked.Load()
		switch {
		case c.again && (r.status != http.StatusOK || asked != 2 || !strings.HasSuffix(r.body, fmt.Sprintf("body=%d", len(c.body)))):
			t.Errorf("%s %s: %d after %d servers: %.100s", c.method, c.path, r.status, asked, r.body)
		case !c.again && (r.status != http.StatusInternalServerError || asked != 1):
			t.Errorf("%s %s: %d after %d servers: %.100s", c.method, c.path, r.status, asked, r.body)
		}
		th.stop()
		th.stop = nil
	}
}

func TestAnAnswerThatIsCutIsAskedForAgain(t *testing.T) {
	th := openTheatre(t, 2, nil)
	whole := bytes.Repeat([]byte("catalog "), 300_000) // more than fits into memory
	var taken atomic.Int64
	for _, s := range th.servers {
		s.does(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
			if taken.Add(1) == 1 {
				_, _ = w.Write(whole[:len(whole)/2])
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(whole)
		})
	}
	r := th.must(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts")
	if r.status != http.StatusOK || r.body != string(whole) {
		t.Errorf("%d with %d of %d bytes", r.status, len(r.body), len(whole))
	}
	th.wait("all room is given back", func() bool { return th.room() == 0 })
}

func (th *theatre) room() int64 {
	client, err := Dial(th.t.Context(), th.dir)
	check(th.t, err)
	s, err := client.Status(th.t.Context())
	check(th.t, err)
	return s.Memory + s.Disk
}

func TestAgentsAreSentAwayUntilAServerIsBack(t *testing.T) {
	th := openTheatre(t, 1, nil)
	th.servers[0].Listener.Close()
	th.servers[0].CloseClientConnections()
	agent := th.agent("web1.example.com")
	r := th.must(agent, "POST", "/puppet/v3/catalog/web1.example.com?environment=production", "facts")
	if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || !r.closed {
		t.Errorf("%d %v", r.status, r.header)
	}
	th.wait("who has a list of servers is told to take the next", func() bool {
		return th.must(agent, "GET", "/status/v1/simple/server", "").status == http.StatusServiceUnavailable
	})
	// An agent that does not know Retry-After waits in the queue until it gives up itself.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	old, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+th.address+"/puppet/v3/catalog/web2.example.com", strings.NewReader("facts"))
	check(t, err)
	old.Header.Set("User-Agent", "Puppet/5.3.0 Ruby/2.4.2")
	if response, err := agent.Do(old); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an old agent got %v, %v", response, err)
	}
}

func TestAServerThatIsBusyIsLeftForAnother(t *testing.T) {
	th := openTheatre(t, 2, nil)
	var taken atomic.Int64
	for _, s := range th.servers {
		good := echo(s.name)
		s.does(func(w http.ResponseWriter, r *http.Request) {
			if taken.Add(1) == 1 {
				http.Error(w, "queue is full", http.StatusServiceUnavailable)
				return
			}
			good(w, r)
		})
	}
	if r := th.must(th.agent("web1.example.com"), "POST", "/puppet-ca/v1/certificate_renewal", ""); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestOneNamePassesWhatAnotherEnds(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) {
		c.Listeners[0].Names = []config.EdgeName{{SNI: []string{"*.old.example.com"}, Mode: config.ModePassthrough}}
	})
	if r := th.must(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", ""); !strings.Contains(r.body, "verify=SUCCESS") {
		t.Errorf("puppet: %s", r.body)
	}
	through := th.agent("web1.example.com")
	conf := through.Transport.(*http.Transport).TLSClientConfig
	conf.ServerName = "puppet.old.example.com"
	conf.InsecureSkipVerify = true
	r := th.must(through, "POST", "/puppet/v3/catalog/web1.example.com", strings.Repeat("x", 3<<20))
	if !strings.Contains(r.body, "verify= dn= body=3145728") {
		t.Errorf("passthrough: %s", r.body)
	}
}

func TestAProxyHeaderIsBelievedFromItsBalancerAlone(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) {
		l := c.Listeners[0]
		l.ProxyProtocol = append(l.ProxyProtocol, netip.MustParsePrefix("127.0.0.0/8"))
		l.Rules = []config.EdgeRule{{Source: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, Pool: "fast"}}
		l.Pool = "workers"
		c.Listeners[0] = l
		c.Pools["fast"] = c.Pools["workers"]
	})
	agent := th.agent("web1.example.com")
	agent.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			_, err = io.WriteString(conn, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 8140\r\n")
		}
		return conn, err
	}
	th.must(agent, "GET", "/puppet/v3/node/web1.example.com", "")
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	runs, err := client.Runs(t.Context())
	check(t, err)
	if len(runs) != 1 || len(runs[0].Servers) != 1 || runs[0].Servers[0] != "fast/p0" {
		t.Errorf("%+v", runs)
	}
	if _, err := th.ask(th.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", ""); err == nil {
		t.Error("without a header the balancer was served")
	}
}

func TestEdgesShareWhoSticksToWhom(t *testing.T) {
	var ports []string
	for range 2 {
		ports = append(ports, freeAddress(t))
	}
	sticky := func(own, other string) func(*config.Edge) {
		return func(c *config.Edge) {
			p := c.Pools["workers"]
			p.Stick = "certname"
			c.Pools["workers"] = p
			c.Peers = &config.EdgePeers{Listen: own, Edges: []config.EdgePeer{{Name: "edge.example.com", Address: other}}}
		}
	}
	first := openTheatre(t, 2, sticky(ports[0], ports[1]))
	// The second edge has the same authority, and servers of the same names.
	second := &theatre{t: t, ca: first.ca, dir: t.TempDir(), servers: first.servers}
	second.open(sticky(ports[1], ports[0]))
	first.must(first.agent("web1.example.com"), "GET", "/puppet/v3/node/web1.example.com", "")
	table := func(th *theatre) string {
		client, err := Dial(t.Context(), th.dir)
		check(t, err)
		all, err := client.Table(t.Context(), "workers")
		check(t, err)
		if len(all) != 1 {
			return ""
		}
		return all[0].Key + " " + all[0].Server
	}
	th := second
	th.wait("the second edge knows", func() bool { return table(second) != "" && table(second) == table(first) })
	// What an agent with a certificate of the same authority says is not believed.
	agent := first.agent("web2.example.com")
	conf := agent.Transport.(*http.Transport).TLSClientConfig
	conf.ServerName, conf.InsecureSkipVerify = "", true
	body := strings.NewReader(`[{"Key":"web1.example.com","Server":"p9","Used":"2030-01-01T00:00:00Z"}]`)
	response, err := agent.Post("https://"+ports[1]+"/peers/v1/workers", "application/json", body)
	if err == nil {
		response.Body.Close()
		t.Errorf("an agent was heard: %s", response.Status)
	}
	if table(second) != table(first) {
		t.Errorf("the table is %s", table(second))
	}
}

func TestAnEdgeIsNotStartedTwiceAndIsTakenOver(t *testing.T) {
	th := openTheatre(t, 1, func(c *config.Edge) {
		c.Listeners[0].Listen = freeAddress(t)
		c.Runs.Linger = config.Duration(3 * time.Second) // in which the new one is asked
	})
	text, err := os.ReadFile(filepath.Join(th.dir, "edge.yaml"))
	check(t, err)
	conf, err := config.ParseEdge("edge.yaml", text)
	check(t, err)
	if err := Run(t.Context(), conf, Options{}); err == nil || !strings.Contains(err.Error(), "--takeover") {
		t.Errorf("a second edge: %v", err)
	}
	// Requests under way at the old edge are finished there, new ones are taken by the new one.
	begun, finish := make(chan struct{}), make(chan struct{})
	th.servers[0].does(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		fmt.Fprint(w, "late")
	})
	old := make(chan reply, 1)
	go func() {
		r, err := th.ask(th.agent("web1.example.com"), "POST", "/puppet/v3/catalog/web1.example.com", "facts")
		if err != nil {
			t.Error(err)
		}
		old <- r
	}()
	<-begun
	conf, err = config.ParseEdge("edge.yaml", text)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, conf, Options{Log: telemetry.NewLogger(t.Output(), nil, false), Version: "new", Takeover: true})
	}()
	th.wait("the new edge answers", func() bool {
		client, err := Dial(t.Context(), th.dir)
		if err != nil {
			return false
		}
		s, err := client.Status(t.Context())
		return err == nil && s.Version == "new" && s.Serving
	})
	th.servers[0].does(echo("p0"))
	if r := th.must(th.agent("web2.example.com"), "GET", "/puppet/v3/node/web2.example.com", ""); r.status != http.StatusOK {
		t.Errorf("at the new edge: %d %s", r.status, r.body)
	}
	// The old process, which is busy still, takes nobody beside it: it would not know of runs that began here.
	client, err := Dial(t.Context(), th.dir)
	check(t, err)
	for i := range 30 {
		name := fmt.Sprintf("later%d.example.com", i)
		if r := th.must(th.agent(name), "GET", "/puppet/v3/node/"+name, ""); r.status != http.StatusOK {
			t.Errorf("%s at the new edge: %d %s", name, r.status, r.body)
		}
		if runs, err := client.Runs(t.Context()); err != nil || !slices.ContainsFunc(runs, func(r RunStatus) bool { return r.Client == name }) {
			t.Errorf("the new edge does not have the run of %s, which began after it took over: %v", name, err)
			break
		}
	}
	close(finish)
	if r := <-old; r.body != "late" {
		t.Errorf("at the old edge: %d %q", r.status, r.body)
	}
	th.stop() // has ended by itself
	th.stop = nil
	cancel()
	check(t, <-ended)
}
