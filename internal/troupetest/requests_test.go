package troupetest

// This file lists the single requests, good and bad, whose answers are recorded from the real server.

import (
	"crypto/sha256"
	"encoding/hex"
)

const (
	acceptJSON = "Accept: application/json, text/pson"
	acceptRich = "Accept: application/vnd.puppet.rich+json, application/json, text/pson"
	asJSON     = "Content-Type: application/json"
	asText     = "Content-Type: text/plain"
	asBytes    = "Content-Type: application/octet-stream"
	asForm     = "Content-Type: application/x-www-form-urlencoded"
	files      = "links=manage&checksum_type=sha256&source_permissions=ignore&environment=production"
)

var families = map[string]func(*recorder) []Exchange{
	"status":              func(*recorder) []Exchange { return statusRequests() },
	"node":                func(*recorder) []Exchange { return nodeRequests() },
	"facts":               func(*recorder) []Exchange { return factsRequests() },
	"catalog":             func(*recorder) []Exchange { return catalogRequests() },
	"report":              reportRequests,
	"file_metadata":       func(*recorder) []Exchange { return metadataRequests() },
	"file_metadatas":      func(*recorder) []Exchange { return metadatasRequests() },
	"file_content":        func(*recorder) []Exchange { return contentRequests() },
	"filebucket":          func(*recorder) []Exchange { return bucketRequests() },
	"environments":        func(*recorder) []Exchange { return environmentRequests() },
	"tasks":               func(*recorder) []Exchange { return taskRequests() },
	"admin":               func(*recorder) []Exchange { return adminRequests() },
	"certificate":         func(*recorder) []Exchange { return certificateRequests() },
	"certificate_request": csrRequests,
	"certificate_status":  certificateStatusRequests,
	"unknown":             func(*recorder) []Exchange { return unknownRequests() },
}

func get(name, as, target string, header ...string) Exchange {
	return Exchange{Name: name, As: as, Method: "GET", Target: target, Header: header}
}

func send(name, as, method, target, body string, header ...string) Exchange {
	return Exchange{Name: name, As: as, Method: method, Target: target, Body: body, Header: header}
}

func statusRequests() []Exchange {
	return []Exchange{
		get("simple", "", "/status/v1/simple"),
		get("simple of the server", "", "/status/v1/simple/server"),
		get("simple of the master", "", "/status/v1/simple/master"),
		get("simple of the CA", "", "/status/v1/simple/ca"),
		get("simple of an unknown service", "", "/status/v1/simple/nosuch"),
		get("services", "", "/status/v1/services"),
		get("one service", "", "/status/v1/services/server"),
		get("an unknown service", "", "/status/v1/services/nosuch"),
		get("an unknown level", "", "/status/v1/services?level=nosuch"),
		get("critical level", "", "/status/v1/services?level=critical"),
		send("a wrong method", "agent", "POST", "/status/v1/simple", ""),
	}
}

func nodeRequests() []Exchange {
	own := "/puppet/v3/node/" + recordedNode
	return []Exchange{
		get("own", "agent", own+"?environment=production&configured_environment=production", acceptJSON),
		get("as PSON", "agent", own+"?environment=production", "Accept: text/pson"),
		get("as anything", "agent", own+"?environment=production", "Accept: */*"),
		get("without Accept", "agent", own+"?environment=production"),
		get("as YAML", "agent", own+"?environment=production", "Accept: application/x-yaml"),
		get("as MessagePack", "agent", own+"?environment=production", "Accept: application/x-msgpack, application/json"),
		get("of another node", "agent", "/puppet/v3/node/other.example.test?environment=production", acceptJSON),
		get("without certificate", "", own+"?environment=production", acceptJSON),
		get("without environment", "agent", own, acceptJSON),
		get("in an unknown environment", "agent", own+"?environment=nosuch", acceptJSON),
		get("in an environment with a bad name", "agent", own+"?environment=a-b", acceptJSON),
		send("a wrong method", "agent", "PUT", own+"?environment=production", "{}", asJSON, acceptJSON),
	}
}

func factsRequests() []Exchange {
	own := "/puppet/v3/facts/" + recordedNode + "?environment=production"
	facts := func(name string) string {
		return `{"name":"` + name + `","values":{"kernel":"Linux"},"timestamp":"2026-11-20T10:00:00.000000000+00:00","expiration":"2026-11-20T10:30:00.000000000+00:00"}`
	}
	return []Exchange{
		send("own", "agent", "PUT", own, facts(recordedNode), asJSON, acceptJSON),
		send("as PSON", "agent", "PUT", own, facts(recordedNode), "Content-Type: text/pson", acceptJSON),
		send("of another name in the body", "agent", "PUT", own, facts("other.example.test"), asJSON, acceptJSON),
		send("of another node", "agent", "PUT", "/puppet/v3/facts/other.example.test?environment=production", facts("other.example.test"), asJSON),
		send("not JSON", "agent", "PUT", own, `{"name":`, asJSON, acceptJSON),
		send("in an unknown format", "agent", "PUT", own, facts(recordedNode), "Content-Type: text/nosuch", acceptJSON),
		send("without a format", "agent", "PUT", own, facts(recordedNode), acceptJSON),
		get("read", "agent", own, acceptJSON),
	}
}

func catalogRequests() []Exchange {
	own := "/puppet/v3/catalog/" + recordedNode
	post := func(name, environment string, header ...string) Exchange {
		return send(name, "agent", "POST", own+"?environment="+environment, catalogForm(environment, recordedNode), append(header, asForm)...)
	}
	return []Exchange{
		post("rich JSON", "production", acceptRich),
		post("plain JSON", "production", acceptJSON),
		post("PSON", "production", "Accept: text/pson"),
		post("without Accept", "production"),
		post("in no known format", "production", "Accept: text/nosuch"),
		post("in an unknown environment", "nosuch", acceptRich),
		post("in an environment with a bad name", "a-b", acceptRich),
		post("of manifests that do not parse", "broken", acceptRich),
		post("of manifests that fail", "failing", acceptRich),
		send("of another node", "agent", "POST", "/puppet/v3/catalog/other.example.test?environment=production",
			catalogForm("production", "other.example.test"), asForm, acceptRich),
		send("with the facts of another node", "agent", "POST", own+"?environment=production",
			catalogForm("production", "other.example.test"), asForm, acceptRich),
		send("with facts that are no JSON", "agent", "POST", own+"?environment=production",
			"facts_format=application%2Fjson&facts=%257B&environment=production", asForm, acceptRich),
		send("with facts in an unknown format", "agent", "POST", own+"?environment=production",
			"facts_format=nosuch&facts=x&environment=production", asForm, acceptRich),
		send("without facts", "agent", "POST", own+"?environment=production", "environment=production", asForm, acceptRich),
		get("by GET without facts", "agent", own+"?environment=production", acceptRich),
		send("v4", "server", "POST", "/puppet/v4/catalog",
			`{"certname":"`+recordedNode+`","persistence":{"facts":false,"catalog":false},"environment":"production","facts":{"values":{"sandbox":"/srv/sandbox","site_custom":"x"}},"options":{"capture_logs":true}}`, asJSON),
		send("v4 with a missing key", "server", "POST", "/puppet/v4/catalog", `{"certname":"`+recordedNode+`"}`, asJSON),
		send("v4 that is no JSON", "server", "POST", "/puppet/v4/catalog", `{`, asJSON),
		send("v4 that fails", "server", "POST", "/puppet/v4/catalog",
			`{"certname":"`+recordedNode+`","persistence":{"facts":false,"catalog":false},"environment":"failing","facts":{"values":{}}}`, asJSON),
		send("v4 as an agent", "agent", "POST", "/puppet/v4/catalog", `{}`, asJSON),
	}
}

func reportRequests(r *recorder) []Exchange {
	own := "/puppet/v3/report/" + recordedNode + "?environment=production"
	report := r.lastReport()
	first := send("own", "agent", "PUT", own, report, asJSON, acceptJSON)
	again := send("the same again", "agent", "PUT", own, report, asJSON, acceptJSON)
	return []Exchange{
		first, again,
		send("as PSON", "agent", "PUT", own, report, "Content-Type: text/pson", acceptJSON),
		send("not JSON", "agent", "PUT", own, `{"host":`, asJSON, acceptJSON),
		send("an empty object", "agent", "PUT", own, `{}`, asJSON, acceptJSON),
		send("in an unknown format", "agent", "PUT", own, report, "Content-Type: text/nosuch", acceptJSON),
		send("without a format", "agent", "PUT", own, report, acceptJSON),
		send("of another node", "agent", "PUT", "/puppet/v3/report/other.example.test?environment=production", report, asJSON),
		get("read", "agent", own, acceptJSON),
	}
}

func metadataRequests() []Exchange {
	motd := "/puppet/v3/file_metadata/modules/site/motd?"
	var found []Exchange
	for _, checksum := range []string{"md5", "md5lite", "sha1", "sha224", "sha256", "sha256lite", "sha384", "sha512", "mtime", "ctime", "none", "nosuch"} {
		found = append(found, get("checksum "+checksum, "agent",
			motd+"links=manage&checksum_type="+checksum+"&source_permissions=ignore&environment=production", acceptJSON))
	}
	return append(found,
		get("of a folder", "agent", "/puppet/v3/file_metadata/modules/site/tree?"+files, acceptJSON),
		get("with permissions", "agent", motd+"links=follow&checksum_type=sha256&source_permissions=use&environment=production", acceptJSON),
		get("as PSON", "agent", motd+files, "Accept: text/pson"),
		get("without parameters", "agent", "/puppet/v3/file_metadata/modules/site/motd", acceptJSON),
		get("of a file that is not there", "agent", "/puppet/v3/file_metadata/modules/site/nosuch?"+files, acceptJSON),
		get("of a module that is not there", "agent", "/puppet/v3/file_metadata/modules/nosuch/x?"+files, acceptJSON),
		get("of the mount itself", "agent", "/puppet/v3/file_metadata/modules?"+files, acceptJSON),
		get("of an unknown mount", "agent", "/puppet/v3/file_metadata/nosuch/x?"+files, acceptJSON),
		get("above the mount", "agent", "/puppet/v3/file_metadata/modules/site/../manifests/init.pp?"+files, acceptJSON),
		get("above the mount, escaped", "agent", "/puppet/v3/file_metadata/modules/site/%2e%2e/manifests/init.pp?"+files, acceptJSON),
		get("in an unknown environment", "agent", motd+"environment=nosuch", acceptJSON),
		get("of a task", "agent", "/puppet/v3/file_metadata/tasks/site/restart.sh?"+files, acceptJSON),
		get("of a script", "agent", "/puppet/v3/file_metadata/scripts/site/hello.sh?"+files, acceptJSON),
		get("without certificate", "", motd+files, acceptJSON),
		send("HEAD", "agent", "HEAD", motd+files, "", acceptJSON),
	)
}

func metadatasRequests() []Exchange {
	tree, all := "/puppet/v3/file_metadatas/modules/site/tree?", "recurse=true&"+files
	ignore := "&ignore=.svn&ignore=CVS&ignore=.git&ignore=.hg"
	return []Exchange{
		get("recursive", "agent", tree+all, acceptJSON),
		get("not recursive", "agent", tree+"recurse=false&"+files, acceptJSON),
		get("one level", "agent", tree+"recurse=true&recurselimit=1&"+files, acceptJSON),
		get("at most one file", "agent", tree+"max_files=1&"+all, acceptJSON),
		get("without *.txt", "agent", tree+"ignore=*.txt&"+all, acceptJSON),
		get("plugins", "agent", "/puppet/v3/file_metadatas/plugins?max_files=-1"+ignore+"&recurse=true&links=follow&checksum_type=sha256&source_permissions=ignore&environment=production", acceptJSON),
		get("plugins, not recursive", "agent", "/puppet/v3/file_metadatas/plugins?recurse=false&"+files, acceptJSON),
		get("pluginfacts", "agent", "/puppet/v3/file_metadatas/pluginfacts?max_files=-1"+ignore+"&recurse=true&links=follow&checksum_type=sha256&source_permissions=use&environment=production", acceptJSON),
		get("locales", "agent", "/puppet/v3/file_metadatas/locales?"+all, acceptJSON),
		get("of a file", "agent", "/puppet/v3/file_metadatas/modules/site/motd?"+all, acceptJSON),
		get("of nothing", "agent", "/puppet/v3/file_metadatas/modules/site/nosuch?"+all, acceptJSON),
		get("of an unknown mount", "agent", "/puppet/v3/file_metadatas/nosuch?"+all, acceptJSON),
		get("plugins in an unknown environment", "agent", "/puppet/v3/file_metadatas/plugins?recurse=false&environment=nosuch", acceptJSON),
	}
}

func contentRequests() []Exchange {
	binary := "Accept: application/octet-stream"
	return []Exchange{
		get("of a file", "agent", "/puppet/v3/file_content/modules/site/motd?environment=production", binary),
		get("with any Accept", "agent", "/puppet/v3/file_content/modules/site/motd?environment=production", "Accept: */*"),
		get("with a wrong Accept", "agent", "/puppet/v3/file_content/modules/site/motd?environment=production", acceptJSON),
		get("of a plugin", "agent", "/puppet/v3/file_content/plugins/facter/site_custom.rb?environment=production", binary),
		get("of a folder", "agent", "/puppet/v3/file_content/modules/site/tree?environment=production", binary),
		get("of nothing", "agent", "/puppet/v3/file_content/modules/site/nosuch?environment=production", binary),
		get("of an unknown mount", "agent", "/puppet/v3/file_content/nosuch/x?environment=production", binary),
		get("of the mount itself", "agent", "/puppet/v3/file_content/modules?environment=production", binary),
		get("above the mount", "agent", "/puppet/v3/file_content/modules/site/%2e%2e/manifests/init.pp?environment=production", binary),
		get("without environment", "agent", "/puppet/v3/file_content/modules/site/motd", binary),
		get("in an unknown environment", "agent", "/puppet/v3/file_content/modules/site/motd?environment=nosuch", binary),
		get("static, without parameters", "agent", "/puppet/v3/static_file_content/modules/site/files/motd", binary),
		get("static, without code_id", "agent", "/puppet/v3/static_file_content/modules/site/files/motd?environment=production", binary),
		get("static", "agent", "/puppet/v3/static_file_content/modules/site/files/motd?environment=production&code_id=1", binary),
		get("static, of a manifest", "agent", "/puppet/v3/static_file_content/modules/site/manifests/init.pp?environment=production&code_id=1", binary),
	}
}

func bucketRequests() []Exchange {
	digest := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	octets := "Accept: application/octet-stream"
	path := func(sum, rest string) string {
		return "/puppet/v3/file_bucket_file/sha256/" + sum + rest + "?environment=production"
	}
	first, second := digest("first\n"), digest("second\n")
	return []Exchange{
		send("HEAD of what is not there", "agent", "HEAD", path(first, "/srv/file"), "", octets),
		get("GET of what is not there", "agent", path(first, "/srv/file"), octets),
		send("PUT", "agent", "PUT", path(first, "/srv/file"), "first\n", asBytes, octets),
		send("PUT again", "agent", "PUT", path(first, "/srv/file"), "first\n", asBytes, octets),
		send("PUT with another sum than the content's", "agent", "PUT", path(second, "/srv/file"), "third\n", asBytes, octets),
		send("PUT with a wrong content type", "agent", "PUT", path(second, "/srv/file"), "second\n", asText, octets),
		send("PUT of nothing", "agent", "PUT", path(digest(""), "/srv/empty"), "", asBytes, octets),
		send("HEAD of what is there", "agent", "HEAD", path(first, "/srv/file"), "", octets),
		send("HEAD with another path", "agent", "HEAD", path(first, "/srv/other"), "", octets),
		send("HEAD without a path", "agent", "HEAD", path(first, ""), "", octets),
		get("GET", "agent", path(first, "/srv/file"), octets),
		get("GET without a path", "agent", path(first, ""), octets),
		get("GET without an algorithm", "agent", "/puppet/v3/file_bucket_file/"+first+"?environment=production", octets),
		get("GET of a bad sum", "agent", path("nosuch", ""), octets),
		get("GET of the difference", "agent", path(first, "")+"&diff_with="+second, octets),
		get("GET with a wrong Accept", "agent", path(first, ""), acceptJSON),
		send("DELETE", "agent", "DELETE", path(first, ""), "", octets),
		send("PUT without certificate", "", "PUT", path(first, "/srv/file"), "first\n", asBytes),
	}
}

func environmentRequests() []Exchange {
	return []Exchange{
		get("environments", "agent", "/puppet/v3/environments", acceptJSON),
		get("environments without certificate", "", "/puppet/v3/environments", acceptJSON),
		get("classes as an agent", "agent", "/puppet/v3/environment_classes?environment=production", acceptJSON),
		get("classes", "server", "/puppet/v3/environment_classes?environment=production", acceptJSON),
		get("classes that do not parse", "server", "/puppet/v3/environment_classes?environment=broken", acceptJSON),
		get("classes without environment", "server", "/puppet/v3/environment_classes", acceptJSON),
		get("classes of an unknown environment", "server", "/puppet/v3/environment_classes?environment=nosuch", acceptJSON),
		get("classes of a bad name", "server", "/puppet/v3/environment_classes?environment=a-b", acceptJSON),
		get("modules", "server", "/puppet/v3/environment_modules?environment=production", acceptJSON),
		get("modules of all", "server", "/puppet/v3/environment_modules", acceptJSON),
		get("modules of an unknown environment", "server", "/puppet/v3/environment_modules?environment=nosuch", acceptJSON),
		get("transports", "server", "/puppet/v3/environment_transports?environment=production", acceptJSON),
	}
}

func taskRequests() []Exchange {
	return []Exchange{
		get("tasks", "agent", "/puppet/v3/tasks?environment=production", acceptJSON),
		get("tasks without environment", "agent", "/puppet/v3/tasks", acceptJSON),
		get("tasks of an unknown environment", "agent", "/puppet/v3/tasks?environment=nosuch", acceptJSON),
		get("a task", "agent", "/puppet/v3/tasks/site/restart?environment=production", acceptJSON),
		get("an unknown task", "agent", "/puppet/v3/tasks/site/nosuch?environment=production", acceptJSON),
		get("a task of an unknown module", "agent", "/puppet/v3/tasks/nosuch/x?environment=production", acceptJSON),
		get("plans as an agent", "agent", "/puppet/v3/plans?environment=production", acceptJSON),
		get("plans", "server", "/puppet/v3/plans?environment=production", acceptJSON),
		get("a plan", "server", "/puppet/v3/plans/site/deploy?environment=production", acceptJSON),
		get("an unknown plan", "server", "/puppet/v3/plans/site/nosuch?environment=production", acceptJSON),
	}
}

func adminRequests() []Exchange {
	return []Exchange{
		send("empty the environment cache", "server", "DELETE", "/puppet-admin-api/v1/environment-cache", ""),
		send("of one environment", "server", "DELETE", "/puppet-admin-api/v1/environment-cache?environment=production", ""),
		send("of an unknown environment", "server", "DELETE", "/puppet-admin-api/v1/environment-cache?environment=nosuch", ""),
		send("as an agent", "agent", "DELETE", "/puppet-admin-api/v1/environment-cache", ""),
		get("with a wrong method", "server", "/puppet-admin-api/v1/environment-cache"),
		get("metrics, version", "server", "/metrics/v2/version"),
		get("metrics, read", "server", "/metrics/v2/read/java.lang:type=Runtime/SpecVersion"),
		get("metrics, read of nothing", "server", "/metrics/v2/read/nosuch:type=X"),
		get("metrics, search", "server", "/metrics/v2/search/java.lang:type=Runtime"),
		get("metrics as an agent", "agent", "/metrics/v2/list"),
	}
}

func certificateRequests() []Exchange {
	text := "Accept: text/plain"
	return []Exchange{
		get("of the CA", "", "/puppet-ca/v1/certificate/ca", text),
		get("own", "", "/puppet-ca/v1/certificate/"+recordedNode, text),
		get("of nobody", "", "/puppet-ca/v1/certificate/nosuch", text),
		get("of a bad name", "", "/puppet-ca/v1/certificate/%2e%2e%2fca", text),
		get("with Accept JSON", "", "/puppet-ca/v1/certificate/ca", acceptJSON),
		get("not modified", "", "/puppet-ca/v1/certificate/ca", text, "If-Modified-Since: Fri, 20 Nov 2099 00:00:00 GMT"),
		get("with a bad date", "", "/puppet-ca/v1/certificate/ca", text, "If-Modified-Since: yesterday"),
		get("CRL", "", "/puppet-ca/v1/certificate_revocation_list/ca", text),
		get("CRL not modified", "", "/puppet-ca/v1/certificate_revocation_list/ca", text, "If-Modified-Since: Fri, 20 Nov 2099 00:00:00 GMT"),
		get("CRL modified", "", "/puppet-ca/v1/certificate_revocation_list/ca", text, "If-Modified-Since: Fri, 20 Nov 2020 00:00:00 GMT"),
		get("CRL of another name", "", "/puppet-ca/v1/certificate_revocation_list/nosuch", text),
		get("expirations", "agent", "/puppet-ca/v1/expirations"),
		get("expirations without certificate", "", "/puppet-ca/v1/expirations"),
		send("renewal", "agent", "POST", "/puppet-ca/v1/certificate_renewal", "", asText),
	}
}

func csrRequests(r *recorder) []Exchange {
	put := func(name, certname, body string) Exchange {
		return send(name, "", "PUT", "/puppet-ca/v1/certificate_request/"+certname, body, asText, "Accept: text/plain")
	}
	waiting := csr(r.t, "waiting.example.test")
	return []Exchange{
		put("new", "waiting.example.test", waiting),
		put("the same again", "waiting.example.test", waiting),
		put("another key", "waiting.example.test", csr(r.t, "waiting.example.test")),
		put("of a signed node", recordedNode, csr(r.t, recordedNode)),
		put("of another name", "name.example.test", csr(r.t, "other.example.test")),
		put("upper case", "Upper.example.test", csr(r.t, "Upper.example.test")),
		put("wildcard", "*.example.test", csr(r.t, "*.example.test")),
		put("bad characters", "bad$name", csr(r.t, "bad$name")),
		put("alternative names", "alt.example.test", csr(r.t, "alt.example.test", "other.example.test")),
		put("its own name as alternative name", "same.example.test", csr(r.t, "same.example.test", "same.example.test")),
		put("not PEM", "garbage.example.test", "garbage"),
		put("empty", "empty.example.test", ""),
		get("read", "", "/puppet-ca/v1/certificate_request/waiting.example.test", "Accept: text/plain"),
		get("read of nobody", "", "/puppet-ca/v1/certificate_request/nosuch", "Accept: text/plain"),
		send("DELETE as an agent", "agent", "DELETE", "/puppet-ca/v1/certificate_request/waiting.example.test", ""),
		send("DELETE", "server", "DELETE", "/puppet-ca/v1/certificate_request/waiting.example.test", ""),
	}
}

func certificateStatusRequests(r *recorder) []Exchange {
	one := "/puppet-ca/v1/certificate_status/"
	put := func(name, certname, body string) Exchange {
		return send(name, "server", "PUT", one+certname, body, asJSON, "Accept: application/json")
	}
	submit := func(certname string) Exchange {
		return send("request of "+certname, "", "PUT", "/puppet-ca/v1/certificate_request/"+certname, csr(r.t, certname), asText)
	}
	return []Exchange{
		submit("one.example.test"), submit("two.example.test"),
		get("of a signed node", "server", one+recordedNode, "Accept: application/json"),
		get("of a waiting node", "server", one+"one.example.test", "Accept: application/json"),
		get("of nobody", "server", one+"nosuch", "Accept: application/json"),
		get("as an agent", "agent", one+recordedNode, "Accept: application/json"),
		get("with Accept text", "server", one+recordedNode, "Accept: text/plain"),
		get("all", "server", "/puppet-ca/v1/certificate_statuses/any_key", "Accept: application/json"),
		get("requested", "server", "/puppet-ca/v1/certificate_statuses/any_key?state=requested", "Accept: application/json"),
		get("revoked", "server", "/puppet-ca/v1/certificate_statuses/any_key?state=revoked", "Accept: application/json"),
		get("of an unknown state", "server", "/puppet-ca/v1/certificate_statuses/any_key?state=nosuch", "Accept: application/json"),
		put("sign nobody", "nosuch", `{"desired_state":"signed"}`),
		put("revoke nobody", "nosuch", `{"desired_state":"revoked"}`),
		put("revoke a waiting node", "one.example.test", `{"desired_state":"revoked"}`),
		put("not JSON", "one.example.test", `{`),
		put("an unknown state", "one.example.test", `{"desired_state":"nosuch"}`),
		put("no state", "one.example.test", `{}`),
		put("a bad ttl", "one.example.test", `{"desired_state":"signed","cert_ttl":"x"}`),
		put("sign", "one.example.test", `{"desired_state":"signed"}`),
		put("sign again", "one.example.test", `{"desired_state":"signed"}`),
		put("sign for a day", "two.example.test", `{"desired_state":"signed","cert_ttl":86400}`),
		put("revoke", "one.example.test", `{"desired_state":"revoked"}`),
		put("revoke again", "one.example.test", `{"desired_state":"revoked"}`),
		send("DELETE", "server", "DELETE", one+"one.example.test", "", "Accept: application/json"),
		send("DELETE again", "server", "DELETE", one+"one.example.test", "", "Accept: application/json"),
		send("clean", "server", "PUT", "/puppet-ca/v1/clean", `{"certnames":["two.example.test"]}`, asJSON),
		send("clean nobody", "server", "PUT", "/puppet-ca/v1/clean", `{"certnames":["nosuch","neither"]}`, asJSON),
		send("clean with no names", "server", "PUT", "/puppet-ca/v1/clean", `{}`, asJSON),
		send("clean that is no JSON", "server", "PUT", "/puppet-ca/v1/clean", `{`, asJSON),
		send("sign many", "server", "POST", "/puppet-ca/v1/sign", `{"certnames":["nosuch"]}`, asJSON),
		send("sign all", "server", "POST", "/puppet-ca/v1/sign/all", "", asJSON),
	}
}

func unknownRequests() []Exchange {
	return []Exchange{
		get("a path", "agent", "/nosuch"),
		get("the root", "agent", "/"),
		get("in /puppet/v3", "server", "/puppet/v3/nosuch/x?environment=production", acceptJSON),
		get("in /puppet/v3 as an agent", "agent", "/puppet/v3/nosuch/x?environment=production", acceptJSON),
		get("in /puppet", "server", "/puppet/nosuch", acceptJSON),
		get("in /puppet-ca", "server", "/puppet-ca/v1/nosuch"),
		get("in /puppet-ca without certificate", "", "/puppet-ca/v1/nosuch"),
		get("in /status", "server", "/status/v1/nosuch"),
		get("in /puppet-admin-api", "server", "/puppet-admin-api/v1/nosuch"),
		send("a method", "agent", "PATCH", "/puppet/v3/node/"+recordedNode+"?environment=production", "", acceptJSON),
		get("a broken escape", "agent", "/puppet/v3/node/%zz?environment=production", acceptJSON),
		get("the 3.x API", "agent", "/production/node/"+recordedNode, acceptJSON),
		get("resource types", "server", "/puppet/v3/resource_type/site?environment=production", acceptJSON),
	}
}
