package ruby

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// This file finds out what to start, as whom, and with which files.

//go:embed worker/*.rb
var workerFiles embed.FS

// vendorRuby is where the vendor's all-in-one packages have their interpreter.
const vendorRuby = "/opt/puppetlabs/puppet/bin/ruby"

// An account is the user that Ruby processes run as. Code of an environment
// runs as this user, so it should own nothing else.
type account struct {
	name     string
	uid, gid int
	change   bool // we are root and have to become that user
}

// findAccount decides on the user. As root we never run Ruby as root unless the
// operator names it.
func findAccount(name string) (account, error) {
	self := os.Geteuid()
	if self != 0 {
		a := account{name: strconv.Itoa(self), uid: self, gid: os.Getegid()}
		if name == "" {
			return a, nil
		}
		u, err := user.Lookup(name)
		if err != nil {
			return a, fmt.Errorf("finding the user of Ruby processes: %w", err)
		}
		if u.Uid != strconv.Itoa(self) {
			return a, fmt.Errorf("ruby processes cannot run as %s: only root can become another user; start as root or leave the user out", name)
		}
		return a, nil
	}

	names := []string{name}
	if name == "" {
		names = []string{"puppet", "nobody"}
	}
	for _, n := range names {
		u, err := user.Lookup(n)
		if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
			continue
		}
		if err != nil {
			return account{}, fmt.Errorf("finding the user of Ruby processes: %w", err)
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return account{}, fmt.Errorf("user %s has uid %q, which is not a number", n, u.Uid)
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return account{}, fmt.Errorf("user %s has gid %q, which is not a number", n, u.Gid)
		}
		return account{name: n, uid: uid, gid: gid, change: uid != 0}, nil
	}
	return account{}, fmt.Errorf("there is no user %s to run Ruby processes as: create one or name another", strings.Join(names, " or "))
}

// apply makes a process one of the account's.
func (a account) apply(attributes *syscall.SysProcAttr) {
	if a.change {
		attributes.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} // #nosec G115 -- ids of a user
	}
}

// A launch is all that a template needs to start.
type launch struct {
	interpreters []string // to be tried in this order
	script       string
	compiled     string   // the library's Ruby files in compiled form; may not be there
	home         string   // holds confdir and vardir, which the account can write
	lifeline     *os.File // every Ruby process reads it, nobody writes; it ends when we do
}

// prepare writes the Ruby files and makes the folders.
func (p *Pool) prepare() (launch, error) {
	dir := p.o.Dir
	l := launch{script: filepath.Join(dir, "worker", "boot.rb"), compiled: filepath.Join(dir, "compiled"), home: filepath.Join(dir, "home")}
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- the account has to enter it
		return l, fmt.Errorf("making the engine's folder: %w", err)
	}
	if err := p.checkReachable(dir); err != nil {
		return l, err
	}
	if err := checkLibrary(p.o.PuppetLib); err != nil {
		return l, err
	}
	if err := writeWorker(filepath.Dir(l.script)); err != nil {
		return l, err
	}
	if err := p.makeHome(l.home); err != nil {
		return l, err
	}
	for _, d := range []string{filepath.Join(l.home, "conf"), filepath.Join(l.home, "var")} {
		if err := p.ownFolder(d); err != nil {
			return l, err
		}
	}
	var err error
	l.interpreters, err = findInterpreters(p.o.Ruby)
	return l, err
}

// checkLibrary refuses folders of which none is there: Ruby would pass over them
// and load another library than the operator has named.
func checkLibrary(dirs []string) error {
	var last error
	for _, dir := range dirs {
		if _, last = os.Stat(dir); last == nil {
			return nil
		}
	}
	if last != nil {
		return fmt.Errorf("finding the Puppet library in %s: %w", strings.Join(dirs, ":"), last)
	}
	return nil
}

// checkReachable finds the folder on the way to dir that the account cannot
// enter, which would otherwise show as a Ruby file that is "not found".
func (p *Pool) checkReachable(dir string) error {
	if !p.account.change {
		return nil
	}
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("looking at the engine's folder: %w", err)
		}
		need := os.FileMode(0o001)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case int(st.Uid) == p.account.uid:
				need = 0o100
			case int(st.Gid) == p.account.gid:
				need = 0o010
			}
		}
		if info.Mode().Perm()&need == 0 {
			return fmt.Errorf("user %s, who runs Ruby, cannot enter %s (mode %04o), which is on the way to the engine's folder %s: "+
				"choose another folder or allow it with chmod o+x", p.account.name, d, info.Mode().Perm(), dir)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// writeWorker writes the embedded Ruby files. Each file is replaced as a whole,
// so that a template of another process never reads half of one, and only if it
// differs, as its compiled form goes by its times.
func writeWorker(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- the account has to enter it
		return fmt.Errorf("making the folder of the Ruby files: %w", err)
	}
	files, err := fs.Glob(workerFiles, "worker/*.rb")
	if err != nil {
		return fmt.Errorf("listing the Ruby files: %w", err)
	}
	for _, name := range files {
		text, err := workerFiles.ReadFile(name)
		if err != nil {
			return fmt.Errorf("reading an embedded Ruby file: %w", err)
		}
		path := filepath.Join(dir, filepath.Base(name))
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			continue
		}
		if err := os.WriteFile(path+".new", text, 0o644); err != nil { // #nosec G306 -- read by the account
			return fmt.Errorf("writing a Ruby file: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("writing a Ruby file: %w", err)
		}
	}
	return nil
}

// makeHome makes the account's home folder. The account cannot write it: Ruby
// looks there for gems, and code of one environment would decide what the
// template loads for all.
func (p *Pool) makeHome(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- the account has to enter it
		return fmt.Errorf("making the home folder for Ruby: %w", err)
	}
	if !p.account.change {
		return nil
	}
	err := errors.Join(os.Lchown(dir, os.Geteuid(), os.Getegid()), os.Chmod(dir, 0o755)) // #nosec G302 -- see above
	for _, gems := range []string{".gem", ".local"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, gems)))
	}
	if err != nil {
		return fmt.Errorf("making the home folder for Ruby: %w", err)
	}
	return nil
}

// ownFolder makes a folder that only the account can use.
func (p *Pool) ownFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a folder for Ruby: %w", err)
	}
	if !p.account.change {
		return nil
	}
	if err := os.Lchown(dir, p.account.uid, p.account.gid); err != nil {
		return fmt.Errorf("giving a folder to user %s: %w", p.account.name, err)
	}
	return nil
}

func findInterpreters(wanted string) ([]string, error) {
	if wanted != "" {
		path, err := exec.LookPath(wanted)
		if err != nil {
			return nil, fmt.Errorf("the configured Ruby cannot be run: %w", err)
		}
		return []string{path}, nil
	}
	var found []string
	for _, candidate := range []string{vendorRuby, "ruby"} {
		if path, err := exec.LookPath(candidate); err == nil {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no Ruby found in PATH or at %s: install the package puppet-agent, or name the interpreter in the configuration", vendorRuby)
	}
	return found, nil
}

// environment is all that Ruby processes inherit: secrets are often passed to
// services in variables, and manifests can read those.
func (l launch) environment() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/puppetlabs/bin",
		"LANG=C.UTF-8", "LC_ALL=C.UTF-8", "HOME=" + l.home,
	}
	if zone, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+zone)
	}
	return env
}

// settings are those of the operator over those that keep Puppet out of the
// host's own folders.
func (p *Pool) settings() map[string]string {
	home := filepath.Join(p.o.Dir, "home")
	s := map[string]string{
		"confdir": filepath.Join(home, "conf"), "codedir": filepath.Join(home, "conf", "code"), "vardir": filepath.Join(home, "var"),
		"rundir": filepath.Join(home, "var", "run"), "logdir": filepath.Join(home, "var", "log"), "publicdir": filepath.Join(home, "var", "public"),
	}
	maps.Copy(s, p.o.Settings)
	return s
}

// Account returns the user that Ruby processes run as and its group. It has to
// be able to read code versions, and nothing that is secret.
func (p *Pool) Account() (name string, uid, gid int) {
	return p.account.name, p.account.uid, p.account.gid
}
