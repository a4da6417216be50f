package classifier

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file asks the operator's own systems what a manifest may believe about a
// node beyond its certificate: $trusted['external'], by the setting
// trusted_external_command (lib/puppet/trusted_external.rb).

// External returns the object of $trusted['external']; nil means that nobody is
// to be asked. A command that fails, or that prints no JSON, fails the catalog, as
// in Puppet: to compile without it could be to grant or to revoke something.
func (c *Classifier) External(ctx context.Context, name puppet.Certname) (json.RawMessage, error) {
	if c.o.External == "" {
		return nil, nil
	}
	info, err := os.Stat(c.o.External)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "trusted_external_command: %s", err)
	}
	if !info.IsDir() {
		return c.external(ctx, c.o.External, name)
	}

	// A folder: one key for each executable file, by its name without extension.
	entries, err := os.ReadDir(c.o.External)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "trusted_external_command: %s", err)
	}
	all := map[string]json.RawMessage{}
	for _, e := range entries {
		path := filepath.Join(c.o.External, e.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue // Puppet skips what is not executable too
		}
		base := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		if all[base] != nil {
			return nil, fault.New(fault.Failed, "There is more than one '%s' script in %s", base, c.o.External)
		}
		if all[base], err = c.external(ctx, path, name); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}

// external runs one command; its answer may be any JSON value.
func (c *Classifier) external(ctx context.Context, path string, name puppet.Certname) (json.RawMessage, error) {
	out, err := c.execute(ctx, name, path)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "%s", err)
	}
	out = bytes.TrimSpace(out)
	if !json.Valid(out) {
		return nil, fault.New(fault.Failed, "trusted_external_command %s printed no JSON for %s", path, name)
	}
	return out, nil
}
