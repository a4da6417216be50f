//go:build parity || record

package classes

// This file compares all classes that are recorded, with each set of facts: some minutes.

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEveryClassIsThatOfTheRealServer(t *testing.T) {
	for _, set := range []string{"debian-12", "redhat-9"} {
		for _, path := range recordingsOf(t, set) {
			t.Run(filepath.Base(path), func(t *testing.T) {
				t.Log(compare(t, startMember(t, allModules(t)), set, recorded(t, path)))
			})
		}
	}
}

// allModules lists the modules that are installed.
func allModules(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(installed)
	if err != nil {
		t.Fatalf("%v: install the packages puppet-module-*", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func recordingsOf(t *testing.T, set string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(recordingFolder, set+".*.jsonl.zst"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
