package ruby

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file warms zygotes, with those who wait for them and with known nodes.

// ofOneCompile is what differs between two catalogs of the same request.
var ofOneCompile = regexp.MustCompile(`"(version|catalog_uuid)":("[^"]*"|\d+)`)

func TestTheRequestThatStartsAZygoteIsCompiledOnce(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	first, second := r.wake(r.request("db01.example.test")), r.compile(r.request("db01.example.test"))
	z := r.Stats().Zygotes
	if len(z) != 1 || first.WorkerPID != z[0].PID || z[0].Warmed != 1 {
		t.Errorf("process %d compiled first, want the zygote, of %+v", first.WorkerPID, z)
	}
	if second.WorkerPID == first.WorkerPID {
		t.Error("the zygote compiled the second too, want a worker")
	}
	if diff := cmp.Diff(ofOneCompile.ReplaceAllString(string(second.Catalog), ""), ofOneCompile.ReplaceAllString(string(first.Catalog), "")); diff != "" {
		t.Errorf("the zygote's catalog is another than the worker's (-worker +zygote):\n%s", diff)
	}
	if diff := cmp.Diff(second.Exported, first.Exported); diff != "" {
		t.Errorf("the zygote's exported resources are others than the worker's (-worker +zygote):\n%s", diff)
	}
	if first.Timings["total"] < first.Timings["evaluate"] || first.Timings["queue"] < 0 {
		t.Errorf("timings are %v", first.Timings)
	}
}

func TestAZygoteThatItsFirstRequestRuinsIsReplacedAndTheTroubleTold(t *testing.T) {
	for _, row := range []struct{ kind, want string }{
		{"exit!", "ended itself with exit status 4"},
		{"exit", "called exit(3) while the catalog was compiled"},
		{"kill", "ended by signal 9"},
		{"memory", "needed more than 256 MiB of memory"},
		{"ruby", "undefined method `no_such_method' for nil:NilClass"},
	} {
		t.Run(row.kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.MaxMemory = 128 << 20 })
			_, err := r.Compile(t.Context(), r.trouble(row.kind))
			if fault.KindOf(err) != fault.Failed || !strings.Contains(compileError(t, err).Msg, row.want) {
				t.Errorf("got %v, want a fault with %q", err, row.want)
			}
			r.compile(r.request("db01.example.test"))
			eventually(t, "nothing of the ruined zygote is left", func() bool { return len(r.processes()) <= 4 })
		})
	}
}

func TestRequestsThatComeWhileAZygoteWarmsAreAllAnswered(t *testing.T) {
	r := newRig(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	pids := map[int]int{}
	for i := range 8 {
		all.Go(func() {
			result, err := r.Compile(t.Context(), r.request(puppet.Certname(fmt.Sprintf("db%02d.example.test", i))))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			pids[result.WorkerPID]++
		})
	}
	all.Wait()
	z := r.Stats().Zygotes
	if len(z) != 1 || pids[z[0].PID] < 1 || pids[z[0].PID] > enough {
		t.Errorf("compiles by process were %v of zygotes %+v, want 1 to %d by the only zygote", pids, z, enough)
	}
}

func TestAManifestThatCannotBeTakenInFailsAlikeEachTime(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	r.edit(site, "node default {", "node /^(odd|none)/ {\n  include odd::part\n}\n\nnode default {")
	for name, text := range map[string]string{
		"init.pp": "class odd (No::Such $a = 1) { }", "part.pp": "class odd::part { }",
	} {
		path := filepath.Join(r.root, "environments/production/modules/odd/manifests", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const want = "Resource type not found: No::Such "
	for i, by := range []string{"the zygote", "a worker", "a worker once more"} {
		if got := r.failureOf(fmt.Sprintf("odd%d", i)); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", by, got, want)
		}
	}
	r.compile(r.request("db01.example.test"))
}

func TestACompileInAZygoteOutlivesItsRequestAndTheEndOfThePool(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Deadline = 3 * time.Second })
	done := make(chan error, 1)
	go func() {
		_, err := r.Compile(t.Context(), r.trouble("sleep"))
		done <- err
	}()
	eventually(t, "the zygote compiles", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, z := range r.zygotes {
			return len(z.offers) == 0 // the zygote has taken the only one
		}
		return false
	})
	r.stop()
	if err := <-done; err == nil {
		t.Error("a compile that never ends has a catalog")
	}
	if left := r.processes(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestANewVersionIsWarmedWithOneNodeOfEachRole(t *testing.T) {
	v := &code.Version{Environment: "production"}
	all := newRecent(3)
	for i, role := range []string{"web", "db", "web", "web", "mail", "cache", "web"} {
		all.add(engine.Request{Version: v, Certname: puppet.Certname(fmt.Sprintf("node%d", i))}, role)
	}
	all.add(engine.Request{Version: v, Certname: "node4"}, "mail2") // it changed its role
	var got []puppet.Certname
	for _, q := range all.newest("production") {
		got = append(got, q.Certname)
	}
	if diff := cmp.Diff([]puppet.Certname{"node4", "node6", "node5"}, got); diff != "" {
		t.Errorf("nodes to warm with differ (-want +got):\n%s", diff)
	}
}

func TestNodesWithTheSameClassesAreOneRole(t *testing.T) {
	r := newRig(t)
	for _, name := range []puppet.Certname{"db01.example.test", "db02.example.test", "db03.example.test"} {
		r.compile(r.request(name))
	}
	r.compile(r.request("db04.example.test", func(q *engine.Request) { q.Classes = json.RawMessage(`["fixture::classified"]`) }))
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []puppet.Certname
	for _, q := range r.recent.newest("production") {
		got = append(got, q.Certname)
	}
	if diff := cmp.Diff([]puppet.Certname{"db04.example.test", "db03.example.test"}, got); diff != "" {
		t.Errorf("nodes to warm with differ (-want +got):\n%s", diff)
	}
}

func TestNothingThatOneNodeKnowsIsFoundByAnother(t *testing.T) {
	// In parts, so that the manifest that looks for it does not hold it.
	const secret = "tr0upe-" + "s3cret"
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	r.edit("environments/production/manifests/site.pp", "node 'broken.example.test'", `node 'keeper.example.test' {
  notify { 'parameter': message => Sensitive($from_enc) }
  notify { 'inline': message => inline_template('<%= @from_enc %> <%= scope["facts"]["from_fact"] %>') }
  notify { 'epp': message => inline_epp("<%= \$x %>${from_enc}", { 'x' => $facts['from_fact'] }) }
  notify { "title ${from_enc}": tag => 'kept' }
  notice("said ${from_enc}")
}

node 'seeker.example.test' {
  notify { 'found': message => fixture::seek('tr0upe-', 's3cret') }
}

node 'broken.example.test'`)
	keeper := func() engine.Request {
		return r.request("keeper.example.test", func(q *engine.Request) {
			q.Parameters = json.RawMessage(`{"from_enc":"enc-` + secret + `"}`)
			q.Facts.Values = json.RawMessage(`{"from_fact":"fact-` + secret + `"}`)
		})
	}
	for _, by := range []string{"its zygote", "a worker"} {
		if got := string(r.compile(keeper()).Catalog); !strings.Contains(got, "enc-"+secret) || !strings.Contains(got, "fact-"+secret) {
			t.Fatalf("the secrets are not in the node's own catalog: %s", got)
		}
		found := r.compile(r.request("seeker.example.test"))
		if !strings.Contains(string(found.Catalog), `"message":"nowhere"`) {
			t.Errorf("after a compile by %s another node finds the secrets: %s", by, found.Catalog)
		}
	}
}
