package troupetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// This file runs servers in the chroots of tools/chroots.

// chrootFolder is where make.sh has built a chroot.
func chrootFolder(name string) string {
	folder := os.Getenv("TROUPE_CHROOTS")
	if folder == "" {
		folder = "/var/cache/troupe/chroots"
	}
	return filepath.Join(folder, name)
}

// enter is the command that runs args in a chroot as a user. It sees the folders at the same paths as the machine.
func enter(t *testing.T, chroot string, as *syscall.Credential, visible, args []string) *exec.Cmd {
	t.Helper()
	script := filepath.Join(moduleRoot(t), "tools", "chroots", "enter.sh")
	cmd := exec.Command("sh", append([]string{
		script, chroot, "setpriv", fmt.Sprintf("--reuid=%d", as.Uid), fmt.Sprintf("--regid=%d", as.Gid), "--clear-groups",
	}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TROUPE_BIND="+strings.Join(visible, ":"), "LANG=C.UTF-8")
	return cmd
}

// PuppetLib is the folder of the Puppet library in a chroot.
func PuppetLib(chroot string) string {
	return filepath.Join(chrootFolder(chroot), "usr", "lib", "ruby", "vendor_ruby")
}
