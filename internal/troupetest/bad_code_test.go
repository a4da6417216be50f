package troupetest

// This file lets code of an environment, and an external node classifier, do their worst to a member.

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// troubleFunction does what the fact says.
const troubleFunction = `
Puppet::Functions.create_function(:trouble) do
  dispatch(:make) { param 'String', :kind }

  def make(kind)
    case kind
    when 'loop' then loop { nil }
    when 'memory' then hoard = []; loop { hoard << ('x' * (1 << 20)) }
    when 'recursion' then make(kind)
    when 'exit' then exit(3)
    when 'exit!' then exit!(4)
    when 'kill' then Process.kill(:KILL, Process.pid)
    when 'close' then ObjectSpace.each_object(UNIXSocket) { |s| s.close unless s.closed? }
    when 'frame' then ObjectSpace.each_object(UNIXSocket) { |s| s.write("\x0f\xff\xff\xff" * 2 + 'rubbish') unless s.closed? }
    when 'fork' then fork && nil
    when 'child' then Process.detach(spawn('sleep 1000'))
    when 'stdout' then 1000.times { $stdout.puts('rubbish on stdout') }
    end
    kind
  end
end
`

const troubledNode = "trouble.example.test"

func troubled(kind string) Exchange {
	facts := `{"name":"` + troubledNode + `","values":{"kind":"` + kind + `"}}`
	return send("", "", "POST", "/puppet/v3/catalog/"+troubledNode+"?environment=production",
		"environment=production&facts_format=application%2Fjson&facts="+url.QueryEscape(url.QueryEscape(facts)), asForm, acceptRich)
}

func TestCodeThatMisbehavesHurtsItsOwnCompileAlone(t *testing.T) {
	t.Parallel()
	m := afflict(t, ServerOptions{Autosign: true, Config: "engine: {workers: 2, deadline: 5s, max_memory: 128M}\n"})
	m.WriteCode("production/modules/trouble/lib/puppet/functions/trouble.rb", troubleFunction)
	m.WriteCode("production/manifests/site.pp", "node 'well.example.test' { }\nnode default { notify { trouble($facts['kind']): } }\n")
	m.serves(t)
	agent := NewAgent(t, Puppet7, troubledNode, m.Addr)
	agent.Facts["kind"] = "none"
	agent.Run().want(t, 2, "run without trouble")
	client := m.Client(agent.Identity())

	for _, row := range []struct{ kind, words string }{
		{"loop", `took longer than 5s and was stopped`},
		{"memory", `needed more than 256 MiB of memory`},
		{"recursion", `stack level too deep`},
		{"exit", `called exit\(3\) while the catalog was compiled`},
		{"exit!", `ended itself with exit status 4`},
		{"kill", `ended by signal 9`},
		{"close", `ended its worker process`},
		{"frame", `.`},
	} {
		t.Run(row.kind, func(t *testing.T) {
			m.forget(t)
			ask(t, m, client, troubled(row.kind)).want(t, http.StatusInternalServerError, `^\{"message":"Server Error: .*`+row.words+`.*","issue_kind":"RUNTIME_ERROR"\}$`)
			if row.words != "." {
				m.said(t, "WARN", row.words)
			}
			m.serves(t)
		})
	}
	for _, kind := range []string{"fork", "child", "stdout"} {
		t.Run(kind, func(t *testing.T) {
			m.forget(t)
			ask(t, m, client, troubled(kind)).want(t, http.StatusOK, `"Notify"`)
			m.serves(t)
		})
	}

	agent.Facts["kind"] = "exit"
	failed := agent.Run()
	failed.want(t, 1, "run whose compile calls exit")
	failed.wantText(t, "Error: Could not retrieve catalog from remote server: Error 500 on SERVER: Server Error:")
	failed.wantText(t, "called exit(3) while the catalog was compiled")
	if n := len(m.Reports(troubledNode)); n != 2 {
		t.Errorf("%d reports of %s, want one of each run", n, troubledNode)
	}
	m.Stop() // fails if a child of a compile is left
}

func TestAClassifierThatFailsIsToldInPuppetsWordsAndItsLastAnswerIsUsed(t *testing.T) {
	t.Parallel()
	dir := TempDir(t)
	enc := filepath.Join(dir, "enc")
	script := func(text string) {
		t.Helper()
		if err := os.Remove(enc); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(enc, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Well is classified whatever the others get.
	const well = `[ "$1" = ` + wellNode + ` ] && { echo 'classes: []'; exit; }` + "\n"
	script(well)
	m := afflict(t, ServerOptions{Config: "classifier: {command: " + enc + ", timeout: 3s}\n"})
	fresh := m.Client(m.Generate("fresh.example.test"))
	known := m.Client(m.Generate("known.example.test"))
	script(well + "echo 'classes: []'")
	ask(t, m, known, catalogOf("known.example.test", "production")).want(t, http.StatusOK, `"resources"`)

	for _, row := range []struct{ name, script, words string }{
		{"hangs", "sleep 1000", `took longer than 3s`},
		{"prints rubbish", "printf '\\377 {[ not: yaml'", `Could not load external node results for fresh.example.test`},
		{"prints no hash", "echo hello", `Could not load external node results for fresh.example.test: the answer is no hash`},
		{"prints 100 MB", "head -c 100000000 /dev/zero | tr '\\000' x", `printed more than 4194304 bytes`},
		{"exits 1", "echo 'no idea'; echo 'the reason' >&2; exit 1", `returned 1: no idea`},
		{"kills itself", "kill -9 $$", `signal: killed`},
		{"names a bad environment", "echo 'environment: ../etc'", `Could not load external node results for fresh.example.test`},
		{"prints nothing", "exit 0", `Could not find node 'fresh.example.test'; cannot compile`},
	} {
		t.Run(row.name, func(t *testing.T) {
			script(well + row.script)
			m.forget(t)
			begin := time.Now()
			ask(t, m, fresh, catalogOf("fresh.example.test", "production")).want(t, http.StatusInternalServerError, `^\{"message":"Server Error: .*`+row.words)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			m.said(t, "WARN", strings.ReplaceAll(row.words, "'fresh.example.test'; cannot compile", "'?fresh"))
			if row.name == "prints nothing" {
				return // that is an answer: the node is unknown
			}
			m.forget(t)
			ask(t, m, known, catalogOf("known.example.test", "production")).want(t, http.StatusOK, `"resources"`)
			m.said(t, "WARN", "its last good answer is used|^true$")
		})
	}

	for name, spoil := range map[string]func() error{
		"is missing":        func() error { return os.Remove(enc) },
		"is not executable": func() error { script("true"); return os.Chmod(enc, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			script(well)
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			m.forget(t)
			ask(t, m, fresh, catalogOf("fresh.example.test", "production")).want(t, http.StatusInternalServerError,
				`Failed to find fresh.example.test via exec: Execution of '`+enc+` fresh.example.test' failed`)
			script(well)
			m.said(t, "WARN", "Failed to find fresh.example.test")
		})
	}
}
