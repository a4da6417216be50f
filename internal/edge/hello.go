package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// This file reads what a client says before anything is encrypted: the PROXY header of a balancer in front, and the name that the
// client asks for.

// helloMost is how long a client may take for its first words.
const helloMost = 10 * time.Second

// maxHello is the longest hello that is looked at; those of agents have some 300 bytes.
const maxHello = 16 << 10

// A rewound connection gives what was read of it once more.
type rewound struct {
	net.Conn

	again []byte
}

func (c *rewound) Read(p []byte) (int, error) {
	if len(c.again) > 0 {
		n := copy(p, c.again)
		c.again = c.again[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// peek reads a client's hello and returns the name that it asks for, and the bytes that were read.
func peek(ctx context.Context, conn net.Conn) (name string, read []byte, err error) {
	ear := &listening{from: conn}
	seen := errors.New("seen")
	found := false
	err = tls.Server(ear, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, found = strings.ToLower(strings.TrimSuffix(h.ServerName, ".")), true
			return nil, seen
		},
	}).HandshakeContext(ctx)
	if found {
		return name, ear.heard.Bytes(), nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("no TLS hello")
	}
	return "", ear.heard.Bytes(), err
}

// listening is a connection that only hears.
type listening struct {
	from  net.Conn
	heard bytes.Buffer
}

func (l *listening) Read(p []byte) (int, error) {
	room := maxHello - l.heard.Len()
	if room <= 0 {
		return 0, errors.New("the hello is too long")
	}
	n, err := l.from.Read(p[:min(len(p), room)])
	l.heard.Write(p[:n])
	return n, err
}

func (l *listening) Write(p []byte) (int, error)      { return len(p), nil } // the alert that follows seen
func (l *listening) Close() error                     { return nil }
func (l *listening) LocalAddr() net.Addr              { return l.from.LocalAddr() }
func (l *listening) RemoteAddr() net.Addr             { return l.from.RemoteAddr() }
func (l *listening) SetDeadline(time.Time) error      { return nil }
func (l *listening) SetReadDeadline(time.Time) error  { return nil }
func (l *listening) SetWriteDeadline(time.Time) error { return nil }

// fits tells whether a name is one of those that a pattern stands for: itself, or *.example.com for one label more.
func fits(pattern, name string) bool {
	pattern = strings.ToLower(strings.TrimSuffix(pattern, "."))
	if rest, wild := strings.CutPrefix(pattern, "*."); wild {
		_, above, dotted := strings.Cut(name, ".")
		return dotted && above == rest
	}
	return pattern == name
}
