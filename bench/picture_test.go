//go:build bench

package bench

// This file draws: one panel under another, a line in each, dark on white.

import (
	"fmt"
	"html"
	"math"
	"os"
	"strings"
	"testing"
)

// panel is one curve. The panels of a picture share what x means.
type panel struct {
	title string
	x, y  []float64
	dots  bool // mark the points and write their values
}

// picture is a set of panels over the same axis.
type picture struct {
	title, axis string
	logarithmic bool // x
	panels      []panel
}

const (
	pictureWidth, panelHeight = 860, 170
	left, right, top, bottom  = 90, 30, 34, 30
)

func (p picture) write(t *testing.T, file string) {
	t.Helper()
	if testing.Short() {
		file = t.TempDir() + "/" + file
	}
	if err := os.WriteFile(file, []byte(p.svg()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p picture) svg() string {
	height := 50 + len(p.panels)*panelHeight + 30
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#222">`+"\n",
		pictureWidth, height, pictureWidth, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="%d" y="28" font-size="16" font-weight="bold">%s</text>`+"\n", left, html.EscapeString(p.title))
	for i, one := range p.panels {
		p.draw(&b, one, 50+float64(i*panelHeight))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n</svg>\n", (left+pictureWidth-right)/2, height-10, html.EscapeString(p.axis))
	return b.String()
}

// draw puts a panel below y0. The vertical axis begins at zero.
func (p picture) draw(b *strings.Builder, one panel, y0 float64) {
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, x := range one.x {
		lowest, highest = min(lowest, p.scale(x)), max(highest, p.scale(x))
	}
	most := 0.0
	for _, y := range one.y {
		most = max(most, y)
	}
	most = roundUp(most)
	width, height := float64(pictureWidth-left-right), float64(panelHeight-top-bottom)
	at := func(x, y float64) (float64, float64) {
		return left + width*(p.scale(x)-lowest)/max(highest-lowest, 1e-9), y0 + top + height*(1-y/most)
	}

	fmt.Fprintf(b, `<text x="%d" y="%.0f" font-weight="bold">%s</text>`+"\n", left, y0+20, html.EscapeString(one.title))
	for _, part := range []float64{0, 0.5, 1} {
		y := y0 + top + height*(1-part)
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ccc"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, pictureWidth-right, y, y, left-8, y+4, number(most*part))
	}
	for _, x := range p.ticks(one.x) {
		px, _ := at(x, 0)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", px, y0+top+height+16, plain(x))
	}
	b.WriteString(`<polyline fill="none" stroke="#15599c" stroke-width="1.6" points="`)
	for i := range one.x {
		px, py := at(one.x[i], one.y[i])
		fmt.Fprintf(b, "%.1f,%.1f ", px, py)
	}
	b.WriteString(`"/>` + "\n")
	if !one.dots {
		return
	}
	for i := range one.x {
		px, py := at(one.x[i], one.y[i])
		anchor := "middle"
		if i == 0 {
			anchor = "start"
		} else if i == len(one.x)-1 {
			anchor = "end"
		}
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="#15599c"/><text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", px, py, px, py-8, anchor, number(one.y[i]))
	}
}

func (p picture) scale(x float64) float64 {
	if p.logarithmic {
		return math.Log10(max(x, 1e-9))
	}
	return x
}

// ticks are the points themselves if they are few, else seven over the range.
func (p picture) ticks(x []float64) []float64 {
	if len(x) <= 8 {
		return x
	}
	var list []float64
	for i := range 7 {
		list = append(list, x[0]+(x[len(x)-1]-x[0])*float64(i)/6)
	}
	return list
}

// roundUp returns the next of 1, 2, 2.5, 5 times a power of ten, with room for a label.
func roundUp(x float64) float64 {
	if x <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, step := range []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8} {
		if x*1.12 <= step*power {
			return step * power
		}
	}
	return 12 * power
}

// plain writes a number of the horizontal axis.
func plain(x float64) string {
	if x == math.Trunc(x) {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}
