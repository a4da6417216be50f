//go:build !long

package store

// kills is how often a process is killed in the test; a hundred times with -tags=long.
const kills = 10
