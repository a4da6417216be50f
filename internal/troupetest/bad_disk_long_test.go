//go:build long

package troupetest

// This file breaks a real file system under a member.

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// refused is said by whichever writes first: SQLite, which does not keep the system's reason, or the file bucket.
var refused = regexp.MustCompile("^The disk of the server (fails: nothing can be|is read-only: nothing was) stored$")

// A disk with errors makes ext4 read-only under whoever has files open, where errors=remount-ro is set, as installers do.
func TestAFileSystemThatTurnsReadOnlyRefusesWritesAndServesReads(t *testing.T) {
	dir := TempDir(t)
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	mkdir(t, disk)
	run(t, exec.CommandContext(t.Context(), "truncate", "-s", "256M", image))
	run(t, exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", image))
	run(t, exec.CommandContext(t.Context(), "mount", "-o", "loop,errors=remount-ro", image, disk))
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", disk, err)
		}
	})

	m := afflict(t, ServerOptions{Data: filepath.Join(disk, "data")})
	m.WriteCode("production/manifests/site.pp", "notify { 'one': }\n")
	operator := preparesWrites(t, m)
	m.serves(t)
	m.forget(t)
	breakExt4(t, disk)

	for _, kind := range diskWrites(m) {
		client := m.node
		if kind.admin {
			client = operator
		}
		for n := range 2 {
			got := ask(t, m, client, kind.request(t, n))
			if got.status != http.StatusServiceUnavailable || !refused.MatchString(got.body) {
				t.Errorf("%s: %d %.300q, want 503 and that the disk fails", kind.name, got.status, got.body)
			}
		}
	}
	ask(t, m, m.node, get("", "", own("node"), acceptJSON)).want(t, http.StatusOK, wellNode)
	ask(t, m, m.node, get("", "", "/puppet-ca/v1/certificate_revocation_list/ca")).want(t, http.StatusOK, "BEGIN X509 CRL")
	var told []logLine
	for _, l := range m.lines(t) {
		if l.level() == "ERROR" {
			told = append(told, l)
		}
	}
	if len(told) != 1 || told[0]["msg"] != "journal commits fail, nothing can be stored" {
		t.Errorf("the log has these errors, want one:\n%s", showLines(told))
	}

	m.Kill() // what it would write when it stops cannot be written
	Eventually(t, Patience, "the last files on the disk are closed", func() bool { return syscall.Unmount(disk, 0) == nil })
	run(t, exec.CommandContext(t.Context(), "sh", "-c", `e2fsck -p "$0"; test $? -le 1`, image)) // 1: mended
	run(t, exec.CommandContext(t.Context(), "mount", "-o", "loop", image, disk))
	m.MustCLI("journal", "verify")
	m.Start()
	m.node = m.Client(m.pair)
	m.serves(t)
	if n := len(m.Reports(wellNode)); n != 2 {
		t.Errorf("%d reports are stored, want the two that were acknowledged", n)
	}
}

// breakExt4 lets the kernel find an error in the file system.
func breakExt4(t *testing.T, disk string) {
	t.Helper()
	source, err := exec.CommandContext(t.Context(), "findmnt", "-no", "SOURCE", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	device := filepath.Base(strings.TrimSpace(string(source)))
	writeFile(t, filepath.Join("/sys/fs/ext4", device, "trigger_fs_error"), "an error for a test")
	if err := os.WriteFile(filepath.Join(disk, "probe"), nil, 0o600); err == nil {
		t.Fatal("the file system still takes writes, so this would show nothing")
	}
}
