package carrier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// node is a member with a journal and a carrier. Who knows whom is set by knows.
type node struct {
	dir string
	j   *journal.Journal
	c   *Carrier
	srv *httptest.Server

	metrics *prometheus.Registry

	down   atomic.Bool  // nobody gets an answer from it, nor it from anybody
	asking sync.RWMutex // held for reading while it waits for one

	mu      sync.Mutex
	peers   []Peer
	changed chan struct{}
}

const fromHeader = "X-From"

// from names the sender, and refuses what a cut network would.
type from struct {
	n *node
	http.RoundTripper
}

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	f.n.asking.RLock()
	defer f.n.asking.RUnlock()
	if f.n.down.Load() {
		return nil, errors.New("the network is cut")
	}
	r.Header.Set(fromHeader, string(f.n.j.Origin()))
	return f.RoundTripper.RoundTrip(r)
}

func newNode(t testing.TB, change ...func(*Options)) *node {
	t.Helper()
	return nodeOf(t, t.TempDir(), change...)
}

// forkOf is a member with a copy of another's journal.
func forkOf(t *testing.T, n *node) *node {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(n.dir)); err != nil {
		t.Fatal(err)
	}
	return nodeOf(t, dir)
}

func nodeOf(t testing.TB, dir string, change ...func(*Options)) *node {
	t.Helper()
	metrics := prometheus.NewRegistry()
	j, err := journal.Open(dir, journal.Options{Registerer: metrics})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, j: j, metrics: metrics, changed: make(chan struct{})}
	o := Options{
		Peers: func() ([]Peer, <-chan struct{}) { n.mu.Lock(); defer n.mu.Unlock(); return n.peers, n.changed },
		Dial: func(p Peer) Asker {
			return Asker{HTTP: &http.Client{Transport: from{n, http.DefaultTransport}}, URL: p.Address}
		},
	}
	for _, f := range change {
		f(&o)
	}
	n.c = New(j, o)
	answer := n.c.Handler(func(r *http.Request) journal.Origin { return journal.Origin(r.Header.Get(fromHeader)) })
	n.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.down.Load() {
			panic(http.ErrAbortHandler)
		}
		answer.ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		n.srv.CloseClientConnections()
		n.srv.Close()
		if err := errors.Join(<-ended, j.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) knows(others ...*node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = nil
	for _, o := range others {
		n.peers = append(n.peers, Peer{Origin: o.j.Origin(), Name: string(o.j.Origin())[:4], Address: o.srv.URL})
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// goAway cuts n off. When it returns, no question of n to other is under way.
func (n *node) goAway(t *testing.T, other *node) {
	t.Helper()
	n.down.Store(true)
	eventually(t, func() bool {
		other.srv.CloseClientConnections()
		none := n.asking.TryLock()
		if none {
			n.asking.Unlock()
		}
		return none
	}, func() string { return "it still waits for an answer" })
	other.srv.CloseClientConnections() // one that has begun ends here
}

func (n *node) write(t *testing.T, s journal.Stream, count int) journal.Record {
	t.Helper()
	var last journal.Record
	for i := range count {
		recs, err := n.j.Append(t.Context(), journal.Draft{Stream: s, Kind: "x", Key: fmt.Sprint(i), Body: make([]byte, 100)})
		if err != nil {
			t.Fatal(err)
		}
		last = recs[0]
	}
	return last
}

// same waits until all journals hold the same chains.
func same(t testing.TB, nodes ...*node) {
	t.Helper()
	var diff string
	eventually(t, func() bool {
		first, err := nodes[0].j.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes[1:] {
			heads, err := n.j.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff = cmp.Diff(first, heads); diff != "" {
				return false
			}
		}
		return true
	}, func() string { return diff })
}

func eventually(t testing.TB, ok func() bool, why func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(4 * time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(why())
		}
	}
}

func TestRecordsReachMembersThatDoNotKnowEachOther(t *testing.T) {
	a, b, c := newNode(t), newNode(t), newNode(t)
	a.knows(b)
	b.knows(a, c)
	c.knows(b)
	a.write(t, journal.State, 30)
	a.write(t, journal.Bulk, 2500) // more than one answer holds
	c.write(t, journal.State, 30)
	b.write(t, journal.Bulk, 5)
	same(t, a, b, c)
	for _, n := range []*node{a, b, c} {
		if v, err := n.j.Verify(t.Context(), nil); err != nil || !v.OK() {
			t.Errorf("verification = %+v, %v", v, err)
		}
	}
}

func TestACutIsNoticedAndHealed(t *testing.T) {
	a, b := newNode(t), newNode(t)
	a.knows(b)
	b.knows(a)
	within := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		t.Cleanup(cancel)
		return ctx
	}
	var err error
	eventually(t, func() bool {
		err = a.c.Copied(within(), journal.State, a.write(t, journal.State, 1).Number)
		return err == nil
	}, func() string { return fmt.Sprint("a record was not copied: ", err) })

	b.down.Store(true)
	b.srv.CloseClientConnections()
	r := a.write(t, journal.State, 1)
	eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = a.c.Copied(ctx, journal.State, r.Number)
		return fault.KindOf(err) == fault.Unavailable
	}, func() string { return fmt.Sprint("while b is away, Copied says: ", err) })
	b.write(t, journal.State, 7)
	peers, err := a.c.Peers(t.Context())
	if err != nil || len(peers) != 1 || peers[0].Problem == "" || peers[0].Behind == 0 || peers[0].Heard.IsZero() {
		t.Errorf("peers = %+v, %v", peers, err)
	}

	b.down.Store(false)
	same(t, a, b)
	eventually(t, func() bool {
		if err := a.c.Copied(within(), journal.State, r.Number); err != nil {
			return false
		}
		peers, err = a.c.Peers(t.Context())
		return err == nil && peers[0].Problem == "" && peers[0].Behind == 0
	}, func() string { return fmt.Sprintf("after the cut: %+v", peers) })
}

func TestAMemberThatIsAloneIsReadyAndCopiesNothing(t *testing.T) {
	a := newNode(t)
	select {
	case <-a.c.Ready():
	case <-time.After(4 * time.Minute):
		t.Error("it is not ready")
	}
	if err := a.c.Copied(t.Context(), journal.State, a.write(t, journal.State, 1).Number); err != nil {
		t.Error(err)
	}
}

func TestANewMemberIsFilled(t *testing.T) {
	a := newNode(t)
	a.write(t, journal.State, 1500)
	a.write(t, journal.Bulk, 300)
	j, err := journal.Open(t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var done, total uint64
	err = Fill(t.Context(), j, Asker{HTTP: http.DefaultClient, URL: a.srv.URL}, func(d, all uint64) {
		if d <= done || d > all {
			t.Errorf("%d of %d after %d", d, all, done)
		}
		done, total = d, all
	})
	if err != nil || done != 1800 || total != 1800 {
		t.Errorf("%d of %d, %v", done, total, err)
	}
}

func TestANonsenseQuestionIsRefused(t *testing.T) {
	a := newNode(t)
	for _, path := range []string{"", "?origin=x&stream=state&after=-1&limit=1", "?origin=x&stream=both&after=0&limit=1", "?stream=state&after=0&limit=1", "?origin=x&stream=state&after=0&limit=99999999999"} {
		answer, err := http.Get(a.srv.URL + "/carrier/v1/records" + path)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", path, answer.Status)
		}
	}
}

// TestAForkOfOneChainDoesNotStopTheOthers has a member whose journal was put back and went on.
func TestAForkOfOneChainDoesNotStopTheOthers(t *testing.T) {
	a, b := newNode(t), newNode(t)
	forked := forkOf(t, a)
	a.write(t, journal.State, 3)
	forked.write(t, journal.State, 5)
	for _, n := range []*node{a, b} { // b gets one version by itself, and meets the other
		n.knows()
	}
	a.knows(b)
	b.knows(a)
	same(t, a, b)
	a.knows()
	b.knows(forked)
	forked.knows(b)
	b.write(t, journal.Bulk, 4)
	var peers []PeerStatus
	eventually(t, func() bool {
		var err error
		peers, err = b.c.Peers(t.Context())
		last, lerr := forked.j.Last(t.Context(), b.j.Origin(), journal.Bulk)
		return err == nil && lerr == nil && last == 4 && len(peers) == 1 && len(peers[0].Refused) == 1
	}, func() string { return fmt.Sprintf("peers of b: %+v", peers) })
	if peers[0].Problem != "" {
		t.Errorf("a member that can be reached counts as away: %s", peers[0].Problem)
	}
}
