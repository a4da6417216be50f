package classifier

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/internal/fault"
)

func TestExternalDataOfACommandOrAFolderReachesTrusted(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ name, command, want, err string }{
		{name: "nothing configured"},
		{name: "one command", command: script("one", `echo "{\"role\": \"$1\"}"`, 0o755), want: `{"role": "web1"}`},
		{name: "no JSON", command: script("rubbish", "echo hello", 0o755), err: "printed no JSON for web1"},
		{name: "exit code", command: script("exit", "echo why; exit 3", 0o755), err: "exit web1' returned 3: why"},
		{name: "hangs", command: script("hangs", "sleep 60", 0o755), err: "took longer than"},
		{name: "not there", command: filepath.Join(dir, "absent"), err: "trusted_external_command"},
		{name: "a folder", command: filepath.Dir(script("many/cmdb.sh", `echo '{"a":1}'`, 0o755)), want: `{"cmdb":{"a":1},"other":[2]}`},
		{name: "two of one name", command: filepath.Dir(script("twice/a.sh", "echo 1", 0o755)), err: "There is more than one 'a' script"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "a folder" {
				script("many/other.rb", "echo '[2]'", 0o755)
				script("many/README", "exit 1", 0o644)
			}
			if tt.name == "two of one name" {
				script("twice/a.rb", "echo 2", 0o755)
			}
			c, err := New(Options{External: tt.command, Timeout: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.External(t.Context(), "web1")
			if tt.err == "" && (err != nil || string(got) != tt.want) {
				t.Errorf("External = %s, %v, want %s", got, err, tt.want)
			}
			if tt.err != "" && (fault.KindOf(err) != fault.Failed || !strings.Contains(fault.Message(err), tt.err)) {
				t.Errorf("error = %v, want a Failed fault with %q", err, tt.err)
			}
		})
	}
}
