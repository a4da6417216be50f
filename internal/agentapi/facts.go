package agentapi

import (
	"fmt"
	"net/http"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file answers PUT /puppet/v3/facts/NAME: facts without a catalog, from
// puppet facts upload and resubmit_facts.

func (a *API) putFacts(w http.ResponseWriter, q *request) error {
	env, name, f, err := a.saveRequest(q)
	if err != nil {
		return err
	}
	kind, err := q.contentType()
	if err != nil {
		return err
	}
	body, err := q.body(a.o.Limits.Facts)
	if err != nil {
		return err
	}
	facts, err := puppet.DecodeFacts(kind, body)
	if err != nil {
		return invalidBody(err)
	}
	if facts.Certname != name {
		return mismatch(facts.Certname, name)
	}
	facts.Environment = env
	if err := a.db.SaveFacts(q.Context(), facts, a.o.ServerName); err != nil {
		return err
	}
	// The real server's YAML terminus answers with a number of no meaning.
	return write(w, q, f, []byte("0"))
}

// saveRequest reads what facts and reports have in common.
func (a *API) saveRequest(q *request) (env puppet.Environment, name puppet.Certname, f format, err error) {
	if env, err = q.environment(); err != nil {
		return "", "", format{}, err
	}
	if _, err = a.code.Current(q.Context(), env); err != nil {
		return "", "", format{}, err
	}
	if name, err = q.certname(); err != nil {
		return "", "", format{}, err
	}
	f, err = q.acceptedOrJSON(dataFormats)
	return env, name, f, err
}

// invalidBody words a body that cannot be read as indirected_routes.rb does.
func invalidBody(err error) error {
	if fault.KindOf(err) != fault.Invalid {
		return err
	}
	return fault.Wrap(fault.Invalid, err, "The request body is invalid: %s", fault.Message(err))
}

// mismatch is the answer to a body about another node than the path names
// (lib/puppet/indirector/terminus.rb, validate_key).
func mismatch(inBody, inPath puppet.Certname) error {
	return serverError(fmt.Sprintf("Instance name %q does not match requested key %q", inBody, inPath))
}
