package cluster

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/journal"
)

// copyJournal gives b all that a has.
func copyJournal(t *testing.T, a, b *journal.Journal) {
	t.Helper()
	heads, err := a.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		var frames bytes.Buffer
		if _, err := a.Export(t.Context(), &frames, h.Origin, h.Stream, 0, 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Import(t.Context(), &frames); err != nil {
			t.Fatal(err)
		}
	}
}

// restored is a fresh machine that gets the troupe of b from a backup.
func restored(t *testing.T, b *bench, o Options, q RestoreRequest) (dir string, j *journal.Journal, r Restored, err error) {
	t.Helper()
	j, dir = openJournal(t), filepath.Join(t.TempDir(), "cluster")
	copyJournal(t, b.j, j)
	if err := BeginRestore(dir, "x.backup"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, j, o); fault.KindOf(err) != fault.Conflict {
		t.Errorf("half of a restore is opened: %v", err)
	}
	r, err = Restore(t.Context(), dir, j, o, q)
	return dir, j, r, err
}

func TestAMachineFromABackupIsTakenInByThoseWhoAreThere(t *testing.T) {
	b := newBench(t)
	key, err := b.CAKey()
	if err != nil || b.ID() == "" {
		t.Fatal(err)
	}
	o := Options{Name: "n", Site: "north", Address: "127.0.0.1:1"}
	dir, j, r, err := restored(t, b, o, RestoreRequest{CAKey: key})
	if err != nil || r.Self.Name != "n" || r.Self.Origin != j.Origin() || len(r.Others) != 1 || len(r.Removed) != 0 || IsRestoring(dir) {
		t.Fatalf("restored %+v, %v", r, err)
	}
	n, err := Open(t.Context(), dir, j, o)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: n.ClientTLS(b.j.Origin()), DisableKeepAlives: true}}
	for range 2 {
		if known, err := n.Introduce(t.Context(), client, "https://"+b.addr); known || err != nil {
			t.Fatal("before anybody has taken it in: ", known, err)
		}
	}
	if w := b.Waiting(); len(w) != 1 || w[0].Name != "n" || w[0].Origin != j.Origin() || len(b.Members()) != 1 {
		t.Errorf("waiting: %+v", w)
	}
	if _, err := greet(t.Context(), b.addr, n.ClientTLS(b.j.Origin())); err == nil || !strings.Contains(err.Error(), "troupe accept n") {
		t.Errorf("before that it is served: %v", err)
	}
	if _, err := b.Accept(t.Context(), "nobody"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("accept of one that does not wait: %v", err)
	}
	if _, err := b.Accept(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if known, err := n.Introduce(t.Context(), client, "https://"+b.addr); !known || err != nil {
			t.Fatal(known, err)
		}
	}
	if m := b.Members(); len(m) != 2 || m[1].Name != "n" || m[1].Site != "north" || m[1].Address != "127.0.0.1:1" || m[1].Origin != j.Origin() || m[1].Self {
		t.Errorf("those who are there know %+v", m)
	}
	last, err := b.j.Last(t.Context(), b.j.Origin(), journal.State)
	if err != nil || last != 5 || len(b.Waiting()) != 0 { // founded, itself, its key, the new one, its key
		t.Errorf("%d records, %v: a second introduction is no news", last, err)
	}

	// Nobody speaks for another, nobody without a name is met, and nobody comes without a certificate.
	for body, want := range map[string]int{
		`{"origin":"` + string(b.j.Origin()) + `","name":"a","address":"x:1"}`: http.StatusBadRequest,
		`{"origin":"` + string(j.Origin()) + `","address":"x:1"}`:              http.StatusBadRequest,
		`{"origin":`: http.StatusBadRequest,
		`{"origin":"` + string(j.Origin()) + `","name":"` + strings.Repeat("n", 256) + `","address":"x:1"}`: http.StatusBadRequest,
	} {
		if got := introduce(t, client, b.addr, body); got != want {
			t.Errorf("%.60s: status %d, want %d", body, got, want)
		}
	}
	nobody := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	if got := introduce(t, nobody, b.addr, `{}`); got != http.StatusForbidden {
		t.Errorf("without a certificate: status %d", got)
	}
	if _, err := b.Remove(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Introduce(t.Context(), client, "https://"+b.addr); err == nil {
		t.Error("one that was removed is met again")
	}
}

func introduce(t *testing.T, client *http.Client, addr, body string) int {
	t.Helper()
	answer, err := client.Post("https://"+addr+"/cluster/v1/introduce", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func TestTheLostMemberIsReplacedByTheOneOfItsName(t *testing.T) {
	b := newBench(t)
	key, err := b.CAKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := restored(t, b, Options{Name: "a"}, RestoreRequest{CAKey: key}); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "answers at "+b.addr) {
		t.Errorf("while it answers: %v", err)
	}
	// Where it answered, nobody listens any more.
	b.addr = "127.0.0.1:1"
	if err := b.append(t.Context(), draft{kindMember, "a", memberRecord{Member{Origin: b.j.Origin(), Name: "a", Site: "east", Address: b.addr, Roles: []Role{RoleServer}}}}); err != nil {
		t.Fatal(err)
	}
	_, j, r, err := restored(t, b, Options{Name: "a"}, RestoreRequest{CAKey: key})
	if err != nil || r.Self.Site != "east" || r.Self.Address != b.addr || len(r.Removed) != 1 || r.Removed[0].Origin != b.j.Origin() || r.Self.Origin != j.Origin() {
		t.Errorf("restored %+v, %v", r, err)
	}
	_, _, r, err = restored(t, b, Options{Name: "b"}, RestoreRequest{CAKey: key, Alone: true})
	if err != nil || len(r.Removed) != 1 || len(r.Others) != 0 {
		t.Errorf("alone: %+v, %v", r, err)
	}
}

func TestARestoreNeedsTheRightKeyAndMayBeginATroupe(t *testing.T) {
	b, other := newBench(t), newBench(t)
	wrong, err := other.CAKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{nil, []byte("no key"), wrong} {
		dir, _, _, err := restored(t, b, Options{Name: "n"}, RestoreRequest{CAKey: key})
		if fault.KindOf(err) != fault.Invalid || !IsRestoring(dir) {
			t.Errorf("key %.10q: %v", key, err)
		}
	}
	for _, found := range []bool{false, true} {
		dir, j := filepath.Join(t.TempDir(), "cluster"), openJournal(t)
		if err := BeginRestore(dir, "x.backup"); err != nil {
			t.Fatal(err)
		}
		r, err := Restore(t.Context(), dir, j, Options{Name: "n"}, RestoreRequest{Found: found})
		if err != nil || (r.Self.Name == "n") != found {
			t.Errorf("found %v: %+v, %v", found, r, err)
		}
		c, err := Open(t.Context(), dir, j, Options{Name: "n"})
		if err != nil || c.Founded() != found {
			t.Errorf("found %v: %v", found, err)
		}
		if key, err := c.CAKey(); err != nil || (key != nil) != found {
			t.Errorf("found %v: key %v, %v", found, key != nil, err)
		}
	}
	// A folder that joins by a token is none that is restored.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, joiningName), []byte("192.0.2.1:8143\n"), 0o600); err != nil || IsRestoring(dir) {
		t.Error("a join is taken for a restore")
	}
}
