package fakeagent

// This file asks for a catalog.

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// catalog is what an agent reads of one; everything else passes it by.
type catalog struct {
	Environment string          `json:"environment"`
	Version     json.RawMessage `json:"version"`
	CatalogUUID string          `json:"catalog_uuid"`
	CodeID      string          `json:"code_id"`
	Resources   []resource      `json:"resources"`
	// Metadata and RecursiveMetadata are inlined in static catalogs, by title, and by title and source.
	Metadata          map[string]metadata              `json:"metadata"`
	RecursiveMetadata map[string]map[string][]metadata `json:"recursive_metadata"`
}

// resource is one resource of a catalog.
type resource struct {
	Type       string                     `json:"type"`
	Title      string                     `json:"title"`
	File       string                     `json:"file"`
	Line       int                        `json:"line"`
	Tags       []string                   `json:"tags"`
	Parameters map[string]json.RawMessage `json:"parameters"`
}

// text returns a parameter that is a string, or the empty string.
func (r resource) text(name string) string {
	var s string
	if json.Unmarshal(r.Parameters[name], &s) != nil {
		return ""
	}
	return s
}

// sources returns the parameter source, which is a string or an array of strings.
func (r resource) sources() []string {
	var many []string
	if json.Unmarshal(r.Parameters["source"], &many) == nil {
		return many
	}
	if one := r.text("source"); one != "" {
		return []string{one}
	}
	return nil
}

// recursive reports whether `recurse` is set.
func (r resource) recursive() bool {
	var yes bool
	if json.Unmarshal(r.Parameters["recurse"], &yes) == nil {
		return yes
	}
	return r.text("recurse") == "remote"
}

// requestCatalog posts the facts. The facts are escaped once as a value of their own and once as a form field.
func (r *run) requestCatalog(ctx context.Context) (*catalog, error) {
	if err := r.session.routeTo(ctx, "puppet", r.trust); err != nil {
		return nil, err
	}
	d, environment := r.agent.dialect, pair{"environment", r.environment}
	format, facts := pair{"facts_format", "application/json"}, pair{"facts", escapeQuery(string(r.facts()))}
	form := []pair{
		format, facts, environment,
		{"configured_environment", r.agent.o.Environment},
		{"check_environment", "true"},
		{"transaction_uuid", r.uuid},
		{"job_uuid", ""},
		{"static_catalog", strconv.FormatBool(!r.agent.o.PlainCatalogs)},
		{"checksum_type", d.checksumTypes},
	}
	if d.legacy {
		form = []pair{
			environment, format, facts,
			{"transaction_uuid", r.uuid},
			{"static_catalog", strconv.FormatBool(!r.agent.o.PlainCatalogs)},
			{"checksum_type", d.checksumTypes},
			{"fail_on_404", "true"},
		}
	}

	answer, err := r.send(ctx, r.trust, request{
		kind: "catalog", method: http.MethodPost, accept: d.acceptCatalog, content: "application/x-www-form-urlencoded",
		target: escapePath(api+"/catalog/"+r.agent.certname) + "?" + encodePairs([]pair{environment}),
		body:   []byte(encodePairs(form)),
	}, nil)
	if err != nil {
		return nil, err
	}
	cat := new(catalog)
	return cat, decodeJSON(answer, cat)
}

// facts is the body of a fact upload; the server decides nothing by its times.
func (r *run) facts() []byte {
	now := time.Now().UTC()
	const layout = "2006-01-02T15:04:05.000000000+00:00"
	name, _ := json.Marshal(r.agent.certname) // a string always marshals
	body := `{"name":` + string(name) + `,"values":` + string(r.values) +
		`,"timestamp":"` + now.Format(layout) + `","expiration":"` + now.Add(30*time.Minute).Format(layout) + `"}`
	return []byte(body)
}
