package edge

import (
	"net/http"
	"strings"

	"troupe/internal/puppet"
)

// This file says what a request of an agent means for an edge: whether a run may begin with it, and whether it may be sent again.

// A verb is what one request asks for.
type verb struct {
	name   string // for logs and metrics: few words, never what a client made up
	begins bool   // a run may begin with it
	ends   bool   // a run ends with it
	replay bool   // it may be sent to a second server although a first one may have taken it
	run    bool   // it belongs to a run; what does not is a person's or a tool's
	ca     bool   // certificates: before a run, or beside it
}

// verbOf reads method and path. A request that changes something once, such as a renewal, a revocation or a signature, must not be
// sent again: the first server may have done it. Reading may, compiling may, and so may what the server knows again when it comes
// twice: a report (by its hash), facts, a certificate request (by its key), a file for the bucket (by its sum).
func verbOf(r *http.Request) verb {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 4)
	if len(parts) < 3 {
		return verb{name: "other", replay: reads}
	}
	switch parts[0] {
	case "puppet":
		return puppetVerb(r.Method, parts[1], parts[2], reads)
	case "puppet-ca":
		v := verb{name: "ca", ca: true, replay: reads}
		switch parts[2] {
		case "certificate", "certificate_revocation_list", "certificate_status", "certificate_statuses", "certificate_renewal", "clean", "sign":
			v.name = parts[2]
		case "certificate_request":
			v.name, v.replay = parts[2], reads || r.Method == http.MethodPut
		}
		return v
	case "status":
		return verb{name: "status", replay: reads}
	}
	return verb{name: "other", replay: reads}
}

func puppetVerb(method, version, what string, reads bool) verb {
	v := verb{name: "other", replay: reads}
	switch what {
	case "node":
		v = verb{name: what, run: true, begins: true, replay: reads}
	case "catalog":
		v = verb{name: what, run: version == "v3", begins: version == "v3", replay: true}
	case "file_metadatas":
		v = verb{name: what, run: true, begins: true, replay: reads}
	case "file_metadata", "file_content", "static_file_content":
		v = verb{name: what, run: true, replay: reads}
	case "file_bucket_file":
		v = verb{name: what, run: true, replay: reads || method == http.MethodPut}
	case "facts":
		v = verb{name: what, run: true, replay: reads || method == http.MethodPut}
	case "report":
		v = verb{name: what, run: true, ends: true, replay: method == http.MethodPut}
	}
	return v
}

// obeysRetryAfter tells whether an agent waits when it is told so and then goes on: some versions do not know Retry-After, others
// sleep and then fail. Whoever does not say its version is taken for a tool that does not.
func obeysRetryAfter(r *http.Request) bool {
	version := r.Header.Get("X-Puppet-Version")
	if version == "" {
		_, rest, found := strings.Cut(r.UserAgent(), "Puppet/")
		if !found {
			return false
		}
		version, _, _ = strings.Cut(rest, " ")
	}
	return puppet.ObeysRetryAfter(version)
}

// environmentOf is the environment that a request names; "" for one that names none.
func environmentOf(r *http.Request) string {
	return r.URL.Query().Get("environment")
}
