package bench

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/way"
)

// Measures of a picture, in pixels.
const (
	svgWidth  = 860
	svgNames  = 170 // column of names
	svgValues = 190 // column of numbers
	svgRow    = 22
	svgTop    = 78
	svgBottom = 34
)

// svgStyle has no system colours: not every viewer knows them.
const svgStyle = `<style>
 text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #1c2330 } .title { font-size: 16px; font-weight: 600 } .sub, .tick { fill: #6a7385; font-size: 11px }
 .bg { fill: #fff } .grid { stroke: #e3e7ee } .base { stroke: #6a7385; stroke-dasharray: 4 3 } .goal { stroke: #96105f; stroke-width: 1.5 } .whisker { stroke: #1c2330; stroke-width: 1.4 }
 .ref { fill: #9aa4b5 } .user { fill: #b3560a } .ebpf { fill: #0b5fbf } .clsact { fill: #1b7a43 } .line { fill: none; stroke-width: 2 } .line.ref { stroke: #9aa4b5; fill: none } .line.user { stroke: #b3560a; fill: none } .line.ebpf { stroke: #0b5fbf; fill: none }
 @media (prefers-color-scheme: dark) {
  text { fill: #e2e6ee } .bg { fill: #15181e } .sub, .tick { fill: #97a1b3 } .grid { stroke: #2a303b } .base { stroke: #97a1b3 } .goal { stroke: #f09cca } .whisker { stroke: #e2e6ee }
  .ref { fill: #6b7585 } .user { fill: #f0a35e } .ebpf { fill: #6cb0ff } .clsact { fill: #6fd39a } .line.ref { stroke: #97a1b3 } .line.user { stroke: #f0a35e } .line.ebpf { stroke: #6cb0ff }
 }
</style>
`

// bar of a chart.
type bar struct {
	name, class string
	i           stats.Interval
	goal        float64 // 0 = none
}

func classOf(w way.Way) string {
	if w.Kedge() {
		return w.Kind
	}
	return "ref"
}

// Pictures are the charts of a report by file name.
func (r *Report) Pictures() map[string]string {
	out := map[string]string{}
	for _, c := range r.Columns {
		if c.Name == colMany {
			if s := r.scale(c); s != "" {
				out["sessions.svg"] = s
			}
			continue
		}
		if !isTCP(c.Name) && c.Unit != "Mpps" {
			continue
		}
		for base, against := range map[string]string{way.Plain: "plain routing", way.WireGuard: "wireguard-go"} {
			var bars []bar
			for _, w := range r.Ways {
				i, ok := r.ratio(c.Name, w.Name(), base)
				if !ok || base == way.WireGuard && w.Kind != way.User { // the others are beside plain routing
					continue
				}
				bars = append(bars, bar{w.Name(), classOf(w), i, r.goal(c.Name, w.Name(), base)})
			}
			if len(bars) > 0 {
				out[c.Name+"-"+base+".svg"] = bars2svg(c.Text+" / "+against, r.Describe(), bars)
			}
		}
	}
	return out
}

// goal is the target of a ratio, 0 if it has none.
func (r *Report) goal(column, way, base string) float64 {
	for _, j := range r.Judgements {
		if j.Column == column && j.Way == way && j.Base == base {
			return j.At
		}
	}
	return 0
}

func svgHead(b *strings.Builder, height int, title, sub string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		svgWidth, height, svgWidth, height, html.EscapeString(title))
	b.WriteString(svgStyle)
	fmt.Fprintf(b, `<rect class="bg" width="%d" height="%d"/>`+"\n", svgWidth, height)
	fmt.Fprintf(b, `<text class="title" x="14" y="26">%s</text>`+"\n", html.EscapeString(title))
	for i, line := range wrap(sub, 130) {
		fmt.Fprintf(b, `<text class="sub" x="14" y="%d">%s</text>`+"\n", 44+14*i, html.EscapeString(line))
	}
}

// wrap breaks a text between words.
func wrap(s string, width int) (lines []string) {
	for _, word := range strings.Fields(s) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(word) <= width {
			lines[n-1] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}

// step is a round distance of ticks, so that there are four to ten up to top.
func step(top float64) float64 {
	s := math.Pow(10, math.Floor(math.Log10(top)))
	for _, f := range []float64{1, 2, 5} {
		if n := top / (s / 10 * f); n <= 10 {
			return s / 10 * f
		}
	}
	return s
}

// bars2svg draws ratios with their intervals.
func bars2svg(title, sub string, bars []bar) string {
	top := 1.1
	for _, x := range bars {
		top = max(top, x.i.Median*1.15, x.goal*1.05)
	}
	x := func(v float64) float64 { return svgNames + min(v, top)/top*(svgWidth-svgNames-svgValues) }
	height := svgTop + svgRow*len(bars) + svgBottom
	var b strings.Builder
	svgHead(&b, height, title, sub)
	for v := 0.0; v <= top; v += step(top) {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x(v), svgTop-6, x(v), height-svgBottom+4, x(v), height-svgBottom+18, number(v))
	}
	fmt.Fprintf(&b, `<line class="base" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x(1), svgTop-6, x(1), height-svgBottom+4)
	for n, p := range bars {
		y := svgTop + n*svgRow
		mid := float64(y) + svgRow/2 - 2
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", svgNames-8, mid+4, html.EscapeString(p.name))
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`+"\n", p.class, svgNames, y+1, x(p.i.Median)-svgNames, svgRow-6)
		fmt.Fprintf(&b, `<path class="whisker" d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8"/>`+"\n", x(p.i.Low), mid, x(p.i.High), x(p.i.Low), mid-4, x(p.i.High), mid-4)
		if p.goal > 0 {
			fmt.Fprintf(&b, `<line class="goal" x1="%.1f" y1="%d" x2="%.1f" y2="%d"><title>target %s</title></line>`+"\n", x(p.goal), y, x(p.goal), y+svgRow-4, number(p.goal))
		}
		fmt.Fprintf(&b, `<text class="tick" x="%d" y="%.1f">%s</text>`+"\n", svgWidth-svgValues+10, mid+4, interval(p.i))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// scale draws packets a second over the number of sessions, one session included.
func (r *Report) scale(c Column) string {
	type point struct {
		n int
		v float64
	}
	lines, top, most := map[string][]point{}, 0.0, 1
	for _, w := range r.Ways {
		column, one := c.Name, w.Sessions <= 1
		if one {
			column = colUDP64
		}
		s := r.series(column, w.Name())
		if s == nil || s.Median.N == 0 || w.Second || w.Kedge() && w.Encap != "v6" || w.Kind == way.VXLAN || w.Kind == way.WireGuard || w.Kind == way.Clsact {
			continue
		}
		n := max(1, w.Sessions)
		w.Sessions = 0
		lines[w.Name()] = append(lines[w.Name()], point{n, s.Median.Median})
		top, most = max(top, s.Median.Median), max(most, n)
	}
	if len(lines) == 0 || top == 0 || most == 1 {
		return ""
	}
	const height = 360
	x := func(n int) float64 {
		return 70 + math.Log10(float64(n))/math.Log10(float64(most))*(svgWidth-70-svgNames)
	}
	y := func(v float64) float64 { return height - 50 - v/(top*1.1)*(height-50-svgTop) }
	var b strings.Builder
	svgHead(&b, height, "Packets of 64 octets, millions a second, to random sessions of so many", r.Describe())
	for v := 0.0; v <= top*1.1; v += step(top * 1.1) {
		fmt.Fprintf(&b, `<line class="grid" x1="70" y1="%.1f" x2="%d" y2="%.1f"/><text class="tick" x="62" y="%.1f" text-anchor="end">%s</text>`+"\n", y(v), svgWidth-svgNames, y(v), y(v)+4, number(v))
	}
	for n := 1; n <= most; n *= 10 {
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(n), height-30, n)
	}
	var names []string
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		class, path := "ref", ""
		if kind, _, ok := strings.Cut(name, "/"); ok {
			class = kind
		}
		points := lines[name]
		slices.SortFunc(points, func(a, b point) int { return a.n - b.n })
		for i, p := range points {
			path += fmt.Sprintf("%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x(p.n), y(p.v))
			fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%.1f" r="3.5"><title>%s: %s</title></circle>`+"\n", class, x(p.n), y(p.v), html.EscapeString(name), number(p.v))
		}
		last := points[len(points)-1]
		fmt.Fprintf(&b, `<path class="line %s" d="%s"/><text x="%.1f" y="%.1f">%s</text>`+"\n", class, path, x(last.n)+10, y(last.v)+4, html.EscapeString(name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
