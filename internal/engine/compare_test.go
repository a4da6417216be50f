package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const before = `{"tags":["a","b"],"name":"n","version":1,"code_id":"x","catalog_uuid":"u1","environment":"production",
"resources":[
 {"type":"Stage","title":"main","tags":["stage"]},
 {"type":"File","title":"/a","tags":["file","web"],"file":"/m/a.pp","line":3,"parameters":{"mode":"0644","content":{"b":1,"a":[1,2]}}},
 {"type":"File","title":"/b","tags":["file"]},
 {"type":"User","title":"gone","tags":["user"]}],
"edges":[{"source":"Stage[main]","target":"File[/a]"},{"source":"Stage[main]","target":"File[/b]"}],
"classes":["settings","web"],"metadata":{"/a":{"mode":420}}}`

func TestEqualCatalogsHaveNoDifferences(t *testing.T) {
	other := strings.NewReplacer(`"version":1`, `"version":"git 2"`, `"u1"`, `"u2"`, "\n", " ").Replace(before)
	got, err := Compare([]byte(before), []byte(other))
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestEachDifferenceIsNamed(t *testing.T) {
	for _, row := range []struct {
		name, from, to string
		want           []string
	}{
		{"key", `"code_id":"x"`, `"code_id":"y"`, []string{`key code_id: "x" became "y"`}},
		{"missing resource", ` {"type":"File","title":"/b","tags":["file"]},`, ``, []string{"File[/b]: missing"}},
		{"extra resource", ` {"type":"File","title":"/b"`, ` {"type":"Exec","title":"e"}, {"type":"File","title":"/b"`, []string{"Exec[e]: extra"}},
		{"renamed resource", `"gone"`, `"come"`, []string{"User[gone]: missing", "User[come]: extra"}},
		{"parameter", `"0644"`, `"0600"`, []string{`File[/a]: parameter mode: "0644" became "0600"`}},
		{"parameter added", `"mode":"0644"`, `"mode":"0644","owner":"root"`, []string{`File[/a]: parameter owner: only in the second: "root"`}},
		{"parameter gone", `"mode":"0644",`, ``, []string{`File[/a]: parameter mode: only in the first: "0644"`}},
		{"order inside a hash", `{"b":1,"a":[1,2]}`, `{"a":[1,2],"b":1}`, []string{`File[/a]: parameter content: {"b":1,"a":[1,2]} became {"a":[1,2],"b":1}`}},
		{"attribute", `"line":3`, `"line":4`, []string{`File[/a]: attribute line: 3 became 4`}},
		{"tag", `["file","web"]`, `["file","db"]`, []string{"File[/a]: tag: only in the first: web", "File[/a]: tag: only in the second: db"}},
		{"order of tags", `["file","web"]`, `["web","file"]`, []string{"File[/a]: tag order at 0: file became web"}},
		{"tag of the catalog", `"tags":["a","b"]`, `"tags":["a"]`, []string{"tag: only in the first: b"}},
		{"edge", `"target":"File[/b]"`, `"target":"User[gone]"`, []string{
			"edge: only in the first: Stage[main] -> File[/b]", "edge: only in the second: Stage[main] -> User[gone]",
		}},
		{"class", `["settings","web"]`, `["settings","web","web"]`, []string{"class: only in the second: web"}},
		{"order of classes", `["settings","web"]`, `["web","settings"]`, []string{"class order at 0: settings became web"}},
		{"metadata", `{"mode":420}`, `{"mode":384}`, []string{`metadata metadata of File[/a]: {"mode":420} became {"mode":384}`}},
		{
			"order of resources", ` {"type":"File","title":"/b","tags":["file"]},
 {"type":"User","title":"gone","tags":["user"]}]`, ` {"type":"User","title":"gone","tags":["user"]},
 {"type":"File","title":"/b","tags":["file"]}]`,
			[]string{"order of resources at 2: File[/b] became User[gone]"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			after := strings.Replace(before, row.from, row.to, 1)
			if after == before {
				t.Fatalf("%q is not in the catalog", row.from)
			}
			found, err := Compare([]byte(before), []byte(after))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range found {
				got = append(got, d.String())
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsNoCatalogIsAnError(t *testing.T) {
	for _, text := range []string{``, `[]`, `{"resources":1}`, `{"edges":{}}`, `{"tags":[1]}`, `{"metadata":[]}`} {
		if _, err := Compare([]byte(before), []byte(text)); err == nil || !strings.Contains(err.Error(), "second catalog") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add(before, `{}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		differences, err := Compare([]byte(a), []byte(b))
		if err == nil && a == b && len(differences) > 0 {
			t.Errorf("a catalog differs from itself: %v", differences)
		}
	})
}
