package caapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"troupe/internal/authz"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file serves what agents ask for: certificates, requests, revocation lists
// and renewal, and the calls on many certificates.

// certificate serves a certificate, or the bundle for the name "ca". Unlike later
// puppetservers it never answers 304: agents send their own clock in
// If-Modified-Since, which says nothing about what another site had at that time.
func (a *API) certificate(r *http.Request, name string) (answer, error) {
	pem, err := a.ca.Certificate(r.Context(), name)
	return a.plainOrMissing(pem, err)
}

func (a *API) request(r *http.Request, name string) (answer, error) {
	pem, err := a.ca.Request(r.Context(), name)
	return a.plainOrMissing(pem, err)
}

func (a *API) plainOrMissing(pem []byte, err error) (answer, error) {
	if fault.KindOf(err) == fault.NotFound {
		return text(http.StatusNotFound, typeText, fault.Message(err))
	}
	return answer{status: http.StatusOK, contentType: typeText, body: pem}, err
}

// submit stores a request. Unlike puppetserver, which answers 500 with a Java
// exception, a body that is no request is a 400.
func (a *API) submit(r *http.Request, name string) (answer, error) {
	body, err := readBody(r, maxCSR)
	if err != nil {
		return answer{}, err
	}
	if err := a.ca.SubmitRequest(r.Context(), name, body); err != nil {
		return answer{}, err
	}
	return text(http.StatusOK, typeText, "")
}

func (a *API) deleteRequest(r *http.Request, name string) (answer, error) {
	err := a.ca.DeleteRequest(r.Context(), name)
	if fault.KindOf(err) == fault.NotFound {
		return text(http.StatusNotFound, typeText, fault.Message(err))
	}
	return answer{status: http.StatusNoContent, contentType: typeText}, err
}

// crls serves the revocation lists, whole and always: see certificate.
func (a *API) crls() (answer, error) {
	lists := a.ca.CRLs()
	if lists == nil {
		return answer{}, fault.New(fault.Unavailable, "The revocation lists are not available yet.")
	}
	return answer{status: http.StatusOK, contentType: typeText, body: lists}, nil
}

func (a *API) updateCRLs(r *http.Request) (answer, error) {
	body, err := readBody(r, maxCRLs)
	if err != nil {
		return answer{}, err
	}
	if err := a.ca.UpdateCRLs(r.Context(), body); err != nil {
		return answer{}, err
	}
	return text(http.StatusOK, typePlain, "Successfully updated CRLs.")
}

func (a *API) expirations() (answer, error) {
	return asJSON(http.StatusOK, a.ca.Expirations())
}

func (a *API) renew(r *http.Request, id authz.Identity) (answer, error) {
	pem, err := a.ca.Renew(r.Context(), id.Certificate)
	switch fault.KindOf(err) {
	case fault.NotFound:
		return text(http.StatusNotFound, typeText, fault.Message(err))
	case fault.Denied:
		return text(http.StatusForbidden, typeText, fault.Message(err))
	case fault.Invalid:
		return text(http.StatusBadRequest, typeText, fault.Message(err))
	default:
		return answer{status: http.StatusOK, contentType: typeText, body: pem}, err
	}
}

// clean revokes and removes certificates (handle-cert-clean).
func (a *API) clean(r *http.Request) (answer, error) {
	v, err := readJSON(r)
	if err != nil {
		return answer{}, err
	}
	if v == nil {
		return text(http.StatusBadRequest, typeText, "Request body is not JSON.")
	}
	body, _ := v.(map[string]any)
	if body["async"] == true {
		return text(http.StatusBadRequest, typeText, "Async mode is not currently supported.")
	}
	names, ok := certnames(body["certnames"])
	if !ok {
		return text(http.StatusBadRequest, typeText, "Missing required key: 'certnames'. Please supply the list of certs you want to clean.")
	}
	missing, err := a.ca.Clean(r.Context(), names...)
	if err != nil {
		return answer{}, err
	}
	if len(missing) == 0 {
		return text(http.StatusOK, typeText, "Successfully cleaned all certs.")
	}
	return text(http.StatusOK, typeText, "The following certs do not exist and cannot be revoked: "+vector(missing))
}

// vector prints names as Clojure prints a vector of strings.
func vector(names []puppet.Certname) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(n)) + `"`
	}
	return "[" + strings.Join(quoted, " ") + "]"
}

// certnames reads a list of names. What is not a string, or no possible name,
// stays as it is written: no certificate will be found for it.
func certnames(v any) ([]puppet.Certname, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	names := make([]puppet.Certname, len(list))
	for i, e := range list {
		names[i] = puppet.Certname(fmt.Sprint(e))
	}
	return names, true
}

// sign signs many requests (handle-bulk-cert-signing).
func (a *API) sign(r *http.Request) (answer, error) {
	v, err := readJSON(r)
	if err != nil {
		return answer{}, err
	}
	body, _ := v.(map[string]any)
	given, present := body["certnames"]
	if violation := schemaViolation(given); violation != "" {
		return asJSON(http.StatusUnprocessableEntity, struct {
			Kind      string `json:"kind"`
			Submitted any    `json:"submitted"`
			Error     string `json:"error"`
		}{"schema-violation", given, violation})
	}
	var names []puppet.Certname
	if present && given != nil {
		names, _ = certnames(given)
	}
	signed, err := a.ca.SignMany(r.Context(), names)
	if err != nil {
		return answer{}, err
	}
	return asJSON(http.StatusOK, signed)
}

// schemaViolation checks for a list of strings, and words what is wrong as Plumatic
// Schema does. No list at all is an empty one.
func schemaViolation(v any) string {
	if v == nil {
		return ""
	}
	list, ok := v.([]any)
	if !ok {
		return "(not (sequential? " + asText(v) + "))"
	}
	bad := false
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = "nil"
		if _, ok := e.(string); !ok {
			parts[i], bad = "(not (instance? java.lang.String "+asText(e)+"))", true
		}
	}
	if !bad {
		return ""
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func asText(v any) string {
	if v == nil {
		return "nil"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}

func (a *API) signAll(r *http.Request) (answer, error) {
	signed, err := a.ca.SignAll(r.Context())
	if err != nil {
		return answer{}, err
	}
	return asJSON(http.StatusOK, signed)
}
