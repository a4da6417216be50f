package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"

	"troupe/internal/adminapi"
	"troupe/internal/engine"
)

// This file compares a fresh catalog with another one.

// compare prints every difference between the other catalog and the new one.
func (c *common) compare(ctx context.Context, on compiler, q adminapi.CompileRequest, res adminapi.CompileResult, diff string) error {
	other, err := c.otherCatalog(ctx, on, q, diff)
	if err != nil {
		return err
	}
	if diff == "stored" { // without its secrets
		if res.Catalog, err = on.keeper.Redact(ctx, res.Catalog); err != nil {
			return err
		}
	}
	if other, err = below(on.roots, other); err != nil {
		return fmt.Errorf("read the catalog of %s: %w", diff, err)
	}
	fresh, err := below(on.roots, res.Catalog)
	if err != nil {
		return err
	}
	list, err := engine.Compare(other, fresh)
	if err != nil {
		return err
	}
	if err := c.print(list, func(w *tabwriter.Writer) {
		for _, d := range list {
			fmt.Fprintln(w, d.String())
		}
	}); err != nil {
		return err
	}
	if len(list) > 0 {
		return exitCode(1)
	}
	if c.output != "json" {
		fmt.Fprintln(c.env.Stderr, "no difference")
	}
	return nil
}

func (c *common) otherCatalog(ctx context.Context, on compiler, q adminapi.CompileRequest, diff string) ([]byte, error) {
	if diff == "stored" {
		if on.keeper == nil {
			return nil, errors.New("there is no member whose stored catalog could be compared (name its folder with --data)")
		}
		return on.keeper.Catalog(ctx, q.Certname)
	}
	env, ok := strings.CutPrefix(diff, "environment:")
	if !ok {
		return os.ReadFile(diff)
	}
	q.Environment = env
	res, err := on.member.Compile(ctx, q)
	if err != nil {
		return nil, err
	}
	if res.Error != "" {
		return nil, fmt.Errorf("the catalog of environment %s does not compile: %s", env, res.Error)
	}
	return res.Catalog, nil
}

// below takes out of a catalog where the folders of environments lie: the same
// code in another folder is no difference. These are the paths of manifests and of
// files whose metadata is inlined, and the ctime that stands for the content of a
// folder there. A quote inside a JSON string has a backslash before it, so what is
// replaced is always a key with its value.
func below(roots []string, catalog []byte) ([]byte, error) {
	if len(roots) == 0 {
		return catalog, nil
	}
	var out bytes.Buffer
	if err := json.Compact(&out, catalog); err != nil {
		return nil, err
	}
	catalog = out.Bytes()
	for _, root := range roots {
		for _, key := range []string{`"file":"`, `"path":"`} {
			catalog = bytes.ReplaceAll(catalog, []byte(key+root+`/`), []byte(key))
		}
	}
	ctime := regexp.MustCompile(`"type":"ctime","value":"[^"]*"`)
	return ctime.ReplaceAllLiteral(catalog, []byte(`"type":"ctime"`)), nil
}
