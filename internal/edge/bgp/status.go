package bgp

import (
	"net/netip"
	"slices"
	"time"
)

// This file is what an edge tells about its announcement.

// Status is what routers know, and why.
type Status struct {
	Mode    string    `json:"mode"`
	Phase   Phase     `json:"phase"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"` // why it is this phase
	Serving bool      `json:"serving"`
	Drain   bool      `json:"drain"`

	RouterID string `json:"router_id,omitempty"` // mode speak; no two edges may have the same

	Prefixes      []Route `json:"prefixes,omitempty"`
	Announcements uint64  `json:"announcements"` // more than one are flaps
	Withdrawals   uint64  `json:"withdrawals"`

	Neighbors []NeighborStatus `json:"neighbors,omitempty"`
	Alarms    []string         `json:"alarms,omitempty"` // with their remedies
}

// Route is a prefix as it is announced.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	Preference
}

// Preference is what routers choose by.
type Preference struct {
	Prepend     int      `json:"prepend,omitempty"` // times that our ASN is in the path more than once
	MED         uint32   `json:"med,omitempty"`
	Communities []string `json:"communities,omitempty"`
}

// GracefulShutdown is the community that tells routers to look for another way (RFC 8326).
const GracefulShutdown = "65535:0"

func (o *Options) preference(p Phase) Preference {
	switch p {
	case Joining:
		return Preference{Prepend: o.Prepend, MED: o.MED}
	case Leaving:
		return Preference{Prepend: o.Prepend, MED: o.MED, Communities: []string{GracefulShutdown}}
	case Silent, Announced:
	}
	return Preference{}
}

// NeighborStatus is one session.
type NeighborStatus struct {
	Address   netip.Addr `json:"address"`
	ASN       uint32     `json:"as"`
	State     string     `json:"state"` // idle, connect, active, opensent, openconfirm, established
	Since     time.Time  `json:"since"` // of being established, or not
	RouterID  string     `json:"router_id,omitempty"`
	BFD       string     `json:"bfd,omitempty"` // up, down, init, admin down; "" without BFD
	Sent      uint64     `json:"sent"`          // how many of our prefixes it has
	Received  uint64     `json:"received"`      // prefixes that it has sent; none is used
	Downs     uint64     `json:"downs"`         // how often an established session ended
	LastError string     `json:"last_error,omitempty"`
}

func (s Status) clone() Status {
	s.Prefixes, s.Neighbors, s.Alarms = slices.Clone(s.Prefixes), slices.Clone(s.Neighbors), slices.Clone(s.Alarms)
	return s
}

func (s Status) has(alarm string) bool { return slices.Contains(s.Alarms, alarm) }
