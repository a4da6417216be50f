package code

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// This file keeps versions that were deployed for all members. Such a version serves in place of the environment's folder,
// needs none, and stays over a crash of the machine: it may have come from a member that is lost.

// deployedFile lies in the folder of a version that must stay. It is written when everything else is on the disk.
const deployedFile = "deployed.json"

// A Deployment is what belongs to a deployed version beside its files.
type Deployment struct {
	ConfigVersion string `json:"config_version,omitempty"` // what the environment's script has said; other members do not have its repository
}

// Pin makes a version that is complete here the one that serves, whatever the folder holds. When it returns, the version
// survives a crash of the machine.
func (r *Repo) Pin(e puppet.Environment, id string, d Deployment) error {
	name, p, err := r.store.readManifest(id)
	if err != nil {
		return err
	}
	if name != e {
		return fault.New(fault.NotFound, "version %s is of environment '%s', not of '%s'", id, name, e)
	}
	if err := r.store.keep(id, d); err != nil {
		return fmt.Errorf("keeping version %s: %w", id, err)
	}
	env := r.environment(e)
	v := env.version(id, p)
	v.ConfigVersion = d.ConfigVersion
	before := env.pin(v)
	if before == nil || before.ID == id {
		return nil
	}
	return r.store.letGo(before.ID)
}

// Unpin ends what Pin began: the folder serves again.
func (r *Repo) Unpin(e puppet.Environment) error {
	if before := r.environment(e).pin(nil); before != nil {
		return r.store.letGo(before.ID)
	}
	return nil
}

// Pinned returns the content id of the deployed version that serves, "" if it is the folder that does.
func (r *Repo) Pinned(e puppet.Environment) string {
	r.mu.Lock()
	env := r.environments[e]
	r.mu.Unlock()
	if env == nil {
		return ""
	}
	if v := env.deployedVersion(); v != nil {
		return v.ID
	}
	return ""
}

// Serves reports whether there is anything to serve of an environment: a deployed version or a folder.
func (r *Repo) Serves(e puppet.Environment) bool { return r.Pinned(e) != "" || r.folder(e) != "" }

// AllPinned lists the environments of which a deployed version serves.
func (r *Repo) AllPinned() []puppet.Environment {
	var all []puppet.Environment
	for _, e := range r.active() {
		if e.deployedVersion() != nil {
			all = append(all, e.name)
		}
	}
	return all
}

// Folder is Current of what the environment's folder holds, also where a deployed version serves.
func (r *Repo) Folder(ctx context.Context, e puppet.Environment) (*Version, error) {
	if r.folder(e) == "" {
		return nil, fault.New(fault.NotFound, "no folder of environment '%s' is on this member", e)
	}
	return r.environment(e).folder(ctx)
}

// pin puts v in the place of the folder and returns what was there.
func (e *environment) pin(v *Version) (before *Version) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, e.pinned = e.pinned, v
	if v != nil {
		e.versions[v.ID] = v
	}
	return before
}

// deployedVersion is nil where the folder serves.
func (e *environment) deployedVersion() *Version {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pinned
}

// restoreDeployed goes on with what served before this process began. Of two, left by a crash between them, the newer one counts.
func (e *environment) restoreDeployed(id string) error {
	d, err := e.r.store.deployment(id)
	if err != nil || d == nil || e.deployedVersion() != nil {
		return err
	}
	_, p, err := e.r.store.readManifest(id)
	if fault.KindOf(err) == fault.NotFound {
		e.log.Warn("deployed version cannot be used and is fetched again", slog.String(telemetry.KeyCodeID, id), slog.Any(telemetry.KeyErr, err))
		return nil
	}
	if err != nil {
		return err
	}
	v := e.version(id, p)
	v.ConfigVersion = d.ConfigVersion
	e.pin(v)
	return nil
}

// keep makes a version durable.
func (s *snapshots) keep(id string, d Deployment) error {
	if err := s.syncAll(); err != nil {
		return err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(s.version(id), deployedFile), text, 0o444); err != nil {
		return err
	}
	return atomicfile.SyncFolder(filepath.Join(s.dir, versionsDir))
}

// syncAll puts whatever was written to the file system on the disk: some ten thousand files would take as many calls of fsync.
func (s *snapshots) syncAll() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncing versions: %w", err)
	}
	return nil
}

// letGo makes a version one of those that may be made again.
func (s *snapshots) letGo(id string) error {
	if err := os.Remove(filepath.Join(s.version(id), deployedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("letting go of version %s: %w", id, err)
	}
	return nil
}

// deployment returns nil for a version that was not deployed.
func (s *snapshots) deployment(id string) (*Deployment, error) {
	text, err := os.ReadFile(filepath.Join(s.version(id), deployedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was deployed: %w", err)
	}
	var d Deployment
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, nil //nolint:nilerr,nilnil // damaged: package deploy knows what is deployed, and pins it again
	}
	return &d, nil
}

// A salvaged version is one that is whole after a crash of the machine.
type salvaged struct {
	id          string
	environment puppet.Environment
	plan        *plan
	deployment  Deployment
}

// salvage reads every deployed version to its last byte. Damaged contents are removed, and versions that had them are left out:
// another member has them.
func (s *snapshots) salvage() ([]salvaged, error) {
	built, err := s.built()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var whole []salvaged
	for _, b := range built {
		d, err := s.deployment(b.id)
		if err != nil || d == nil {
			continue // what cannot be read was not whole
		}
		env, p, err := s.readManifest(b.id)
		if err != nil || p.check(env) != nil || p.id() != b.id {
			continue
		}
		if ok, err := s.hasAll(p); err != nil {
			return nil, err
		} else if ok {
			whole = append(whole, salvaged{b.id, env, p, *d})
		}
	}
	return whole, nil
}

// rebuild makes the folders of versions whose contents are whole, and removes the contents of all others.
func (s *snapshots) rebuild(whole []salvaged) error {
	if len(whole) == 0 {
		return nil
	}
	for _, v := range whole {
		if err := s.build(v.id, v.environment, v.plan); err != nil {
			return err
		}
		if err := s.keep(v.id, v.deployment); err != nil {
			return err
		}
	}
	return s.collect()
}

// hasAll sums every content of a plan, and removes those that are not what their name says.
func (s *snapshots) hasAll(p *plan) (whole bool, err error) {
	whole = true
	for _, n := range p.contents() {
		f, err := os.Open(s.blob(n.sum, n.executable()))
		if errors.Is(err, fs.ErrNotExist) {
			whole = false
			continue
		}
		if err != nil {
			return false, fmt.Errorf("opening a blob: %w", err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil || hash(h.Sum(nil)) != n.sum {
			whole = false
			if err := os.Remove(f.Name()); err != nil {
				return false, fmt.Errorf("removing a damaged blob: %w", err)
			}
		}
	}
	return whole, nil
}
