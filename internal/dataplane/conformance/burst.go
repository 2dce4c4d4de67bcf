package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// trial is one packet, or the fragments of one, and what must come of it.
type trial struct {
	name  string
	in    []Packet
	wants []want
	// drop is what the packet is dropped for; unsure: it may be, by the router's kernel instead.
	drop, unsure wire.Reason
	// unsummed: a device may cut the packet, and then its UDP headers need no checksum over IPv4 (RFC 768).
	unsummed bool
	// What the session counts.
	count core.Counter
}

// burst sends many packets before it looks at what came out of all of them: each has something that no other has. Those of one
// trial keep their order.
func (b *bench) burst(all []trial) {
	b.Helper()
	const most, errors = 64, 8 // of ICMP errors a source gets ten a second
	for at := 0; at < len(all); {
		n, told := 0, 0
		for ; at+n < len(all) && n < most; n++ {
			if slices.ContainsFunc(all[at+n].wants, func(w want) bool { return w.icmp != nil }) {
				if told++; told > errors {
					break
				}
			}
		}
		b.volley(all[at : at+n])
		if at += n; told > 0 {
			b.r.Advance(2 * time.Second)
		}
	}
}

// volley is one burst between two looks.
func (b *bench) volley(all []trial) {
	b.Helper()
	before, was := b.allDropped(), b.counted()
	expect, unsure := map[wire.Reason]uint64{}, map[wire.Reason]uint64{}
	var sum core.Counter
	for _, t := range all {
		for _, p := range t.in {
			p.B = bytes.Clone(p.B)
			b.r.Send(p)
		}
		if t.drop != "" {
			expect[t.drop]++
		}
		if t.unsure != "" {
			unsure[t.unsure]++
		}
		sum = added(sum, t.count)
	}
	got := b.r.Drain()
	if b.secured {
		got = b.joined(got)
	}
	b.match(all, got)
	for r, n := range b.allDropped() {
		if n -= before[r]; n < expect[r] || n > expect[r]+unsure[r] {
			b.Errorf("%s to %s: %d were dropped for %s, want %d and perhaps %d more", all[0].name, all[len(all)-1].name, n, r, expect[r], unsure[r])
		}
	}
	if is, want := b.counted(), added(was, sum); is != want {
		b.Errorf("%s to %s: counters %+v, want %+v", all[0].name, all[len(all)-1].name, is, want)
	}
}

func added(a, b core.Counter) core.Counter {
	return core.Counter{
		PacketsIn: a.PacketsIn + b.PacketsIn, OctetsIn: a.OctetsIn + b.OctetsIn,
		PacketsOut: a.PacketsOut + b.PacketsOut, OctetsOut: a.OctetsOut + b.OctetsOut,
	}
}

func (b *bench) counted() core.Counter {
	b.Helper()
	var c [1]core.Counter
	if err := b.r.Counters([]core.ID{sessionOne}, c[:]); err != nil {
		b.Fatal(err)
	}
	return c[0]
}

// allDropped are the drops by those reasons that a packet of a known session can have.
func (b *bench) allDropped() map[wire.Reason]uint64 {
	m := map[wire.Reason]uint64{}
	for _, r := range []wire.Reason{
		wire.UnknownHome, wire.UnknownHost, wire.WrongSource, wire.WrongTunnel, wire.Deprecated, wire.HopLimit, wire.TooBig, wire.Malformed, wire.BadInner,
		wire.ECNDrop, wire.EncapsulateDeep, wire.TunnelLoop, wire.OverlapFragment, wire.SendFailed, wire.RateLimit, wire.Unsolicited, wire.MappedAddress,
	} {
		m[r] = b.r.Dropped(r)
	}
	return m
}

// form is a packet without what is the router's choice: Identifications, and with them checksums, of outer headers.
func form(p Packet, unsummed bool) (string, error) {
	o := bytes.Clone(p.B)
	var err error
	if p.Side == Tunnel {
		if o, err = laidOpen(o); err == nil {
			err = mask(o, unsummed)
		}
	}
	where := [...]byte{byte(p.Side), byte(p.Link)}
	s := string(where[:]) + string(p.MAC[:]) + p.pieces
	if p.Outer != (core.Chain{}) {
		s += fmt.Sprint(p.Outer)
	}
	return s + string(o), err
}

// mask blanks the choices of an outer packet in place.
func mask(b []byte, unsummed bool) error {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		if plainSum(b[:20]) != 0 {
			return fmt.Errorf("outer IPv4 header checksum")
		}
		copy(b[4:], []byte{0, 0})
		copy(b[10:], []byte{0, 0})
		if first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0; first && unsummed && b[9] == 17 && len(b) >= 28 {
			copy(b[26:], []byte{0, 0})
		}
	case len(b) > 48 && b[6] == 44:
		copy(b[44:], anyID)
	default:
		if at := behindStraight(b); at != 0 {
			copy(b[at+4:], anyID)
		}
	}
	return nil
}

// behindStraight is where a Fragment header stands behind one or two headers of route optimization, 0 = nowhere.
//
//go:norace
func behindStraight(b []byte) int {
	at, next := 40, 6
	for range 2 {
		if at+32 > len(b) || b[next] != 43 && b[next] != 60 || b[at+1] != 2 {
			return 0
		}
		if b[at] == 44 {
			return at + 24
		}
		next, at = at, at+24
	}
	return 0
}

// ident is the Identification of an outer packet, 0 where there is none.
func ident(b []byte) uint32 {
	switch {
	case b[0]>>4 == 4:
		return uint32(binary.BigEndian.Uint16(b[4:]))
	case len(b) > 48 && b[6] == 44:
		return binary.BigEndian.Uint32(b[44:])
	}
	if at := behindStraight(b); at != 0 {
		return binary.BigEndian.Uint32(b[at+4:])
	}
	return 0
}

// match finds what every trial wants among what came out, and nothing besides.
func (b *bench) match(all []trial, got []Packet) {
	b.Helper()
	for _, unsummed := range []bool{false, true} {
		if unsummed && !slices.ContainsFunc(all, func(t trial) bool { return t.unsummed }) {
			break
		}
		// The packets that came out, by their form: where, in order.
		at := map[string][]int{}
		for i, p := range got {
			if p.B == nil {
				continue
			}
			f, err := form(p, unsummed)
			if err != nil && !unsummed {
				b.Errorf("%v: %s", err, short(p.B))
			}
			at[f] = append(at[f], i)
		}
		for _, t := range all {
			if t.unsummed != unsummed {
				continue
			}
			last, first := -1, -1
			for n, w := range t.wants {
				if w.icmp != nil {
					continue
				}
				f, _ := form(w.Packet, unsummed)
				found := at[f]
				if len(found) == 0 {
					b.missing(t, n, got)
					continue
				}
				i := found[0]
				at[f] = found[1:]
				if i < last {
					b.Errorf("%s: packet %d of %d came out of order", t.name, n, len(t.wants))
				}
				if first >= 0 && !t.unsummed && t.wants[0].Side == Tunnel && ident(got[i].B) != ident(got[first].B) {
					b.Errorf("%s: fragments with Identifications %x and %x", t.name, ident(got[first].B), ident(got[i].B))
				}
				// What no router may fragment may have any (RFC 6864 4.1): 0 is what the kernel puts into datagrams that it cuts.
				if got[i].Side == Tunnel && got[i].B[0]>>4 == 4 && ident(got[i].B) == 0 && got[i].B[6]&0x40 == 0 {
					b.Errorf("%s: outer Identification 0, which the kernel would replace", t.name)
				}
				if last = i; first < 0 {
					first = i
				}
			}
		}
		left := map[int]bool{}
		for _, l := range at {
			for _, i := range l {
				left[i] = true
			}
		}
		for i := range got {
			if !left[i] {
				got[i].B = nil
			}
		}
	}
	for _, t := range all {
		for _, w := range t.wants {
			if w.icmp == nil {
				continue
			}
			if i := slices.IndexFunc(got, func(p Packet) bool {
				return p.B != nil && p.Side == w.Side && p.Link == w.Link && p.MAC == w.MAC && w.icmp.check(p.B) == nil
			}); i >= 0 {
				got[i].B = nil
				continue
			}
			b.Errorf("%s: no ICMP error of type %d, code %d, info %d came out", t.name, w.icmp.typ, w.icmp.code, w.icmp.info)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(got), func(p Packet) bool { return p.B == nil })
	if len(rest) != 0 {
		b.Errorf("%s to %s: %d packets that nobody wanted:%s", all[0].name, all[len(all)-1].name, len(rest), dump(rest))
	}
}

// missing says what did not come, beside what is most like it.
func (b *bench) missing(t trial, n int, got []Packet) {
	b.Helper()
	w, best, like := t.wants[n], -1, Packet{}
	for _, p := range got {
		if p.B == nil || p.Side != w.Side {
			continue
		}
		same := 0
		for i := range min(len(p.B), len(w.B)) {
			if p.B[i] == w.B[i] {
				same++
			}
		}
		if same > best {
			best, like = same, p
		}
	}
	b.Errorf("%s: packet %d of %d did not come out on the %v side, want\n     %s", t.name, n, len(t.wants), w.Side, short(w.B))
	if like.B != nil {
		b.Logf("the most alike differs at octet %d:\n     %s", differ(like.B, w.B), short(like.B))
	}
}
