package ruby

import (
	"testing"
	"time"
)

// This file fills the queue on paper.

func TestThePatientWaitAsLongAsTheirAgentsDo(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waiting int
		average time.Duration
		hasty   bool // is refused
		patient bool // is refused
	}{
		{"an idle pool", 0, time.Minute, false, false},
		{"a worker is free and nobody waits but the one that starts", 33, time.Second, false, false},
		{"the queue is full", 34, time.Second, true, false},
		{"seven minutes of work", 2 + 2*7*60, time.Second, true, false},
		{"nine minutes of work", 2 + 2*9*60, time.Second, true, true},
		{"nine minutes of work, but a queue that is not full", 20, time.Minute, false, false},
		{"fast compiles of very many", 2 + maxWaiting, 10 * time.Millisecond, true, true},
		{"nothing was compiled yet", 2 + 1000, 0, true, false},
	} {
		p := &Pool{o: Options{Workers: 2, MaxQueue: 32}, slots: make(chan struct{}, 2), waiting: tt.waiting, average: tt.average}
		if hasty, patient := p.full(false), p.full(true); hasty != tt.hasty || patient != tt.patient {
			t.Errorf("%s: full for the hasty %v and for the patient %v, want %v and %v", tt.name, hasty, patient, tt.hasty, tt.patient)
		}
	}
}

func TestEverybodyWaitsSomeSeconds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		max     int // what the operator says
		average time.Duration
		want    int
	}{
		{"nothing was compiled yet", 0, 0, 133},
		{"small catalogs", 0, 20 * time.Millisecond, 2000},
		{"tiny ones", 0, time.Millisecond, maxWaiting},
		{"large ones", 0, 5 * time.Second, 32},
		{"as the operator says", 7, 20 * time.Millisecond, 7},
	} {
		p := &Pool{o: Options{Workers: 2, MaxQueue: tt.max}, slots: make(chan struct{}, 2), average: tt.average}
		if got := p.limit(); got != tt.want {
			t.Errorf("%s: %d may wait, want %d", tt.name, got, tt.want)
		}
		p.waiting = tt.want + 1
		if p.full(false) {
			t.Errorf("%s: full with one place left", tt.name)
		}
		if p.waiting++; !p.full(false) {
			t.Errorf("%s: not full", tt.name)
		}
	}
}
