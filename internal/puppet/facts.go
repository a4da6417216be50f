package puppet

import (
	"bytes"
	"encoding/json"
	"time"

	"troupe/internal/fault"
)

// This file reads the facts of a node.

// Facts are what a node says about itself. Values is the JSON object as the
// agent sent it, in its order.
type Facts struct {
	Certname    Certname
	Environment Environment // "" when the sender did not say
	Timestamp   time.Time   // when the node collected them; zero when it did not say
	Values      json.RawMessage
}

// DecodeFacts reads the body of a facts upload, or the facts in a request for a
// catalog, in the given content type (lib/puppet/node/facts.rb, from_data_hash).
func DecodeFacts(contentType string, body []byte) (Facts, error) {
	b, err := ToJSON(contentType, body)
	if err != nil {
		return Facts{}, err
	}
	var wire struct {
		Name      string          `json:"name"`
		Values    json.RawMessage `json:"values"`
		Timestamp wireTime        `json:"timestamp"`
	}
	if err := json.Unmarshal(b, &wire); err != nil {
		return Facts{}, fault.Wrap(fault.Invalid, err, "Could not intern from json: %s", err)
	}
	name, err := ParseCertname(wire.Name)
	if err != nil {
		return Facts{}, err
	}
	values := bytes.TrimSpace(wire.Values)
	if len(values) == 0 || values[0] != '{' {
		return Facts{}, fault.New(fault.Invalid, "Could not intern from json: the facts of %s have no hash of values", name)
	}
	return Facts{Certname: name, Timestamp: time.Time(wire.Timestamp), Values: values}, nil
}

// EncodeFacts gives facts the form in which an agent would send them.
func EncodeFacts(f Facts) ([]byte, error) {
	wire := struct {
		Name      Certname        `json:"name"`
		Values    json.RawMessage `json:"values"`
		Timestamp string          `json:"timestamp,omitempty"`
	}{Name: f.Certname, Values: f.Values}
	if !f.Timestamp.IsZero() {
		wire.Timestamp = f.Timestamp.Format(time.RFC3339Nano)
	}
	return json.Marshal(wire)
}

// wireTime is a time as agents write it: ISO 8601 with nine digits, or, from
// YAML-minded senders, with spaces. null and "" are the zero time.
type wireTime time.Time

// UnmarshalJSON reads any of the forms.
func (t *wireTime) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == nil || *s == "" {
		*t = wireTime{}
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999 -07:00", "2006-01-02 15:04:05.999999999 -0700", time.RubyDate, time.RFC1123Z} {
		if v, err := time.Parse(layout, *s); err == nil {
			*t = wireTime(v.UTC())
			return nil
		}
	}
	return fault.New(fault.Invalid, "%q is not a time", *s)
}
