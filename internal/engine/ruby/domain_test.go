package ruby

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNameServersThatDoNotAnswerDelayNoCompile has Facter wait for them, as it does where a machine's name has no domain.
func TestNameServersThatDoNotAnswerDelayNoCompile(t *testing.T) {
	for name, c := range map[string]struct{ facter, settings, want string }{
		"they answer":                     {`sleep 0.1; 'example.test'`, `{}`, "within 0.1 s, --srv_domain not given"},
		"they do not":                     {`sleep 20; 'example.test'`, `{}`, "within 1 s, --srv_domain from.resolv.conf"},
		"they do not, the operator knows": {`sleep 20; 'example.test'`, `{ 'srv_domain' => 'operator.test' }`, "within 1 s, --srv_domain operator.test"},
		"Facter fails":                    {`raise 'no facts'`, `{}`, "within 0 s, --srv_domain not given"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := `
				require 'puppet'
				require './worker/settings'
				Troupe::Settings.send(:remove_const, :RESOLV_CONF)
				Troupe::Settings::RESOLV_CONF = ARGV[0]
				Puppet::Settings.define_singleton_method(:domain_fact) { ` + c.facter + ` }
				began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
				Troupe::Settings.learn_domain
				took = Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
				arguments, = Troupe::Settings.arguments_for('settings' => ` + c.settings + `, 'environmentpath' => '/e', 'basemodulepath' => [])
				i = arguments.index('--srv_domain')
				step = took < 0.09 ? 0 : took < 0.9 ? 0.1 : took < 10 ? 1 : 'ever'
				puts "within #{step} s, --srv_domain #{i ? arguments[i + 1] : 'not given'}"`
			out, err := exec.CommandContext(t.Context(), "ruby", "-e", script, "testdata/resolv.conf").CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
				t.Errorf("%s, %v; want %s", got, err, c.want)
			}
		})
	}
}
