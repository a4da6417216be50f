package troupetest

// This file turns the output of an agent's --http_debug into the requests that it sent and the answers that it got.

import (
	"bufio"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Exchange is one request and its answer, as recorded in testdata.
type Exchange struct {
	Name           string   `json:"name,omitempty"`
	As             string   `json:"as,omitempty"` // whose certificate: "agent", "server", "" for none
	Connection     int      `json:"connection,omitempty"`
	Method         string   `json:"method"`
	Target         string   `json:"target"`
	Header         []string `json:"header,omitempty"` // in the order sent
	Body           string   `json:"body,omitempty"`
	Status         int      `json:"status"`
	ResponseHeader []string `json:"response_header,omitempty"`
	ResponseBody   string   `json:"response_body,omitempty"`
}

// rubyString is what Net::HTTP's debug output prints: a direction and a string as String#dump writes it.
var rubyString = regexp.MustCompile(`^(<-|->) (".*")$`)

// ParseHTTPDebug reads the exchanges from the output of `puppet agent --http_debug`. Connections count from 1 in the
// order in which they were opened. Bodies of answers are left out: they may be compressed.
func ParseHTTPDebug(output string) ([]Exchange, error) {
	var found []Exchange
	connection, body := 0, false

	scan := bufio.NewScanner(strings.NewReader(output))
	scan.Buffer(nil, 64<<20)
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "opening connection to ") {
			connection++
			continue
		}
		m := rubyString.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		text, err := unquoteRuby(m[2])
		if err != nil {
			return nil, fmt.Errorf("%.80s: %w", line, err)
		}

		switch {
		case m[1] == "<-" && !body:
			head, rest, _ := strings.Cut(text, "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			words := strings.Split(lines[0], " ")
			if len(words) != 3 || words[2] != "HTTP/1.1" {
				return nil, fmt.Errorf("not a request line: %.200q", lines[0])
			}
			found = append(found, Exchange{
				Connection: connection, Method: words[0], Target: words[1], Header: lines[1:], Body: rest,
			})
			body = strings.Contains(strings.ToLower(head), "\r\ncontent-length: ")
		case m[1] == "<-":
			found[len(found)-1].Body += text
		case len(found) == 0:
			return nil, fmt.Errorf("an answer before the first request: %.200q", text)
		default:
			body = false
			found[len(found)-1].readAnswer(text)
		}
	}
	return found, scan.Err()
}

// readAnswer takes one line of the answer's head; everything after the first line without a colon is body.
func (e *Exchange) readAnswer(text string) {
	text = strings.TrimSuffix(text, "\r\n")
	if status, ok := strings.CutPrefix(text, "HTTP/1.1 "); ok && e.Status == 0 {
		e.Status, _ = strconv.Atoi(status[:3])
		return
	}
	if name, _, ok := strings.Cut(text, ": "); ok && headerName.MatchString(name) && e.ResponseBody == "" {
		e.ResponseHeader = append(e.ResponseHeader, text)
		return
	}
	e.ResponseBody = "(not kept)"
}

var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

// unquoteRuby undoes String#dump. Its escapes are those of Go, but for \#, \e and bytes in \x form, which Go reads too.
func unquoteRuby(quoted string) (string, error) {
	return strconv.Unquote(rubyOnly.ReplaceAllStringFunc(quoted, func(escape string) string {
		switch escape {
		case `\#`:
			return `#`
		case `\e`:
			return `\x1b`
		default:
			return escape
		}
	}))
}

// rubyOnly matches every escape sequence, so that the one after an escaped backslash is not mistaken for its start.
var rubyOnly = regexp.MustCompile(`\\.`)
