package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"troupe/internal/config"
	"troupe/internal/edge/balance"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file shares between edges who sticks to whom, as HAProxy's peers do: an agent that comes to another edge finds its server. An
// edge that was away is told everything when it comes back. Of two words about a client the later counts.

const (
	peersEvery   = time.Second
	peersMost    = 5 * time.Second
	maxPeersBody = 32 << 20 // a table of 200,000 clients
)

// peersTLS takes a connection only from, and makes one only to, an edge that is named: any agent has a certificate of the same authority.
func (e *Edge) peersTLS(want ...string) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.trust.Load().certificate, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.trust.Load().certificate, nil },
		ClientAuth:           tls.RequireAnyClientCert,
		InsecureSkipVerify:   true, //nolint:gosec // VerifyConnection does it, on both sides
		VerifyConnection: func(cs tls.ConnectionState) error {
			chains, err := e.clients.Chains(cs.PeerCertificates)
			if err != nil {
				return err
			}
			if err := e.trust.Load().admits(chains); err != nil {
				return err
			}
			if name := lower(chains[0][0].Subject.CommonName); !slices.Contains(want, name) {
				return fmt.Errorf("%q is not an edge that is named under peers", name)
			}
			return nil
		},
	}
}

// runPeers listens to the other edges and tells them what is new, until ctx ends.
func (e *Edge) runPeers(ctx context.Context, begun func()) error {
	var names []string
	for _, p := range e.conf.Peers.Edges {
		names = append(names, lower(p.Name))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /peers/v1/{pool}", e.answerPeer)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{}, len(e.conf.Peers.Edges))
	for _, p := range e.conf.Peers.Edges {
		go func() { e.tellPeer(ctx, p); ended <- struct{}{} }()
	}
	err := e.beside(ctx, "peers", e.conf.Peers.Listen, begun, func(ctx context.Context, l net.Listener) error {
		return e.serveBeside(ctx, tls.NewListener(l, e.peersTLS(names...)), mux)
	})
	stop()
	for range e.conf.Peers.Edges {
		<-ended
	}
	return err
}

func (e *Edge) answerPeer(w http.ResponseWriter, r *http.Request) {
	t := e.tables[r.PathValue("pool")]
	if t == nil {
		e.reply(w, nil, fault.New(fault.NotFound, "this edge has no stick table %q", r.PathValue("pool")))
		return
	}
	var entries []balance.Entry
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPeersBody)).Decode(&entries); err != nil {
		e.reply(w, nil, fault.Wrap(fault.Invalid, err, "the entries cannot be read"))
		return
	}
	t.Merge(entries)
	e.reply(w, struct{}{}, nil)
}

// tellPeer brings one edge up to date again and again. It begins anew with everything after the other was away.
func (e *Edge) tellPeer(ctx context.Context, p config.EdgePeer) {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: e.peersTLS(lower(p.Name)), TLSHandshakeTimeout: peersMost, IdleConnTimeout: time.Minute}, Timeout: peersMost}
	defer c.CloseIdleConnections()
	told := map[string]uint64{}
	away := map[string]bool{} // by pool: another edge need not have all of them
	tick := time.NewTicker(peersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for pool, t := range e.tables {
			entries, next := t.Changes(told[pool])
			if len(entries) == 0 && !away[pool] {
				continue
			}
			err := tell(ctx, c, "https://"+p.Address+"/peers/v1/"+pool, entries)
			switch {
			case err == nil && away[pool]:
				delete(away, pool)
				delete(told, pool)
				e.log.InfoContext(ctx, "another edge is back and is told who sticks to whom", "edge", p.Name, "pool", pool)
			case err == nil:
				told[pool] = next
			case !away[pool] && ctx.Err() == nil:
				away[pool] = true
				e.log.WarnContext(ctx, "another edge is not told who sticks to whom", "edge", p.Name, "pool", pool, telemetry.KeyErr, err)
			}
		}
	}
}

func tell(ctx context.Context, c *http.Client, url string, entries []balance.Entry) error {
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := c.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it says %s: %s", response.Status, bytes.TrimSpace(said))
	}
	return err
}
