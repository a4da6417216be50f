package authz

import _ "embed"

// This file holds the rules that apply when there is no auth.conf.

// default.conf unites the rules that puppetserver 7.9.5 installs with the newer
// ones of puppetserver 8 and openvox-server (renewal, sign, sign all), and adds
// our /metrics.
//
//go:embed default.conf
var defaultConf []byte

// Default returns the default rules.
func Default() *Rules {
	r, err := Parse("default.conf", defaultConf)
	if err != nil {
		panic(err) // the embedded file is wrong; a test parses it
	}
	return r
}
