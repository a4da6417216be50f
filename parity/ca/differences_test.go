package ca

// This file lists what differs from the real server on purpose.

func differences() []difference {
	return []difference{
		{step: "^GET /puppet-ca/v1/certificate_status/", real: 404, ours: 404, reason: `the real server sends ";charset=UTF-8", which is no media type, to a client that accepts anything`},
		{step: "^DELETE /puppet-ca/v1/certificate_status/", real: 204, ours: 204, reason: "the same, of an answer that has no body"},
		{rows: "/the name of the server$", step: "^GET /puppet-ca/v1/certificate(_status)?/", real: 200, ours: 200, reason: "a member issues its own certificate anew when it is to have other alternative names"},
		{rows: "/alternative name with a wildcard$", reason: "wildcards are refused also where alternative names are allowed"},
		{rows: "/critical extension$", step: "^GET /puppet-ca/v1/certificate/", real: 200, ours: 200, reason: "extensions of a request are never critical, or TLS libraries would refuse the certificate"},
		{rows: "/printable string$", step: "^GET /puppet-ca/v1/certificate/", real: 200, ours: 200, reason: "the real server packs the DER of any string but UTF8String into another string"},
		{rows: "/(the same extension twice|broken alternative names)$", reason: "refused when it is submitted; the real server stores it and answers 500 for the name from then on"},
		{rows: "/multi valued$", reason: "the real server takes another value of the same set for the name; the certificate has the common name alone"},
		{rows: "/RSA (512|1024)$", reason: "RSA keys below 2048 bits wait, and are not signed"},
		{rows: "/empty subject$", real: 500, ours: 400, reason: "a body that is no request is the client's fault"},
		{rows: "/(empty body|words|bytes of no encoding|two requests|no beginning|no end|cut in the middle|DER|a certificate|wrong base64)$", real: 500, ours: 400, reason: "a body that is no request is the client's fault"},
		{rows: "/a name of (300|25[125])$", real: 500, ours: 400, reason: "the real server cannot store such a name"},
		{rows: "/huge body$", reason: "a request is at most 64 KiB"},
		{rows: "/newline( at the end)?$", reason: "a control character in a path is 400; the real server signs a name that ends with a newline"},
		{rows: "/zero byte$", real: 400, ours: 400, reason: "the real server's answer is a page of Jetty"},
	}
}
