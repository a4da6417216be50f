package agentapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"troupe/internal/engine"
	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// A logged is one line of the server's log, as far as this file looks.
type logged struct {
	Level       string `json:"level"`
	Msg         string `json:"msg"`
	Certname    string `json:"certname"`
	Environment string `json:"environment"`
	Message     string `json:"message"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Count       int    `json:"count"`
}

// loggedBy compiles once and returns what the log says about it.
func loggedBy(t *testing.T, a ask, result engine.Result, err error) []logged {
	t.Helper()
	var out bytes.Buffer
	s := newSite(t, siteOptions{options: Options{Log: telemetry.NewLogger(&out, nil, true)}})
	s.engine.compile = func(engine.Request) (engine.Result, error) { return result, err }
	s.do(a)
	var lines []logged
	for d := json.NewDecoder(&out); d.More(); {
		var l logged
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestTheLogRepeatsWhatACompileSays(t *testing.T) {
	said := []engine.Log{
		{Level: "debug", Message: "unheard"},
		{Level: "info", Message: "unheard"},
		{Level: "notice", Message: "hello", Source: "Scope(Class[main])"},
		{Level: "warning", Message: "careful", File: "/etc/code/site.pp", Line: 7},
		{Level: "crit", Message: "bad"},
	}
	line := func(level, message string) logged {
		return logged{Level: level, Msg: "compile message", Certname: agent, Environment: "production", Message: message}
	}
	careful := line("WARN", "careful")
	careful.File, careful.Line = "/etc/code/site.pp", 7
	want := []logged{line("INFO", "hello"), careful, line("ERROR", "bad")}

	v3 := postCatalog(catalogForm(factsOfAgent))
	v4 := ask{
		as: "puppet.example.test", method: http.MethodPost, target: "/puppet/v4/catalog",
		body: `{"certname":"` + agent + `","persistence":{"facts":false,"catalog":false},"environment":"production"}`,
	}
	good := engine.Result{Catalog: []byte(`{}`), Logs: said}
	// What the error itself says is in the line of the request.
	repeated := append(slices.Clone(said), engine.Log{Level: "err", Message: "Syntax error"})
	const words = "Could not parse: Syntax error (file: site.pp)"
	failure := fault.Wrap(fault.Failed, &engine.CompileError{Certname: agent, Msg: words, Logs: repeated}, words)
	for name, got := range map[string][]logged{
		"v3": loggedBy(t, v3, good, nil), "v3 failed": loggedBy(t, v3, engine.Result{}, failure),
		"v4": loggedBy(t, v4, good, nil), "v4 failed": loggedBy(t, v4, engine.Result{}, failure),
	} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the log differs (-want +got):\n%s", name, diff)
		}
	}
}

func TestACompileThatTalksWithoutEndDoesNotFillTheLog(t *testing.T) {
	var said []engine.Log
	for i := range 200 {
		said = append(said, engine.Log{Level: "notice", Message: fmt.Sprintf("%d %s", i, strings.Repeat("ä", maxMessage))})
	}
	got := loggedBy(t, postCatalog(catalogForm(factsOfAgent)), engine.Result{Catalog: []byte(`{}`), Logs: said}, nil)
	if len(got) != maxMessages+1 || got[maxMessages].Count != 150 {
		t.Fatalf("%d lines, the last counts %d; want %d and 150", len(got), got[len(got)-1].Count, maxMessages+1)
	}
	if text := got[0].Message; len(text) > maxMessage+len("…") || !strings.HasSuffix(text, "ä…") {
		t.Errorf("a long message takes %d bytes and ends with %q", len(text), text[len(text)-8:])
	}
}
