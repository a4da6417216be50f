package ruby

import (
	"context"
	"fmt"

	"troupe/internal/engine"
	"troupe/internal/fault"
)

// This file looks up Hiera data in a worker.

// lookupCommand asks a worker for what `puppet lookup` prints.
type lookupCommand struct {
	compileCommand

	Keys    []string             `json:"keys"`
	Options engine.LookupOptions `json:"options"`
}

// Lookup looks keys up in a worker that ends with it. As in Puppet, a node is classified only for a lookup that compiles.
// What was logged before an error is returned with it.
func (p *Pool) Lookup(ctx context.Context, q engine.LookupRequest) (engine.LookupResult, error) {
	if q.Node.Version == nil {
		return engine.LookupResult{}, fmt.Errorf("lookup for %s has no code version", q.Node.Certname)
	}
	compile, err := newCompileCommand("lookup", q.Node, p.o.Deadline)
	if err != nil {
		return engine.LookupResult{}, err
	}
	if !q.Options.Compile {
		compile.Classes, compile.Parameters = nil, nil
	}

	what := "Looking up data of " + string(q.Node.Certname)
	a, err := p.run(ctx, q.Node, lookupCommand{compile, append([]string{}, q.Keys...), q.Options})
	if err != nil {
		return engine.LookupResult{}, p.describe(q.Node, what, err)
	}
	if a.Memory {
		a.Message = p.tooLarge(what, q.Node.Version.Environment)
	}
	if a.Event != "done" {
		return engine.LookupResult{Logs: a.Logs}, fault.New(fault.Failed, "%s", a.Message)
	}
	return engine.LookupResult{Output: a.restore.text(string(a.body)), Found: a.Found, Logs: a.Logs}, nil
}
