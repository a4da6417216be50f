package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/carrier"
	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
)

// A member is a deployer with a journal, a folder of environments and a port.
type member struct {
	name string
	dir  string
	j    *journal.Journal
	repo *code.Repo
	d    *Deployer
	srv  *httptest.Server
	down atomic.Bool
	cut  atomic.Int64 // bytes after which answers break off; 0 means never

	peers []*member
}

func newMember(t *testing.T, name string, files map[string]string) *member {
	t.Helper()
	m := &member{name: name, dir: t.TempDir()}
	m.lay(t, files)
	var err error
	m.j, err = journal.Open(filepath.Join(m.dir, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.open(t)
	m.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.down.Load() {
			panic(http.ErrAbortHandler)
		}
		if n := m.cut.Load(); n > 0 {
			w = &cutting{ResponseWriter: w, left: n}
		}
		m.d.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		m.srv.Close()
		if err := m.j.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// open starts the member, or starts it again.
func (m *member) open(t *testing.T) {
	t.Helper()
	var err error
	m.repo, err = code.New(code.Options{EnvironmentPath: []string{filepath.Join(m.dir, "environments")}, Dir: filepath.Join(m.dir, "versions")})
	if err != nil {
		t.Fatal(err)
	}
	m.d, err = Open(t.Context(), m.j, m.repo, Options{
		Name: m.name,
		Peers: func() (all []carrier.Peer, changed <-chan struct{}) {
			for _, p := range m.peers {
				all = append(all, carrier.Peer{Origin: p.j.Origin(), Name: p.name, Address: p.srv.URL})
			}
			return all, nil
		},
		Dial: func(p carrier.Peer) carrier.Asker {
			return carrier.Asker{HTTP: &http.Client{Transport: &http.Transport{}}, URL: p.Address}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *member) lay(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(m.dir, "environments", name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
}

// hear takes the records of another member.
func (m *member) hear(t *testing.T, others ...*member) {
	t.Helper()
	for _, o := range others {
		r, w := io.Pipe()
		go func() {
			_, err := o.j.Export(context.WithoutCancel(t.Context()), w, o.j.Origin(), journal.State, 0, 1000)
			_ = w.CloseWithError(err)
		}()
		if _, err := m.j.Import(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.d.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (m *member) deploy(t *testing.T) Deployment {
	t.Helper()
	w, err := m.d.Deploy(t.Context(), "production")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// nothing is what a member serves that does not have the environment.
var nothing = fmt.Sprint("fault ", fault.NotFound)

// serves is the main manifest that the member serves, or the error.
func (m *member) serves(t *testing.T) string {
	t.Helper()
	v, err := m.repo.Current(t.Context(), "production")
	if err != nil {
		return fmt.Sprint("fault ", fault.KindOf(err))
	}
	text, err := os.ReadFile(filepath.Join(v.Manifest, "site.pp"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

type cutting struct {
	http.ResponseWriter

	left int64
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func site(text string) map[string]string {
	return map[string]string{"production/manifests/site.pp": text + "\n"}
}

// large has enough different contents for several groups.
func large(text string) map[string]string {
	files := site(text)
	for i := range groupCount + 10 {
		files[fmt.Sprintf("production/modules/m/files/%d", i)] = fmt.Sprint("content ", i)
	}
	files["production/modules/m/files/tool"] = "#!/bin/sh\n"
	return files
}

func TestWhatOneDeploysAllServe(t *testing.T) {
	a, b := newMember(t, "a", large("one")), newMember(t, "b", nil)
	a.peers, b.peers = []*member{b}, []*member{a}
	if got := b.serves(t); got != nothing {
		t.Fatalf("before: %s", got)
	}
	first := a.deploy(t)
	b.hear(t, a)
	if !b.d.settle(t.Context()) || b.serves(t) != "one" {
		t.Fatalf("b serves %s: %+v", b.serves(t), b.d.Status(t.Context()))
	}
	select {
	case <-b.d.Settled():
	default:
		t.Error("it is not settled")
	}

	// The folder of the first no longer counts, until it is deployed.
	a.lay(t, site("two"))
	if got := a.serves(t); got != "one" {
		t.Errorf("a serves %s", got)
	}
	second := a.deploy(t)
	if second.Version == first.Version {
		t.Error("both versions have one id")
	}
	for _, s := range a.d.Status(t.Context()) {
		if s.Members[0].Version != second.Version || s.Members[1].Version != first.Version || s.By != "a" || s.Members[1].Name != "b" {
			t.Errorf("status: %+v", s)
		}
	}
	b.hear(t, a)
	b.down.Store(true) // nobody needs to ask b
	if !b.d.settle(t.Context()) || b.serves(t) != "two" {
		t.Errorf("b serves %s", b.serves(t))
	}

	// A restart needs nobody.
	a.down.Store(true)
	b.open(t)
	if !b.d.settle(t.Context()) || b.serves(t) != "two" {
		t.Errorf("after its restart b serves %s", b.serves(t))
	}
	a.down.Store(false)

	if err := b.d.Withdraw(t.Context(), "production"); err != nil {
		t.Fatal(err)
	}
	if got := b.serves(t); got != nothing {
		t.Errorf("b has no folder and serves %s", got)
	}
	a.lay(t, site("three"))
	a.hear(t, b)
	if !a.d.settle(t.Context()) || a.serves(t) != "three" {
		t.Errorf("a serves %s, not its folder", a.serves(t))
	}
	if err := b.d.Withdraw(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("withdrawn twice: %v", err)
	}
}

func TestAFolderThatHoldsWhatIsDeployedNeedsNobody(t *testing.T) {
	a, b := newMember(t, "a", site("one")), newMember(t, "b", site("one"))
	a.deploy(t)
	b.hear(t, a)
	b.lay(t, site("one")) // as r10k does on every member
	if !b.d.settle(t.Context()) || b.repo.Pinned("production") == "" {
		t.Errorf("b asks others for what it has: %+v", b.d.Status(t.Context()))
	}
}

// TestTheLaterDeploymentCounts has two members deploy while they do not hear each other.
func TestTheLaterDeploymentCounts(t *testing.T) {
	a, b, c := newMember(t, "a", site("a")), newMember(t, "b", site("b")), newMember(t, "c", nil)
	a.peers, b.peers, c.peers = []*member{b, c}, []*member{a, c}, []*member{a, b}
	a.deploy(t)
	<-time.After(2 * time.Millisecond) // the clock of records
	b.deploy(t)
	a.hear(t, b)
	b.hear(t, a)
	c.hear(t, b, a)
	sums := map[journal.Hash]bool{}
	for _, m := range []*member{a, b, c} {
		for range 2 { // folded as it came, and anew
			digest, err := m.d.Digest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sums[digest.Sum] = true
			if err := m.d.Refold(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !m.d.settle(t.Context()) || m.serves(t) != "b" {
			t.Errorf("%s serves %s", m.name, m.serves(t))
		}
	}
	if len(sums) != 1 {
		t.Errorf("they have %d different digests", len(sums))
	}
}

// TestAVersionIsPutTogetherFromSeveralMembers lets the connection to one break off, and the other have only a part.
func TestAVersionIsPutTogetherFromSeveralMembers(t *testing.T) {
	a, b, c := newMember(t, "a", large("one")), newMember(t, "b", nil), newMember(t, "c", nil)
	b.peers, c.peers = []*member{a}, []*member{a, b}
	a.deploy(t)
	b.hear(t, a)
	if !b.d.settle(t.Context()) {
		t.Fatal("b does not serve it")
	}
	a.lay(t, site("two"))
	a.deploy(t) // b has all of it but one file
	c.hear(t, a)

	a.cut.Store(100)
	if c.d.settle(t.Context()) || c.serves(t) != nothing {
		t.Errorf("half a version serves: %s", c.serves(t))
	}
	if problem := c.d.Status(t.Context())[0].Problem; problem == "" {
		t.Error("nobody is told")
	}
	select {
	case <-c.d.Settled():
		t.Error("it is settled")
	default:
	}
	// Manifests pass; of the contents only what fits.
	a.cut.Store(60_000)
	c.d.settle(t.Context())
	a.cut.Store(0)
	if !c.d.settle(t.Context()) || c.serves(t) != "two" {
		t.Errorf("c serves %s: %+v", c.serves(t), c.d.Status(t.Context()))
	}
}

func TestADamagedContentIsTakenFromAnotherMember(t *testing.T) {
	a, b, c := newMember(t, "a", site("one")), newMember(t, "b", nil), newMember(t, "c", nil)
	b.peers, c.peers = []*member{a}, []*member{a, b}
	a.deploy(t)
	for _, m := range []*member{b, c} {
		m.hear(t, a)
	}
	if !b.d.settle(t.Context()) {
		t.Fatal("b does not serve it")
	}
	blobs, err := filepath.Glob(filepath.Join(a.dir, "versions", "blobs", "*", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	for _, path := range blobs {
		if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("bad\n"), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	if !c.d.settle(t.Context()) || c.serves(t) != "one" {
		t.Errorf("c serves %s: %+v", c.serves(t), c.d.Status(t.Context()))
	}
}

func TestWhatWasNotRecordedWasNotDeployed(t *testing.T) {
	a := newMember(t, "a", site("one"))
	v, err := a.repo.Folder(t.Context(), "production")
	if err != nil {
		t.Fatal(err)
	}
	// As Deploy would leave it, killed before the record.
	if err := a.repo.Pin("production", v.ID, code.Deployment{}); err != nil {
		t.Fatal(err)
	}
	a.lay(t, site("two"))
	a.open(t)
	if got := a.serves(t); got != "two" {
		t.Errorf("it serves %s", got)
	}
}

func TestTheScriptForTheConfigurationVersionRunsOnce(t *testing.T) {
	files := site("one")
	files["production/environment.conf"] = "config_version = scripts/version.sh $environment\n"
	files["production/scripts/version.sh"] = "#!/bin/sh\necho \"  commit 'x' of $1 \"\n"
	a, b := newMember(t, "a", files), newMember(t, "b", nil)
	b.peers = []*member{a}
	if w := a.deploy(t); w.ConfigVersion != "commit 'x' of production" {
		t.Errorf("configuration version %q", w.ConfigVersion)
	}
	b.hear(t, a)
	b.d.settle(t.Context())
	v, err := b.repo.Current(t.Context(), "production")
	if err != nil || v.ConfigVersion != "commit 'x' of production" {
		t.Errorf("at b: %v, %v", v, err)
	}

	a.lay(t, map[string]string{"production/scripts/version.sh": "#!/bin/sh\necho no repository >&2; exit 3\n"})
	_, err = a.d.Deploy(t.Context(), "production")
	if fault.KindOf(err) != fault.Failed || !strings.Contains(err.Error(), "no repository") {
		t.Errorf("a script that fails: %v", err)
	}
	if got := a.d.Deployments(); len(got) != 1 || got[0].ConfigVersion != "commit 'x' of production" {
		t.Errorf("after it failed: %+v", got)
	}
}

func TestADeploymentOfNothingIsRefused(t *testing.T) {
	a := newMember(t, "a", nil)
	if _, err := a.d.Deploy(t.Context(), "production"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no folder: %v", err)
	}
	for path, want := range map[string]int{
		"/deploy/v1/manifests/" + strings.Repeat("0", 64): http.StatusNotFound,
		"/deploy/v1/manifests/..%2f..%2fboot":             http.StatusBadRequest,
		"/deploy/v1/served":                               http.StatusOK,
	} {
		answer, err := http.Get(a.srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
	for _, body := range []string{"", "{", `{"contents":[` + strings.Repeat(`{"sum":"x"},`, 1<<17) + `{}]}`} {
		answer, err := http.Post(a.srv.URL+"/deploy/v1/contents", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%.20s: %s", body, answer.Status)
		}
	}
}

func TestRecordsUniteInAnyOrder(t *testing.T) {
	d := &Deployer{deployed: map[puppet.Environment]word{}}
	record := func(at journal.Time, origin journal.Origin, kind, body string) journal.Record {
		return journal.Record{Time: at, Origin: origin, Kind: kind, Body: []byte(body)}
	}
	records := []journal.Record{
		record(1, "a", kindDeployed, `{"environment":"production","version":"1"}`),
		record(3, "b", kindDeployed, `{"environment":"production","version":"3"}`),
		record(3, "a", kindDeployed, `{"environment":"production","version":"2"}`),
		record(2, "c", kindWithdrawn, `{"environment":"production"}`),
		record(9, "c", "code.unheard-of", `{}`),
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 0, 4, 3, 1}, {1, 1, 2, 2, 0, 3}} {
		clear(d.deployed)
		for _, i := range order {
			if err := d.fold(records[i]); err != nil {
				t.Fatal(err)
			}
		}
		if got := d.deployed["production"].Version; got != "3" {
			t.Errorf("in order %v it is %q", order, got)
		}
	}
	for _, body := range []string{"", "{}", `{"environment":"../x"}`} {
		if err := d.fold(record(9, "a", kindDeployed, body)); err == nil {
			t.Errorf("%q is taken", body)
		}
	}
}
