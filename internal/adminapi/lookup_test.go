package adminapi_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/adminapi"
	"troupe/internal/engine"
	"troupe/internal/fault"
)

func TestLookupTakesGivenFactsBesideTheStoredOnes(t *testing.T) {
	p := serve(t)
	p.saveFacts(t, "web1.example.test", `{"kernel":"Linux","role":"stored"}`)
	ask := adminapi.LookupRequest{
		CompileRequest: adminapi.CompileRequest{Certname: "web1.example.test", Environment: "testing", Facts: []byte(`{"role":"given"}`)},
		Keys:           []string{"motd"}, Options: engine.LookupOptions{Merge: "deep"},
	}
	res, err := p.client.Lookup(t.Context(), ask)
	if err != nil || res.Output != "--- found\n" || !res.Found || res.Environment != "testing" || res.CodeID == "" {
		t.Fatalf("Lookup = %+v (%v), want what the engine found, in testing", res, err)
	}
	if diff := cmp.Diff(`{"kernel":"Linux","role":"given"}`, string(p.engine.asked.Facts.Values)); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(engine.LookupOptions{Merge: "deep"}, p.engine.lookup.Options); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}

	ask.Facts = []byte(`{"hostname":"other"}`)
	if _, err := p.client.Lookup(t.Context(), ask); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "all or none") {
		t.Errorf("half of an identity among the facts: %v, want it refused", err)
	}
	ask.Certname, ask.Facts = "unknown.example.test", nil
	if _, err := p.client.Lookup(t.Context(), ask); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a node without facts: %v, want not found", err)
	}
}
