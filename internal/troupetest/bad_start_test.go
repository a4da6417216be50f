package troupetest

// This file starts members that cannot start, and members on folders that have suffered.

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"troupe/internal/journal"
)

// startFails runs a member that has to end by itself, and returns what it said.
func startFails(t *testing.T, data, config string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	file := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, file, config)
	args := append([]string{"server", "--confdir", "none", "--certname", "puppet.example.test", "--listen", "127.0.0.1:0", "--data", data, "--config", file}, flags...)
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	cmd.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err == nil || ctx.Err() != nil {
		t.Fatalf("the member ended with %v (%v):\n%s", err, ctx.Err(), said.String())
	}
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit status %d, want 1", cmd.ProcessState.ExitCode())
	}
	return said.String()
}

// wantOnce shows that a text is said once.
func wantOnce(t *testing.T, said, pattern string) {
	t.Helper()
	if n := len(regexp.MustCompile(pattern).FindAllString(said, -1)); n != 1 {
		t.Errorf("%q is said %d times, want once:\n%s", pattern, n, said)
	}
}

func TestAMemberThatCannotStartSaysWhyAndTheWayOut(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{})
	m.serves(t)
	fresh := func(t *testing.T) string { t.Helper(); return filepath.Join(TempDir(t), "data") }

	for _, row := range []struct {
		name, words string
		said        func(t *testing.T) string
	}{
		{"its port is taken", `another process has this port; stop it \(a puppetserver\?\) or choose another with --listen`, func(t *testing.T) string {
			t.Helper()
			data := fresh(t)
			defer func() {
				if _, err := os.Stat(data); err == nil {
					t.Error("a data folder was made nevertheless")
				}
			}()
			return startFails(t, data, "", "--listen", m.Addr)
		}},
		{"its folder is in use", `data folder .*/journal is in use by process \d+: stop it first, or choose another folder`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, m.Data, "")
		}},
		{"its folder is another user's", `data folder .*/journal belongs to user 65534, and this process runs as user 0: run it as the owner, or chown -R the folder`, func(t *testing.T) string {
			t.Helper()
			data := fresh(t)
			mkdir(t, filepath.Join(data, "journal"))
			if err := os.Chown(filepath.Join(data, "journal"), 65534, 65534); err != nil {
				t.Fatal(err)
			}
			return startFails(t, data, "")
		}},
		{"its folder is read-only", `read-only file system`, func(t *testing.T) string {
			t.Helper()
			disk := smallDisk(t, "8m")
			run(t, exec.CommandContext(t.Context(), "mount", "-o", "remount,ro", disk))
			return startFails(t, filepath.Join(disk, "data"), "")
		}},
		{"its disk is full", `The disk of the server is full|no space left on device|disk is full`, func(t *testing.T) string {
			t.Helper()
			disk := smallDisk(t, "1m")
			fill(t, disk)
			return startFails(t, filepath.Join(disk, "data"), "")
		}},
		{"Ruby is missing", `the configured Ruby cannot be run: exec: "/nowhere/ruby"`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, fresh(t), "engine: {ruby: /nowhere/ruby}\n")
		}},
		{"Ruby is no Ruby", `/bin/false`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, fresh(t), "engine: {ruby: /bin/false}\n")
		}},
		{"Puppet's library is not there", `finding the Puppet library in /nowhere/lib: stat /nowhere/lib: no such file or directory`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, fresh(t), "engine: {puppet_lib: [/nowhere/lib]}\n")
		}},
		{"Puppet's library is broken", `syntax error`, func(t *testing.T) string {
			t.Helper()
			lib := TempDir(t)
			writeFile(t, filepath.Join(lib, "puppet.rb"), "def broken(\n")
			return startFails(t, fresh(t), "engine: {puppet_lib: ["+lib+"]}\n")
		}},
		{"the engine's user is missing", `nosuchuser`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, fresh(t), "engine: {user: nosuchuser}\n")
		}},
		{"a setting is unknown", `troupe.yaml:2: .*wrokers`, func(t *testing.T) string {
			t.Helper()
			return startFails(t, fresh(t), "engine:\n  wrokers: 2\n")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			said := row.said(t)
			wantOnce(t, said, row.words)
			if strings.Contains(said, "goroutine ") {
				t.Errorf("the member panicked:\n%s", said)
			}
		})
	}
	t.Run("the member beside them serves", m.serves)
}

// patch changes bytes of a file in place.
func patch(t *testing.T, path string, offset int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// userVersion is where SQLite keeps the version of a file's format.
const userVersion = 60

func TestAFolderThatHasSufferedIsMendedOrRefusedInWords(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{})
	m.serves(t)
	m.Stop()
	good := filepath.Join(TempDir(t), "good")
	copyTree(t, m.Data, good)
	reset := func(t *testing.T) {
		t.Helper()
		if err := os.RemoveAll(m.Data); err != nil {
			t.Fatal(err)
		}
		run(t, exec.CommandContext(t.Context(), "cp", "-a", good, m.Data))
	}
	file := func(name string) string { return filepath.Join(m.Data, name) }
	newer := binary.BigEndian.AppendUint32(nil, 99)

	for _, row := range []struct {
		name  string
		spoil func(t *testing.T)
		words string
	}{
		{
			"a journal of a newer version", func(t *testing.T) { t.Helper(); patch(t, file("journal/journal.db"), userVersion, newer) },
			`journal .*/journal.db has format 99, and this troupe knows formats up to 1: start a newer troupe on it`,
		},
		{"tables of a newer version", func(t *testing.T) { t.Helper(); patch(t, file("store/store.db"), userVersion, newer) }, `it has format 99, and this troupe knows formats up to \d+: start a newer troupe`},
		{"a journal that is no database", func(t *testing.T) {
			t.Helper()
			patch(t, file("journal/journal.db"), 0, bytes.Repeat([]byte("rubbish "), 64))
		}, `journal .*/journal.db cannot be read: .*; restore the folder from a backup`},
		{"a journal that was cut off", func(t *testing.T) {
			t.Helper()
			if err := os.Truncate(file("journal/journal.db"), 5000); err != nil {
				t.Fatal(err)
			}
		}, `journal .*malformed`},
		{"a key of the CA that was cut off", func(t *testing.T) {
			t.Helper()
			keys, err := filepath.Glob(file("ca/keys/*"))
			if err != nil || len(keys) == 0 {
				t.Fatalf("no key in the CA's folder (%v)", err)
			}
			for _, key := range keys {
				if err := os.Truncate(key, 10); err != nil {
					t.Fatal(err)
				}
			}
		}, `\.sealed is damaged: restore it from a backup`},
	} {
		t.Run(row.name, func(t *testing.T) {
			reset(t)
			row.spoil(t)
			said := startFails(t, m.Data, "")
			wantOnce(t, said, row.words)
		})
	}

	for _, row := range []struct{ name, file, level, words string }{
		{"tables that were cut off", "store/store.db", "ERROR", "store is damaged and will be made again from the journal"},
		{"a list of certificates that was cut off", "ca/ca.db", "WARN", "list of certificates is unreadable: folding it anew from the journal"},
	} {
		t.Run(row.name, func(t *testing.T) {
			reset(t)
			if err := os.Truncate(file(row.file), 3000); err != nil {
				t.Fatal(err)
			}
			m.forget(t)
			m.Start()
			m.node = m.Client(m.pair)
			m.said(t, row.level, row.words)
			if n := len(m.Reports(wellNode)); n < 2 {
				t.Errorf("%d reports are left", n)
			}
			if m.Certificates()[wellNode].State != "signed" {
				t.Errorf("the certificate of %s is %+v", wellNode, m.Certificates()[wellNode])
			}
			m.Stop()
		})
	}
	t.Run("a journal that is ahead of the clock", func(t *testing.T) {
		reset(t)
		clockSetBack(t, m)
	})
}

// clockSetBack lets the journal have been written by a clock that was then set back by two days. The process's own clock
// cannot be changed for it alone; for the member both are the same.
func clockSetBack(t *testing.T, m *afflicted) {
	t.Helper()
	j, err := journal.Open(filepath.Join(m.Data, "journal"), journal.Options{Now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Append(t.Context(), journal.Draft{Stream: journal.Bulk, Kind: "later", Key: wellNode, Body: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m.forget(t)
	m.Start()
	m.node = m.Client(m.pair)
	m.said(t, "WARN", "journal is ahead of the clock of this machine")
	before := len(m.Reports(wellNode))
	for n := range 3 {
		ask(t, m, m.node, reportOf(wellNode, fmt.Sprintf("after-%d", n))).want(t, http.StatusOK, "store")
	}
	if got := len(m.Reports(wellNode)) - before; got != 3 {
		t.Errorf("%d of three reports are stored", got)
	}
	agent := m.Generate("signed-by-a-late-clock.example.test")
	ask(t, m, m.Client(agent), catalogOf("signed-by-a-late-clock.example.test", "production")).want(t, http.StatusOK, `"resources"`)
	m.Stop()
	m.MustCLI("journal", "verify")
}
