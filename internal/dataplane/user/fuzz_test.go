package user

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// FuzzPath gives the plane whatever a device, an access link or a socket may: virtio-net headers and packets, several in a batch. What the
// engine makes of a super packet is what it makes of each segment by itself, cut by other code; what is put together for the kernel comes apart
// again as it was.
func FuzzPath(f *testing.F) {
	for role := range uint8(3) {
		native, tunnel := conformance.Corpus(f, Role(role), "../../..")
		for i, b := range native {
			if i%11 == 0 {
				f.Add(role, uint8(i), false, slices.Concat(batched(b, seedVNet(b, i)), batched(b, seedVNet(b, i+1)), batched(b, ip.VNet{})))
			}
		}
		for i, b := range tunnel {
			if i%97 == 0 {
				f.Add(role, uint8(i), true, slices.Concat(batched(b, ip.VNet{}), batched(tunnel[(i+1)%len(tunnel)], ip.VNet{})))
			}
		}
		for i, e := range fuzzEncaps(Role(role)) {
			for _, pkt := range [][]byte{segment{n: 900}.packet(), segment{four: true, udp: true, n: 1200, df: true}.packet()} {
				o := newFuzzed(f, other(Role(role)), e)
				if Role(role) == Anchor { // sums do not care which address is first
					n := map[bool]int{true: 4, false: 16}[is4(pkt)]
					at := map[bool]int{true: 12, false: 8}[is4(pkt)]
					copy(pkt[at:], slices.Concat(pkt[at+n:at+2*n], pkt[at:at+n]))
				}
				o.Native(time.Hour, o.in(pkt, ip.VNet{}), &o.out)
				if len(o.out.Packets) == 0 {
					f.Fatalf("%v in %s: no seed", Role(role), e.Name)
				}
				for _, out := range o.out.Packets {
					f.Add(role, uint8(i), true, slices.Concat(batched(out.B, ip.VNet{}), batched(out.B, ip.VNet{})))
				}
			}
		}
	}
	// Batches of a flow that is put together, each with one packet that is not as the others.
	for _, change := range []func(s *segment){
		func(*segment) {}, func(s *segment) { s.tos = 3 }, func(s *segment) { s.ttl++ }, func(s *segment) { s.ack++ }, func(s *segment) { s.seq++ }, func(s *segment) { s.flags = 0x18 },
		func(s *segment) { s.badSum = true }, func(s *segment) { s.n = 50 }, func(s *segment) { s.n = 101 }, func(s *segment) { s.options = 4 }, func(s *segment) { s.id += 5 },
	} {
		for kind := range 4 {
			var all []byte
			o := newFuzzed(f, Anchor, fuzzEncaps(Node)[2])
			for n := range 5 {
				s := segment{four: kind&1 != 0, udp: kind&2 != 0, seq: uint32(100 * n), n: 100, id: uint16(n), df: true}
				if n == 2 {
					change(&s)
				}
				o.out.Reset()
				o.Native(time.Hour, o.in(s.packet(), ip.VNet{}), &o.out)
				for _, out := range o.out.Packets {
					all = append(all, batched(out.B, ip.VNet{})...)
				}
			}
			f.Add(uint8(Node), uint8(2), true, all)
		}
	}
	f.Fuzz(func(t *testing.T, role, encap uint8, tunnel bool, data []byte) {
		r := Role(role % 3)
		all := fuzzEncaps(r)
		e := all[int(encap)%len(all)]
		p, o := newFuzzed(t, r, e), newFuzzed(t, r, e)
		var run []mem.Packet
		for n := 0; len(data) > 2 && n < 12; n++ {
			size := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			msg := data[2 : 2+size]
			data = data[2+size:]
			if tunnel {
				p.tunnel(t, o, bytes.Clone(msg))
			} else {
				p.native(t, o, bytes.Clone(msg))
			}
			for _, out := range p.out.Packets {
				out.B, out.Tail = bytes.Clone(out.B), bytes.Clone(out.Tail)
				run = append(run, out)
			}
		}
		leaves(t, r, run)
	})
}

// other is the role of a tunnel's other end.
func other(r Role) Role {
	if r == Anchor {
		return Node
	}
	return Anchor
}

// fuzzEncaps are those of a role's peer and its own.
func fuzzEncaps(r Role) []conformance.Encap {
	if r == Anchor {
		r = Node
	}
	return append(conformance.Encaps(r), conformance.ChainedEncaps(r)...)
}

// batched is one message of the fuzzer's input.
func batched(pkt []byte, v ip.VNet) []byte {
	b := make([]byte, 2+ip.VNetLen)
	binary.BigEndian.PutUint16(b, uint16(ip.VNetLen+len(pkt)))
	if v.NeedsChecksum {
		b[2] = 1
	}
	b[3] = v.Type
	le := binary.LittleEndian
	le.PutUint16(b[6:], uint16(v.Size))
	le.PutUint16(b[8:], uint16(v.CsumStart))
	le.PutUint16(b[10:], uint16(v.CsumOffset))
	return append(b, pkt...)
}

// seedVNet is one that may fit a packet.
func seedVNet(b []byte, i int) ip.VNet {
	v := ip.VNet{NeedsChecksum: i%3 != 0, Type: []uint8{ip.GSONone, ip.GSOTCP4, ip.GSOTCP6, ip.GSOUDPL4, ip.GSOUDP, 0x81}[i%6], Size: []int{0, 1, 20, 536}[i%4], CsumStart: 40, CsumOffset: 16}
	if len(b) > 9 && b[0]>>4 == 4 {
		v.CsumStart = 20
		if b[9] == ip.UDP {
			v.CsumOffset, v.Type = 6, ip.GSOUDPL4
		}
	} else if len(b) > 6 && b[6] == ip.UDP {
		v.CsumOffset, v.Type = 6, ip.GSOUDPL4
	}
	return v
}

// fuzzed is a plane without sockets.
type fuzzed struct {
	*Plane
	out mem.Out
}

const fuzzLink = 1

var fuzzHost = core.MAC{2, 0, 0, 0, 0, 0x0a}

func newFuzzed(t testing.TB, r Role, e conformance.Encap) *fuzzed {
	t.Helper()
	cfg := mem.Config{Role: r, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, Security: conformance.Security(t, r == Anchor), Forwarded: true, Now: func() time.Duration { return time.Hour }}
	set := core.SetSession{ID: 1, Chain: e.Top}
	if r != Anchor {
		cfg.Local, set.Chain = []netip.Addr{conformance.CoA1, conformance.CoA4}, e.End
	}
	if r == Gateway {
		set.If, set.MAC = fuzzLink, fuzzHost
		cfg.Access = []dataplane.Link{{If: fuzzLink, Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}
	}
	engine, err := mem.New(cfg)
	must(t, err)
	ops := []core.Op{set}
	for _, a := range []netip.Addr{conformance.H16, conformance.H14} {
		m := core.Match{Src: netip.PrefixFrom(a, a.BitLen()), If: set.If, MAC: set.MAC}
		if r == Anchor {
			m = core.Match{Dst: m.Src}
		}
		ops = append(ops, core.SetKey{ID: 1, Match: m, Up: true, Down: true})
	}
	must(t, engine.Update(ops))
	return &fuzzed{Plane: &Plane{Engine: engine, cfg: Config{Role: r, Local: cfg.Local}, vnet: true}}
}

func (p *fuzzed) in(b []byte, v ip.VNet) mem.Native {
	in := mem.Native{B: b, VNet: v}
	if p.cfg.Role == Gateway {
		in.If, in.MAC = fuzzLink, fuzzHost
	}
	return in
}

// did is what an engine counted.
func (p *fuzzed) did(t *testing.T) (drops map[wire.Reason]uint64, n core.Counter) {
	t.Helper()
	drops = map[wire.Reason]uint64{}
	p.Drops(func(r wire.Reason, n uint64) { drops[r] = n })
	var c [1]core.Counter
	must(t, p.Counters([]core.ID{1}, c[:]))
	return drops, c[0]
}

// native gives msg, a virtio-net header and a packet, to p, and what a device would have made of it to o.
func (p *fuzzed) native(t *testing.T, o *fuzzed, msg []byte) {
	p.out.Reset()
	p.out.Split = true // as the readers of devices and links have it; o has each packet in one part
	o.out.Reset()
	v, err := ip.ParseVNet(msg)
	if err != nil {
		p.fromTUN(time.Hour, bytes.Clone(msg), &p.out)
		if len(p.out.Packets) != 0 || p.Dropped(wire.Malformed) != o.Dropped(wire.Malformed)+1 {
			t.Fatalf("%x is no virtio-net header", msg)
		}
		o.Count(wire.Malformed)
		return
	}
	pkt := bytes.Clone(msg[ip.VNetLen:])
	if p.cfg.Role == Gateway {
		p.Native(time.Hour, p.in(msg[ip.VNetLen:], v), &p.out)
	} else {
		if len(pkt) >= ip.IPv6Len && pkt[0]>>4 == 6 && pkt[24] == 0xff {
			return // the kernel's own
		}
		p.fromTUN(time.Hour, msg, &p.out)
	}
	segs, why := apart(pkt, v)
	if why != "" {
		o.Count(why)
	}
	want := []string{}
	for _, s := range segs {
		o.out.Reset()
		o.Native(time.Hour, o.in(s, ip.VNet{}), &o.out)
		want = append(want, forms(o.out.Packets)...)
	}
	p.same(t, o, want)
}

func (p *fuzzed) same(t *testing.T, o *fuzzed, want []string) {
	t.Helper()
	if got := forms(p.out.Packets); !slices.Equal(got, want) {
		t.Fatalf("%d packets,\n%q, want %d,\n%q", len(got), got, len(want), want)
	}
	gd, gc := p.did(t)
	wd, wc := o.did(t)
	if !maps.Equal(gd, wd) || gc != wc {
		t.Fatalf("counted %v, %+v,\nwant %v, %+v", gd, gc, wd, wc)
	}
}

// apart is what the virtio specification, 5.1.6.2, has a device do, written again.
func apart(b []byte, v ip.VNet) (segs [][]byte, why wire.Reason) {
	if v.Type == ip.GSONone {
		if v.NeedsChecksum {
			if v.CsumStart > len(b) || v.CsumStart+v.CsumOffset+2 > len(b) {
				return nil, wire.Malformed
			}
			put(b[v.CsumStart+v.CsumOffset:], folded(b[v.CsumStart:]), v.CsumOffset == 6)
		}
		return [][]byte{b}, ""
	}
	h, err := ip.Parse(b)
	if err != nil {
		return nil, wire.BadInner
	}
	u, err := ip.FindUpper(b, &h)
	up := b[min(u.Off, h.Len):h.Len]
	head, field := 8, 6
	switch fits := err == nil && v.Size > 0 && !u.Fragment; {
	case fits && u.Proto == ip.UDP && v.Type == ip.GSOUDPL4 && len(up) >= head:
	case fits && u.Proto == ip.TCP && (v.Type == ip.GSOTCP4 && h.Is4() || v.Type == ip.GSOTCP6 && !h.Is4()) && len(up) >= 20:
		if head, field = int(up[12]>>4)*4, 16; head < 20 || head > len(up) {
			return nil, wire.BadInner
		}
	default:
		return nil, wire.BadInner
	}
	payload := up[head:]
	for i := 0; i == 0 || i*v.Size < len(payload); i++ {
		part := payload[i*v.Size : min((i+1)*v.Size, len(payload))]
		last := (i+1)*v.Size >= len(payload)
		s := slices.Concat(b[:u.Off+head], part)
		su := s[u.Off:]
		if field == 6 {
			binary.BigEndian.PutUint16(su[4:], uint16(len(su)))
		} else {
			binary.BigEndian.PutUint32(su[4:], binary.BigEndian.Uint32(su[4:])+uint32(i*v.Size))
			if !last {
				su[13] &^= 1 | 8 // FIN, PSH
			}
			if i > 0 {
				su[13] &^= 0x80 // CWR
			}
		}
		pseudo := slices.Concat(h.Src.AsSlice(), h.Dst.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(su))), []byte{0, 0, 0, u.Proto})
		su[field], su[field+1] = 0, 0
		put(su[field:], folded(append(pseudo, su...)), field == 6)
		if h.Is4() {
			binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
			binary.BigEndian.PutUint16(s[4:], binary.BigEndian.Uint16(b[4:])+uint16(i))
			s[10], s[11] = 0, 0
			put(s[10:], folded(s[:h.HdrLen]), false)
		} else {
			binary.BigEndian.PutUint16(s[4:], uint16(len(s)-40))
		}
		segs = append(segs, s)
	}
	return segs, ""
}

func folded(b []byte) uint16 {
	sum := 0
	for i, x := range b {
		sum += int(x) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func put(b []byte, sum uint16, udp bool) {
	if sum == 0 && udp {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, sum)
}

// tunnel gives an outer packet to p as its sockets would, and to o as a whole.
func (p *fuzzed) tunnel(t *testing.T, o *fuzzed, msg []byte) {
	p.out.Reset()
	p.out.Split = false
	o.out.Reset()
	if len(msg) < ip.VNetLen {
		return
	}
	pkt := msg[ip.VNetLen:]
	h, err := ip.Parse(pkt)
	if err != nil || h.Is4() && (h.Off != 0 || h.MF || pkt[0] != 0x45) || !slices.Contains(p.cfg.Local, h.Dst) {
		return
	}
	out := mem.Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), TOS: h.TOS, Proto: h.Proto, Offload: true}
	body := bytes.Clone(pkt[h.HdrLen:h.Len])
	switch h.Proto {
	case ip.IPv4, ip.IPv6, ip.GRE, ip.ESP:
	case ip.UDP:
		if len(body) < ip.UDPLen {
			return
		}
		n, to := int(binary.BigEndian.Uint16(body[4:])), binary.BigEndian.Uint16(body[2:])
		sum := binary.BigEndian.Uint16(body[6:])
		if n < ip.UDPLen || n > len(body) || to != dataplane.PortUDP && to != mem.PortESP || sum == 0 && !h.Is4() || sum != 0 && ip.PseudoChecksum(h.Src, h.Dst, ip.UDP, body[:n]) != 0 {
			return // nothing that a socket hands over
		}
		out.Local, out.Remote = netip.AddrPortFrom(h.Dst, to), netip.AddrPortFrom(h.Src, binary.BigEndian.Uint16(body))
		if body = body[ip.UDPLen:n]; to == mem.PortESP {
			out.Proto = ip.ESP
		}
	default:
		return
	}
	p.Decapsulate(time.Hour, out, body, &p.out)
	o.Tunnel(time.Hour, bytes.Clone(pkt[:h.Len]), &o.out)
	// A checksum that looks as if it were left to the device is completed by the one and not by the other.
	for _, x := range o.out.Packets {
		if in, err := ip.Parse(x.B); err == nil && x.To == dataplane.ToNative {
			u, _ := ip.FindUpper(x.B, &in)
			if partial := bytes.Clone(x.B); ip.CompletePartial(partial, &in, &u) && !bytes.Equal(partial, x.B) || len(x.B) > 1500-28 {
				return
			}
		}
	}
	p.same(t, o, forms(o.out.Packets))
}

// forms are packets without what is random: Identifications, flow labels of ESP, and what is computed from them.
func forms(all []mem.Packet) []string {
	out := []string{}
	for _, p := range all {
		b := slices.Concat(p.B, p.Tail)
		for at := b; len(at) >= 20; {
			at = blanked(at)
		}
		out = append(out, fmt.Sprintf("%v %d %v %+v %x", p.To, p.If, p.MAC, p.Outer, b))
	}
	return out
}

// blanked blanks one header in place, and gives what is in a tunnel packet.
func blanked(b []byte) []byte {
	var proto byte
	at := 40
	switch {
	case b[0] == 0x45:
		b[4], b[5], b[10], b[11] = 0, 0, 0, 0
		if proto, at = b[9], 20; binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return nil
		}
	case b[0]>>4 == 6 && len(b) >= 48:
		if proto = b[6]; proto == 44 {
			copy(b[44:48], []byte{0, 0, 0, 0})
			return nil
		}
	default:
		return nil
	}
	switch {
	case proto == ip.UDP && len(b) >= at+8 && binary.BigEndian.Uint16(b[at:]) == mem.PortESP, proto == ip.ESP:
		// What is inside may have a random part, and then all is.
		b[1], b[2], b[3] = 0, 0, 0
		clear(b[min(at+8, len(b)):])
		return nil
	case proto == ip.UDP && len(b) >= at+8 && binary.BigEndian.Uint16(b[at:]) == dataplane.PortUDP:
		b[at+6], b[at+7] = 0, 0
		if at += 8; len(b) > at && b[at]>>4 <= 1 { // a TLV header
			if b[at+1] == ip.GRE || b[at] == 4 {
				proto = ip.GRE
			}
			at += 4
		}
	case proto == ip.IPv4, proto == ip.IPv6, proto == ip.GRE:
	case proto == ip.ICMPv4, proto == ip.ICMPv6:
		return nil
	default:
		return nil
	}
	if proto == ip.GRE && len(b) > at+4 {
		if b[at]&0x20 != 0 {
			at += 4
		}
		at += 4
	}
	if at >= len(b) {
		return nil
	}
	return b[at:]
}

// leaves: what is put together for the kernel comes apart as it was.
func leaves(t *testing.T, r Role, all []mem.Packet) {
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n].To == all[i].To && is4(all[i+n].B) == is4(all[i].B) {
			n++
		}
		run := all[i : i+n]
		i += n
		switch run[0].To {
		case dataplane.ToTunnel:
			datagrams(t, run)
		case dataplane.ToNative:
			link := 0
			if r == Gateway {
				link = etherLen
			}
			want, got := map[string][]string{}, map[string][]string{}
			for _, p := range run {
				k := flowOf(p.B)
				want[k] = append(want[k], settled(slices.Concat(p.B, p.Tail)))
			}
			for _, s := range coalesce(t, run, link) {
				for _, b := range s {
					k := flowOf(b)
					got[k] = append(got[k], settled(b))
				}
			}
			if !maps.EqualFunc(got, want, slices.Equal) {
				t.Fatalf("put together and cut:\n%q, want\n%q", got, want)
			}
		}
	}
}

// flowOf are protocol, addresses and, where they are sure, ports.
func flowOf(b []byte) string {
	src, dst := ends(b)
	k := fmt.Sprint(src, dst, upper(b))
	if off := map[bool]int{true: ip.IPv4Len, false: ip.IPv6Len}[is4(b)]; (upper(b) == ip.TCP || upper(b) == ip.UDP) && len(b) >= off+4 && (!is4(b) || b[0] == 0x45 && binary.BigEndian.Uint16(b[6:])&0x3fff == 0) {
		k += fmt.Sprintf("%x", b[off:off+4])
	}
	return k
}

// settled is a packet whose TCP checksum has one of its two zeros, and which has no Identification if it may not be fragmented.
func settled(b []byte) string {
	b = bytes.Clone(b)
	if is4(b) && b[0] == 0x45 && b[6]&0x40 != 0 {
		b[4], b[5], b[10], b[11] = 0, 0, 0, 0
	}
	if off := map[bool]int{true: ip.IPv4Len, false: ip.IPv6Len}[is4(b)]; upper(b) == ip.TCP && len(b) >= off+20 && b[off+16] == 0xff && b[off+17] == 0xff {
		b[off+16], b[off+17] = 0, 0
	}
	return string(b)
}

// datagrams: what UDP_SEGMENT makes of a run is the run.
func datagrams(t *testing.T, run []mem.Packet) {
	for i := 0; i < len(run); {
		n := segments(run[i:])
		if n < 1 || i+n > len(run) || n > maxSegments {
			t.Fatalf("%d segments of %d", n, len(run)-i)
		}
		a := slices.Concat(run[i].B, run[i].Tail)
		for j := 1; n > 1 && j < n; j++ {
			b := slices.Concat(run[i+j].B, run[i+j].Tail)
			off := map[bool]int{true: ip.IPv4Len, false: ip.IPv6Len}[is4(a)]
			// By the kernel: the first one's headers, the length and checksums, a Identification that counts up.
			made := slices.Concat(a[:off+6], b[off+6:])
			copy(made[off+4:off+6], b[off+4:])
			if is4(a) {
				copy(made[2:6], b[2:6])
				copy(made[10:12], b[10:12])
			} else {
				copy(made[4:6], b[4:])
			}
			if !bytes.Equal(made, b) || len(b) > len(a) || j < n-1 && len(b) != len(a) {
				t.Fatalf("packet %d of a run of %d is\n%x, and would be\n%x", j, n, b, made)
			}
		}
		i += n
	}
}
