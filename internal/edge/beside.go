package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// This file opens the ports that are not handed over at a takeover: the process before this one closes them when it was replaced, and
// until then this one waits, so that no such port is why a takeover fails.

// beside serves on an address until ctx ends, or until another process has taken over.
func (e *Edge) beside(ctx context.Context, what, address string, begun func(), serve func(context.Context, net.Listener) error) error {
	ctx, stop := e.untilReplaced(ctx)
	defer stop()
	return e.patiently(ctx, begun, func(ctx context.Context) error {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		begun()
		return serve(ctx, l)
	})
}

// untilReplaced is a context that ends when another process has taken over. What it returns is called in the end.
func (e *Edge) untilReplaced(ctx context.Context) (context.Context, func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-e.replaced:
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { stop(); <-ended }
}

// patiently runs what needs a port that the process before this one may still have: then it has begun as far as it can.
func (e *Edge) patiently(ctx context.Context, begun func(), run func(context.Context) error) error {
	const again = 100 * time.Millisecond
	for {
		err := run(ctx)
		if !e.o.Takeover || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		begun()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}
