package agentapi

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/klauspost/compress/gzip"

	"troupe/internal/authz"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file reads what a request carries: its parameters and its body, within limits.

// A request is one admitted request.
type request struct {
	*http.Request
	api      *API
	id       authz.Identity
	endpoint string     // the name of the route
	key      string     // what follows the endpoint in the path
	params   url.Values // of the query; for a form, of its body too
}

// certname reads the key as a certname.
func (q *request) certname() (puppet.Certname, error) {
	if q.key == "" {
		return "", badRequest("No request key specified in %s", q.URL.Path)
	}
	return puppet.ParseCertname(q.key)
}

// queryOf reads the query as Ring does: a query without any "=" has no
// parameters, and a pair with a broken escape is none.
func queryOf(u *url.URL) url.Values {
	if !strings.Contains(u.RawQuery, "=") {
		return url.Values{}
	}
	values, _ := url.ParseQuery(u.RawQuery) // it returns what it could read
	return values
}

// environment reads the parameter that every request of /puppet/v3 must have.
func (q *request) environment() (puppet.Environment, error) {
	switch given := q.params["environment"]; len(given) {
	case 0:
		return "", badRequest("An environment parameter must be specified")
	case 1:
		return puppet.ParseEnvironment(given[0])
	default: // puppetserver prints a Clojure vector; from Puppet's own endpoints it is a 500
		return "", badRequest("The environment must be purely alphanumeric, not '%q'", given)
	}
}

// flag reads a boolean parameter as Puppet's handler does: only "true" is true.
func (q *request) flag(name string) bool { return q.params.Get(name) == "true" }

// contentType returns the media type of the body without its parameters.
func (q *request) contentType() (string, error) {
	header := q.Header.Get("Content-Type")
	if header == "" {
		return "", &problem{
			http.StatusBadRequest, "MISSING_HEADER_FIELD",
			"Bad Request: No Content-Type header was received, it isn't possible to unserialize the request",
		}
	}
	return mediaType(header), nil
}

// mediaType is a Content-Type without its parameters.
func mediaType(header string) string {
	kind, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// body reads the whole body.
func (q *request) body(limit int64) ([]byte, error) {
	r, err := q.bodyReader(limit)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(int(min(max(q.ContentLength, 0), trusted)) + bytes.MinRead)
	if _, err := b.ReadFrom(r); err != nil {
		return nil, bodyFault(err)
	}
	return b.Bytes(), nil
}

// trusted is up to where a Content-Length is believed before the bytes are there.
const trusted = 4 << 20

// bodyReader returns the body without its Content-Encoding. Reading more than
// limit bytes, before or after decompression, fails with TooLarge.
func (q *request) bodyReader(limit int64) (io.Reader, error) {
	if q.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	raw := &boundedReader{r: q.Body, left: limit, limit: limit}
	switch encoding := strings.ToLower(q.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return raw, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(raw)
		if err != nil {
			return nil, bodyFault(err)
		}
		return &boundedReader{r: z, left: limit, limit: limit}, nil
	case "deflate":
		z, err := zlib.NewReader(raw)
		if err != nil {
			return nil, bodyFault(err)
		}
		return &boundedReader{r: z, left: limit, limit: limit}, nil
	default:
		return nil, fault.New(fault.Unsupported, "Content-Encoding %.64s is not understood; send gzip, deflate or identity", encoding)
	}
}

// A boundedReader fails, instead of ending, when there is more than its limit.
type boundedReader struct {
	r     io.Reader
	left  int64
	limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooLarge(b.limit)
	}
	return n, err
}

func tooLarge(limit int64) error {
	return fault.New(fault.TooLarge, "The body is larger than %d bytes, the limit for this request", limit)
}

// bodyFault tells a body that is broken from one that is too large.
func bodyFault(err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fault.Wrap(fault.Invalid, err, "The body ends too early")
	}
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, zlib.ErrHeader) || errors.Is(err, zlib.ErrChecksum) {
		return fault.Wrap(fault.Invalid, err, "The body is not what its Content-Encoding says: %s", err)
	}
	if _, ok := errors.AsType[flate.CorruptInputError](err); ok {
		return fault.Wrap(fault.Invalid, err, "The body is not what its Content-Encoding says: %s", err)
	}
	return fault.Wrap(fault.Invalid, err, "The body could not be read")
}

// form adds the fields of a form body to the parameters. As in the real server
// a field of the body replaces the one of the query.
func (q *request) form(limit int64) error {
	if q.Method != http.MethodPost {
		return nil
	}
	if mediaType(q.Header.Get("Content-Type")) != "application/x-www-form-urlencoded" {
		return nil // a body of another kind is not looked at, as in the real server
	}
	b, err := q.body(limit)
	if err != nil {
		return err
	}
	fields, _ := url.ParseQuery(string(b)) // it returns what it could read, and so does Ring
	maps.Copy(q.params, fields)
	return nil
}

// unescape undoes percent-encoding as Ruby's CGI.unescape does: what is no
// escape stays as it is.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '+':
			out = append(out, ' ')
		case '%':
			var b [1]byte
			if i+2 < len(s) {
				if _, err := hex.Decode(b[:], []byte(s[i+1:i+3])); err == nil {
					out = append(out, b[0])
					i += 2
					continue
				}
			}
			out = append(out, c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

func badRequest(format string, args ...any) error {
	return fault.New(fault.Invalid, "%s", fmt.Sprintf(format, args...))
}
