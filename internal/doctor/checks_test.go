package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"troupe/internal/adminapi"
	"troupe/internal/ca"
	"troupe/internal/carrier/nats"
	"troupe/internal/cluster"
	"troupe/internal/config"
	"troupe/internal/fault"
)

// This file makes one thing wrong after another.

func TestTheMemberItself(t *testing.T) {
	play(t, []mishap{
		{"a broken configuration", "configuration", func(_ *testing.T, x *exam) {
			x.configError = errors.New("the configuration has problems:\na.yaml:1: no setting x\na.yaml:2: no setting y")
		}, []string{"fail: a.yaml:1: no setting x -> correct it", "fail: a.yaml:2"}},
		{"broken since the start", "configuration", func(_ *testing.T, x *exam) { x.process.value.ConfigError = "auth.conf:3: no verdict" }, []string{"fail: auth.conf:3"}},
		{"another server is the CA", "configuration", func(_ *testing.T, x *exam) { stop(x); x.config.CA.Enabled = false }, []string{"fail: ", "troupe ca import"}},
		{"ignored settings", "configuration", func(_ *testing.T, x *exam) { x.process.value.Notes = []string{"puppet.conf: storeconfigs"} }, []string{"warn: not followed: puppet.conf: storeconfigs"}},
		{"ignored settings of a stopped one", "configuration", func(_ *testing.T, x *exam) { stop(x); x.config.Notes = []string{"n1"} }, []string{"warn: not followed: n1"}},
		{"changed since the start", "configuration", func(_ *testing.T, x *exam) {
			x.process.value.Restart, x.process.value.Reload = []string{"listen"}, []string{"ca.ttl"}
		}, []string{"warn: changed and not in force before a restart: listen -> systemctl restart troupe.service", "not in force yet: ca.ttl -> systemctl reload troupe.service"}},
		{"no permission for the socket", "member", func(_ *testing.T, x *exam) { x.dialError = errors.New("no permission") }, []string{"fail: no permission -> run this as root"}},
		{"it hangs", "member", func(_ *testing.T, x *exam) { x.process.err = errors.New("no answer in 5s") }, []string{"fail: the member does not tell how it does: no answer in 5s"}},
		{"stopped", "member", func(_ *testing.T, x *exam) { stop(x) }, []string{"warn: no member runs on ", "-> systemctl start troupe"}},
		{"in use without a socket", "member", func(_ *testing.T, x *exam) {
			stop(x)
			x.journal.err = fault.New(fault.Conflict, "in use by process 7")
		}, []string{"warn: in use by process 7, which does not answer"}},
		{"fresh", "member", func(_ *testing.T, x *exam) { stop(x); x.presence = Fresh }, []string{"ok: there is no data folder"}},
		{"it starts", "member", func(_ *testing.T, x *exam) { x.process.value.Phase = "starting" }, []string{"warn: process 4711 is starting"}},
		{"another version on the disk", "member", func(_ *testing.T, x *exam) { x.process.value.Version = "1.0" }, []string{"warn: process 4711 runs version 1.0"}},
		{"the program was replaced", "member", func(_ *testing.T, x *exam) { x.process.value.Replaced = true }, []string{"warn: ", "another program"}},
		{"no systemd", "service", func(_ *testing.T, x *exam) { x.host.systemd = "/nowhere" }, nil},
		{"by hand", "service", func(t *testing.T, x *exam) {
			t.Helper()
			write(t, filepath.Join(x.host.proc, "4711/cgroup"), "0::/user.slice/user-0.slice/user@0.service/session-1.scope\n", 0o644)
		}, []string{"warn: the member was started by hand"}},
		{"no unit", "service", func(_ *testing.T, x *exam) { stop(x); x.unitSays("LoadState=not-found\n") }, []string{"warn: there is no unit troupe.service"}},
		{"failed", "service", func(_ *testing.T, x *exam) {
			stop(x)
			x.unitSays("LoadState=loaded\nActiveState=failed\nResult=exit-code\nNRestarts=5\nUnitFileState=disabled\n")
		}, []string{"fail: troupe.service has failed (exit-code) -> journalctl -u troupe.service", "warn: troupe.service does not start at boot -> systemctl enable", "warn: troupe.service was started again 5 times"}},
		{"systemd is mute", "service", func(_ *testing.T, x *exam) {
			x.host.systemctl = func(context.Context, ...string) (string, error) { return "", errors.New("no bus") }
		}, []string{"unknown: systemd does not tell"}},
		{"Ruby is missing", "ruby", func(_ *testing.T, x *exam) { stop(x); x.ruby.err = errors.New("no Ruby found in PATH") }, []string{"fail: no Ruby found in PATH -> apt-get install puppet-agent"}},
		{"the configured Ruby is missing", "ruby", func(_ *testing.T, x *exam) {
			stop(x)
			x.ruby.err = &os.PathError{Op: "exec", Path: "/nowhere/ruby", Err: os.ErrNotExist}
		}, []string{"fail: exec /nowhere/ruby"}},
		{"Ruby is slow", "ruby", func(_ *testing.T, x *exam) { stop(x); x.ruby.err = errLate }, []string{"unknown: the Puppet library was not loaded in 5s"}},
		{"Ruby is root", "ruby", func(_ *testing.T, x *exam) { x.process.value.UserUID = 0 }, []string{"fail: Ruby runs as root", "engine.user"}},
		{"Ruby is the server's user", "ruby", func(_ *testing.T, x *exam) { x.process.value.UID = 4242 }, []string{"warn: Ruby runs as the server's own user"}},
		{"Ruby is gone", "ruby", func(_ *testing.T, x *exam) { x.process.value.Engine.Serving = false }, []string{"fail: no Ruby process serves"}},
		{"a queue", "ruby", func(_ *testing.T, x *exam) { x.process.value.Engine.Waiting = 40 }, []string{"warn: 40 compiles wait for 4 workers"}},
		{"an ENC that is not there", "commands", func(_ *testing.T, x *exam) { x.settings.Commands[0].Path = "/nowhere/enc" }, []string{"fail: classifier.command: every agent's run fails: stat /nowhere/enc"}},
		{"an ENC for root only", "commands", func(t *testing.T, x *exam) {
			t.Helper()
			if err := os.Chmod(x.settings.Commands[0].Path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"fail: classifier.command: user 4242, who is to run ", "chmod a+rx"}},
		{"a policy that is not there", "commands", func(_ *testing.T, x *exam) { x.settings.Commands[1].Path = "/nowhere/list" }, []string{"ok: ", "ca.autosign /nowhere/list (not there"}},
		{"no environment", "environments", func(_ *testing.T, x *exam) { x.environments.value = nil }, []string{"fail: there is no environment in"}},
		{"none yet", "environments", func(_ *testing.T, x *exam) { stop(x); x.presence, x.environments.value = Fresh, nil }, []string{"warn: there is no environment in"}},
		{"its own folder", "environments", func(_ *testing.T, x *exam) {
			stop(x)
			x.environments.value, x.settings.EnvironmentPath = nil, []string{filepath.Join(x.settings.Data, "code", "environments")}
		}, []string{"ok: none in", "empty production"}},
		{"an unreadable one", "environments", func(_ *testing.T, x *exam) { x.environments.value[0].Error = "environment.conf: no permission" }, []string{"fail: production: environment.conf"}},
		{"no production", "environments", func(_ *testing.T, x *exam) { x.environments.value[0].Name = "testing" }, []string{"warn: there is no environment production"}},
		{"an unreadable path", "environments", func(_ *testing.T, x *exam) { x.environments.err = os.ErrPermission }, []string{"fail: environments in", "cannot be listed"}},
		{"a slow path", "environments", func(_ *testing.T, x *exam) { x.environments.err = errLate }, []string{"unknown: environments in"}},
		{"a damaged journal", "journal", func(_ *testing.T, x *exam) { x.journal.value.Damage = []string{"state record 7 is damaged"} }, []string{"fail: state record 7 is damaged -> troupe journal verify"}},
		{"a large journal", "journal", func(_ *testing.T, x *exam) { x.journal.value.Checked = false }, []string{"unknown: 1.0 MiB with 100 records", "-> troupe journal verify"}},
		{"a journal that is lost", "journal", func(t *testing.T, x *exam) {
			t.Helper()
			stop(x)
			x.journal.err = errNone
		}, []string{"fail: there are keys of a CA in", "restore the data folder"}},
		{"a journal that cannot be read", "journal", func(_ *testing.T, x *exam) { x.journal.err = errors.New("input/output error") }, []string{"unknown: input/output error"}},
	})
}

func (x *exam) unitSays(text string) {
	x.host.systemctl = func(context.Context, ...string) (string, error) { return text, nil }
}

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount a small disk: run them as root, as the README says")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestTheMachine(t *testing.T) {
	on := func(options string) func(*testing.T, *exam) {
		return func(t *testing.T, x *exam) { t.Helper(); x.settings.Data = smallDisk(t, options) }
	}
	full := func(t *testing.T, x *exam) {
		t.Helper()
		on("size=1m")(t, x)
		if err := os.WriteFile(filepath.Join(x.settings.Data, "fill"), make([]byte, 2<<20), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
	}
	file := func(path, text string) func(*testing.T, *exam) {
		return func(t *testing.T, x *exam) { t.Helper(); write(t, filepath.Join(x.host.proc, path), text, 0o644) }
	}
	play(t, []mishap{
		{"a full disk", "disk", full, []string{"fail: 0.0 KiB free of 1.0 MiB", "make room", "warn: ", "tmpfs: everything"}},
		{"a full disk takes no file", "disk speed", full, []string{"fail: a small file cannot be written", "no space left"}},
		{"no inodes", "disk", on("size=2g,nr_inodes=64"), []string{"fail: 6", "inodes free of 64"}},
		{"little room", "disk", on("size=900m"), []string{"warn: 900.0 MiB free of 900.0 MiB"}},
		{"a read-only disk", "disk", func(t *testing.T, x *exam) {
			t.Helper()
			on("size=2g")(t, x)
			if err := unix.Mount("", x.settings.Data, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}, []string{"fail: the file system of", "is read-only"}},
		{"nothing there yet", "disk", func(_ *testing.T, x *exam) {
			x.presence, x.settings.Data = Fresh, filepath.Join(x.settings.Data, "new", "data")
		}, []string{" free of "}},
		{"nothing to time yet", "disk speed", func(_ *testing.T, x *exam) { x.presence = Fresh }, nil},
		{"an open key", "files", func(t *testing.T, x *exam) { t.Helper(); chmod(t, x, "ca/seal.key", 0o644) }, []string{"fail: ", "ca/seal.key is open to others than its owner (mode 0644) -> chmod go= "}},
		{"an open journal", "files", func(t *testing.T, x *exam) { t.Helper(); chmod(t, x, "journal", 0o755) }, []string{"fail: ", "/journal is open"}},
		{"a folder for all to write", "files", func(t *testing.T, x *exam) { t.Helper(); chmod(t, x, ".", 0o777) }, []string{"fail: ", "can be written by others"}},
		{"another owner", "files", func(_ *testing.T, x *exam) { x.process.value.UID = 12345 }, []string{"fail: ", "and the member runs as user 12345 -> chown -R 12345"}},
		{"a low limit", "open files", func(_ *testing.T, x *exam) { x.process.value.MaxFiles = 1024 }, []string{"warn: the limit of open files is 1024", "LimitNOFILE=65536"}},
		{"most files", "open files", func(_ *testing.T, x *exam) { x.process.value.Files = 50000 }, []string{"warn: 50000 of 65536"}},
		{"all files", "open files", func(_ *testing.T, x *exam) { x.process.value.Files = 65000 }, []string{"fail: 65000 of 65536"}},
		{"few watches", "watched folders", func(t *testing.T, x *exam) {
			t.Helper()
			for _, d := range []string{"a", "b", "c", "d/e/f"} {
				write(t, filepath.Join(x.environments.value[0].Path, d, "file"), "", 0o644)
			}
		}, []string{"warn: 7 folders of environments and a limit of 10 watches -> sysctl -w fs.inotify.max_user_watches=28"}},
		{"too few watches", "watched folders", file("sys/fs/inotify/max_user_watches", "0"), []string{"fail: 1 folders"}},
		{"few instances", "watched folders", file("sys/fs/inotify/max_user_instances", "8"), []string{"warn: a limit of 8 inotify instances"}},
		{"no inotify", "watched folders", func(_ *testing.T, x *exam) { x.host.proc = "/nowhere" }, []string{"unknown: open /nowhere"}},
		{"many workers", "memory", func(_ *testing.T, x *exam) { x.settings.Workers = 64 }, []string{"warn: 64 Ruby workers may grow to 32.2 GiB together, and there are 15.3 GiB -> lower engine.workers"}},
		{"a limit of the unit", "memory", file("system.slice/troupe.service/memory.max", "1073741824\n"), []string{"warn: 4 Ruby workers may grow to 2.2 GiB together, and there are 1.0 GiB"}},
		{"no limit of the unit", "memory", file("system.slice/troupe.service/memory.max", "max\n"), []string{"ok: "}},
		{"no memory", "memory", file("meminfo", "MemTotal: 16000000 kB\nMemAvailable: 100000 kB\n"), []string{"fail: 97.7 MiB available"}},
		{"little memory", "memory", file("meminfo", "MemTotal: 16000000 kB\nMemAvailable: 1000000 kB\n"), []string{"warn: 976.6 MiB available"}},
		{"no word of memory", "memory", file("meminfo", "?"), []string{"unknown: "}},
	})
}

func chmod(t *testing.T, x *exam, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(x.settings.Data, path), mode); err != nil {
		t.Fatal(err)
	}
}

func TestTheTimedFileIsGone(t *testing.T) {
	dir := t.TempDir()
	if took, err := timeFlush(dir); err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestCertificatesAndKeys(t *testing.T) {
	server := func(from, to time.Duration, names ...string) func(*testing.T, *exam) {
		return func(t *testing.T, x *exam) {
			t.Helper()
			x.authority.value.Server = newPKI(t, x.now.Add(from), x.now.Add(to), names...).leaf
		}
	}
	const d = 24 * time.Hour
	all := []string{self, "puppet", "alias.example.test"}
	play(t, []mishap{
		{"an expired certificate", "certificates", server(-9*d, -d, all...), []string{"fail: the server certificate has ended on ", "-> systemctl reload troupe.service"}},
		{"one that ends soon", "certificates", server(-9*d, 10*d+time.Hour, all...), []string{"warn: the server certificate ends on ", "in 10 days"}},
		{"one of tomorrow", "certificates", server(d, 9*d, all...), []string{"fail: the server certificate is valid from", "set the clock of this machine"}},
		{"a name is missing", "certificates", server(-d, 90*d, self), []string{"warn: the server certificate is not good for alias.example.test, puppet"}},
		{"revoked", "certificates", func(_ *testing.T, x *exam) { x.authority.value.Revoked = true }, []string{"fail: the server certificate is revoked"}},
		{"of another issuer", "certificates", func(_ *testing.T, x *exam) { x.authority.value.ServerError = "not signed by the issuer in force" }, []string{"fail: not signed by the issuer in force -> remove the file"}},
		{"not a certificate", "certificates", func(_ *testing.T, x *exam) { x.authority.value.Server = []byte("x") }, []string{"fail: the server certificate cannot be read"}},
		{"the CA ends", "certificates", func(_ *testing.T, x *exam) { x.now = x.now.Add(10*365*d - 5*d) }, []string{"warn: the CA ends on", "warn: the infrastructure CA's certificate ends"}},
		{"the CA has ended", "certificates", func(_ *testing.T, x *exam) { x.now = x.now.Add(11 * 365 * d) }, []string{"fail: the CA has ended", "fail: this member's certificate for others has ended"}},
		{"a list has ended", "revocation lists", func(_ *testing.T, x *exam) { x.authority.value.Lists[0].NextUpdate = x.now.Add(-d) }, []string{"fail: agents take the revocation list of the CA no more since"}},
		{"a root's list ends", "revocation lists", func(_ *testing.T, x *exam) {
			x.authority.value.Lists = append(x.authority.value.Lists, ca.ListCondition{Issuer: "the root", NextUpdate: x.now.Add(d)})
		}, []string{"warn: the revocation list of the root ends on", "PUT /puppet-ca/v1/certificate_revocation_list"}},
		{"the key does not open", "keys", func(_ *testing.T, x *exam) { x.authority.value.KeyError = "sealed with another key" }, []string{"fail: the CA's key: sealed with another key -> restore"}},
		{"the sealing key is elsewhere", "keys", func(t *testing.T, x *exam) {
			t.Helper()
			stop(x)
			x.authority.value.KeyError = "no such file"
			if err := os.Remove(filepath.Join(x.settings.Data, "ca", "seal.key")); err != nil {
				t.Fatal(err)
			}
		}, []string{"unknown: the CA's key is sealed with a key that is not in"}},
		{"no key", "keys", func(_ *testing.T, x *exam) { x.authority.value.NoKey = true }, []string{"warn: this member does not hold the CA's key"}},
		{"no key of the infrastructure", "keys", func(_ *testing.T, x *exam) { x.cluster.value.KeyError = "not here" }, []string{"warn: the infrastructure CA's key cannot be used: not here"}},
		{"no proof for others", "keys", func(_ *testing.T, x *exam) { x.cluster.value.OwnError = "damaged" }, []string{"fail: this member's certificate for others: damaged"}},
		{"agents end", "agents", func(_ *testing.T, x *exam) {
			x.authority.value.Ending, x.authority.value.First = 2, []string{"web1"}
		}, []string{"warn: 2 of 10 certificates end in the next 30 days: web1, …", "ca.allow_auto_renewal: true"}},
		{"requests wait", "agents", func(_ *testing.T, x *exam) { x.authority.value.Waiting, x.authority.value.Ended = 3, 1 }, []string{"ok: 10 certificates", "1 have ended; 3 requests wait"}},
		{"no authority", "certificates", func(_ *testing.T, x *exam) { x.authority.err = errors.New("disk I/O error") }, []string{"unknown: disk I/O error"}},
	})
}

func TestTheNetwork(t *testing.T) {
	taken := func(t *testing.T) string {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l.Addr().String()
	}
	closed := func(t *testing.T) string {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l.Addr().String()
	}
	answers := func(table map[string]string) func(*testing.T, *exam) {
		return func(_ *testing.T, x *exam) {
			x.host.lookup = func(_ context.Context, name string) ([]string, error) {
				if a := table[name]; a != "" {
					return strings.Fields(a), nil
				}
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
		}
	}
	mine := "192.0.2.1"
	play(t, []mishap{
		{"another member's clock is ahead", "clock", func(_ *testing.T, x *exam) { x.probes.value[1].Ahead = 10 * time.Minute }, []string{"fail: the clock of b.example.test is 10m0s ahead of this one", "NTP"}},
		{"another member's clock is a little behind", "clock", func(_ *testing.T, x *exam) { x.probes.value[1].Ahead = -10 * time.Second }, []string{"warn: the clock of b.example.test is 10s behind this one"}},
		{"this clock is wrong", "clock", func(_ *testing.T, x *exam) {
			x.probes.value[1].Ahead = time.Hour
			x.probes.value = append(x.probes.value, x.probes.value[1])
		}, []string{"fail: all 2 others agree against this machine -> set the clock of this machine"}},
		{"a journal of the future", "clock", func(_ *testing.T, x *exam) { x.journal.value.Newest = x.now.Add(time.Hour) }, []string{"fail: the newest record of the journal is from 1h0m0s in the future"}},
		{"a journal that is ahead", "clock", func(_ *testing.T, x *exam) { x.journal.value.Newest = x.now.Add(time.Minute) }, []string{"warn: the newest record of the journal is from 1m0s in the future"}},
		{"nobody keeps the clock", "clock", func(_ *testing.T, x *exam) { x.host.kernelTime = func() (bool, error) { return false, nil } }, []string{"warn: nobody keeps this machine's clock"}},
		{"who does not answer has no clock", "clock", func(_ *testing.T, x *exam) { x.probes.value[1].Problem, x.probes.value[1].Ahead = "refused", time.Hour }, []string{"ok: ", "no other member"}},
		{"a closed port", "agents' port", func(t *testing.T, x *exam) { t.Helper(); x.process.value.Address = closed(t) }, []string{"fail: ", "refused", "systemctl restart troupe.service"}},
		{"somebody else's port", "agents' port", func(t *testing.T, x *exam) { t.Helper(); x.process.value.Address = serveTLS(t, goodPKI(t).pair) }, []string{"fail: ", "does not answer with the CA's certificate"}},
		{"an old certificate", "agents' port", func(t *testing.T, x *exam) {
			t.Helper()
			other := goodPKI(t)
			x.authority.value.Bundle = append(x.authority.value.Bundle, other.ca)
			x.process.value.Address = serveTLS(t, other.pair)
		}, []string{"warn: ", "shows another certificate than the one in the data folder -> systemctl reload"}},
		{"agents do not get there", "agents' port", answers(map[string]string{self: "127.0.0.2"}), []string{"warn: agents that use the name puppet.example.test do not reach the member", "refused"}},
		{"the port is taken", "agents' port", func(t *testing.T, x *exam) { t.Helper(); stop(x); x.settings.Listen = taken(t) }, []string{"fail: another process has 127.0.0.1:", "set listen to another port"}},
		{"no address of this machine", "agents' port", func(_ *testing.T, x *exam) { stop(x); x.settings.Listen = "192.0.2.99:8140" }, []string{"fail: 192.0.2.99:8140 is no address of this machine"}},
		{"the port is free", "agents' port", func(_ *testing.T, x *exam) { stop(x) }, []string{"ok: 127.0.0.1:0 is free"}},
		{"the member port is taken", "member port", func(t *testing.T, x *exam) { t.Helper(); stop(x); x.settings.ClusterListen = taken(t) }, []string{"fail: another process has", "set cluster.listen to another port"}},
		{"others do not get there", "member port", func(_ *testing.T, x *exam) { x.probes.value[0].Problem = "refused" }, []string{"fail: this member does not answer at 192.0.2.1:8143, which it announces to others: refused"}},
		{"alone", "member port", func(_ *testing.T, x *exam) { x.cluster.value = cluster.Condition{} }, []string{"ok: closed: this member serves alone"}},
		{"an unresolvable name", "names", answers(map[string]string{"puppet": mine, "alias.example.test": mine}), []string{"fail: puppet.example.test, the member's own name, does not resolve: no such host"}},
		{"an unresolvable alias", "names", answers(map[string]string{self: mine, "puppet": mine}), []string{"warn: alias.example.test does not resolve: no such host", "ok: "}},
		{"no puppet", "names", answers(map[string]string{self: mine, "alias.example.test": mine}), []string{"ok: ", "puppet has no address: agents need the setting server"}},
		{"another machine's name", "names", answers(map[string]string{self: "192.0.2.77", "alias.example.test": mine}), []string{"warn: puppet.example.test leads to 192.0.2.77, which is not this machine"}},
		{"another way back", "names", func(t *testing.T, x *exam) {
			t.Helper()
			answers(map[string]string{self: mine, "alias.example.test": mine})(t, x)
			x.host.reverse = func(context.Context, string) ([]string, error) { return []string{"host7.example.net."}, nil }
		}, []string{"ok: ", "puppet.example.test 192.0.2.1 (its reverse name is host7.example.net)"}},
		{"no way back", "names", func(t *testing.T, x *exam) {
			t.Helper()
			answers(map[string]string{self: mine, "alias.example.test": mine})(t, x)
			x.host.reverse = func(context.Context, string) ([]string, error) { return nil, errors.New("none") }
		}, []string{"ok: ", "(no reverse name)"}},
		{"a member is away", "members", func(_ *testing.T, x *exam) {
			x.probes.value[1].Problem = "connection refused"
			x.status.value.Members[1].State, x.status.value.Members[1].Error = adminapi.StateUnknown, "connection refused"
		}, []string{"fail: b.example.test of site west does not answer at 192.0.2.2:8143: connection refused", "port 8143", "troupe remove b.example.test"}},
		{"a member cannot be followed", "members", func(_ *testing.T, x *exam) {
			x.status.value.Members[1].State, x.status.value.Members[1].Error = adminapi.StateUnknown, "timeout"
		}, []string{"warn: b.example.test could not be followed lately: timeout"}},
		{"a member is behind", "members", func(_ *testing.T, x *exam) { x.status.value.Members[1].Behind = 5000 }, []string{"warn: b.example.test is 5000 records behind"}},
		{"an alarm", "members", func(_ *testing.T, x *exam) { x.status.value.Members[1].Alarms = []string{"its journal has forked"} }, []string{"fail: b.example.test: its journal has forked"}},
		{"an old version", "members", func(_ *testing.T, x *exam) { x.probes.value[1].Version = "1.0" }, []string{"warn: b.example.test runs version 1.0"}},
		{"a loopback address", "members", func(_ *testing.T, x *exam) { x.probes.value[0].Addresses = []string{"127.0.1.1"} }, []string{"warn: puppet.example.test announces 192.0.2.1:8143, which leads to this machine's loopback"}},
		{"all on loopback", "members", func(_ *testing.T, x *exam) {
			x.probes.value[0].Addresses, x.probes.value[1].Addresses = []string{"127.0.0.1"}, []string{"::1"}
		}, []string{"warn: all 2 members announce loopback addresses"}},
		{"our address does not resolve", "members", func(_ *testing.T, x *exam) { x.probes.value[0].Addresses = nil }, []string{"fail: the address 192.0.2.1:8143 that this member announces does not resolve"}},
		{"interrupted joining", "members", func(_ *testing.T, x *exam) { x.cluster.value = cluster.Condition{Joining: true} }, []string{"fail: joining a troupe was interrupted"}},
		{"removed", "members", func(_ *testing.T, x *exam) { x.cluster.value.Removed = true }, []string{"fail: this member was removed from its troupe"}},
	})
}

func TestTheOperatorsNATS(t *testing.T) {
	change := func(f func(*nats.Status)) func(*testing.T, *exam) {
		return func(_ *testing.T, x *exam) { f(x.status.value.NATS) }
	}
	play(t, []mishap{
		{"none", "NATS", func(_ *testing.T, x *exam) { x.status.value.NATS = nil }, nil},
		{"connecting", "NATS", change(func(s *nats.Status) { s.Server = "" }), []string{"unknown: it is being connected since"}},
		{"away", "NATS", change(func(s *nats.Status) { s.Server, s.Problem, s.Remedy = "", "JetStream is off", "switch JetStream on" }), []string{"warn: it carries no records since", "HTTPS carries all of them: JetStream is off -> switch JetStream on"}},
		{"full", "NATS", change(func(s *nats.Status) { s.Problem, s.Remedy = "JetStream is full", "make room" }), []string{"warn: records of this member do not go through it", "JetStream is full -> make room"}},
		{"behind", "NATS", change(func(s *nats.Status) { s.Lag = 5000 }), []string{"warn: 5000 records of this member wait to be published"}},
		{"slow", "NATS", change(func(s *nats.Status) { s.Ack = 3 * time.Second }), []string{"warn: the last acknowledgement took 3s"}},
		{"forged", "NATS", change(func(s *nats.Status) { s.Refused = []string{"5 on the subjects of x: forged"} }), []string{"warn: messages were not taken: 5 on the subjects of x: forged -> see who may publish"}},
		{"one machine", "NATS", change(func(s *nats.Status) { s.Streams[0].Replicas = 1 }), []string{"warn: the stream troupe_x_state lies on one machine", "nats stream edit troupe_x_state --replicas 3"}},
	})
}

func TestNoSecretIsInAReport(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "troupe.yaml")
	write(t, file, "data: "+filepath.Join(dir, "data")+"\nengine: {settings: {dbpassword: opensesame}}\n", 0o600)
	cfg, err := config.Load(config.Sources{File: file, ConfDir: "none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Examine(t.Context(), Options{Config: cfg, Version: "1"}).Findings {
		if strings.Contains(f.Found+f.Remedy, "opensesame") {
			t.Errorf("%+v", f)
		}
	}
}
