package server

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPartIsAskedOnceASecondWhileItIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p probe
		asked, broken := 0, errors.New("broken")
		var state error
		part := func(context.Context) error { asked++; return state }
		for i, step := range []struct {
			wait  time.Duration
			state error
			want  error
			asked int
		}{
			{0, nil, nil, 1},
			{0, broken, nil, 1}, // known to be well for a moment
			{believed, broken, broken, 2},
			{0, broken, broken, 3}, // a failure is asked about again
			{0, nil, nil, 4},
			{believed - 1, broken, nil, 4},
			{1, broken, broken, 5},
		} {
			time.Sleep(step.wait)
			state = step.state
			if err := p.ask(t.Context(), part); !errors.Is(err, step.want) || asked != step.asked {
				t.Errorf("step %d: %v after %d questions, want %v after %d", i, err, asked, step.want, step.asked)
			}
		}
	})
}
