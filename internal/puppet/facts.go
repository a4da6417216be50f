package puppet

import (
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
	b, err := inJSON(contentType, body)
	if err != nil {
		return Facts{}, err
	}
	var name string
	var facts Facts
	if err := scan(b, func(s *scanner) error {
		return s.members(func(member []byte) (err error) {
			switch string(member) {
			case "name":
				name, err = s.str()
			case "values":
				facts.Values, err = s.raw()
			case "timestamp":
				facts.Timestamp, err = s.time()
			default:
				err = s.skip()
			}
			return err
		})
	}); err != nil {
		return Facts{}, notInterned(err)
	}
	if facts.Certname, err = ParseCertname(name); err != nil {
		return Facts{}, err
	}
	if len(facts.Values) == 0 || facts.Values[0] != '{' {
		return Facts{}, fault.New(fault.Invalid, "Could not intern from json: the facts of %s have no hash of values", name)
	}
	return facts, nil
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

// time reads a time as agents write it: ISO 8601 with nine digits, or, from
// YAML-minded senders, with spaces. null and "" are the zero time.
func (s *scanner) time() (time.Time, error) {
	text, err := s.str()
	if err != nil || text == "" {
		return time.Time{}, err
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999 -07:00", "2006-01-02 15:04:05.999999999 -0700", time.RubyDate, time.RFC1123Z} {
		if v, err := time.Parse(layout, text); err == nil {
			return v.UTC(), nil
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "%q is not a time", text)
}
