package bgp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOptionsThatAreRefused names each mistake in words that say what to do.
func TestOptionsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := file("open", "word", 0o644)
	empty := file("empty", "\n", 0o600)
	long := file("long", strings.Repeat("x", 81), 0o600)
	fine := file("fine", "word\n", 0o600)
	base := func() Options {
		return Options{
			ASN: 65500, RouterID: netip.MustParseAddr("192.0.2.1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")},
			Neighbors: []Neighbor{{Address: netip.MustParseAddr("192.0.2.2"), ASN: 5408, PasswordFile: fine}},
			Serving:   func() (bool, string) { return true, "" },
		}
	}
	if _, err := New(base()); err != nil {
		t.Fatalf("good options: %v", err)
	}
	prefix := func(s string) func(*Options) {
		return func(o *Options) { o.Prefixes[0] = netip.MustParsePrefix(s) }
	}
	for want, change := range map[string]func(*Options){
		"nothing says whether the site serves":                func(o *Options) { o.Serving = nil },
		"0 prefixes":                                          func(o *Options) { o.Prefixes = nil },
		"only single addresses":                               prefix("198.51.100.0/24"),
		"never routed":                                        prefix("127.0.0.1/32"),
		"has no neighbor of its address family":               prefix("2001:db8::1/128"),
		"is there twice":                                      func(o *Options) { o.Prefixes = append(o.Prefixes, o.Prefixes[0]) },
		"neighbor 192.0.2.2 is there twice":                   func(o *Options) { o.Neighbors = append(o.Neighbors, o.Neighbors[0]) },
		"as 0 is no number":                                   func(o *Options) { o.ASN = 0 },
		"router_id is an IPv4 address":                        func(o *Options) { o.RouterID = netip.Addr{} },
		"router_id is the neighbor's address":                 func(o *Options) { o.RouterID = o.Neighbors[0].Address },
		"router_id 198.51.100.1 is a service address":         func(o *Options) { o.RouterID = o.Prefixes[0].Addr() },
		"there are 0 neighbors":                               func(o *Options) { o.Neighbors = nil },
		"as is missing":                                       func(o *Options) { o.Neighbors[0].ASN = 0 },
		"a session never uses a service address":              func(o *Options) { o.Neighbors[0].LocalAddress = o.Prefixes[0].Addr() },
		"of the other address family":                         func(o *Options) { o.Neighbors[0].LocalAddress = netip.MustParseAddr("2001:db8::1") },
		"passive needs local_address":                         func(o *Options) { o.Neighbors[0].Passive = true },
		"hold_time is 1s":                                     func(o *Options) { o.Neighbors[0].HoldTime = time.Second },
		"choose one of them":                                  func(o *Options) { o.Neighbors[0].Multihop, o.Neighbors[0].TTLSecurity = 2, true },
		"bfd over several hops":                               func(o *Options) { o.Neighbors[0].Multihop, o.Neighbors[0].BFD = 2, &BFD{} },
		"interval is 1ms":                                     func(o *Options) { o.Neighbors[0].BFD = &BFD{Interval: time.Millisecond} },
		"multiplier is 1;":                                    func(o *Options) { o.Neighbors[0].BFD = &BFD{Multiplier: 1} },
		"chmod 0600 " + open:                                  func(o *Options) { o.Neighbors[0].PasswordFile = open },
		"empty: the first line is the password":               func(o *Options) { o.Neighbors[0].PasswordFile = empty },
		"long: the first line is the password, 1 to 80 bytes": func(o *Options) { o.Neighbors[0].PasswordFile = long },
		"no such file":                                        func(o *Options) { o.Neighbors[0].PasswordFile = filepath.Join(dir, "none") },
		"min_flap is 1ms":                                     func(o *Options) { o.MinFlap = time.Millisecond },
		"grace is 2h0m0s":                                     func(o *Options) { o.Grace = 2 * time.Hour },
		`mode "shout"`:                                        func(o *Options) { o.Mode = "shout" },
		"neighbors belong to mode speak":                      func(o *Options) { o.Mode = ModeAddress },
		"mode file needs file":                                func(o *Options) { o.Mode, o.Neighbors = ModeFile, nil },
		"bird is the full path":                               func(o *Options) { o.Mode, o.Neighbors, o.File, o.Bird = ModeFile, nil, "/x", "y" },
		"mode file needs as": func(o *Options) {
			o.Mode, o.Neighbors, o.File, o.ASN, o.Prepend = ModeFile, nil, "/x", 0, 1
		},
	} {
		o := base()
		change(&o)
		_, err := New(o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New says %v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "xxxx") {
			t.Errorf("an error quotes a password: %v", err)
		}
	}
}

// TestNewLeavesTheOptionsOfItsCallerAlone holds that two speakers can be made of the same options.
func TestNewLeavesTheOptionsOfItsCallerAlone(t *testing.T) {
	o := Options{
		ASN: 65500, RouterID: netip.MustParseAddr("192.0.2.1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")},
		Neighbors: []Neighbor{{Address: netip.MustParseAddr("192.0.2.2"), ASN: 5408, BFD: &BFD{}}},
		Serving:   func() (bool, string) { return true, "" },
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if n := o.Neighbors[0]; n.Port != 0 || n.BFD.Interval != 0 {
		t.Errorf("the options changed: %+v", n)
	}
	if n := s.o.Neighbors[0]; n.Port != 179 || n.HoldTime != DefaultHoldTime || *n.BFD != (BFD{DefaultInterval, DefaultMultiplier}) || s.o.Prepend != DefaultPrepend {
		t.Errorf("the defaults are not there: %+v", n)
	}
}
