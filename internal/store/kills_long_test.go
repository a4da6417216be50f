//go:build long

package store

// kills is how often a process is killed in the test.
const kills = 100
