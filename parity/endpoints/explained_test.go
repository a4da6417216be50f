package endpoints

// This file lists why a member's answer may differ from the real server's. The first explanation that covers a difference
// counts. docs/compat.md prints the reasons with these numbers.

var explained = []explanation{
	{reason: "answers to catalog requests name the compiling server (`X-Puppet-Compiler-Name`), as later servers do", field: "^X-Puppet-Compiler-Name$"},
	{reason: "`environment_classes` always has an Etag: who asks again with it gets 304", field: "^Etag$", endpoint: "environment_classes"},
	{reason: "small answers are not compressed: they fill one packet either way", field: "^Content-Encoding$", change: "^gzip → $"},

	{reason: "what Jetty refuses with a page of its own (broken escapes, NUL, paths above the root) is refused in text", bodies: "<h1>Bad Message 400"},
	{reason: "the same, asked by HEAD", request: `\| HEAD \|`, field: "^Content-Type$", change: "^text/html;charset=iso-8859-1 → "},
	{reason: "an empty `X-Client-Cert` is as good as none", endpoint: "identity in headers", request: "X-Client-Cert: $|X-Client-Cert:  ", field: "^status$", change: "^400 → "},
	{reason: "one rule for all paths: `.` and `..` are 400 everywhere; the status and metrics endpoints of the real server take paths as they are", request: `/\.\.?/|/%2e%2e/`, field: "^status$", change: "^(200|403|404) → 400$"},
	{reason: "`//` at the beginning of a path counts as `/`, as elsewhere in it; a 404 there", request: `\| //`, field: "."},
	{reason: "`//`, `;x=1` and needless escapes in paths of the status and metrics endpoints count as elsewhere; 403 or 404 there", request: `/(status|metrics)/v\d[^?]*(//|;|%)`},
	{reason: "a slash spelled `%2F` does not find an endpoint below `/puppet-ca/v1`, `/status/v1` or `/metrics`", request: "%2F", field: "."},
	{reason: "a space at the end of a path is part of it; the real server cuts it off, or fails", request: `%20[? ]`, field: "."},

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
	{reason: "a request for files without an environment is refused by Puppet Server itself, with `text/plain` and without `X-Puppet-Version`; here as other requests", endpoint: "file_(metadata|content)", field: "^(Content-Type|X-Puppet-Version)$", bodies: "must include an `environment`"},
	{reason: "the real server sends an empty file for a folder", endpoint: "file_content", field: "^status$", change: "^200 → 404$"},
	{reason: "without `code-content-command` the real server cannot serve static content; a member always can, and has no version `1`", endpoint: "static_file_content", field: "^status$", change: "^500 → 404$"},
	{reason: "the words about a mount that does not exist leave a dump of Ruby's options out", endpoint: "/puppet/v3/file_", bodies: "Not authorized to call"},
	{reason: "the bucket keeps nothing under another sum than its own, so an empty body for this sum is not kept either", endpoint: "file_bucket_file", field: "^status$", change: "^200 → (400|404|500)$"},
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
	{reason: "there is no JRuby whose threads could be told", endpoint: "thread-dump", field: "^status$"},
	{reason: "a method that HTTP does not have (`BREW`) gets from `environment-cache` what every method but DELETE gets, 405 with `Allow`; the real server tells the two apart, with 501", endpoint: "environment-cache", request: "BREW", field: "^status$"},
	{reason: "`/metrics/v2` speaks for this process, not for a JVM", endpoint: "/metrics/v2", field: "^(body|Cache-Control)$"},

	{reason: "control characters in a path are refused before rules: regular expressions of Java and Go differ about them", endpoint: "auth.conf: rules", request: "%0a", field: "^status$", change: "^40[34] → 400$"},
	{reason: "`X-Client-DN`: names with quotes, escapes, `+`, `;`, an OID for CN or an empty part belong to nobody; the real server reads some, and takes `+O=x` for a part of the name", endpoint: "identity in headers", request: `X-Client-DN: [^;]*("|\\|\+|;O=|2\.5\.4\.3|,($| \|))`, field: "^status$", change: "^404 → 403$"},
	{reason: "the words about a bad `X-Client-Cert` are those of another decoder", endpoint: "identity in headers", field: "^body$", bodies: "x-client-cert"},
}
