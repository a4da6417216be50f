package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// bench is a member with its port.
type bench struct {
	*Cluster

	j    *journal.Journal
	addr string
	now  time.Time
	date func() string // of the answers; nil for the true one
}

func openJournal(t *testing.T) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// newBench founds a troupe whose only member is called a.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{j: openJournal(t), now: time.Now()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	b.Cluster, err = Open(t.Context(), t.TempDir(), b.j, Options{
		Name: "a", Site: "east", Address: b.addr, Now: func() time.Time { return b.now },
		Keys: func() (Keys, error) { return Keys{Authority: map[string][]byte{"ab": []byte("key")}}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Found(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: b.ServerTLS(), ReadHeaderTimeout: time.Minute, Handler: b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, _ := OriginOf(r.TLS)
		if b.date != nil {
			w.Header().Set("Date", b.date())
		}
		_, _ = io.WriteString(w, "hello "+string(origin))
	}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, _ := EdgeOf(r.Context())
		_, _ = io.WriteString(w, "edge "+e.Name)
	}))}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) token(t *testing.T, q TokenRequest) string {
	t.Helper()
	text, _, err := b.CreateToken(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return text + "@" + b.addr
}

func (b *bench) join(t *testing.T, dir string, j *journal.Journal, o Options, token string) (*Joined, error) {
	t.Helper()
	if o.Name == "" {
		o.Name = "b"
	}
	return Join(t.Context(), dir, j, o, token)
}

// greet asks the member port with somebody's certificates.
func greet(ctx context.Context, addr string, conf *tls.Config) (string, error) {
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/hello", http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return "", errors.Join(errors.New(answer.Status+" "+string(text)), err)
	}
	return string(text), err
}

func TestAFreshMachineBecomesAMember(t *testing.T) {
	a := newBench(t)
	dir, j := t.TempDir(), openJournal(t)
	token := a.token(t, TokenRequest{Site: "west"})
	joined, err := a.join(t, dir, j, Options{Address: "b:8143"}, token)
	if err != nil {
		t.Fatal(err)
	}
	if joined.Self.Site != "west" || joined.From.Address != a.addr || string(joined.Keys.Authority["ab"]) != "key" {
		t.Errorf("joined = %+v", joined)
	}
	if said, err := greet(t.Context(), a.addr, joined.TLS); err != nil || said != "hello "+string(j.Origin()) {
		t.Errorf("the port says %q, %v", said, err)
	}
	members := a.Members()
	if len(members) != 2 || !members[0].Self || members[1].Name != "b" || members[1].Site != "west" || members[1].Address != "b:8143" {
		t.Errorf("members = %+v", members)
	}

	if _, err := Open(t.Context(), dir, j, Options{Name: "b"}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a member without its journal opens: %v", err)
	}
	again, err := a.join(t, dir, j, Options{Address: "b:8143"}, token) // the answer was lost
	if err != nil {
		t.Fatalf("the same machine asks again: %v", err)
	}
	for _, s := range []journal.Stream{journal.State, journal.Bulk} {
		frames, w := io.Pipe()
		go func() { _, err := a.j.Export(t.Context(), w, a.j.Origin(), s, 0, 1000); w.CloseWithError(err) }()
		if _, err := j.Import(t.Context(), frames); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), dir, j, Options{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if said, err := greet(t.Context(), a.addr, b.ClientTLS(a.j.Origin())); err != nil || said != "hello "+string(j.Origin()) {
		t.Errorf("the port says %q, %v", said, err)
	}
	if text, _, err := b.CreateToken(t.Context(), TokenRequest{}); err != nil || text == "" {
		t.Errorf("the new member cannot invite: %v", err)
	}
	if _, err := greet(t.Context(), a.addr, b.ClientTLS(j.Origin())); err == nil || !strings.Contains(err.Error(), "another member answers") {
		t.Errorf("a member at another's address: %v", err)
	}

	provesItself(t, a.Cluster, b)
	if _, err := a.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if key, signature, err := b.Sign([]byte("x")); err != nil || a.CheckSigned(j.Origin(), key, signature, []byte("x")) == nil {
		t.Errorf("what a removed member signs is taken, %v", err)
	}
	if _, err := greet(t.Context(), a.addr, b.ClientTLS(a.j.Origin())); err == nil {
		t.Error("a removed member is still served")
	}
	if _, err := a.join(t, dir, j, Options{}, a.token(t, TokenRequest{})); err == nil || !strings.Contains(err.Error(), "removed") {
		t.Errorf("a removed member joins again: %v", err)
	}
	if len(a.Members()) != 1 {
		t.Errorf("members = %+v", a.Members())
	}
}

func TestWhoIsNotAdmitted(t *testing.T) {
	a, other := newBench(t), newBench(t)
	good := func() string { return a.token(t, TokenRequest{Uses: 5}) }
	used := a.token(t, TokenRequest{})
	if _, err := a.join(t, t.TempDir(), openJournal(t), Options{Name: "first"}, used); err != nil {
		t.Fatal(err)
	}
	revoked := a.token(t, TokenRequest{})
	if err := a.RevokeToken(t.Context(), strings.Split(revoked, ".")[1]); err != nil {
		t.Fatal(err)
	}
	wrong := strings.Split(good(), ".")
	wrong[2] = strings.Repeat("a", len(wrong[2]))
	elsewhere, _, _ := strings.Cut(other.token(t, TokenRequest{}), "@")
	unknown := strings.Split(good(), ".")
	unknown[1] = "nosuchtokn"

	for name, c := range map[string]struct {
		token, says string
		o           Options
	}{
		"used":              {token: used, says: "used already"},
		"revoked":           {token: revoked, says: "was revoked"},
		"wrong secret":      {token: strings.Join(wrong, "."), says: "not one of this troupe"},
		"unknown":           {token: strings.Join(unknown, "."), says: "not one of this troupe"},
		"of another troupe": {token: elsewhere + "@" + a.addr, says: "not of the troupe that the token is of"},
		"no token":          {token: "hello@" + a.addr, says: "no token"},
		"no address":        {token: strings.Split(good(), "@")[0], says: "no token"},
		"cut off":           {token: good()[:60] + "@" + a.addr, says: "cut off or misspelt"},
		"nobody there":      {token: strings.Split(good(), "@")[0] + "@127.0.0.1:1", says: "cannot be asked"},
		"name taken":        {token: good(), o: Options{Name: "a"}, says: "there is a member a already"},
		"other site":        {token: a.token(t, TokenRequest{Site: "west"}), o: Options{Site: "north"}, says: "for site west"},
		"wrong clock":       {token: good(), o: Options{Now: func() time.Time { return time.Now().Add(10 * time.Minute) }}, says: "clock"},
		"long name":         {token: good(), o: Options{Name: strings.Repeat("x", 300)}, says: "at most 255"},
	} {
		before := len(a.Members())
		_, err := a.join(t, t.TempDir(), openJournal(t), c.o, c.token)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", name, err, c.says)
		}
		if len(a.Members()) != before {
			t.Errorf("%s: there is a new member", name)
		}
	}

	expired := good()
	a.now = a.now.Add(2 * time.Hour)
	if _, err := a.join(t, t.TempDir(), openJournal(t), Options{Now: func() time.Time { return a.now }}, expired); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
}

func TestThePortIsForMembers(t *testing.T) {
	a, other := newBench(t), newBench(t)
	if _, err := greet(t.Context(), a.addr, &tls.Config{InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := greet(t.Context(), a.addr, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*other.own.Load()}}); err == nil {
		t.Error("a member of another troupe is served")
	}
	if _, err := greet(t.Context(), a.addr, other.ClientTLS(a.j.Origin())); err == nil {
		t.Error("a member of another troupe believes that this is its own")
	}
}

func TestTheOrderOfRecordsDoesNotMatter(t *testing.T) {
	a := newBench(t)
	for _, name := range []string{"b", "c", "d"} {
		if _, err := a.join(t, t.TempDir(), openJournal(t), Options{Name: name}, a.token(t, TokenRequest{})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	recs, err := a.j.Read(t.Context(), a.j.Origin(), journal.State, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := a.Members()
	for turn := range 20 {
		b := &Cluster{j: a.j, state: newState()}
		for i := range recs {
			r := recs[(i*7+turn)%len(recs)]
			if len(recs)%7 == 0 {
				r = recs[(len(recs)-1-i+turn)%len(recs)]
			}
			if err := b.state.fold(r); err != nil {
				t.Fatal(err)
			}
			if err := b.state.fold(r); err != nil && r.Kind != kindFounded { // twice
				t.Fatal(err)
			}
		}
		got := b.Members()
		if len(got) != len(want) {
			t.Fatalf("turn %d: %+v, want %+v", turn, got, want)
		}
		for i := range got {
			if got[i].Origin != want[i].Origin || got[i].Site != want[i].Site {
				t.Fatalf("turn %d: %+v, want %+v", turn, got, want)
			}
		}
	}
}

func TestACertificateIsRenewedInTime(t *testing.T) {
	a := newBench(t)
	before := a.own.Load().Leaf
	a.now = before.NotAfter.Add(-renewBefore + time.Hour)
	if err := a.ensureCertificate(); err != nil {
		t.Fatal(err)
	}
	if after := a.own.Load().Leaf; !after.NotAfter.After(before.NotAfter) {
		t.Errorf("it ends at %s, as before at %s", after.NotAfter, before.NotAfter)
	}
}

func TestADamagedCertificateIsMadeAgain(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, certificateName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len("-----BEGIN CERTIFICATE-----\n")+400] ^= 1
	for name, damaged := range map[string][]byte{"cut": good[:100], "flipped": flipped, "empty": nil} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(t.Context(), b.dir, b.j, b.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := again.own.Load().Leaf.CheckSignatureFrom(b.state.founded.cert); err != nil {
			t.Errorf("%s: the new certificate is not of the infrastructure CA: %v", name, err)
		}
	}
}

func TestADamagedSealingKeyIsRefusedInWords(t *testing.T) {
	b := newBench(t)
	if err := os.Remove(filepath.Join(b.dir, certificateName)); err != nil {
		t.Fatal(err)
	}
	sealed, err := filepath.Glob(filepath.Join(b.dir, "keys", "*.sealed"))
	if err != nil || len(sealed) == 0 {
		t.Fatalf("%v: no sealed keys in %s", err, b.dir)
	}
	for _, path := range sealed {
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), b.dir, b.j, b.o); err == nil || !strings.Contains(err.Error(), "certificate of this member") {
		t.Errorf("opened with damaged keys: %v", err)
	}
}

// TestTheKeyOfTheInfrastructureAloneOpensNothing has a thief with the infrastructure CA's key, from the disk of a member that was
// removed: the thief certifies whatever it likes, and even was a member for a while.
func TestTheKeyOfTheInfrastructureAloneOpensNothing(t *testing.T) {
	a := newBench(t)
	thief := openJournal(t)
	joined, err := a.join(t, t.TempDir(), thief, Options{Name: "thief"}, a.token(t, TokenRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forge := func(name string, origin journal.Origin) *tls.Config {
		t.Helper()
		cert, err := a.certifyMember(a.state.founded, Member{Name: name, Origin: origin}, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}}}
	}
	// While it is a member it claims its own key for the first one, too.
	sum := sha256.Sum256(forge("a", "x").Certificates[0].Leaf.RawSubjectPublicKeyInfo)
	body, err := json.Marshal(memberKeyRecord{Origin: a.j.Origin(), Key: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	err = a.state.fold(journal.Record{Origin: thief.Origin(), Kind: kindMemberKey, Time: a.state.members[a.j.Origin()].at + 1<<40, Body: body})
	a.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := greet(t.Context(), a.addr, joined.TLS); err != nil {
		t.Errorf("a member is refused: %v", err)
	}
	if _, err := a.Remove(t.Context(), "thief"); err != nil {
		t.Fatal(err)
	}
	for what, conf := range map[string]*tls.Config{
		"in the name of the first member": forge("a", a.j.Origin()), "in its own": forge("thief", thief.Origin()), "in a new name": forge("fresh", "nobody"), "as it was": joined.TLS,
	} {
		if said, err := greet(t.Context(), a.addr, conf); err == nil {
			t.Errorf("%s the thief is served: %q", what, said)
		}
	}
	if _, err := a.check([]*x509.Certificate{forge("a", a.j.Origin()).Certificates[0].Leaf}, x509.ExtKeyUsageServerAuth); err == nil || !strings.Contains(err.Error(), "not for the key") {
		t.Errorf("a forged server: %v", err)
	}
}

// TestTheKeyOfAMemberStays founds while Run looks on, and loses the certificate afterwards: the others know one key only.
func TestTheKeyOfAMemberStays(t *testing.T) {
	dir, j := t.TempDir(), openJournal(t)
	c, err := Open(t.Context(), dir, j, Options{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	err = c.Found(t.Context(), "", "")
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	key := memberKey(c.own.Load().Leaf)
	if own := c.state.keys[j.Origin()].own; len(own) != 1 || !own[key] {
		t.Errorf("the records have the keys %v, the member has %s", own, key)
	}
	if err := os.Remove(filepath.Join(dir, certificateName)); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), dir, j, Options{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if got := memberKey(again.own.Load().Leaf); got != key {
		t.Error("a member whose certificate was lost has another key")
	}
}
