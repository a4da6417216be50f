package endpoints

// This file compares what a client meets below HTTP's surface: bytes written on a TLS connection, and what comes back.

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// A dialogue writes bytes, piece by piece, and tells what it read after each. "HEAD" and "BODY" have their usual meaning.
type dialogue struct {
	name   string
	pieces []string
}

// wireDialogues are the exchanges. The recording of the real server has their answers in testdata/wire.txt.
func wireDialogues() []dialogue {
	const own = "/puppet/v3/facts/" + agentName + inEnv
	head := func(request string, header ...string) string {
		return request + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(header, ""), "\r\n") + "\r\n"
	}
	put := func(header ...string) string {
		return head("PUT "+own, append([]string{"Content-Type: application/json", "Accept: application/json"}, header...)...)
	}
	length := fmt.Sprint("Content-Length: ", len(facts))
	zipped := compressed(facts)
	node := "GET /puppet/v3/node/" + agentName + inEnv
	simple := "GET /status/v1/simple"
	return []dialogue{
		{name: "three requests on one connection", pieces: []string{head(simple), head(simple), head(simple)}},
		{name: "requests sent at once", pieces: []string{head(simple) + head(simple)}},
		{name: "Connection: close", pieces: []string{head(simple, "Connection: close"), head(simple)}},
		{name: "Connection: keep-alive", pieces: []string{head(simple, "Connection: keep-alive"), head(simple)}},
		{name: "HTTP/1.0", pieces: []string{"GET /status/v1/simple HTTP/1.0\r\nHost: localhost\r\n\r\n", head(simple)}},
		{name: "HTTP/1.0 with keep-alive", pieces: []string{"GET /status/v1/simple HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", head(simple)}},
		{name: "HTTP/1.0 without Host", pieces: []string{"GET /status/v1/simple HTTP/1.0\r\n\r\n"}},
		{name: "another Host than the name in the handshake", pieces: []string{"GET /status/v1/simple HTTP/1.1\r\nHost: elsewhere.example.test\r\n\r\n"}},
		{name: "HTTP/0.9", pieces: []string{"GET /status/v1/simple\r\n"}},
		{name: "HTTP/2.0", pieces: []string{"GET /status/v1/simple HTTP/2.0\r\nHost: localhost\r\n\r\n"}},
		{name: "no Host", pieces: []string{"GET /status/v1/simple HTTP/1.1\r\n\r\n"}},
		{name: "two Hosts", pieces: []string{head(simple, "Host: other")}},
		{name: "a method in lower case", pieces: []string{head("get /status/v1/simple")}},
		{name: "absolute URL", pieces: []string{head("GET https://localhost/status/v1/simple")}},
		{name: "an asterisk", pieces: []string{head("OPTIONS *")}},
		{name: "CONNECT", pieces: []string{head("CONNECT localhost:443")}},
		{name: "TRACE", pieces: []string{head("TRACE /status/v1/simple")}},
		{name: "a space in the URL", pieces: []string{head("GET /status/v1/simple x")}},
		{name: "lines end with LF alone", pieces: []string{"GET /status/v1/simple HTTP/1.1\nHost: localhost\n\n"}},
		{name: "a header without a colon", pieces: []string{head(simple, "nonsense")}},
		{name: "a header with a space before the colon", pieces: []string{head(simple, "Accept : text/plain")}},
		{name: "a folded header", pieces: []string{head(simple, "X-Long: a", " b")}},
		{name: "an empty line before the request", pieces: []string{"\r\n" + head(simple)}},
		{name: "HEAD", pieces: []string{head("HEAD /puppet/v3/node/" + agentName + inEnv), head(simple)}},
		{name: "an answer in JSON", pieces: []string{head(node, "Accept: application/json")}},
		{name: "a body with its length", pieces: []string{put(length) + facts, head(simple)}},
		{name: "a body in chunks", pieces: []string{put("Transfer-Encoding: chunked") + chunked(facts, 40), head(simple)}},
		{name: "a body in chunks with a trailer", pieces: []string{put("Transfer-Encoding: chunked", "Trailer: X-End") + strings.TrimSuffix(chunked(facts, 40), "\r\n") + "X-End: 1\r\n\r\n", head(simple)}},
		{name: "a body with length and chunks", pieces: []string{put("Transfer-Encoding: chunked", length) + chunked(facts, 40)}},
		{name: "a chunk of a wrong size", pieces: []string{put("Transfer-Encoding: chunked") + "zz\r\nabc\r\n0\r\n\r\n"}},
		{name: "two different lengths", pieces: []string{put(length, "Content-Length: 3") + facts}},
		{name: "a length that is no number", pieces: []string{put("Content-Length: x") + facts}},
		{name: "a negative length", pieces: []string{put("Content-Length: -1") + facts}},
		{name: "a PUT without length", pieces: []string{put(), head(simple)}},
		{name: "an unknown Transfer-Encoding", pieces: []string{put("Transfer-Encoding: nosuch") + facts}},
		{name: "Expect: 100-continue", pieces: []string{put(length, "Expect: 100-continue"), facts}},
		{name: "Expect: 100-continue, body at once", pieces: []string{put(length, "Expect: 100-continue") + facts}},
		{name: "Expect: 100-continue without certificate's right", pieces: []string{head("PUT /puppet/v3/facts/other.example.test"+inEnv, length, "Content-Type: application/json", "Expect: 100-continue"), facts}},
		{name: "an unknown expectation", pieces: []string{put(length, "Expect: nosuch") + facts}},
		{name: "gzip'd facts", pieces: []string{put(fmt.Sprint("Content-Length: ", len(zipped)), "Content-Encoding: gzip") + zipped, head(simple)}},
		{name: "facts that only say they are gzip'd", pieces: []string{put(length, "Content-Encoding: gzip") + facts}},
		{name: "facts in an unknown encoding", pieces: []string{put(length, "Content-Encoding: nosuch") + facts}},
		{name: "a URL of 4 kB", pieces: []string{head("GET /status/v1/simple?x=" + strings.Repeat("x", 4<<10))}},
		{name: "a URL of 30 kB", pieces: []string{head("GET /status/v1/simple?x=" + strings.Repeat("x", 30<<10))}},
		{name: "a URL of 300 kB", pieces: []string{head("GET /status/v1/simple?x=" + strings.Repeat("x", 300<<10))}},
		{name: "a header of 4 kB", pieces: []string{head(simple, "X-Long: "+strings.Repeat("x", 4<<10))}},
		{name: "a header of 30 kB", pieces: []string{head(simple, "X-Long: "+strings.Repeat("x", 30<<10))}},
		{name: "a header of 300 kB", pieces: []string{head(simple, "X-Long: "+strings.Repeat("x", 300<<10))}},
		{name: "300 headers", pieces: []string{head(simple, strings.Split(strings.Repeat("X-Many: x\n", 299)+"X-Many: x", "\n")...)}},
		{name: "bytes beyond ASCII in a header", pieces: []string{head(simple, "X-Name: \xc3\xa4\xff")}},
		{name: "a byte of zero in a header", pieces: []string{head(simple, "X-Name: a\x00b")}},
		{name: "bytes beyond ASCII in the URL", pieces: []string{head("GET /status/v1/simple?x=\xc3\xa4")}},
		{name: "Upgrade: h2c", pieces: []string{head(simple, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")}},
		{name: "no HTTP at all", pieces: []string{"\x16\x03\x01\x00\x05hello\r\n\r\n"}},
	}
}

func compressed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		panic(err) // memory takes everything
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func chunked(text string, size int) string {
	var b strings.Builder
	for len(text) > 0 {
		n := min(size, len(text))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, text[:n])
		text = text[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// quiet is how long a server may think before its silence counts as an answer.
const quiet = 30 * time.Second

// converse plays a dialogue on a connection of its own and tells the answers, one a line.
func (c *client) converse(d dialogue) string {
	c.t.Helper()
	pair := c.site.identities["agent"]
	conn, err := tls.Dial("tcp", c.addr, tlsConfig(c.site.roots, &pair))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	var told []string
	for _, piece := range d.pieces {
		method, _, _ := strings.Cut(strings.TrimLeft(piece, "\r\n"), " ")
		// The answer may come before all was sent; then writing fails, and reading tells why.
		_, _ = io.WriteString(conn, piece)
		times := max(1, strings.Count(piece, " HTTP/1.1\r\n"))
		for range times {
			told = append(told, hear(conn, answers, method))
		}
		if last := told[len(told)-1]; !strings.HasPrefix(last, "1") && !strings.HasPrefix(last, "2") && !strings.HasPrefix(last, "4") {
			break
		}
	}
	return strings.Join(told, "; ")
}

// hear reads one answer: its status, whether the connection is to be closed, and its body if it is short.
func hear(conn *tls.Conn, answers *bufio.Reader, method string) string {
	if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
		return err.Error()
	}
	answer, err := http.ReadResponse(answers, &http.Request{Method: method})
	if os.IsTimeout(err) {
		return "silence"
	}
	if err != nil {
		return "closed"
	}
	defer answer.Body.Close()
	told := strconv.Itoa(answer.StatusCode)
	if answer.Close {
		told += " close"
	}
	if answer.StatusCode >= 400 || answer.StatusCode < 200 {
		_, _ = io.Copy(io.Discard, answer.Body) // a refusal's words are compared elsewhere
		return told
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return told + " cut off"
	}
	return told + " " + strconv.Quote(string(body))
}
