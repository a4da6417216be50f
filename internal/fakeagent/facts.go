package fakeagent

// This file makes the facts of many nodes from those of one.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// FactsTemplate is the facts of one node with its name left open.
type FactsTemplate struct{ text []byte }

const (
	nameMark = "\x00name\x00" // cannot be in JSON text
	hostMark = "\x00host\x00"
)

// NewFactsTemplate reads an object of facts, or what `puppet facts show` and fact uploads have around it ("values").
// The facts that name a node (fqdn, hostname, clientcert, networking.fqdn …) will name the one that they are made for.
func NewFactsTemplate(text []byte) (FactsTemplate, error) {
	var facts map[string]any
	if err := json.Unmarshal(text, &facts); err != nil {
		return FactsTemplate{}, fmt.Errorf("not a JSON object of facts: %w", err)
	}
	if values, ok := facts["values"].(map[string]any); ok {
		facts = values
	}
	const name, host = "troupe-node-name", "troupe-node-host"
	facts["fqdn"], facts["hostname"], facts["clientcert"], facts["certname"] = name, host, name, name
	networking, ok := facts["networking"].(map[string]any)
	if !ok {
		networking = map[string]any{}
	}
	networking["fqdn"], networking["hostname"] = name, host
	facts["networking"] = networking
	out, err := json.Marshal(facts)
	if err != nil {
		return FactsTemplate{}, fmt.Errorf("encode facts: %w", err)
	}
	out = bytes.ReplaceAll(out, []byte(name), []byte(nameMark))
	return FactsTemplate{bytes.ReplaceAll(out, []byte(host), []byte(hostMark))}, nil
}

// For returns the facts of a node. They are made anew for each call.
func (f FactsTemplate) For(certname string) []byte {
	host, _, _ := strings.Cut(certname, ".")
	out := bytes.ReplaceAll(f.text, []byte(nameMark), []byte(certname))
	return bytes.ReplaceAll(out, []byte(hostMark), []byte(host))
}
