package simnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"kedge/wire/ip"
)

// TestNeverStuckUnderAttack is TestNeverStuck with somebody on the core and on the access links who sends random variations of
// what he sees, all the time; on the access links frames too, until the disturbances end. Who is in such a place can always take
// a node's network away as long as he sends; here he may not gain more by it.
func TestNeverStuckUnderAttack(t *testing.T) {
	seeds, first := 50, 1
	if os.Getenv("KEDGE_LONG") != "" {
		seeds = 2000
	}
	if s := os.Getenv("KEDGE_SEED"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	var worst time.Duration
	attacks := 0
	for seed := first; seed < first+seeds; seed++ {
		took, n := besieged(t, uint64(seed), seeds == 1)
		if t.Failed() {
			return
		}
		worst, attacks = max(worst, took), attacks+n
	}
	t.Logf("%d seeds, %d packets of an attacker: reachable again after %v at worst", seeds, attacks, worst.Round(ms))
}

// besieged is stuck, with mallory about.
func besieged(t *testing.T, seed uint64, verbose bool) (took time.Duration, attacks int) {
	a := &mallory{roam: newRoam(t, roamOptions{seed: seed, quiet: true, protection: secured[seed%2]})}
	if verbose {
		a.Trace.Max = 0
	}
	defer func() {
		if t.Failed() || verbose {
			t.Logf("seed %d:\n%s", seed, a.Trace)
		}
	}()
	for _, p := range badNets {
		a.core.Route(p, func(*Packet) {})
	}
	c := &siege{mallory: a, frames: true}
	a.Tap = c.tap
	c.next()
	rng := a.Rand()
	pick := func() *Visited { return a.nets[a.names[rng.IntN(len(a.names))]] }
	a.mn.Iface("wl0").Attach(pick())
	for range 20 {
		a.disturb(pick)
		gap := time.Duration(rng.Int64N(int64(2 * sec)))
		if rng.IntN(3) == 0 {
			gap *= 20
		}
		a.Run(gap)
	}
	c.frames = false
	a.settle(pick)
	return a.answered(3*sec + 2*wanted + backOff), c.sent
}

// answered waits until the node answers from both home addresses; it gives the time that took. A repeated ping or answer of
// before does not count.
func (a *mallory) answered(within time.Duration) time.Duration {
	a.t.Helper()
	from := a.Elapsed()
	for seq := uint16(40_000); a.Elapsed() <= from+within; seq++ {
		a.cn.Replies = a.cn.Replies[:0]
		a.cn.Ping(mn4, seq)
		a.cn.Ping(mn6, seq)
		if a.RunUntil(100*ms, func() bool {
			var v4, v6 bool
			for _, r := range a.cn.Replies {
				v4, v6 = v4 || r.From == mn4 && r.Seq == seq, v6 || r.From == mn6 && r.Seq == seq
			}
			return v4 && v6
		}) {
			return a.Elapsed() - from
		}
	}
	a.t.Fatalf("seed %d: at %v the node had not answered for %v", a.opt.seed, a.Elapsed(), within)
	return 0
}

// siege sends variations of what it sees.
type siege struct {
	*mallory
	ring   [256]Packet // the newest
	n      int
	frames bool
	sent   int
}

func (c *siege) tap(p *Packet) {
	if p.From != "mallory" && len(p.B) > 0 {
		q := *p
		q.B = bytes.Clone(p.B)
		c.ring[c.n%len(c.ring)] = q
		c.n++
	}
}

// next sends a packet, or a handful, and comes again.
func (c *siege) next() {
	rng := c.Rand()
	if c.n > 0 {
		for range 1 + rng.IntN(3) {
			c.strike(c.ring[rng.IntN(min(c.n, len(c.ring)))])
		}
	}
	c.After(time.Duration(rng.Int64N(int64(60*ms))), c.next)
}

func (c *siege) strike(p Packet) {
	c.sent++
	rng := c.Rand()
	b := bytes.Clone(p.B)
	if p.Kind == Frame {
		if !c.frames || c.nets[p.Link] == nil {
			return
		}
		for _, i := range c.nets[p.Link].here {
			i.m.heard(i, c.vary(b, 14))
		}
		return
	}
	b = c.vary(b, 0)
	if len(b) == 0 {
		return
	}
	if on := c.mn.Iface("wl0").On(); on != nil && rng.IntN(3) == 0 {
		if h, err := ip.Parse(b); err == nil && on.Prefix6.IsValid() != h.Src.Is4() {
			on.whisper(b)
			return
		}
	}
	c.core.carry(&Packet{Kind: Tunnel, From: "mallory", Src: p.Src, Dst: p.Dst, B: b})
}

// vary changes a packet that begins at octet at; most are made plausible again.
func (c *siege) vary(b []byte, at int) []byte {
	rng := c.Rand()
	pkt := b[at:]
	for range 1 + rng.IntN(3) {
		if len(pkt) < ip.IPv6Len {
			break
		}
		switch rng.IntN(10) {
		case 0: // as it is
		case 1, 2:
			for range 1 + rng.IntN(8) {
				pkt[rng.IntN(len(pkt))] ^= 1 << rng.IntN(8)
			}
		case 3:
			pkt = pkt[:1+rng.IntN(len(pkt))]
		case 4:
			pkt = append(pkt, make([]byte, rng.IntN(200))...)
		case 5: // from somewhere else
			if pkt[0]>>4 == 6 {
				src := []netip.Addr{bad6, ha6, mn6, cn6}[rng.IntN(4)].As16()
				copy(pkt[8:], src[:])
			} else if pkt[0]>>4 == 4 {
				src := []netip.Addr{bad4, ha4, mn4, cn4}[rng.IntN(4)].As4()
				copy(pkt[12:], src[:])
			}
		case 6: // an octet that means something: next headers, types, lengths, flags, ports
			pkt[rng.IntN(min(len(pkt), 72))] = byte(rng.IntN(256))
		case 7: // two packets in one
			if o := c.ring[rng.IntN(min(c.n, len(c.ring)))].B; len(o) > 0 {
				cut := rng.IntN(len(pkt))
				pkt = append(bytes.Clone(pkt[:cut]), o[rng.IntN(len(o)):]...)
			}
		case 8: // an ICMP error about it, to its sender
			if h, err := ip.Parse(pkt); err == nil {
				e := errors6[rng.IntN(len(errors6))]
				src := bad6
				if h.Is4() {
					e, src = errors4[rng.IntN(len(errors4))], bad4
				}
				pkt = icmp(src, h.Src, uint8(e[0]), uint8(e[1]), e[2], pkt)
			}
		case 9: // the first piece of it
			if h, err := ip.Parse(pkt); err == nil && !h.Is4() {
				pkt = outer(h.Src, h.Dst, ip.Fragment, append([]byte{h.Proto, 0, 0, 1, 0, 0, 0, byte(rng.IntN(4))}, pkt[h.HdrLen:]...))
			}
		}
	}
	if rng.IntN(4) > 0 {
		pkt = plausible(pkt)
	}
	return append(bytes.Clone(b[:at]), pkt...)
}

// plausible puts lengths and checksums right, as far as they are found.
func plausible(b []byte) []byte {
	b = bytes.Clone(b)
	switch {
	case len(b) >= ip.IPv6Len && b[0]>>4 == 6 && len(b) <= ip.MaxPacket:
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ip.IPv6Len))
	case len(b) >= ip.IPv4Len && b[0]>>4 == 4 && len(b) <= ip.MaxPacket:
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:ip.IPv4Len]))
	}
	h, err := ip.Parse(b)
	if err != nil {
		return b
	}
	u, err := ip.FindUpper(b, &h)
	if err != nil || u.Fragment || u.Off+8 > len(b) {
		return b
	}
	src, dst, up := h.Src, h.Dst, b[u.Off:h.Len]
	switch u.Proto {
	case ip.UDP:
		copy(b[u.Off+ip.UDPLen:], plausible(up[ip.UDPLen:]))
		binary.BigEndian.PutUint16(up[4:], uint16(len(up)))
		sum(up, 6, src, dst, ip.UDP)
	case ip.IPv4, ip.IPv6:
		copy(up, plausible(up))
	case ip.ICMPv6:
		sum(up, 2, src, dst, ip.ICMPv6)
	case ip.Mobility:
		if s, err := ip.ParseSignal(b); err == nil {
			src, dst = s.Ends()
		}
		up[1] = byte(len(up)/8 - 1)
		sum(up, 4, src, dst, ip.Mobility)
	}
	return b
}

func sum(up []byte, at int, src, dst netip.Addr, proto uint8) {
	binary.BigEndian.PutUint16(up[at:], 0)
	binary.BigEndian.PutUint16(up[at:], ip.PseudoChecksum(src, dst, proto, up))
}
