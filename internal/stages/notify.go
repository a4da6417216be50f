package stages

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// This file speaks systemd's notify protocol (sd_notify(3)): ready, reloading,
// stopping and the watchdog. Without NOTIFY_SOCKET every call does nothing.

// A Notifier speaks to the service manager, if there is one.
type Notifier struct{ addr string }

// NewNotifier finds it by NOTIFY_SOCKET.
func NewNotifier() Notifier { return Notifier{os.Getenv("NOTIFY_SOCKET")} }

// Send tells systemd the state, such as "READY=1". A service manager that does
// not listen is no reason to stop serving, so the error is only for the log.
func (n Notifier) Send(state string) error {
	if n.addr == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.addr, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// RunWatchdog pets systemd's watchdog at half its interval for as long as
// healthy says yes; a member that is not healthy is restarted by systemd.
func (n Notifier) RunWatchdog(ctx context.Context, healthy func(context.Context) error) error {
	every := watchdogInterval()
	if n.addr == "" || every == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	const alive = "WATCHDOG=1"
	pet := alive
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			cctx, cancel := context.WithTimeout(ctx, every/4) // so that a slow answer is still in time
			err := healthy(cctx)
			cancel()
			state := pet
			if pet = alive; err != nil {
				state, pet = "STATUS="+err.Error(), alive+"\nSTATUS=" // the next pet takes the complaint back
			}
			if n.Send(state) != nil {
				continue // systemd decides what a missing pet means
			}
		}
	}
}

// watchdogInterval is WATCHDOG_USEC, if it is meant for this process.
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// MonotonicMicroseconds is what systemd compares a reload's begin with.
func MonotonicMicroseconds() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano() / 1000
}
