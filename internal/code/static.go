package code

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"troupe/internal/fault"
)

// This file serves the content that static catalogs name by code_id.

// staticPath is what puppetserver lets through: <root>/<module>/<folder>/<rest>.
var staticPath = regexp.MustCompile(`\A[^/]+/[^/]+/(files|tasks|scripts|lib)/(?s:.+)\z`)

// CheckStatic refuses with Denied what no version serves: paths outside of the
// folders that modules serve.
func CheckStatic(path string) error {
	if !staticPath.MatchString(path) || hasDots(path) {
		return fault.New(fault.Denied, "Request Denied: A /static_file_content request must be a file within the files, lib, scripts, or tasks directory of a module.")
	}
	return nil
}

// OpenStatic answers GET /puppet/v3/static_file_content/<path>: a file of this
// version, named from the environment's folder. Faults are as puppetserver's:
// Invalid without a path, Denied outside of the folders that modules serve.
func (v *Version) OpenStatic(ctx context.Context, path string) (*os.File, os.FileInfo, error) {
	if path == "" {
		return nil, nil, fault.New(fault.Invalid, "Error: A /static_file_content request requires an environment, a code-id, and a file-path")
	}
	if err := CheckStatic(path); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("opening %s: %w", path, err)
	}
	n := v.static(path)
	if n == nil {
		return nil, nil, fault.New(fault.NotFound, "no file %s in version %s of environment '%s'", path, v.ID, v.Environment)
	}
	f, err := v.repo.store.open(n)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), f.Close())
	}
	return f, info, nil
}

// StaticSum returns the SHA-256 of what OpenStatic would open, in hex, or "" when it
// would open nothing.
func (v *Version) StaticSum(path string) string {
	if CheckStatic(path) != nil {
		return ""
	}
	n := v.static(path)
	if n == nil {
		return ""
	}
	return n.sum.String()
}

// static returns the file at a path below the environment's folder, or nil.
func (v *Version) static(path string) *node {
	n := v.plan.tree.roots[0].node.find(path)
	if n != nil {
		n = n.follow()
	}
	if n == nil || n.kind != fileKind {
		return nil
	}
	return n
}

// hasDots reports whether a path has a part that means another folder. Trees have
// no such names; saying no is clearer than not finding them.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}
