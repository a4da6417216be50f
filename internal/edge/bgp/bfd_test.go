package bgp

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestBFDSessionsAgree has two sessions talk over lines that lose packets, are cut and heal, and restart. Whenever the lines have
// been whole for long enough both are up; whenever one has heard nothing for its detection time it is not.
func TestBFDSessionsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) BFD {
			return BFD{
				Interval:   time.Duration(rapid.IntRange(50, 1500).Draw(t, name+" interval")) * time.Millisecond,
				Multiplier: rapid.IntRange(2, 5).Draw(t, name+" multiplier"),
			}
		}
		o := [2]BFD{draw("a"), draw("b")}
		s := [2]*bfdSession{newBFDSession(o[0]), newBFDSession(o[1])}
		due := [2]time.Time{epoch, epoch}
		var last [2]wire.StateType
		var pass [2]bool    // packets from 0, from 1
		var whole time.Time // since then
		now := epoch
		send := func(from int, h *wire.BFDHeader) {
			for h != nil && pass[from] {
				_, h = s[1-from].take(h, now)
				from = 1 - from
			}
		}
		// Enough for the slow start of both, and the detection of what the other side has forgotten.
		settle := 12*time.Second + 5*(o[0].Interval+o[1].Interval)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			switch rapid.SampledFrom([]string{"whole", "whole", "cut", "one way", "restart"}).Draw(t, "change") {
			case "whole":
				pass = [2]bool{true, true}
			case "cut":
				pass = [2]bool{}
			case "one way":
				pass = [2]bool{true, false}
			case "restart":
				s[0], due[0] = newBFDSession(o[0]), now
			}
			whole = now
			until := now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			for ; now.Before(until); now = now.Add(10 * time.Millisecond) {
				for i := range s {
					s[i].expire(now)
					if s[i].state != wire.StateDown && now.After(s[i].deadline()) {
						t.Fatalf("session %d is %v, and heard nothing for %v", i, s[i].state, now.Sub(s[i].heard))
					}
					if s[i].state != last[i] || !now.Before(due[i]) { // as bfdLinks.run has it
						last[i] = s[i].state
						send(i, s[i].packet())
						due[i] = now.Add(s[i].pause())
					}
				}
				up := s[0].state == wire.StateUp && s[1].state == wire.StateUp
				if pass == [2]bool{true, true} && now.Sub(whole) > settle && !up {
					t.Fatalf("the lines are whole for %v, and the sessions are %v and %v", now.Sub(whole), s[0].state, s[1].state)
				}
				if !pass[1] && now.Sub(whole) > settle && s[0].state == wire.StateUp {
					t.Fatalf("nothing arrives for %v, and the session is up", now.Sub(whole))
				}
			}
		}
	})
}

// TestBFDPacketsThatAreNotAccepted are those of RFC 5880, 6.8.6, that must not change a session.
func TestBFDPacketsThatAreNotAccepted(t *testing.T) {
	good := wire.BFDHeader{Version: 1, State: wire.StateDown, DetectTimeMultiplier: 3, MyDiscriminator: 7, DesiredMinTxInterval: 300_000, RequiredMinRxInterval: 300_000}
	for name, change := range map[string]func(*wire.BFDHeader){
		"version 0":                    func(h *wire.BFDHeader) { h.Version = 0 },
		"no multiplier":                func(h *wire.BFDHeader) { h.DetectTimeMultiplier = 0 },
		"no discriminator":             func(h *wire.BFDHeader) { h.MyDiscriminator = 0 },
		"another session's":            func(h *wire.BFDHeader) { h.YourDiscriminator = 1 },
		"up without a discriminator":   func(h *wire.BFDHeader) { h.State = wire.StateUp },
		"init without discriminator":   func(h *wire.BFDHeader) { h.State = wire.StateInit },
		"poll and final in one packet": func(h *wire.BFDHeader) { h.Poll, h.Final = true, true },
	} {
		s := newBFDSession(BFD{DefaultInterval, DefaultMultiplier})
		s.mine = 99
		h := good
		change(&h)
		if _, reply := s.take(&h, epoch); s.state != wire.StateDown || reply != nil || s.discardCount != 1 {
			t.Errorf("%s: accepted", name)
		}
		if s.take(&good, epoch); s.state != wire.StateInit {
			t.Errorf("%s: the good one after it is not accepted", name)
		}
	}
}

// TestBFDSwitchedOffIsNoFailure is RFC 5882, 4.3.1: what an operator does to BFD does not end BGP.
func TestBFDSwitchedOffIsNoFailure(t *testing.T) {
	for state, want := range map[wire.StateType]fall{wire.StateAdminDown: closed, wire.StateDown: told} {
		s := newBFDSession(BFD{DefaultInterval, DefaultMultiplier})
		h := wire.BFDHeader{Version: 1, State: wire.StateInit, DetectTimeMultiplier: 3, MyDiscriminator: 7, YourDiscriminator: s.mine, Poll: true}
		if f, reply := s.take(&h, epoch); f != still || s.state != wire.StateUp || reply == nil || !reply.Final || reply.Poll {
			t.Fatalf("up: %q, %v, reply %+v", f, s.state, reply)
		}
		if p := s.packet(); !p.Poll || p.DesiredMinTxInterval != 300_000 || p.YourDiscriminator != 7 {
			t.Errorf("the first packet of a session that is up: %+v", p)
		}
		h.State, h.Poll, h.Final = state, false, true
		if f, _ := s.take(&h, epoch); f != want || s.state != wire.StateDown || s.desired() != slow {
			t.Errorf("after %v: %q, %v", state, f, s.state)
		}
	}
}

// TestBFDLinksTalk has two edges on loopback addresses; somebody far away cannot end their session.
func TestBFDLinksTalk(t *testing.T) {
	net16 := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), rand.IntN(250))
	a, b := netip.MustParseAddr(net16+"1"), netip.MustParseAddr(net16+"2")
	start := func(local, remote netip.Addr) (*bfdLinks, <-chan fallen) {
		fell := make(chan fallen, 10)
		links, err := startBFD(t.Context(), []Neighbor{{Address: remote, LocalAddress: local, BFD: &BFD{100 * time.Millisecond, 20}}},
			slog.New(slog.DiscardHandler), fell)
		if err != nil {
			t.Fatal(err)
		}
		return links, fell
	}
	atA, fellAtA := start(a, b)
	defer atA.stop()
	atB, fellAtB := start(b, a)
	up := func() bool { return atA.stateOf(b) == "up" && atB.stateOf(a) == "up" }
	eventually(t, "both to be up", up)
	if _, err := startBFD(t.Context(), []Neighbor{{Address: b, LocalAddress: a, BFD: &BFD{time.Second, 3}}}, nil, nil); err == nil {
		t.Error("a second BFD on the same address is not refused")
	} else {
		t.Log(err)
	}

	// A packet that says down, with the right source, as anybody can make it; once from afar, once from the next hop.
	down, err := (&wire.BFDHeader{
		Version: 1, State: wire.StateDown, DetectTimeMultiplier: 3, MyDiscriminator: 7, DesiredMinTxInterval: 1e6, RequiredMinRxInterval: 1e5,
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, ttl := range []int{64, 254, 255} {
		forged, err := dialBFD(t.Context(), b, a)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := forged.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl) }); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			forged.Write(down)
		}
		forged.Close()
		if ttl < 255 {
			continue
		}
		if f := <-fellAtA; f.neighbor != b || f.why != told {
			t.Errorf("a packet of the next hop: %+v", f)
		}
		if n := len(fellAtA); n > 0 {
			t.Errorf("the session fell %d times more: packets from afar were taken", n)
		}
	}
	eventually(t, "both to be up again", up)
	for len(fellAtB) > 0 {
		<-fellAtB
	}
	if err := atB.stop(); err != nil {
		t.Error(err)
	}
	if f := <-fellAtA; f.why != closed {
		t.Errorf("the end of one is %q for the other, want that it was switched off", f.why)
	}
}

// FuzzBFDPackets gives a session what comes from a line. It comes up only by packets that know its discriminator.
func FuzzBFDPackets(f *testing.F) {
	for _, state := range []wire.StateType{wire.StateAdminDown, wire.StateDown, wire.StateInit, wire.StateUp} {
		packet, err := (&wire.BFDHeader{Version: 1, State: state, DetectTimeMultiplier: 3, MyDiscriminator: 7, YourDiscriminator: 99, Poll: true}).MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet, uint8(state))
	}
	f.Fuzz(func(t *testing.T, packet []byte, state uint8) {
		s := newBFDSession(BFD{DefaultInterval, DefaultMultiplier})
		s.mine, s.state, s.heard, s.detection = 99, wire.StateType(1+state%3), epoch, time.Second
		before := s.state
		h := &wire.BFDHeader{}
		if h.UnmarshalBinary(packet) != nil {
			return
		}
		_, reply := s.take(h, epoch)
		if s.state == wire.StateUp && before != wire.StateUp && h.YourDiscriminator != 99 {
			t.Errorf("up by %+v", h)
		}
		if reply != nil {
			if _, err := reply.MarshalBinary(); err != nil {
				t.Error(err)
			}
		}
		if p := s.pause(); p < 0 || p == 0 && s.remoteMinRx != 0 {
			t.Errorf("pause %v after %+v", p, h)
		}
		s.expire(epoch.Add(time.Hour))
	})
}
