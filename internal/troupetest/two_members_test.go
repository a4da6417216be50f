package troupetest

// These stories have two members that know everything together.

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

type memberLine struct {
	Name, Site, State, Error string
	Behind                   uint64
	Heartbeat                struct {
		State   string
		Workers int
	}
}

func (s *Server) members() map[string]memberLine {
	s.t.Helper()
	var status struct{ Members []memberLine }
	s.JSON(&status, "status")
	all := map[string]memberLine{}
	for _, m := range status.Members {
		all[m.Name] = m
	}
	return all
}

func TestAnAgentEnrolsAtOneSiteAndRunsAtTheOther(t *testing.T) {
	t.Parallel()
	_, eastPort := MemberPort(t)
	_, westPort := MemberPort(t)
	manifest := "notify { \"hello from ${server_facts['servername']}\": }\n"
	east := StartServer(t, ServerOptions{Certname: "east.example.test", Config: eastPort, Autosign: true})
	east.WriteCode("production/manifests/site.pp", manifest)
	agent := NewAgent(t, Puppet7, "web1.example.test", east.Addr)
	agent.Run().want(t, 2, "the first run, at east")

	east.MustCLI("init", "--site", "east")
	data := Join(t, east, "west", "west.example.test", westPort)
	west := StartServer(t, ServerOptions{Certname: "west.example.test", Data: data, Config: westPort, Autosign: true})
	west.WriteCode("production/manifests/site.pp", manifest)

	// What the one knew before the other was there.
	if got, want := west.Certificates()["web1.example.test"], east.Certificates()["web1.example.test"]; got.Fingerprint != want.Fingerprint || got.State != "signed" {
		t.Errorf("west knows %+v, east %+v", got, want)
	}
	if reports := west.Reports("web1.example.test"); len(reports) != 1 {
		t.Errorf("west has %d reports of the first run", len(reports))
	}
	agent.Server = west.Addr
	agent.Run().want(t, 2, "a run at west")
	Eventually(t, Patience, "the report of the run at west is at east", func() bool { return len(east.Reports("web1.example.test")) == 2 })
	if m := east.members(); m["west.example.test"].Site != "west" || m["west.example.test"].State != "connected" || m["east.example.test"].State != "self" {
		t.Errorf("status at east: %+v", m)
	}
	Eventually(t, Patience, "each hears how the other does", func() bool {
		a, b := east.members()["west.example.test"].Heartbeat, west.members()["east.example.test"].Heartbeat
		return a.State == "running" && a.Workers > 0 && b.State == "running" && b.Workers > 0
	})

	// Revoked here, refused there.
	east.MustCLI("ca", "revoke", "--certname", "web1.example.test")
	identity := agent.Identity()
	Eventually(t, Patience, "a certificate that was revoked at east is refused at west", func() bool {
		answer, err := west.Client(identity).Get(west.URL("/puppet/v3/node/web1.example.test"))
		if err == nil {
			answer.Body.Close()
		}
		return err != nil
	})

	// One of them dies; the other does everything.
	east.Kill()
	Eventually(t, Patience, "west notices that east is away", func() bool { return west.members()["east.example.test"].State == "unknown" })
	second := NewAgent(t, Puppet7, "web2.example.test", west.Addr)
	second.Run().want(t, 2, "a new agent while east is away")
	west.MustCLI("ca", "generate", "--certname", "made.example.test", "--to", t.TempDir())

	// It comes back, and has missed nothing.
	east.Start()
	for _, name := range []string{"web2.example.test", "made.example.test"} {
		if got, want := east.Certificates()[name], west.Certificates()[name]; got.SerialNumber != want.SerialNumber || got.State != "signed" {
			t.Errorf("%s: east knows %+v, west %+v", name, got, want)
		}
	}
	second.Server = east.Addr
	second.Run().want(t, 2, "its run at east")
	for _, s := range []*Server{east, west} {
		s.MustCLI("journal", "verify")
	}
}

func TestAMemberIsRemovedForGood(t *testing.T) {
	t.Parallel()
	_, aPort := MemberPort(t)
	_, bPort := MemberPort(t)
	a := StartServer(t, ServerOptions{Certname: "a.example.test", Config: aPort})
	a.MustCLI("init")
	b := StartServer(t, ServerOptions{Certname: "b.example.test", Data: Join(t, a, "west", "b.example.test", bPort), Config: bPort})
	Eventually(t, Patience, "both are connected", func() bool {
		return a.members()["b.example.test"].State == "connected" && b.members()["a.example.test"].State == "connected"
	})
	a.MustCLI("remove", "b.example.test")
	if got := a.Certificates()["b.example.test"].State; got != "revoked" {
		t.Errorf("the certificate of the removed member is %s", got)
	}
	b.MustCLI("ca", "generate", "--certname", "late.example.test", "--to", t.TempDir())
	Eventually(t, Patience, "the removed member knows that nobody speaks to it", func() bool { return b.members()["a.example.test"].State != "connected" })
	if _, there := a.Certificates()["late.example.test"]; there {
		t.Error("what a removed member signed is taken")
	}
	if status, _, words := b.CLI("join", "troupe1.x.y.z@127.0.0.1"); status == 0 || !strings.Contains(words, "running") {
		t.Errorf("a running member joins: %d %s", status, words)
	}
}

// TestASignedCertificateOutlivesTheMemberThatSignedIt kills a member while it signs, and never starts it again.
func TestASignedCertificateOutlivesTheMemberThatSignedIt(t *testing.T) {
	t.Parallel()
	_, aPort := MemberPort(t)
	_, bPort := MemberPort(t)
	a := StartServer(t, ServerOptions{Certname: "a.example.test", Config: aPort, Autosign: true})
	a.MustCLI("init")
	b := StartServer(t, ServerOptions{Certname: "b.example.test", Data: Join(t, a, "west", "b.example.test", bPort), Config: bPort})
	Eventually(t, Patience, "both are connected", func() bool { return a.members()["b.example.test"].State == "connected" })

	client := a.Client()
	var mu sync.Mutex
	var signed []string
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("node-%d-%d.example.test", i, n)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, a.URL("/puppet-ca/v1/certificate_request/"+name), strings.NewReader(csr(t, name)))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Content-Type", "text/plain")
				answer, err := client.Do(request)
				if err != nil {
					return // it was killed
				}
				answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", name, answer.Status)
					return
				}
				mu.Lock()
				signed = append(signed, name)
				mu.Unlock()
			}
		})
	}
	Eventually(t, Patience, "fifty certificates are signed", func() bool { mu.Lock(); defer mu.Unlock(); return len(signed) >= 50 })
	a.Kill()
	clients.Wait()

	known := b.Certificates()
	for _, name := range signed {
		if known[name].State != "signed" {
			t.Errorf("the certificate of %s was acknowledged and is lost", name)
		}
	}
	serials := map[string]string{}
	for name, c := range known {
		if c.State == "requested" {
			continue // when the end came
		}
		if other := serials[c.SerialNumber]; other != "" {
			t.Errorf("%s and %s have the same serial number", name, other)
		}
		serials[c.SerialNumber] = name
	}
}
