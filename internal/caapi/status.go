package caapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file serves certificate_status and certificate_statuses. Puppetserver has
// them from Liberator, a library that walks HTTP's decisions in a fixed order;
// the functions here keep that order.

// status serves GET, PUT and DELETE of one name.
func (a *API) status(r *http.Request, name string) (answer, error) {
	switch r.Method {
	case http.MethodGet, http.MethodPut, http.MethodDelete:
	default:
		return answer{status: http.StatusMethodNotAllowed, contentType: typePlain, body: []byte(notAllowed), allow: allowStatus}, nil
	}
	var wanted desired
	if r.Method == http.MethodPut {
		var malformed string
		var err error
		if wanted, malformed, err = readDesired(r, name); err != nil {
			return answer{}, err
		}
		if malformed != "" {
			return text(http.StatusBadRequest, typePlain, malformed)
		}
		if !knownContentType(r) {
			return text(http.StatusUnsupportedMediaType, typePlain, "Unsupported media type.")
		}
	}
	media, ok := negotiate(r)
	if !ok {
		return text(http.StatusNotAcceptable, typePlain, notAcceptable)
	}
	switch r.Method {
	case http.MethodPut:
		return a.putStatus(r, name, wanted)
	case http.MethodDelete:
		return a.deleteStatus(r, name, media)
	}
	return a.getStatus(r, name, media)
}

func (a *API) getStatus(r *http.Request, name, media string) (answer, error) {
	s, err := a.ca.Status(r.Context(), name)
	if fault.KindOf(err) == fault.NotFound {
		return missing(media, err), nil
	}
	if err != nil {
		return answer{}, err
	}
	ans, err := asJSON(http.StatusOK, s)
	ans.contentType, ans.vary = statusType(r, media), media != ""
	return ans, err
}

// missing is Liberator's 404, which bears the content type that was negotiated.
func missing(media string, err error) answer {
	contentType := typePlain
	if media != "" {
		contentType = withCharset(media)
	}
	return answer{status: http.StatusNotFound, contentType: contentType, body: []byte(fault.Message(err)), vary: media != ""}
}

func (a *API) deleteStatus(r *http.Request, name, media string) (answer, error) {
	err := a.ca.Delete(r.Context(), puppet.Certname(name))
	if fault.KindOf(err) == fault.NotFound {
		return missing(media, err), nil
	}
	done := answer{status: http.StatusNoContent, vary: media != ""}
	if media != "" {
		done.contentType = withCharset(media)
	}
	return done, err
}

func (a *API) putStatus(r *http.Request, name string, wanted desired) (answer, error) {
	var err error
	if wanted.state == "signed" {
		err = a.ca.Sign(r.Context(), puppet.Certname(name), wanted.ttl)
	} else {
		err = a.ca.Revoke(r.Context(), puppet.Certname(name))
	}
	switch fault.KindOf(err) {
	case fault.Conflict:
		return text(http.StatusConflict, typePlain, fault.Message(err))
	case fault.NotFound:
		return text(http.StatusNotFound, typePlain, fault.Message(err))
	default:
		return answer{status: http.StatusNoContent, contentType: typeText}, err
	}
}

// desired is the body of a PUT.
type desired struct {
	state string
	ttl   time.Duration
}

// readDesired reads the body; malformed is what is wrong with it.
func readDesired(r *http.Request, name string) (d desired, malformed string, err error) {
	v, err := readJSON(r)
	if err != nil {
		return d, "", err
	}
	if v == nil {
		return d, "Request body is not JSON.", nil
	}
	body, _ := v.(map[string]any)
	state, ok := body["desired_state"].(string)
	switch {
	case !ok:
		return d, `Missing required parameter "desired_state"`, nil
	case state != "signed" && state != "revoked":
		return d, fmt.Sprintf("State %s invalid; Must specify desired state of 'signed' or 'revoked' for host %s.", state, name), nil
	}
	d.state = state
	given, present := body["cert_ttl"]
	if !present || given == nil || given == false {
		return d, "", nil
	}
	seconds, ok := wholeNumber(given)
	if !ok {
		return d, fmt.Sprintf("cert_ttl specified for host %s must be an integer, not \"%s\"", name, strings.Trim(asText(given), `"`)), nil
	}
	// Unlike puppetserver, which signs certificates that have ended already.
	if seconds <= 0 || seconds > int64(maxTTL/time.Second) {
		return d, fmt.Sprintf("cert_ttl specified for host %s must be between 1 and %d seconds", name, int64(maxTTL/time.Second)), nil
	}
	d.ttl = time.Duration(seconds) * time.Second
	return d, "", nil
}

func wholeNumber(v any) (n int64, ok bool) {
	text, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	return n, err == nil
}

// maxTTL is puppetserver's max-ca-ttl, 50 years.
const maxTTL = 50 * 365 * 24 * time.Hour

// knownContentType accepts JSON, PSON and no type at all.
func knownContentType(r *http.Request) bool {
	given := r.Header.Get("Content-Type")
	if given == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(given)
	return err == nil && (media == typeJSON || media == puppet.TypePSON || media == "pson")
}

// statuses lists the names in a state. The segment after the slash is needed and
// ignored.
func (a *API) statuses(r *http.Request, segment string) (answer, error) {
	switch {
	case segment == "":
		return text(http.StatusBadRequest, typePlain, "Missing URL Segment")
	case strings.Contains(segment, "/"):
		return notFound(), nil
	case r.Method != http.MethodGet:
		return answer{status: http.StatusMethodNotAllowed, contentType: typePlain, body: []byte(notAllowed), allow: http.MethodGet}, nil
	}
	media, ok := negotiate(r)
	if !ok {
		return text(http.StatusNotAcceptable, typePlain, notAcceptable)
	}
	state := r.URL.Query().Get("state")
	return answer{status: http.StatusOK, contentType: statusType(r, media), vary: media != "", stream: func(w io.Writer) error {
		separator := "["
		for b, err := range a.ca.StatusJSON(r.Context(), state) {
			if err != nil {
				return err
			}
			if _, err := io.WriteString(w, separator); err != nil {
				return err
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
			separator = ","
		}
		if separator == "[" {
			_, err := io.WriteString(w, "[]")
			return err
		}
		_, err := io.WriteString(w, "]")
		return err
	}}, nil
}

// statusType is the content type of a status: what was negotiated, else an echo
// of the header Accept, else JSON (as-json-or-pson).
func statusType(r *http.Request, media string) string {
	if media == "" {
		media = cmp.Or(r.Header.Get("Accept"), typeJSON)
	}
	return withCharset(media)
}

func withCharset(media string) string {
	if media == typeJSON { // Jetty rewrites the charset of types that it knows
		return media + ";charset=utf-8"
	}
	return media + ";charset=UTF-8"
}

// negotiate chooses between JSON and PSON by the header Accept. "" means that
// anything was acceptable; false that nothing was. Of several with the same weight
// Liberator takes the last, and weight 0 is the least that is acceptable.
func negotiate(r *http.Request) (media string, ok bool) {
	accept, given := r.Header["Accept"]
	if !given {
		return "", true
	}
	best := 0.0
	for entry := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, q := mediaRange(entry)
		switch {
		case q < 0 || kind == "":
			continue
		case kind == "/" || !strings.Contains(kind, "/"):
			ok = true // Liberator takes a word that is no media type for */*
			continue
		}
		switch kind {
		case typeJSON, "application/*":
			if q >= best {
				media, best, ok = typeJSON, q, true
			}
		case puppet.TypePSON, "text/*":
			if q >= best {
				media, best, ok = puppet.TypePSON, q, true
			}
		case "*/*":
			ok = true
		}
	}
	return media, ok
}

func mediaRange(entry string) (kind string, q float64) {
	kind, params, _ := strings.Cut(entry, ";")
	q = 1
	for p := range strings.SplitSeq(params, ";") {
		if v, isQ := strings.CutPrefix(strings.TrimSpace(p), "q="); isQ {
			parsed, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return "", -1
			}
			q = parsed
		}
	}
	return strings.ToLower(strings.TrimSpace(kind)), q
}
