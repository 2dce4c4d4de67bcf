package bench

import (
	"fmt"
	"time"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/way"
)

// Report is what a run gives.
type Report struct {
	Machine    Machine       `json:"machine"`
	Date       time.Time     `json:"date"`
	Pairs      int           `json:"pairs"`
	Sample     time.Duration `json:"sample_ns"`
	Seed       uint64        `json:"seed"`
	Columns    []Column      `json:"columns"`
	Ways       []way.Way     `json:"ways"`
	Series     []*Series     `json:"series"`
	Ratios     []Ratio       `json:"ratios"`
	Memory     []Memory      `json:"memory"`
	Judgements []Judgement   `json:"judgements"`
	Notes      []string      `json:"notes"` // what failed, and what this machine does not give
}

// Series is one column of one way.
type Series struct {
	Column string         `json:"column"`
	Way    string         `json:"way"`
	Values []float64      `json:"values"` // by round; 0 = not measured
	Median stats.Interval `json:"median"`
	Slow   float64        `json:"slow"` // part of the packets that programs in the kernel left to the process; of ebpf
	slow   []float64
}

// Ratio is one column of one way to that of another.
type Ratio struct {
	Column   string         `json:"column"`
	Way      string         `json:"way"`
	Base     string         `json:"base"`
	Interval stats.Interval `json:"interval"`
}

// Memory is what the tables of a plane take in the kernel.
type Memory struct {
	Way      string `json:"way"`
	Sessions int    `json:"sessions"`
	Octets   uint64 `json:"octets"`
}

func newReport(o Options, p plan, lacking error) *Report {
	r := &Report{Machine: thisMachine(), Date: time.Now().UTC().Truncate(time.Second), Pairs: o.Pairs, Sample: o.Time, Seed: o.Seed}
	for _, c := range p.cells {
		r.Columns = append(r.Columns, c.columns...)
	}
	if lacking != nil {
		r.note("%v: CPU time is given instead", lacking)
	}
	return r
}

// maxNotes keeps a machine on which everything fails from filling the report.
const maxNotes = 200

func (r *Report) note(format string, args ...any) {
	if len(r.Notes) < maxNotes {
		r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	}
}

// series finds one, nil if it was not measured.
func (r *Report) series(column, way string) *Series {
	for _, s := range r.Series {
		if s.Column == column && s.Way == way {
			return s
		}
	}
	return nil
}

// add takes the values of a sample, one for each column of the cell; nil = it failed.
func (r *Report) add(w way.Way, c cell, values []float64, slow float64) {
	for i, col := range c.columns {
		s := r.series(col.Name, w.Name())
		if s == nil {
			s = &Series{Column: col.Name, Way: w.Name()}
			r.Series = append(r.Series, s)
		}
		v := 0.0
		if i < len(values) {
			v = values[i]
			s.slow = append(s.slow, slow)
		}
		s.Values = append(s.Values, v)
	}
}

// bases are what a way is compared with: the same traffic, and as many sessions.
func (r *Report) bases(w way.Way) (out []string) {
	for _, b := range []way.Way{{Kind: way.Plain, Sessions: w.Sessions}, {Kind: way.VXLAN}, {Kind: way.WireGuard}} {
		if b.Name() != w.Name() {
			out = append(out, b.Name())
		}
	}
	return out
}

// compare makes medians and ratios of what was measured.
func (r *Report) compare() {
	ways := map[string]way.Way{}
	for _, w := range r.Ways {
		ways[w.Name()] = w
	}
	for _, s := range r.Series {
		var there []float64
		for _, v := range s.Values {
			if v != 0 || s.Column == colLost || s.Column == colHandover {
				there = append(there, v)
			}
		}
		s.Median = stats.Bootstrap(there, r.Seed)
		if len(s.slow) > 0 {
			s.Slow = stats.Median(s.slow)
		}
		if len(there) < len(s.Values) && len(there) > 0 {
			r.note("%s of %s: %d of %d samples gave nothing", s.Column, s.Way, len(s.Values)-len(there), len(s.Values))
		}
		for _, base := range r.bases(ways[s.Way]) {
			if b := r.series(s.Column, base); b != nil {
				if pairs := stats.Ratios(s.Values, b.Values); len(pairs) > 0 {
					r.Ratios = append(r.Ratios, Ratio{s.Column, s.Way, base, stats.Bootstrap(pairs, r.Seed)})
				}
			}
		}
	}
}

// ratio finds one.
func (r *Report) ratio(column, way, base string) (stats.Interval, bool) {
	for _, x := range r.Ratios {
		if x.Column == column && x.Way == way && x.Base == base {
			return x.Interval, true
		}
	}
	return stats.Interval{}, false
}
