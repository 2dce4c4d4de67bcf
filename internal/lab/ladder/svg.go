package ladder

import (
	"fmt"
	"html"
	"strings"
	"time"
	"unicode/utf8"
)

// Measures of a picture, in pixels.
const (
	svgTimes  = 104 // column of times and numbers, left of the lanes
	svgLane   = 172 // from lane to lane
	svgEdge   = 70  // right of the last lane
	svgLeast  = 660 // width of the legend
	svgRow    = 30  // a message: its text above its arrow
	svgHead   = 44  // a row of names
	svgTop    = 72  // title and legend
	svgChar   = 6.6 // widest average of a character at 12 px
	svgLabel  = 110 // longest text, in characters; the whole stands in the tooltip
	svgRepeat = 40  // rows after which the names stand again
	svgPause  = 200 * time.Millisecond
)

// svgStyle has no system colours and no inherited marker colours: not every viewer knows them.
const svgStyle = `<style>
 text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #1c2330; stroke: #fff; stroke-width: 4px; stroke-linejoin: round; paint-order: stroke }
 .bg { fill: #fff } .lane { stroke: #c3c9d4; stroke-width: 1.5 } .box { fill: #eef1f6; stroke: #9aa4b5 } .band { fill: #fbeaf3 } .rule { stroke: #e3e7ee }
 .name { font-weight: 600; stroke: none } .title { font-size: 17px; font-weight: 600; stroke: none } .time, .no { fill: #6a7385; font-size: 11px } .note { fill: #96105f; font-style: italic; stroke: none }
 line.mh { stroke: #0b5fbf } .head.mh { fill: #0b5fbf } line.dhcp { stroke: #b3560a } .head.dhcp { fill: #b3560a } line.nd { stroke: #1b7a43 } .head.nd { fill: #1b7a43 }
 line.data { stroke: #6b7280; stroke-dasharray: 5 3 } .head.data { fill: #6b7280 } line.mh, line.dhcp, line.nd, line.data { stroke-width: 1.6 } .pipe { fill: #6b7280; opacity: .22 }
 @media (prefers-color-scheme: dark) {
  text { fill: #e2e6ee; stroke: #15181e } .bg { fill: #15181e } .lane { stroke: #434b59 } .box { fill: #262c36; stroke: #566072 } .band { fill: #3a1a2d } .rule { stroke: #2a303b }
  .time, .no { fill: #97a1b3 } .note { fill: #f09cca }
  line.mh { stroke: #6cb0ff } .head.mh { fill: #6cb0ff } line.dhcp { stroke: #f0a35e } .head.dhcp { fill: #f0a35e } line.nd { stroke: #6fd39a } .head.nd { fill: #6fd39a } line.data { stroke: #a4adbc } .head.data, .pipe { fill: #a4adbc }
 }
</style>
`

// svg writes one picture.
type svg struct {
	strings.Builder
	d     *Diagram
	width int
}

// SVG draws the diagram as one self-contained picture for light and dark pages: the text of a message stands on its arrow.
func (d *Diagram) SVG() string {
	lines, rest := d.forPeople()
	zero := d.zero(lines)
	s := &svg{d: d, width: svgTimes + svgLane*max(0, len(d.Nodes)-1) + 2*svgEdge}
	for _, l := range lines {
		s.width = max(s.width, svgTimes+textWidth(l.Text)+24)
	}
	s.width = max(s.width, textWidth(d.Title)*3/2+32, svgLeast)

	// The body first: only then is the height known.
	y, rows, last := s.names(svgTop), 0, zero
	n := 0
	for _, l := range lines {
		if rows == svgRepeat {
			y, rows = s.names(y+14), 0
		}
		rows++
		if l.At.Sub(last) > svgPause {
			y += 12
			fmt.Fprintf(s, `<line class="rule" x1="12" y1="%d" x2="%d" y2="%d"/>`+"\n", y, s.width-12, y)
		}
		last = l.At
		y += svgRow
		if l.From >= 0 {
			n++
		}
		s.row(&l, y, n, l.At.Sub(zero))
	}
	y += svgRow
	if rest > 0 {
		s.text("time", 14, y, "start", fmt.Sprintf("%d further lines are in the capture.", rest))
		y += 12
	}
	return s.page(y)
}

// page puts head, lanes and body together.
func (s *svg) page(height int) string {
	body := s.String()
	out := &svg{d: s.d, width: s.width}
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", s.width, height, s.width, height)
	fmt.Fprintf(out, "<title>%s</title>\n", html.EscapeString(s.d.Title))
	out.WriteString(svgStyle)
	fmt.Fprintf(out, `<rect class="bg" width="%d" height="%d"/>`+"\n", s.width, height)
	out.text("title", 14, 28, "start", s.d.Title)
	x := 14
	for _, k := range []struct{ class, text string }{{"mh", "Mobility Header"}, {"nd", "neighbour discovery, MLD"}, {"dhcp", "DHCP, ARP"}, {"data", "data"}, {"pipe", "in a tunnel"}} {
		if k.class == "pipe" {
			fmt.Fprintf(out, `<rect class="pipe" x="%d" y="45" width="24" height="8" rx="4"/>`, x)
		} else {
			fmt.Fprintf(out, `<line class="%s" x1="%d" y1="49" x2="%d" y2="49"/>`, k.class, x, x+24)
		}
		out.text("time", x+30, 53, "start", k.text)
		x += 30 + textWidth(k.text) + 14
	}
	for i := range s.d.Nodes {
		fmt.Fprintf(out, `<line class="lane" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", laneX(i), svgTop+svgHead/2, laneX(i), height-12)
	}
	out.WriteString(body)
	out.WriteString("</svg>\n")
	return out.String()
}

// names writes a row of lane names and returns where it ends.
func (s *svg) names(y int) int {
	for i, n := range s.d.Nodes {
		w := max(56, textWidth(n.Name)+20)
		fmt.Fprintf(s, `<rect class="box" x="%d" y="%d" width="%d" height="24" rx="5"/>`, laneX(i)-w/2, y+8, w)
		s.text("name", laneX(i), y+24, "middle", n.Name)
	}
	return y + svgHead
}

// row writes a message or a note whose arrow is at y.
func (s *svg) row(l *Line, y, n int, at time.Duration) {
	s.text("time", 66, y, "end", fmt.Sprintf("%.4f s", at.Seconds()))
	if l.From < 0 {
		fmt.Fprintf(s, `<rect class="band" x="%d" y="%d" width="%d" height="20" rx="3"/>`, svgTimes, y-14, s.width-svgTimes-12)
		s.text("note", svgTimes+10, y, "start", l.Text)
		return
	}
	s.text("no", svgTimes-6, y, "end", fmt.Sprint(n))
	class, from, to := class(l.Frame.Kind), laneX(l.From), laneX(l.To)
	lo, hi := min(from, to), max(from, to)
	if l.Frame.Kind == "DATA" && l.Frame.Tunnel {
		fmt.Fprintf(s, `<rect class="pipe" x="%d" y="%d" width="%d" height="8" rx="4"/>`, lo+4, y-4, hi-lo-8)
	}
	tip := 9
	if from > to {
		tip = -9
	}
	fmt.Fprintf(s, `<line class="%s" x1="%d" y1="%d" x2="%d" y2="%d"/><path class="head %s" d="M%d %dl%d -4.5v9z"/>`, class, from, y, to-tip, y, class, to, y, -tip)
	// On the arrow if it fits, else from its left end on, and never past the edge.
	w, x := textWidth(l.Text), lo+10
	if w < hi-lo-20 {
		x = (lo + hi - w) / 2
	}
	s.text("", max(svgTimes+4, min(x, s.width-w-12)), y-7, "start", l.Text)
}

func (s *svg) text(class string, x, y int, anchor, text string) {
	if class != "" {
		class = fmt.Sprintf(` class="%s"`, class)
	}
	if anchor != "start" {
		anchor = fmt.Sprintf(` text-anchor="%s"`, anchor)
	} else {
		anchor = ""
	}
	tip := ""
	if utf8.RuneCountInString(text) > svgLabel {
		tip = "<title>" + html.EscapeString(text) + "</title>"
		text = string([]rune(text)[:svgLabel-1]) + "…"
	}
	fmt.Fprintf(s, `<text%s x="%d" y="%d"%s>%s%s</text>`+"\n", class, x, y, anchor, html.EscapeString(text), tip)
}

func laneX(i int) int { return svgTimes + svgEdge + i*svgLane }

// textWidth is what a text takes at most.
func textWidth(text string) int {
	return int(float64(min(utf8.RuneCountInString(text), svgLabel))*svgChar) + 1
}

func class(kind string) string {
	switch kind {
	case "PBU", "PBA", "BU", "BA", "ESP", "HEARTBEAT", "MH", "ECHO", "KEEPALIVE":
		return "mh"
	case "DHCP", "ARP":
		return "dhcp"
	case "DATA":
		return "data"
	}
	return "nd"
}
