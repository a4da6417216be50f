package endpoints

// This file lists the endpoints. The order matters where one request changes what a later one sees: what ends the life of
// something comes last.

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

const (
	asJSON   = "application/json, text/pson"
	asRich   = "application/vnd.puppet.rich+json, application/json, text/pson"
	asBytes  = "application/octet-stream"
	asText   = "text/plain"
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
	inEnv    = "?environment=production"
	metadata = "links=manage&checksum_type=sha256&source_permissions=ignore&environment=production"
)

func endpoints() []endpoint {
	return slicesOf(agentEndpoints(), fileEndpoints(), toolEndpoints(), authorityEndpoints(), statusEndpoints(), strangeEndpoints(), destructiveEndpoints())
}

func slicesOf(lists ...[]endpoint) []endpoint {
	var all []endpoint
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

const facts = `{"name":"` + agentName + `","values":{"sandbox":"/srv/sandbox","site_custom":"x"},"timestamp":"2026-11-20T10:00:00.000000000+00:00","expiration":"2026-11-20T11:00:00.000000000+00:00"}`

// form is the body of a catalog request.
func form(fields ...string) string {
	return strings.Join(append([]string{
		"facts_format=application%2Fjson", "facts=" + url.QueryEscape(url.QueryEscape(facts)), "environment=production",
		"transaction_uuid=00000000-0000-0000-0000-000000000000",
	}, fields...), "&")
}

const report = `{"host":"` + agentName + `","time":"2026-11-20T10:00:00.000000000+00:00","configuration_version":1,"transaction_uuid":"11111111-1111-1111-1111-111111111111","report_format":12,"puppet_version":"7.23.0","status":"unchanged","noop":false,"noop_pending":false,"environment":"production","logs":[],"metrics":{},"resource_statuses":{},"corrective_change":false,"cached_catalog_status":"not_used"}`

// agentEndpoints are what an agent's run asks.
func agentEndpoints() []endpoint {
	own := agentName + inEnv
	return []endpoint{
		{name: "GET /puppet/v3/node", as: "agent", method: "GET", target: "/puppet/v3/node/" + own, accept: asJSON, targets: []string{
			"/puppet/v3/node/other.example.test" + inEnv, "/puppet/v3/node/AGENT.example.test" + inEnv, "/puppet/v3/node/*" + inEnv, "/puppet/v3/nodes/x" + inEnv,
			"/puppet/v3/node/" + own + "&fail_on_404=true", "/puppet/v3/node/" + own + "&configured_environment=nosuch",
		}},
		{name: "GET /puppet/v3/catalog", as: "agent", method: "GET", target: "/puppet/v3/catalog/" + own, accept: asRich},
		{
			name: "POST /puppet/v3/catalog", as: "agent", method: "POST", target: "/puppet/v3/catalog/" + own, accept: asRich, sends: formType, body: form(),
			targets: []string{"/puppet/v3/catalog/other.example.test" + inEnv, "/puppet/v3/catalogs/x" + inEnv},
			bodies: []string{
				"environment=production", "facts_format=nosuch&facts=x&environment=production", "facts_format=application%2Fjson&environment=production",
				"facts=%257B%257D&environment=production", "facts_format=application%2Fjson&facts=%257B&environment=production",
				strings.Replace(form(), "application%2Fjson", "text%2Fpson", 1), strings.Replace(form(), "application%2Fjson", "pson", 1),
				strings.Replace(form(), "application%2Fjson", "json", 1), strings.Replace(form(), "application%2Fjson", "application%2Fx-msgpack", 1),
				strings.Replace(form(), "environment=production", "environment=failing", 1), strings.Replace(form(), "environment=production", "environment=nosuch", 1),
				strings.Replace(form(), "environment=production", "environment=broken", 1), strings.Replace(form(), "agent.example", "other.example", 1),
				form("configured_environment=nosuch"), form("check_environment=true"), form("fail_on_404=true"), form("nosuch=1"), form("environment=failing"),
				form("static_catalog=true", "checksum_type=sha256.md5"), form("static_catalog=true", "checksum_type=nosuch"), form("transaction_uuid=x"), form("job_id=12"),
				form("use_node=x"), form("ip=192.0.2.1"), form("transaction_uuid=%00"), "%zz=1&" + form(),
			},
		},
		{
			name: "PUT /puppet/v3/facts", as: "agent", method: "PUT", target: "/puppet/v3/facts/" + own, accept: asJSON, sends: jsonType, body: facts,
			bodies: []string{
				`{}`, `{"name":"` + agentName + `"}`, `{"name":"other.example.test","values":{}}`, `{"name":"` + agentName + `","values":[]}`,
				`{"name":"` + agentName + `","values":{"a":1},"timestamp":"yesterday"}`, `{"name":"` + agentName + `","values":{"a":1}}`, `{"values":{"a":1}}`,
				`{"name":"` + agentName + `","values":null}`, `{"name":1,"values":{}}`, facts + facts, " " + facts,
			},
		},
		{
			name: "PUT /puppet/v3/report", as: "agent", method: "PUT", target: "/puppet/v3/report/" + own, accept: asJSON, sends: jsonType, body: report,
			bodies: []string{
				`{}`, `{"host":"other.example.test"}`, strings.Replace(report, agentName, "other.example.test", 1), strings.Replace(report, `"status":"unchanged",`, "", 1),
				strings.Replace(report, `"logs":[]`, `"logs":{}`, 1), strings.Replace(report, `"time":"2026-11-20T10:00:00.000000000+00:00"`, `"time":"x"`, 1), report + report,
				strings.Replace(report, `"metrics":{}`, `"metrics":[]`, 1), strings.Replace(report, `"logs":[]`, `"logs":[1]`, 1), strings.Replace(report, `"report_format":12`, `"report_format":2`, 1),
			},
		},
	}
}

func fileEndpoints() []endpoint {
	first := sha256.Sum256([]byte("first\n"))
	sum := hex.EncodeToString(first[:])
	empty := sha256.Sum256(nil)
	bucket := "/puppet/v3/file_bucket_file/sha256/"
	return []endpoint{
		{name: "GET /puppet/v3/file_metadata", as: "agent", method: "GET", target: "/puppet/v3/file_metadata/modules/site/motd?" + metadata, accept: asJSON, targets: []string{
			"/puppet/v3/file_metadata/modules/site/tree?" + metadata, "/puppet/v3/file_metadata/modules/site/nosuch?" + metadata, "/puppet/v3/file_metadata/modules?" + metadata,
			"/puppet/v3/file_metadata/modules/?" + metadata, "/puppet/v3/file_metadata/?" + metadata, "/puppet/v3/file_metadata?" + metadata,
			"/puppet/v3/file_metadata/nosuch/x?" + metadata, "/puppet/v3/file_metadata/modules/nosuch/x?" + metadata, "/puppet/v3/file_metadata/modules/site?" + metadata,
			"/puppet/v3/file_metadata/tasks/site/restart.sh?" + metadata, "/puppet/v3/file_metadata/scripts/site/hello.sh?" + metadata, "/puppet/v3/file_metadata/plugins/facter/site_custom.rb?" + metadata,
			"/puppet/v3/file_metadata/pluginfacts/site_external.txt?" + metadata, "/puppet/v3/file_metadata/locales/x?" + metadata, "/puppet/v3/file_metadata/Modules/site/motd?" + metadata,
			"/puppet/v3/file_metadata/modules/site/motd?environment=production&checksum_type=nosuch", "/puppet/v3/file_metadata/modules/site/motd?environment=production&links=nosuch",
			"/puppet/v3/file_metadata/modules/site/motd?environment=production&source_permissions=nosuch", "/puppet/v3/file_metadata/modules/site/motd?environment=production&links=follow&checksum_type=md5",
			"/puppet/v3/file_metadata/modules/site/motd?environment=production&source_permissions=use", "/puppet/v3/file_metadata/modules/site/motd?environment=production&checksum_type=",
		}},
		{name: "GET /puppet/v3/file_metadatas", as: "agent", method: "GET", target: "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&" + metadata, accept: asJSON, targets: []string{
			"/puppet/v3/file_metadatas/plugins?recurse=true&ignore=.svn&ignore=CVS&" + metadata, "/puppet/v3/file_metadatas/plugins?recurse=false&" + metadata, "/puppet/v3/file_metadatas/pluginfacts?recurse=true&" + metadata,
			"/puppet/v3/file_metadatas/locales?recurse=true&" + metadata, "/puppet/v3/file_metadatas/modules?recurse=true&" + metadata, "/puppet/v3/file_metadatas/nosuch?recurse=true&" + metadata,
			"/puppet/v3/file_metadatas/modules/site/motd?recurse=true&" + metadata, "/puppet/v3/file_metadatas/modules/site/nosuch?recurse=true&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=nosuch&" + metadata,
			"/puppet/v3/file_metadatas/modules/site/tree?recurse=1&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&recurselimit=0&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&recurselimit=x&" + metadata,
			"/puppet/v3/file_metadatas/modules/site/tree?recurse=true&recurselimit=-1&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&max_files=1&" + metadata,
			"/puppet/v3/file_metadatas/modules/site/tree?recurse=true&max_files=x&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&ignore=*.txt&" + metadata,
			"/puppet/v3/file_metadatas/modules/site/tree?recurse=true&ignore=%5B%22*.txt%22%5D&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?recurse=true&ignore=[&" + metadata, "/puppet/v3/file_metadatas/modules/site/tree?" + metadata,
			"/puppet/v3/file_metadatas?recurse=true&" + metadata, "/puppet/v3/file_metadatas/tasks?recurse=true&" + metadata, "/puppet/v3/file_metadatas/tasks/site?recurse=true&" + metadata, "/puppet/v3/file_metadatas/scripts/site?recurse=true&" + metadata,
		}},
		{name: "GET /puppet/v3/file_content", as: "agent", method: "GET", target: "/puppet/v3/file_content/modules/site/motd" + inEnv, accept: asBytes, targets: []string{
			"/puppet/v3/file_content/modules/site/tree" + inEnv, "/puppet/v3/file_content/modules/site/nosuch" + inEnv, "/puppet/v3/file_content/modules" + inEnv, "/puppet/v3/file_content/modules/site" + inEnv,
			"/puppet/v3/file_content/nosuch/x" + inEnv, "/puppet/v3/file_content/tasks/site/restart.sh" + inEnv, "/puppet/v3/file_content/scripts/site/hello.sh" + inEnv, "/puppet/v3/file_content/plugins/facter/site_custom.rb" + inEnv,
			"/puppet/v3/file_content/plugins" + inEnv, "/puppet/v3/file_content/modules/site/tree/sub/b.bin" + inEnv, "/puppet/v3/file_content/" + inEnv, "/puppet/v3/file_content" + inEnv, "/puppet/v3/file_contents/modules/site/motd" + inEnv,
			"/puppet/v3/file_content/modules/site/motd" + inEnv + "&code_id=x",
		}, more: []Request{{Header: []string{"Accept: " + asBytes, "Range: bytes=0-1"}}, {Header: []string{"Accept: " + asBytes, "If-Modified-Since: Fri, 20 Nov 2099 00:00:00 GMT"}}}},
		{name: "GET /puppet/v3/static_file_content", as: "agent", method: "GET", target: "/puppet/v3/static_file_content/modules/site/files/motd" + inEnv + "&code_id=1", accept: asBytes, targets: []string{
			"/puppet/v3/static_file_content/modules/site/manifests/init.pp" + inEnv + "&code_id=1", "/puppet/v3/static_file_content/modules/site/files/motd?code_id=1", "/puppet/v3/static_file_content/modules/site/files/motd" + inEnv,
			"/puppet/v3/static_file_content/modules/site/files/../files/motd" + inEnv + "&code_id=1", "/puppet/v3/static_file_content/" + inEnv + "&code_id=1", "/puppet/v3/static_file_content" + inEnv + "&code_id=1",
			"/puppet/v3/static_file_content/modules/site/tasks/restart.sh" + inEnv + "&code_id=1", "/puppet/v3/static_file_content/modules/site/files/motd" + inEnv + "&code_id=",
			"/puppet/v3/static_file_content/modules/site/files" + inEnv + "&code_id=1", "/puppet/v3/static_file_content/modules/site/lib/facter/site_custom.rb" + inEnv + "&code_id=1", "/puppet/v3/static_file_content/x" + inEnv + "&code_id=1",
		}},
		{
			name: "PUT /puppet/v3/file_bucket_file", as: "agent", method: "PUT", target: bucket + sum + "/srv/file" + inEnv, accept: asBytes, sends: asBytes, body: "first\n",
			targets: []string{bucket + sum + inEnv, bucket + inEnv, bucket + "nosuch" + inEnv, "/puppet/v3/file_bucket_file/nosuch/" + sum + inEnv, "/puppet/v3/file_bucket_file/md5/" + sum + inEnv, "/puppet/v3/file_bucket_file" + inEnv},
		},
		{name: "GET /puppet/v3/file_bucket_file", as: "agent", method: "GET", target: bucket + sum + "/srv/file" + inEnv, accept: asBytes, targets: []string{
			bucket + sum + inEnv, bucket + sum + "/srv/other" + inEnv, bucket + hex.EncodeToString(empty[:]) + inEnv, bucket + "nosuch" + inEnv, "/puppet/v3/file_bucket_file/" + sum + inEnv, "/puppet/v3/file_bucket_file/nosuch/" + sum + inEnv,
			bucket + sum + inEnv + "&list_all=true", bucket + sum + inEnv + "&list_all=true&fromdate=2026-01-01&todate=2026-01-02", bucket + sum + inEnv + "&diff_with=" + sum, bucket + sum + inEnv + "&diff_with=" + hex.EncodeToString(empty[:]), bucket + strings.ToUpper(sum) + inEnv,
			bucket + sum + inEnv + "&bucket_path=/tmp", "/puppet/v3/file_bucket_files/x" + inEnv,
		}},
		{name: "HEAD /puppet/v3/file_bucket_file", as: "agent", method: "HEAD", target: bucket + sum + "/srv/file" + inEnv, accept: asBytes, targets: []string{
			bucket + sum + inEnv, bucket + sum + "/srv/other" + inEnv, bucket + hex.EncodeToString(empty[:]) + inEnv, bucket + "nosuch" + inEnv, "/puppet/v3/file_bucket_file/" + sum + inEnv,
		}},
	}
}

func toolEndpoints() []endpoint {
	get := func(name, as string, targets ...string) endpoint {
		return endpoint{name: "GET " + name, as: as, method: "GET", target: targets[0], accept: asJSON, targets: targets[1:]}
	}
	v4 := `{"certname":"` + agentName + `","persistence":{"facts":false,"catalog":false},"environment":"production","facts":{"values":{"sandbox":"/srv/sandbox","site_custom":"x"}},"trusted_facts":{"values":{"certname":"` + agentName + `"}},"options":{"capture_logs":true}}`
	compile := `{"certname":"` + agentName + `","facts":{"values":{}},"trusted_facts":{"values":{}},"variables":{"values":{}},"environment":"production","code_ast":"{}","options":{}}`
	return []endpoint{
		get("/puppet/v3/environments", "agent", "/puppet/v3/environments", "/puppet/v3/environments?environment=nosuch"),
		get("/puppet/v3/environment", "admin", "/puppet/v3/environment/production"+inEnv, "/puppet/v3/environment/nosuch"+inEnv, "/puppet/v3/environment"+inEnv),
		get("/puppet/v3/environment_classes", "admin", "/puppet/v3/environment_classes"+inEnv, "/puppet/v3/environment_classes?environment=failing"),
		get("/puppet/v3/environment_modules", "admin", "/puppet/v3/environment_modules"+inEnv, "/puppet/v3/environment_modules", "/puppet/v3/environment_modules?environment=failing"),
		get("/puppet/v3/environment_transports", "admin", "/puppet/v3/environment_transports"+inEnv),
		get("/puppet/v3/tasks", "agent", "/puppet/v3/tasks"+inEnv, "/puppet/v3/tasks?environment=failing"),
		get("/puppet/v3/tasks/module/task", "agent", "/puppet/v3/tasks/site/restart"+inEnv, "/puppet/v3/tasks/site/nosuch"+inEnv, "/puppet/v3/tasks/nosuch/x"+inEnv, "/puppet/v3/tasks/site"+inEnv, "/puppet/v3/tasks/site/init"+inEnv, "/puppet/v3/tasks/a-b/c"+inEnv, "/puppet/v3/tasks/site/A"+inEnv),
		get("/puppet/v3/plans", "admin", "/puppet/v3/plans"+inEnv, "/puppet/v3/plans?environment=failing"),
		get("/puppet/v3/plans/module/plan", "admin", "/puppet/v3/plans/site/deploy"+inEnv, "/puppet/v3/plans/site/nosuch"+inEnv, "/puppet/v3/plans/nosuch/x"+inEnv, "/puppet/v3/plans/site"+inEnv),
		{
			name: "POST /puppet/v3/compile", as: "admin", method: "POST", target: "/puppet/v3/compile", accept: asJSON, sends: jsonType, body: compile,
			bodies: []string{`{}`, `{"certname":"x"}`, strings.Replace(compile, `"environment":"production"`, `"environment":"nosuch"`, 1)},
		},
		{
			name: "POST /puppet/v4/catalog", as: "admin", method: "POST", target: "/puppet/v4/catalog", accept: asJSON, sends: jsonType, body: v4,
			bodies: []string{
				`{}`, `{"certname":"x"}`, `{"certname":"x","persistence":{}}`, `{"certname":"x","persistence":{"facts":false,"catalog":false}}`,
				`{"certname":1,"persistence":{"facts":false,"catalog":false},"environment":"production"}`, `{"certname":"x","persistence":{"facts":"no","catalog":false},"environment":"production"}`,
				`{"certname":"x","persistence":{"facts":false,"catalog":false},"environment":"production","nosuch":1}`, `{"certname":"x","persistence":{"facts":false,"catalog":false,"nosuch":1},"environment":"production"}`,
				strings.Replace(v4, `"environment":"production"`, `"environment":"nosuch"`, 1), strings.Replace(v4, `"environment":"production"`, `"environment":"a-b"`, 1),
				strings.Replace(v4, `"environment":"production"`, `"environment":"failing"`, 1), strings.Replace(v4, `"environment":"production"`, `"environment":"broken"`, 1),
				strings.Replace(v4, `"capture_logs":true`, `"capture_logs":false`, 1), strings.Replace(v4, `"capture_logs":true`, `"capture_logs":true,"log_level":"debug"`, 1),
				strings.Replace(v4, `"capture_logs":true`, `"log_level":"nosuch"`, 1), strings.Replace(v4, `"capture_logs":true`, `"prefer_requested_environment":true`, 1), strings.Replace(v4, `"capture_logs":true`, `"nosuch":true`, 1),
				strings.Replace(v4, `{"values":{"sandbox":"/srv/sandbox","site_custom":"x"}}`, `{}`, 1), strings.Replace(v4, `{"values":{"sandbox":"/srv/sandbox","site_custom":"x"}}`, `{"values":[]}`, 1),
				strings.Replace(v4, `"options"`, `"transaction_uuid":"x","job_id":"1","options"`, 1), strings.Replace(v4, `"certname":"`+agentName+`"`, `"certname":""`, 1), v4 + v4,
			},
		},
		get("/puppet/v3/status", "admin", "/puppet/v3/status/x"+inEnv, "/puppet/v3/status"+inEnv),
	}
}

func authorityEndpoints() []endpoint {
	ca := "/puppet-ca/v1/"
	get := func(name, as, accept string, targets ...string) endpoint {
		return endpoint{name: "GET /puppet-ca/v1/" + name, as: as, method: "GET", target: ca + targets[0], accept: accept, targets: targets[1:]}
	}
	modified := func(date string) Request {
		return Request{Header: []string{"Accept: text/plain", "If-Modified-Since: " + date}}
	}
	certificate := get("certificate", "", asText, "certificate/"+agentName, ca+"certificate/nosuch", ca+"certificate/", ca+"certificate", ca+"certificate/%2e%2e%2fca", ca+"certificate/AGENT.example.test", ca+"certificate/revoked.example.test")
	bundle := get("certificate/ca", "", asText, "certificate/ca", ca+"certificate/CA")
	bundle.more = []Request{modified("Fri, 20 Nov 2099 00:00:00 GMT"), modified("Fri, 20 Nov 2020 00:00:00 GMT"), modified("yesterday"), modified("Friday, 20-Nov-99 00:00:00 GMT"), modified("2099-11-20T00:00:00Z")}
	crl := get("certificate_revocation_list", "", asText, "certificate_revocation_list/ca", ca+"certificate_revocation_list/nosuch", ca+"certificate_revocation_list", ca+"certificate_revocation_list/")
	crl.more = []Request{modified("Fri, 20 Nov 2099 00:00:00 GMT"), modified("Fri, 20 Nov 2020 00:00:00 GMT"), modified("yesterday")}
	status := get("certificate_status", "cli", asJSON, "certificate_status/"+agentName, ca+"certificate_status/nosuch", ca+"certificate_status/waiting.example.test", ca+"certificate_status/revoked.example.test", ca+"certificate_status/", ca+"certificate_status", ca+"certificate_status/*")
	status.spare = ca + "certificate_status/nosuch"
	return []endpoint{
		certificate, bundle, crl,
		{name: "PUT /puppet-ca/v1/certificate_revocation_list", as: "admin", method: "PUT", target: ca + "certificate_revocation_list", accept: asText, sends: asText, body: "no CRL"},
		{
			name: "PUT /puppet-ca/v1/certificate_request", method: "PUT", target: ca + "certificate_request/waiting.example.test", accept: asText, sends: asText, body: "CSR waiting.example.test",
			targets: []string{ca + "certificate_request/other-name", ca + "certificate_request/Upper", ca + "certificate_request/*", ca + "certificate_request/a$b", ca + "certificate_request/", ca + "certificate_request", ca + "certificate_request/" + agentName, ca + "certificate_request/ca"},
			bodies:  []string{"CSR other.example.test", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"},
		},
		get("certificate_request", "", asText, "certificate_request/waiting.example.test", ca+"certificate_request/nosuch", ca+"certificate_request/"+agentName),
		status,
		get("certificate_statuses", "cli", asJSON, "certificate_statuses/any_key", ca+"certificate_statuses/any_key?state=requested", ca+"certificate_statuses/any_key?state=signed", ca+"certificate_statuses/any_key?state=revoked", ca+"certificate_statuses/any_key?state=nosuch", ca+"certificate_statuses/any_key?state=", ca+"certificate_statuses/x", ca+"certificate_statuses/", ca+"certificate_statuses"),
		get("expirations", "agent", asJSON, "expirations"),
		{name: "POST /puppet-ca/v1/certificate_renewal", as: "agent", method: "POST", target: ca + "certificate_renewal", accept: asText, sends: asText},
	}
}

func statusEndpoints() []endpoint {
	get := func(name, as, target string, targets ...string) endpoint {
		return endpoint{name: "GET " + name, as: as, method: "GET", target: target, targets: targets}
	}
	return []endpoint{
		get("/status/v1/services", "", "/status/v1/services", "/status/v1/services?level=critical", "/status/v1/services?level=info", "/status/v1/services?level=nosuch", "/status/v1/services?level=", "/status/v1/services?service_status_version=1", "/status/v1/services?service_status_version=99", "/status/v1/services?service_status_version=x"),
		get("/status/v1/services/service", "", "/status/v1/services/server", "/status/v1/services/master", "/status/v1/services/ca", "/status/v1/services/jruby-metrics", "/status/v1/services/puppet-profiler", "/status/v1/services/status-service", "/status/v1/services/nosuch",
			"/status/v1/services/server?level=critical", "/status/v1/services/server?level=nosuch", "/status/v1/services/server?service_status_version=1", "/status/v1/services/server?service_status_version=99", "/status/v1/services/server?service_status_version=x", "/status/v1/services/nosuch?level=nosuch"),
		get("/status/v1/simple", "", "/status/v1/simple", "/status/v1/simple?level=debug"),
		get("/status/v1/simple/service", "", "/status/v1/simple/server", "/status/v1/simple/master", "/status/v1/simple/ca", "/status/v1/simple/nosuch"),
		get("/metrics/v2", "admin", "/metrics/v2/version", "/metrics/v2", "/metrics/v2/", "/metrics/v2/read/java.lang:type=Runtime/SpecVersion", "/metrics/v2/read/nosuch:type=X", "/metrics/v2/search/java.lang:type=Runtime",
			"/metrics/v2/search/nosuch:*", "/metrics/v2/exec/java.lang:type=Memory/gc", "/metrics/v2/write/java.lang:type=Memory/Verbose/true", "/metrics/v2/nosuch", "/metrics/v2/read", "/metrics/v2/read/java.lang:type=Runtime/Nosuch", "/metrics/v2/read/bad"),
		get("/metrics/v1/mbeans", "admin", "/metrics/v1/mbeans", "/metrics/v1/mbeans/java.lang:type=Runtime", "/metrics/v1/nosuch"),
	}
}

// strangeEndpoints are not there.
func strangeEndpoints() []endpoint {
	get := func(as, target string) endpoint {
		return endpoint{name: "unknown paths", as: as, method: "GET", target: target, accept: asJSON}
	}
	return []endpoint{
		get("admin", "/puppet/v3/nosuch/x"+inEnv), get("admin", "/puppet/v2/node/x"+inEnv), get("admin", "/puppet/v3"), get("admin", "/puppet"), get("admin", "/puppet-ca/v1/nosuch"), get("admin", "/puppet-ca/v2/certificate/ca"),
		get("admin", "/status/v1/nosuch"), get("admin", "/puppet-admin-api/v1/nosuch"), get("admin", "/nosuch"), get("admin", "/production/node/"+agentName), get("admin", "/puppet/v3/resource_type/site"+inEnv), get("admin", "/v2.0/environments"), get("admin", "/"),
	}
}

// destructiveEndpoints change what others see, or cost seconds.
func destructiveEndpoints() []endpoint {
	one := "/puppet-ca/v1/certificate_status/waiting.example.test"
	put := func(name, body string) Request {
		return Request{Target: "/puppet-ca/v1/certificate_status/" + name, Body: body}
	}
	signed, revoked := `{"desired_state":"signed"}`, `{"desired_state":"revoked"}`
	return []endpoint{
		{
			name: "PUT /puppet-ca/v1/certificate_status", as: "cli", method: "PUT", target: "/puppet-ca/v1/certificate_status/nosuch", accept: asJSON, sends: jsonType, body: signed,
			bodies: []string{`{}`, `{"desired_state":"nosuch"}`, `{"desired_state":1}`, `{"desired_state":"signed","cert_ttl":"x"}`, `{"desired_state":"signed","cert_ttl":-1}`, `{"desired_state":"signed","cert_ttl":0}`, `{"desired_state":"signed","nosuch":1}`, `{"desired_state":"SIGNED"}`, `{"state":"signed"}`, revoked},
			more: []Request{
				put("waiting.example.test", revoked), put("waiting.example.test", signed), put("waiting.example.test", signed), put("waiting.example.test", revoked),
				put("waiting.example.test", revoked), put("revoked.example.test", revoked), put("other.example.test", signed),
				{Method: "GET", Target: one},
				{Method: "GET", Target: "/puppet-ca/v1/certificate_statuses/any_key?state=revoked"},
			},
		},
		{name: "DELETE /puppet-ca/v1/certificate_status", as: "cli", method: "DELETE", target: one, accept: asJSON, targets: []string{"/puppet-ca/v1/certificate_status/nosuch", "/puppet-ca/v1/certificate_status/*"}},
		{
			name: "DELETE /puppet-ca/v1/certificate_request", as: "admin", method: "DELETE", target: "/puppet-ca/v1/certificate_request/unwanted.example.test", accept: asText,
			more: []Request{
				{As: "nobody", Method: "PUT", Target: "/puppet-ca/v1/certificate_request/unwanted.example.test", Header: []string{"Content-Type: text/plain"}, Body: "CSR unwanted.example.test"},
				{},
				{},
				{As: "nobody"},
			},
		},
		{
			name: "PUT /puppet-ca/v1/clean", as: "cli", method: "PUT", target: "/puppet-ca/v1/clean", accept: asJSON, sends: jsonType, body: `{"certnames":["nosuch"]}`,
			bodies: []string{`{}`, `{"certnames":"x"}`, `{"certnames":[]}`, `{"certnames":[1]}`, `{"certnames":["nosuch","neither"]}`, `{"certnames":["nosuch"],"async":true}`, `{"certnames":["nosuch"],"async":"x"}`, `{"certnames":["waiting.example.test","nosuch"]}`, `{"nosuch":1}`},
		},
		{name: "DELETE /puppet-admin-api/v1/environment-cache", as: "admin", method: "DELETE", target: "/puppet-admin-api/v1/environment-cache", targets: []string{
			"/puppet-admin-api/v1/environment-cache?environment=production", "/puppet-admin-api/v1/environment-cache?environment=nosuch", "/puppet-admin-api/v1/environment-cache?environment=a-b", "/puppet-admin-api/v1/environment-cache?environment=",
		}},
		{name: "POST /puppet-ca/v1/sign", as: "admin", method: "POST", target: "/puppet-ca/v1/sign", accept: asJSON, sends: jsonType, body: `{"certnames":["nosuch"]}`},
		{name: "POST /puppet-ca/v1/sign/all", as: "admin", method: "POST", target: "/puppet-ca/v1/sign/all", accept: asJSON, sends: jsonType},
		{name: "GET /puppet-admin-api/v1/jruby-pool/thread-dump", as: "admin", method: "GET", target: "/puppet-admin-api/v1/jruby-pool/thread-dump"},
		{name: "DELETE /puppet-admin-api/v1/jruby-pool", as: "admin", method: "DELETE", target: "/puppet-admin-api/v1/jruby-pool", slow: true},
	}
}
