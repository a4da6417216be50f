package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"troupe/internal/statusapi"
	"troupe/internal/store"
)

// This file says how the member does. Each answer comes from asking the part.

// healthy fails when the member cannot do its work: it asks the journal for a
// read and the engine for its workers.
func (m *member) healthy(ctx context.Context) error {
	if err := m.journalAnswers(ctx); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return m.engineHealthy()
}

// believed is for how long a part that has answered is not asked again. Balancers
// and agents ask often, and a herd of them all at once.
const believed = time.Second

// A probe remembers when a part last answered well. A failure is not remembered.
type probe struct {
	mu   sync.Mutex
	well time.Time
}

func (p *probe) ask(ctx context.Context, part func(context.Context) error) error {
	p.mu.Lock()
	known := time.Since(p.well) < believed
	p.mu.Unlock()
	if known {
		return nil
	}
	asked := time.Now()
	if err := part(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.well = asked
	return nil
}

func (m *member) journalAnswers(ctx context.Context) error {
	return m.probes.journal.ask(ctx, func(ctx context.Context) error {
		_, err := m.journal.Origins(ctx)
		return err
	})
}

func (m *member) storeAnswers(ctx context.Context) error {
	return m.probes.store.ask(ctx, func(ctx context.Context) error {
		_, err := m.store.Nodes(ctx, store.NodeQuery{Limit: 1})
		return err
	})
}

func (m *member) engineHealthy() error {
	if s := m.engine.Stats(); !s.Serving {
		return errors.New("the engine does not serve: no Ruby process has been started yet, or it is stopping")
	}
	return nil
}

// services are what /status/v1 shows, with the names that Puppet Server's clients
// look for. Agents ask for "server" (8, 7) or "master" (5, 6).
func (m *member) services() []statusapi.Service {
	return []statusapi.Service{
		{Name: "ca", Version: m.o.Version, Check: m.checkCA},
		{Name: "server", Version: m.o.Version, Check: m.checkServer},
		{Name: "master", Version: m.o.Version, Check: m.checkServer},
		{Name: "jruby-metrics", Version: m.o.Version, Check: m.checkEngine},
		{Name: "puppet-profiler", Version: m.o.Version, Check: m.checkStore},
		{Name: "status-service", Version: m.o.Version, Check: m.checkSelf},
	}
}

// enter begins a phase of the member's life; services that do well show it.
func (m *member) enter(phase statusapi.State) { m.phase.Store(&phase) }

func (m *member) checkCA(ctx context.Context, detail string) (statusapi.State, map[string]any) {
	if err := m.journalAnswers(ctx); err != nil {
		return statusapi.StateError, map[string]any{"error": err.Error()}
	}
	if detail != "debug" {
		return *m.phase.Load(), nil
	}
	return *m.phase.Load(), map[string]any{"expirations": m.authority.Expirations()}
}

func (m *member) checkServer(ctx context.Context, detail string) (statusapi.State, map[string]any) {
	if err := m.healthy(ctx); err != nil {
		return statusapi.StateError, map[string]any{"error": err.Error()}
	}
	if detail != "debug" {
		return *m.phase.Load(), nil
	}
	environments, err := m.code.Environments(ctx)
	if err != nil {
		return statusapi.StateError, map[string]any{"error": err.Error()}
	}
	names := make([]string, len(environments))
	for i, e := range environments {
		names[i] = string(e.Name)
	}
	return *m.phase.Load(), map[string]any{"environments": names, "puppet_version": m.engine.Stats().Puppet}
}

func (m *member) checkEngine(_ context.Context, detail string) (statusapi.State, map[string]any) {
	err := m.engineHealthy()
	if err != nil {
		return statusapi.StateError, map[string]any{"error": err.Error()}
	}
	if detail != "debug" {
		return *m.phase.Load(), nil
	}
	s := m.engine.Stats()
	return *m.phase.Load(), map[string]any{"experimental": map[string]any{"metrics": map[string]any{
		"num-jrubies": s.Workers, "num-free-jrubies": s.Workers - s.Busy, "queue-length": s.Waiting, "queue-limit": s.MaxQueue,
		"average-borrow-time": s.Average.Milliseconds(),
	}}}
}

func (m *member) checkStore(ctx context.Context, _ string) (statusapi.State, map[string]any) {
	if err := m.storeAnswers(ctx); err != nil {
		return statusapi.StateError, map[string]any{"error": err.Error()}
	}
	return *m.phase.Load(), nil
}

func (m *member) checkSelf(_ context.Context, detail string) (statusapi.State, map[string]any) {
	if detail != "debug" {
		return *m.phase.Load(), nil
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return *m.phase.Load(), map[string]any{"experimental": map[string]any{"jvm-metrics": map[string]any{
		"up-time-ms": time.Since(m.started).Milliseconds(), "start-time-ms": m.started.UnixMilli(),
		"heap-memory":      map[string]any{"used": mem.HeapAlloc, "committed": mem.HeapSys, "init": 0, "max": -1},
		"threading":        map[string]any{"thread-count": runtime.NumGoroutine()},
		"file-descriptors": map[string]any{"used": openFiles()},
	}}}
}

// openFiles counts this process's descriptors; -1 when /proc does not tell.
func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list)
}

// beans are the names that collectors of Puppet Server read through Jolokia.
func (m *member) beans() map[string]statusapi.Bean {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s := m.engine.Stats()
	value := func(v any) statusapi.Bean { return statusapi.Bean{"Value": v} }
	prefix := "puppetserver:name=puppetlabs." + m.cfg.Load().Certname
	return map[string]statusapi.Bean{
		"java.lang:type=Memory": {"HeapMemoryUsage": map[string]any{"used": mem.HeapAlloc, "committed": mem.HeapSys, "init": 0, "max": -1}},
		"java.lang:type=Runtime": {
			"Uptime": time.Since(m.started).Milliseconds(), "StartTime": m.started.UnixMilli(), "Name": fmt.Sprintf("%d@troupe", os.Getpid()),
		},
		prefix + ".jruby.num-jrubies":      value(s.Workers),
		prefix + ".jruby.num-free-jrubies": value(s.Workers - s.Busy),
		prefix + ".jruby.queue-length":     value(s.Waiting),
		prefix + ".jruby.queue-limit":      value(s.MaxQueue),
	}
}
