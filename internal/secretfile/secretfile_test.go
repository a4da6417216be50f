package secretfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"troupe/internal/fault"
)

func TestOnlyTheOwnerMayReadASecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	lay(t, path, "correct horse\nrest\n")
	for mode := range os.FileMode(0o100) {
		if err := os.Chmod(path, 0o600|mode); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		for what, err := range map[string]error{"Read": err, "Check": Check(path)} {
			if mode == 0 && err != nil {
				t.Errorf("%s of mode 0600: %v", what, err)
			}
			if mode != 0 && (fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "chmod 0600 "+path) || strings.Contains(err.Error(), "horse")) {
				t.Errorf("%s of mode %04o: %v", what, 0o600|mode, err)
			}
		}
	}
}

func TestLineIsTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string]string{
		"correct horse":                      "correct horse",
		"correct horse\n":                    "correct horse",
		"correct horse\r\nanother\n":         "correct horse",
		" spaces stay \n":                    " spaces stay ",
		"":                                   "error: the first line is the password, 1 to 20 bytes, and is empty",
		"\nsecond\n":                         "error: the first line is the password, 1 to 20 bytes, and is empty",
		strings.Repeat("x", 20):              strings.Repeat("x", 20),
		strings.Repeat("x", 21):              "error: the first line is the password, 1 to 20 bytes, and has 21",
		"x\n" + strings.Repeat("y", Limit-2): "x",
		"x\n" + strings.Repeat("y", Limit-1): "error: more than 65536 bytes",
	} {
		lay(t, path, text)
		got, err := Line(path, "the password", 20)
		if wrong, ok := strings.CutPrefix(want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), "xx") {
				t.Errorf("%.30q: %v, want %q", text, err, wrong)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%.30q: %q, %v", text, got, err)
		}
	}
}

func TestReadTakesAPipeAndNothingEmpty(t *testing.T) {
	dir := t.TempDir()
	blank, pipe := filepath.Join(dir, "blank"), filepath.Join(dir, "pipe")
	lay(t, blank, " \n\t\n")
	if _, err := Read(blank); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("a blank file: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("from a pipe"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := Read(fmt.Sprintf("/dev/fd/%d", r.Fd())); got != "from a pipe" || err != nil {
		t.Errorf("from a pipe: %q, %v", got, err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir} {
		if err := Check(path); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("Check(%s): %v", path, err)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}

func lay(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
