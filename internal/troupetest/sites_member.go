package troupetest

// This file runs members and agents on the machines of sites.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// A SiteMember is a member on a machine of its own.
type SiteMember struct {
	*Server

	Site    string
	Machine *Machine
}

// SiteOptions chooses what differs between members of sites.
type SiteOptions struct {
	Data         string // "" means a new folder
	Environments string
	Config       string // further lines of the YAML file
	Binary       string // that serves; "" means that of [Binary]
}

// Start adds a member to a site and starts it. The first one of all founds the troupe, the others join by first.
func (s *Sites) Start(site string, first *SiteMember, o SiteOptions) *SiteMember {
	s.t.Helper()
	name := fmt.Sprintf("%s%d", site, s.sites[site].machines)
	certname := name + ".example.test"
	m := &SiteMember{Site: site, Machine: s.machine(site, name, certname)}
	config := fmt.Sprintf("cluster:\n  listen: %s:8143\n  address: %s:8143\n%s", m.Machine.IP, m.Machine.IP, o.Config)
	data := o.Data
	if data == "" {
		data = filepath.Join(TempDir(s.t), "data")
	}
	if first != nil {
		file := filepath.Join(TempDir(s.t), "troupe.yaml")
		writeFile(s.t, file, config)
		run(s.t, joining(s.t, m.Machine.Within(), invite(s.t, first.Server, site), data, file, certname))
	}
	m.Server = StartServer(s.t, ServerOptions{
		Certname: certname, Data: data, Environments: o.Environments, Config: config, Autosign: true,
		Listen: m.Machine.IP + ":8140", Within: m.Machine.Within(), Binary: o.Binary,
	})
	if first == nil {
		m.MustCLI("init", "--site", site)
	}
	return m
}

// URL is where agents of any site find the member.
func (m *SiteMember) URL(path string) string { return "https://" + m.Addr + path }

// A Client asks members from the machine of a site's agents.
type Client struct {
	from  *Machine
	pairs []tls.Certificate
	roots *x509.CertPool
	peers map[string]*http.Client // by member
}

// requestMost is how long a client waits for an answer. Agents wait longer; what is to be shown is that they need not.
const requestMost = 20 * time.Second

// Client returns a client at a site that knows the CA, with a certificate or without. It is for one goroutine.
func (s *Sites) Client(site string, roots *x509.CertPool, pairs ...tls.Certificate) *Client {
	return &Client{from: s.Agents(site), pairs: pairs, roots: roots, peers: map[string]*http.Client{}}
}

// Do sends a request to a member and returns status and body.
func (c *Client) Do(ctx context.Context, m *SiteMember, method, path, contentType, body string) (status int, answer string, err error) {
	h := c.peers[m.Certname]
	if h == nil {
		h = &http.Client{Transport: &http.Transport{
			DialContext: c.from.Dial, IdleConnTimeout: 4 * time.Second,
			TLSClientConfig: &tls.Config{RootCAs: c.roots, ServerName: m.Certname, Certificates: c.pairs, MinVersion: tls.VersionTLS12},
		}}
		c.peers[m.Certname] = h
	}
	ctx, cancel := context.WithTimeout(ctx, requestMost)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, m.URL(path), strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", "application/json, text/plain, application/octet-stream")
	response, err := h.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	_, err = io.Copy(&text, response.Body)
	return response.StatusCode, text.String(), err
}

// Close closes the connections that are kept.
func (c *Client) Close() {
	for _, h := range c.peers {
		h.CloseIdleConnections()
	}
}

// Bundle is the CA bundle as the member publishes it to a machine of its own site.
func (s *Sites) Bundle(m *SiteMember) *x509.CertPool {
	s.t.Helper()
	transport := &http.Transport{DialContext: s.Agents(m.Site).Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // as an agent's first request
	c := &Client{peers: map[string]*http.Client{m.Certname: {Transport: transport}}}
	status, text, err := c.Do(s.t.Context(), m, http.MethodGet, "/puppet-ca/v1/certificate/ca", "", "")
	pool := x509.NewCertPool()
	if err != nil || status != http.StatusOK || !pool.AppendCertsFromPEM([]byte(text)) {
		s.t.Fatalf("CA bundle of %s: %d, %v\n%s", m.Certname, status, err, text)
	}
	return pool
}

// Agent makes a real agent of the machine's own generation at a site. Its servers are tried in their order at every run, as
// server_list says.
func (s *Sites) Agent(site, certname string, servers ...*SiteMember) *Agent {
	s.t.Helper()
	a := NewAgent(s.t, Puppet7, certname, servers[0].Certname+":8140")
	a.Within, a.Limit = s.Agents(site).Within(), Patience
	return a
}

// ServerList is the setting by which an agent knows several members.
func ServerList(members ...*SiteMember) []string {
	var all []string
	for _, m := range members {
		all = append(all, m.Certname+":8140")
	}
	return []string{"--server_list", strings.Join(all, ",")}
}
