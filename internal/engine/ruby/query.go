package ruby

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// This file answers what a compile asks: collectors of exported resources, the
// function puppetdb_query, and what the operator's own files are like.

// queryLimit bounds one question to the store.
const queryLimit = 30 * time.Second

// A reply is the head that goes back; worker/server.rb reads it.
type reply struct {
	Answer any    `json:"answer"`
	Error  string `json:"error,omitempty"`
}

// answer never fails: an error becomes the message of the compile that asked.
func (p *Pool) answer(ctx context.Context, v *code.Version, e event) any {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	var found any
	var err error
	switch e.Query {
	case "exported":
		found, err = p.exported(ctx, store.ResourceQuery{Type: e.Type, Filter: present(e.Filter), NotCertname: e.Host})
	case "puppetdb":
		found, err = p.puppetdbQuery(ctx, e.AST)
	case "attributes":
		if a, ok := v.Attributes(e.Path, e.Follow); ok {
			found = fileAttributes{Owner: a.Owner, Group: a.Group, Mode: a.Mode, Modified: a.Modified.Unix(), Changed: a.Changed.Unix()}
		}
	default:
		err = fault.New(fault.Invalid, "unknown question %q", e.Query)
	}
	if err != nil {
		p.o.Log.Error("a question of a compile cannot be answered", slog.String("query", e.Query), slog.Any(telemetry.KeyErr, err))
		return reply{Error: fmt.Sprintf("Could not retrieve resources from the server: %s", fault.Message(err))}
	}
	return reply{Answer: found}
}

// fileAttributes are those of one file; worker/original_files.rb reads them.
type fileAttributes struct {
	Owner    int    `json:"owner"`
	Group    int    `json:"group"`
	Mode     uint32 `json:"mode"`
	Modified int64  `json:"modified"`
	Changed  int64  `json:"changed"`
}

// present turns JSON's null into nothing.
func present(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// exported always returns a list, which is what Ruby iterates over.
func (p *Pool) exported(ctx context.Context, q store.ResourceQuery) ([]puppet.Resource, error) {
	if p.o.Resources == nil {
		return []puppet.Resource{}, nil
	}
	found, err := p.o.Resources(ctx, q)
	if err != nil {
		return nil, err
	}
	return append([]puppet.Resource{}, found...), nil
}
