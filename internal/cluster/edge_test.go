package cluster

import (
	"crypto/ecdsa"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"troupe/internal/fault"
)

// edgeAt makes a machine an edge, which may fail.
func (b *bench) edgeAt(t *testing.T, name string) (*EdgeSide, error) {
	t.Helper()
	token := b.token(t, TokenRequest{Role: RoleEdge, Names: []string{"puppet.example.com"}})
	return JoinEdge(t.Context(), t.TempDir(), EdgeOptions{Name: name, Site: "east", Version: "1"}, token)
}

// asEdge asks the port of the bench as an edge; status 0 means that it came to no answer.
func (b *bench) asEdge(t *testing.T, e *EdgeSide, path string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: e.ClientTLS(b.j.Origin())}}
	defer c.CloseIdleConnections()
	r, err := c.Get("https://" + b.addr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// The certificate of an edge for agents has the edge's name: it must be nobody else's.
func TestAnEdgeHasANameOfItsOwn(t *testing.T) {
	b := newBench(t)
	b.o.Taken = func(name string) bool { return slices.Contains([]string{"db1.example.com", "edge1.example.com"}, name) }
	for _, name := range []string{"db1.example.com", "DB1.example.com", "a"} {
		if _, err := b.edgeAt(t, name); fault.KindOf(err) == fault.Internal || err == nil {
			t.Errorf("%s became an edge, or nobody was told why not: %v", name, err)
		}
	}
	if len(b.Edges()) != 0 {
		t.Errorf("edges: %v", b.Edges())
	}

	b.o.Taken = func(string) bool { return false }
	if _, err := b.edgeAt(t, "Edge1.example.com"); err != nil {
		t.Fatal(err)
	}
	b.o.Taken = func(string) bool { return true } // it has a certificate now
	if _, err := b.Remove(t.Context(), "edge1.example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.edgeAt(t, "edge1.example.com"); err != nil {
		t.Errorf("an edge that comes again under its name: %v", err)
	}
}

func TestAnEdgeSeesOnlyWhatIsForEdges(t *testing.T) {
	b := newBench(t)
	e, err := b.edgeAt(t, "edge1.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if status, text := b.asEdge(t, e, EdgePath+"/view"); status != http.StatusOK || text != "edge edge1.example.com" {
		t.Errorf("its own path: %d %s", status, text)
	}
	for _, path := range []string{"/carrier/v1/records", "/ca/v1/keys", "/"} {
		if status, text := b.asEdge(t, e, path); status != http.StatusForbidden {
			t.Errorf("%s: %d %s, want it refused", path, status, text)
		}
	}

	// Its certificate is renewed for its key, and it is let in with the new one.
	before, ok := e.own.Load().PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	f := b.state.founded
	cert, err := b.certifyAs(f, "edge1.example.com", edgeIdentity(f.ID, e.Edge().Origin), &before.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Renew(cert.Raw); err != nil {
		t.Fatal(err)
	}
	if status, _ := b.asEdge(t, e, EdgePath+"/view"); status != http.StatusOK {
		t.Errorf("with the renewed certificate: %d", status)
	}

	if _, err := b.Remove(t.Context(), "edge1.example.com"); err != nil {
		t.Fatal(err)
	}
	if status, text := b.asEdge(t, e, EdgePath+"/view"); status != 0 || !strings.Contains(text, "tls: ") {
		t.Errorf("an edge that was removed: %d %s, want no handshake", status, text)
	}
	if _, err := b.Remove(t.Context(), "edge1.example.com"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}
