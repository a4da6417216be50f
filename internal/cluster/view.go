package cluster

// This file is what members and edges say to each other.

const (
	// EdgePath is below what the member port has for edges.
	EdgePath = "/edge/v1"
	// EdgeAgents is below what an edge sends the requests of agents.
	EdgeAgents = EdgePath + "/agents"
)

// A View is what an edge must know of its troupe.
type View struct {
	Peers  []ViewPeer `json:"peers"`
	Trust  string     `json:"trust"` // changes when the CA bundle or a revocation list does
	Edges  []string   `json:"edges"`
	Member string     `json:"member"` // who says so
}

// A ViewPeer is a member with how it did when it was heard of last.
type ViewPeer struct {
	Peer

	State   string `json:"state"` // running, starting, stopping, or unheard
	Problem string `json:"problem,omitempty"`
	Workers int    `json:"workers"`
	Busy    int    `json:"busy"`
	Waiting int    `json:"waiting"`
}

// A Trust is whom an edge lets in.
type Trust struct {
	Bundle []byte `json:"bundle"` // PEM
	CRLs   []byte `json:"crls"`   // PEM
	Sum    string `json:"sum"`
}

// A Certified is a new certificate: DER of one for members, PEM with what belongs above it of one for agents.
type Certified struct {
	Certificate []byte `json:"certificate"`
}
