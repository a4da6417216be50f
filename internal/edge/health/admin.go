package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
)

// This file keeps the operator's word, which wins over everything else and survives a restart.

// ModeReady takes back drain and maint.
const ModeReady = "ready"

// maxSaved bounds for how many servers a word is kept: also for such as are not watched now and may come back.
const maxSaved = 4096

// saved is the content of Options.SaveFile.
type saved struct {
	Admin map[string]string `json:"admin"`
}

// Admin sets a server to ready, drain or maint. When it returns nil, the word is on the disk.
func (m *Monitor) Admin(id, mode string) error {
	word := mode
	switch mode {
	case ModeReady:
		word = ""
	case string(Drain), string(Maint):
	default:
		return fault.New(fault.Invalid, "no mode %q: it is one of ready, drain, maint", mode)
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	if m.unloaded != nil {
		return m.unloaded
	}

	m.mu.Lock()
	next := maps.Clone(m.admin)
	known := m.targets[id] != nil || next[id] != ""
	m.mu.Unlock()
	if !known {
		return fault.New(fault.NotFound, "no server %q is watched", id)
	}
	if word == "" {
		delete(next, id)
	} else {
		next[id] = word
	}
	if len(next) > maxSaved {
		return fault.New(fault.TooLarge, "%d servers are in drain or maint; set some to ready first", maxSaved)
	}
	err := m.save(next)
	if err != nil {
		return err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.admin = next
	if w := m.targets[id]; w != nil {
		w.judge.admin = word
		m.settle(w, m.o.Now())
	}
	return nil
}

// Reload goes by what SaveFile says now: another process may have written it.
func (m *Monitor) Reload() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.admin = map[string]string{}
	if m.unloaded = m.load(); m.unloaded != nil {
		return m.unloaded
	}
	now := m.o.Now()
	for id, w := range m.targets {
		w.judge.admin = m.admin[id]
		m.settle(w, now)
	}
	return nil
}

func (m *Monitor) save(admin map[string]string) error {
	if m.o.SaveFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(saved{admin}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(m.o.SaveFile, append(data, '\n'), 0o600)
}

// load reads what operators said before the restart. A file that cannot be read stops everything: to forget it would send work to
// a server that somebody has taken apart.
func (m *Monitor) load() error {
	if m.o.SaveFile == "" {
		return nil
	}
	data, err := os.ReadFile(m.o.SaveFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	for id, mode := range s.Admin {
		if mode != string(Drain) && mode != string(Maint) {
			err = errors.Join(err, fmt.Errorf("server %q has the mode %q", id, mode))
		}
	}
	if err != nil {
		return fmt.Errorf("read which servers are in drain or maint from %s: %w; mend the file, or remove it, and all are ready", m.o.SaveFile, err)
	}
	if s.Admin != nil {
		m.admin = s.Admin
	}
	return nil
}
