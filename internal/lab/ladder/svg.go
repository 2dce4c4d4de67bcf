package ladder

import (
	"fmt"
	"html"
	"strings"
)

// SVG draws the diagram as one self-contained picture, for light and dark pages.
func (d *Diagram) SVG() string {
	const (
		left, lane, top, step = 110, 150, 70, 20
		textWidth             = 620
	)
	lines, rest := d.forPeople()
	zero := d.zero(lines)
	x := func(i int) int { return left + lane/2 + i*lane }
	w := left + lane*len(d.Nodes) + textWidth
	h := top + step*(len(lines)+2)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="ui-monospace, monospace" font-size="12" role="img">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(d.Title))
	b.WriteString(`<style>
 :root { color-scheme: light dark } svg { background: Canvas } text { fill: CanvasText } .lane { stroke: GrayText; stroke-dasharray: 2 3 }
 .mh { stroke: #0b62c4 } .dhcp { stroke: #b0560a } .nd { stroke: #1d7d46 } .data { stroke: GrayText; stroke-width: 3 } .note { fill: #a3106b; font-style: italic } line { stroke: CanvasText; stroke-width: 1.4 }
</style>
<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
`)
	fmt.Fprintf(&b, `<text x="10" y="22" font-size="15" font-weight="bold">%s</text>`+"\n", html.EscapeString(d.Title))
	for i, n := range d.Nodes {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" font-weight="bold">%s</text><line class="lane" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n",
			x(i), top-16, html.EscapeString(n.Name), x(i), top-8, x(i), h-step)
	}
	n := 0
	for i, l := range lines {
		y := top + step*(i+1)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%.4f s</text>`, left-10, y, l.At.Sub(zero).Seconds())
		tx := left + lane*len(d.Nodes)
		if l.From < 0 {
			fmt.Fprintf(&b, `<text class="note" x="%d" y="%d">%s</text>`+"\n", tx, y, html.EscapeString(l.Text))
			continue
		}
		n++
		fmt.Fprintf(&b, `<line class="%s" x1="%d" y1="%d" x2="%d" y2="%d" marker-end="url(#a)"/>`, class(l.Frame.Kind), x(l.From), y-4, x(l.To), y-4)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d. %s</text>`+"\n", tx, y, n, html.EscapeString(l.Text))
	}
	if rest > 0 {
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d further lines are in the capture.</text>`+"\n", left, h-6, rest)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func class(kind string) string {
	switch kind {
	case "PBU", "PBA", "HEARTBEAT", "MH":
		return "mh"
	case "DHCP", "ARP":
		return "dhcp"
	case "DATA":
		return "data"
	}
	return "nd"
}
