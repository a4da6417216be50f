package agentroute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// This file asks DNS what an agent would ask it.

// Resolver asks a name server as an agent does: SRV records directly, addresses by the system's means.
type Resolver struct {
	Servers []string      // address:port of each, asked in turn until one answers; nil means those of /etc/resolv.conf, and the system for addresses
	Timeout time.Duration // of one question to one server; 0 means 5 s
}

// maxTargets bounds what one answer may add to a plan.
const maxTargets = 1000

// Resolve finds the targets of SRV names and the addresses of all targets. What cannot be found is noted where it is
// missing; only a resolver that cannot be used at all is an error.
func (p *Plan) Resolve(ctx context.Context, r Resolver) error {
	r.Timeout = cmp.Or(r.Timeout, 5*time.Second)
	if r.Servers == nil && p.usesSRV() {
		conf, err := wire.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(conf.Servers) == 0 {
			return fmt.Errorf("find a name server in /etc/resolv.conf (name one with --nameserver): %w", unnamed(err))
		}
		system := r
		for _, server := range conf.Servers {
			system.Servers = append(system.Servers, net.JoinHostPort(server, conf.Port))
		}
		return p.resolve(ctx, system, Resolver{Timeout: r.Timeout})
	}
	return p.resolve(ctx, r, r)
}

func unnamed(err error) error {
	if err == nil {
		return errors.New("it names none")
	}
	return err
}

func (p *Plan) resolve(ctx context.Context, srv, hosts Resolver) error {
	known := map[string]Target{}
	asked := map[string]found{} // services share names, and a server that does not answer is waited for once
	for i := range p.Services {
		for j := range p.Services[i].Steps {
			step := &p.Services[i].Steps[j]
			if step.By == "srv" {
				srv.ladder(ctx, step, asked)
			}
			for k := range step.Targets {
				t := &step.Targets[k]
				have, ok := known[t.Host]
				if !ok {
					have.Addresses, have.Error = hosts.addresses(ctx, t.Host)
					known[t.Host] = have
				}
				t.Addresses, t.Error = have.Addresses, have.Error
			}
		}
	}
	return ctx.Err()
}

// found is what a name server said to a question for SRV records.
type found struct {
	records []*wire.SRV
	err     error
}

// ladder fills a step with the records of the first of its names that has any, as an agent orders them: by priority, and
// within one priority at random, so here the likeliest comes first.
func (r Resolver) ladder(ctx context.Context, step *Step, asked map[string]found) {
	var failed []string
	for _, name := range step.Names {
		a, ok := asked[name]
		if !ok {
			a.records, a.err = r.srv(ctx, name)
			asked[name] = a
		}
		if a.err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", name, a.err))
			continue
		}
		records := slices.Clone(a.records)
		if len(records) == 0 {
			failed = append(failed, name+" has no records")
			continue
		}
		slices.SortStableFunc(records, func(a, b *wire.SRV) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight))
		})
		step.Targets = nil
		for _, s := range records {
			priority, weight := int(s.Priority), int(s.Weight)
			step.Targets = append(step.Targets, Target{
				Host: strings.TrimSuffix(s.Target, "."), Port: int(s.Port), Priority: &priority, Weight: &weight, Share: share(records, s),
			})
		}
		break
	}
	if failed != nil {
		step.Note = strings.TrimPrefix(step.Note+"; "+strings.Join(failed, "; "), "; ")
	}
}

// share is how often an agent begins with a record among those of its priority: it takes a weight n as 10n and 0 as 1.
func share(records []*wire.SRV, s *wire.SRV) string {
	tickets := func(s *wire.SRV) int { return max(10*int(s.Weight), 1) }
	sum := 0
	for _, other := range records {
		if other.Priority == s.Priority {
			sum += tickets(other)
		}
	}
	return fmt.Sprintf("%d%%", (100*tickets(s)+sum/2)/sum)
}

func (r Resolver) srv(ctx context.Context, name string) ([]*wire.SRV, error) {
	answer, err := r.ask(ctx, name, wire.TypeSRV)
	if err != nil {
		return nil, err
	}
	var out []*wire.SRV
	for _, rr := range answer {
		if s, ok := rr.(*wire.SRV); ok && len(out) < maxTargets {
			out = append(out, s)
		}
	}
	return out, nil
}

// errRefused is the answer of a server that has no business with a name.
var errRefused = errors.New("REFUSED")

// ask takes the answer of the first server that gives any.
func (r Resolver) ask(ctx context.Context, name string, qtype uint16) (answer []wire.RR, err error) {
	for _, server := range r.Servers {
		answer, err = r.askOne(ctx, server, name, qtype)
		if _, network := errors.AsType[net.Error](err); !network || ctx.Err() != nil {
			return answer, err
		}
	}
	return answer, err
}

func (r Resolver) askOne(ctx context.Context, server, name string, qtype uint16) ([]wire.RR, error) {
	m := new(wire.Msg).SetQuestion(wire.Fqdn(name), qtype)
	for _, network := range []string{"udp", "tcp"} {
		client := &wire.Client{Net: network, Timeout: r.Timeout}
		answer, _, err := client.ExchangeContext(ctx, m, server)
		switch {
		case err != nil:
			return nil, err
		case answer.Truncated && network == "udp":
			continue
		case answer.Rcode == wire.RcodeRefused:
			return nil, errRefused
		case answer.Rcode != wire.RcodeSuccess && answer.Rcode != wire.RcodeNameError:
			return nil, errors.New(wire.RcodeToString[answer.Rcode])
		}
		return answer.Answer, nil
	}
	return nil, errors.New("an answer that is cut off even over TCP")
}

// addresses finds those of a host, in the order in which the system gives them.
func (r Resolver) addresses(ctx context.Context, host string) (all []string, problem string) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []string{a.String()}, ""
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	if r.Servers != nil {
		for _, qtype := range []uint16{wire.TypeA, wire.TypeAAAA} {
			answer, err := r.ask(ctx, host, qtype)
			if errors.Is(err, errRefused) {
				return Resolver{Timeout: r.Timeout}.addresses(ctx, host)
			}
			if err != nil {
				return nil, err.Error()
			}
			for _, rr := range answer {
				switch a := rr.(type) {
				case *wire.A:
					all = append(all, a.A.String())
				case *wire.AAAA:
					all = append(all, a.AAAA.String())
				}
			}
		}
	} else {
		looked, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err.Error()
		}
		for _, a := range looked {
			all = append(all, a.Unmap().String())
		}
	}
	if len(all) == 0 {
		return nil, "has no address"
	}
	return all[:min(len(all), maxTargets)], ""
}
