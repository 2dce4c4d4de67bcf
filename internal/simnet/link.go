package simnet

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"kedge/wire/ip"
)

// Conditions of a link. Probabilities are between 0 and 1 and independent.
type Conditions struct {
	Latency   time.Duration // one way
	Jitter    time.Duration // added, uniform in [0, Jitter); packets may overtake each other by it
	Loss      float64
	Duplicate float64       // the copy travels by itself
	Reorder   float64       // is held back by ReorderBy
	ReorderBy time.Duration // 0 = twice the latency
	MTU       int           // of tunnel packets, octets; 0 = no limit. Larger ones are answered by Packet Too Big
}

// Link is a core network that joins nodes by their addresses.
type Link struct {
	s      *Sim
	Name   string
	Cond   Conditions
	member []member
	routes []route
	faults []*fault
	cut    map[[2]string]bool
	down   bool
}

type member struct {
	addr netip.Addr
	node *Node
}

// route leads to what lies behind a router on the link.
type route struct {
	prefix  netip.Prefix
	deliver func(p *Packet)
}

// Route makes the link carry packets for a prefix, unless they are for a member, to a router.
func (l *Link) Route(prefix netip.Prefix, deliver func(p *Packet)) {
	l.routes = append(l.routes, route{prefix, deliver})
}

// behind finds the route with the longest prefix.
func (l *Link) behind(a netip.Addr) (to func(p *Packet)) {
	best := -1
	for _, r := range l.routes {
		if r.prefix.Contains(a) && r.prefix.Bits() > best {
			best, to = r.prefix.Bits(), r.deliver
		}
	}
	return to
}

type fault struct{ r Router }

// Link makes a core link.
func (s *Sim) Link(name string, c Conditions) *Link {
	l := &Link{s: s, Name: name, Cond: c, cut: make(map[[2]string]bool)}
	s.links = append(s.links, l)
	return l
}

// Fault adds a router; the function it gives takes it away again.
func (l *Link) Fault(r Router) (remove func()) {
	f := &fault{r}
	l.faults = append(l.faults, f)
	return func() { l.faults = slices.DeleteFunc(l.faults, func(o *fault) bool { return o == f }) }
}

// Partition cuts the link between two nodes, in both directions, or joins them again.
func (l *Link) Partition(a, b string, cut bool) {
	l.cut[[2]string{a, b}], l.cut[[2]string{b, a}] = cut, cut
}

// SetDown cuts everything, or joins it again.
func (l *Link) SetDown(down bool) { l.down = down }

func (l *Link) at(a netip.Addr) *Node {
	for _, m := range l.member {
		if m.addr == a {
			return m.node
		}
	}
	return nil
}

// carry takes a packet from a node.
func (l *Link) carry(p *Packet) {
	to := l.at(p.Dst)
	deliver := l.behind(p.Dst)
	if to != nil {
		p.To = to.Name
		deliver = func(q *Packet) { to.receive(q.Kind, q.Src, q.Dst, q.B) }
	}
	s := l.s
	s.admit(p, l.Name)
	switch {
	case deliver == nil:
		s.trace("%s > %s: nobody has %s", p.From, l.Name, p.Dst)
		return
	case l.down || l.cut[[2]string{p.From, p.To}]:
		s.trace("%s > %s  %s  (cut)", p.From, p.To, p.What())
		return
	case p.Kind == Tunnel && l.Cond.MTU != 0 && len(p.B) > l.Cond.MTU:
		l.tooBig(p)
		return
	}
	s.travel(p, l.Cond, l.faults, func(b []byte) {
		q := *p
		q.B = b
		deliver(&q)
	})
}

// tooBig is the answer of the link's router (RFC 4443 3.2).
func (l *Link) tooBig(p *Packet) {
	router := netip.MustParseAddr("fe80::1")
	b, err := ip.AppendError(nil, router, ip.TooBig, uint32(l.Cond.MTU), p.B)
	l.s.trace("%s > %s  %d octets are too big", p.From, p.To, len(p.B))
	if back := l.at(p.Src); err == nil && back != nil {
		l.s.After(2*l.Cond.Latency, func() { back.receive(Tunnel, router, p.Src, b) })
	}
}

// admit numbers a packet and shows it to the tap.
func (s *Sim) admit(p *Packet, link string) {
	s.serie++
	p.N, p.At, p.Link = s.serie, s.Elapsed(), link
	if s.Tap != nil {
		s.Tap(p)
	}
}

// travel decides what becomes of a packet and has its copies delivered, each with octets of its own.
func (s *Sim) travel(p *Packet, c Conditions, faults []*fault, deliver func(b []byte)) {
	// The faults of this moment: one of them may add or remove others.
	drop, delay := false, time.Duration(0)
	var again []time.Duration
	for _, f := range slices.Clone(faults) {
		v := f.r(p)
		again = append(again, v.Again...)
		delay += v.Delay
		if drop = v.Drop; drop {
			break
		}
	}
	mark := ""
	send := func(extra time.Duration) {
		d := c.Latency + extra
		if c.Jitter > 0 {
			d += time.Duration(s.rng.Int64N(int64(c.Jitter)))
		}
		if c.Reorder > 0 && s.rng.Float64() < c.Reorder {
			by := c.ReorderBy
			if by == 0 {
				by = 2 * c.Latency
			}
			d += by
			mark += " (held back)"
		}
		b := bytes.Clone(p.B)
		s.After(d, func() { deliver(b) })
	}
	switch {
	case drop:
		mark = " (dropped)"
	case c.Loss > 0 && s.rng.Float64() < c.Loss:
		mark = " (lost)"
	default:
		send(delay)
		if delay > 0 {
			mark += " (late)"
		}
		if c.Duplicate > 0 && s.rng.Float64() < c.Duplicate {
			again = append(again, delay)
		}
	}
	for _, d := range again {
		send(d)
		mark += " (again)"
	}
	if s.Trace != nil {
		to := p.To
		if to == "" {
			to = p.Link
		}
		s.trace("%s > %s  %s%s", p.From, to, p.What(), mark)
	}
}
