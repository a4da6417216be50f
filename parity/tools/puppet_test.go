//go:build parity

package tools

// This file runs the subcommands of puppet that speak with a server.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"troupe/internal/troupetest"
)

// A said is what one command of a tool did.
type said struct {
	What   string
	Exit   int
	Output string
}

func whatSaid(s said) string { return s.What }

// saysDifferent are the commands after which a member's agent says something else, and why. The face `catalog` of 7 and 8
// sends facts without a name when it asks a server; both servers refuse them with 500.
var saysDifferent = map[string]string{
	"catalog download":                    "words about facts without a name",
	"catalog find":                        "words about facts without a name",
	"catalog compile":                     "words about facts without a name",
	"catalog find in environment failing": "words about facts without a name",
	"catalog find in environment nosuch":  "words about facts without a name",
	"filebucket diff":                     "the real server names the files of its bucket, a member the checksums",
	"facts upload of a revoked node":      "the TLS alert is bad_certificate, not certificate_unknown",
}

// subcommands is the life of a node, told by single commands.
func subcommands(t *testing.T, p peer, g troupetest.Generation) []said {
	t.Helper()
	certname := "node" + string(g[0]) + ".example.test"
	a := newAgent(t, g, certname, p)
	var done []said
	puppet := func(what string, args ...string) {
		t.Helper()
		r := a.Puppet(args...)
		done = append(done, said{What: what, Exit: r.Exit, Output: p.mask(r.Output, a.Dir)})
	}

	puppet("ssl submit_request", "ssl", "submit_request")
	puppet("ssl submit_request again", "ssl", "submit_request")
	puppet("ssl download_cert of a request", "ssl", "download_cert")
	p.sign(t, certname)
	puppet("ssl download_cert", "ssl", "download_cert")
	puppet("ssl verify", "ssl", "verify")
	puppet("ssl bootstrap", "ssl", "bootstrap")
	puppet("agent --fingerprint", "agent", "--fingerprint")
	puppet("plugin download", "plugin", "download")
	puppet("facts upload", "facts", "upload")
	done = append(done, said{What: "facts that were uploaded", Output: names(p.facts(t, certname))})
	puppet("catalog download", "catalog", "download")
	puppet("catalog find", "catalog", "find", certname, "--terminus", "rest")

	kept, old, changed := filepath.Join(a.Dir, "kept"), "kept words\n", "other words\n"
	writeFile(t, kept, old)
	puppet("filebucket backup", "filebucket", "-r", "backup", kept)
	puppet("filebucket get", "filebucket", "-r", "get", sha256Of(old))
	if g == troupetest.Puppet7 {
		writeFile(t, kept, changed)
		puppet("filebucket backup of more", "filebucket", "-r", "backup", kept)
		puppet("filebucket diff", "filebucket", "-r", "diff", sha256Of(old), sha256Of(changed))
		puppet("filebucket restore", "filebucket", "-r", "restore", kept, sha256Of(old))
		done = append(done, said{What: "what was restored", Output: readFile(t, kept)})
		puppet("filebucket get of nothing", "filebucket", "-r", "get", sha256Of("nothing"))
		puppet("filebucket list", "filebucket", "-r", "list")

		// A node may not ask for another; and what the server has no route for.
		puppet("node find", "node", "find", certname, "--terminus", "rest")
		done[len(done)-1].Output = node(t, done[len(done)-1].Output)
		puppet("node find of another", "node", "find", "other.example.test", "--terminus", "rest")
		puppet("facts find", "facts", "find", certname, "--terminus", "rest")
		puppet("catalog compile", "catalog", "compile", certname, "--terminus", "rest")
		local := troupetest.TempDir(t) // the command wants the environment to be there where it runs, too
		writeFile(t, filepath.Join(local, "failing", "environment.conf"), "")
		writeFile(t, filepath.Join(local, "nosuch", "environment.conf"), "")
		for _, environment := range []string{"failing", "nosuch"} {
			puppet("catalog find in environment "+environment,
				"catalog", "find", certname, "--terminus", "rest", "--environmentpath", local, "--environment", environment)
		}
	}

	p.clean(t, certname)
	puppet("facts upload of a revoked node", "facts", "upload")
	puppet("ssl clean", "ssl", "clean")
	return done
}

// node is a node as `puppet node find` prints it, with the names of its parameters alone: values of facts are those of one
// machine at two times.
func node(t *testing.T, text string) string {
	t.Helper()
	var n map[string]any
	decode(t, text, &n)
	parameters, ok := n["parameters"].(map[string]any)
	if !ok {
		t.Fatalf("puppet node find: a node without parameters\n%s", text)
	}
	n["parameters"] = names(parameters)
	out, err := json.MarshalIndent(n, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func names(values map[string]any) string {
	return strings.Join(slices.Sorted(maps.Keys(values)), " ")
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
