package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// This file has two members share what agents backed up.

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func backUp(t *testing.T, m *member, text string) string {
	t.Helper()
	must(t, m.BucketPut(t.Context(), "sha256", sum(text), "etc/motd", strings.NewReader(text)))
	return sum(text)
}

// follow takes the records of another member, and not what they tell of.
func (m *member) follow(t *testing.T, other *member) {
	t.Helper()
	r, w := io.Pipe()
	go func() {
		_, err := other.journal.Export(context.WithoutCancel(t.Context()), w, other.journal.Origin(), journal.Bulk, 0, 1000)
		_ = w.CloseWithError(err)
	}()
	_, err := m.journal.Import(t.Context(), r)
	must(t, err)
	must(t, m.foldAll(t.Context()))
}

// from asks a member; how may change what comes, or answer in its place.
func from(t *testing.T, m *member, how *atomic.Value) Fetch {
	t.Helper()
	srv := httptest.NewServer(m.ContentsHandler())
	t.Cleanup(srv.Close)
	return func(ctx context.Context, name string, read func(io.Reader) error) error {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/store/v1/contents/"+name, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fault.New(fault.NotFound, "%s", answer.Status)
		}
		switch how.Load() {
		case "away":
			return fault.New(fault.Unavailable, "away")
		case "forged":
			return read(strings.NewReader("forged"))
		case "cut":
			return read(io.MultiReader(io.LimitReader(answer.Body, 3), failing{}))
		}
		return read(answer.Body)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broke off") }

func content(t *testing.T, m *member, name string) string {
	t.Helper()
	f, _, err := m.BucketGet(t.Context(), "sha256", name)
	if err != nil {
		return fmt.Sprint("fault ", fault.KindOf(err))
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	must(t, err)
	return string(text)
}

func TestAContentIsFetchedWhenAnAgentAsksForIt(t *testing.T) {
	var how atomic.Value
	a := newMember(t, Options{})
	b := newMember(t, Options{Fetch: from(t, a, &how)})
	name := backUp(t, a, "hello\n")
	missing := fmt.Sprint("fault ", fault.NotFound)
	if got := content(t, b, name); got != missing {
		t.Errorf("before b knows it: %s", got)
	}
	b.follow(t, a)
	for _, bad := range []string{"away", "forged", "cut"} {
		how.Store(bad)
		if got := content(t, b, name); got != missing {
			t.Errorf("%s: %q", bad, got)
		}
		if has, err := b.BucketHas(t.Context(), "sha256", name); has || err != nil {
			t.Errorf("%s: an agent that asks whether to back up is told %v, %v", bad, has, err)
		}
	}
	how.Store("well")
	if got := content(t, b, name); got != "hello\n" {
		t.Errorf("b gives %q", got)
	}
	how.Store("away")
	if got := content(t, b, name); got != "hello\n" {
		t.Errorf("b does not keep it: %q", got)
	}
	// A damaged file is fetched again.
	how.Store("well")
	must(t, os.WriteFile(b.bucketPath(name), []byte("hel"), 0o600))
	if got := content(t, b, name); got != "hello\n" {
		t.Errorf("after the damage: %q", got)
	}
	if left, err := os.ReadDir(b.bucketPath("")); err != nil || len(left) != 1 {
		t.Errorf("the folder has %v, %v", left, err)
	}
}

func TestContentsFollowTheirRecords(t *testing.T) {
	var how atomic.Value
	how.Store("well")
	a := newMember(t, Options{})
	b := newMember(t, Options{Fetch: from(t, a, &how)})
	names := []string{backUp(t, a, "one"), backUp(t, a, "two")}
	b.follow(t, a)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	here := func(name string) bool { _, err := os.Stat(b.bucketPath(name)); return err == nil }
	within := time.After(4 * time.Minute)
	await := func(name string) {
		for !here(name) {
			select {
			case <-within:
				t.Fatalf("%s does not come", name)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	for _, name := range names {
		await(name)
	}
	later := backUp(t, a, "three")
	b.follow(t, a)
	await(later)
	stop()
	must(t, <-ended)
}

func TestOnlyContentsAreGiven(t *testing.T) {
	a := newMember(t, Options{})
	backUp(t, a, "one")
	srv := httptest.NewServer(a.ContentsHandler())
	defer srv.Close()
	for name, want := range map[string]int{
		sum("one"): http.StatusOK, sum("two"): http.StatusNotFound, "..%2fstore.db": http.StatusBadRequest, "x": http.StatusBadRequest,
	} {
		answer, err := http.Get(srv.URL + "/store/v1/contents/" + name)
		must(t, err)
		if answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("%s: %s", name, answer.Status)
		}
	}
}
