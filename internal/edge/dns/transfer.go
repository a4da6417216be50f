package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	wire "github.com/miekg/dns"

	"troupe/internal/telemetry"
)

// This file gives the zone to secondaries and tells them when it changed.

// transfer answers AXFR and IXFR. An IXFR is answered with the whole zone, which is small and changes as a whole.
func (h *handler) transfer(w wire.ResponseWriter, r *wire.Msg, from netip.Addr, udp bool, key string) {
	z := h.zone
	refuse := func(rcode int, result, why string) {
		z.metrics.transfers.WithLabelValues(result).Inc()
		level := slog.LevelInfo
		if udp { // whose sender can be forged: nobody fills our disk by that
			level = slog.LevelDebug
		}
		z.log.Log(context.Background(), level, "zone transfer is not given", "from", from.String(), "why", why)
		_ = w.WriteMsg(z.signed(new(wire.Msg).SetRcode(r, rcode), key)) // the secondary asks again
	}
	q := r.Question[0]
	switch {
	case q.Qclass != wire.ClassINET || wire.CanonicalName(q.Name) != z.origin:
		refuse(wire.RcodeNotAuth, "refused", "it asks for another zone")
		return
	case !z.secondary(from, key):
		refuse(wire.RcodeRefused, "refused", "it is none of the secondaries, or does not sign with its key")
		return
	}

	v := z.perspective(from, nil)
	v.settle(z.look())
	records := z.copyFor(v.site)
	soa := records[0].(*wire.SOA)
	if q.Qtype == wire.TypeIXFR && (udp || !newer(soa.Serial, r)) {
		// It has this serial, or learns from the answer that it must come back over TCP.
		m := new(wire.Msg).SetReply(r)
		m.Authoritative, m.Answer = true, []wire.RR{soa}
		_ = w.WriteMsg(z.signed(m, key))
		return
	}
	if udp {
		refuse(wire.RcodeRefused, "refused", "a whole zone goes over TCP only")
		return
	}
	select {
	case h.transfers <- struct{}{}:
		defer func() { <-h.transfers }()
	default:
		refuse(wire.RcodeServerFailure, "busy", "too many at the same time")
		return
	}
	if err := z.send(w, r, append(records, soa)); err != nil {
		z.metrics.transfers.WithLabelValues("failed").Inc()
		z.log.Warn("zone transfer failed", "to", from.String(), telemetry.KeyErr, err)
		return
	}
	z.metrics.transfers.WithLabelValues("done").Inc()
	z.log.Info("zone transferred", "to", from.String(), "serial", soa.Serial, "records", len(records))
}

// secondary tells whether an address may copy the zone.
func (z *Zone) secondary(from netip.Addr, key string) bool {
	return slices.ContainsFunc(z.o.Secondaries, func(s Secondary) bool {
		return s.Addr.Addr() == from && (s.Key == "" || s.Key == key)
	})
}

// newer tells whether a serial is newer than the one that an IXFR brings (RFC 1982).
func newer(serial uint32, r *wire.Msg) bool {
	for _, rr := range r.Ns {
		if has, ok := rr.(*wire.SOA); ok {
			return int32(serial-has.Serial) > 0
		}
	}
	return true
}

// send writes records in messages of moderate size.
func (z *Zone) send(w wire.ResponseWriter, r *wire.Msg, records []wire.RR) error {
	const together = 100
	envelopes := make(chan *wire.Envelope, len(records)/together+1)
	for chunk := range slices.Chunk(records, together) {
		envelopes <- &wire.Envelope{RR: chunk}
	}
	close(envelopes)
	secrets := map[string]string{}
	for name, key := range z.o.Keys {
		secrets[name] = key.Secret
	}
	return (&wire.Transfer{TsigSecret: secrets}).Out(w, r, envelopes)
}

func (z *Zone) signed(m *wire.Msg, key string) *wire.Msg {
	if key != "" {
		m.SetTsig(key, z.o.Keys[key].Algorithm, 300, z.o.Now().Unix())
	}
	return m
}

// notifyAll watches for changes and tells each secondary, the first time when the zone comes up.
func (z *Zone) notifyAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var wakes []chan struct{}
	for _, s := range z.o.Secondaries {
		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		wakes = append(wakes, wake)
		wg.Go(func() { z.notifyOne(ctx, s, wake) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			z.look()
			z.serial() // a change is noticed even if nobody asks
		case <-z.changed:
			for _, wake := range wakes {
				select {
				case wake <- struct{}{}:
				default:
				}
			}
		}
	}
}

// notifyOne tells one secondary of changes, at most so often as is allowed; several changes are told as one.
func (z *Zone) notifyOne(ctx context.Context, s Secondary, wake <-chan struct{}) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		err := z.notify(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			z.metrics.notifies.WithLabelValues("failed").Inc()
			if !failing {
				z.log.Warn("a secondary does not take NOTIFY; it finds changes by itself within a minute",
					"secondary", s.Addr.String(), telemetry.KeyErr, err)
			}
		} else {
			z.metrics.notifies.WithLabelValues("done").Inc()
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(z.o.NotifyEvery):
		}
	}
}

func (z *Zone) notify(ctx context.Context, s Secondary) error {
	m := new(wire.Msg).SetNotify(z.origin)
	m.Answer = []wire.RR{z.soa()}
	client := &wire.Client{Timeout: 3 * time.Second}
	if s.Key != "" {
		client.TsigSecret = map[string]string{s.Key: z.o.Keys[s.Key].Secret}
	}
	var err error
	for range 3 {
		var answer *wire.Msg
		answer, _, err = client.ExchangeContext(ctx, z.signed(m.Copy(), s.Key), s.Addr.String())
		if ctx.Err() != nil {
			return err
		}
		if err == nil { // to ask again changes nothing
			return refusal(answer.Rcode)
		}
	}
	return err
}

// refusal is what a secondary means that answers a NOTIFY with this code.
func refusal(rcode int) error {
	if rcode == wire.RcodeSuccess {
		return nil
	}
	return fmt.Errorf("it answers %s: allow NOTIFY from this address there, and name this zone", wire.RcodeToString[rcode])
}
