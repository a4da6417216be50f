package ruby

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"

	"troupe/internal/engine"
	"troupe/internal/puppet"
)

// This file gives listings and exported resources their outside form.

// classListing sorts files by path and gives the body the key order of the real
// server (class-info-from-jruby->class-info-for-json in its master_core.clj).
func classListing(e puppet.Environment, files json.RawMessage) (json.RawMessage, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(files, &entries); err != nil {
		return nil, fmt.Errorf("reading the listing of classes: %w", err)
	}
	paths := make(map[*json.RawMessage]string, len(entries))
	order := make([]*json.RawMessage, len(entries))
	for i := range entries {
		var entry struct{ Path string }
		if err := json.Unmarshal(entries[i], &entry); err != nil {
			return nil, fmt.Errorf("reading the listing of classes: %w", err)
		}
		order[i], paths[&entries[i]] = &entries[i], entry.Path
	}
	sort.SliceStable(order, func(i, j int) bool { return paths[order[i]] < paths[order[j]] })

	var out bytes.Buffer
	out.WriteString(`{"files":[`)
	for i, entry := range order {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(*entry)
	}
	fmt.Fprintf(&out, `],"name":%q}`, string(e))
	return out.Bytes(), nil
}

// exported names the node in each of its resources.
func (a answer) exported(q engine.Request) []puppet.Resource {
	for i := range a.Exported {
		a.Exported[i].Certname = q.Certname
	}
	return a.Exported
}
