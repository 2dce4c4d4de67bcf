package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// pair is a back end and the oracle, which are given the same and must do the same.
type pair struct {
	testing.TB
	r, oracle Router
	// exact: drops have the same reason. Else a back end may take one stranger for another.
	exact bool
	ids   []core.ID
	seen  map[string]int // what happened so far, so that a test knows that it tries enough
}

// strange are the reasons that say who a packet was thought to be from.
var strange = []wire.Reason{wire.WrongTunnel, wire.WrongSource, wire.UnknownHome}

// update gives both the same ops, made for the interface indices of each.
func (p *pair) update(ops func(r Router) []core.Op) {
	p.Helper()
	got, want := p.r.Update(ops(p.r)), p.oracle.Update(ops(p.oracle))
	if (got == nil) != (want == nil) {
		p.Fatalf("%+v: %v, and the oracle: %v", ops(p.oracle), got, want)
	}
}

// clear ends all sessions, and what is remembered of strangers.
func (p *pair) clear() {
	p.Helper()
	for _, r := range []Router{p.r, p.oracle} {
		if err := r.Sync(func(func(core.Op) bool) {}); err != nil {
			p.Fatal(err)
		}
		r.Advance(time.Hour)
	}
}

// volley sends packets to both and compares what comes out, what is counted and what is dropped: as many at once as make few ICMP
// errors, or their limits would decide, which the router's kernel does not share.
func (p *pair) volley(in []Packet) {
	p.Helper()
	for len(in) > 0 {
		n := p.part(in)
		if n == 0 {
			return
		}
		in = in[n:]
	}
}

// did is what a router made of packets.
type did struct {
	out    map[string]int
	drops  map[wire.Reason]uint64
	counts []core.Counter
}

// part does the first of them, and returns how many; 0 after a failure.
func (p *pair) part(in []Packet) int {
	p.Helper()
	const most, told = 64, 8
	n, errors := 0, 0
	want := p.watch(p.oracle, func(see func()) {
		for ; n < min(len(in), most) && errors < told; n++ {
			before := p.seen["errors"]
			p.send(p.oracle, in[n])
			see()
			errors += p.seen["errors"] - before
		}
	})
	got := p.watch(p.r, func(see func()) {
		for _, pkt := range in[:n] {
			p.send(p.r, pkt)
		}
		see()
	})
	if maps.Equal(got.out, want.out) && maps.Equal(got.drops, want.drops) && slices.Equal(got.counts, want.counts) {
		return n
	}
	if n > 1 { // which of them was it?
		for i := range n {
			if p.part(in[i:i+1]) == 0 {
				return 0
			}
		}
	}
	last := in[n-1]
	p.Errorf("%d packets, the last one on the %v side, link %d, from %v:\n%x\n%s", n, last.Side, last.Link, last.MAC, last.B, difference([2]did{got, want}))
	return 0
}

func (p *pair) send(r Router, pkt Packet) {
	p.Helper()
	pkt.B = bytes.Clone(pkt.B)
	r.Send(pkt)
}

// watch is what a router does while f runs, which calls see for what came out so far.
func (p *pair) watch(r Router, f func(see func())) (d did) {
	p.Helper()
	r.Advance(2 * time.Second)
	before, was := dropsOf(r), p.counters(r)
	d.out = map[string]int{}
	f(func() {
		for _, g := range r.Drain() {
			what := essence(g, p.exact)
			d.out[what]++
			if p.seen[g.Side.String()]++; strings.Contains(what, " an error of type ") {
				p.seen["errors"]++
			}
		}
	})
	d.drops, d.counts = dropsOf(r), p.counters(r)
	for reason := range d.drops {
		d.drops[reason] -= before[reason]
		p.seen["dropped"] += int(d.drops[reason])
	}
	for j := range d.counts {
		c, w := &d.counts[j], was[j]
		c.PacketsIn, c.OctetsIn, c.PacketsOut, c.OctetsOut = c.PacketsIn-w.PacketsIn, c.OctetsIn-w.OctetsIn, c.PacketsOut-w.PacketsOut, c.OctetsOut-w.OctetsOut
	}
	if !p.exact {
		for _, reason := range strange[1:] {
			d.drops[strange[0]] += d.drops[reason]
			delete(d.drops, reason)
		}
	}
	return d
}

func (p *pair) counters(r Router) []core.Counter {
	p.Helper()
	c := make([]core.Counter, len(p.ids))
	if err := r.Counters(p.ids, c); err != nil {
		p.Fatal(err)
	}
	return c
}

func difference(d [2]did) (s string) {
	who := [2]string{"back end", "  oracle"}
	for i := range d {
		for f, n := range d[i].out {
			if other := d[1-i].out[f]; n > other {
				s += fmt.Sprintf("%s: %d of %s\n", who[i], n-other, f[:min(len(f), 400)])
			}
		}
		for r, n := range d[i].drops {
			if n != d[1-i].drops[r] {
				s += fmt.Sprintf("%s: %d dropped for %s\n", who[i], n, r)
			}
		}
	}
	if !slices.Equal(d[0].counts, d[1].counts) {
		s += fmt.Sprintf("counters %+v\n  oracle %+v\n", d[0].counts, d[1].counts)
	}
	return s
}

// dropsOf are the drops that a router makes itself. What is wrong with outer headers its kernel drops, and hop limits that end
// on the way through an anchor.
func dropsOf(r Router) map[wire.Reason]uint64 {
	m := map[wire.Reason]uint64{}
	for _, reason := range []wire.Reason{
		wire.UnknownHome, wire.UnknownHost, wire.WrongSource, wire.WrongTunnel, wire.Deprecated, wire.TooBig, wire.BadInner, wire.ECNDrop, wire.EncapsulateDeep,
		wire.TunnelLoop, wire.SendFailed, wire.Unsolicited, wire.MappedAddress, wire.BadICV, wire.UnknownSPI, wire.Replayed,
	} {
		m[reason] = r.Dropped(reason)
	}
	return m
}

// essence is what of a packet that came out does not depend on the router's choices. Of an ICMP error, its choices are its source, hop limit
// and how much it quotes.
// A checksum around a packet that has a wrong one itself says so in its own way, unless exact.
func essence(p Packet, exact bool) string {
	side := fmt.Sprintf("%v link %d %v %+v", p.Side, p.Link, p.MAC, p.Outer)
	b, outer := bytes.Clone(p.B), ""
	if p.Side == Tunnel {
		if err := mask(b, false); err != nil {
			side += " " + err.Error()
		}
		if n := 20; !exact && b[0]>>4 == 4 && b[9] == 17 && len(b) > n+28 && !sound(b[n+8:]) {
			copy(b[n+6:], []byte{0, 0})
		}
	}
	for at := b; ; {
		if e, ok := errorOf(at); ok {
			return side + outer + e
		}
		in, ok := inside(at)
		if !ok {
			break
		}
		src, dst, proto := addresses(at)
		outer += fmt.Sprintf(" %v>%v %d", src, dst, proto)
		at = in
	}
	return side + fmt.Sprintf(" %x", b)
}

// sound: the upper layer's checksum is right.
func sound(b []byte) bool {
	if b[0]>>4 == 4 {
		src, dst, proto := addresses(b)
		body := b[20:min(len(b), max(20, int(binary.BigEndian.Uint16(b[2:]))))]
		if proto == 1 {
			return plainSum(body) == 0
		}
		return pseudoSum(src, dst, proto, body) == 0
	}
	if len(b) < 40 {
		return false
	}
	src, dst, proto := addresses(b)
	return pseudoSum(src, dst, proto, b[40:min(len(b), 40+int(binary.BigEndian.Uint16(b[4:])))]) == 0
}

// inside is the packet in a tunnel packet of any framing.
func inside(b []byte) ([]byte, bool) {
	n, proto := 40, byte(0)
	switch {
	case len(b) >= 20 && b[0] == 0x45 && binary.BigEndian.Uint16(b[6:])&0x1fff == 0:
		n, proto = 20, b[9]
	case len(b) >= 40 && b[0]>>4 == 6:
		proto = b[6]
	default:
		return nil, false
	}
	if proto == 17 && len(b) > n+8 && binary.BigEndian.Uint16(b[n:]) == port {
		n, proto = n+8, 4
	}
	if proto == 47 && len(b) > n+4 {
		if b[n]&0x20 != 0 {
			n += 4
		}
		n, proto = n+4, 4
	}
	if proto != 4 && proto != 41 || len(b) < n+1 {
		return nil, false
	}
	return b[n:], true
}

func errorOf(b []byte) (string, bool) {
	var msg []byte
	var dst netip.Addr
	switch {
	case len(b) >= 28 && b[0] == 0x45 && b[9] == 1 && binary.BigEndian.Uint16(b[6:])&0x1fff == 0 && slices.Contains([]byte{3, 11, 12}, b[20]):
		msg = b[20:]
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == 58 && b[40] < 128:
		msg = b[40:]
	default:
		return "", false
	}
	_, dst, _ = addresses(b)
	q := bytes.Clone(msg[8:min(len(msg), 48)])
	if len(q) >= 20 { // its hop limit, and so its checksum, may have been counted down already
		if q[0]>>4 == 6 {
			q[7] = 0
		} else {
			q = q[:20]
			q[8], q[10], q[11] = 0, 0, 0
		}
	}
	return fmt.Sprintf(" to %v an error of type %d, code %d, info %x, about %x", dst, msg[0], msg[1], msg[4:8], q), true
}
