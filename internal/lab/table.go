package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"kedge/internal/lab/scenario"
)

// Row is a line of the table that a run measures: what happened, and for each system under test what it cost.
type Row struct {
	Name  string `json:"name"`
	Cells []Cell `json:"cells"`
}

// Cell are the samples of one system.
type Cell struct {
	System string    `json:"system"`
	Lost   []int     `json:"lost"`
	Sent   int       `json:"sent"`
	GapsMS []float64 `json:"longest_gap_ms"`
}

// row adds a sample: what the named probes of each system saw. They are stopped already.
func (r *Run) row(s *scenario.Row) {
	i := slices.IndexFunc(r.rows, func(x Row) bool { return x.Name == s.Name })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, Row{Name: s.Name})
	}
	for _, g := range s.Systems {
		k := slices.IndexFunc(r.rows[i].Cells, func(c Cell) bool { return c.System == g.Name })
		if k < 0 {
			k = len(r.rows[i].Cells)
			r.rows[i].Cells = append(r.rows[i].Cells, Cell{System: g.Name})
		}
		c := &r.rows[i].Cells[k]
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
}

// printTable writes rows as Markdown, for docs/figures.md: medians, and the worst in brackets.
func printTable(w io.Writer, rows []Row) {
	if len(rows) == 0 {
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

// median is the greater of the two in the middle if there are two.
func median[T int | float64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
