package bgp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"troupe/internal/atomicfile"
)

// This file writes what is announced into a file that bird includes, or that a script watches.

// stateFile is the way of mode file.
type stateFile struct {
	o    Options
	told Phase
	text string // as it was written
}

func (w *stateFile) start(context.Context) error { return nil }

func (w *stateFile) tell(ctx context.Context, p Phase) error {
	text := w.render(p)
	if err := atomicfile.Write(w.o.File, []byte(text), 0o644); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	w.told, w.text = p, text
	if w.o.Bird == "" {
		return nil
	}
	if err := configureBird(ctx, w.o.Bird); err != nil {
		return fmt.Errorf("%s is written, but bird did not read it: %w", w.o.File, err)
	}
	return nil
}

// render is a piece of a configuration of bird 2. Its first line is for scripts.
func (w *stateFile) render(p Phase) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# troupe: %s\n# Written by troupe edge, and replaced whenever this changes.\n", p)
	for _, family := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&b, "protocol static troupe_%s {\n\t%s;\n", family, family)
		for _, prefix := range w.o.Prefixes {
			if p != Silent && prefix.Addr().Is4() == (family == "ipv4") {
				fmt.Fprintf(&b, "\troute %v via \"lo\"%s;\n", prefix, w.attributes(p))
			}
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (w *stateFile) attributes(p Phase) string {
	pref := w.o.preference(p)
	var set []string
	if pref.MED > 0 {
		set = append(set, fmt.Sprintf("bgp_med = %d;", pref.MED))
	}
	for range pref.Prepend {
		set = append(set, fmt.Sprintf("bgp_path.prepend(%d);", w.o.ASN))
	}
	for _, c := range pref.Communities {
		set = append(set, "bgp_community.add(("+strings.ReplaceAll(c, ":", ", ")+"));")
	}
	if set == nil {
		return ""
	}
	return " { " + strings.Join(set, " ") + " }"
}

// watch looks whether the file is as it was written.
func (w *stateFile) watch(ctx context.Context, _ *Status) error {
	text, err := os.ReadFile(w.o.File)
	switch {
	case err == nil && string(text) == w.text, w.text == "":
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("state file: %w", err)
	}
	return w.tell(ctx, w.told) // somebody removed or changed it
}

func (w *stateFile) stop(context.Context) error { return nil }

// configureBird asks bird to read its configuration again, as birdc configure does.
func configureBird(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(tellMost)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	if err := birdAnswer(lines); err != nil { // its greeting
		return err
	}
	if _, err := fmt.Fprintln(conn, "configure"); err != nil {
		return err
	}
	return birdAnswer(lines)
}

// birdAnswer reads one answer: lines of a code of four digits, of which the last has a blank after it. Codes from 8000 are errors.
func birdAnswer(lines *bufio.Scanner) error {
	var all []string
	for lines.Scan() && len(all) < 1000 {
		line := lines.Text()
		if len(line) < 5 {
			continue
		}
		all = append(all, line[5:])
		if line[4] == ' ' && line[0] >= '0' && line[0] <= '9' {
			if line[0] >= '8' {
				return fmt.Errorf("bird says: %s", strings.Join(all, "; "))
			}
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("bird ended the conversation")
}
