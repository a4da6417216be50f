package ruby

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/code"
	"troupe/internal/engine"
	"troupe/internal/puppet"
)

// This file lets zygotes follow one another. That an heir's catalogs are those of
// the plain library is checked with the others, in oracle_test.go.

const (
	site       = "environments/production/manifests/site.pp"
	fixtureDir = "environments/production/modules/fixture/"
)

// zygoteOf describes the zygote of a version as soon as it is ready: a compile
// that it has answered may be a part of its warming.
func (r *rig) zygoteOf(v *code.Version) (found ZygoteStats) {
	r.t.Helper()
	eventually(r.t, "the zygote is ready", func() bool {
		for _, z := range r.Stats().Zygotes {
			if z.CodeID == v.ID && z.Ready {
				found = z
			}
		}
		return found.Ready
	})
	return found
}

// change makes a version that differs from the last one in a manifest.
func (r *rig) change() {
	r.t.Helper()
	r.zygoteOf(r.version())
	r.edit(site, "node default {", "# another line\nnode default {")
}

// failureOf returns the message of a node whose catalog does not compile.
func (r *rig) failureOf(name string) string {
	r.t.Helper()
	_, err := r.Compile(r.t.Context(), r.request(puppet.Certname(name+".example.test")))
	return compileError(r.t, err).Msg
}

func TestAnHeirSaysErrorsAsAFreshProcessDoes(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	r.change()
	r.compile(r.request("db01.example.test"))
	fresh := newRig(t)
	fresh.edit(site, "node default {", "# another line\nnode default {")
	for _, name := range []string{"broken", "syntax", "template", "template"} {
		t.Run(name, func(t *testing.T) {
			got, want := r.on(t).failureOf(name), fresh.on(t).failureOf(name)
			if diff := cmp.Diff(strings.ReplaceAll(want, fresh.root, r.root), got); diff != "" {
				t.Errorf("message of an heir differs (-fresh +heir):\n%s", diff)
			}
		})
	}
	if z := r.zygoteOf(r.version()); z.Ancestors != 1 {
		t.Errorf("zygote has %d ancestors, want 1", z.Ancestors)
	}
}

func TestAnHeirNamesThePlaceOfAManifestInItsOwnVersion(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	r.zygoteOf(r.version())
	r.edit(fixtureDir+"manifests/classified.pp", "class", "\n\nclass")
	got := string(r.compile(r.request("db01.example.test")).Catalog)
	if strings.Contains(got, r.o.Dir) || strings.Contains(got, "/versions/") {
		t.Errorf("catalog names the snapshot: %s", got)
	}
	if !strings.Contains(got, `"file":"`+r.root+"/"+fixtureDir+"manifests/init.pp") {
		t.Errorf("catalog does not name the operator's file: %s", got)
	}
}

func TestWhereRubyCodeChangesNothingIsInherited(t *testing.T) {
	r := newRig(t)
	r.compile(r.trouble("none"))
	r.zygoteOf(r.version())
	r.edit(fixtureDir+"lib/puppet/functions/fixture/trouble.rb", "dispatch", "# changed\n  dispatch")
	r.compile(r.trouble("none"))
	if z := r.zygoteOf(r.version()); z.Ancestors != 0 {
		t.Errorf("zygote has %d ancestors, want none", z.Ancestors)
	}
}

func TestAnHeirOutlivesItsElder(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Workers = 1 })
	old := r.version()
	r.compile(r.request("db01.example.test"))
	elder := r.zygoteOf(old).PID
	r.change()
	r.compile(r.request("db01.example.test"))
	heir := r.zygoteOf(r.version())
	if heir.Ancestors != 1 {
		t.Fatalf("zygote has %d ancestors, want 1", heir.Ancestors)
	}

	if err := syscall.Kill(elder, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the elder is gone", func() bool { return syscall.Kill(elder, 0) != nil })
	if worker := r.compile(r.request("db01.example.test")).WorkerPID; worker == heir.PID {
		t.Error("the heir compiled itself, want a worker")
	}
	if pid := r.zygoteOf(r.version()).PID; pid != heir.PID {
		t.Errorf("zygote is process %d after the end of its elder, was %d", pid, heir.PID)
	}

	// The heir's own end is noticed, and the process is not left as a zombie.
	r.change()
	r.compile(r.request("db01.example.test"))
	if err := syscall.Kill(heir.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the heir is gone", func() bool { return syscall.Kill(heir.PID, 0) != nil })
	r.compile(r.request("db01.example.test"))
}

func TestAnElderThatDiesLeavesItsVersionToAFreshZygote(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	elder := r.zygoteOf(r.version()).PID
	r.change()
	if err := syscall.Kill(elder, syscall.SIGSTOP); err != nil { // it cannot say that it ended
		t.Fatal(err)
	}
	if err := syscall.Kill(elder, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.compile(r.request("db01.example.test"))
}

func TestADropReadsDataAgainThatIsOutsideOfTheEnvironment(t *testing.T) {
	r := newRig(t)
	outside := filepath.Join(openDir(t), "outside.yaml")
	say := func(message string) {
		t.Helper()
		if err := os.WriteFile(outside, []byte("said: "+message+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say("one")
	r.edit("environments/production/hiera.yaml", "hierarchy:", "hierarchy:\n  - name: outside\n    path: "+outside)
	r.edit(site, "node default {", "node 'says.example.test' {\n  notify { lookup('said'): }\n}\n\nnode default {")
	says := func() string {
		t.Helper()
		var catalog struct {
			Resources []struct{ Type, Title string }
		}
		if err := json.Unmarshal(r.compile(r.request("says.example.test")).Catalog, &catalog); err != nil {
			t.Fatal(err)
		}
		for _, resource := range catalog.Resources {
			if resource.Type == "Notify" {
				return resource.Title
			}
		}
		return "nothing"
	}
	if got := says(); got != "one" {
		t.Fatalf("data say %s, want one", got)
	}
	r.zygoteOf(r.version())
	say("two, which is longer")
	r.Drop("production")
	if got := says(); got != "two, which is longer" {
		t.Errorf("data say %s after a drop, want two", got)
	}
	if z := r.zygoteOf(r.version()); z.Ancestors != 1 {
		t.Errorf("after a drop the zygote has %d ancestors, want 1", z.Ancestors)
	}
	r.Reload("production")
	says()
	if z := r.zygoteOf(r.version()); z.Ancestors != 0 {
		t.Errorf("after a reload the zygote has %d ancestors, want none", z.Ancestors)
	}
}

func TestWhatParsingSaysIsSaidOfAnUnchangedFileToo(t *testing.T) {
	r := newRig(t)
	r.edit(site, "node default {", "node 'odd.example.test' {\n  notify { \"a\\qb\": }\n}\n\nnode default {")
	warnings := func(result engine.Result) (all []string) {
		for _, l := range result.Logs {
			if l.Level == "warning" {
				all = append(all, l.Message)
			}
		}
		return all
	}
	first := warnings(r.compile(r.request("odd.example.test")))
	if len(first) != 1 || !strings.Contains(first[0], "Unrecognized escape sequence") {
		t.Fatalf("first compile warned %q, want one of an escape sequence", first)
	}
	r.zygoteOf(r.version())
	r.edit(fixtureDir+"manifests/classified.pp", "class", "\nclass")
	if diff := cmp.Diff(first, warnings(r.compile(r.request("odd.example.test")))); diff != "" {
		t.Errorf("warnings of an heir differ (-first +heir):\n%s", diff)
	}
}

func TestALineEndsWhenItIsLongOrLarge(t *testing.T) {
	for name, end := range map[string]func(*zygote){
		"long":  func(z *zygote) { z.line.ancestors = maxLine },
		"large": func(z *zygote) { z.resident = maxGrowth*z.line.start + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.compile(r.request("db01.example.test"))
			r.zygoteOf(r.version())
			r.mu.Lock()
			for _, z := range r.zygotes {
				end(z)
			}
			r.mu.Unlock()
			r.change()
			r.compile(r.request("db01.example.test"))
			if z := r.zygoteOf(r.version()); z.Ancestors != 0 {
				t.Errorf("zygote has %d ancestors, want none", z.Ancestors)
			}
		})
	}
}
