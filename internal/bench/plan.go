package bench

import (
	"regexp"
	"time"

	"kedge/internal/bench/way"
)

// Options of a run.
type Options struct {
	Pairs    int           // rounds
	Time     time.Duration // of a sample
	Only     string        // regular expression: ways of Kedge by name; "" = all. The others are always there
	Cells    string        // regular expression: columns by name; "" = all
	Sessions []int         // numbers of sessions beside one
	Seed     uint64
}

// MaxSessions of a way.
const MaxSessions = way.MaxSessions

// Defaults are the figures of the documents, Quick those of somebody who waits, Gate what is asked after every change.
var (
	Defaults = Options{Pairs: 15, Time: 250 * time.Millisecond, Sessions: []int{10_000, 1_000_000}, Seed: 1}
	Quick    = Options{Pairs: 5, Time: 150 * time.Millisecond, Only: `^(user|ebpf|clsact)/(v6|udp4|esp6)$`, Sessions: []int{10_000}, Seed: 1}
	Gate     = Options{Pairs: 7, Time: 100 * time.Millisecond, Only: `^(user/(udp4|esp4)|ebpf/(v6|v4|gre6)|clsact/v6)`, Cells: `^(tcp[46]|udp64.*|updates|lost)$`, Sessions: []int{100_000}, Seed: 1}
)

// plan is what a run measures.
type plan struct {
	ways  []way.Way
	cells []cell
}

func (o Options) plan() (p plan, err error) {
	only, err := regexp.Compile(o.Only)
	if err != nil {
		return p, err
	}
	columns, err := regexp.Compile(o.Cells)
	if err != nil {
		return p, err
	}
	for _, c := range allCells() {
		for _, col := range c.columns {
			if columns.MatchString(col.Name) {
				p.cells = append(p.cells, c)
				break
			}
		}
	}
	for _, w := range o.allWays() {
		if w.Kedge() && !only.MatchString(w.Name()) {
			continue
		}
		for _, c := range p.cells {
			if c.on(w) {
				p.ways = append(p.ways, w)
				break
			}
		}
	}
	return p, nil
}

// allWays begin with those that others are compared with.
func (o Options) allWays() []way.Way {
	out := []way.Way{{Kind: way.Plain}, {Kind: way.VXLAN}, {Kind: way.WireGuard}}
	for _, k := range []string{way.User, way.EBPF, way.Clsact} {
		for _, e := range way.Encaps {
			if e.ESP && k != way.User || e.Double && k == way.Clsact {
				continue // never in the kernel; the same programs
			}
			out = append(out, way.Way{Kind: k, Encap: e.Name})
		}
	}
	for _, n := range o.Sessions {
		out = append(out, way.Way{Kind: way.Plain, Sessions: n}, way.Way{Kind: way.User, Encap: "v6", Sessions: n}, way.Way{Kind: way.EBPF, Encap: "v6", Sessions: n})
	}
	return append(out, way.Way{Kind: way.User, Encap: "v6", Second: true}, way.Way{Kind: way.EBPF, Encap: "v6", Second: true})
}
