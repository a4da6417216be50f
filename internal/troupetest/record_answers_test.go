//go:build record

package troupetest

// This file records the real Puppet Server's answers to single requests, good and bad, as golden data:
//
//	go test -tags record -run TestRecordAnswers -timeout 30m ./internal/troupetest

import (
	"crypto/x509"
	"maps"
	"path/filepath"
	"slices"
	"testing"
)

// TestRecordAnswers writes one file for each family of endpoints.
func TestRecordAnswers(t *testing.T) {
	server := StartPuppetServer(t, PuppetServerOptions{
		Environments: "testdata/environments", Conf: map[string]string{"auth.conf": openToServer},
	})
	t.Cleanup(func() { server.Stop(t) })
	// Autosign is off, so that the answers to certificate requests are those of an ordinary CA.
	agent := NewAgent(t, Puppet7, recordedNode, server.Addr)
	agent.Run().want(t, 1, "run without a signature")
	CACLI{Config: filepath.Join(server.Dir, "puppet", "puppet.conf")}.MustRun(t, "sign", "--certname", recordedNode)
	agent.Run().want(t, 2, "first run")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(server.SSL(), "certs", "ca.pem"))))
	r := newRecorder(t, server.Addr, server.Dir, agent, roots, loadPair(t, server.SSL(), "puppet.example.test"))

	for _, family := range slices.Sorted(maps.Keys(families)) {
		var recorded []Exchange
		for _, e := range families[family](r) {
			recorded = append(recorded, r.ask(e))
		}
		writeJSON(t, filepath.Join(answers, family+".json"), recorded)
	}
}
