// Package secretfile reads files with secrets: passphrases, passwords, tokens, identities, private keys. They are in files, since
// what is in a configuration ends in backups and mails, and what is an argument is seen by all. No error quotes one.
package secretfile

import (
	"io"
	"io/fs"
	"os"
	"strings"

	"troupe/internal/fault"
)

// Check refuses what is not a regular file that its owner alone may use. It is for keys that a library reads by itself, and for what
// a running process reads again: nobody may feed that by a pipe.
func Check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fault.New(fault.Invalid, "%s is no regular file", path)
	}
	return checkMode(path, info)
}

// Limit is how many bytes a file may have.
const Limit = 64 << 10

// Read returns what a file has, or a pipe gives. It is not empty.
func Read(path string) (string, error) {
	text, err := read(path)
	if err == nil && strings.TrimSpace(text) == "" {
		return "", fault.New(fault.Invalid, "%s is empty", path)
	}
	return text, err
}

// Line returns the first line of a file, which is what, in up to most bytes: a password of 80, say.
func Line(path, what string, most int) (string, error) {
	text, err := read(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(text, "\n")
	line = strings.TrimRight(line, "\r")
	switch {
	case line == "":
		return "", fault.New(fault.Invalid, "%s: the first line is %s, 1 to %d bytes, and is empty", path, what, most)
	case len(line) > most:
		return "", fault.New(fault.Invalid, "%s: the first line is %s, 1 to %d bytes, and has %d", path, what, most, len(line))
	}
	return line, nil
}

func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() {
		if err := checkMode(path, info); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, Limit+1))
	if err != nil {
		return "", err
	}
	if len(text) > Limit {
		return "", fault.New(fault.Invalid, "%s has more than %d bytes and is no secret", path, Limit)
	}
	return string(text), nil
}

func checkMode(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fault.New(fault.Denied, "%s has mode %04o, so others may read it: chmod 0600 %s, and renew what is in it if somebody may have", path, mode, path)
	}
	return nil
}
