// Package engine turns a version of code, a node and its facts into a catalog.
//
// An engine is a [Compiler]. The only one today is engine/ruby, which runs
// Puppet's own compiler; a second one has to give the same bytes for the same
// [Request]. [Compare] names every difference between two catalogs, whether they
// come from two engines, two versions of Puppet or two versions of code.
package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"troupe/internal/code"
	"troupe/internal/puppet"
)

// A Compiler compiles catalogs. Any number of goroutines may call it.
type Compiler interface {
	// Compile returns a *fault.Error of kind Failed, with Puppet's own words and a
	// *CompileError inside, if the environment's code does not compile, and of kind
	// Unavailable if the engine has no room; it stops when ctx ends.
	Compile(ctx context.Context, q Request) (Result, error)
}

// A Request is all that a catalog depends on.
type Request struct {
	Certname        puppet.Certname
	Version         *code.Version     // retained by the caller until Compile returns
	Classes         json.RawMessage   // of an ENC: an array or an object; nil means none
	Parameters      json.RawMessage   // of an ENC: an object; nil means none
	Facts           puppet.Facts      // empty Values mean no facts
	Trusted         puppet.Trusted    // $trusted
	ServerFacts     map[string]string // servername, serverip, serverip6; the engine adds serverversion
	TransactionUUID string
	JobID           string
	Rich            bool     // the agent reads rich data
	Static          bool     // the agent wants file metadata in the catalog
	Unfiltered      bool     // leave exported resources in the catalog
	ChecksumTypes   []string // the agent's, in its order of preference
	Patient         bool     // wait in a longer queue instead of being refused: the agent cannot come back later
	Former          bool     // Version was replaced while the run went on: nothing is to be kept ready for it
	LogLevel        string   // of the messages in Result.Logs; "" means the log_level setting
}

// ServerFacts are $server_facts but serverversion and environment, which Puppet
// adds itself. A server without one of the addresses gives "".
func ServerFacts(name, ip, ip6 string) map[string]string {
	facts := map[string]string{"servername": name}
	if ip != "" {
		facts["serverip"] = ip
	}
	if ip6 != "" {
		facts["serverip6"] = ip6
	}
	return facts
}

// A Result is a catalog and what was learned on the way to it.
type Result struct {
	Catalog       []byte            // as Puppet renders it; paths are those of the operator's folders
	PSON          bool              // Catalog holds strings that are not UTF-8 and may only be sent as PSON
	CatalogUUID   string            // as in the catalog
	ConfigVersion string            // the catalog's version: config_version's output, or a time
	Exported      []puppet.Resource // what other nodes may collect, virtual ones included
	Resources     int
	Logs          []Log
	Timings       map[string]time.Duration // queue, node, parse, evaluate, serialise, total
	WorkerPID     int
}

// A Log is one message of a compile.
type Log struct {
	Level   string    `json:"level"`
	Message string    `json:"message"`
	Source  string    `json:"source"`
	Tags    []string  `json:"tags,omitempty"`
	File    string    `json:"file,omitempty"`
	Line    int       `json:"line,omitempty"`
	Time    time.Time `json:"time"`
}

// A CompileError tells why a catalog does not compile. Callers find it inside
// the fault that Compile returns.
type CompileError struct {
	Certname puppet.Certname
	Msg      string // Puppet's words, which the agent gets too
	Logs     []Log
	Timings  map[string]time.Duration
}

// Error does not repeat Msg: the fault around it says that.
func (e *CompileError) Error() string {
	return fmt.Sprintf("catalog of %s does not compile", e.Certname)
}
