package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"troupe/internal/adminapi"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file finds who compiles: the member of the data folder, or one of the
// command's own that lives in a temporary folder and asks the first.

// A compiler is who compiles for a command, and who knows the node.
type compiler struct {
	member *adminapi.Client // compiles
	keeper *adminapi.Client // has the node's stored catalog; nil when nobody does
	roots  []string         // folders of environments, if those of the two differ
}

// withCompiler calls fn with the member of this data folder or, when the command
// brings its own environments, with one of its own.
func (c *common) withCompiler(ctx context.Context, envpath string, q *adminapi.CompileRequest, fn func(compiler) error) error {
	if envpath == "" {
		return c.withOpened(ctx, server.Options{Compiles: true}, func(m *adminapi.Client) error {
			return fn(compiler{member: m, keeper: m})
		})
	}
	met := false
	err := c.withMember(ctx, func(keeper *adminapi.Client) error {
		met = true
		in, err := keeper.Inputs(ctx, q.Certname)
		if err != nil {
			return err
		}
		q.Inputs = in
		return c.withOwn(ctx, envpath, keeper, in.EnvironmentPath, fn)
	})
	if met {
		return err
	}
	if len(q.Facts) == 0 {
		return fmt.Errorf("facts of %s (give them with --facts FILE): %w", q.Certname, err)
	}
	if _, none := errors.AsType[noMember](err); !none {
		fmt.Fprintf(c.env.Stderr, "troupe: warning: only the facts are known of %s, neither its trusted extensions nor what others export: %v\n", q.Certname, err)
	}
	return c.withOwn(ctx, envpath, nil, nil, fn)
}

// withOwn opens a member on the given environments for the length of the command.
// Collectors ask the keeper, whose environments are in theirs.
func (c *common) withOwn(ctx context.Context, envpath string, keeper *adminapi.Client, theirs []string, fn func(compiler) error) (err error) {
	dir, err := os.MkdirTemp("", "troupe-compile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own := *c
	own.data = dir
	cfg, err := own.load(map[string]string{"environmentpath": envpath, "ca.key_type": "ec256"})
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // workers of another user pass through
		return err
	}
	o := server.Options{Log: telemetry.NewLogger(c.env.Stderr, slog.LevelWarn, false), Compiles: true}
	on := compiler{keeper: keeper}
	if keeper != nil {
		o.Exported = keeper.ExportedResources
		on.roots = append(on.roots, cfg.EnvironmentPath...)
		on.roots = append(on.roots, theirs...)
	}
	return server.RunOffline(ctx, cfg, o, func(m *adminapi.Client) error {
		on.member = m
		return fn(on)
	})
}
