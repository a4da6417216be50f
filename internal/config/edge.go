package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// This file reads the configuration of an edge: edge.yaml, a file of its own, since an edge is a process of its own and may run
// where no member does. Its parts are lists and maps of structures, so it is decoded into them; an unknown key is refused with its
// line, as in troupe.yaml.

// Edge is the configuration of one edge.
type Edge struct {
	Data      string              `yaml:"data,omitempty"`
	Name      string              `yaml:"name,omitempty"` // of this edge; default: "edge." and the host's full name, which is an agent's
	Site      string              `yaml:"site,omitempty"`
	TLS       EdgeTLS             `yaml:"tls,omitempty"`
	Listeners []EdgeListener      `yaml:"listeners,omitempty"`
	Pools     map[string]EdgePool `yaml:"pools,omitempty"`
	Runs      EdgeRuns            `yaml:"runs,omitempty"`
	Peers     *EdgePeers          `yaml:"peers,omitempty"`
	DNS       *EdgeDNS            `yaml:"dns,omitempty"`
	BGP       *EdgeBGP            `yaml:"bgp,omitempty"`
	Metrics   string              `yaml:"metrics,omitempty"` // address of /metrics without TLS
	// AgentCheck is an address where a HAProxy in front is told how much this edge can take.
	AgentCheck string  `yaml:"agent_check,omitempty"`
	Log        EdgeLog `yaml:"log,omitempty"`
}

// EdgePeers are the other edges that share stick tables with this one.
type EdgePeers struct {
	Listen string     `yaml:"listen"`
	Edges  []EdgePeer `yaml:"edges"`
}

// EdgePeer is one of them. Name is the common name of its certificate, which is of the same authority as agents' are.
type EdgePeer struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"`
}

// EdgeLog is what an edge writes about itself.
type EdgeLog struct {
	Level  string `yaml:"level,omitempty"`
	Format string `yaml:"format,omitempty"`
}

// EdgeTLS are the PEM files with which listeners in mode puppet end TLS. An edge of a troupe needs none of them.
type EdgeTLS struct {
	Certificate string `yaml:"certificate,omitempty"` // with intermediates, if there are any
	Key         string `yaml:"key,omitempty"`         // mode 0600
	CA          string `yaml:"ca,omitempty"`          // bundle that agents' certificates are of
	CRL         string `yaml:"crl,omitempty"`         // of all these authorities; read again when it changes
	Min         string `yaml:"min,omitempty"`
}

// EdgeListener is an address that agents connect to.
type EdgeListener struct {
	Listen        string         `yaml:"listen"`
	Mode          string         `yaml:"mode,omitempty"` // puppet or passthrough
	Pool          string         `yaml:"pool,omitempty"`
	ProxyProtocol []netip.Prefix `yaml:"proxy_protocol,omitempty"` // who must send a PROXY header, v1 or v2
	Names         []EdgeName     `yaml:"names,omitempty"`          // another mode or pool for a name that the client asks for (SNI)
	Rules         []EdgeRule     `yaml:"rules,omitempty"`          // the first that fits chooses the pool
	MaxClients    int            `yaml:"max_clients,omitempty"`    // connections at once
	PerSource     int            `yaml:"per_source,omitempty"`     // of one address
}

// EdgeName is what a listener does for some names.
type EdgeName struct {
	SNI  []string `yaml:"sni"` // *.example.com stands for one label
	Mode string   `yaml:"mode,omitempty"`
	Pool string   `yaml:"pool,omitempty"`
}

// EdgeRule chooses a pool. All that is said must fit; path, environment and certname are known in mode puppet only.
type EdgeRule struct {
	Source      []netip.Prefix `yaml:"source,omitempty"`
	Path        []string       `yaml:"path,omitempty"` // prefixes, such as /puppet-ca/
	Environment []string       `yaml:"environment,omitempty"`
	Certname    []string       `yaml:"certname,omitempty"` // with * and ?
	Pool        string         `yaml:"pool"`
}

// EdgePool is servers that can do the same.
type EdgePool struct {
	Members     bool         `yaml:"members,omitempty"` // the members of the troupe, by their heartbeats
	Servers     []EdgeServer `yaml:"servers,omitempty"`
	SRV         string       `yaml:"srv,omitempty"`     // a name whose SRV records are the servers
	Balance     string       `yaml:"balance,omitempty"` // round-robin, least-connections, random, least-work, hash
	HashBy      string       `yaml:"hash_by,omitempty"` // environment, certname, source
	Stick       string       `yaml:"stick,omitempty"`   // certname, source
	StickExpire Duration     `yaml:"stick_expire,omitempty"`
	StickSize   int          `yaml:"stick_size,omitempty"`
	Queue       EdgeQueue    `yaml:"queue,omitempty"`
	Overflow    EdgeOverflow `yaml:"overflow,omitempty"`
	AllBackups  bool         `yaml:"all_backups,omitempty"`
	LocalFirst  *bool        `yaml:"local_first,omitempty"` // servers of another site are a tier further away; default true
	Panic       float64      `yaml:"panic,omitempty"`       // with a smaller share of healthy servers all are used
	InPanic     string       `yaml:"in_panic,omitempty"`    // or none is: all, none
	Spill       float64      `yaml:"spill,omitempty"`       // from so many waiting for each server on, later tiers help
	Overprovide float64      `yaml:"overprovision,omitempty"`
	HashBound   float64      `yaml:"hash_bound,omitempty"` // how far over the average a server may be
	SlowStart   Duration     `yaml:"slow_start,omitempty"`
	SendProxy   string       `yaml:"send_proxy,omitempty"` // v1 or v2; mode passthrough
	Check       EdgeCheck    `yaml:"check,omitempty"`
	Connect     Duration     `yaml:"connect_timeout,omitempty"`
	Answer      Duration     `yaml:"answer_timeout,omitempty"` // until the first byte of an answer
	Idle        Duration     `yaml:"idle_timeout,omitempty"`   // mode passthrough: a connection without a byte
	CutDown     *bool        `yaml:"cut_when_down,omitempty"`  // end the connections of a server that went down; default true
	TLS         EdgePoolTLS  `yaml:"tls,omitempty"`
}

// EdgePoolTLS is how the edge speaks to foreign puppetservers in mode puppet; by default as itself, with the files of tls.
type EdgePoolTLS struct {
	ServerName  string `yaml:"server_name,omitempty"` // instead of each server's own host name
	CA          string `yaml:"ca,omitempty"`
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
}

// EdgeServer is one server of a pool.
type EdgeServer struct {
	Name           string     `yaml:"name,omitempty"` // default: its address
	Address        string     `yaml:"address"`
	Site           string     `yaml:"site,omitempty"`
	Weight         *int       `yaml:"weight,omitempty"` // 0 to 256, default 100
	MaxConnections int        `yaml:"max_connections,omitempty"`
	Backup         bool       `yaml:"backup,omitempty"`
	Tier           int        `yaml:"tier,omitempty"`
	AgentCheck     string     `yaml:"agent_check,omitempty"` // address of HAProxy's agent-check
	Check          *EdgeCheck `yaml:"check,omitempty"`       // another one than the pool's

	Origin string `yaml:"-" json:",omitempty"` // of a member, which the troupe says
}

// EdgeQueue bounds who waits for a server.
type EdgeQueue struct {
	Length  int      `yaml:"length,omitempty"`
	Timeout Duration `yaml:"timeout,omitempty"`
}

// EdgeOverflow sends requests to another pool while this one's queue is long.
type EdgeOverflow struct {
	Pool  string  `yaml:"pool,omitempty"`
	Above float64 `yaml:"above,omitempty"` // waiting requests for each usable server
}

// EdgeCheck is how servers are judged.
type EdgeCheck struct {
	Type         string   `yaml:"type,omitempty"` // none, tcp, tls, https, http
	Method       string   `yaml:"method,omitempty"`
	Path         string   `yaml:"path,omitempty"`
	Host         string   `yaml:"host,omitempty"`
	Status       string   `yaml:"status,omitempty"` // such as 200-399 or 200,404
	Body         string   `yaml:"body,omitempty"`   // a regular expression
	Verify       *bool    `yaml:"verify,omitempty"` // the server's certificate; default true where a CA is known
	Interval     Duration `yaml:"interval,omitempty"`
	FastInterval Duration `yaml:"fast_interval,omitempty"`
	DownInterval Duration `yaml:"down_interval,omitempty"`
	Timeout      Duration `yaml:"timeout,omitempty"`
	Rise         int      `yaml:"rise,omitempty"`
	Fall         int      `yaml:"fall,omitempty"`
	Spread       float64  `yaml:"spread,omitempty"`
	Observe      *bool    `yaml:"observe,omitempty"` // judge by what requests show, too; default true
	ErrorLimit   int      `yaml:"error_limit,omitempty"`
	OnError      string   `yaml:"on_error,omitempty"` // fastinter, fail-check, sudden-death, mark-down
	Slow         float64  `yaml:"slow,omitempty"`     // checks that take so many times longer than those of others take a server out; -1: never
}

// EdgeRuns is how agent runs are admitted and their requests sent again.
type EdgeRuns struct {
	Idle          Duration `yaml:"idle,omitempty"`            // a run without a request for so long is over
	Replays       *int     `yaml:"replays,omitempty"`         // of one request; default 2
	ReplayBudget  float64  `yaml:"replay_budget,omitempty"`   // share of all requests
	MaxBody       Size     `yaml:"max_body,omitempty"`        // of a request that can be sent again
	MaxAnswer     Size     `yaml:"max_answer,omitempty"`      // of an answer that is held until it is whole
	Memory        Size     `yaml:"memory,omitempty"`          // for all bodies; more goes to disk
	Disk          Size     `yaml:"disk,omitempty"`            // for all bodies
	MaxRetryAfter Duration `yaml:"max_retry_after,omitempty"` // no longer than the agents' runinterval
	Ramp          Duration `yaml:"ramp,omitempty"`            // after an outage, until as many runs begin as come
	Drain         Duration `yaml:"drain,omitempty"`           // how long requests may take to end when the edge stops
	Linger        Duration `yaml:"linger,omitempty"`          // before that, while agents let go of their connections
}

// EdgeDNS is the zone that the edge answers for.
type EdgeDNS struct {
	Listen      []string               `yaml:"listen,omitempty"`
	Zone        string                 `yaml:"zone"`
	Names       map[string]EdgeDNSName `yaml:"names,omitempty"`       // names with addresses
	SRV         map[string]string      `yaml:"srv_domains,omitempty"` // srv_domain: site that comes first
	NameServers []EdgeNameServer       `yaml:"name_servers,omitempty"`
	Contact     string                 `yaml:"contact,omitempty"`
	TTL         Duration               `yaml:"ttl,omitempty"`
	TTLDown     Duration               `yaml:"ttl_down,omitempty"`
	Networks    map[string]string      `yaml:"networks,omitempty"` // source network: site
	Trusted     []netip.Prefix         `yaml:"trusted,omitempty"`  // resolvers whose client subnet is believed
	Secondaries []EdgeSecondary        `yaml:"secondaries,omitempty"`
	Keys        map[string]EdgeDNSKey  `yaml:"keys,omitempty"`       // TSIG keys
	RateLimit   int                    `yaml:"rate_limit,omitempty"` // answers a second to one network
	Sites       map[string]EdgeSite    `yaml:"sites,omitempty"`
}

// EdgeNameServer is a name server of the zone with its addresses.
type EdgeNameServer struct {
	Name      string       `yaml:"name"`
	Addresses []netip.Addr `yaml:"addresses,omitempty"`
}

// EdgeSite is one site as DNS tells of it.
type EdgeSite struct {
	Order EdgeOrder     `yaml:"order,omitempty"` // the other sites
	Edges []EdgeDNSEdge `yaml:"edges"`
}

// EdgeDNSEdge is one edge, or one server without an edge before it, that agents may be sent to.
type EdgeDNSEdge struct {
	Name      string       `yaml:"name"`
	Target    string       `yaml:"target"`
	Addresses []netip.Addr `yaml:"addresses"`
	Port      uint16       `yaml:"port,omitempty"`
	Services  []string     `yaml:"services,omitempty"`    // in whose ladders it is; none: in all
	Weight    EdgeWeight   `yaml:"weight,omitempty"`      // or auto
	Agent     string       `yaml:"agent_check,omitempty"` // weight auto: where an edge in mode passthrough says what it can take
	Check     *EdgeCheck   `yaml:"check,omitempty"`
}

// EdgeBGP announces the service addresses.
type EdgeBGP struct {
	Mode      string         `yaml:"mode,omitempty"` // speak, address, file
	AS        uint32         `yaml:"as,omitempty"`
	RouterID  netip.Addr     `yaml:"router_id"` // the library thinks that an address is empty whatever it is
	Prefixes  []netip.Prefix `yaml:"prefixes"`
	Neighbors []EdgeNeighbor `yaml:"neighbors,omitempty"`
	Interface string         `yaml:"interface,omitempty"`  // mode address
	File      string         `yaml:"file,omitempty"`       // mode file
	Bird      string         `yaml:"bird,omitempty"`       // mode file: control socket of the bird that reads it
	UpAfter   Duration       `yaml:"up_after,omitempty"`   // the site serves for so long before it is announced
	DownAfter Duration       `yaml:"down_after,omitempty"` // it is withdrawn when it has not served for so long; 0 is at once
	Rejoin    Duration       `yaml:"rejoin,omitempty"`
	MED       uint32         `yaml:"med,omitempty"`
	Prepend   int            `yaml:"prepend,omitempty"`
	Grace     Duration       `yaml:"grace,omitempty"`
}

// EdgeNeighbor is a router of the site.
type EdgeNeighbor struct {
	Address      netip.Addr `yaml:"address"`
	AS           uint32     `yaml:"as"`
	Port         uint16     `yaml:"port,omitempty"`
	PasswordFile string     `yaml:"password_file,omitempty"` // MD5
	TTLSecurity  bool       `yaml:"ttl_security,omitempty"`
	Multihop     int        `yaml:"multihop,omitempty"`
	HoldTime     Duration   `yaml:"hold_time,omitempty"`
	Passive      bool       `yaml:"passive,omitempty"`
	Local        netip.Addr `yaml:"local_address"`
	BFD          *EdgeBFD   `yaml:"bfd,omitempty"`
	Restart      Duration   `yaml:"graceful_restart,omitempty"`
}

// EdgeBFD are the timers of BFD.
type EdgeBFD struct {
	Interval   Duration `yaml:"interval,omitempty"`
	Multiplier int      `yaml:"multiplier,omitempty"`
}

// Duration is a time as troupe.yaml has it: 90s, 20m, 12h, 300ms.
type Duration time.Duration

// UnmarshalYAML reads it.
func (d *Duration) UnmarshalYAML(text []byte) error {
	parsed, err := ParseDuration(unquoted(text))
	*d = Duration(parsed)
	return err
}

// MarshalYAML writes it, so that it can be read again: without a fraction.
func (d Duration) MarshalYAML() ([]byte, error) {
	if whole := time.Duration(d); whole%time.Second != 0 {
		return []byte(strconv.FormatInt(whole.Milliseconds(), 10) + "ms"), nil
	}
	return []byte(FormatDuration(time.Duration(d))), nil
}

// Or is the time, or another when none was said.
func (d Duration) Or(other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return time.Duration(d)
}

// Size is a number of bytes as troupe.yaml has it: 512K, 64M, 2G.
type Size int64

// UnmarshalYAML reads it.
func (s *Size) UnmarshalYAML(text []byte) error {
	n, err := parseSize(unquoted(text))
	*s = Size(n)
	return err
}

// MarshalYAML writes it.
func (s Size) MarshalYAML() ([]byte, error) {
	n := int64(s)
	return []byte(sizeValue{&n}.String()), nil
}

// Or is the size, or another when none was said.
func (s Size) Or(other int64) int64 {
	if s == 0 {
		return other
	}
	return int64(s)
}

// maxEdgeFile is more than 1,000 servers need.
const maxEdgeFile = 4 << 20

// LoadEdge reads and checks the configuration of an edge.
func LoadEdge(path string) (*Edge, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of the edge: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEdgeFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of the edge: %w", err)
	}
	if len(text) > maxEdgeFile {
		return nil, fmt.Errorf("%s is larger than %d MiB: is it the right file?", path, maxEdgeFile>>20)
	}
	return ParseEdge(path, text)
}

// ParseEdge reads and checks the text of a configuration; name is for its errors.
func ParseEdge(name string, text []byte) (*Edge, error) {
	e := &Edge{}
	d := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := d.Decode(e); err != nil && !errors.Is(err, io.EOF) {
		return nil, syntaxError(name, err)
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return e, nil
}

// StatusRange is a range of HTTP statuses, both ends included.
type StatusRange struct{ From, To int }

// ParseStatus reads "200-399" or "200,404".
func ParseStatus(text string) ([]StatusRange, error) {
	var all []StatusRange
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			to = from
		}
		a, aerr := strconv.Atoi(from)
		b, berr := strconv.Atoi(to)
		if aerr != nil || berr != nil || a < 100 || b > 599 || a > b {
			return nil, fmt.Errorf("%q is no list of statuses such as 200-399 or 200,404", text)
		}
		all = append(all, StatusRange{a, b})
	}
	return all, nil
}
