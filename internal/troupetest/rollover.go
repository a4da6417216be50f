package troupetest

// This file asks a member how far a roll-over of its issuer is.

import (
	"crypto/tls"
	"testing"
	"time"
)

type rolloverLine struct {
	Open, Signs, Shown           bool
	Agents, Moved, Accept, Names int
	Issuers                      []issuerLine
	WaitingFor                   []string `json:"waiting_for"`
	Hanging                      []struct{ Certname string }
}

type issuerLine struct {
	Key, Name, Role string
	Held, Stolen    bool
	Live            int
}

func (r rolloverLine) issuer(t *testing.T, role string) issuerLine {
	t.Helper()
	for _, i := range r.Issuers {
		if i.Role == role {
			return i
		}
	}
	t.Fatalf("no issuer is %s: %+v", role, r)
	return issuerLine{}
}

func (s *Server) rollover() (r rolloverLine) {
	s.t.Helper()
	s.JSON(&r, "ca", "rollover", "status")
	return r
}

// shown is the issuer of the certificate that the member shows agents.
func (s *Server) shown() string {
	s.t.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	c, err := d.DialContext(s.t.Context(), "tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(Patience)); err != nil {
		s.t.Fatal(err)
	}
	conn, _ := c.(*tls.Conn)
	return conn.ConnectionState().PeerCertificates[0].Issuer.CommonName
}
