package bench

import (
	"fmt"
	"strings"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/way"
)

// Judgement is a figure beside its target.
type Judgement struct {
	Target   string         `json:"target"`
	Column   string         `json:"column"`
	Way      string         `json:"way"`
	Base     string         `json:"base,omitempty"`
	At       float64        `json:"at"`
	Most     bool           `json:"most,omitempty"` // the target is an upper bound
	Interval stats.Interval `json:"interval"`
	Verdict  stats.Verdict  `json:"verdict"`
}

// Targets in words, for headings.
const (
	fastTCP      = "ebpf TCP / plain routing"
	fastVXLAN    = "ebpf TCP / kernel VXLAN"
	fastPackets  = "ebpf 64-octet packets / plain routing"
	fastMany     = "ebpf 64-octet packets / plain routing, random sessions of many"
	userTCP      = "user TCP / wireguard-go"
	userPackets  = "user 64-octet packets / wireguard-go"
	espTraffic   = "ESP AES-128-GCM / wireguard-go"
	updateRate   = "session updates a second, batched"
	tableMemory  = "kernel memory a dual-stack session, octets"
	handoverLoss = "packets lost by handovers beyond the same stream without"
)

// target of ratios.
type target struct {
	text    string
	columns func(string) bool
	of      func(way.Way, way.Encap) bool
	base    string
	at      float64
}

func isTCP(column string) bool { return strings.HasPrefix(column, "tcp") }

func is(name string) func(string) bool { return func(c string) bool { return c == name } }

// fastPath are ways whose packets programs in the kernel carry. A tunnel in a tunnel is not promised there.
func fastPath(w way.Way, e way.Encap) bool { return w.Fast() && !e.Double && !w.Second }

func clear(w way.Way, e way.Encap) bool { return w.Kind == way.User && !e.ESP && single(w) }

func sealed(_ way.Way, e way.Encap) bool { return e.ESP }

var targets = []target{
	{fastTCP, isTCP, fastPath, way.Plain, 0.95},
	{fastVXLAN, isTCP, fastPath, way.VXLAN, 1.05},
	{fastPackets, is(colUDP64), fastPath, way.Plain, 0.9},
	{fastMany, is(colMany), fastPath, way.Plain, 0.6},
	{userTCP, isTCP, clear, way.WireGuard, 3},
	{userPackets, is(colUDP64), clear, way.WireGuard, 4},
	{espTraffic, func(c string) bool { return isTCP(c) || c == colUDP64 }, sealed, way.WireGuard, 1.5},
}

const (
	updatesAtLeast = 1_000_000
	memoryAtMost   = 600
)

// judge compares everything with everything that was promised.
func (r *Report) judge() {
	r.compare()
	for _, t := range targets {
		for _, c := range r.Columns {
			for _, w := range r.Ways {
				e, _ := way.FindEncap(w.Encap)
				if !t.columns(c.Name) || !t.of(w, e) {
					continue
				}
				base := way.Way{Kind: t.base, Sessions: w.Sessions}.Name()
				if i, ok := r.ratio(c.Name, w.Name(), base); ok {
					r.Judgements = append(r.Judgements, Judgement{t.text, c.Name, w.Name(), base, t.at, false, i, i.AtLeast(t.at)})
				}
			}
		}
	}
	for _, w := range r.Ways {
		if s := r.series(colUpdates, w.Name()); s != nil && w.Fast() {
			r.Judgements = append(r.Judgements, Judgement{updateRate, s.Column, s.Way, "", updatesAtLeast, false, s.Median, s.Median.AtLeast(updatesAtLeast)})
		}
		still, moving := r.series(colLost, w.Name()), r.series(colHandover, w.Name())
		if still == nil || moving == nil {
			continue
		}
		beyond := make([]float64, len(moving.Values))
		for i := range beyond {
			beyond[i] = moving.Values[i] - still.Values[i]
		}
		i := stats.Bootstrap(beyond, r.Seed)
		r.Judgements = append(r.Judgements, Judgement{handoverLoss, moving.Column, w.Name(), "", 0, true, i, i.AtMost(0)})
	}
	for _, m := range r.Memory {
		v := float64(m.Octets) / float64(m.Sessions)
		i := stats.Interval{Median: v, Low: v, High: v, N: 1}
		r.Judgements = append(r.Judgements, Judgement{tableMemory, "memory", m.Way, "", memoryAtMost, true, i, i.AtMost(memoryAtMost)})
	}
}

// slack of the gate for what shall be nothing: packets of a sample that a busy machine may lose otherwise.
const slack = 50

// Gate gives what is worse than half as good as promised, beyond doubt: the bad end of the interval does not count, the good one does.
func (r *Report) Gate() (bad []string) {
	for _, j := range r.Judgements {
		var worse bool
		switch {
		case j.Interval.N == 0:
			worse = true
		case !j.Most:
			worse = j.Interval.High < j.At/2
		case j.At == 0:
			worse = j.Interval.Low > slack
		default:
			worse = j.Interval.Low > 2*j.At
		}
		if worse {
			bad = append(bad, fmt.Sprintf("%s: %s of %s is %s, the target %s", j.Target, j.Column, j.Way, interval(j.Interval), number(j.At)))
		}
	}
	return bad
}
