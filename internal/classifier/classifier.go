// Package classifier decides what a node is: its environment, classes and
// parameters. It asks an external node classifier (ENC) when there is one;
// otherwise every node is plain and manifests decide.
//
// The ENC is the executable of Puppet's node_terminus=exec: it is called with
// the certname and answers YAML. Its last good answer is kept, and used, marked
// as stale, when it fails. Begin with [New] and [Classifier.Classify].
package classifier

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"troupe/internal/account"
	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
	"troupe/internal/telemetry"
)

// A Node is what is known about a node before its manifests are read.
type Node struct {
	Certname    puppet.Certname
	Environment puppet.Environment // "" when the ENC did not decide, or there is none
	Classes     json.RawMessage    // array of names, or object of parameters by name
	Parameters  json.RawMessage    // object
	Stale       bool               // the ENC failed; this is its last good answer
}

// Options tunes a Classifier. The zero value makes every node plain.
type Options struct {
	Command     string          // the ENC and its arguments, split at spaces as Puppet does; "" or "none" means no ENC
	External    string          // trusted_external_command: an executable or a folder of them; "" means none
	Account     account.Account // that the commands run as; zero means our own
	Env         []string        // added to the ENC's small environment, as KEY=value
	Timeout     time.Duration   // for one answer; 0 means 30s
	MaxOutput   int             // bytes of one answer; 0 means 4 MiB
	Concurrency int             // ENC processes at once; 0 means 8
	Cache       *store.DB       // keeps the last good answers; nil keeps none
	Log         *slog.Logger    // nil discards
}

// A Classifier classifies nodes. It is safe for concurrent use.
type Classifier struct {
	o       Options
	command []string
	slots   chan struct{}
	log     *slog.Logger
}

// New returns a Classifier.
func New(o Options) (*Classifier, error) {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.MaxOutput <= 0 {
		o.MaxOutput = 4 << 20
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	c := &Classifier{
		o:     o,
		slots: make(chan struct{}, o.Concurrency),
		log:   telemetry.Discard(o.Log).With(telemetry.KeySystem, "classifier"),
	}
	if o.Command == "" || o.Command == "none" {
		return c, nil
	}
	c.command = strings.Fields(o.Command)
	if len(c.command) == 0 || !strings.HasPrefix(c.command[0], "/") {
		return nil, fault.New(fault.Invalid, "external_nodes must be a fully qualified command, not %q", o.Command)
	}
	return c, nil
}

// Classify returns the node. Its faults carry Puppet's own words: Failed when
// the ENC failed and no earlier answer is kept, NotFound when it does not know
// the node (an empty answer).
func (c *Classifier) Classify(ctx context.Context, name puppet.Certname) (Node, error) {
	if c.command == nil {
		return plain(name), nil
	}
	out, err := c.run(ctx, name)
	if err != nil {
		return c.lastGood(ctx, name, err)
	}
	if strings.TrimSpace(string(out)) == "" {
		return Node{}, fault.New(fault.NotFound, "Could not find node %s", name)
	}
	n, err := decode(name, out)
	if err != nil {
		return c.lastGood(ctx, name, err)
	}
	c.keep(ctx, n)
	return n, nil
}

func plain(name puppet.Certname) Node {
	return Node{Certname: name, Classes: json.RawMessage("[]"), Parameters: json.RawMessage("{}")}
}

// decode reads an ENC's answer (lib/puppet/indirector/node/exec.rb, translate).
func decode(name puppet.Certname, out []byte) (Node, error) {
	v, err := loadYAML(out)
	if err != nil {
		return Node{}, unloadable(name, "%s", err)
	}
	if v.pairs == nil {
		return Node{}, unloadable(name, "the answer is no hash but of class %s", v.kind)
	}
	n := plain(name)
	for i, key := range v.pairs.keys {
		if kind := v.pairs.kinds[i]; kind != "String" && kind != "Symbol" {
			return Node{}, unloadable(name, "key is a %s, not a string or symbol", kind)
		}
		if err := n.take(key, v.pairs.values[key]); err != nil {
			return Node{}, unloadable(name, "%s", err)
		}
	}
	return n, nil
}

// take sets what the ENC says under key; null says nothing, and other keys are
// nobody's business.
func (n *Node) take(key string, v json.RawMessage) error {
	if string(v) == "null" || string(v) == "false" {
		return nil
	}
	switch key {
	case "classes":
		if v[0] != '[' && v[0] != '{' {
			return fmt.Errorf("classes is neither an array nor a hash")
		}
		n.Classes = v
	case "parameters":
		if v[0] != '{' {
			return fmt.Errorf("parameters is not a hash")
		}
		n.Parameters = v
	case "environment":
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			return fmt.Errorf("environment is not a string")
		}
		env, err := puppet.ParseEnvironment(s)
		if err != nil {
			return err
		}
		n.Environment = env
	}
	return nil
}

func unloadable(name puppet.Certname, format string, args ...any) error {
	return fault.New(fault.Failed, "Could not load external node results for %s: %s", name, fmt.Sprintf(format, args...))
}

// kept answers have this form.
type keptNode struct {
	Environment puppet.Environment `json:"environment,omitempty"`
	Classes     json.RawMessage    `json:"classes"`
	Parameters  json.RawMessage    `json:"parameters"`
}

// keep saves a good answer; the store writes only what is new. That it cannot be
// saved is no reason to refuse the node.
func (c *Classifier) keep(ctx context.Context, n Node) {
	if c.o.Cache == nil {
		return
	}
	body, err := json.Marshal(keptNode{n.Environment, n.Classes, n.Parameters})
	if err == nil {
		err = c.o.Cache.SaveENC(ctx, n.Certname, body)
	}
	if err != nil {
		c.log.WarnContext(ctx, "keeping the classifier's answer failed", telemetry.KeyCertname, n.Certname, telemetry.KeyErr, err)
	}
}

// lastGood returns the kept answer, or cause when there is none.
func (c *Classifier) lastGood(ctx context.Context, name puppet.Certname, cause error) (Node, error) {
	if c.o.Cache == nil || ctx.Err() != nil {
		return Node{}, cause
	}
	n, at, ok, err := c.kept(ctx, name)
	if err != nil {
		c.log.WarnContext(ctx, "reading the kept answer failed", telemetry.KeyCertname, name, telemetry.KeyErr, err)
	}
	if !ok {
		return Node{}, cause
	}
	c.log.WarnContext(ctx, "the classifier failed, its last good answer is used",
		telemetry.KeyCertname, name, "answered_at", at, telemetry.KeyErr, cause)
	return n, nil
}

// Last returns what the classifier said of a node last, without asking it; a node
// of which nothing is kept is plain.
func (c *Classifier) Last(ctx context.Context, name puppet.Certname) (Node, error) {
	if c.command == nil || c.o.Cache == nil {
		return plain(name), nil
	}
	n, _, ok, err := c.kept(ctx, name)
	if err != nil || !ok {
		return plain(name), err
	}
	return n, nil
}

// kept reads the last good answer, if there is one.
func (c *Classifier) kept(ctx context.Context, name puppet.Certname) (n Node, at time.Time, ok bool, err error) {
	body, at, ok, err := c.o.Cache.ENC(ctx, name)
	if err != nil || !ok {
		return Node{}, at, false, err
	}
	var k keptNode
	if err := json.Unmarshal(body, &k); err != nil {
		return Node{}, at, false, fmt.Errorf("kept answer for %s: %w", name, err)
	}
	return Node{Certname: name, Environment: k.Environment, Stale: true, Classes: k.Classes, Parameters: k.Parameters}, at, true, nil
}
