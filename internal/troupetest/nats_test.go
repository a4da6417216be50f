package troupetest

// This story has two members that share an operator's own NATS, whose user may do no more than docs/sites.md lists.

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var natsAway = flag.Duration("nats-away", 0, "how long NATS is away, with runs every 10 s (make nats-away: an hour)")

// natsPermissions are those of docs/sites.md; a test holds that they are the same.
const natsPermissions = `permissions: {
  publish: ["troupe.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.CONSUMER.CREATE.*.>", "$JS.API.CONSUMER.MSG.NEXT.*.*"]
  subscribe: ["_INBOX.>"]
}`

type natsLine struct {
	Server, Problem, Remedy string
	Following, Chains       int
	Lag                     uint64
	Streams                 []struct{ Replicas int }
}

func (s *Server) nats() natsLine {
	s.t.Helper()
	var status struct{ NATS natsLine }
	s.JSON(&status, "status")
	return status.NATS
}

func TestTwoMembersShareANATS(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "sites.md"))
	if err != nil || !strings.Contains(string(docs), natsPermissions) {
		t.Errorf("docs/sites.md does not have the permissions that this test has: %v", err)
	}
	server := StartNATS(t, `authorization: { users: [ { user: troupe, password: "open sesame", `+natsPermissions+" } ] }\n")
	password := filepath.Join(TempDir(t), "password")
	writeFile(t, password, "open sesame\n")
	if err := os.Chmod(password, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := fmt.Sprintf("  nats: { servers: %q, user: troupe, password_file: %q, max_bytes: 64M }\n", server.URL, password)
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort + settings, Autosign: true})
	east.WriteCode("production/manifests/site.pp", "notify { 'hello': }\n")
	east.MustCLI("init", "--site", "east")
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: Join(t, east, "west", "west.example.test", westPort+settings), Config: westPort + settings, Autosign: true})
	west.WriteCode("production/manifests/site.pp", "notify { 'hello': }\n")

	agent := NewAgent(t, Puppet7, "web1.example.test", east.Addr)
	agent.Run().want(t, 2, "the first run, at east")
	Eventually(t, Patience, "its report is at west", func() bool { return len(west.Reports("web1.example.test")) == 1 })
	agent.Server = west.Addr
	agent.Run().want(t, 2, "a run at west")
	Eventually(t, Patience, "its report is at east", func() bool { return len(east.Reports("web1.example.test")) == 2 })
	for _, s := range []*Server{east, west} {
		Eventually(t, Patience, "both chains of the other come through NATS", func() bool {
			n := s.nats()
			return n.Following == 2 && n.Chains == 2 && n.Lag == 0 && n.Problem == "" && len(n.Streams) == 2
		})
		if out := s.MustCLI("status"); !strings.Contains(out, "NATS: "+server.URL) {
			t.Errorf("troupe status:\n%s", out)
		}
	}

	// It goes away, and nobody but the operator notices.
	server.Kill()
	Eventually(t, Patience, "it is said", func() bool { n := east.nats(); return n.Server == "" && n.Problem != "" && n.Remedy != "" })
	agent.Run().want(t, 2, "a run at west while NATS is away")
	reports := 3
	Eventually(t, Patience, "its report is at east over HTTPS", func() bool { return len(east.Reports("web1.example.test")) == reports })
	for end := time.Now().Add(*natsAway); time.Now().Before(end); <-time.After(10 * time.Second) {
		agent.Server = []string{east.Addr, west.Addr}[reports%2]
		agent.Run().want(t, 2, "a run while NATS is away")
		reports++
		for _, s := range []*Server{east, west} {
			Eventually(t, Patience, "its report is at both", func() bool { return len(s.Reports("web1.example.test")) == reports })
		}
	}
	t.Logf("NATS was away for %v, and %d runs went on", *natsAway, reports-2)
	if out := east.MustCLI("status"); !strings.Contains(out, "NATS: away since") {
		t.Errorf("troupe status:\n%s", out)
	}
	_, out, _ := east.CLI("doctor")
	if !strings.Contains(out, "it carries no records since") {
		t.Errorf("troupe doctor:\n%s", out)
	}

	server.Start()
	for _, s := range []*Server{east, west} {
		Eventually(t, Patience, "it is back", func() bool { n := s.nats(); return n.Server != "" && n.Problem == "" })
	}
	agent.Server = west.Addr
	agent.Run().want(t, 2, "a run at west when NATS is back")
	Eventually(t, Patience, "its report is at east", func() bool { return len(east.Reports("web1.example.test")) == reports+1 })
	Eventually(t, Patience, "records come through NATS again", func() bool { return east.nats().Following == 2 })
	for _, s := range []*Server{east, west} {
		s.MustCLI("journal", "verify")
	}
	east.MustCLI("journal", "verify", "--cluster")
}
