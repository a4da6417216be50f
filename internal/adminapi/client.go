package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"troupe/internal/fault"
)

// This file is the client side: how a command on the member's own machine asks
// the member. The socket's file mode is the permission.

// SocketPath is where a member with this data folder listens for its operator.
func SocketPath(data string) string { return filepath.Join(data, "admin.sock") }

// ErrNotRunning tells that no member serves the data folder now.
var ErrNotRunning = errors.New("no troupe server is running on this data folder")

// Client asks one member. Use Dial.
type Client struct{ http *http.Client }

// Dial returns a client of the member that serves the data folder. It returns
// ErrNotRunning when nobody listens there.
func Dial(ctx context.Context, data string) (*Client, error) {
	socket := SocketPath(data)
	var d net.Dialer
	dctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(dctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNotRunning
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: no permission to speak to the member; run this as the user of the server (try: sudo %s)", socket, filepath.Base(os.Args[0]))
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the member: %w", err)
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	return &Client{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // a socket costs nothing, and a command leaves no connection behind
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
	}}}, nil
}

// callTimeout bounds one request. The longest are an export of 100,000
// certificates and a compile that hangs until its deadline.
const callTimeout = 15 * time.Minute

// call sends one request and decodes the answer into out (unless nil). Errors
// keep their fault kind across the socket.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := encode(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://member"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the member: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeFault(resp)
	}
	if out == nil {
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw, err = io.ReadAll(resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the member's answer: %w", err)
	}
	return nil
}

func decodeFault(resp *http.Response) error {
	var e wireError
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil || e.Message == "" {
		return fmt.Errorf("the member answered %s", resp.Status)
	}
	return fault.New(e.Kind, "%s", e.Message)
}
