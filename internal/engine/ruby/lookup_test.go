package ruby

import (
	"strings"
	"testing"

	"troupe/internal/engine"
	"troupe/internal/fault"
)

func TestALookupLeavesNothingToTheNextCatalog(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	q := r.request("web01.example.test")
	r.wake(q)
	before := r.compile(q)
	ask := engine.LookupRequest{Node: q, Keys: []string{"fixture::limits"}, Options: engine.LookupOptions{RenderAs: "json"}}
	found, err := r.Lookup(t.Context(), ask)
	if err != nil || !found.Found || found.Output != `{"soft":10,"hard":20.5}`+"\n" {
		t.Fatalf("Lookup = %+v (%v), want the limits", found, err)
	}

	after := r.compile(q)
	if after.WorkerPID == before.WorkerPID {
		t.Errorf("worker %d compiles after a lookup, which left it without manifests", after.WorkerPID)
	}
	sameBytes(t, after.Catalog, before.Catalog)
}

func TestALookupThatFailsSaysWhyInPuppetsWords(t *testing.T) {
	r := newRig(t)
	ask := engine.LookupRequest{Node: r.request("web01.example.test"), Keys: []string{"fixture::limits"}, Options: engine.LookupOptions{Type: "Integer"}}
	_, err := r.Lookup(t.Context(), ask)
	if fault.KindOf(err) != fault.Failed || !strings.Contains(err.Error(), "Found value has wrong type, expects an Integer value, got Struct") {
		t.Errorf("Lookup: %v", err)
	}
	ask.Keys, ask.Options = []string{"nosuch"}, engine.LookupOptions{}
	if found, err := r.Lookup(t.Context(), ask); err != nil || found.Found || found.Output != "" {
		t.Errorf("Lookup = %+v (%v), want nothing found, and no error", found, err)
	}
}
