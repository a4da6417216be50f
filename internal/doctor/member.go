package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/server"
)

// This file examines the member as an operator knows it: its settings, its process, its Ruby, its environments, its journal.

func configuration(_ context.Context, x *exam, n *notes) {
	p, errText := x.process.value, ""
	switch {
	case x.configError != nil:
		errText = x.configError.Error()
	case x.process.err == nil && p.ConfigError != "":
		errText = p.ConfigError // with the flags that it was started with
	case x.config != nil && x.presence != Running:
		if err := server.Check(x.config); err != nil {
			errText = err.Error()
		}
	}
	for line := range strings.Lines(errText) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, ":") {
			n.fail("correct it, then: troupe config check", "%s", line)
		}
	}
	ignored := p.Notes
	if x.presence != Running && x.config != nil {
		ignored = x.config.Notes
	}
	for _, note := range ignored {
		n.warn("remove the setting, or see docs/compat.md for what does its work", "not followed: %s", note)
	}
	if len(p.Reload) > 0 {
		n.warn(x.reload(), "changed and not in force yet: %s", strings.Join(p.Reload, ", "))
	}
	if len(p.Restart) > 0 {
		n.warn(x.restart(), "changed and not in force before a restart: %s", strings.Join(p.Restart, ", "))
	}
	if n.well() {
		n.ok("it can be read, and no setting is ignored")
	}
}

func running(_ context.Context, x *exam, n *notes) {
	p := x.process.value
	switch {
	case x.dialError != nil:
		n.fail("run this as root or as the user of the server: sudo troupe doctor", "%s", x.dialError)
	case x.presence == Fresh && x.config == nil, x.presence == Stopped && x.config == nil:
		n.unknown("correct the configuration, or name the data folder: troupe doctor --data DIR", "without a configuration it is not known where it is")
	case x.presence == Fresh:
		n.ok("there is no data folder %s yet: troupe server makes it, or troupe join to become one of a troupe", x.settings.Data)
	case x.inUse() != "":
		n.warn("if it has just been started, wait; else: "+x.log(), "%s, which does not answer on its admin socket", x.inUse())
	case x.presence == Stopped:
		n.warn(x.start(), "no member runs on %s", x.settings.Data)
	case x.process.err != nil:
		n.fail(x.log()+"; if it hangs: "+x.restart(), "the member does not tell how it does: %s", x.process.err)
	default:
		if p.Phase != "running" {
			n.warn("wait; "+x.log(), "process %d is %s", p.PID, p.Phase)
		}
		if p.Version != x.version || p.Replaced {
			n.warn(x.restart(), "process %d runs version %s, and another program lies on the disk (this one is %s)", p.PID, p.Version, x.version)
		}
		if n.well() {
			n.ok("process %d serves agents at %s since %s, version %s", p.PID, p.Address, p.Started.Local().Format(time.DateTime), p.Version)
		}
	}
}

// service asks systemd, where it is the service manager.
func service(ctx context.Context, x *exam, n *notes) {
	if _, err := os.Stat(x.host.systemd); err != nil {
		return
	}
	unit := "troupe.service"
	if x.process.err == nil {
		if unit = x.unit(x.process.value.PID); unit == "" {
			n.warn("install packaging/troupe.service, then: systemctl enable --now troupe", "the member was started by hand: nobody starts it again when it ends or the machine boots")
			return
		}
	}
	out, err := x.host.systemctl(ctx, "show", unit, "--property=LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState")
	if err != nil {
		n.unknown("systemctl status "+unit, "systemd does not tell about %s: %s", unit, err)
		return
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = value
	}
	if said["LoadState"] == "not-found" {
		if x.presence != Fresh {
			n.warn("install packaging/troupe.service, then: systemctl enable --now troupe", "there is no unit %s", unit)
		}
		return
	}
	if said["ActiveState"] == "failed" {
		n.fail("journalctl -u "+unit+" -n 50", "%s has failed (%s)", unit, said["Result"])
	}
	if said["UnitFileState"] == "disabled" {
		n.warn("systemctl enable "+unit, "%s does not start at boot", unit)
	}
	if restarts, err := strconv.Atoi(said["NRestarts"]); err == nil && restarts > 0 {
		n.warn("journalctl -u "+unit+" | grep -i -B5 'main process exited'", "%s was started again %d times after it had ended by itself", unit, restarts)
	}
	if n.well() {
		n.ok("%s is %s (%s)", unit, said["ActiveState"], said["SubState"])
	}
}

// unit returns the service that a process belongs to.
func (x *exam) unit(pid int) string {
	text, err := os.ReadFile(filepath.Join(x.host.proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), "/") {
		if part, _, _ = strings.Cut(part, "\n"); strings.HasSuffix(part, ".service") && !strings.HasPrefix(part, "user@") {
			return part
		}
	}
	return ""
}

const rubyRemedy = "apt-get install puppet-agent, or set engine.ruby and engine.puppet_lib"

func rubyEngine(_ context.Context, x *exam, n *notes) {
	user, uid, own := x.process.value.User, x.process.value.UserUID, x.process.value.UID
	versions := x.process.value.Engine.Versions
	if x.presence == Running {
		if x.process.err != nil {
			return
		}
		e := x.process.value.Engine
		if !e.Serving {
			n.fail(x.log(), "no Ruby process serves")
		}
		if e.MaxQueue > 0 && e.Waiting > e.MaxQueue/2 {
			n.warn("raise engine.workers, or add a member", "%d compiles wait for %d workers, and at %d agents are sent away", e.Waiting, e.Workers, e.MaxQueue)
		}
	} else {
		switch {
		case errors.Is(x.ruby.err, errLate):
			n.unknown("time ruby -e 'require \"puppet\"'", "the Puppet library was not loaded in %v", gatherMost)
		case x.ruby.err != nil && !x.ruby.absent():
			n.fail(rubyRemedy, "%s", x.ruby.err)
		}
		if x.ruby.err != nil {
			return
		}
		f := x.ruby.value
		user, uid, own, versions = f.User, f.UID, os.Geteuid(), f.Versions
		if info, err := os.Stat(x.settings.Data); err == nil && ownerOf(info) != own {
			n.unknown("sudo troupe doctor", "Puppet %s on Ruby %s; as whom the member would run it is seen only by the owner of its folder", versions.Puppet, versions.Ruby)
			return
		}
	}
	switch uid {
	case 0:
		n.fail("set engine.user to puppet or nobody", "Ruby runs as root: a manifest can do everything on this machine")
	case own:
		n.warn("start the server as root, so that Ruby becomes another user", "Ruby runs as the server's own user %s: a manifest can read the keys of the CA", user)
	}
	if n.well() {
		where := ""
		if x.ruby.err == nil && x.presence != Running {
			where = " (" + x.ruby.value.Interpreter + ")"
		}
		n.ok("Puppet %s on Ruby %s%s, as user %s, %d workers", versions.Puppet, versions.Ruby, where, user, x.settings.Workers)
	}
}

// commands looks at the operator's own programs, which run as the user of Ruby.
func commands(_ context.Context, x *exam, n *notes) {
	uid := x.process.value.UserUID
	if x.presence != Running {
		uid = x.ruby.value.UID
	}
	var good []string
	for _, c := range x.settings.Commands {
		info, err := os.Stat(c.Path)
		policy := c.Setting == "ca.autosign" // an allow-list has no right to be run
		switch {
		case errors.Is(err, fs.ErrNotExist) && policy:
			good = append(good, "ca.autosign "+c.Path+" (not there: nobody is signed by itself)") // Puppet's default
		case err != nil:
			n.fail("correct the setting "+c.Setting, "%s: every agent's run fails: %s", c.Setting, err)
		case info.IsDir() || !policy && !mayRun(info, uid) || policy && info.Mode()&0o111 != 0 && !mayRun(info, uid):
			n.fail("chmod a+rx "+c.Path, "%s: user %d, who is to run %s, may not (mode %04o)", c.Setting, uid, c.Path, info.Mode().Perm())
		default:
			good = append(good, c.Setting+" "+c.Path)
		}
	}
	if len(good) > 0 {
		n.ok("%s", strings.Join(good, "; "))
	}
}

// mayRun goes by the modes of the file alone; the group is taken for one that fits.
func mayRun(info os.FileInfo, uid int) bool {
	need := os.FileMode(0o011)
	switch uid {
	case 0:
		need = 0o111
	case ownerOf(info):
		need = 0o100
	}
	return info.Mode().Perm()&need != 0
}

func environments(_ context.Context, x *exam, n *notes) {
	path := strings.Join(x.settings.EnvironmentPath, ":")
	if x.environments.err != nil {
		if errors.Is(x.environments.err, errLate) {
			n.unknown("look for a file server that hangs: mount", "environments in %s were not listed in %v", path, gatherMost)
		} else if !x.environments.absent() {
			n.fail("set environmentpath to a folder that the member can read", "environments in %s cannot be listed: %s", path, x.environments.err)
		}
		return
	}
	all := x.environments.value
	if len(all) == 0 {
		const deploy = "deploy your code there, or set environmentpath"
		switch {
		case x.presence != Running && slices.Contains(x.settings.EnvironmentPath, filepath.Join(x.settings.Data, "code", "environments")):
			n.ok("none in %s: the start makes an empty production", path)
		case x.presence == Fresh:
			n.warn(deploy, "there is no environment in %s yet", path)
		default:
			n.fail(deploy, "there is no environment in %s: every agent's run fails", path)
		}
		return
	}
	production, served := false, []string{}
	for _, e := range all {
		production = production || e.Name == "production"
		if e.Error != "" {
			n.fail("mend the folder: agents get its last good version, or an error", "%s: %s", e.Name, e.Error)
			continue
		}
		text := string(e.Name)
		if e.Version != "" {
			text += " " + e.Version[:min(12, len(e.Version))]
		}
		served = append(served, text)
	}
	if !production {
		n.warn("make one, or see that every agent is given another environment", "there is no environment production in %s, where agents go that were told nothing else", path)
	}
	if n.well() {
		const most = 5
		text := strings.Join(served[:min(most, len(served))], ", ")
		if len(served) > most {
			text += fmt.Sprintf(" and %d more", len(served)-most)
		}
		n.ok("%s", text)
	}
}

func journalWhole(_ context.Context, x *exam, n *notes) {
	if x.presence == Fresh {
		return
	}
	if x.journal.absent() && x.config != nil {
		if entries, err := os.ReadDir(filepath.Join(x.settings.Data, "ca", "keys")); err == nil && len(entries) > 0 {
			n.fail("restore the data folder from a backup; do not start the member", "there are keys of a CA in %s, and no journal that knows them", x.settings.Data)
		}
		return
	}
	if x.inUse() != "" || x.journal.missing(n) {
		return
	}
	j := x.journal.value
	for _, d := range j.Damage {
		n.fail("troupe journal verify; then restore it from a backup, or join again with an empty folder", "%s", d)
	}
	if !j.Checked {
		n.unknown("troupe journal verify", "%s with %d records: there was no time to look through the whole file", bytesText(uint64(max(j.Size, 0))), j.Records)
	}
	if n.well() {
		n.ok("%s with %d records, written by %d members; the file is whole as far as a quick look goes", bytesText(uint64(max(j.Size, 0))), j.Records, max(1, j.Origins))
	}
}

// bytesText writes a size for people.
func bytesText(b uint64) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(b)/(1<<10))
}
