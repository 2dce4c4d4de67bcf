package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
)

// Row is a line of the table that a run measures: what happened, and for each system under test what it cost.
type Row struct {
	Name   string `json:"name"`
	Figure string `json:"figure,omitempty"` // "" = loss
	Cells  []Cell `json:"cells"`
}

// Cell are the samples of one system.
type Cell struct {
	System string    `json:"system"`
	Lost   []int     `json:"lost,omitempty"`
	Sent   int       `json:"sent,omitempty"`
	GapsMS []float64 `json:"longest_gap_ms,omitempty"`
	Values []float64 `json:"values,omitempty"` // of a figure: ms, Mbit/s
}

// row adds a sample: what the named probes of each system saw. They are stopped already.
func (r *Run) row(s *scenario.Row) error {
	i := slices.IndexFunc(r.rows, func(x Row) bool { return x.Name == s.Name && x.Figure == s.Figure })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, Row{Name: s.Name, Figure: s.Figure})
	}
	for _, g := range s.Systems {
		k := slices.IndexFunc(r.rows[i].Cells, func(c Cell) bool { return c.System == g.Name })
		if k < 0 {
			k = len(r.rows[i].Cells)
			r.rows[i].Cells = append(r.rows[i].Cells, Cell{System: g.Name})
		}
		c := &r.rows[i].Cells[k]
		if s.Figure != "" {
			v, err := r.figure(s.Figure, r.probes[g.Probes[0]])
			if err != nil {
				return err
			}
			c.Values = append(c.Values, v)
			r.say("%s: %s %.1f %s", s.Name, g.Name, v, units[s.Figure])
			continue
		}
		lost, gap := 0, 0.0
		for _, name := range g.Probes {
			st := statsOf(r.probes[name])
			lost += st.Lost
			c.Sent += st.Sent
			gap = max(gap, st.GapMS)
		}
		c.Lost, c.GapsMS = append(c.Lost, lost), append(c.GapsMS, gap)
		r.say("%s: %s lost %d, longest silence %.0f ms", s.Name, g.Name, lost, gap)
	}
	return nil
}

// units of figures, and what they are in the head of their table.
var (
	units = map[string]string{"rtt": "ms", "rate": "Mbit/s", "set-up": "ms"}
	heads = map[string]string{"rtt": "round trip", "rate": "one TCP connection", "set-up": "set-up"}
)

func (r *Run) figure(name string, p *probe.Probe) (float64, error) {
	st := statsOf(p)
	switch name {
	case "rtt":
		return st.RTT50MS, nil
	case "rate":
		return st.Rate, nil
	}
	d, err := r.setupOf(p)
	return ms(d), err
}

// printTable writes rows as Markdown, for docs/figures.md: medians, and the worst in brackets.
func printTable(w io.Writer, rows []Row) {
	for _, figure := range []string{"set-up", "rtt", "rate"} {
		printFigures(w, figure, slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Figure != figure }))
	}
	if rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Figure != "" }); len(rows) == 0 {
		return
	}
	var systems []string
	for _, r := range rows {
		for _, c := range r.Cells {
			if !slices.Contains(systems, c.System) {
				systems = append(systems, c.System)
			}
		}
	}
	fmt.Fprint(w, "\n| median (worst) |")
	for _, s := range systems {
		fmt.Fprintf(w, " %s: lost | out of service |", s)
	}
	fmt.Fprintf(w, " moves |\n|---%s|---|\n", strings.Repeat("|---|---", len(systems)))
	for _, r := range rows {
		fmt.Fprintf(w, "| %s |", r.Name)
		n := 0
		for _, s := range systems {
			k := slices.IndexFunc(r.Cells, func(c Cell) bool { return c.System == s })
			if k < 0 {
				fmt.Fprint(w, " - | - |")
				continue
			}
			c := r.Cells[k]
			n = max(n, len(c.Lost))
			fmt.Fprintf(w, " %d (%d) | %.0f ms (%.0f ms) |", median(c.Lost), slices.Max(c.Lost), median(c.GapsMS), slices.Max(c.GapsMS))
		}
		fmt.Fprintf(w, " %d |\n", n)
	}
}

// printFigures writes rows of one figure: the median, and all that there were: of times the 99th percentile, of rates the range.
func printFigures(w io.Writer, figure string, rows []Row) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n| %s, %s | |\n|---|---|\n", heads[figure], units[figure])
	for _, r := range rows {
		for _, c := range r.Cells {
			s := slices.Sorted(slices.Values(c.Values))
			all := fmt.Sprintf("p99 %.1f", s[min(len(s)-1, int(0.99*float64(len(s))))])
			if figure == "rate" {
				all = fmt.Sprintf("%.1f to %.1f", s[0], s[len(s)-1])
			}
			fmt.Fprintf(w, "| %s: %s | %.1f (%s; %d times) |\n", r.Name, c.System, median(s), all, len(s))
		}
	}
}

// median is the greater of the two in the middle if there are two.
func median[T int | float64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
