package doctor

import (
	"context"
	"strings"
	"time"
)

// This file examines the operator's own NATS, as far as the member sees it.

const (
	natsRemedy = "see docs/sites.md, and the log of the member"
	slowAck    = time.Second // an acknowledgement that takes longer holds records up
)

func natsCarries(_ context.Context, x *exam, n *notes) {
	if x.status.err != nil || x.status.value.NATS == nil {
		return
	}
	s := *x.status.value.NATS
	since := s.Since.Local().Format(time.DateTime)
	remedy := s.Remedy
	if remedy == "" {
		remedy = natsRemedy
	}
	switch {
	case s.Server == "" && s.Problem == "":
		n.unknown("wait some seconds and look at troupe status", "it is being connected since %s", since)
		return
	case s.Server == "":
		n.warn(remedy, "it carries no records since %s, HTTPS carries all of them: %s", since, s.Problem)
		return
	case s.Problem != "":
		n.warn(remedy, "records of this member do not go through it, others fetch them over HTTPS: %s", s.Problem)
	case s.Lag > farBehind:
		n.warn("look at the NATS servers: nats server report jetstream", "%d records of this member wait to be published", s.Lag)
	}
	if s.Ack > slowAck {
		n.warn("look at the disks of the NATS servers and at the way to them", "the last acknowledgement took %v", s.Ack.Round(time.Millisecond))
	}
	if len(s.Refused) > 0 {
		n.warn("see who may publish to the subjects of this troupe: only its members should (docs/sites.md)", "messages were not taken: %s", strings.Join(s.Refused, "; "))
	}
	for _, stream := range s.Streams {
		if stream.Replicas < 2 {
			n.warn("start three NATS servers as a cluster, then: nats stream edit "+stream.Name+" --replicas 3", "the stream %s lies on one machine: what it has counts as no further copy", stream.Name)
		}
	}
	if n.well() {
		n.ok("%s carries %d of %d chains of others; %d records of this member wait, the last acknowledgement took %v", s.Server, s.Following, s.Chains, s.Lag, s.Ack.Round(time.Millisecond))
	}
}
