package demo

import (
	"bytes"
	"io"
)

// This file sets the output of other programs apart from the demo's own words.

// indent writes each line behind a bar. A line without its end waits for it.
type indent struct {
	w    io.Writer
	rest []byte
}

func (i *indent) Write(b []byte) (int, error) {
	i.rest = append(i.rest, b...)
	for {
		line, after, found := bytes.Cut(i.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		i.rest = after
		if _, err := i.w.Write([]byte("   │ " + string(line) + "\n")); err != nil {
			return len(b), err
		}
	}
}
