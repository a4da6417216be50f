package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// keys are what a test seals: settled ones, and one that waits for its record.
var settled, staged = [][]byte{{1}, {2}, {3}}, []byte{4}

func plainOf(id []byte) []byte { return fmt.Appendf(nil, "the key %x", id) }

func fill(tb testing.TB, dir string) {
	tb.Helper()
	v := mustOpen(tb, dir, "")
	for _, id := range settled {
		if err := errors.Join(v.Stage(id, plainOf(id)), v.Settle(id)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := v.Stage(staged, plainOf(staged)); err != nil {
		tb.Fatal(err)
	}
}

func mustOpen(tb testing.TB, dir, sealKey string) *Vault {
	tb.Helper()
	v, err := Open(dir, sealKey)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// wantAll holds that a vault has every key, and that nothing of a change is left.
func wantAll(tb testing.TB, v *Vault) {
	tb.Helper()
	if err := v.Settle(staged); err != nil {
		tb.Fatal(err)
	}
	for _, id := range append([][]byte{staged}, settled...) {
		got, err := v.Open(id)
		if err != nil || !bytes.Equal(got, plainOf(id)) {
			tb.Errorf("key %x: %q, %v", id, got, err)
		}
	}
}

func leftovers(tb testing.TB, dir string) []string {
	tb.Helper()
	var all []string
	for _, pattern := range []string{"*" + nextSuffix, filepath.Join("keys", "*"+resealedSuffix)} {
		some, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

func content(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestResealing(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	sealKey, one := filepath.Join(dir, sealKeyName), filepath.Join(dir, "keys", "01.sealed")
	oldKey, oldSealed := content(t, sealKey), content(t, one)
	v := mustOpen(t, dir, "")
	if pending, err := v.Reseal(""); err != nil || pending {
		t.Fatal(pending, err)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	wantAll(t, v)
	wantAll(t, mustOpen(t, dir, ""))

	// The old sealing key opens nothing that is on the disk now, and a copy of the old file is nothing to the new one.
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := os.WriteFile(stolen, []byte(oldKey), 0o600); err != nil {
		t.Fatal(err)
	}
	thief := mustOpen(t, dir, stolen)
	if _, err := thief.Open(settled[0]); err == nil {
		t.Error("the old sealing key opens a key that was sealed anew")
	}
	if err := os.WriteFile(one, []byte(oldSealed), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Open(settled[0]); err == nil || !strings.Contains(err.Error(), "sealed with another key") {
		t.Errorf("an old copy of a sealed key: %v", err)
	}
}

// A sealing key from outside counts when the vault is opened with it. Until then the old one does.
func TestResealingForAKeyFromOutside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	fill(t, dir)
	next := filepath.Join(outside, "next")
	if err := os.WriteFile(next, []byte(hex.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := mustOpen(t, dir, "")
	if pending, err := v.Reseal(next); err != nil || !pending {
		t.Fatal(pending, err)
	}
	wantAll(t, v)
	again := mustOpen(t, dir, "") // restarted before the credential was replaced
	if _, err := again.Open(settled[0]); err != nil {
		t.Error(err)
	}
	if _, err := again.Reseal(next); err != nil { // what was settled since
		t.Fatal(err)
	}
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.MkdirAll(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(credentials, sealCredential), []byte(content(t, next)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	after := mustOpen(t, dir, "")
	wantAll(t, after)
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := after.Reseal(""); err == nil || !strings.Contains(err.Error(), "from outside") {
		t.Errorf("a sealing key from systemd was replaced: %v", err)
	}
	if err := errors.Join(after.Stage([]byte{9}, plainOf([]byte{9})), after.Settle([]byte{9})); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := mustOpen(t, dir, "").Open(settled[0]); err == nil {
		t.Error("the sealing key of before opens keys after the change")
	}
}

// TestResealingKilledAnywhere kills a process after each of its steps. Whoever opens the vault then has every key, and can do it again.
func TestResealingKilledAnywhere(t *testing.T) {
	const folder, after = "VAULT_TEST_FOLDER", "VAULT_TEST_STEPS"
	if dir := os.Getenv(folder); dir != "" { // in the process that is killed
		left, err := strconv.Atoi(os.Getenv(after))
		if err != nil {
			t.Fatal(err)
		}
		v := mustOpen(t, dir, "")
		v.afterStep = func() {
			if left--; left < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		if _, err := v.Reseal(""); err != nil {
			t.Fatal(err)
		}
		return
	}
	counted := 0
	for steps := 0; ; steps++ {
		dir := t.TempDir()
		fill(t, dir)
		before := content(t, filepath.Join(dir, sealKeyName))
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestResealingKilledAnywhere$")
		cmd.Env = append(os.Environ(), folder+"="+dir, fmt.Sprintf("%s=%d", after, steps))
		out, err := cmd.CombinedOutput()
		finished := err == nil
		if exit, ok := errors.AsType[*exec.ExitError](err); !finished && (!ok || !exit.Sys().(syscall.WaitStatus).Signaled()) {
			t.Fatalf("after %d steps: %v\n%s", steps, err, out)
		}
		v := mustOpen(t, dir, "")
		wantAll(t, v)
		if left := leftovers(t, dir); len(left) > 0 {
			t.Errorf("after %d steps there is left: %v", steps, left)
		}
		if content(t, filepath.Join(dir, sealKeyName)) != before {
			counted++
		}
		if _, err := v.Reseal(""); err != nil {
			t.Fatal(err)
		}
		wantAll(t, mustOpen(t, dir, ""))
		if finished {
			if steps < 6 || counted < 2 || counted > steps {
				t.Errorf("it took %d steps, and after %d of them the new key counted", steps, counted)
			}
			return
		}
	}
}

func TestWhatIsNoSealingKey(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := mustOpen(t, dir, "")
	if _, err := v.Reseal(bad); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Errorf("%v", err)
	}
	if _, err := v.Reseal(bad + ".not-there"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	wantAll(t, v)
}
