// Package caapi is the HTTP API of the certificate authority, /puppet-ca/v1: what
// agents and the command line "puppetserver ca" speak.
//
// Statuses, texts and content types are those of puppetserver 7.9.5, and of its
// later versions for what came later (sign, renewal); they were read from its
// source and from its answers. Differences stand in comments that begin with
// "Unlike puppetserver".
//
// Begin with [New] and [API.Handler]. Each handler returns an answer or an
// error; respond.go turns both into HTTP.
package caapi

import (
	"net/http"
	"regexp"
	"strings"

	"troupe/internal/authz"
	"troupe/internal/ca"
)

// Options tunes an API.
type Options struct {
	Version string // of Puppet, for the header X-Puppet-Version: agents choose formats by it
}

// An API serves /puppet-ca/v1.
type API struct {
	ca      *ca.Authority
	guard   *authz.Guard
	version string
}

// New returns an API in front of an authority. Every request must pass the guard.
func New(a *ca.Authority, g *authz.Guard, o Options) *API {
	return &API{ca: a, guard: g, version: o.Version}
}

const prefix = "/puppet-ca/v1"

// Handler serves the paths below /puppet-ca/v1.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Puppet-Version", a.version)
		id, err := a.guard.Admit(r)
		if err != nil {
			a.respond(w, r, answer{}, err)
			return
		}
		ans, err := a.route(r, id)
		a.respond(w, r, ans, err)
	})
}

// pathName is what the router of puppetserver takes for a name in a path;
// anything else is "Not Found" before a handler sees it.
var pathName = regexp.MustCompile(`^[A-Za-z0-9\-_.]+$`)

// route finds the handler. A method that a path does not have is "Not Found",
// except where puppetserver uses Liberator (certificate_status and -statuses).
func (a *API) route(r *http.Request, id authz.Identity) (answer, error) {
	path, ok := strings.CutPrefix(r.URL.Path, prefix+"/")
	if !ok {
		return notFound(), nil
	}
	resource, name, named := strings.Cut(path, "/")
	if !named {
		return a.routePlain(r, resource, id)
	}
	switch {
	case resource == "certificate_statuses":
		return a.statuses(r, name)
	case resource == "sign" && name == "all" && r.Method == http.MethodPost:
		return a.signAll(r)
	case !pathName.MatchString(name):
		return notFound(), nil
	}
	switch r.Method + " " + resource {
	case "GET certificate":
		return a.certificate(r, name)
	case "GET certificate_request":
		return a.request(r, name)
	case "PUT certificate_request":
		return a.submit(r, name)
	case "DELETE certificate_request":
		return a.deleteRequest(r, name)
	case "GET certificate_revocation_list":
		return a.crls()
	}
	if resource == "certificate_status" {
		return a.status(r, name)
	}
	return notFound(), nil
}

func (a *API) routePlain(r *http.Request, resource string, id authz.Identity) (answer, error) {
	switch r.Method + " " + resource {
	case "PUT certificate_revocation_list":
		return a.updateCRLs(r)
	case "GET expirations":
		return a.expirations()
	case "PUT clean":
		return a.clean(r)
	case "POST sign":
		return a.sign(r)
	case "POST certificate_renewal":
		return a.renew(r, id)
	}
	return notFound(), nil
}
