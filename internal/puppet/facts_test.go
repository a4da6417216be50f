package puppet

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
)

func TestFactsAreReadInAllForms(t *testing.T) {
	const values = `{"zfs":false,"os":{"family":"Debian"},"a":1.5}`
	const body = `{"name":"n1.example.test","values":` + values + `,"timestamp":"2026-11-20T08:17:43.123456789+01:00","expiration":"2026-11-20T08:47:43.123456789+01:00"}`
	packed, err := JSONToMsgpack([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{
		Certname:  "n1.example.test",
		Timestamp: time.Date(2026, 11, 20, 7, 17, 43, 123456789, time.UTC),
		Values:    json.RawMessage(values),
	}
	for kind, in := range map[string][]byte{
		TypeJSON: []byte(body), TypePSON: []byte(body), "pson": []byte(body), TypeMsgpack: packed,
	} {
		got, err := DecodeFacts(kind, in)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", kind, diff)
		}
	}
}

func TestFactsGoOutAsTheyCame(t *testing.T) {
	want := Facts{Certname: "n1", Timestamp: time.Date(2026, 11, 20, 7, 17, 43, 5, time.UTC), Values: json.RawMessage(`{"b":1,"a":2}`)}
	b, err := EncodeFacts(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeFacts(TypeJSON, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts differ (-want +got):\n%s", diff)
	}
}

func TestFactsWithoutASenseAreRefused(t *testing.T) {
	tests := map[string]string{
		"no name":           `{"values":{}}`,
		"a bad name":        `{"name":"../x","values":{}}`,
		"no values":         `{"name":"n1"}`,
		"values of a list":  `{"name":"n1","values":[]}`,
		"no object":         `[]`,
		"a time like no":    `{"name":"n1","values":{},"timestamp":"soon"}`,
		"a time that is no": `{"name":"n1","values":{},"timestamp":{}}`,
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeFacts(TypeJSON, []byte(body)); fault.KindOf(err) != fault.Invalid {
				t.Errorf("error = %v, want one of kind Invalid", err)
			}
		})
	}
}

func FuzzDecodeFacts(f *testing.F) {
	f.Add("application/json", []byte(`{"name":"n1","values":{"a":1},"timestamp":"2026-11-20T08:17:43.123456789+01:00"}`))
	f.Add("pson", []byte("{\"name\":\"n1\",\"values\":{\"a\":\"\xff\"}}"))
	f.Add("application/x-msgpack", []byte("\x82\xa4name\xa2n1\xa6values\x80"))
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		facts, err := DecodeFacts(kind, b)
		if err != nil {
			return
		}
		if !json.Valid(facts.Values) || !strings.HasPrefix(string(facts.Values), "{") {
			t.Fatalf("values are %q", facts.Values)
		}
		if _, err := ParseCertname(string(facts.Certname)); err != nil {
			t.Fatal(err)
		}
	})
}
