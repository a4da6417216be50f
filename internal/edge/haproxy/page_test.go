package haproxy_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"troupe/internal/config"
	"troupe/internal/edge/haproxy"
)

// pagePairs are the configurations of docs/edge.md: HAProxy's, with the edge's below it.
func pagePairs(t *testing.T) (pairs [][2]string) {
	t.Helper()
	page, err := os.ReadFile("../../../docs/edge.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("(?s)```haproxy\n(.*?)```.*?```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		pairs = append(pairs, [2]string{found[1], found[2]})
	}
	if len(pairs) == 0 {
		t.Fatal("docs/edge.md shows no configuration of HAProxy with an edge's below it")
	}
	return pairs
}

// TestThePageShowsWhatIsImported compares each configuration of the page with what becomes of HAProxy's above it.
func TestThePageShowsWhatIsImported(t *testing.T) {
	for _, pair := range pagePairs(t) {
		res, err := haproxy.Import("docs/edge.md", []byte(pair[0]), haproxy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		page, err := config.ParseEdge("docs/edge.md", []byte(pair[1]))
		if err != nil {
			t.Fatal(err)
		}
		got, gerr := yaml.Marshal(res.Edge)
		want, werr := yaml.Marshal(page)
		if diff := cmp.Diff(string(want), string(got)); diff != "" || gerr != nil || werr != nil {
			t.Errorf("-page +import (%v, %v):\n%s", gerr, werr, diff)
		}
	}
}

// TestThePagesConfigurationsAreGood reads every configuration of an edge on the page.
func TestThePagesConfigurationsAreGood(t *testing.T) {
	page, err := os.ReadFile("../../../docs/edge.md")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(all) < 4 {
		t.Fatalf("%d configurations, want 4 at least", len(all))
	}
	for _, one := range all {
		if _, err := config.ParseEdge("docs/edge.md", []byte(one[1])); err != nil {
			t.Errorf("%v in\n%s", err, one[1])
		}
	}
}
