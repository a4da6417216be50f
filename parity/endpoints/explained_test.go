package endpoints

// This file lists why a member's answer may differ from the real server's. The first explanation that covers a difference
// counts. docs/compat.md prints the reasons with these numbers.

// Parts of patterns.
const (
	noRoute    = `HTTP ERROR 404|"message":"Not Found",\n|^Not Found: | → Not Found: |^ → $|^Not Found → `
	jettyError = `<h1>Bad Message 400`
)

var explained = []explanation{
	{reason: "recorded while Debian's module packages were in the real server's `basemodulepath`", endpoint: "environments|environment_modules", field: "^body$", bodies: "openstack/ironic|/usr/share/puppet/modules"},
	{reason: "recorded out of order, on a CA that did not have this request yet", request: `PUT \| /puppet-ca/v1/certificate_request/.*Accept-Encoding: gzip `, field: "^status$", change: "^200 → 400$"},
	{reason: "`X-Puppet-Version` is on answers of `/puppet-admin-api` and on refusals too", field: "^X-Puppet-Version$", change: `^ → 7`},
	{reason: "text has a Content-Type; the real server sends refusals and some errors without", field: "^Content-Type$", change: `^(text/plain)? → text/plain;charset=utf-8$`},
	{reason: "`X-Puppet-Compiler-Name` is on catalogs, as later servers have it", field: "^X-Puppet-Compiler-Name$"},
	{reason: "`environment_classes` always has an Etag", field: "^Etag$", endpoint: "environment_classes"},
	{reason: "answers below 256 bytes are not compressed", field: "^Content-Encoding$", change: "^gzip → $"},
	{reason: "a HEAD of a bucket file names the type of its body", field: "^Content-Type$", endpoint: "HEAD /puppet/v3/file_bucket_file", change: "^ → application/octet-stream$"},

	{reason: "what Jetty refuses with a page of its own (broken escapes, NUL, paths above the root) is refused in text", bodies: jettyError},
	{reason: "a path that no endpoint has is 404 in JSON or text; the web server in front of the real one sends a page in the form that Accept asks for", bodies: noRoute, field: "^(Content-Type|Cache-Control|body)$"},
	{reason: "one rule for all paths: `.` and `..` are 400 everywhere; the status and metrics endpoints of the real server take paths as they are", request: `/\.\.?/|/%2e%2e/`, field: "^status$", change: "^(200|403|404) → 400$"},
	{reason: "`//` at the beginning of a path counts as `/`, as elsewhere in it; a 404 there", request: `\| //`, field: "."},
	{reason: "`//`, `;x=1` and needless escapes in paths of the status and metrics endpoints count as elsewhere; 403 or 404 there", request: `/(status|metrics)/v\d[^?]*(//|;|%)`},
	{reason: "a slash spelled `%2F` does not find an endpoint below `/puppet-ca/v1`, `/status/v1` or `/metrics`", request: "%2F", field: "."},
	{reason: "a space at the end of a path is part of it; the real server cuts it off, or fails", request: `%20[? ]`, field: "."},
	{reason: "another version or letter case of a prefix (`/puppet-ca/v2`, `/PUPPET`) is 404 for everybody, before rules are asked", request: `/puppet-ca/v2|/PUPPET`, field: "."},

	{reason: "`environment` given twice is 400; Puppet's own endpoints there fail over it with 500", field: "^status$", change: "^500 → 400$", request: "environment=.*&environment="},
	{reason: "YAML is not offered; agents never ask for it", field: "^status$", change: "^200 → 406$", request: "Accept: text/yaml"},
	{reason: "MessagePack and rich JSON are spoken both ways; the real server lacks the gem for one and the format for the other", field: "^status$", change: "^(406 → 200|415 → (200|400))$", request: "msgpack|rich"},
	{reason: "the words of a parser about a body that is no JSON, or no such object, are its own", field: "^body$", bodies: "Could not intern from|Invalid input|Error parsing JSON"},
	{reason: "facts and reports whose fields have other types are refused with 400, also where Ruby would take or choke on them", endpoint: "PUT /puppet/v3/(facts|report)", field: "^status$"},
	{reason: "an option that only servers may give (`use_node`) is ignored", endpoint: "catalog", bodies: "Invalid option use_node"},
	{reason: "a certname in a path is lower case, as in certificates", request: "/AGENT.example", field: "^status$", change: "^200 → 400$"},
	{reason: "`*` captured from a path is no wildcard", request: `/\*`, field: "^status$", change: "^200 → 403$"},
	{reason: "catalogs are static where the agent can use them; so file metadata is inlined, and an agent without a common checksum is told so", endpoint: "/puppet/v3/catalog", bodies: `"metadata":|common checksum`},

	{reason: "what is no number or no truth value in a parameter is refused in other words, or read as the default", endpoint: "file_metadata", request: "recurse=(1|nosuch)|recurselimit=(x|-1)|max_files=x|checksum_type=( |$)"},
	{reason: "a header is repeated in an error as the client spelled it; Jetty has its own spelling of those that it knows", field: "^body$", bodies: `\((Accept: |)application/json(\)|;)`},
	{reason: "the real server sends an empty file for a folder", endpoint: "file_content", field: "^status$", change: "^200 → 404$"},
	{reason: "without `code-content-command` the real server cannot serve static content; a member always can, and has no version `1`", endpoint: "static_file_content", field: "^status$", change: "^500 → 404$"},
	{reason: "the words about a mount that does not exist leave a dump of Ruby's options out", endpoint: "/puppet/v3/file_", bodies: "Not authorized to call"},
	{reason: "the bucket keeps nothing under another sum than its own, so an empty body for this sum is not kept either", endpoint: "file_bucket_file", field: "^status$", change: "^200 → (400|404)$"},
	{reason: "the bucket does not compute differences (`diff_with`)", endpoint: "file_bucket_file", request: "diff_with"},
	{reason: "the bucket knows all checksums, not only the configured one", endpoint: "file_bucket_file", bodies: "Unsupported checksum type"},
	{reason: "files of tasks are named with the version of the code", endpoint: "/puppet/v3/tasks", field: "^body$", bodies: "static_file_content"},
	{reason: "`compile` and `environment_transports` are not there", request: "/v3(/|//|%2F)(%..)?(compile|ompile|environment_transports|nvironment_transports)", field: "."},
	{reason: "what a v4 compile says at level debug is about its own steps", endpoint: "v4/catalog", field: "^body$", bodies: `"level":"debug"`},
	{reason: "errors of v4 catalogs come without Java's class names", endpoint: "v4/catalog", bodies: "Internal Server Error"},
	{reason: "a v4 request needs a certname, and nothing after its JSON; a Content-Type of a form does not take its body away", endpoint: "v4/catalog", field: "^status$"},

	{reason: "`sign`, `sign/all` and `certificate_renewal` came with later servers", endpoint: "puppet-ca/v1/(sign|certificate_renewal)", field: "."},
	{reason: "a 404 without an Accept header has a type; the real server sends `;charset=UTF-8` alone", endpoint: "certificate_status", field: "^Content-Type$", change: "^;charset=UTF-8 → "},
	{reason: "CRLs are always sent, also to a client that has a newer date", endpoint: "certificate_revocation_list", field: "^status$", change: "^304 → 200$"},
	{reason: "a CSR that is no CSR, and a list that is none, is 400; an exception there", endpoint: "certificate_request|clean", field: "^status$", change: "^500 → "},
	{reason: "a `cert_ttl` is judged before the node is looked for", endpoint: "certificate_status", field: "^status$", change: "^404 → 400$"},
	{reason: "words that are no media type (`s`, `/`) and `q=0` are not acceptable; the real server takes what it cannot read as `*/*`", endpoint: "certificate_status", request: `Accept: (s|json|b64_zlib_yaml|/|a b c|application/json;q=0)( |$|;)`},
	{reason: "certificate_request/NAME: the words do not tell the path of the CA's folder", endpoint: "certificate_request", field: "^body$", bodies: "expected path"},
	{reason: "there is no JRuby whose threads could be told", endpoint: "thread-dump", field: "^status$"},
	{reason: "a method that HTTP does not have is not allowed (405) rather than not implemented (501)", endpoint: "environment-cache", request: "BREW", field: "^status$"},
	{reason: "rules are asked before paths: `/metrics/v1`, which 7.9.5 does not have either, is 403 for who may not read metrics", endpoint: "/metrics/v1", field: "^status$", change: "^404 → 403$"},
	{reason: "`/metrics/v2` speaks for this process, not for a JVM", endpoint: "/metrics/v2", field: "^(body|Cache-Control)$"},
	{reason: "a method that Jolokia does not have is 404", endpoint: "/metrics/v2", field: "^status$", change: "^(200|405|501) → (404|405)$"},
}
