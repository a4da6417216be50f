//go:build !nextversion

package store

import (
	"context"

	"troupe/internal/journal"
	"troupe/internal/sqlite"
)

// This file is empty of meaning: next.go makes of this program a next version, for the test of rolling upgrades.

func nextKinds() []string                                                     { return nil }
func nextMigrations() []string                                                { return nil }
func nextForm(d journal.Draft) ([]journal.Draft, error)                       { return []journal.Draft{d}, nil }
func foldNext(context.Context, *sqlite.Tx, *journal.Record) (_ bool, _ error) { return false, nil }
