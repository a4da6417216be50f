// Package deploy makes what one member's folder of an environment holds the code of all members.
//
// To deploy is to write a record: the environment and the content id of the version. Every member follows these records,
// fetches a version from whoever has it, and serves it once it is complete ([code.Repo.Pin]); until then it serves what it
// served before. Of two deployments of an environment the later one counts, by the clock of the journal, wherever they were
// made. An environment that nobody has deployed is the business of each member's own folder.
//
// Begin with [Open]; fetch.go brings versions from other members, answer.go gives them.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"troupe/internal/account"
	"troupe/internal/carrier"
	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/journal"
	"troupe/internal/puppet"
	"troupe/internal/telemetry"
)

// Options tells a Deployer who the others are.
type Options struct {
	Name string // of this member

	// Peers returns the other members and a channel that is closed when they change; Dial what asks one. As in package carrier.
	Peers func() ([]carrier.Peer, <-chan struct{})
	Dial  func(carrier.Peer) carrier.Asker

	// Copied returns nil when another member has the record of that number, too; as in package ca.
	Copied func(ctx context.Context, number uint64) error

	Account account.Account // runs scripts of environments
	Log     *slog.Logger    // nil discards
}

// A Deployer follows what is deployed. Its methods may be called concurrently.
type Deployer struct {
	j    *journal.Journal
	repo *code.Repo
	o    Options
	log  *slog.Logger

	turn chan struct{} // holds one token while somebody changes what the repo serves

	mu        sync.Mutex
	positions map[journal.Origin]uint64
	deployed  map[puppet.Environment]word
	failed    map[puppet.Environment]string // why the last word about an environment does not serve; "" when it does

	settled chan struct{} // closed when every environment has a version to serve
	isOnce  sync.Once
}

// The records, in the stream of the small state.
const (
	kindPrefix    = "code."
	kindDeployed  = "code.deployed"
	kindWithdrawn = "code.withdrawn"
)

// A Deployment is the last word about an environment.
type Deployment struct {
	Environment   puppet.Environment `json:"environment"`
	Version       string             `json:"version,omitempty"` // content id; "" after it was withdrawn
	ConfigVersion string             `json:"config_version,omitempty"`
	By            string             `json:"by"` // name of the member whose folder it was
	Path          string             `json:"path,omitempty"`
	Time          time.Time          `json:"time"` // when the record was written
	Origin        journal.Origin     `json:"origin"`
}

// A word is a deployment with what orders it.
type word struct {
	Deployment

	at journal.Time
}

// later reports whether w counts more than v. Records of one moment are ordered by origin, so that all members agree.
func (w word) later(v word) bool {
	return w.at > v.at || w.at == v.at && w.Origin > v.Origin
}

// Open reads what is deployed and ends what was withdrawn while this member was away.
func Open(ctx context.Context, j *journal.Journal, repo *code.Repo, o Options) (*Deployer, error) {
	d := &Deployer{
		j: j, repo: repo, o: o, log: telemetry.Discard(o.Log).With(telemetry.KeySystem, "deploy"),
		turn: make(chan struct{}, 1), positions: map[journal.Origin]uint64{}, deployed: map[puppet.Environment]word{}, failed: map[puppet.Environment]string{}, settled: make(chan struct{}),
	}
	if err := d.refresh(ctx); err != nil {
		return nil, err
	}
	// What was withdrawn while this member was away, or was on its way to be deployed when it died.
	for _, e := range repo.AllPinned() {
		if d.deployed[e].Version == "" {
			if err := repo.Unpin(e); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func (d *Deployer) takeTurn(ctx context.Context) bool {
	select {
	case d.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Deployer) endTurn() { <-d.turn }

// Run serves what is deployed as soon as it is complete here, until ctx ends.
func (d *Deployer) Run(ctx context.Context) error {
	retry := retryFirst
	for {
		changed := d.j.Changed()
		_, peers := d.o.Peers()
		if err := d.refresh(ctx); err != nil && ctx.Err() == nil {
			d.log.ErrorContext(ctx, "what is deployed cannot be read", telemetry.KeyErr, err)
		}
		var again <-chan time.Time
		if d.settle(ctx) {
			retry = retryFirst
		} else {
			changed, again = nil, time.After(retry) // the journal changes all the time, and hardly ever because of code
			retry = min(2*retry, retryMost)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-peers:
		case <-again:
		}
	}
}

// How often a version that cannot be had is asked for.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Settled is closed when every deployed environment has something that serves: not always the newest version, and where nothing
// was fetched yet, this member's folder.
func (d *Deployer) Settled() <-chan struct{} { return d.settled }

// refresh folds what is new in the journal.
func (d *Deployer) refresh(ctx context.Context) error {
	origins, err := d.j.Origins(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range origins {
		records, end, err := d.j.Select(ctx, o, journal.State, kindPrefix, d.positions[o])
		if err != nil {
			return fmt.Errorf("read deployments: %w", err)
		}
		for _, r := range records {
			if err := d.fold(r); err != nil {
				d.log.ErrorContext(ctx, "record cannot be folded", "origin", r.Origin, "number", r.Number, "kind", r.Kind, telemetry.KeyErr, err)
			}
		}
		d.positions[o] = end
	}
	return nil
}

func (d *Deployer) fold(r journal.Record) error {
	if r.Kind != kindDeployed && r.Kind != kindWithdrawn {
		return nil // written by a newer member
	}
	var w word
	if err := json.Unmarshal(r.Body, &w.Deployment); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := puppet.ParseEnvironment(string(w.Environment)); err != nil {
		return err
	}
	if r.Kind == kindWithdrawn {
		w.Version = ""
	}
	w.at, w.Time, w.Origin = r.Time, r.Time.Time().UTC(), r.Origin
	if known, ok := d.deployed[w.Environment]; !ok || w.later(known) {
		d.deployed[w.Environment] = w
	}
	return nil
}

// Deployments are the last words about all environments, by name.
func (d *Deployer) Deployments() []Deployment {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Deployment
	for _, w := range d.deployed {
		all = append(all, w.Deployment)
	}
	slices.SortFunc(all, func(a, b Deployment) int { return strings.Compare(string(a.Environment), string(b.Environment)) })
	return all
}

// Deploy makes what this member's folder of an environment holds now the code of all members. When it returns, this member
// serves it, and the record of it is on the disk.
func (d *Deployer) Deploy(ctx context.Context, e puppet.Environment) (Deployment, error) {
	d.repo.Deployed(e) // look now
	v, err := d.repo.Folder(ctx, e)
	if err != nil {
		return Deployment{}, err
	}
	v.Retain()
	defer v.Release()
	said, err := d.configVersion(ctx, v)
	if err != nil {
		return Deployment{}, err
	}
	if !d.takeTurn(ctx) {
		return Deployment{}, fault.Wrap(fault.Unavailable, ctx.Err(), "another version is being fetched")
	}
	defer d.endTurn()
	// Complete here before anybody is told to have it.
	if err := d.repo.Pin(e, v.ID, code.Deployment{ConfigVersion: said}); err != nil {
		return Deployment{}, err
	}
	w := Deployment{Environment: e, Version: v.ID, ConfigVersion: said, By: d.o.Name, Path: v.Path()}
	if err := d.append(ctx, kindDeployed, &w); err != nil {
		return Deployment{}, err
	}
	for _, text := range v.Warnings {
		d.log.WarnContext(ctx, "part of the environment is not deployed", telemetry.KeyEnvironment, e, "reason", text)
	}
	d.log.InfoContext(ctx, "environment is deployed to all members", telemetry.KeyEnvironment, e, telemetry.KeyCodeID, v.ID)
	return w, nil
}

// Withdraw leaves an environment to each member's own folder again.
func (d *Deployer) Withdraw(ctx context.Context, e puppet.Environment) error {
	d.mu.Lock()
	known := d.deployed[e]
	d.mu.Unlock()
	if known.Version == "" {
		return fault.New(fault.NotFound, "environment '%s' is not deployed: each member serves its own folder", e)
	}
	if err := d.append(ctx, kindWithdrawn, &Deployment{Environment: e, By: d.o.Name}); err != nil {
		return err
	}
	d.settle(ctx)
	return nil
}

// append writes a record, folds it, and waits a while until another member has it, too.
func (d *Deployer) append(ctx context.Context, kind string, w *Deployment) error {
	body, err := json.Marshal(w)
	if err != nil {
		return err
	}
	records, err := d.j.Append(ctx, journal.Draft{Stream: journal.State, Kind: kind, Key: string(w.Environment), Body: body})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := d.refresh(ctx); err != nil {
		return err
	}
	r := records[0]
	w.Time, w.Origin = r.Time.Time().UTC(), r.Origin
	journal.AwaitCopy(ctx, d.o.Copied, r, d.log)
	return nil
}

const (
	scriptMost = 30 * time.Second
	maxAnswer  = 1 << 10 // bytes of a configuration version
)

// configVersion runs the environment's script where its repository is, once: a version does not change, and other members have
// no repository to ask. "" means that there is no script.
func (d *Deployer) configVersion(ctx context.Context, v *code.Version) (string, error) {
	command := v.Settings.ConfigVersion
	if command == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, scriptMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command) // the operator's; Puppet runs it by a shell, too
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := d.o.Account.Apply(cmd); err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fault.Wrap(fault.Failed, errors.Join(err, errors.New(strings.TrimSpace(stderr.String()))),
			"config_version of environment '%s', %s, fails: %v: compiles would, too; nothing was deployed", v.Environment, command, err)
	}
	if len(out) > maxAnswer {
		return "", fault.New(fault.Failed, "config_version of environment '%s' says %d bytes, more than %d", v.Environment, len(out), maxAnswer)
	}
	return strings.TrimSpace(string(out)), nil
}
