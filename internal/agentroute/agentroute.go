// Package agentroute tells what an agent of a certain version would do with a certain puppet.conf: which servers it tries for
// what, in which order, how long it waits for each, and what that breaks.
//
// [New] makes a [Plan] from settings alone. [Plan.Resolve] asks DNS for the names in it, and [Plan.Probe] connects as the
// agent would and says which server it would end at. What is claimed about agents was read in their source and is compared
// with the classes of real ones in the tests; it was found out, not copied.
package agentroute

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"troupe/internal/config"
)

// Plan is what an agent would do.
type Plan struct {
	Agent    string    `json:"agent"`
	File     string    `json:"puppet_conf,omitempty"`
	Certname string    `json:"certname,omitempty"`
	Chooses  string    `json:"chooses"` // when a server is chosen, and for how long
	Services []Service `json:"services"`
	Traits   []Trait   `json:"traits"` // times and habits
	Breaks   []string  `json:"breaks"` // what goes wrong with this version and these settings

	version Version
}

// Service is one thing that an agent asks servers for, with its way to one.
type Service struct {
	Name   string `json:"name"` // as in Puppet: ca, puppet, fileserver, report
	For    string `json:"for"`
	Steps  []Step `json:"steps"`
	Chosen string `json:"chosen,omitempty"` // by a probe
	Result string `json:"result,omitempty"` // of a probe
	Tries  []Try  `json:"tries,omitempty"`
}

// Check is how an agent finds out that a server is good enough.
type Check string

// The checks that there are.
const (
	Connect Check = "connect" // a TCP connection and TLS
	Status  Check = "status"  // GET /status/v1/simple/server, and /master if that is 404
	Request Check = "request" // none: the request itself
)

// Step is one source of servers. The next one is tried when none of its targets will do, unless Last is set.
type Step struct {
	By      string   `json:"by"`              // srv, or the setting: server_list, ca_server, report_server, server
	Names   []string `json:"names,omitempty"` // of SRV records; a later one if there are none at the one before
	Targets []Target `json:"targets,omitempty"`
	Check   Check    `json:"check"`
	Last    bool     `json:"last"`
	Origin  string   `json:"origin"` // where the setting stands
	Note    string   `json:"note,omitempty"`
}

// Target is one server.
type Target struct {
	Host      string   `json:"host"`
	Port      int      `json:"port"`
	Priority  *int     `json:"priority,omitempty"`
	Weight    *int     `json:"weight,omitempty"`
	Share     string   `json:"share,omitempty"` // how often an agent begins with it among those of its priority
	Addresses []string `json:"addresses,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Trait is a time or a habit.
type Trait struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // the line of puppet.conf, or the version's default
}

// Options says of the agent what its puppet.conf may not.
type Options struct {
	Certname string
	Domain   string // of the machine: the default of srv_domain
}

// New plans what an agent would do. It asks nobody.
func New(v Version, conf *config.AgentConf, o Options) (*Plan, error) {
	p := &Plan{Agent: v.String(), File: conf.File, Certname: o.Certname, version: v, Breaks: []string{}}
	s := &settings{version: v, conf: conf, options: o}
	p.Chooses = "once for a run and a service, and keeps it: what dies within a run is not left (the certificate phase chooses for itself)"
	if !v.sessions() {
		p.Chooses = "anew for each request with SRV records; once for a run from server_list"
	}
	list := s.serverList()
	for _, service := range []Service{
		{Name: "ca", For: "certificate, CA bundle, CRL"},
		{Name: "puppet", For: "node, facts, catalog, file bucket"},
		{Name: "fileserver", For: "plugins, file metadata and content"},
		{Name: "report", For: "report"},
	} {
		service.Steps = s.steps(service.Name, list)
		p.Services = append(p.Services, service)
	}
	p.Traits = s.traits()
	p.Breaks = append(p.Breaks, s.breaks(list)...)
	if s.failed != nil {
		return nil, s.failed
	}
	return p, nil
}

// settings reads puppet.conf with the defaults of a version.
type settings struct {
	version Version
	conf    *config.AgentConf
	options Options
	failed  error
}

// get returns a setting, or a default. The first error is kept.
func (s *settings) get(name, fallback string) (text, origin string, set bool) {
	text, origin, set, err := s.conf.Get(name)
	if err != nil && s.failed == nil {
		s.failed = err
	}
	if !set {
		return fallback, "default of " + s.version.String(), false
	}
	if strings.EqualFold(text, "true") || strings.EqualFold(text, "false") {
		text = strings.ToLower(text) // as Puppet takes it
	}
	return text, origin, true
}

func (s *settings) boolean(name string, fallback bool) bool {
	text, origin, set := s.get(name, "")
	switch {
	case !set:
		return fallback
	case text == "true", text == "false":
		return text == "true"
	}
	if s.failed == nil {
		s.failed = fmt.Errorf("%s: %s is %q; Puppet takes true or false", origin, name, text)
	}
	return fallback
}

func (s *settings) port(name string, fallback int) (port int, set bool) {
	text, origin, set := s.get(name, "")
	if !set {
		return fallback, false
	}
	port, err := strconv.Atoi(text)
	if (err != nil || port < 1 || port > 65535) && s.failed == nil {
		s.failed = fmt.Errorf("%s: %s is %q, which is no port", origin, name, text)
	}
	return port, true
}

// serverPort is masterport, which has a second name since 6.19 (puppet PR 8318).
func (s *settings) serverPort() int {
	port, _ := s.port("masterport", 8140)
	if s.version.since(6, 19, 0) {
		port, _ = s.port("serverport", port)
	}
	return port
}

// listed is the setting server_list.
type listed struct {
	targets []Target
	origin  string
	odd     []string // entries that Puppet cuts apart in the wrong place
}

func (s *settings) serverList() listed {
	text, origin, set := s.get("server_list", "")
	if !set || strings.TrimSpace(text) == "" {
		return listed{}
	}
	l := listed{origin: origin}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		parts := strings.Split(entry, ":")
		t := Target{Host: parts[0], Port: s.serverPort()}
		if len(parts) > 1 {
			port, err := strconv.Atoi(parts[1])
			if err != nil || len(parts) > 2 {
				l.odd = append(l.odd, entry)
			}
			t.Port = port
		}
		l.targets = append(l.targets, t)
	}
	return l
}

// steps is the way of one service.
func (s *settings) steps(service string, list listed) []Step {
	var steps []Step
	if _, _, set := s.get("server", ""); !set && s.version.refusesDefault() {
		return nil
	}
	if s.boolean("use_srv_records", false) {
		if step, ok := s.srv(service); ok {
			steps = append(steps, step)
		}
	}
	own, hostSet, portSet := s.ownSetting(service)
	switch {
	case len(list.targets) == 0 || hostSet && own.By != "server":
		// The service's own setting, whose default is server.
	case s.version.sessions():
		return append(steps, Step{By: "server_list", Targets: list.targets, Check: Status, Last: true, Origin: list.origin})
	case service == "ca":
		first := list.targets[0]
		if portSet {
			first.Port = own.Targets[0].Port
		}
		return append(steps, Step{
			By: "server_list", Targets: []Target{first}, Check: Request, Last: true, Origin: list.origin,
			Note: "the first one, whether it serves or not",
		})
	default:
		step := Step{
			By: "server_list", Targets: list.targets, Check: Status, Last: true, Origin: list.origin,
			Note: "chosen when the run begins; 403 counts as good",
		}
		if portSet {
			step.Note += fmt.Sprintf("; the request then goes to port %d of it", own.Targets[0].Port)
		}
		return append(steps, step)
	}
	return append(steps, own)
}

// srv is the step of SRV records; there is none if no domain is known.
func (s *settings) srv(service string) (Step, bool) {
	domain, origin, set := s.get("srv_domain", s.options.Domain)
	if domain == "" {
		return Step{}, false
	}
	if !set {
		origin = "the machine's domain"
	}
	names := []string{"_x-puppet._tcp." + domain}
	if service != "puppet" {
		names = []string{"_x-puppet-" + service + "._tcp." + domain, names[0]}
	}
	step := Step{By: "srv", Names: names, Check: Connect, Origin: origin}
	if !s.version.sessions() {
		step.Check = Request
		step.Note = "for each request anew; only a refused or unreachable connection leads to the next target"
	}
	return step, true
}

// ownSetting is the server that a service falls back to.
func (s *settings) ownSetting(service string) (step Step, hostSet, portSet bool) {
	server, origin, hostSet := s.get("server", "puppet")
	step = Step{By: "server", Origin: origin, Last: true, Check: Connect}
	port := s.serverPort()
	if service == "ca" || service == "report" {
		if host, at, set := s.get(service+"_server", ""); set {
			server, step.By, step.Origin, hostSet = host, service+"_server", at, true
		} else {
			hostSet = false
		}
		port, portSet = s.port(service+"_port", port)
	}
	if !s.version.sessions() {
		step.Check = Request
	}
	step.Targets = []Target{{Host: server, Port: port}}
	return step, hostSet, portSet
}

// Failure is a way in which a server can be no good.
type Failure string

// The failures that agents tell apart.
const (
	Refused    Failure = "refused"    // nobody listens, or the machine cannot be reached
	Silent     Failure = "silent"     // packets vanish until http_connect_timeout
	Unresolved Failure = "unresolved" // the name has no address
	Mistrusted Failure = "mistrusted" // its certificate is for another name or of another CA
	Unready    Failure = "unready"    // it answers, but not well
)

// goesOn tells whether an agent tries the next target after a failure. Agents with sessions stop at a certificate that
// does not fit; those before pass over errors of the system only, but for their server_list, where any error leads on.
func (p *Plan) goesOn(step Step, f Failure) bool {
	if p.version.sessions() {
		return f != Mistrusted
	}
	return step.Check == Status || f == Refused
}

// Attempts are the contacts that an agent makes for a service while each fails in the same way, as far as targets are
// known: what it is asked by ("connect", "status" or "request"), and the server.
func (p *Plan) Attempts(service string, f Failure) []string {
	out := []string{}
	for _, s := range p.Services {
		if s.Name != service {
			continue
		}
		for _, step := range s.Steps {
			for _, t := range step.Targets {
				out = append(out, fmt.Sprintf("%s %s:%d", step.Check, t.Host, t.Port))
				if !p.goesOn(step, f) {
					return out
				}
			}
			if step.Last {
				break
			}
		}
	}
	return out
}

// usesSRV tells whether a plan has SRV names at all.
func (p *Plan) usesSRV() bool {
	return slices.ContainsFunc(p.Services, func(s Service) bool {
		return slices.ContainsFunc(s.Steps, func(st Step) bool { return st.By == "srv" })
	})
}

func either(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}
