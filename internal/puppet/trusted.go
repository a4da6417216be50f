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
	var authenticated any = false
	if t.Authenticated != "" {
		authenticated = t.Authenticated
	}
	extensions := t.Extensions
	if extensions == nil {
		extensions = map[string]string{}
	}
	var domain any
	if t.Domain != "" {
		domain = t.Domain
	}
	external := t.External
	if external == nil {
		external = json.RawMessage("{}")
	}
	return json.Marshal(struct {
		Authenticated any               `json:"authenticated"`
		Certname      Certname          `json:"certname"`
		Extensions    map[string]string `json:"extensions"`
		Hostname      string            `json:"hostname"`
		Domain        any               `json:"domain"`
		External      json.RawMessage   `json:"external"`
	}{authenticated, t.Certname, extensions, t.Hostname, domain, external})
}
