//go:build parity

package ca

import (
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/pem"
	"testing"
	"time"

	"troupe/internal/troupetest"
)

// This file asks both servers with certificates that are not, or no longer, good.

// fronts are the services behind the one port. Some of them answer without a certificate too.
var fronts = []string{
	"/status/v1/simple", "/puppet-ca/v1/certificate/ca", "/puppet-ca/v1/certificate_revocation_list/ca", "/puppet-ca/v1/certificate_statuses/any_key",
	"/puppet/v3/node/" + clientName + "?environment=production", "/puppet/v3/file_metadatas/plugins?environment=production&recurse=true",
}

const clientName = "client.example.test"

func TestBadCertificatesAreRefusedEverywhereAsByTheRealServer(t *testing.T) {
	p := troupetest.StartPuppetServer(t, troupetest.PuppetServerOptions{CA: folder, SSL: ssldir})
	t.Cleanup(func() { p.Stop(t) })
	m := startMember(t, "")
	own, now := openAuthority(t, folder), time.Now()
	for server, addr := range map[string]string{"puppetserver": p.Addr, "troupe": m.Addr} {
		t.Run(server, func(t *testing.T) {
			admin := newCaller(t, addr, trust(t, ssldir), identity(t, ssldir, serverName))
			good := admin.enrol(t, clientName)
			kept := newCaller(t, addr, trust(t, ssldir), good)
			if a := kept.ask(Step{Method: "GET", Path: "/puppet-ca/v1/certificate/ca"}); a.Status != 200 {
				t.Fatalf("before the revocation: %+v", a)
			}
			if a := admin.ask(Step{Method: "PUT", Path: statusPath + clientName, Type: "application/json", Body: []byte(`{"desired_state":"revoked"}`)}); a.Status != 204 {
				t.Fatalf("revocation: %+v", a)
			}
			// The real server reads its list again when the file has changed, a moment later.
			troupetest.Eventually(t, time.Minute, "the revocation is known", func() bool {
				_, err := newCaller(t, addr, trust(t, ssldir), good).try(Step{Method: "GET", Path: fronts[0]})
				return err != nil
			})
			for who, pair := range map[string]tls.Certificate{
				"of another authority of the same name": newAuthority(t).issue(t, "", leafSpec{name: clientName, serial: 5}),
				"expired":                               own.issue(t, "", leafSpec{name: clientName, serial: 901, from: now.AddDate(0, 0, -2), until: now.Add(-time.Hour)}),
				"not yet valid":                         own.issue(t, "", leafSpec{name: clientName, serial: 902, from: now.AddDate(0, 0, 1)}),
				"revoked":                               good,
			} {
				for _, front := range fronts {
					if a, err := newCaller(t, addr, trust(t, ssldir), pair).try(Step{Method: "GET", Path: front}); err == nil {
						t.Errorf("%s, %s: answered %d %.80s, want that the handshake fails", who, front, a.Status, a.Body)
					}
				}
			}

			// The real server looks at a certificate in the handshake alone; a member looks at it in each request.
			status := 200
			if server == "troupe" {
				status = 403
			}
			if a := kept.ask(Step{Method: "GET", Path: "/puppet-ca/v1/certificate/ca"}); a.Status != status {
				t.Errorf("over a connection from before the revocation: %d %s, want %d", a.Status, a.Body, status)
			}
		})
	}
}

// enrol lets a name ask and be signed.
func (c caller) enrol(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key := ecKey(t)
	for _, step := range []Step{
		{Method: "PUT", Path: requestPath + name, Type: "text/plain", Body: csr{name: name, key: key}.encode(t)},
		{Method: "PUT", Path: statusPath + name, Type: "application/json", Body: []byte(`{"desired_state":"signed"}`)},
	} {
		if a := c.ask(step); a.Status/100 != 2 {
			t.Fatalf("%s %s: %+v", step.Method, step.Path, a)
		}
	}
	block, _ := pem.Decode(c.raw(t, certPath+name))
	if block == nil {
		t.Fatalf("%s has no certificate", name)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key.(*ecdsa.PrivateKey)}
}

// raw is the body of an answer as it came.
func (c caller) raw(t *testing.T, path string) []byte {
	t.Helper()
	_, body, err := c.exchange(Step{Method: "GET", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
