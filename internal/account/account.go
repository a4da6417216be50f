// Package account starts the operator's own commands, an external node classifier
// or a signing policy, as a user who cannot read our keys. Puppet Server runs
// them as its own unprivileged user too.
package account

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// An Account is the user that the operator's commands run as. It has to be able to run
// what the operator names, and nothing that is secret should be open to it. The zero
// Account is our own.
type Account struct {
	UID, GID int
	Home     string // "" means the one that the host's list of users has, else /
}

// Apply makes cmd start as the account, with its groups and nobody else's, in the
// given environment but for the variables that name a user. It does nothing when
// the account is the one we have: without root's rights that is the only one possible.
func (a Account) Apply(cmd *exec.Cmd) error {
	if a == (Account{}) || a.UID == os.Geteuid() {
		return nil
	}
	name, home, groups, err := a.lookUp()
	if err != nil {
		return fmt.Errorf("look up the user with uid %d: %w", a.UID, err)
	}
	cmd.Env = slices.DeleteFunc(slices.Clone(cmd.Env), func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return key == "HOME" || key == "USER" || key == "LOGNAME"
	})
	cmd.Env = append(cmd.Env, "HOME="+home, "USER="+name, "LOGNAME="+name)
	cmd.Dir = "/"                                                                                            // ours may be closed to the account
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID), Groups: groups} // #nosec G115 -- ids of the host
	return nil
}

// lookUp asks the host about the account. A uid without a name is fine, as in a
// container: it has no further groups.
func (a Account) lookUp() (name, home string, groups []uint32, err error) {
	name, home = strconv.Itoa(a.UID), a.Home
	u, err := user.LookupId(name)
	if _, unknown := errors.AsType[user.UnknownUserIdError](err); err != nil && !unknown {
		return "", "", nil, err
	}
	if err == nil {
		name = u.Username
		if home == "" {
			home = u.HomeDir
		}
		ids, err := u.GroupIds()
		if err != nil {
			return "", "", nil, err
		}
		for _, id := range ids {
			n, err := strconv.ParseUint(id, 10, 32)
			if err != nil {
				return "", "", nil, err
			}
			groups = append(groups, uint32(n))
		}
	}
	if home == "" {
		home = "/"
	}
	return name, home, groups, nil
}
