package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"troupe/internal/classifier"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file answers GET /puppet/v3/node/NAME: the agent asks in which
// environment it lives before it has facts to send.

func (a *API) getNode(w http.ResponseWriter, q *request) error {
	requested, err := q.environment()
	if err != nil {
		return err
	}
	name, err := q.certname()
	if err != nil {
		return err
	}
	f, err := q.accepted(dataFormats)
	if err != nil {
		return err
	}
	if _, err := a.code.Current(q.Context(), requested); err != nil {
		return err
	}

	node, err := a.nodes.Classify(q.Context(), name)
	if fault.KindOf(err) == fault.NotFound {
		return notFound(fmt.Sprintf("Could not find node %s", name))
	}
	if err != nil {
		return err
	}
	if node.Environment == "" {
		node.Environment = requested
	}
	facts, err := a.knownFacts(q.Context(), name)
	if err != nil {
		return err
	}
	body, err := renderNode(node, facts)
	if err != nil {
		return err
	}
	return write(w, q, f, body)
}

// knownFacts returns the stored facts of a node, or facts without values.
func (a *API) knownFacts(ctx context.Context, name puppet.Certname) (puppet.Facts, error) {
	facts, err := a.db.Facts(ctx, name)
	if fault.KindOf(err) == fault.NotFound {
		return puppet.Facts{Certname: name}, nil
	}
	return facts, err
}

// renderNode gives a node the form of lib/puppet/node.rb, to_data_hash: the
// parameters are the ENC's and then the facts that they do not name already.
func renderNode(n classifier.Node, facts puppet.Facts) ([]byte, error) {
	parameters, err := mergeObjects(n.Parameters, facts.Values, "environment")
	if err != nil {
		return nil, fmt.Errorf("merging facts of %s: %w", n.Certname, err)
	}
	wire := struct {
		Name        puppet.Certname    `json:"name"`
		Environment puppet.Environment `json:"environment"`
		Classes     json.RawMessage    `json:"classes,omitempty"`
		Parameters  json.RawMessage    `json:"parameters,omitempty"`
	}{n.Certname, n.Environment, n.Classes, parameters}
	if s := string(n.Classes); s == "[]" || s == "{}" {
		wire.Classes = nil
	}
	if string(parameters) == "{}" {
		wire.Parameters = nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err = e.Encode(wire)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// mergeObjects returns the members of first and then those of second that first
// lacks, in their order, without the member called leaveOut.
func mergeObjects(first, second json.RawMessage, leaveOut string) (json.RawMessage, error) {
	out, seen := []byte{'{'}, map[string]bool{leaveOut: true}
	for _, object := range []json.RawMessage{first, second} {
		if len(object) == 0 {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(object))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return nil, fmt.Errorf("not an object (%v): %w", t, err)
		}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			var v json.RawMessage
			if err := d.Decode(&v); err != nil {
				return nil, err
			}
			if name, _ := key.(string); !seen[name] {
				seen[name] = true
				if len(out) > 1 {
					out = append(out, ',')
				}
				k, err := json.Marshal(name)
				if err != nil {
					return nil, err
				}
				out = append(append(append(out, k...), ':'), v...)
			}
		}
	}
	return append(out, '}'), nil
}
