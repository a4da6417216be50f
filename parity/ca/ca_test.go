// Package ca compares the certificate authority with that of the real Puppet Server: what it answers to good and bad
// requests, and every extension of what it signs. Both authorities have the same key, so that extensions can be compared
// byte by byte. What the real server answered to requests is recorded in testdata; `make parity` asks it again.
package ca

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"troupe/internal/troupetest"
)

func TestMain(m *testing.M) { os.Exit(troupetest.Main(m)) }

// The folder that puppetserver 7.9.5 made at its first start, and the ssldir of that server. They are good for 40 years.
const (
	folder     = "testdata/ca"
	ssldir     = "testdata/ssl"
	serverName = "puppet.example.test"
)

// importFolder lets a new data folder go on with a CA folder.
func importFolder(t *testing.T, from string) (data string) {
	t.Helper()
	data = filepath.Join(troupetest.TempDir(t), "data")
	take := exec.CommandContext(t.Context(), troupetest.Binary(t), "ca", "import", "--cadir", from, "--data", data, "--confdir", "none")
	if out, err := take.CombinedOutput(); err != nil {
		t.Fatalf("troupe ca import: %v\n%s", err, out)
	}
	return data
}

// startMember starts a member on the recorded folder.
func startMember(t *testing.T, config string) *troupetest.Server {
	t.Helper()
	return troupetest.StartServer(t, troupetest.ServerOptions{Data: importFolder(t, folder), Config: config})
}

// identity is a certificate of an ssldir.
func identity(t *testing.T, ssl, certname string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(ssl, "certs", certname+".pem"), filepath.Join(ssl, "private_keys", certname+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func trust(t *testing.T, ssl string) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(ssl, "certs", "ca.pem")))) {
		t.Fatalf("no certificate in %s/certs/ca.pem", ssl)
	}
	return pool
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
