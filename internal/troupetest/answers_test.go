package troupetest

// This file compares a member's answers to single requests with those recorded from the real Puppet Server.

import (
	"encoding/json"
	"maps"
	"mime"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// answers are the recordings.
const answers = "testdata/puppetserver-7.9.5"

// recordedNode is the agent of all recordings.
const recordedNode = "agent.example.test"

// deviations are the answers that differ on purpose, with the status that a member gives.
var deviations = map[string]int{
	"certificate/CRL not modified":                       200, // always 200: agents send their own clock
	"certificate/renewal":                                404, // newer rules let agents ask; it is not enabled
	"certificate_request/not PEM":                        400, // an IndexOutOfBoundsException there
	"certificate_request/empty":                          400,
	"certificate_status/sign many":                       200, // newer rules and servers have it
	"certificate_status/sign all":                        200,
	"file_content/of a folder":                           404, // an empty file there
	"file_content/static":                                404, // versioned code is not set up there
	"filebucket/PUT with another sum than the content's": 400, // the sum is believed there
	"environments/transports":                            404, // device transports are not served
}

func TestAnswersHaveTheStatusOfTheRealServer(t *testing.T) {
	t.Parallel()
	rules := filepath.Join(TempDir(t), "auth.conf")
	writeFile(t, rules, readFile(t, "../authz/default.conf")+strings.ReplaceAll(openToServer, "puppet.example.test", "admin.example.test"))
	s := StartServer(t, ServerOptions{Environments: site, Config: "auth_conf: " + rules + "\n"})
	agent := NewAgent(t, Puppet7, recordedNode, s.Addr)
	agent.Run().want(t, 1, "run without a signature")
	s.Sign(recordedNode)
	agent.Run().want(t, 2, "first run")
	r := newRecorder(t, s.Addr, filepath.Dir(s.Environments), agent, s.Bundle(), s.Generate("admin.example.test", "--ca-client"))

	for _, family := range slices.Sorted(maps.Keys(families)) {
		var recorded []Exchange
		if err := json.Unmarshal([]byte(readFile(t, filepath.Join(answers, family+".json"))), &recorded); err != nil {
			t.Fatal(err)
		}
		requests := families[family](r)
		if len(requests) != len(recorded) {
			t.Fatalf("%s: %d requests, %d recordings: record again", family, len(requests), len(recorded))
		}
		for i, request := range requests {
			got, want := r.ask(request), recorded[i]
			name := family + "/" + request.Name
			if status, deviates := deviations[name]; deviates {
				want.Status = status
			} else if !sameMediaType(want, got) {
				t.Errorf("%s: type %q, want %q", name, mediaType(got), mediaType(want))
			}
			if got.Status != want.Status {
				t.Errorf("%s: %s %s: status %d, want %d\n got %.300s\nwant %.300s",
					name, request.Method, request.Target, got.Status, want.Status, got.ResponseBody, want.ResponseBody)
			}
		}
	}
}

// sameMediaType compares what an agent needs to read a body. The real server names no type for refusals and for what
// its web server answers by itself, and MessagePack needs a gem that it lacks.
func sameMediaType(want, got Exchange) bool {
	typ := mediaType(want)
	return typ == "" || want.ResponseBody == "" || typ == "text/html" || typ == mediaType(got) || mediaType(got) == "application/x-msgpack"
}

func mediaType(e Exchange) string {
	for _, line := range e.ResponseHeader {
		if value, ok := strings.CutPrefix(line, "Content-Type: "); ok {
			typ, _, err := mime.ParseMediaType(value)
			if err != nil {
				return value
			}
			return typ
		}
	}
	return ""
}
