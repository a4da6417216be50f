// Package endpoints compares every endpoint of a member with the real Puppet Server 7.9.5: each method, each content type
// asked for and sent, each identity, and the usual mistakes in a path or a query.
//
// The requests are generated (table_test.go). The real server's answers lie in testdata, whose README says how they were
// recorded; every run of the tests asks a member the same and compares. `make parity` asks the real server again. What
// differs must match a line of explained_test.go, or the test fails; docs/compat.md gets the table of both.
package endpoints

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"troupe/internal/troupetest"
)

var update = flag.Bool("update", false, "write the recorded answers (with -tags parity) and the table in docs/compat.md")

const recordAgain = "record again, as root: go test -tags parity -count 1 -run TestTheRecording -timeout 2h ./parity/endpoints -update" +
	" (with -only REGEXP some requests alone), then write the table: go test ./parity/endpoints -update"

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(troupetest.Main(m))
}

// A Request is one question to a server.
type Request struct {
	Endpoint string   // as docs/compat.md names it
	As       string   // an identity of the site; "" shows no certificate
	Method   string   //
	Target   string   // path and query, as they are sent
	Header   []string // "Name: value"
	Body     string   // "CSR name" stands for a fresh certificate request
}

// key names the request in the recording.
func (q Request) key() string {
	key := strings.Join([]string{q.As, q.Method, q.Target, strings.Join(q.Header, "; ")}, " | ")
	if q.Body == "" {
		return key
	}
	sum := sha256.Sum256([]byte(q.Body))
	return key + " | " + hex.EncodeToString(sum[:4])
}

// An Answer is what a client can see of an answer. Status 0 means that the connection broke; Body then says how.
type Answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header,omitempty"`
	Body   string            `json:"body,omitempty"`
}

// A suite is a list of requests to servers with the same rules.
type suite struct {
	name     string // of its recording in testdata
	rules    string // auth.conf
	requests []Request
}

func suites(t *testing.T) []suite {
	t.Helper()
	return []suite{
		{"answers", readFile(t, rules), requests()},
		{"rules", rulesConf(), ruleRequests()},
		{"headers", headersConf, headerRequests()},
	}
}

// A Recorded answer belongs to the request with its key; equal requests follow each other in order.
type Recorded struct {
	Key    string `json:"key"`
	Answer Answer `json:"answer"`
}
