package troupetest

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The demo is what a newcomer sees first: it has to play to its end, and say by
// its exit code that every run did what it should.
func TestTheDemoPlaysToItsEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), "demo", "--once")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("troupe demo --once: %v\n%s", err, out)
	}
	for _, want := range []string{
		"requested", "Successfully signed certificate request for web1.demo", "Good evening", "the run went on at another member", "How long it took", "idempotent run", "Try next",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
}
