//go:build record

package troupetest

// This file records what the real Puppet Server and real agents say to each other:
//
//	go test -tags record -run TestRecord -timeout 30m ./internal/troupetest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRecordRunsOfRealAgents(t *testing.T) {
	server := StartPuppetServer(t, PuppetServerOptions{Autosign: true, Environments: "testdata/environments"})
	t.Cleanup(func() { server.Stop(t) })

	for _, g := range []Generation{Puppet7, Puppet8, Puppet5, OpenVox9} {
		t.Run(string(g), func(t *testing.T) {
			agent := NewAgent(t, g, strings.ReplaceAll(string(g), ".", "-")+"."+recordedNode, server.Addr)
			module := filepath.Join(server.Code(), "production", "modules", "site")

			record := func(name string, args ...string) {
				result := agent.Run(append([]string{"--http_debug"}, args...)...)
				// 5.5 names contents by MD5, which this server's filebucket refuses with 500: that is recorded too.
				refused := g == Puppet5 && name == "backup-run"
				if result.Exit != 0 && result.Exit != 2 && !refused {
					t.Errorf("%s: exit %d\n%s", name, result.Exit, result.Output)
				}
				exchanges, err := ParseHTTPDebug(result.Output)
				if err != nil {
					t.Fatal(err)
				}
				writeJSON(t, filepath.Join("../fakeagent/testdata", string(g), name+".json"), shapes(t, agent, exchanges))
			}

			record("first-run")
			record("second-run")
			writeFile(t, filepath.Join(module, "files", "motd"), "changed for "+string(g)+"\n")
			writeFile(t, filepath.Join(module, "lib", "facter", "site_custom.rb"),
				"Facter.add(:site_custom) { setcode { 'changed for "+string(g)+"' } }\n")
			record("changed-run")

			// The old content of a changed file goes to the server's filebucket.
			agent.Facts["kept"] = "old"
			agent.Run("--environment", "backup").want(t, 2, "run before the backup")
			agent.Facts["kept"] = "new"
			record("backup-run", "--environment", "backup")
		})
	}
}

// shapes replaces what differs between machines and runs, and bodies by their structure.
func shapes(t *testing.T, agent *Agent, exchanges []Exchange) []Exchange {
	t.Helper()
	for i, e := range exchanges {
		e.Target = strings.ReplaceAll(e.Target, strings.TrimPrefix(agent.Dir, "/"), "srv/agent")
		e.Target = uuid.ReplaceAllString(strings.ReplaceAll(e.Target, agent.Certname, recordedNode), "UUID")
		for j, line := range e.Header {
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "Host":
				value = "localhost:PORT"
			case "Content-Length", "If-Modified-Since":
				value = "N"
			}
			e.Header[j] = name + ": " + value
		}
		for j, line := range e.ResponseHeader {
			if name, _, _ := strings.Cut(line, ": "); name == "Date" || name == "Content-Length" {
				e.ResponseHeader[j] = name + ": N"
			}
		}
		e.Body, e.ResponseBody = shape(t, e), ""
		exchanges[i] = e
	}
	return exchanges
}

// shape describes a body: the fields of a form in order, the keys of a JSON object in order, the type of a PEM block.
func shape(t *testing.T, e Exchange) string {
	t.Helper()
	switch {
	case e.Body == "":
		return ""
	case strings.HasPrefix(e.Body, "facts_format="), strings.Contains(e.Body, "&facts="):
		var fields []string
		for field := range strings.SplitSeq(e.Body, "&") {
			key, value, _ := strings.Cut(field, "=")
			if key == "facts" {
				value = "(" + factsShape(t, value) + ", escaped twice)"
			}
			fields = append(fields, key+"="+uuid.ReplaceAllString(value, "UUID"))
		}
		return strings.Join(fields, "&")
	case strings.HasPrefix(e.Body, "{"):
		return "object of " + strings.Join(keysInOrder(t, e.Body), ", ")
	case strings.HasPrefix(e.Body, "-----BEGIN"):
		return "PEM" + strings.Trim(strings.SplitN(e.Body, "\n", 2)[0], "-")
	default:
		return fmt.Sprintf("%d bytes", len(e.Body))
	}
}

func factsShape(t *testing.T, value string) string {
	t.Helper()
	for range 2 {
		text, err := url.QueryUnescape(value)
		if err != nil {
			t.Fatal(err)
		}
		value = text
	}
	return "object of " + strings.Join(keysInOrder(t, value), ", ")
}

func keysInOrder(t *testing.T, object string) []string {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(object))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key.(string))
		var skipped json.RawMessage
		if err := dec.Decode(&skipped); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
