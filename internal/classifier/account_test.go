package classifier

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/internal/account"
	"troupe/internal/fault"
)

// openScript writes an executable that every user can reach.
func openScript(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil { // #nosec G302 -- another user has to enter
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "command")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil { // #nosec G306 -- run by another user
		t.Fatal(err)
	}
	return path
}

// TestCommandsRunAsTheAccount changes the user only as root, as troupe itself.
func TestCommandsRunAsTheAccount(t *testing.T) {
	type who struct {
		UID, GID, Groups, Home, User string
	}
	own := who{fmt.Sprint(os.Geteuid()), fmt.Sprint(os.Getegid()), "", "", ""}
	tests := []struct {
		name    string
		account account.Account
		want    who
	}{
		{"none", account.Account{}, own},
		{"our own", account.Account{UID: os.Geteuid(), GID: os.Getegid()}, own},
	}
	if os.Geteuid() == 0 {
		tests = append(tests, []struct {
			name    string
			account account.Account
			want    who
		}{
			{"without a name", account.Account{UID: 54321, GID: 54322}, who{"54321", "54322", "54322", "/", "54321"}},
			{"with a home", account.Account{UID: 54321, GID: 54322, Home: "/srv"}, who{"54321", "54322", "54322", "/srv", "54321"}},
		}...)
	}
	path := openScript(t, `echo "{\"UID\":\"$(id -u)\",\"GID\":\"$(id -g)\",\"Groups\":\"$(id -G)\",\"Home\":\"$HOME\",\"User\":\"$USER\"}"`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := classifier(t, Options{Command: path, External: path, Account: tt.account})
			enc, err := c.run(t.Context(), "web1")
			if err != nil {
				t.Fatal(err)
			}
			external, err := c.External(t.Context(), "web1")
			if err != nil {
				t.Fatal(err)
			}
			for what, answer := range map[string][]byte{"ENC": enc, "trusted_external_command": external} {
				var got who
				if err := json.Unmarshal(answer, &got); err != nil {
					t.Fatal(err)
				}
				if tt.want.Groups == "" {
					got.Groups = "" // those of whoever runs the test
				}
				if got != tt.want {
					t.Errorf("%s runs as %+v, want %+v", what, got, tt.want)
				}
			}
		})
	}
}

func TestStderrGoesToTheLog(t *testing.T) {
	for _, tt := range []struct{ name, script, level, stderr string }{
		{"failure", "echo 'no database' >&2; exit 3", "WARN", "no database"},
		{"success", "echo 'deprecated' >&2; echo '{}'", "DEBUG", "deprecated"},
		{"much", "yes 0123456 | head -c 100000 >&2; echo reason. >&2; exit 1", "WARN", strings.Repeat("0123456\n", maxStderr/8-1) + "reason."},
		{"silence", "exit 1", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			c := classifier(t, Options{Command: script(t, tt.script), Log: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			_, err := c.Classify(t.Context(), "web1.example.test")
			if tt.level == "WARN" && strings.Contains(fault.Message(err), tt.stderr) {
				t.Errorf("the agent is shown stderr: %v", err)
			}
			var got struct{ Level, Msg, Certname, Stderr string }
			for line := range strings.Lines(out.String()) {
				if strings.Contains(line, "command wrote to stderr") {
					if err := json.Unmarshal([]byte(line), &got); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got.Level != tt.level || strings.TrimSpace(got.Stderr) != strings.TrimSpace(tt.stderr) {
				t.Errorf("logged %q at %q, want %q at %q", got.Stderr, got.Level, tt.stderr, tt.level)
			}
			if tt.level != "" && got.Certname != "web1.example.test" {
				t.Errorf("the line names node %q", got.Certname)
			}
		})
	}
}
