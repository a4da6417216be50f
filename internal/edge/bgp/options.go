package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// This file is what an operator chooses, and what is refused before anything is announced.

// The modes, by which routers are told.
const (
	ModeSpeak   = "speak"   // BGP sessions of our own
	ModeAddress = "address" // the addresses on an interface, from where the site's bird or FRR takes them
	ModeFile    = "file"    // a file for the site's bird, or for a script
)

// What holds where nothing is said.
const (
	DefaultUpAfter     = 5 * time.Second
	DefaultMinFlap     = 10 * time.Second
	DefaultHoldTime    = 9 * time.Second
	DefaultInterval    = 300 * time.Millisecond // of BFD
	DefaultMultiplier  = 3                      // of BFD
	DefaultMaxPrefixes = 10_000
	DefaultPrepend     = 3
	DefaultMED         = 100
)

// Options say what is announced, to whom and when.
type Options struct {
	Mode      string         // ModeSpeak if empty
	Prefixes  []netip.Prefix // service addresses: /32 and /128 only
	ASN       uint32         // ours; mode speak, and mode file for Prepend
	RouterID  netip.Addr     // an IPv4 address that no other router has; mode speak
	Neighbors []Neighbor     // mode speak
	Interface string         // mode address; lo if empty
	Lifetime  time.Duration  // mode address: the kernel removes an address that was not renewed for so long; 10 s if 0
	File      string         // mode file
	Bird      string         // mode file: control socket of a bird that is told to read its configuration again; "" tells nobody

	// While Joining and Leaving, routes have a longer path and a worse metric.
	Prepend int    // how often our ASN is put in front once more; 3 if both are 0 (mode file without ASN: MED 100)
	MED     uint32 // the metric; lower is better, and a normal announcement has none

	UpAfter   time.Duration // the site serves for so long before it is announced; 5 s if 0, negative is none
	DownAfter time.Duration // it is withdrawn when it has not served for so long; 0 is at once
	Rejoin    time.Duration // how long it is Joining; 0 is not at all
	MinFlap   time.Duration // from one announcement to the next; 10 s if 0
	Grace     time.Duration // how long it is Leaving before a planned withdrawal; 0 is not at all

	Serving    func() (ok bool, why string) // can the site finish a run; it answers at once
	Changed    func() <-chan struct{}       // closed when Serving may answer differently; nil: it is asked twice a second
	Alarms     func() []string              // that others have found; may be nil
	Ready      func()                       // called when the way has begun, or waits for the process before this one; may be nil
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // time.Now if nil
}

// A Neighbor is a router that is told.
type Neighbor struct {
	Address      netip.Addr
	ASN          uint32
	Port         uint16        // 179 if 0
	PasswordFile string        // its first line is the password for TCP MD5 (RFC 2385); mode 0600
	TTLSecurity  bool          // packets must come from the next hop (RFC 5082)
	Multihop     int           // how many hops away it may be; 0 and 1 are the next hop
	HoldTime     time.Duration // 9 s if 0
	Passive      bool          // it connects to us, at LocalAddress
	LocalAddress netip.Addr    // where we speak from
	BFD          *BFD          // nil is without
	Restart      time.Duration // it keeps what it was told for so long after a session broke, for a successor (RFC 4724); 0: it forgets at once
	MaxPrefixes  int           // more than so many routes of it end the session for a minute; 10,000 if 0
}

// BFD are the timers that find a dead path, Interval times Multiplier.
type BFD struct {
	Interval   time.Duration // 300 ms if 0
	Multiplier int           // 3 if 0
}

// Limits that are wide enough for a site and narrow enough for a slip of the pen.
const (
	maxPrefixes  = 64
	maxNeighbors = 32
	maxPrepend   = 16
	maxWait      = time.Hour
	maxRestart   = time.Minute
)

func orElse[T comparable](value, other T) T {
	var zero T
	if value == zero {
		return other
	}
	return value
}

func (o *Options) defaults() {
	o.Mode = orElse(o.Mode, ModeSpeak)
	o.Interface = orElse(o.Interface, "lo")
	o.Lifetime = orElse(o.Lifetime, 10*time.Second)
	if o.Prepend == 0 && o.MED == 0 {
		if o.Mode == ModeFile && o.ASN == 0 {
			o.MED = DefaultMED // the site's bird knows our ASN, we do not
		} else {
			o.Prepend = DefaultPrepend
		}
	}
	o.UpAfter = max(orElse(o.UpAfter, DefaultUpAfter), 0)
	o.MinFlap = orElse(o.MinFlap, DefaultMinFlap)
	if o.Alarms == nil {
		o.Alarms = func() []string { return nil }
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Prefixes = slices.Clone(o.Prefixes)
	o.Neighbors = slices.Clone(o.Neighbors)
	for i := range o.Neighbors {
		n := &o.Neighbors[i]
		n.Port = orElse(n.Port, 179)
		n.HoldTime = orElse(n.HoldTime, DefaultHoldTime)
		n.MaxPrefixes = orElse(n.MaxPrefixes, DefaultMaxPrefixes)
		if n.BFD != nil {
			n.BFD = &BFD{Interval: orElse(n.BFD.Interval, DefaultInterval), Multiplier: orElse(n.BFD.Multiplier, DefaultMultiplier)}
		}
	}
}

func (o *Options) timing() timing {
	return timing{upAfter: o.UpAfter, downAfter: o.DownAfter, rejoin: o.Rejoin, minFlap: o.MinFlap, grace: o.Grace}
}

// check finds all that is wrong.
func (o *Options) check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("bgp: "+format, args...)) }

	if o.Serving == nil {
		add("nothing says whether the site serves")
	}
	o.checkPrefixes(add)
	for _, t := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"up_after", o.UpAfter, 0},
		{"down_after", o.DownAfter, 0},
		{"rejoin", o.Rejoin, 0},
		{"min_flap", o.MinFlap, time.Second},
		{"grace", o.Grace, 0},
		{"lifetime", o.Lifetime, 3 * time.Second},
	} {
		if t.value < t.least || t.value > maxWait {
			add("%s is %v; it must be between %v and %v", t.name, t.value, t.least, maxWait)
		}
	}
	if o.Prepend < 0 || o.Prepend > maxPrepend {
		add("prepend is %d; it must be between 0 and %d", o.Prepend, maxPrepend)
	}
	switch o.Mode {
	case ModeSpeak:
		o.checkSpeak(add)
	case ModeAddress:
		if len(o.Interface) > 15 {
			add("interface %q: names of interfaces have at most 15 characters", o.Interface)
		}
	case ModeFile:
		if !filepath.IsAbs(o.File) {
			add("mode file needs file, the full path of the file to write")
		}
		if o.Bird != "" && !filepath.IsAbs(o.Bird) {
			add("bird is the full path of its control socket, such as /run/bird/bird.ctl")
		}
		if o.Prepend > 0 && o.ASN == 0 {
			add("mode file needs as for prepend; or say med, and no prepend")
		}
	default:
		add("mode %q is not one of %s, %s, %s", o.Mode, ModeSpeak, ModeAddress, ModeFile)
	}
	if o.Mode != ModeSpeak && len(o.Neighbors) > 0 {
		add("neighbors belong to mode %s; in mode %s the site's own bird or FRR speaks to them", ModeSpeak, o.Mode)
	}
	return errors.Join(errs...)
}

func (o *Options) checkPrefixes(add func(string, ...any)) {
	if len(o.Prefixes) == 0 || len(o.Prefixes) > maxPrefixes {
		add("there are %d prefixes; an edge announces 1 to %d", len(o.Prefixes), maxPrefixes)
	}
	for i, p := range o.Prefixes {
		a := p.Addr()
		switch {
		case !p.IsValid() || p.Bits() != a.BitLen():
			add("prefix %v: only single addresses are announced, IPv4/32 and IPv6/128", p)
		case a.Is4In6() || a.Zone() != "":
			add("prefix %v: write the address plainly", p)
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
			add("prefix %v: this address is never routed", p)
		case slices.Contains(o.Prefixes[:i], p):
			add("prefix %v is there twice", p)
		}
	}
}

func (o *Options) checkSpeak(add func(string, ...any)) {
	if o.ASN == 0 || o.ASN == 23456 || o.ASN == 65535 || o.ASN == 4294967295 {
		add("as %d is no number of an autonomous system that may be used; private ones are 64512 to 65534", o.ASN)
	}
	if !o.RouterID.Is4() || o.RouterID.IsUnspecified() {
		add("router_id is an IPv4 address of this machine that no other router uses as its own; it is %v", o.RouterID)
	}
	if len(o.Neighbors) == 0 || len(o.Neighbors) > maxNeighbors {
		add("there are %d neighbors; mode speak needs 1 to %d", len(o.Neighbors), maxNeighbors)
	}
	for _, p := range o.Prefixes {
		if o.RouterID == p.Addr() {
			add("router_id %v is a service address: other edges have it too, and routers take them for one", o.RouterID)
		}
		if !slices.ContainsFunc(o.Neighbors, func(n Neighbor) bool { return n.Address.Is4() == p.Addr().Is4() }) {
			add("prefix %v has no neighbor of its address family, so nobody would be told", p)
		}
	}
	for i, n := range o.Neighbors {
		if slices.ContainsFunc(o.Neighbors[:i], func(m Neighbor) bool { return m.Address == n.Address }) {
			add("neighbor %v is there twice", n.Address)
		}
		if i := slices.IndexFunc(o.Neighbors, func(m Neighbor) bool { return m.Passive && n.Passive && m.Port != n.Port }); i >= 0 {
			add("neighbors %v and %v are passive with different ports: all of them connect to the same port here", o.Neighbors[i].Address, n.Address)
		}
		o.checkNeighbor(n, add)
	}
}

func (o *Options) checkNeighbor(n Neighbor, add func(string, ...any)) {
	bad := func(format string, args ...any) {
		add("neighbor %v: "+format, append([]any{n.Address}, args...)...)
	}
	if !n.Address.IsValid() || n.Address.IsUnspecified() || n.Address.IsMulticast() || n.Address.Is4In6() {
		bad("this is no address of a router")
	}
	if n.ASN == 0 {
		bad("as is missing")
	}
	if n.Address == o.RouterID {
		bad("router_id is the neighbor's address; use one of this machine")
	}
	if n.Address == n.LocalAddress {
		bad("local_address is the neighbor's own")
	}
	if slices.ContainsFunc(o.Prefixes, func(p netip.Prefix) bool { return p.Addr() == n.Address || p.Addr() == n.LocalAddress }) {
		bad("a session never uses a service address: other edges have it too")
	}
	if n.LocalAddress.IsValid() && n.LocalAddress.Is4() != n.Address.Is4() {
		bad("local_address %v is of the other address family", n.LocalAddress)
	}
	if n.Passive && !n.LocalAddress.IsValid() {
		bad("passive needs local_address, where the neighbor connects to")
	}
	if n.HoldTime < 3*time.Second || n.HoldTime > 65535*time.Second || n.HoldTime%time.Second != 0 {
		bad("hold_time is %v; it is in whole seconds, from 3s", n.HoldTime)
	}
	if n.Multihop < 0 || n.Multihop > 255 {
		bad("multihop is %d; it must be between 0 and 255", n.Multihop)
	}
	if n.Multihop > 1 && n.TTLSecurity {
		bad("ttl_security wants the next hop, multihop another one: choose one of them")
	}
	if n.Multihop > 1 && n.BFD != nil {
		bad("bfd over several hops is not spoken here; have the site's bird or FRR do it (mode address)")
	}
	if n.Restart != 0 && (n.Restart < time.Second || n.Restart > maxRestart || n.Restart%time.Second != 0) {
		bad("graceful_restart is %v; it must be whole seconds from 1s to %v, for which agents are sent to an edge that has died", n.Restart, maxRestart)
	}
	if n.Restart != 0 && n.BFD != nil {
		bad("graceful_restart and bfd contradict each other: BFD ends with the process, and the neighbor forgets. To keep both through a takeover, use mode address")
	}
	if n.MaxPrefixes < 0 || n.MaxPrefixes > 1<<24 {
		bad("max_prefixes is %d; it must be between 1 and %d", n.MaxPrefixes, 1<<24)
	}
	if n.BFD != nil {
		if n.BFD.Interval < 50*time.Millisecond || n.BFD.Interval > time.Minute {
			bad("bfd: interval is %v; it must be between 50ms and 1m", n.BFD.Interval)
		}
		if n.BFD.Multiplier < 2 || n.BFD.Multiplier > 20 {
			bad("bfd: multiplier is %d; it must be between 2 and 20", n.BFD.Multiplier)
		}
	}
	if n.PasswordFile != "" {
		if _, err := password(n.PasswordFile); err != nil {
			bad("%w", err)
		}
	}
}
