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
		{"fast compiles of very many", 2 + maxPatient, 10 * time.Millisecond, true, true},
		{"nothing was compiled yet", 2 + 1000, 0, true, false},
	} {
		p := &Pool{o: Options{Workers: 2, MaxQueue: 32}, slots: make(chan struct{}, 2), waiting: tt.waiting, average: tt.average}
		if hasty, patient := p.full(false), p.full(true); hasty != tt.hasty || patient != tt.patient {
			t.Errorf("%s: full for the hasty %v and for the patient %v, want %v and %v", tt.name, hasty, patient, tt.hasty, tt.patient)
		}
	}
}
