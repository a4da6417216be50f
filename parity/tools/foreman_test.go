//go:build parity

package tools

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"troupe/internal/troupetest"
)

// This file sends the requests of Foreman's smart proxy, which Debian does not have. Paths and headers are those of its
// public source, theforeman/smart-proxy: modules/puppet_proxy_common/api_request.rb, modules/puppet_proxy_puppet_api/
// v3_api_request.rb, modules/puppetca_http_api/ca_v1_api_request.rb.

// smartProxyDiffers are the answers in which a member differs, and why.
var smartProxyDiffers = map[string]string{
	"classes of an environment that does not parse": noCharset,
	"classes":                noCharset,
	"classes after a deploy": noCharset,
}

const noCharset = "the real server leaves charset=utf-8 out of the type when its class cache is on, and has it when that is off"

// importEnvironments imports environments and classes, before and after a deploy. The proxy keeps the Etag of classes and
// sends it again.
func importEnvironments(c *client) []answered {
	c.t.Helper()
	classes := func(environment string) string { return "/puppet/v3/environment_classes?environment=" + environment }
	done := []answered{
		c.ask("environments", "GET", "/puppet/v3/environments", "", acceptsJSON),
		c.ask("classes of an environment that does not parse", "GET", classes("broken"), "", acceptsJSON),
		c.ask("classes of no environment", "GET", classes("nosuch"), "", acceptsJSON),
	}
	first, text := c.send("GET", classes("production"), "", acceptsJSON)
	tag := "If-None-Match: " + first.Header.Get("Etag")
	done = append(done, c.answered("classes", first, text),
		c.ask("classes again", "GET", classes("production"), "", acceptsJSON, tag))

	writeFile(c.t, filepath.Join(c.peer.code, "production", "modules", "site", "manifests", "web.pp"), `# Deployed later.
class site::web(
  Integer[1, 65535] $port,
  Enum['http', 'https'] $scheme = 'http',
  String $host = $facts['fqdn'],
  Hash[String, Any] $options = { 'workers' => 2, 'log' => undef },
  $untyped = [1, 2.5, true, default],
) inherits site {}
`)
	return append(done,
		c.ask("the end of a deploy", "DELETE", "/puppet-admin-api/v1/environment-cache?environment=production", "", acceptsAnything),
		c.ask("classes after a deploy", "GET", classes("production"), "", acceptsJSON, tag))
}

// keepCertificates lists, signs and cleans.
func keepCertificates(c *client) []answered {
	c.t.Helper()
	set := func(what, certname, state string) answered {
		return c.ask(what, "PUT", "/puppet-ca/v1/certificate_status/"+certname, `{"desired_state":"`+state+`"}`, acceptsJSON, sendsJSON)
	}
	remove := func(what, certname string) answered {
		return c.ask(what, "DELETE", "/puppet-ca/v1/certificate_status/"+certname, "", acceptsJSON)
	}
	const managed = "managed.example.test"
	requested(c.t, c.peer, managed)
	return []answered{
		c.certificates("certificates with a request"),
		set("sign", managed, "signed"), set("sign again", managed, "signed"), set("sign nobody", "nobody.example.test", "signed"),
		c.certificates("certificates with a signed one"),
		set("clean: revoke", managed, "revoked"),
		c.certificates("certificates with a revoked one"),
		remove("clean: delete", managed),
		set("clean again: revoke", managed, "revoked"), remove("clean again: delete", managed),
		c.certificates("certificates after it"),
	}
}

// certificates lists what the proxy reads of each: name, state, and whether there is a fingerprint, a serial number and
// dates. The order is that of a folder there, and the proxy makes a hash of it.
func (c *client) certificates(what string) answered {
	c.t.Helper()
	answer, text := c.send("GET", "/puppet-ca/v1/certificate_statuses/foreman", "", acceptsJSON)
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		c.t.Fatalf("%s: %v\n%s", what, err, text)
	}
	var read []any
	for _, entry := range list {
		row := []any{entry["name"], entry["state"]}
		for _, key := range []string{"fingerprint", "serial_number", "not_before", "not_after"} {
			row = append(row, entry[key] != nil)
		}
		read = append(read, row)
	}
	slices.SortFunc(read, func(a, b any) int {
		return strings.Compare(a.([]any)[0].(string), b.([]any)[0].(string))
	})
	return answered{What: what, Status: answer.StatusCode, Type: answer.Header.Get("Content-Type"), JSON: read}
}

// autosign does with the server's list what the proxy does, which writes names into it, and then puts an executable in its
// place that asks for a token, as the proxy's puppet_sign.rb does.
func autosign(c *client) []said {
	c.t.Helper()
	var done []said
	request := func(what, certname, token string) {
		c.t.Helper()
		a := newAgent(c.t, troupetest.Puppet7, certname, c.peer)
		if token != "" {
			const challengePassword = "1.2.840.113549.1.9.7"
			writeFile(c.t, filepath.Join(a.Dir, "conf", "csr_attributes.yaml"), "custom_attributes:\n  "+challengePassword+": "+token+"\n")
		}
		r := a.Puppet("ssl", "submit_request") // looks for a certificate as well
		done = append(done, said{What: what, Exit: r.Exit, Output: c.peer.mask(r.Output, a.Dir)})
	}
	request("nobody is listed", "first.example.test", "")
	writeFile(c.t, c.peer.autosign, "# Foreman\nsecond.example.test\n*.fleet.example.test\n")
	request("listed", "second.example.test", "")
	request("listed by its domain", "third.fleet.example.test", "")
	request("not listed", "fourth.example.test", "")

	writeExecutable(c.t, c.peer.autosign, "#!/bin/sh\n[ \"$1\" != odd.example.test ] && openssl req -noout -text | grep -q 'challengePassword *:sesame'\n")
	request("with the token", "fifth.example.test", "sesame")
	request("with another token", "sixth.example.test", "barley")
	request("without a token", "seventh.example.test", "")
	request("with the token and a name that the executable refuses", "odd.example.test", "sesame")
	return done
}
