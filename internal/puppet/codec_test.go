package puppet

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
)

func TestMsgpackAndJSONSayTheSame(t *testing.T) {
	tests := []struct {
		name, json string
		msgpack    []byte
	}{
		{"null", `null`, []byte{0xc0}},
		{"booleans", `[true,false]`, []byte{0x92, 0xc3, 0xc2}},
		{"small numbers", `[0,127,-1,-32]`, []byte{0x94, 0x00, 0x7f, 0xff, 0xe0}},
		{"larger numbers", `[128,-33,65536]`, []byte{0x93, 0xcc, 0x80, 0xd0, 0xdf, 0xce, 0, 1, 0, 0}},
		{"the largest", `18446744073709551615`, []byte{0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{"a float that is whole", `1.0`, []byte{0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0}},
		{"keys keep their order", `{"b":1,"a":2}`, []byte{0x82, 0xa1, 'b', 0x01, 0xa1, 'a', 0x02}},
		{"empty", `{"a":[],"b":{}}`, []byte{0x82, 0xa1, 'a', 0x90, 0xa1, 'b', 0x80}},
		{"signs of HTML", `"<a&b>"`, []byte("\xa5<a&b>")},
		{"quotes and control characters", `"a\"\\\n\u0000"`, []byte("\xa5a\"\\\n\x00")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := JSONToMsgpack([]byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.msgpack, got); diff != "" {
				t.Errorf("MessagePack differs (-want +got):\n%s", diff)
			}
			back, err := MsgpackToJSON(tt.msgpack)
			if err != nil {
				t.Fatal(err)
			}
			if string(back) != tt.json {
				t.Errorf("JSON = %s, want %s", back, tt.json)
			}
		})
	}
}

func TestLongMsgpackHeadsAreInTheirPlace(t *testing.T) {
	long := `{"list":[` + strings.Repeat(`"x",`, 70_000) + `"y"],"text":"` + strings.Repeat("z", 300) + `"}`
	packed, err := JSONToMsgpack([]byte(long))
	if err != nil {
		t.Fatal(err)
	}
	back, err := MsgpackToJSON(packed)
	if err != nil {
		t.Fatal(err)
	}
	if string(back) != long {
		t.Error("an array of 70,001 strings does not come back as it was")
	}
}

func TestMsgpackOnlyFormsFindAPlaceInJSON(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"a number as a key", []byte{0x81, 0x05, 0xc0}, `{"5":null}`},
		{"raw bytes", []byte{0xc4, 0x02, 0xff, 'a'}, `"` + "\ufffd" + `a"`},
		{"a single-precision float", []byte{0xca, 0x3f, 0, 0, 0}, `0.5`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MsgpackToJSON(tt.in)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestBadMsgpackIsRefused(t *testing.T) {
	tests := map[string][]byte{
		"nothing":                  {},
		"cut off":                  {0x92, 0x01},
		"a length that is a lie":   {0xdb, 0xff, 0xff, 0xff, 0xff, 'a'},
		"a count that is a lie":    {0xdd, 0xff, 0xff, 0xff, 0xff, 0x01},
		"something after the end":  {0x01, 0x02},
		"an extension type":        {0xd4, 0x01, 0x00},
		"an unused code":           {0xc1},
		"not a number":             {0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 1},
		"a map as a key":           {0x81, 0x80, 0x01},
		"nesting without end":      bytes.Repeat([]byte{0x91}, 100_000),
		"nesting of maps in a key": bytes.Repeat([]byte{0x81}, 100_000),
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := MsgpackToJSON(in); err == nil {
				t.Errorf("got %s, want an error", got)
			}
		})
	}
}

func TestPSONBecomesJSON(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", `{"b":1,"a":[true]}`, `{"b":1,"a":[true]}`},
		{"raw bytes", "{\"a\":\"\xff\xfeé\"}", "{\"a\":\"\ufffd\ufffdé\"}"},
		{"a needless backslash", `{"a":"\q\/\n"}`, `{"a":"q\/\n"}`},
		{"control characters", "{\"a\":\"\t\"}", `{"a":"\u0009"}`},
		{"comments", "{/* one */\"a\"://two\n1}", "{ \"a\": \n1}"},
		{"slashes in strings are no comments", `{"a":"//b"}`, `{"a":"//b"}`},
		{"an envelope", `{"document_type":"Facts","data":{"name":"x"},"metadata":{}}`, `{"name":"x"}`},
		{"data that is no envelope", `{"data":{"name":"x"}}`, `{"data":{"name":"x"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := PSONToJSON([]byte(tt.in))
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestBadBodiesAreFaultsOfTheirKind(t *testing.T) {
	tests := []struct {
		name, contentType, body string
		want                    fault.Kind
	}{
		{"JSON cut off", TypeJSON, `{"a":`, fault.Invalid},
		{"JSON and more", TypeJSON, `{} {}`, fault.Invalid},
		{"JSON too deep", TypeJSON, strings.Repeat("[", 1000) + strings.Repeat("]", 1000), fault.Invalid},
		{"PSON without an end", TypePSON, `{"a`, fault.Invalid},
		{"PSON with a stray slash", TypePSON, `{/}`, fault.Invalid},
		{"PSON comment without an end", TypePSON, `/* `, fault.Invalid},
		{"MessagePack cut off", TypeMsgpack, "\x92", fault.Invalid},
		{"YAML", "application/x-yaml", "--- {}", fault.Unsupported},
		{"nothing said", "", "{}", fault.Unsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ToJSON(tt.contentType, []byte(tt.body))
			if fault.KindOf(err) != tt.want || err == nil {
				t.Errorf("error = %v, want kind %v", err, tt.want)
			}
		})
	}
	if _, err := ToJSON("Application/JSON; charset=utf-8", []byte("{}")); err != nil {
		t.Errorf("parameters and case of a content type matter: %v", err)
	}
}

func FuzzMsgpackToJSON(f *testing.F) {
	f.Add([]byte{0x82, 0xa1, 'b', 0x01, 0xa1, 'a', 0x92, 0xc3, 0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := MsgpackToJSON(b)
		if err != nil {
			return
		}
		if !json.Valid(j) {
			t.Fatalf("%x became %q, which is no JSON", b, j)
		}
		again, err := JSONToMsgpack(j)
		if err != nil {
			t.Fatalf("%s does not go back: %v", j, err)
		}
		j2, err := MsgpackToJSON(again)
		if err != nil || !bytes.Equal(j, j2) {
			t.Fatalf("%s came back as %s (%v)", j, j2, err)
		}
	})
}

func FuzzPSONToJSON(f *testing.F) {
	f.Add([]byte("{/* c */\"a\":\"\xff\\q\"}"))
	f.Add([]byte(`{"document_type":"Facts","data":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := PSONToJSON(b)
		if err == nil && !json.Valid(j) {
			t.Fatalf("%q became %q, which is no JSON", b, j)
		}
	})
}
