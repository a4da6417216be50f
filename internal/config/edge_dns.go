package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// This file reads what DNS may be told to find out by itself: weights and the order of sites.

// EdgeWeight is how much more than others an edge of a site gets; 0 is the default.
type EdgeWeight int

// WeightAuto has a weight follow what the edge can still take.
const WeightAuto EdgeWeight = -1

const maxEdgeWeight = 10_000

// UnmarshalYAML reads it.
func (w *EdgeWeight) UnmarshalYAML(text []byte) error {
	word := unquoted(text)
	if word == "auto" {
		*w = WeightAuto
		return nil
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || n > maxEdgeWeight {
		return fmt.Errorf("a weight is a number from 0 to %d, or auto; not %q", maxEdgeWeight, word)
	}
	*w = EdgeWeight(n)
	return nil
}

// MarshalYAML writes it.
func (w EdgeWeight) MarshalYAML() ([]byte, error) {
	if w == WeightAuto {
		return []byte("auto"), nil
	}
	return strconv.AppendInt(nil, int64(w), 10), nil
}

// EdgeOrder are the other sites, the nearest first. Measured has round-trip times decide.
type EdgeOrder struct {
	Measured bool     `json:"measured,omitempty"`
	Sites    []string `json:"sites,omitempty"`
}

// UnmarshalYAML reads a list, or the word measured.
func (o *EdgeOrder) UnmarshalYAML(text []byte) error {
	if unquoted(text) == "measured" {
		*o = EdgeOrder{Measured: true}
		return nil
	}
	if err := yaml.Unmarshal(text, &o.Sites); err != nil {
		return errors.New("an order is a list of sites, or the word measured")
	}
	return nil
}

// MarshalYAML writes it.
func (o EdgeOrder) MarshalYAML() ([]byte, error) {
	if o.Measured {
		return []byte("measured"), nil
	}
	return yaml.Marshal(o.Sites)
}

// IsZero leaves an order out of the file that says nothing.
func (o EdgeOrder) IsZero() bool { return !o.Measured && len(o.Sites) == 0 }

func unquoted(text []byte) string { return strings.Trim(strings.TrimSpace(string(text)), `"'`) }
