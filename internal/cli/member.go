package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"troupe/internal/adminapi"
	"troupe/internal/config"
	"troupe/internal/server"
	"troupe/internal/telemetry"
)

// This file finds the member that a command asks.

// load reads the configuration that the command line points to; flags are the
// settings that this command takes itself.
func (c *common) load(flags map[string]string) (*config.Config, error) {
	if flags == nil {
		flags = map[string]string{}
	}
	if c.data != "" {
		flags["data"] = c.data
	}
	file := c.config
	if file == "" {
		if _, err := os.Stat(defaultConfig); err == nil {
			file = defaultConfig
		}
	}
	return config.Load(config.Sources{File: file, ConfDir: c.conf, Flags: flags})
}

// withMember calls fn with a client of the running server or, if there is none,
// of a member that is opened without its port for the length of the command.
func (c *common) withMember(ctx context.Context, fn func(*adminapi.Client) error) error {
	return c.withOpened(ctx, server.Options{}, fn)
}

func (c *common) withOpened(ctx context.Context, o server.Options, fn func(*adminapi.Client) error) error {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	client, err := adminapi.Dial(ctx, cfg.Data)
	if err == nil {
		return fn(client)
	}
	if !errors.Is(err, adminapi.ErrNotRunning) {
		return err
	}
	if _, err := os.Stat(cfg.Data); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return noMember{cfg.Data}
		}
		return err
	}
	o.Log, o.Version = telemetry.NewLogger(c.env.Stderr, slog.LevelWarn, false), version()
	return server.RunOffline(ctx, cfg, o, fn)
}

// noMember tells that the data folder does not exist.
type noMember struct{ data string } //nolint:errname // it reads as what it says

func (e noMember) Error() string {
	return fmt.Sprintf("no member has its data in %s (name its folder with --data, or start one: troupe server --data %s)", e.data, e.data)
}
