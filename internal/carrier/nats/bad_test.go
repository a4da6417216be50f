package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"troupe/internal/carrier/nats"
	"troupe/internal/journal"
	"troupe/internal/troupetest"
)

// Whatever is wrong with NATS: it is said with what to do, and records come over HTTPS.
func TestBadNATSIsSaidAndHTTPSCarries(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config  string
		change  func(*nats.Options)
		problem string
		remedy  string
	}{
		"wrong password": {
			config: "authorization: { user: troupe, password: other }\n", problem: "refuse the credentials", remedy: "cluster.nats.credentials",
			change: func(o *nats.Options) { o.User, o.PasswordFile = "troupe", password },
		},
		"no credentials": {config: "authorization: { user: troupe, password: other }\n", problem: "refuse the credentials", remedy: "cluster.nats.credentials"},
		"a secret that all may read": {
			problem: "others may read it: chmod 0600", remedy: "correct the file",
			change: func(o *nats.Options) { o.TokenFile = open },
		},
		"a secret that is not there": {
			problem: "no such file", remedy: "correct the file",
			change: func(o *nats.Options) { o.Credentials = filepath.Join(t.TempDir(), "none.creds") },
		},
		"no JetStream": {config: "# jetstream is off\n", problem: "JetStream is off", remedy: "switch JetStream on"},
		"no permission": {
			config:  `authorization: { users: [ { user: troupe, password: right, permissions: { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } } ] }` + "\n",
			change:  func(o *nats.Options) { o.User, o.PasswordFile = "troupe", password },
			problem: "do not permit", remedy: "docs/sites.md",
		},
		"nobody there": {
			change:  func(o *nats.Options) { o.Servers = []string{"nats://127.0.0.1:1"} },
			problem: "can be reached", remedy: "whether the servers run",
		},
		"no TLS": {
			change:  func(o *nats.Options) { o.Servers = []string{strings.Replace(o.Servers[0], "nats://", "tls://", 1)} },
			problem: "speak no TLS", remedy: "switch TLS on",
		},
		"too many replicas": {
			change:  func(o *nats.Options) { o.Replicas = 3 },
			problem: "fewer servers than replicas", remedy: "cluster.nats.replicas",
		},
		"no room for the streams": {
			config:  "jetstream: { store_dir: %q, max_file_store: 8MB }\n",
			problem: "JetStream is full", remedy: "make room",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := c.config
			if strings.Contains(config, "%q") {
				config = fmt.Sprintf(config, filepath.Join(t.TempDir(), "streams"))
			}
			server := troupetest.StartNATS(t, config)
			o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
			if c.change != nil {
				c.change(&o)
			}
			b := newBook()
			one, two := b.join(t, o), b.join(t, o)
			s := one.status("it says what is wrong", func(s nats.Status) bool { return s.Problem != "" })
			if s.Server != "" || !strings.Contains(s.Problem, c.problem) || !strings.Contains(s.Remedy, c.remedy) {
				t.Errorf("problem %q, remedy %q", s.Problem, s.Remedy)
			}
			one.write(journal.Bulk, 10, 100)
			two.write(journal.State, 10, 100)
			same(t, one, two)
			if n := one.log.count("NATS carries no records"); n != 1 {
				t.Errorf("it is said %d times", n)
			}
		})
	}
}

// authority makes a CA and a certificate for 127.0.0.1, as files.
func authority(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	save := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = save("cert.pem", "CERTIFICATE", der)
	return cert, cert, save("key.pem", "PRIVATE KEY", pkcs8)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, cert, key := authority(t)
	server := troupetest.StartNATS(t, fmt.Sprintf("tls: { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", cert, key, ca))
	url := strings.Replace(server.URL, "nats://", "tls://", 1)
	good := nats.Options{Servers: []string{url}, CA: ca, Certificate: cert, Key: key, MaxBytes: small}
	b := newBook()
	b.alone = true
	one, two := b.join(t, good), b.join(t, good)
	b.connected()
	one.write(journal.Bulk, 10, 1000)
	same(t, one, two)

	other, _, _ := authority(t)
	for problem, change := range map[string]func(*nats.Options){
		"the certificate of the server is not known": func(o *nats.Options) { o.CA = other },
		"has no certificate in PEM form":             func(o *nats.Options) { o.CA = key },
		"no such file":                               func(o *nats.Options) { o.Certificate = filepath.Join(t.TempDir(), "none") },
	} {
		o := good
		change(&o)
		s := newBook().join(t, o).status(problem, func(s nats.Status) bool { return s.Problem != "" })
		if !strings.Contains(s.Problem, problem) || s.Remedy == "" {
			t.Errorf("problem %q, remedy %q, want %q", s.Problem, s.Remedy, problem)
		}
	}
}

// A stream that takes no more stops publishing only; when there is room, it goes on.
func TestAFullStream(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	js := admin(t, server)
	bulk := jetstream.StreamConfig{Name: "troupe_" + troupeID + "_bulk", Subjects: []string{"troupe." + troupeID + ".bulk.*"}, MaxBytes: 1 << 20, Discard: jetstream.DiscardNew}
	if _, err := js.CreateStream(t.Context(), bulk); err != nil {
		t.Fatal(err)
	}
	o := nats.Options{Servers: []string{server.URL}, MaxBytes: small}
	b := newBook()
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.Bulk, 40, 100_000)
	s := one.status("it says that the stream is full", func(s nats.Status) bool { return s.Problem != "" })
	if s.Server == "" || !strings.Contains(s.Problem, "JetStream is full") || s.Remedy == "" || s.Lag == 0 {
		t.Errorf("%+v", s)
	}
	one.write(journal.State, 3, 100)
	two.write(journal.Bulk, 3, 100)
	same(t, one, two)
	bulk.MaxBytes, bulk.Discard = small, jetstream.DiscardOld
	if _, err := js.UpdateStream(t.Context(), bulk); err != nil {
		t.Fatal(err)
	}
	one.status("there is room again", func(s nats.Status) bool { return s.Problem == "" && s.Lag == 0 })
	one.write(journal.Bulk, 3, 100)
	follows(two)
	same(t, one, two)
}

// admin is somebody else who may publish there.
func admin(t *testing.T, server *troupetest.NATS) jetstream.JetStream {
	t.Helper()
	nc, err := client.Connect(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Whoever may publish there is no member: what he says is not taken, counted, and said once.
func TestForgedMessagesAreNotTaken(t *testing.T) {
	t.Parallel()
	server := troupetest.StartNATS(t, "")
	js := admin(t, server)
	// An operator's own stream, which takes large messages.
	for _, name := range []string{"state", "bulk"} {
		c := jetstream.StreamConfig{Name: "troupe_" + troupeID + "_" + name, Subjects: []string{"troupe." + troupeID + "." + name + ".*"}}
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	o := nats.Options{Servers: []string{server.URL}}
	b := newBook()
	b.alone = true
	one, two, three := b.join(t, o), b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.State, 3, 100)
	same(t, one, two, three)

	subject := func(m *member) string { return "troupe." + troupeID + ".state." + string(m.j.Origin()) }
	stream, err := js.Stream(t.Context(), "troupe_"+troupeID+"_state")
	if err != nil {
		t.Fatal(err)
	}
	genuine, err := stream.GetLastMsgForSubject(t.Context(), subject(one))
	if err != nil {
		t.Fatal(err)
	}
	next := nats.Forgery{Troupe: troupeID, Origin: one.j.Origin(), Stream: journal.State, First: 4, Last: 4, Payload: []byte("evil")}
	unsigned, other, foreign := next, next, next
	other.Sign = three.sign // a member, but not this one
	foreign.Troupe, foreign.Sign = "othertroupe", one.sign
	tampered := append([]byte(nil), genuine.Data...)
	tampered[len(tampered)-1] ^= 1
	garbage := next
	garbage.Sign = one.sign // a member gone mad: the journal refuses
	for cause, data := range map[string][]byte{
		"unsigned": unsigned.Bytes(t), "forged": other.Bytes(t), "other-troupe": foreign.Bytes(t), "unreadable": []byte("hello"),
		"too-big": make([]byte, 900_000), "journal": garbage.Bytes(t),
	} {
		for range 5 {
			if _, err := js.Publish(t.Context(), subject(one), data); err != nil {
				t.Fatalf("%s: %v", cause, err)
			}
		}
	}
	for range 5 {
		if _, err := js.Publish(t.Context(), subject(one), tampered); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), subject(three), genuine.Data); err != nil { // replayed under another member
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), subject(one), genuine.Data); err != nil { // once more is no harm
			t.Fatal(err)
		}
	}
	troupetest.Eventually(t, troupetest.Patience, "all are refused", func() bool { return two.value("troupe_nats_refused_messages_total") >= 40 })
	s := two.status("they are counted", func(s nats.Status) bool { return len(s.Refused) == 7 })
	for _, want := range []string{
		"10 on the subjects of " + string(one.j.Origin()) + ": forged", "5 on the subjects of " + string(three.j.Origin()) + ": other-member",
		"5 on the subjects of " + string(one.j.Origin()) + ": too-big",
	} {
		if !strings.Contains(strings.Join(s.Refused, "\n"), want) {
			t.Errorf("no %q in %q", want, s.Refused)
		}
	}
	if n := two.log.count("messages from NATS are not taken"); n != 7 {
		t.Errorf("it is said %d times", n)
	}

	// The members go on, also one that finds a forgery as the last of its own.
	one.write(journal.State, 2, 100)
	same(t, one, two, three)
	if _, err := js.Publish(t.Context(), subject(one), unsigned.Bytes(t)); err != nil {
		t.Fatal(err)
	}
	one.stop()
	one.start(o)
	one.write(journal.State, 2, 100)
	two.at(one, journal.State, 7)
	same(t, one, two, three)
}

// creds makes what an operator of NATS would: an operator, an account with JetStream, and a user. It returns the configuration of the
// server and the text of the user's .creds file.
func creds(t *testing.T) (config, file string) {
	t.Helper()
	pair := func(kp nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	operator, operatorKey := pair(nkeys.CreateOperator())
	account, accountKey := pair(nkeys.CreateAccount())
	_, systemKey := pair(nkeys.CreateAccount())
	user, userKey := pair(nkeys.CreateUser())
	token := func(issuer nkeys.KeyPair, issuerKey, subject, kind, more string) string {
		text := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`)) + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil,
			`{"jti":"x","iat":%d,"iss":%q,"sub":%q,"name":%q,"nats":{"type":%q,"version":2%s}}`, time.Now().Unix(), issuerKey, subject, kind, kind, more))
		signature, err := issuer.Sign([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	const some = `,"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1`
	config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		token(operator, operatorKey, operatorKey, "operator", ""), systemKey,
		systemKey, token(operator, operatorKey, systemKey, "account", some+"}"),
		accountKey, token(operator, operatorKey, accountKey, "account", some+`,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1}`))
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file = fmt.Sprintf("-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n",
		token(account, accountKey, userKey, "user", `,"subs":-1,"data":-1,"payload":-1`), seed)
	return config, file
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	config, text := creds(t)
	server := troupetest.StartNATS(t, config)
	file := filepath.Join(t.TempDir(), "troupe.creds")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := nats.Options{Servers: []string{server.URL}, Credentials: file, MaxBytes: small}
	b := newBook()
	b.alone = true
	one, two := b.join(t, o), b.join(t, o)
	b.connected()
	one.write(journal.Bulk, 10, 1000)
	same(t, one, two)

	_, other := creds(t)
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Start() // for the next connection the file is read again
	s := one.status("credentials of another operator are refused", func(s nats.Status) bool { return strings.Contains(s.Problem, "refuse the credentials") })
	if s.Remedy == "" {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.connected()
}
