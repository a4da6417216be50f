package store

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

func TestReadingAheadLeavesSQLiteItsLocks(t *testing.T) {
	m := newMemberAt(t, time.Now(), Options{})
	must(t, m.SaveFacts(t.Context(), facts("web", `{"a":"1"}`), "m"))
	m.warm(t.Context())
	if m.warmed == nil {
		t.Fatal("the tables were not read")
	}
	if n, err := m.warmed.Read(make([]byte, 1)); n != 0 {
		t.Errorf("they were not read to the end: %v", err)
	}
	info, err := os.Stat(filepath.Join(m.DB.dir, fileName))
	must(t, err)
	locks, err := os.ReadFile("/proc/locks")
	must(t, err)
	if !regexp.MustCompile(fmt.Sprintf(` %d [0-9a-f]+:[0-9a-f]+:%d `, os.Getpid(), info.Sys().(*syscall.Stat_t).Ino)).Match(locks) {
		t.Error("SQLite's lock on the file is gone")
	}
}
