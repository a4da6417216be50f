package troupetest

// This file fills the disk under a member, and takes it away for writing.

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of its own. The member's data lie in its folder data.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(TempDir(t), "disk")
	mkdir(t, dir)
	run(t, exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "mode=755,size="+size, "tmpfs", dir))
	t.Cleanup(func() {
		// The member and its workers have ended; whoever still looks must not keep the folder.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all the room there is.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	return ballast
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// noise does not compress.
func noise(bytes int) string {
	b := make([]byte, bytes/2)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// diskWrite is one kind of write. The n-th request of a kind differs from the others.
type diskWrite struct {
	name    string
	request func(t *testing.T, n int) Exchange
	admin   bool                           // with the operator's certificate
	stored  func(t *testing.T, n int) bool // nil where the good runs between replace what was written
}

const fullDisk = "The disk of the server is full: nothing was stored"

func TestAFullDiskRefusesEveryWriteInWordsAndLosesNothing(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "48m")
	m := afflict(t, ServerOptions{Data: filepath.Join(disk, "data")})
	m.WriteCode("production/manifests/site.pp", "notify { 'one': }\n")
	operator := preparesWrites(t, m)
	m.serves(t)
	m.forget(t)
	ballast := fill(t, disk)

	kept := map[string][]int{}
	kinds := diskWrites(m)
	for _, kind := range kinds {
		client := m.node
		if kind.admin {
			client = operator
		}
		refused := false
		for n := 0; n < 200 && !refused; n++ { // what is allocated already still takes small writes
			got := ask(t, m, client, kind.request(t, n))
			switch {
			case got.status < 300:
				kept[kind.name] = append(kept[kind.name], n)
			default:
				refused = true
				got.want(t, http.StatusServiceUnavailable, "^"+fullDisk+"$")
			}
		}
		if !refused {
			t.Errorf("%s: never refused, so this showed nothing", kind.name)
		}
	}
	if status, _, words := m.CLI("ca", "generate", "--certname", "late.example.test", "--to", t.TempDir()); status == 0 || !strings.Contains(words, fullDisk) {
		t.Errorf("troupe ca generate: exit %d %q", status, words)
	}

	// Who only reads is served, with the code that was there.
	m.WriteCode("production/manifests/site.pp", "notify { 'two': }\n# "+noise(1<<20)+"\n")
	ask(t, m, m.node, get("", "", own("node"), acceptJSON)).want(t, http.StatusOK, wellNode)
	ask(t, m, m.node, get("", "", "/puppet-ca/v1/certificate_revocation_list/ca")).want(t, http.StatusOK, "BEGIN X509 CRL")
	ask(t, m, m.node, get("", "", "/status/v1/simple")).want(t, http.StatusOK, "running")

	var told []logLine
	for _, l := range m.lines(t) {
		if l.level() == "ERROR" {
			told = append(told, l)
		}
	}
	want := []string{"disk is nearly full: facts, catalogs and reports are refused, certificates are still signed and revoked", "journal commits fail, nothing can be stored"}
	if len(told) != 2 || !slices.ContainsFunc(told, func(l logLine) bool { return l["msg"] == want[0] }) || !slices.ContainsFunc(told, func(l logLine) bool { return l["msg"] == want[1] }) ||
		told[0]["remedy"] != "make room on the disk of this folder; no restart is needed" || told[1]["remedy"] != told[0]["remedy"] {
		t.Errorf("the log has these errors, want one of each kind that names the remedy:\n%s", showLines(told))
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.serves(t)
	Eventually(t, Patience, "with room again the new code is served", func() bool {
		return strings.Contains(ask(t, m, m.node, catalogOf(wellNode, "production")).body, `"two"`)
	})
	m.said(t, "INFO", "journal commits succeed again")

	for range 2 { // the second time after a restart
		for _, kind := range kinds {
			for _, n := range kept[kind.name] {
				if kind.stored != nil && !kind.stored(t, n) {
					t.Errorf("%s %d was acknowledged and is not there", kind.name, n)
				}
			}
		}
		m.Stop()
		m.MustCLI("journal", "verify")
		m.Start()
		m.node = m.Client(m.pair)
	}
}

// TestTheLastRoomOfADiskIsForCertificates leaves less than what is kept.
func TestTheLastRoomOfADiskIsForCertificates(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "200m")
	m := afflict(t, ServerOptions{Data: filepath.Join(disk, "data")})
	m.serves(t)
	ballast := fill(t, disk)
	st, err := os.Stat(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, st.Size()-3<<20); err != nil { // 4 MiB are kept
		t.Fatal(err)
	}
	for n, e := range []Exchange{
		reportOf(wellNode, "tight"), catalogOf(wellNode, "production"),
		send("", "", "PUT", own("facts"), fmt.Sprintf(`{"name":%q,"values":{"n":1}}`, wellNode), asJSON, acceptJSON),
	} {
		if got := ask(t, m, m.node, e); got.status != http.StatusServiceUnavailable || got.body != fullDisk {
			t.Errorf("request %d: %d %s", n, got.status, got.body)
		}
	}
	identity := m.Generate("late.example.test")
	if got := ask(t, m, m.Client(identity), get("", "", "/puppet/v3/node/late.example.test?environment=production", acceptJSON)); got.status != http.StatusOK {
		t.Errorf("with its new certificate it gets %d %s", got.status, got.body)
	}
	m.MustCLI("ca", "revoke", "--certname", "late.example.test")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.serves(t)
	m.said(t, "INFO", "disk has room again: facts, catalogs and reports are stored")
}

// preparesWrites makes what the writes of the operator are about, and returns the operator's client.
func preparesWrites(t *testing.T, m *afflicted) *http.Client {
	t.Helper()
	for n := range 3 {
		m.Generate(fmt.Sprintf("gone%d.example.test", n))
		waits := fmt.Sprintf("waits%d.example.test", n)
		ask(t, m, m.node, send("", "", "PUT", "/puppet-ca/v1/certificate_request/"+waits, csr(t, waits), asText)).want(t, http.StatusOK, "")
	}
	return m.Client(m.Generate("admin.example.test", "--ca-client"))
}

func diskWrites(m *afflicted) []diskWrite {
	content := func(n int) string { return fmt.Sprintf("%d %s", n, strings.Repeat("content ", 1<<17)) }
	sum := func(n int) string {
		s := sha256.Sum256([]byte(content(n)))
		return hex.EncodeToString(s[:])
	}
	found := func(t *testing.T, target, pattern string) bool {
		t.Helper()
		got := ask(t, m, m.node, get("", "", target, "Accept: application/octet-stream"))
		return got.status == http.StatusOK && strings.Contains(got.body, pattern)
	}
	requested := func(n int) string { return fmt.Sprintf("new%d.example.test", n) }
	return []diskWrite{
		{
			name: "report", request: func(_ *testing.T, n int) Exchange {
				e := reportOf(wellNode, fmt.Sprintf("full-%d", n))
				e.Body = strings.Replace(e.Body, `"logs":[]`, `"logs":[{"level":"notice","message":"`+noise(500_000)+`","source":"x","tags":[],"time":"2026-11-20T10:00:00+00:00","file":null,"line":null}]`, 1)
				return e
			},
			stored: func(t *testing.T, n int) bool {
				t.Helper()
				for _, r := range m.Reports(wellNode) {
					if r.TransactionUUID == fmt.Sprintf("full-%d", n) {
						return true
					}
				}
				return false
			},
		},
		{
			name: "facts", request: func(_ *testing.T, n int) Exchange {
				return send("", "", "PUT", own("facts"), fmt.Sprintf(`{"name":%q,"values":{"n":%d,"noise":%q}}`, wellNode, n, noise(100_000)), asJSON, acceptJSON)
			},
		},
		{
			name: "catalog", request: func(_ *testing.T, n int) Exchange {
				e := catalogOf(wellNode, "production")
				e.Body = strings.Replace(e.Body, "site_custom", fmt.Sprintf("n%d%s", n, noise(100_000)), 1)
				return e
			},
		},
		{
			name: "bucket", request: func(_ *testing.T, n int) Exchange {
				return send("", "", "PUT", "/puppet/v3/file_bucket_file/sha256/"+sum(n)+"?environment=production", content(n), asBytes, "Accept: application/octet-stream")
			},
			stored: func(t *testing.T, n int) bool {
				t.Helper()
				return found(t, "/puppet/v3/file_bucket_file/sha256/"+sum(n)+"?environment=production", content(n))
			},
		},
		{
			name: "certificate request", request: func(t *testing.T, n int) Exchange {
				t.Helper()
				return send("", "", "PUT", "/puppet-ca/v1/certificate_request/"+requested(n), csr(t, requested(n)), asText)
			},
			stored: func(t *testing.T, n int) bool { t.Helper(); return m.Certificates()[requested(n)].State != "" },
		},
		{
			name: "signature", admin: true, request: func(_ *testing.T, n int) Exchange {
				return send("", "", "PUT", fmt.Sprintf("/puppet-ca/v1/certificate_status/waits%d.example.test", n), `{"desired_state":"signed"}`, asJSON)
			},
			stored: func(t *testing.T, n int) bool {
				t.Helper()
				return m.Certificates()[fmt.Sprintf("waits%d.example.test", n)].State == "signed"
			},
		},
		{
			name: "revocation", admin: true, request: func(_ *testing.T, n int) Exchange {
				return send("", "", "PUT", fmt.Sprintf("/puppet-ca/v1/certificate_status/gone%d.example.test", n), `{"desired_state":"revoked"}`, asJSON)
			},
			stored: func(t *testing.T, n int) bool {
				t.Helper()
				return m.Certificates()[fmt.Sprintf("gone%d.example.test", n)].State == "revoked"
			},
		},
	}
}
