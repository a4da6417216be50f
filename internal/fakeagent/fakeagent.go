// Package fakeagent is a Puppet agent in Go: it speaks the real protocol over mutual TLS, request by request as agents
// of four generations do, and it fails exactly where a Ruby agent fails. Load and fault tests that use it are honest:
// a request whose connection is cut is not sent again, a 503 is obeyed only if it carries Retry-After, and not by 7.23, a certificate
// revocation list that lacks one issuer breaks every connection.
//
// An [Agent] is one node. Its first Run asks for a certificate; later runs reuse what it has, as a node does whose
// state is on disk. It fetches plugins and files that changed, remembers their checksums, and sends a report. It
// changes nothing on the machine. A [Fleet] runs many agents and sums up how long each kind of request took.
//
// The package imports no API package of troupe: what it knows about the protocol comes from the source of Puppet 7.23
// (http/client.rb, ssl/state_machine.rb, configurer.rb) and from the recorded runs in testdata, to which its test
// compares it.
package fakeagent

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Options tunes an Agent. The zero value behaves like `puppet agent --onetime` of Puppet 8.10 with its defaults.
type Options struct {
	Generation  Generation        // zero means Puppet8
	ServerName  string            // name that the server's certificate must carry; "" means the host of the address
	Environment string            // what the node's puppet.conf asks for; "" means production
	Facts       json.RawMessage   // object of facts; nil means a handful
	MakeFacts   func() []byte     // makes Facts anew for each run, where thousands of nodes would not fit into memory
	Extensions  map[string]string // of the certificate request, by dotted OID
	Key         crypto.Signer     // nil lets the agent make an EC key, as with key_type=ec

	WaitForCert    time.Duration // pause between two looks for the certificate; 0 ends the run instead
	MaxWaitForCert time.Duration // 0 means without end
	RunInterval    time.Duration // longest pause that Retry-After may ask for; 0 means 30 minutes
	KeepAlive      time.Duration // 0 means 4 s
	ConnectTimeout time.Duration // 0 means 2 minutes
	ReadTimeout    time.Duration // 0 means 10 minutes
	NoCacheOnFail  bool          // like --no-usecacheonfailure, which -t implies
	ShowDiff       bool          // like --show_diff, which -t implies: content of changed files is fetched twice
	RefreshBundles bool          // the intervals of CA bundle and CRL have passed: refresh them in each run
	RenewWithin    time.Duration // remaining life in which the certificate is renewed; 0 means the generation's default
	ResubmitFacts  bool          // PUT facts at the end of the run
	FreshPlugins   bool          // forget the plugins before each run, as a node does that is set up anew each time
	PlainCatalogs  bool          // like --no-static_catalogs: metadata of files is asked for while the catalog is applied
	Changes        int           // resources that count as changed in each run, as on a node that drifts

	// Dial opens connections; nil dials TCP. Tests cut and delay traffic here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger // nil discards
}

// Agent is one node. It must not run twice at the same time.
type Agent struct {
	certname string
	server   string
	dialect  dialect
	o        Options

	identity Identity
	state    state
}

// state is what a node keeps on disk between two runs.
type state struct {
	ranBefore   bool              // last_run_summary.yaml exists
	environment string            // of the last run, if the server decided it
	plugins     map[string]string // path below the plugin folder: checksum; replaced, never changed: nodes share it
	files       map[string]managed
	resources   map[uint64]uint64 // hash of the title of any other resource: hash of its parameters
	cached      *catalog          // the last catalog that was applied, if the agent may use it
}

// New returns an agent that has never run. The address is host:port of its server.
func New(certname, address string, o Options) (*Agent, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of the server of %s: %w", certname, err)
	}
	if o.Generation == "" {
		o.Generation = Puppet8
	}
	d, ok := dialectOf(o.Generation)
	if !ok {
		return nil, fmt.Errorf("unknown generation %q", o.Generation)
	}
	o.fill(host, d)
	return &Agent{certname: certname, server: address, dialect: d, o: o, state: state{
		plugins: map[string]string{}, files: map[string]managed{}, resources: map[uint64]uint64{},
	}}, nil
}

func (o *Options) fill(host string, d dialect) {
	if o.ServerName == "" {
		o.ServerName = host
	}
	if o.Environment == "" {
		o.Environment = "production"
	}
	if o.Facts == nil {
		o.Facts = json.RawMessage(`{"kernel":"Linux","osfamily":"Debian","networking":{"fqdn":"` + host + `"}}`)
	}
	setDefault(&o.RunInterval, 30*time.Minute)
	setDefault(&o.KeepAlive, 4*time.Second)
	setDefault(&o.ConnectTimeout, 2*time.Minute)
	setDefault(&o.ReadTimeout, 10*time.Minute)
	setDefault(&o.RenewWithin, d.renewWithin)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Certname returns the node's name.
func (a *Agent) Certname() string { return a.certname }

// Identity returns the node's key, certificate and trust anchors, as far as it has them.
func (a *Agent) Identity() Identity { return a.identity }

// SetIdentity gives the node what another one had, for example to start a fleet whose certificates exist already.
func (a *Agent) SetIdentity(id Identity) { a.identity = id }

// Adopt gives the node the trust anchors, the revocation lists and the plugins of another one, as if both had been set
// up from the same image. Neither may be running.
func (a *Agent) Adopt(from *Agent) {
	id := from.identity
	a.identity.CA, a.identity.CRLs = id.CA, id.CRLs
	a.identity.CAUpdated, a.identity.CRLUpdated = id.CAUpdated, id.CRLUpdated
	a.state.plugins = from.state.plugins
}

// FileSum returns the checksum of a file that the last run left on the node, and PluginSum that of a plugin, named by its mount and
// path; "" if there is none. The agent must not be running.
func (a *Agent) FileSum(path string) string { return a.state.files[path].sum }

// PluginSum is explained at FileSum.
func (a *Agent) PluginSum(path string) string { return a.state.plugins[path] }

// newUUID makes a random identifier as Ruby's SecureRandom.uuid does.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
