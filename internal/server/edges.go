package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"troupe/internal/agentapi"
	"troupe/internal/ca"
	"troupe/internal/cluster"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file serves edges on the member port: it tells them who the members are and whom agents' certificates must be of, signs the
// certificate that they show to agents, and answers the requests of agents that they bring.

// reservedHeaders are what edges say of agents; from anybody else they mean nothing.
var reservedHeaders = []string{"X-Client-Verify", "X-Client-DN", "X-Client-Cert", "Troupe-Client", agentapi.HeaderCodeID}

func (m *member) edgesHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+cluster.EdgePath+"/view", m.answerView)
	mux.HandleFunc("GET "+cluster.EdgePath+"/trust", m.answerTrust)
	mux.HandleFunc("POST "+cluster.EdgePath+"/certificate", m.certifyEdge)
	mux.HandleFunc("POST "+cluster.EdgePath+"/renewal", m.renewEdge)
	mux.Handle(cluster.EdgeAgents+"/", m.forEdges())
	return mux
}

func (m *member) answerView(w http.ResponseWriter, r *http.Request) {
	v := cluster.View{Peers: []cluster.ViewPeer{}, Trust: m.edgeTrust().Sum, Edges: []string{}, Member: m.cfg.Load().Certname}
	beats := m.heartbeats(r.Context())
	for _, p := range m.cluster.Peers() {
		one := cluster.ViewPeer{Peer: p, State: "unheard"}
		if h, ok := beats[p.Origin]; ok && time.Since(h.Heard) < 3*heartbeatEvery {
			one.State, one.Problem, one.Workers, one.Busy, one.Waiting = h.State, h.Problem, h.Workers, h.Busy, h.Waiting
		}
		v.Peers = append(v.Peers, one)
	}
	for _, e := range m.cluster.Edges() {
		v.Edges = append(v.Edges, e.Name)
	}
	m.tellEdge(w, r, v, nil)
}

func (m *member) edgeTrust() cluster.Trust {
	t := cluster.Trust{Bundle: m.authority.Bundle(), CRLs: m.authority.CRLs()}
	h := sha256.New()
	fmt.Fprintf(h, "%d ", len(t.Bundle))
	h.Write(t.Bundle)
	h.Write(t.CRLs)
	t.Sum = hex.EncodeToString(h.Sum(nil))
	return t
}

func (m *member) answerTrust(w http.ResponseWriter, r *http.Request) {
	m.tellEdge(w, r, m.edgeTrust(), nil)
}

// nameTaken reports whether a node or a member has a certificate of that name, or waits for one.
func (m *member) nameTaken(name string) bool {
	s, err := m.authority.Status(context.Background(), name)
	return fault.KindOf(err) != fault.NotFound && s.State != ca.StateRevoked
}

// certifyEdge signs the key under which an edge serves agents, for the names that its token allowed.
func (m *member) certifyEdge(w http.ResponseWriter, r *http.Request) {
	e, _ := cluster.EdgeOf(r.Context())
	der, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<10))
	var csr *x509.CertificateRequest
	if err == nil {
		if csr, err = x509.ParseCertificateRequest(der); err == nil {
			err = csr.CheckSignature()
		}
	}
	if err != nil {
		m.tellEdge(w, r, nil, fault.Wrap(fault.Invalid, err, "the certificate request of edge %s is not good", e.Name))
		return
	}
	text, err := m.authority.CertifyServer(r.Context(), puppet.Certname(strings.ToLower(e.Name)), csr.PublicKey, e.Names)
	if err == nil {
		m.log.InfoContext(r.Context(), "an edge got a certificate for agents", "edge", e.Name, "names", e.Names)
	}
	m.tellEdge(w, r, cluster.Certified{Certificate: text}, err)
}

func (m *member) renewEdge(w http.ResponseWriter, r *http.Request) {
	e, _ := cluster.EdgeOf(r.Context())
	der, err := m.cluster.CertifyEdge(e, r.TLS)
	m.tellEdge(w, r, cluster.Certified{Certificate: der}, err)
}

func (m *member) tellEdge(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err != nil {
		status := http.StatusInternalServerError
		if fault.KindOf(err) == fault.Invalid {
			status = http.StatusBadRequest
		}
		m.log.WarnContext(r.Context(), "an edge was not answered", "path", r.URL.Path, telemetry.KeyErr, err)
		http.Error(w, fault.Message(err), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		m.log.DebugContext(r.Context(), "edge went away", telemetry.KeyErr, err)
	}
}

// forEdges answers requests of agents that an edge brings. The edge has verified the certificate of the agent; it is verified here once
// more, so that an edge can say who asks only among those who have shown it a certificate.
func (m *member) forEdges() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents := m.agents.Load()
		if agents == nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "this member is starting", http.StatusServiceUnavailable)
			return
		}
		m.forwarded.Add(1)
		defer m.forwarded.Add(-1)
		forwarded, err := m.asAgent(r)
		if err != nil {
			e, _ := cluster.EdgeOf(r.Context())
			m.log.WarnContext(r.Context(), "the client that an edge names is not let in", "edge", e.Name, telemetry.KeyErr, err)
			w.Header().Set("Connection", "close")
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		(*agents).ServeHTTP(w, forwarded)
	})
}

// awaitForwarded waits, when the member stops, until what edges have brought is answered.
func (m *member) awaitForwarded() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(frontGrace); m.forwarded.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// asAgent turns the request of an edge into that of the agent.
func (m *member) asAgent(r *http.Request) (*http.Request, error) {
	var certs []*x509.Certificate
	if text := r.Header.Get("X-Client-Cert"); text != "" {
		plain, err := url.PathUnescape(text)
		if err != nil {
			return nil, fmt.Errorf("certificate of the client: %w", err)
		}
		block, _ := pem.Decode([]byte(plain))
		if block == nil {
			return nil, errors.New("certificate of the client: it is not in PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate of the client: %w", err)
		}
		// Certificates are no secret: an edge in wrong hands could bring anybody's. What an operator's certificate may do is not worth that.
		if slices.ContainsFunc(cert.Extensions, func(x pkix.Extension) bool { return strings.HasPrefix(x.Id.String(), puppet.ArcAuth) }) {
			return nil, fmt.Errorf("the certificate of %q has an authorization extension, such as pp_cli_auth, which counts only at a member itself: connect to one, not to an edge", cert.Subject.CommonName)
		}
		certs = []*x509.Certificate{cert}
	}
	ctx := agentapi.WithRun(r.Context(), r.Header.Get(agentapi.HeaderCodeID))
	out := r.Clone(ctx)
	out.TLS = &tls.ConnectionState{Version: r.TLS.Version, CipherSuite: r.TLS.CipherSuite, HandshakeComplete: true, DidResume: true, PeerCertificates: certs} // it has not seen our certificate
	if err := m.front.admit(*out.TLS); err != nil {
		return nil, err
	}
	if from := r.Header.Get("Troupe-Client"); from != "" {
		out.RemoteAddr = from
	}
	for _, name := range reservedHeaders {
		out.Header.Del(name)
	}
	path := strings.TrimPrefix(r.URL.EscapedPath(), cluster.EdgeAgents)
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	u.RawQuery, u.ForceQuery = r.URL.RawQuery, r.URL.ForceQuery
	out.URL, out.RequestURI = u, u.RequestURI()
	return out, nil
}

// fromAgents removes what only an edge may say.
func fromAgents(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Troupe-Client")
		r.Header.Del(agentapi.HeaderCodeID)
		next.ServeHTTP(w, r)
	})
}
