package puppet

import "encoding/json"

// This file defines a resource, the unit of a catalog.

// A Resource is one resource of a catalog, as exported resources are stored and
// collected.
type Resource struct {
	Type       string          `json:"type"`
	Title      string          `json:"title"`
	Exported   bool            `json:"exported,omitempty"`
	Virtual    bool            `json:"virtual,omitempty"`
	Tags       []string        `json:"tags,omitempty"`
	File       string          `json:"file,omitempty"`
	Line       int             `json:"line,omitempty"`
	Parameters json.RawMessage `json:"parameters,omitempty"` // an object; its order is the manifest's
	Certname   Certname        `json:"certname,omitempty"`   // the node whose catalog holds it
}
