package bench

import (
	"fmt"
	"io"
	"math"
	"strings"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/way"
)

// number writes a figure with three digits that mean something.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "-"
	case a >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func interval(i stats.Interval) string {
	if i.N == 0 {
		return "not measured"
	}
	if i.N == 1 {
		return number(i.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", number(i.Median), number(i.Low), number(i.High))
}

// Describe says in a sentence what was measured on.
func (r *Report) Describe() string {
	return fmt.Sprintf("%s, %d cores, %d GB, Linux %s, %s %s, %s. %d rounds, samples of %v, medians and 95 %% intervals of the ratios within a round.",
		r.Machine.CPU, r.Machine.Cores, (r.Machine.Memory+1<<29)>>30, r.Machine.Kernel, r.Machine.Go, r.Machine.Arch, r.Date.Format("2006-01-02"), r.Pairs, r.Sample)
}

// table is rows of text, the first one its head.
type table [][]string

// WriteText writes the tables for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.Describe() + "\n")
	for _, c := range r.Columns {
		if t := r.figures(c); len(t) > 1 {
			fmt.Fprintf(&b, "\n%s: %s, %s\n", c.Name, c.Text, c.Unit)
			t.text(&b)
		}
	}
	b.WriteString("\ntargets\n")
	r.verdicts().text(&b)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// figures of a column: a row for each way, with its ratios.
func (r *Report) figures(c Column) table {
	t := table{{"", c.Unit, "/ plain", "/ vxlan", "/ wireguard-go", ""}}
	for _, w := range r.Ways {
		s := r.series(c.Name, w.Name())
		if s == nil || s.Median.N == 0 {
			continue
		}
		row := []string{w.Name(), number(s.Median.Median)}
		for _, base := range []string{(way.Way{Kind: way.Plain, Sessions: w.Sessions}).Name(), way.VXLAN, way.WireGuard} {
			cell := ""
			if i, ok := r.ratio(c.Name, w.Name(), base); ok {
				cell = interval(i)
			}
			row = append(row, cell)
		}
		note := ""
		if w.Fast() && s.Slow > 0.01 {
			note = fmt.Sprintf("%.0f %% of the packets by the process", 100*s.Slow)
		}
		t = append(t, append(row, note))
	}
	return t.narrow()
}

// verdicts are all judgements.
func (r *Report) verdicts() table {
	t := table{{"target", "way", "figure", "at least / at most", "measured", ""}}
	for _, j := range r.Judgements {
		t = append(t, []string{j.Target, j.Way, j.Column, map[bool]string{false: ">= ", true: "<= "}[j.Most] + number(j.At), interval(j.Interval), string(j.Verdict)})
	}
	return t
}

// narrow leaves out columns that are empty but for their head.
func (t table) narrow() table {
	out := make(table, len(t))
	for col := range t[0] {
		empty := true
		for _, row := range t[1:] {
			empty = empty && row[col] == ""
		}
		for i, row := range t {
			if !empty || col == 0 {
				out[i] = append(out[i], row[col])
			}
		}
	}
	return out
}

// text writes columns that stand under each other.
func (t table) text(b *strings.Builder) {
	width := make([]int, len(t[0]))
	for _, row := range t {
		for i, s := range row {
			width[i] = max(width[i], len(s))
		}
	}
	for _, row := range t {
		line := " "
		for i, s := range row {
			line += fmt.Sprintf(" %-*s ", width[i], s)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// markdown writes a table of Markdown.
func (t table) markdown(b *strings.Builder) {
	for i, row := range t {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
}
