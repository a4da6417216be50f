package puppet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// BenchmarkDecodeReport reads a report of 600 resources, as a large node sends.
func BenchmarkDecodeReport(b *testing.B) {
	var wire map[string]json.RawMessage
	if err := json.Unmarshal([]byte(format12), &wire); err != nil {
		b.Fatal(err)
	}
	var statuses map[string]json.RawMessage
	if err := json.Unmarshal(wire["resource_statuses"], &statuses); err != nil {
		b.Fatal(err)
	}
	one, many := statuses["File[/z]"], map[string]json.RawMessage{}
	for i := range 600 {
		many[fmt.Sprintf("File[/%d]", i)] = one
	}
	text, err := json.Marshal(many)
	if err != nil {
		b.Fatal(err)
	}
	body := bytes.Replace([]byte(format12), wire["resource_statuses"], text, 1)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := DecodeReport(TypeJSON, body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJSONToMsgpack packs the resources of a catalog.
func BenchmarkJSONToMsgpack(b *testing.B) {
	one := `{"type":"File","title":"/etc/x","tags":["file","class"],"line":3,"exported":false,"parameters":{"ensure":"file","mode":"0644"}}`
	body := []byte(`{"resources":[` + string(bytes.Repeat([]byte(one+","), 3000)) + one + `]}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := JSONToMsgpack(body); err != nil {
			b.Fatal(err)
		}
	}
}
