// Package dns answers authoritatively for one delegated zone, and only with what serves.
//
// A [Zone] knows nothing of health: a [View], handed in by the edge, says what the one judge believes of every
// [Edge] of every [Site]. From it come addresses ([Options].Names) and the SRV ladders that agents with
// use_srv_records climb ([Options].SRVDomains): the local site at priority 0, the others behind it, weights by spare
// capacity. What is down is in no answer from that moment on, because an agent pays two minutes for each target that
// swallows its packets. When everything looks dead, what was good last is answered: a judge may be wrong, and an
// empty answer sends agents nowhere.
//
// Begin with [New] and [Zone.Run]; [Zone.Explain] tells a person why an answer is what it is.
package dns

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gaissmai/bart"
	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/telemetry"
)

// Service is one of the things that an agent asks a server for.
type Service string

// The services that agents look up under names of their own.
const (
	Puppet     Service = "puppet" // nodes, facts, catalogs
	CA         Service = "ca"
	Report     Service = "report"
	Fileserver Service = "fileserver"
)

// srvLabels are the names under which agents look for a service. An agent that finds nothing under a special name
// asks for the first one.
func srvLabels() []srvLabel {
	return []srvLabel{
		{"_x-puppet", Puppet},
		{"_x-puppet-ca", CA},
		{"_x-puppet-report", Report},
		{"_x-puppet-fileserver", Fileserver},
		{"_x-puppet-puppetserver", Puppet},
	}
}

type srvLabel struct {
	label   string
	service Service
}

// Edge is one place that agents may connect to.
type Edge struct {
	Name      string
	Target    string           // the host name in SRV records, within the zone or outside of it
	Addresses []netip.Addr     // of the target; a target outside of the zone may have none
	Port      uint16           // 0 means 8140
	Offers    []Service        // what it is meant for; nil means all
	Services  map[Service]bool // of these, what serves
	Weight    int              // live spare capacity: shares within a site
}

// Site is what the judge says of one site.
type Site struct {
	Name  string
	Order map[string]float64 // to other sites, nearest lowest: ranks, or round-trips that somebody has smoothed; who is not named comes last
	Edges []Edge
}

// View says what the judge believes now. It is called for each question, so it answers from memory; it must not call
// the zone. Capacities that move with every heartbeat make a new serial every second: who measures them rounds them.
type View func() []Site

// NameServer is one server of the zone, as the parent zone delegates to it.
type NameServer struct {
	Name      string
	Addresses []netip.Addr // glue: needed for a name within the zone
}

// Address is a name that has addresses instead of SRV records, such as that of the setting server.
type Address struct {
	Sites   []string // none means all
	Service Service  // what an edge must serve to be in the answer; "" means puppet
	Max     int      // addresses in one answer; 0 means 8. With 1, weights hold behind resolvers that shuffle, too
}

// Secondary is a server that may copy the zone and is told when it changed.
type Secondary struct {
	Addr netip.AddrPort // port 0 means 53
	Key  string         // name of the TSIG key that it must use, if any
}

// Key is a TSIG key. Algorithm "" means hmac-sha256.
type Key struct {
	Algorithm string
	Secret    string // base64
}

// Options describes a zone. Zone, NS and View are required.
type Options struct {
	Zone string
	NS   []NameServer // the first is the SOA's primary
	View View

	Mail string // address of a person, as mail or as a domain name; "" means hostmaster in the zone

	TTL     time.Duration // while all is well; 0 means 5 s: it is also how long resolvers keep sending agents to what died
	TTLDown time.Duration // while something is down, and until it has been up for a minute; 0 means 2 s

	SRVDomains map[string]string       // srv_domain to its site; "" means the site that the asker's network belongs to
	Names      map[string]Address      // names with addresses
	Networks   map[netip.Prefix]string // who asks from here sees this site as local; the longest prefix wins
	Default    string                  // the site of whoever is in none of them; "" means the first by name
	Trusted    []netip.Prefix          // resolvers whose EDNS client subnet is believed

	Secondaries []Secondary
	Keys        map[string]Key
	NotifyEvery time.Duration // at most one NOTIFY in this time; 0 means 5 s

	Listen    []string                         // addresses with ports, each for UDP and TCP; nil means :53
	Ready     func(listening []netip.AddrPort) // called once, when all of them are open
	RateLimit int                              // UDP answers a second for one /24 or /56; 0 means 200, less than 0 no limit

	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil means time.Now
}

const (
	defaultPort = 8140
	maxSites    = 64
	maxEdges    = 256 // of all sites together: 13 kB of SRV records in the worst answer

	settleTime = time.Minute      // how long a change of health keeps answers short-lived
	graceTime  = 10 * time.Minute // what died this long before the last one is still "last known good"
)

// Zone is one zone, ready to answer.
type Zone struct {
	o        Options
	origin   string
	log      *slog.Logger
	metrics  *metrics
	networks bart.Table[string]
	trusted  bart.Table[struct{}]
	names    map[string]Address // by canonical name
	domains  map[string]string  // srv_domain to site, by canonical name
	ns       []NameServer       // with canonical names
	limit    *limiter
	changed  chan struct{} // the published serial has grown

	writing sync.Mutex // who writes an edition down; taken before mu

	mu       sync.Mutex
	seen     *picture
	health   map[string]*health // of each edge, by site and name
	edition  edition
	panicked map[Service]bool // said that everything looks dead
	faults   string           // said about the view
}

// New checks the options. It opens nothing: that does [Zone.Run].
func New(o Options) (*Zone, error) {
	z := &Zone{
		o: o, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "dns"), changed: make(chan struct{}, 1),
		names: map[string]Address{}, domains: map[string]string{}, health: map[string]*health{}, panicked: map[Service]bool{},
	}
	z.o.TTL = cmp.Or(o.TTL, 5*time.Second)
	z.o.TTLDown = cmp.Or(o.TTLDown, 2*time.Second)
	z.o.NotifyEvery = cmp.Or(o.NotifyEvery, 5*time.Second)
	if z.o.Now == nil {
		z.o.Now = time.Now
	}
	if z.o.Listen == nil {
		z.o.Listen = []string{":53"}
	}
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	var ok bool
	if z.origin, ok = hostname(o.Zone); !ok || z.origin == "." {
		wrong("zone %q is not a domain name that can be delegated", o.Zone)
	}
	if o.View == nil {
		wrong("zone %s: no view of the sites was given", o.Zone)
	}
	z.checkServers(wrong)
	z.checkNames(wrong)
	z.checkNetworks(wrong)
	z.checkSecondaries(wrong)
	for name, d := range map[string]time.Duration{"ttl": z.o.TTL, "ttl_down": z.o.TTLDown} {
		if d < time.Second || d > 24*time.Hour {
			wrong("%s is %v: choose 1s to 24h; resolvers count whole seconds", name, d)
		}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	z.limit = newLimiter(cmp.Or(o.RateLimit, 200))
	z.metrics = newMetrics(o.Registerer)
	return z, nil
}

func (z *Zone) checkServers(wrong func(string, ...any)) {
	if len(z.o.NS) == 0 {
		wrong("zone %s: no name server was given; the parent zone delegates to them", z.o.Zone)
	}
	for _, s := range z.o.NS {
		name, ok := hostname(s.Name)
		if !ok {
			wrong("name server %q is not a host name", s.Name)
		}
		if wire.IsSubDomain(z.origin, name) && len(s.Addresses) == 0 {
			wrong("name server %s lies in the zone %s: give its addresses, or nobody finds it", s.Name, z.origin)
		}
		z.ns = append(z.ns, NameServer{name, s.Addresses})
	}
	z.o.Mail = mailbox(cmp.Or(z.o.Mail, "hostmaster."+z.origin))
	if _, ok := wire.IsDomainName(z.o.Mail); !ok {
		wrong("mail %q is neither an address nor a domain name", z.o.Mail)
	}
}

func (z *Zone) checkNames(wrong func(string, ...any)) {
	for name, a := range z.o.Names {
		fqdn, ok := hostname(name)
		if !ok || !wire.IsSubDomain(z.origin, fqdn) {
			wrong("name %q does not lie in the zone %s", name, z.o.Zone)
		}
		if a.Service == "" {
			a.Service = Puppet
		}
		if !slices.Contains([]Service{Puppet, CA, Report, Fileserver}, a.Service) {
			wrong("name %s: unknown service %q; there are: puppet, ca, report, fileserver", name, a.Service)
		}
		if a.Max == 0 {
			a.Max = 8
		}
		z.names[fqdn] = a
	}
	for domain, site := range z.o.SRVDomains {
		fqdn, ok := hostname(domain)
		if !ok || !wire.IsSubDomain(z.origin, fqdn) {
			wrong("srv_domain %q does not lie in the zone %s", domain, z.o.Zone)
		}
		z.domains[fqdn] = site
	}
}

func (z *Zone) checkNetworks(wrong func(string, ...any)) {
	for prefix, site := range z.o.Networks {
		if !prefix.IsValid() || site == "" {
			wrong("network %v: give a prefix and a site", prefix)
			continue
		}
		z.networks.Insert(prefix.Masked(), site)
	}
	for _, prefix := range z.o.Trusted {
		if !prefix.IsValid() {
			wrong("trusted resolver %v is no prefix", prefix)
			continue
		}
		z.trusted.Insert(prefix.Masked(), struct{}{})
	}
}

func (z *Zone) checkSecondaries(wrong func(string, ...any)) {
	keys := map[string]Key{}
	for name, key := range z.o.Keys {
		fqdn, ok := hostname(name)
		if !ok {
			wrong("key %q is not a domain name", name)
		}
		key.Algorithm = wire.CanonicalName(cmp.Or(key.Algorithm, wire.HmacSHA256))
		if !slices.Contains([]string{wire.HmacSHA256, wire.HmacSHA384, wire.HmacSHA512}, key.Algorithm) {
			wrong("key %s: unknown algorithm %q; there are: hmac-sha256, hmac-sha384, hmac-sha512", name, key.Algorithm)
		}
		if !isBase64(key.Secret) {
			wrong("key %s: its secret is not base64", name) // never the secret itself
		}
		keys[fqdn] = key
	}
	z.o.Keys = keys
	z.o.Secondaries = slices.Clone(z.o.Secondaries)
	for i, s := range z.o.Secondaries {
		if !s.Addr.Addr().IsValid() {
			wrong("secondary %v has no address", s.Addr)
		}
		s.Addr = netip.AddrPortFrom(s.Addr.Addr().Unmap(), cmp.Or(s.Addr.Port(), 53))
		if s.Key != "" {
			s.Key = wire.CanonicalName(s.Key)
			if _, ok := keys[s.Key]; !ok {
				wrong("secondary %v: there is no key %q", s.Addr, s.Key)
			}
		}
		z.o.Secondaries[i] = s
	}
}

// hostname returns the canonical form of a name that may own addresses, SRV records or a zone.
func hostname(name string) (fqdn string, ok bool) {
	fqdn = wire.CanonicalName(name)
	if _, ok := wire.IsDomainName(fqdn); !ok || name == "" {
		return fqdn, false
	}
	for _, r := range fqdn {
		if r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return fqdn, false
		}
	}
	return fqdn, true
}

// mailbox is how an SOA record writes a mail address: dots before the @ are escaped.
func mailbox(mail string) string {
	if user, domain, ok := strings.Cut(mail, "@"); ok {
		mail = strings.ReplaceAll(user, ".", `\.`) + "." + domain
	}
	return wire.CanonicalName(mail)
}
