package troupetest

// This file makes members of one troupe.

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// MemberPort chooses an address for the member port of a member, and returns the configuration that says so.
func MemberPort(t *testing.T) (addr, config string) {
	t.Helper()
	addr = freeAddress(t)
	return addr, fmt.Sprintf("cluster:\n  listen: %s\n  address: %s\n", addr, addr)
}

// Join makes a new data folder that of a member, as an operator does it, and returns it. config is the text of its YAML file.
func Join(t *testing.T, first *Server, site, certname, config string) (data string) {
	t.Helper()
	data = filepath.Join(TempDir(t), "data")
	file := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, file, config)
	if out, err := joining(t, nil, invite(t, first, site), data, file, certname).CombinedOutput(); err != nil {
		t.Fatalf("troupe join: %v\n%s", err, out)
	}
	return data
}

// invite makes a token for one new member and returns the invitation.
func invite(t *testing.T, first *Server, site string) string {
	t.Helper()
	var token struct{ Text, Address string }
	first.JSON(&token, "token", "create", "--site", site)
	return token.Text + "@" + token.Address
}

// joining is the command of a machine that joins. within are words before it.
func joining(t *testing.T, within []string, invitation, data, configFile, certname string) *exec.Cmd {
	t.Helper()
	words := append(slices.Clone(within), Binary(t), "join", "-", "--data", data, "--confdir", "none", "--config", configFile, "--certname", certname)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(invitation + "\n")
	return cmd
}
