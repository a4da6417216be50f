package bgp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// This file reads the passwords of sessions. They are in files, since what is in a configuration ends in backups and mails.

// maxPassword is what the kernel takes for TCP MD5.
const maxPassword = 80

// password reads the first line of a file that only its owner can read. Its errors do not quote it.
func password(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("password_file %s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("password_file %s has mode %04o, so others may read it: chmod 0600 %s", path, mode, path)
	}
	line, err := bufio.NewReader(io.LimitReader(f, maxPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("password_file: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" || len(line) > maxPassword {
		return "", fmt.Errorf("password_file %s: the first line is the password, 1 to %d bytes", path, maxPassword)
	}
	return line, nil
}
