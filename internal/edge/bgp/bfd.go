package bgp

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// This file is one session of BFD (RFC 5880, asynchronous mode; RFC 5881, one hop): a state machine to which packets and times are
// told. GoBGP has one of its own; it is not used, because it ends BGP sessions again and again after each that ended
// (docs/decisions/014-gobgp.md).

// slow is how often packets are sent while a session is not up, at most (RFC 5880, 6.8.3).
const slow = time.Second

// bfdSession has the names of RFC 5880, 6.8.1. It is for one goroutine.
type bfdSession struct {
	interval   time.Duration
	multiplier uint8

	state        wire.StateType
	remoteState  wire.StateType
	diagnostic   wire.DiagnosticType
	mine         uint32 // discriminators
	yours        uint32
	remoteMinRx  time.Duration
	detection    time.Duration // by the newest packet
	heard        time.Time     // of it
	polling      bool          // new timers are told until the other side has confirmed them
	discardCount uint64
}

func newBFDSession(o BFD) *bfdSession {
	s := &bfdSession{
		interval: o.Interval, multiplier: uint8(o.Multiplier), state: wire.StateDown, remoteState: wire.StateDown,
		remoteMinRx: time.Microsecond,
	}
	for s.mine == 0 { // which means none
		var random [4]byte
		rand.Read(random[:]) // never fails
		s.mine = binary.BigEndian.Uint32(random[:])
	}
	return s
}

// A fall is the end of a session that was up, or nothing.
type fall string

const (
	still   fall = ""
	unheard fall = "BFD heard nothing from it"
	told    fall = "its BFD says down"
	closed  fall = "its BFD was switched off"
)

// take is what a packet changes. The answer to it, if one has to be sent at once, is reply.
func (s *bfdSession) take(h *wire.BFDHeader, now time.Time) (f fall, reply *wire.BFDHeader) {
	if !s.acceptable(h) {
		s.discardCount++
		return still, nil
	}
	s.yours, s.remoteState, s.heard = h.MyDiscriminator, h.State, now
	s.remoteMinRx = time.Duration(h.RequiredMinRxInterval) * time.Microsecond
	s.detection = time.Duration(h.DetectTimeMultiplier) * max(s.interval, time.Duration(h.DesiredMinTxInterval)*time.Microsecond)
	if h.Final {
		s.polling = false
	}

	switch {
	case h.State == wire.StateAdminDown:
		if s.state != wire.StateDown {
			f = s.down(wire.DiagnosticNeighborSignaledSessionDown, closed)
		}
	case s.state == wire.StateDown && h.State == wire.StateDown:
		s.state = wire.StateInit
	case s.state == wire.StateDown && h.State == wire.StateInit, s.state == wire.StateInit && h.State != wire.StateDown:
		s.state, s.diagnostic = wire.StateUp, wire.DiagnosticNoDiagnostic
		s.polling = true // from now on we send faster
	case s.state == wire.StateUp && h.State == wire.StateDown:
		f = s.down(wire.DiagnosticNeighborSignaledSessionDown, told)
	}
	if h.Poll {
		reply = s.packet()
		reply.Poll, reply.Final = false, true
	}
	return f, reply
}

// acceptable is RFC 5880, 6.8.6, as far as a header can tell.
func (s *bfdSession) acceptable(h *wire.BFDHeader) bool {
	switch {
	case h.Version != 1, h.DetectTimeMultiplier == 0, h.MyDiscriminator == 0, h.Poll && h.Final:
		return false
	case h.YourDiscriminator == 0:
		return h.State == wire.StateDown || h.State == wire.StateAdminDown
	}
	return h.YourDiscriminator == s.mine
}

// expire is what the passing of time changes.
func (s *bfdSession) expire(now time.Time) fall {
	if s.state == wire.StateDown || now.Before(s.deadline()) {
		return still
	}
	s.yours, s.remoteState, s.remoteMinRx = 0, wire.StateDown, time.Microsecond
	return s.down(wire.DiagnosticControlDetectionTimeExpired, unheard)
}

// deadline is when silence is the end; it counts for sessions that are not down.
func (s *bfdSession) deadline() time.Time { return s.heard.Add(s.detection) }

func (s *bfdSession) down(d wire.DiagnosticType, f fall) fall {
	up := s.state == wire.StateUp
	s.state, s.diagnostic, s.polling = wire.StateDown, d, false
	if !up {
		return still
	}
	return f
}

// desired is how often we would like to send.
func (s *bfdSession) desired() time.Duration {
	if s.state != wire.StateUp {
		return max(s.interval, slow)
	}
	return s.interval
}

// pause is until the next packet: between 75 and 100 % of what both sides want, so that sessions do not beat together. Zero means that
// the other side wants none.
func (s *bfdSession) pause() time.Duration {
	if s.remoteMinRx == 0 {
		return 0
	}
	interval := max(s.desired(), s.remoteMinRx)
	return interval - time.Duration(mathrand.Int64N(int64(interval)/4)) //nolint:gosec // spread, no secret
}

// packet is what the session has to say.
func (s *bfdSession) packet() *wire.BFDHeader {
	return &wire.BFDHeader{
		Version: 1, Diagnostic: s.diagnostic, State: s.state, Poll: s.polling, DetectTimeMultiplier: s.multiplier,
		MyDiscriminator: s.mine, YourDiscriminator: s.yours,
		DesiredMinTxInterval: uint32(s.desired().Microseconds()), RequiredMinRxInterval: uint32(s.interval.Microseconds()),
	}
}
