package classifier

import (
	"encoding/json"
	"testing"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file fuzzes the answers of a classifier.

func FuzzDecode(f *testing.F) {
	f.Add([]byte("---\nclasses:\n  site:\n    a: yes\nparameters: {p: 017, q: !ruby/sym x}\nenvironment: production\n"))
	f.Add([]byte("classes: [a, b]\n"))
	f.Add([]byte("classes: ~\nparameters: false\nenvironment: ../etc\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		n, err := decode("agent.example.test", out)
		if err != nil {
			if fault.KindOf(err) != fault.Failed || len(fault.Message(err)) > 8<<10 {
				t.Errorf("refused with %.2000v", err)
			}
			return
		}
		if !json.Valid(n.Classes) || !json.Valid(n.Parameters) || n.Parameters[0] != '{' {
			t.Errorf("classes %q, parameters %q", n.Classes, n.Parameters)
		}
		if n.Environment != "" {
			if _, err := puppet.ParseEnvironment(string(n.Environment)); err != nil {
				t.Errorf("environment %q: %v", n.Environment, err)
			}
		}
	})
}
