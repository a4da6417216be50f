package ruby

import (
	"testing"
	"time"

	"troupe/internal/code"
	"troupe/internal/puppet"
)

// TestRunsThatFinishOnTheFormerVersionDoNotEndTheNewOne has two versions that are ready, of which the former was used last.
func TestRunsThatFinishOnTheFormerVersionDoNotEndTheNewOne(t *testing.T) {
	p, err := New(Options{Dir: t.TempDir(), User: "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]*code.Version{}
	use := func(id string, former bool) {
		t.Helper()
		z, _, _ := p.find(versions[id], nil, former)
		p.release(z)
	}
	for _, id := range []string{"former", "new"} {
		versions[id] = &code.Version{Environment: "production", ID: id}
		p.zygotes[zygoteKey{"production", id}] = &zygote{key: zygoteKey{"production", id}, ready: make(chan struct{}), stop: make(chan struct{})}
		close(p.zygotes[zygoteKey{"production", id}].ready)
		use(id, false)
	}
	use("former", true)

	left := func() (all []string) {
		for _, id := range []string{"former", "new"} {
			if p.zygotes[zygoteKey{puppet.Environment("production"), id}] != nil {
				all = append(all, id)
			}
		}
		return all
	}
	p.retireSuperseded(time.Now())
	if got := left(); len(got) != 2 {
		t.Errorf("right after a deployment there are %q", got)
	}
	p.retireSuperseded(time.Now().Add(2 * linger))
	if got := left(); len(got) != 1 || got[0] != "new" {
		t.Errorf("later there are %q", got)
	}
}
