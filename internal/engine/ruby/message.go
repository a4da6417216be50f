package ruby

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file defines the heads of frames: commands that we send, events that
// come back.

// openCommand tells a zygote that was forked which version of which environment it is.
type openCommand struct {
	Op              string             `json:"op"`
	Environment     puppet.Environment `json:"environment"`
	Root            string             `json:"root"` // of the snapshot
	EnvironmentPath string             `json:"environmentpath"`
	BaseModulePath  []string           `json:"basemodulepath"`
	Paths           [][2]string        `json:"paths"`
	ConfigVersion   string             `json:"config_version"` // "" asks the environment's own script
	Settings        map[string]string  `json:"settings"`
	Limits          limits             `json:"limits"`
}

// limits bound each worker by the kernel.
type limits struct {
	Memory int64 `json:"memory"` // bytes of address space on top of what a new worker has
}

// plainCommand is a command without arguments.
type plainCommand struct {
	Op       string `json:"op"`
	Deadline int    `json:"deadline,omitempty"` // seconds of CPU
}

// forkCommand asks a fork server for a child. The child's socket follows.
type forkCommand struct {
	Op   string `json:"op"`
	Heir bool   `json:"heir,omitempty"` // the child is to be a zygote for another version and outlive its parent
}

// compileCommand asks a worker, or a zygote that warms itself, for a catalog.
type compileCommand struct {
	Op              string            `json:"op"`
	Deadline        int               `json:"deadline"` // seconds of CPU
	Certname        puppet.Certname   `json:"certname"`
	CodeID          string            `json:"code_id"`
	Classes         json.RawMessage   `json:"classes,omitempty"`
	Parameters      json.RawMessage   `json:"parameters,omitempty"`
	Facts           json.RawMessage   `json:"facts,omitempty"`
	FactsTimestamp  string            `json:"facts_timestamp,omitempty"`
	Trusted         puppet.Trusted    `json:"trusted"`
	ServerFacts     map[string]string `json:"server_facts"`
	TransactionUUID string            `json:"transaction_uuid,omitempty"`
	JobID           string            `json:"job_id,omitempty"`
	Rich            bool              `json:"rich"`
	Static          bool              `json:"static"`
	Unfiltered      bool              `json:"unfiltered"`
	ChecksumTypes   string            `json:"checksum_types,omitempty"`
	LogLevel        string            `json:"log_level,omitempty"`
}

// logLevels are those of Puppet (lib/puppet/util/log.rb).
const logLevels = " debug info notice warning err alert emerg crit "

// newCompileCommand checks what a caller may have got wrong.
func newCompileCommand(op string, q engine.Request, deadline time.Duration) (compileCommand, error) {
	c := compileCommand{
		Op: op, Deadline: seconds(deadline), Certname: q.Certname, CodeID: q.Version.ID,
		Classes: q.Classes, Parameters: q.Parameters, Facts: q.Facts.Values, Trusted: q.Trusted, ServerFacts: q.ServerFacts,
		TransactionUUID: q.TransactionUUID, JobID: q.JobID, Rich: q.Rich, Static: q.Static, Unfiltered: q.Unfiltered,
		ChecksumTypes: strings.Join(q.ChecksumTypes, "."), LogLevel: q.LogLevel,
	}
	if !q.Facts.Timestamp.IsZero() {
		c.FactsTimestamp = q.Facts.Timestamp.Format(time.RFC3339Nano)
	}
	if q.LogLevel != "" && !strings.Contains(logLevels, " "+q.LogLevel+" ") {
		return c, fault.New(fault.Invalid, "log level %q is not one of%s", q.LogLevel, strings.TrimRight(logLevels, " "))
	}
	for _, part := range []struct {
		name string
		json json.RawMessage
		kind string // first bytes allowed
	}{{"classes", q.Classes, "[{n"}, {"parameters", q.Parameters, "{n"}, {"facts", q.Facts.Values, "{n"}} {
		if text := bytes.TrimSpace(part.json); len(text) > 0 && (!json.Valid(text) || strings.IndexByte(part.kind, text[0]) < 0) {
			return c, fault.New(fault.Invalid, "%s of %s are not the JSON that a node has", part.name, q.Certname)
		}
	}
	return c, nil
}

// seconds rounds up: a limit of 0 would end the process at once.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// An event is what a Ruby process says. Which fields are set depends on Event.
type event struct {
	Event string `json:"event"`

	// ready and failed, from the template
	Puppet string `json:"puppet"`
	Ruby   string `json:"ruby"`
	// all that the template loaded was there in compiled form
	Compiled bool   `json:"compiled"`
	Error    string `json:"error"`

	// forked, refused and died, from template and zygotes
	PID    int  `json:"pid"`
	Exit   *int `json:"exit"`
	Signal *int `json:"signal"`

	// opened, failed and settled, from zygotes
	UnknownSettings []string `json:"unknown_settings"`

	// query, from workers and warming zygotes
	Query  string          `json:"query"`
	Type   string          `json:"type"`
	Host   puppet.Certname `json:"host"`
	Filter json.RawMessage `json:"filter"`
	AST    json.RawMessage `json:"ast"`
	Path   string          `json:"path"`
	Follow bool            `json:"follow"`

	// done and failed, from workers and warming zygotes
	Message     string             `json:"message"`
	Memory      bool               `json:"memory"` // it ran out of memory
	Leaving     bool               `json:"exit_called"`
	Logs        []engine.Log       `json:"logs"`
	Timings     map[string]float64 `json:"timings"`
	CatalogUUID string             `json:"catalog_uuid"`
	Version     string             `json:"version"`
	Resources   int                `json:"resources"`
	Exported    []puppet.Resource  `json:"exported"`
	Format      string             `json:"format"`
	Files       json.RawMessage    `json:"files"`
	Resident    int64              `json:"rss"`
	Starved     float64            `json:"starved"` // seconds for which it wanted a CPU and got none
	Strays      bool               `json:"strays"`  // it left processes running
	Spent       bool               `json:"spent"`   // it cannot take another request
	Found       bool               `json:"found"`
	Role        string             `json:"role"` // digest of the names of the catalog's classes

	body []byte // what follows the head
}

func parseEvent(head []byte) (event, error) {
	var e event
	if err := json.Unmarshal(head, &e); err != nil {
		return e, fmt.Errorf("reading an event: %w", err)
	}
	return e, nil
}

// ending says how a process that is gone has ended.
func (e event) ending() string {
	switch {
	case e.Signal != nil:
		return fmt.Sprintf("it was ended by signal %d", *e.Signal)
	case e.Exit != nil:
		return fmt.Sprintf("it ended itself with exit status %d", *e.Exit)
	}
	return "it is gone"
}
