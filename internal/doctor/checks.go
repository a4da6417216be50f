package doctor

import "context"

// This file lists what is looked at.

// A check looks at one thing and writes down what it finds; nothing, where the thing is not there.
type check struct {
	name string
	look func(ctx context.Context, x *exam, n *notes)
}

func checks() []check {
	return []check{
		{"configuration", configuration},
		{"member", running},
		{"service", service},
		{"clock", clock},
		{"disk", disk},
		{"disk speed", diskSpeed},
		{"files", files},
		{"agents' port", agentsPort},
		{"member port", memberPort},
		{"names", names},
		{"certificates", certificates},
		{"revocation lists", lists},
		{"keys", keys},
		{"agents", agents},
		{"ruby", rubyEngine},
		{"commands", commands},
		{"environments", environments},
		{"journal", journalWhole},
		{"backup", backups},
		{"members", members},
		{"NATS", natsCarries},
		{"open files", openFiles},
		{"watched folders", watches},
		{"memory", memory},
	}
}
