package troupetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This file runs a real PuppetDB 7.12 on a PostgreSQL cluster of its own, for a PuppetServer that stores exported
// resources.

const (
	puppetDBName = "localhost" // certname, and the host that the terminus connects to
	postgresBin  = "/usr/lib/postgresql/15/bin"
)

// PuppetDB is a real PuppetDB. Its certificate comes from the CA of the server that uses it, which therefore starts
// first: the address is known before.
type PuppetDB struct {
	Dir  string
	Addr string // address:port of TLS
	HTTP string // address:port of plain queries
}

// NewPuppetDB chooses the address.
func NewPuppetDB(t *testing.T) *PuppetDB {
	t.Helper()
	return &PuppetDB{Dir: TempDir(t), Addr: freeAddress(t), HTTP: freeAddress(t)}
}

// URL is what a server is told.
func (d *PuppetDB) URL() string {
	_, port, _ := net.SplitHostPort(d.Addr) // an address of ours
	return "https://" + net.JoinHostPort(puppetDBName, port)
}

// Start starts PostgreSQL and then PuppetDB, with a certificate that the server signs by itself (Autosign).
func (d *PuppetDB) Start(t *testing.T, s *PuppetServer) {
	t.Helper()
	database := d.startPostgres(t)
	d.writeCertificates(t, s)
	d.writeConfig(t, database)

	owner := userOf(t, "", "puppetdb", "puppetdb")
	run(t, exec.CommandContext(t.Context(), "chown", "-R", fmt.Sprintf("%d:%d", owner.Uid, owner.Gid), filepath.Join(d.Dir, "db")))
	// The java line of Debian's unit file.
	cmd := exec.Command("/usr/bin/java", "-Xmx512m", "-Djava.security.egd=/dev/urandom",
		"-cp", "/usr/share/puppetdb/puppetdb.jar", "clojure.main", "-m", "puppetlabs.puppetdb.core", "services",
		"--config", filepath.Join(d.Dir, "db", "conf.d"), "--bootstrap-config", "/etc/puppetdb/bootstrap.cfg",
		"--restart-file", filepath.Join(d.Dir, "db", "restart"))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	proc := startProcess(t, "puppetdb", filepath.Join(d.Dir, "puppetdb.log"), cmd)
	client := &http.Client{Timeout: 5 * time.Second}
	Eventually(t, javaStartLimit, "PuppetDB answers /status/v1/simple", func() bool {
		if proc.ended() {
			t.Fatalf("puppetdb ended: %v", proc.err)
		}
		answer, err := client.Get("http://" + d.HTTP + "/status/v1/simple")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return err == nil && string(body) == "running"
	})
}

// startPostgres makes a cluster and starts it; it returns its address.
func (d *PuppetDB) startPostgres(t *testing.T) string {
	t.Helper()
	owner := userOf(t, "", "postgres", "postgresql")
	addr := freeAddress(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.Dir, "postgres")
	mkdir(t, dir)
	run(t, exec.CommandContext(t.Context(), "chown", fmt.Sprintf("%d:%d", owner.Uid, owner.Gid), dir))
	as := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(postgresBin, program), args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		return cmd
	}
	data := filepath.Join(dir, "data")
	run(t, as("initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", data))
	startProcess(t, "postgres", filepath.Join(d.Dir, "postgres.log"),
		as("postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", dir, "-c", "fsync=off"))
	Eventually(t, Patience, "PostgreSQL answers", func() bool {
		return as("pg_isready", "-q", "-h", "127.0.0.1", "-p", port).Run() == nil
	})
	for _, step := range []string{"create role puppetdb login", "create database puppetdb owner puppetdb"} {
		run(t, as("psql", "-q", "-h", dir, "-p", port, "-c", step))
	}
	run(t, as("psql", "-q", "-h", dir, "-p", port, "-d", "puppetdb", "-c", "create extension pg_trgm"))
	return addr
}

// writeCertificates asks the server's CA for a certificate. Java wants the key as PKCS#8.
func (d *PuppetDB) writeCertificates(t *testing.T, s *PuppetServer) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: puppetDBName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.ca(t, http.MethodPut, "certificate_request/"+puppetDBName,
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})))
	ssl := filepath.Join(d.Dir, "db", "ssl")
	writeFile(t, filepath.Join(ssl, "public.pem"), s.ca(t, http.MethodGet, "certificate/"+puppetDBName, ""))
	writeFile(t, filepath.Join(ssl, "ca.pem"), s.ca(t, http.MethodGet, "certificate/ca", ""))
	writeFile(t, filepath.Join(ssl, "private.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// ca asks the CA of the server, as an agent without a certificate does.
func (s *PuppetServer) ca(t *testing.T, method, path, body string) string {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // a first request cannot know the CA
	}}
	request, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.Addr+"/puppet-ca/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/plain")
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v\n%s", method, path, answer.Status, err, text)
	}
	return string(text)
}

// Knows waits until the database has a catalog of each node: it takes commands at once and works on them later.
func (d *PuppetDB) Knows(t *testing.T, certnames []string) {
	t.Helper()
	client := &http.Client{Timeout: Patience}
	Eventually(t, 4*Patience, "PuppetDB has the catalogs of all nodes", func() bool {
		answer, err := client.Get("http://" + d.HTTP + "/pdb/query/v4/nodes")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var nodes []struct {
			Certname string
			Catalog  *string `json:"catalog_timestamp"`
		}
		if err := json.NewDecoder(answer.Body).Decode(&nodes); err != nil {
			t.Fatalf("nodes of PuppetDB: %s, %v", answer.Status, err)
		}
		known := map[string]bool{}
		for _, n := range nodes {
			known[n.Certname] = n.Catalog != nil
		}
		return !slices.ContainsFunc(certnames, func(name string) bool { return !known[name] })
	})
}

func (d *PuppetDB) writeConfig(t *testing.T, database string) {
	t.Helper()
	home := filepath.Join(d.Dir, "db")
	own := strings.NewReplacer("/etc/puppetdb", home, "/var/lib/puppetdb", home+"/var", "/var/log/puppetdb", home+"/log")
	for _, name := range []string{"logback.xml", "request-logging.xml", "conf.d/auth.conf", "conf.d/config.ini"} {
		writeFile(t, filepath.Join(home, name), own.Replace(readFile(t, filepath.Join("/etc/puppetdb", name))))
	}
	for _, dir := range []string{"var", "log"} {
		mkdir(t, filepath.Join(home, dir))
	}
	writeFile(t, filepath.Join(home, "conf.d", "database.ini"),
		"[database]\nsubname = //"+database+"/puppetdb\nusername = puppetdb\npassword = none\n")
	_, plain, _ := net.SplitHostPort(d.HTTP) // addresses of ours
	_, port, _ := net.SplitHostPort(d.Addr)
	writeFile(t, filepath.Join(home, "conf.d", "jetty.ini"), fmt.Sprintf("[jetty]\nhost = 127.0.0.1\nport = %s\n"+
		"ssl-host = 127.0.0.1\nssl-port = %s\nssl-key = %[3]s/private.pem\nssl-cert = %[3]s/public.pem\nssl-ca-cert = %[3]s/ca.pem\n",
		plain, port, filepath.Join(home, "ssl")))
	writeFile(t, filepath.Join(home, "restart"), "0")
}

// writeTerminus tells a server where its PuppetDB is.
func writeTerminus(t *testing.T, confdir, url string) {
	t.Helper()
	writeFile(t, filepath.Join(confdir, "puppetdb.conf"), "[main]\nserver_urls = "+url+"\nsoft_write_failure = false\n")
	writeFile(t, filepath.Join(confdir, "routes.yaml"), "---\nserver:\n  facts:\n    terminus: puppetdb\n    cache: yaml\n")
	file := filepath.Join(confdir, "puppet.conf")
	writeFile(t, file, readFile(t, file)+"storeconfigs_backend = puppetdb\n")
}
