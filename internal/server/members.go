package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/ca"
	"troupe/internal/carrier"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// This file is the port on which members speak to each other, and the way onto it.

// keepAlive and unheardMost find a member that has gone without a word, and a cut network, in some ten seconds: the one where nothing
// was under way, the other where something was and TCP would send it again for a quarter of an hour.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3}

const unheardMost = 10 * time.Second

// limitUnheard ends a connection whose other side has acknowledged nothing for unheardMost. What a listener has, its connections get.
func limitUnheard(_, _ string, conn syscall.RawConn) error {
	var err error
	cerr := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unheardMost.Milliseconds()))
	})
	return errors.Join(cerr, err)
}

// runMembers serves the other members as soon as there are any. A port that cannot be had is no reason to stop serving agents.
func (m *member) runMembers(ctx context.Context) error {
	for {
		changed := m.cluster.Changed()
		if m.cluster.Founded() {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	if err := m.cluster.Announce(ctx); err != nil {
		m.log.WarnContext(ctx, "other members are not told where this one is", telemetry.KeyErr, err)
	}
	addr := m.cfg.Load().Cluster.Listen
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: limitUnheard}
	for said := false; ; said = true {
		l, err := lc.Listen(ctx, "tcp", addr)
		if err == nil {
			return m.serveMembers(ctx, l)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the member stops
		}
		if !said {
			m.log.ErrorContext(ctx, "other members cannot reach this one", telemetry.KeyErr, err, "remedy", "free the port, or set cluster.listen to another one")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Second):
		}
	}
}

func (m *member) serveMembers(ctx context.Context, l net.Listener) error {
	caller := func(r *http.Request) journal.Origin {
		origin, _ := cluster.OriginOf(r.TLS) // cluster.Handler has seen to it
		return origin
	}
	mux := http.NewServeMux()
	mux.Handle("/carrier/", m.carrier.Handler(caller))
	mux.Handle("/deploy/", m.deploy.Handler())
	mux.Handle("/store/", m.store.ContentsHandler())
	mux.HandleFunc("GET /heartbeat/v1", m.answerHeartbeat)
	mux.HandleFunc("GET "+snapshotPath, m.answerSnapshot)
	srv := &http.Server{
		Handler: m.cluster.Handler(m.withKeys(caller, mux), m.edgesHandler()), TLSConfig: m.cluster.ServerTLS(), Protocols: http1Only(),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 256 << 10,
		ErrorLog:    stdlog.New(refusals{m.log.With(telemetry.KeySystem, "members")}, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	m.log.InfoContext(ctx, "members are served", "listen", l.Addr().String())
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	err := srv.Close() // whoever was cut off asks again
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// peers are the other members, for the carrier.
func (m *member) peers() ([]carrier.Peer, <-chan struct{}) {
	changed := m.cluster.Changed()
	var all []carrier.Peer
	for _, other := range m.cluster.Members() {
		if !other.Self {
			all = append(all, carrier.Peer{Origin: other.Origin, Name: other.Name, Site: other.Site, Address: other.Address})
		}
	}
	return all, changed
}

func (m *member) dialPeer(p carrier.Peer) carrier.Asker {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAliveConfig: keepAlive, Control: limitUnheard}
	// A member that listens on one address is to be seen coming from there, for the rules of firewalls.
	host, _, err := net.SplitHostPort(m.cfg.Load().Cluster.Listen)
	if ip := net.ParseIP(host); err == nil && ip != nil && !ip.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	transport := &http.Transport{
		TLSClientConfig: m.cluster.ClientTLS(p.Origin), TLSHandshakeTimeout: 5 * time.Second,
		DialContext: dialer.DialContext, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
	}
	return carrier.Asker{HTTP: &http.Client{Transport: transport}, URL: "https://" + p.Address}
}

// fetchContent asks one member after the other for a content of the file bucket.
func (m *member) fetchContent(ctx context.Context, sha256 string, read func(io.Reader) error) error {
	if !m.carrier.Running() { // a command on a folder that nobody serves
		return fault.New(fault.Unavailable, "other members are not asked")
	}
	err := fault.New(fault.NotFound, "no other member has content %s", sha256)
	peers, _ := m.peers()
	for _, p := range peers {
		ask := m.dialPeer(p)
		one := ask.Do(ctx, http.MethodGet, "/store/v1/contents/"+sha256, nil, contentMost, read)
		ask.HTTP.CloseIdleConnections()
		switch status, answered := errors.AsType[*carrier.StatusError](one); {
		case one == nil:
			return nil
		case answered && status.Code == http.StatusNotFound:
		default:
			err = fault.Wrap(fault.Unavailable, one, "%s was not asked for content %s", p.Name, sha256)
		}
	}
	return err
}

// contentMost bounds the transfer of one content.
const contentMost = 10 * time.Minute

// introduceEvery is how often members that have not heard of this one are told.
const introduceEvery = 5 * time.Second

// runIntroductions tells every other member who this one is until it is known there: those who have not admitted it, since it came
// from a backup, would never ask it for anything.
func (m *member) runIntroductions(ctx context.Context) error {
	tick := time.NewTicker(introduceEvery)
	defer tick.Stop()
	told := map[journal.Origin]bool{}
	asked := false
	for {
		peers, _ := m.peers()
		for _, p := range peers {
			if told[p.Origin] || !m.cluster.Founded() {
				continue
			}
			asker := m.dialPeer(p)
			known, err := m.cluster.Introduce(ctx, asker.HTTP, asker.URL)
			asker.HTTP.CloseIdleConnections()
			told[p.Origin] = known
			if err == nil && !known && !asked {
				asked = true
				m.log.WarnContext(ctx, "this member came from a backup, and the others have not taken it in", "remedy", "on one of them: troupe accept "+m.cfg.Load().Certname, "asked", p.Name)
			}
			if err != nil { // the carrier tells who cannot be reached
				m.log.DebugContext(ctx, "another member was not told of this one", "member", p.Name, telemetry.KeyErr, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// copied waits until another member has a record of our state. Before other members are asked nobody has been answered either:
// what is written then, this member writes for itself.
func (m *member) copied(ctx context.Context, number uint64) error {
	if m.carrier == nil || !m.carrier.Running() || !m.cluster.Founded() {
		return nil
	}
	return m.carrier.Copied(ctx, journal.State, number)
}

// keys are what a new member gets from this one.
func (m *member) keys() (cluster.Keys, error) {
	authority, err := m.authority.Keys()
	return cluster.Keys{Authority: authority, Store: m.store.Key()}, err
}

// catchUpMost bounds how long a member waits for others before it serves.
const catchUpMost = 5 * time.Second

// catchUp takes what others wrote while this member was away before it answers anybody: an agent whose certificate was revoked
// meanwhile must not be let in. With nobody there, it serves with what it knows.
func (m *member) catchUp(ctx context.Context) {
	limit := time.NewTimer(catchUpMost)
	defer limit.Stop()
	select {
	case <-m.carrier.Ready():
	case <-ctx.Done():
	case <-limit.C:
		m.log.WarnContext(ctx, "no other member can be reached: serving with what this one knows")
		return
	}
	m.takeSnapshotSoon(ctx)
}

// awaitCodeMost bounds how long a member waits for deployed code before it serves without.
const awaitCodeMost = 2 * time.Minute

// awaitCode waits until every deployed environment has some version here: a new member must not tell agents that there is none.
func (m *member) awaitCode(ctx context.Context) {
	select {
	case <-m.deploy.Settled():
		return
	case <-time.After(time.Second):
		m.log.InfoContext(ctx, "waiting for deployed code from other members", "at_most", awaitCodeMost)
	}
	select {
	case <-m.deploy.Settled():
	case <-ctx.Done():
	case <-time.After(awaitCodeMost):
		m.log.WarnContext(ctx, "deployed code has not come: agents of its environments are told that there is none", "remedy", "see `troupe code list`")
	}
}

// Join makes the machine of cfg a member of the troupe that invitation (TOKEN@HOST) is from: certificate, keys and the whole
// journal. Nobody may serve its data folder. progress may be nil.
func Join(ctx context.Context, cfg *config.Config, o Options, invitation string, progress func(done, total uint64)) (self cluster.Member, err error) {
	log := telemetry.Discard(o.Log)
	if err := refuseForeign(cfg); err != nil {
		return self, err
	}
	j, err := openJournal(cfg)
	if err != nil {
		return self, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	joined, err := cluster.Join(ctx, filepath.Join(cfg.Data, "cluster"), j, clusterOptions(cfg, &member{o: o, log: log}), invitation)
	if err != nil {
		return self, err
	}
	if err := ca.TakeKeys(filepath.Join(cfg.Data, "ca"), "", joined.Keys.Authority); err != nil {
		return self, fmt.Errorf("keys of the certificate authority: %w", err)
	}
	if err := store.TakeKey(filepath.Join(cfg.Data, "store"), joined.Keys.Store); err != nil {
		return self, err
	}
	transport := &http.Transport{TLSClientConfig: joined.TLS}
	defer transport.CloseIdleConnections()
	if err := carrier.Fill(ctx, j, carrier.Asker{HTTP: &http.Client{Transport: transport}, URL: "https://" + joined.From.Address}, progress); err != nil {
		return self, fault.Wrap(fault.Unavailable, err, "the journal of %s at %s did not come whole; run the same command again", joined.From.Name, joined.From.Address)
	}
	if err := fillStore(ctx, cfg, o, j, carrier.Asker{HTTP: &http.Client{Transport: transport}, URL: "https://" + joined.From.Address}); err != nil {
		return self, fault.Wrap(fault.Unavailable, err, "what %s made of records that are pruned did not come whole; run the same command again", joined.From.Name)
	}
	return joined.Self, joined.Finish(ctx)
}

// refuseForeign keeps two troupes, or a CA that agents trust already, from being mixed.
func refuseForeign(cfg *config.Config) error {
	joining := filepath.Join(cfg.Data, "cluster", "joining")
	if _, err := os.Stat(joining); err == nil {
		return nil // the same command once more
	}
	if ca.Exists(filepath.Join(cfg.Data, "ca")) {
		return fault.New(fault.Conflict, "%s has a certificate authority of its own, whose certificates another troupe would not know: join with an empty data folder", cfg.Data)
	}
	return nil
}
