package ruby

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/fault"
	"troupe/internal/store"
)

// This file tests what needs no Ruby: queries, paths, frames.

func TestQueriesOfExportedResourcesAreUnderstood(t *testing.T) {
	for _, row := range []struct {
		query  string
		want   store.ResourceQuery
		fields []string
	}{
		{`"resources { type = \"A\" and exported = true }"`, store.ResourceQuery{Type: "A"}, nil},
		{
			`"resources[certname,title]{exported=true and type='A::B' and parameters.port != 80 and title = \"say \\\"x\\\"\"}"`,
			store.ResourceQuery{Type: "A::B", Filter: json.RawMessage(`["and",["not",["=",["parameter","port"],80]],["=","title","say \"x\""]]`)},
			[]string{"certname", "title"},
		},
		{`["from","resources",["and",["=","type","A"],["=","exported",true]]]`, store.ResourceQuery{Type: "A"}, nil},
		{
			`["from","resources",["extract",["title"],["and",["=","type","A"],["and",["=","exported",true],["or",["=","tag","x"],["=","tag","y"]]]]]]`,
			store.ResourceQuery{Type: "A", Filter: json.RawMessage(`["and",["or",["=","tag","x"],["=","tag","y"]]]`)},
			[]string{"title"},
		},
	} {
		ast, err := parseQuery(json.RawMessage(row.query))
		if err != nil {
			t.Errorf("%s: %v", row.query, err)
			continue
		}
		fields, condition, err := splitQuery(ast)
		if err != nil {
			t.Errorf("%s: %v", row.query, err)
			continue
		}
		got, err := resourceQuery(condition)
		if err != nil {
			t.Errorf("%s: %v", row.query, err)
		}
		if diff := cmp.Diff(row.want, got, cmp.Transformer("filter", func(raw json.RawMessage) string { return string(raw) })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.query, diff)
		}
		if diff := cmp.Diff(row.fields, fields); diff != "" {
			t.Errorf("%s: fields (-want +got):\n%s", row.query, diff)
		}
	}
}

func TestOtherQueriesAreRefusedInWords(t *testing.T) {
	p := &Pool{}
	for query, want := range map[string]string{
		`"nodes { certname = \"x\" }"`:                           "entity nodes cannot be asked for",
		`"resources"`:                                            "another form",
		`"resources { type ~ \"x\" }"`:                           "more than comparisons",
		`"resources { type = \"A\" }"`:                           "needs type = … and exported = true",
		`"resources { type = \"A\" and exported = false }"`:      "only exported resources",
		`"resources { type = \"A\" or exported = true }"`:        "more than comparisons",
		`"resources[size] { type = \"A\" and exported = true }"`: `no field "size"`,
		`["from","facts",["=","name","x"]]`:                      "entity facts",
		`["from","resources",["=","type","A"],["limit",1]]`:      "only a condition",
		`[]`:   `does not begin with "from"`,
		`1`:    "neither text nor a list",
		`null`: "neither text nor a list",
	} {
		_, err := p.puppetdbQuery(t.Context(), json.RawMessage(query))
		if fault.KindOf(err) != fault.Unsupported || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%s: got %v, want it to contain %q", query, err, want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add(`"resources[a] { type = \"A\" and exported = true }"`)
	f.Add(`["from","resources",["extract",["title"],["and",["=","type","A"],["=","exported",true]]]]`)
	f.Fuzz(func(t *testing.T, query string) {
		p := &Pool{}
		if _, err := p.puppetdbQuery(t.Context(), json.RawMessage(query)); err != nil && fault.KindOf(err) == fault.Internal {
			t.Errorf("%q: %v has no words for the manifest's author", query, err)
		}
	})
}

func TestPathsOfASnapshotAreReplacedWhereTheyEnd(t *testing.T) {
	r := newRestorer([][2]string{{"/snap/1/production", "/etc/code/production"}, {"/snap/1", `/etc/"odd"`}})
	for text, want := range map[string]string{
		`{"file":"/snap/1/production/a.pp"}`: `{"file":"/etc/code/production/a.pp"}`,
		`"/snap/1/production"`:               `"/etc/code/production"`,
		`"/snap/1/production2/a"`:            `"/etc/\"odd\"/production2/a"`,
		`"/snap/11/production"`:              `"/snap/11/production"`,
		`nothing`:                            `nothing`,
		`/snap/1/production:/snap/1/modules`: `/etc/code/production:/etc/\"odd\"/modules`,
	} {
		if got := r.text(text); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}

func TestFramesAreReadWholeOrNotAtAll(t *testing.T) {
	var out bytes.Buffer
	if err := writeFrame(&out, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	head, body, err := readFrame(bytes.NewReader(whole))
	if err != nil || string(head) != `{"a":1}` || len(body) != 0 {
		t.Errorf("got %s, %s, %v", head, body, err)
	}
	for n := range whole {
		if _, _, err := readFrame(bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("%d bytes of %d were taken for a frame", n, len(whole))
		}
	}
	if _, _, err := readFrame(bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
		t.Errorf("the end gives %v, want EOF", err)
	}
	if _, _, err := readFrame(strings.NewReader("\xff\xff\xff\xff\x00\x00\x00\x00")); err == nil {
		t.Error("a frame of 4 GiB was begun")
	}
}
