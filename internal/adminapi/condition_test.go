package adminapi_test

import (
	"net"
	"testing"

	"troupe/internal/adminapi"
)

func TestThePartsTellHowTheyDo(t *testing.T) {
	p := serve(t)
	j, err := p.client.Journal(t.Context())
	if err != nil || j.Records == 0 || !j.Checked || len(j.Damage) > 0 {
		t.Errorf("journal %+v, %v", j, err)
	}
	a, err := p.client.Authority(t.Context())
	if err != nil || len(a.Bundle) == 0 || len(a.Lists) == 0 || a.KeyError != "" || a.NoKey {
		t.Errorf("authority %+v, %v", a, err)
	}
	e, err := p.client.Environments(t.Context())
	if err != nil || len(e) != 2 || e[0].Name != "production" || e[1].Name != "testing" || e[0].Error != "" {
		t.Errorf("environments %+v, %v", e, err)
	}
	s, err := p.client.Process(t.Context())
	if err != nil || s.Settings.Certname != "one.example.test" || s.PID != 7 {
		t.Errorf("process %+v, %v", s, err)
	}
}

func TestWhereConnectionsToMembersComeFrom(t *testing.T) {
	for listen, want := range map[string]string{":8143": "", "0.0.0.0:8143": "", "[::]:8143": "", "192.0.2.1:8143": "192.0.2.1", "east:8143": "", "": ""} {
		if got := adminapi.ListenIP(listen); !got.Equal(net.ParseIP(want)) {
			t.Errorf("%q: %v, want %q", listen, got, want)
		}
	}
}
