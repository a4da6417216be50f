//go:build long

package troupetest

// These stories have backups that nobody asks for.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// backups are the names of those in a folder, with -o json.
func backups(t *testing.T, place string) (names []string) {
	t.Helper()
	if _, err := os.Stat(place); err != nil {
		return nil
	}
	var all []struct {
		Name  string
		Whole bool
	}
	if err := json.Unmarshal([]byte(mustTroupe(t, nil, "backup", "list", "--from", place, "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if !b.Whole {
			t.Errorf("%s is not whole", b.Name)
		}
		names = append(names, b.Name)
	}
	return names
}

// page is what an address answers; nothing while nobody does.
func page(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAMemberBacksItselfUp(t *testing.T) {
	t.Parallel()
	place, secret := filepath.Join(TempDir(t), "backups"), passphraseFile(t)
	metrics, _ := MemberPort(t)
	config := fmt.Sprintf("backup:\n  to: %s\n  every: 1d\n  keep: 2\n  passphrase_file: %s\nmetrics:\n  listen: %s\n", place, secret, metrics)
	s := StartServer(t, ServerOptions{Config: config, Autosign: true})
	Eventually(t, Patience, "there is a backup", func() bool { return len(backups(t, place)) == 1 })
	mustTroupe(t, nil, "backup", "verify", "--from", place, "--passphrase-file", secret)
	var text string
	Eventually(t, Patience, "the metrics tell of it", func() bool {
		text = page(t, "http://"+metrics+"/metrics")
		return strings.Contains(text, `troupe_backup_runs_total{result="ok"} 1`)
	})
	if !strings.Contains(text, "\ntroupe_backup_last_success_timestamp_seconds 1.") {
		t.Errorf("no time of the last success:\n%s", text)
	}
	first := backups(t, place)

	// One that is started again makes no further one; the command uses the same place, and keeps what it is told to.
	s.Stop()
	s.Start()
	Eventually(t, Patience, "it knows of the one before", func() bool {
		return strings.Contains(page(t, "http://"+metrics+"/metrics"), "\ntroupe_backup_last_success_timestamp_seconds 1.")
	})
	if got := backups(t, place); len(got) != 1 || got[0] != first[0] {
		t.Errorf("after a restart there is %v, before it %v", got, first)
	}
	for range 2 {
		s.MustCLI("backup", "create", "--to", place, "--passphrase-file", secret, "--keep", "2")
	}
	if got := backups(t, place); len(got) != 2 || got[1] == first[0] {
		t.Errorf("of three, two are to be kept: %v", got)
	}
}

func TestBackupsThatCannotBeMadeDisturbNobody(t *testing.T) {
	t.Parallel()
	secret := passphraseFile(t)
	file := filepath.Join(TempDir(t), "file")
	writeFile(t, file, "a file is no folder")
	config := fmt.Sprintf("backup:\n  to: %s\n  every: 1m\n  passphrase_file: %s\n", file, secret)
	s := StartServer(t, ServerOptions{Config: config, Environments: site, Autosign: true})
	log := filepath.Join(filepath.Dir(s.Environments), "server.log")
	Eventually(t, Patience, "it is said", func() bool { return strings.Contains(readFile(t, log), "no backup could be made") })
	enrolled(t, s, Puppet7, "web1.example.test").Run().want(t, 0, "a run at a member that cannot back itself up")

	// By hand, into a disk that fills.
	disk := smallDisk(t, "64k")
	status, _, words := s.CLI("backup", "create", "--to", filepath.Join(disk, "backups"), "--passphrase-file", secret)
	if status != 0 {
		t.Fatalf("a small backup does not fit: %s", words)
	}
	made := backups(t, filepath.Join(disk, "backups"))
	s.WriteCode("production/manifests/large.pp", "# "+noise(200_000))
	status, _, words = s.CLI("backup", "create", "--to", filepath.Join(disk, "backups"), "--passphrase-file", secret)
	if status != 1 || !strings.Contains(words, "is full") {
		t.Errorf("into a full disk: exit %d %s", status, words)
	}
	if got := backups(t, filepath.Join(disk, "backups")); len(got) != 1 || got[0] != made[0] {
		t.Errorf("the disk has %v, and had %v", got, made)
	}
	if entries, err := os.ReadDir(filepath.Join(disk, "backups")); err != nil || len(entries) != 1 {
		t.Errorf("something is left: %v %v", entries, err)
	}
	// A restore that would fill the disk says so before it begins.
	data := filepath.Join(disk, "data")
	status, _, words = troupe(t, nil, "backup", "restore", "--from", filepath.Join(disk, "backups"), "--passphrase-file", secret, "--data", data, "--certname", "back.example.test")
	if status != 1 || !strings.Contains(words, "make room") {
		t.Errorf("a restore into a full disk: exit %d %s", status, words)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("it has begun all the same")
	}
}
