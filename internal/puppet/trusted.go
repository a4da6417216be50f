package puppet

import "encoding/json"

// This file defines $trusted, what a manifest may believe about a node.

// Trusted is $trusted: facts that come from the node's certificate, never from
// the node itself.
type Trusted struct {
	Authenticated string // "remote", "local", or "" for false
	Certname      Certname
	Extensions    map[string]string // by short name, else by dotted OID
	Hostname      string
	Domain        string
	External      json.RawMessage // an object; nil means none
}

// MarshalJSON gives the hash as manifests see it (lib/puppet/context/trusted_information.rb).
func (t Trusted) MarshalJSON() ([]byte, error) {
	orFalse := any(false)
	if t.Authenticated != "" {
		orFalse = t.Authenticated
	}
	wire := struct {
		Authenticated any               `json:"authenticated"`
		Certname      *string           `json:"certname"`
		Extensions    map[string]string `json:"extensions"`
		Hostname      *string           `json:"hostname"`
		Domain        *string           `json:"domain"`
		External      json.RawMessage   `json:"external"`
	}{orFalse, orNull(string(t.Certname)), t.Extensions, orNull(t.Hostname), orNull(t.Domain), t.External}
	if wire.Extensions == nil {
		wire.Extensions = map[string]string{}
	}
	if wire.External == nil {
		wire.External = json.RawMessage("{}")
	}
	return json.Marshal(wire)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
