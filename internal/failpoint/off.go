//go:build !failpoint

package failpoint

// Here marks a place. It does nothing in this build.
func Here(string) {}
