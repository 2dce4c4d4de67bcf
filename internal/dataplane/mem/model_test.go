package mem

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"

	"pgregory.net/rapid"
)

// model is the contract in its plainest form: lists, searched from end to end.
type model struct {
	role     dataplane.Role
	sessions map[core.ID]modelSession
	keys     []core.SetKey
}

type modelSession struct {
	now, before core.Layer
	until       time.Duration
	ifi         int
	mac         core.MAC
}

// own is the layer as packets have it: without a port if it is plain.
func own(l core.Layer) core.Layer {
	if l.Local.Port() == 0 {
		l.Remote = netip.AddrPortFrom(l.Remote.Addr(), 0)
	}
	return l
}

// takes: does a session whose layer is l take packets of tuple t?
func takes(l, t core.Layer) bool {
	if own(l) == t {
		return true
	}
	if l.GRE || t.GRE || l.TLV != t.TLV || l.TLV != 0 {
		return false // these have no twin
	}
	if !l.Remote.Addr().Is4() || l.Local.Addr() != t.Local.Addr() || l.Remote.Addr() != t.Remote.Addr() {
		return false
	}
	if l.Local.Port() != 0 {
		return t.Local.Port() == 0
	}
	port := l.Remote.Port()
	if port == 0 {
		port = 4191
	}
	return t.Local.Port() == 4191 && t.Remote.Port() == port
}

func (s modelSession) accepts(t core.Layer, now time.Duration) bool {
	return takes(s.now, t) || now < s.until && takes(s.before, t)
}

func (m *model) prefix(k core.Match) netip.Prefix {
	if m.role != dataplane.Anchor {
		return k.Src
	}
	return k.Dst
}

func (m *model) apply(op core.Op, now time.Duration) bool {
	switch op := op.(type) {
	case core.SetSession:
		s, ok := m.sessions[op.ID]
		if l := op.Chain.Layer[0]; !ok {
			s = modelSession{now: l}
		} else if own(l) != own(s.now) {
			s.before, s.until, s.now = s.now, now+op.Grace, l
		} else {
			s.now = l // perhaps with another port for UDP beside the plain framing
		}
		s.ifi, s.mac = op.If, op.MAC
		m.sessions[op.ID] = s
	case core.SetKey:
		if _, ok := m.sessions[op.ID]; !ok {
			return false
		}
		found := false
		for i := range m.keys {
			k := &m.keys[i]
			if op.Down && k.ID != op.ID && m.prefix(k.Match) == m.prefix(op.Match) {
				k.Down = false
			}
			if k.ID == op.ID && k.Match == op.Match {
				*k, found = op, true
			}
		}
		if !found {
			m.keys = append(m.keys, op)
		}
	case core.Drop:
		var left []core.SetKey
		for _, k := range m.keys {
			if op.ID != 0 && k.ID != op.ID || op.ID == 0 && k.Match != op.Match {
				left = append(left, k)
			}
		}
		m.keys = left
		if op.ID != 0 {
			delete(m.sessions, op.ID)
		}
	}
	return true
}

// down is the session that packets to a go to, 0 = none.
func (m *model) down(a netip.Addr) (id core.ID) {
	best := -1
	for _, k := range m.keys {
		if p := m.prefix(k.Match); k.Down && p.Contains(a) && p.Bits() > best {
			id, best = k.ID, p.Bits()
		}
	}
	return id
}

// expected: does a session that neither sends nor delivers the key that packets to a go by take them out of the tunnel t?
func (m *model) expected(a netip.Addr, t core.Layer, now time.Duration) bool {
	var by netip.Prefix
	for _, k := range m.keys {
		if p := m.prefix(k.Match); k.Down && p.Contains(a) && p.Bits() > by.Bits() {
			by = p
		}
	}
	for _, k := range m.keys {
		if !k.Up && !k.Down && m.prefix(k.Match) == by && m.sessions[k.ID].accepts(t, now) {
			return true
		}
	}
	return false
}

// up reports whether a may come out of the tunnel t.
func (m *model) up(a netip.Addr, t core.Layer, now time.Duration) bool {
	for _, k := range m.keys {
		if k.Up && m.prefix(k.Match).Contains(a) && m.sessions[k.ID].accepts(t, now) {
			return true
		}
	}
	return false
}

// from is the session that a host may send in from a, 0 = none.
func (m *model) from(a netip.Addr, ifi int, mac core.MAC) core.ID {
	var best *core.SetKey
	for i := range m.keys {
		k := &m.keys[i]
		s, p := m.sessions[k.ID], m.prefix(k.Match)
		if s.ifi != ifi || s.mac != mac || !p.Contains(a) || m.role == dataplane.Node && !k.Up {
			continue
		}
		if best == nil {
			best = k
			continue
		}
		q := m.prefix(best.Match)
		switch {
		case p.Bits() != q.Bits():
			if p.Bits() > q.Bits() {
				best = k
			}
		case k.Up != best.Up:
			if k.Up {
				best = k
			}
		case k.Down != best.Down:
			if k.Down {
				best = k
			}
		case k.ID > best.ID:
			best = k
		}
	}
	if best == nil || !best.Up {
		return 0
	}
	return best.ID
}

// ends are where sessions of the model go, as the other end has it: framings of few addresses, so that they meet.
func ends(role dataplane.Role) (out []core.Layer) {
	local6, local4 := lmaa, lmaa4
	if role == dataplane.Gateway {
		for _, a := range []netip.Addr{coa, coa2, netip.MustParseAddr("2001:db8:a::13")} {
			out = append(out, core.Layer{Local: plain(lmaa), Remote: plain(a)}, keyedLayer(lmaa, a, 0), keyedLayer(lmaa, a, 7))
		}
		return out
	}
	nat := netip.MustParseAddr("192.0.2.99")
	for _, a := range []netip.Addr{coa, coa2} {
		out = append(out, core.Layer{Local: plain(local6), Remote: plain(a)}, keyedLayer(local6, a, 0), keyedLayer(local6, a, 7))
	}
	out = append(out, core.Layer{Local: netip.AddrPortFrom(local6, 4191), Remote: netip.AddrPortFrom(coa, 4191)})
	for _, a := range []netip.Addr{coa4, nat} {
		out = append(out, core.Layer{Local: plain(local4), Remote: plain(a)}, core.Layer{Local: plain(local4), Remote: netip.AddrPortFrom(a, 5000)})
		for _, port := range []uint16{4191, 5000, 5001} {
			udp := core.Layer{Local: netip.AddrPortFrom(local4, 4191), Remote: netip.AddrPortFrom(a, port)}
			tlv := udp
			tlv.TLV = ip.TLV5845
			out = append(out, udp, tlv)
		}
		out = append(out, keyedLayer(local4, a, 7), keyedLayer(local4, a, 8))
	}
	return out
}

// keyedLayer is one of GRE with the same key both ways.
func keyedLayer(local, remote netip.Addr, key uint32) core.Layer {
	return core.Layer{Local: plain(local), Remote: plain(remote), GRE: true, KeyUp: key, KeyDown: key}
}

// framedIn is an outer packet to us in a layer of the model.
func framedIn(t testing.TB, l core.Layer, inner []byte) []byte {
	proto := uint8(ip.IPv6)
	if inner[0]>>4 == 4 {
		proto = ip.IPv4
	}
	switch {
	case l.TLV != 0:
		return framed(t, l.Local, l.Remote, append(ip.AppendTLV(nil, l.TLV, proto, len(inner)), inner...))
	case l.GRE:
		h := ip.Header{Src: l.Remote.Addr(), Dst: l.Local.Addr(), Proto: ip.GRE, TTL: 64}
		body := append(ip.AppendGRE(nil, proto, l.KeyUp), inner...)
		b, err := h.Append(nil, len(body))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, body...)
	}
	return framed(t, l.Local, l.Remote, inner)
}

// TestAgainstModel applies random ops and packets to an engine and to the model, of all roles, and compares every verdict.
func TestAgainstModel(t *testing.T) {
	prefixes := []netip.Prefix{
		netip.MustParsePrefix("2001:db8:1000:1::/64"), netip.MustParsePrefix("2001:db8:1000::/48"), netip.MustParsePrefix("2001:db8:1000:1::a/128"),
		netip.MustParsePrefix("10.20.0.10/32"), netip.MustParsePrefix("10.20.0.11/32"), netip.MustParsePrefix("10.20.0.0/24"),
	}
	hosts := []netip.Addr{
		home6, netip.MustParseAddr("2001:db8:1000:1::b"), netip.MustParseAddr("2001:db8:1000:2::1"), cn6,
		home4, netip.MustParseAddr("10.20.0.11"), netip.MustParseAddr("10.20.0.12"), cn4,
	}
	macs := []core.MAC{hostA, {2, 0, 0, 0, 0, 11}}
	rapid.Check(t, func(t *rapid.T) {
		role := rapid.SampledFrom([]dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node}).Draw(t, "role")
		now, layers := time.Hour, ends(role)
		cfg := Config{Role: role, Local: []netip.Addr{lmaa, lmaa4}, Now: func() time.Duration { return now }}
		if role == dataplane.Gateway {
			cfg.Access = []dataplane.Link{{If: 1, MAC: routerMAC}, {If: 2, MAC: routerMAC}}
		}
		e, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m := &model{role: role, sessions: map[core.ID]modelSession{}}
		match := func() (k core.Match) {
			p := rapid.SampledFrom(prefixes).Draw(t, "prefix")
			if role != dataplane.Anchor {
				return core.Match{Src: p}
			}
			return core.Match{Dst: p}
		}
		addr := rapid.SampledFrom(hosts)
		var out Out
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := core.ID(rapid.IntRange(1, 3).Draw(t, "id"))
			var op core.Op
			out.Reset()
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				s := core.SetSession{ID: id, Chain: core.Chain{N: 1, Layer: [2]core.Layer{rapid.SampledFrom(layers).Draw(t, "end")}}, Grace: time.Duration(rapid.IntRange(0, 2).Draw(t, "grace")) * time.Second}
				if role == dataplane.Gateway {
					s.If, s.MAC = rapid.IntRange(1, 2).Draw(t, "if"), rapid.SampledFrom(macs).Draw(t, "mac")
				}
				op = s
			case 2, 3:
				op = core.SetKey{ID: id, Match: match(), Up: rapid.Bool().Draw(t, "up"), Down: rapid.Bool().Draw(t, "down")}
			case 4:
				if rapid.Bool().Draw(t, "session") {
					op = core.Drop{ID: id}
				} else {
					op = core.Drop{Match: match()}
				}
			case 5:
				now += time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond
			case 6, 7:
				src, dst := addr.Draw(t, "src"), addr.Draw(t, "dst")
				if src.Is4() != dst.Is4() {
					continue
				}
				in := Native{B: packet(t2(t), src, dst, 64, 10)}
				want := m.down(dst)
				if role == dataplane.Gateway {
					in.If, in.MAC = rapid.IntRange(1, 2).Draw(t, "if"), rapid.SampledFrom(macs).Draw(t, "mac")
					want = m.from(src, in.If, in.MAC)
				} else if role == dataplane.Node {
					want = m.from(src, 0, core.MAC{})
				}
				e.Native(now, in, &out)
				tunnelled := 0
				for _, p := range out.Packets {
					if p.To != dataplane.ToTunnel {
						continue
					}
					tunnelled++
					if got, in := layerOf(t, p.B); want == 0 || got != own(m.sessions[want].now) {
						if isError(in) {
							tunnelled--
							continue
						}
						t.Fatalf("%v > %v went to %+v; want session %d %+v", src, dst, got, want, m.sessions[want])
					}
				}
				if want != 0 && tunnelled != 1 {
					t.Fatalf("%v > %v: %d packets, want one to %+v", src, dst, tunnelled, m.sessions[want].now)
				}
			default:
				src, dst, tuple := addr.Draw(t, "src"), addr.Draw(t, "dst"), own(rapid.SampledFrom(layers).Draw(t, "tuple"))
				if src.Is4() != dst.Is4() {
					continue
				}
				e.Tunnel(now, framedIn(t2(t), tuple, packet(t2(t), src, dst, 64, 10)), &out)
				if role != dataplane.Anchor {
					to := m.down(dst)
					s := m.sessions[to]
					ok := to != 0 && (s.accepts(tuple, now) || role == dataplane.Node && m.expected(dst, tuple, now))
					if got := len(out.Packets) == 1 && out.Packets[0].To == dataplane.ToNative; got != ok || ok && (out.Packets[0].If != s.ifi || out.Packets[0].MAC != s.mac) {
						t.Fatalf("%v > %v in %+v: %+v, want %v to %d %v", src, dst, tuple, out.Packets, ok, s.ifi, s.mac)
					}
					continue
				}
				if ok := m.up(src, tuple, now); !ok && len(out.Packets) != 0 {
					t.Fatalf("%v > %v in %+v was let in", src, dst, tuple)
				} else if to := m.down(dst); ok && to != 0 {
					if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToTunnel {
						t.Fatalf("%v > %v in %+v: %+v, want it to %+v", src, dst, tuple, out.Packets, m.sessions[to].now)
					}
					if got, _ := layerOf(t, out.Packets[0].B); got != own(m.sessions[to].now) {
						t.Fatalf("%v > %v in %+v went to %+v, want %+v", src, dst, tuple, got, m.sessions[to].now)
					}
				}
			}
			if op == nil {
				continue
			}
			err := e.Update([]core.Op{op})
			var at *core.OpError
			if ok := m.apply(op, now); ok != (err == nil) || err != nil && (!errors.As(err, &at) || at.Index != 0) {
				t.Fatalf("%+v: %v, want %v", op, err, ok)
			}
			if len(e.tables.tunnels)+len(e.tables.framed) > 4*len(e.tables.sessions) {
				t.Fatalf("%d+%d tunnels of %d sessions", len(e.tables.tunnels), len(e.tables.framed), len(e.tables.sessions))
			}
		}
		for id := range core.ID(4) {
			if id != 0 {
				if err := e.Update([]core.Op{core.Drop{ID: id}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if ts := &e.tables; len(ts.sessions)+len(ts.tunnels)+len(ts.framed)+len(ts.paths)+len(ts.keys)+len(ts.hosts)+ts.lengths4.n+ts.lengths6.n != 0 {
			t.Fatalf("left over: %+v", ts)
		}
	})
}

// layerOf is the tuple that an outer packet was sent in, and what is in it.
func layerOf(t interface{ Fatalf(string, ...any) }, outer []byte) (l core.Layer, inner []byte) {
	h, err := ip.Parse(outer)
	if err != nil {
		t.Fatalf("%x: %v", outer, err)
	}
	l, inner = core.Layer{Local: plain(h.Src), Remote: plain(h.Dst)}, outer[h.HdrLen:]
	if h.Proto == ip.UDP {
		o := Outer{Local: l.Remote, Remote: l.Local}
		l.Local = netip.AddrPortFrom(h.Src, uint16(inner[0])<<8|uint16(inner[1]))
		l.Remote = netip.AddrPortFrom(h.Dst, uint16(inner[2])<<8|uint16(inner[3]))
		inner[2], inner[3] = 4191>>8, 4191&0xff // as if it were to us, so that its form can be checked
		if l.Remote.Port() == dataplane.PortUDP && !datagram(&o, inner) {
			t.Fatalf("%x is no datagram", outer)
		}
		inner = inner[ip.UDPLen:]
		if layout, _, err := ip.ParseTLV(inner); err == nil {
			l.TLV, inner = layout, inner[ip.TLVLen:]
		}
	}
	if g, err := ip.ParseGRE(inner); h.Proto == ip.GRE && err == nil {
		l.GRE, l.KeyUp, l.KeyDown, inner = true, g.Key, g.Key, inner[g.Len:]
	}
	return l, inner
}

// isError: is it an ICMP error?
func isError(in []byte) bool {
	return in[0]>>4 == 4 && in[9] == 1 || in[0]>>4 == 6 && in[6] == 58
}

// t2 makes a rapid.T do where only Helper and Fatal are wanted.
func t2(t *rapid.T) testing.TB { return rapidTB{rapidT: t} }

type rapidTB struct {
	testing.TB
	rapidT *rapid.T
}

func (r rapidTB) Helper()           {}
func (r rapidTB) Fatal(args ...any) { r.rapidT.Fatal(args...) }

// checkOut holds what is true of all that leaves an engine, whatever came in.
func checkOut(t *testing.T, e *Engine, out *Out) {
	t.Helper()
	for _, p := range out.Packets {
		h, err := ip.Parse(p.B)
		if err != nil || h.Len != len(p.B) {
			t.Fatalf("%v: %x: %v", p.To, p.B, err)
		}
		switch p.To {
		case dataplane.ToTunnel:
			if e.cfg.Role != dataplane.Node && !e.own(h.Src) || h.TTL == 0 || h.TTL > 64 || len(p.B) > 1500 {
				t.Fatalf("outer packet of %d octets %v > %v, hop limit %d", len(p.B), h.Src, h.Dst, h.TTL)
			}
			u, err := ip.FindUpper(p.B, &h)
			if err != nil {
				t.Fatal(err)
			}
			if u.Proto != ip.IPv4 && u.Proto != ip.IPv6 && u.Proto != ip.UDP {
				t.Fatalf("outer packet carries protocol %d", u.Proto)
			}
			if in := p.B[u.Off:]; h.TTL < 64 && !u.Fragment { // of a tunnel packet that goes in a tunnel
				if u.Proto == ip.UDP {
					in = in[ip.UDPLen:]
				}
				if x, err := ip.Parse(in); err != nil || x.TTL != h.TTL {
					t.Fatalf("hop limit %d around one of %d", h.TTL, x.TTL)
				}
			}
			if u.Fragment {
				continue
			}
			inner := p.B[u.Off:]
			if u.Proto == ip.UDP {
				_, inner = layerOf(t, p.B)
			}
			ih, err := ip.Parse(inner)
			if err != nil {
				t.Fatal(err)
			}
			if ih.Src.Is4In6() || ih.Dst.Is4In6() {
				t.Fatalf("a mapped address in a tunnel: %v > %v", ih.Src, ih.Dst)
			}
			iu, _ := ip.FindUpper(inner, &ih)
			if scoped(inner, &ih, &iu, false) {
				t.Fatalf("link scope in a tunnel: %v > %v", ih.Src, ih.Dst)
			}
		case dataplane.ToSelf:
			if h.Proto != ip.ICMPv4 && h.Proto != ip.ICMPv6 {
				t.Fatalf("of its own a router sends ICMP errors, not protocol %d", h.Proto)
			}
		case dataplane.ToSignal:
			if h.Is4() || p.Outer.N != 1 || !e.signals6(p.B, &h) {
				t.Fatalf("signalling %v > %v, protocol %d, in %+v", h.Src, h.Dst, h.Proto, p.Outer)
			}
			// Whatever came in, the answer has a way back.
			if err := e.Encapsulate(time.Hour, p.Outer, p.B, new(Out)); err != nil {
				t.Fatalf("no way back in %+v: %v", p.Outer, err)
			}
		}
	}
}

func FuzzNative(f *testing.F) {
	f.Add(packet(f, cn6, home6, 64, 100), uint8(0), uint16(0))
	f.Add(packet(f, cn4, home4, 1, 1480), uint8(0), uint16(0))
	f.Add(packet(f, home4, cn4, 64, 100), uint8(0), uint16(0))
	f.Add(packet(f, home6, cn6, 2, 3000), uint8(ip.GSOUDPL4), uint16(1000))
	f.Add(packet(f, cn6, home6, 64, 1232), uint8(0), uint16(0))
	f.Add(packet(f, netip.MustParseAddr("fe80::1"), home6, 64, 10), uint8(0), uint16(0))
	f.Add(limited(f, cn6, home6, 0), uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, pkt []byte, kind uint8, size uint16) {
		for _, e := range fuzzed(t) {
			var out Out
			in := Native{If: 1, MAC: hostA, B: append([]byte(nil), pkt...), VNet: ip.VNet{NeedsChecksum: kind != 0, Type: kind, Size: int(size), CsumStart: 40, CsumOffset: 6}}
			e.Native(time.Hour, in, &out)
			checkOut(t, e, &out)
		}
	})
}

// inner is the protocol of the outer packet around one from a.
func inner(a netip.Addr) uint8 {
	if a.Is4() {
		return ip.IPv4
	}
	return ip.IPv6
}

func FuzzTunnel(f *testing.F) {
	f.Add(around(f, coa, lmaa, packet(f, home6, cn6, 64, 100)))
	f.Add(around(f, coa, lmaa, packet(f, home4, home4, 1, 100)))
	f.Add(around(f, lmaa, coa, packet(f, cn4, home4, 64, 100)))
	msg := append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, around(f, lmaa, coa, packet(f, cn6, home6, 64, 1300))[:1232]...)
	sum := ip.PseudoChecksum(coa, lmaa, ip.ICMPv6, msg)
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	h := ip.Header{Src: coa, Dst: lmaa, Proto: ip.ICMPv6, TTL: 64}
	b, err := h.Append(nil, len(msg))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(b, msg...))
	fr, err := ip.NewFragmenter(around(f, coa, lmaa, packet(f, home6, cn6, 64, 1000)), 600, 1)
	if err != nil {
		f.Fatal(err)
	}
	one, _ := fr.Next(nil)
	f.Add(one)
	for _, c := range testFramings {
		f.Add(framed(f, c.local, c.remote, packet(f, home6, cn6, 64, 100)))
		f.Add(framed(f, c.local, c.remote, packet(f, home4, cn4, 64, 100)))
		f.Add(framed(f, c.local, c.remote, mobility(f, home6, lmaa)))
		f.Add(framed(f, c.remote, c.local, mobility(f, lmaa, home6)))
		f.Add(framed(f, netip.AddrPortFrom(coa4, c.remote.Port()), netip.AddrPortFrom(lmaa4, c.local.Port()), packet(f, cn6, home6, 64, 100)))
		e := newFramed(f, dataplane.Anchor, c.local, c.remote, Config{})
		var out Out
		e.Native(time.Hour, Native{B: packet(f, cn6, home6, 64, 1300)}, &out)
		f.Add(icmpAbout(f, c.local.Addr(), out.Packets[0].B, 1232))
		f.Add(icmpAbout(f, c.local.Addr(), out.Packets[0].B, 28))
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		for _, e := range fuzzed(t) {
			var out Out
			e.Tunnel(time.Hour, append([]byte(nil), pkt...), &out)
			if len(pkt) > 8 {
				e.TunnelError(time.Hour, pkt[0]&1 != 0, append([]byte(nil), pkt...), &out)
			}
			for _, s := range e.tables.sessions {
				o := Outer{Local: s.tun.local, Remote: s.tun.remote, Offload: true}
				for _, o.Proto = range []uint8{ip.IPv4, ip.IPv6, ip.UDP} {
					e.Decapsulate(time.Hour, o, append([]byte(nil), pkt...), &out)
				}
			}
			checkOut(t, e, &out)
		}
	})
}

// fuzzed are engines of every role and framing.
func fuzzed(t *testing.T) []*Engine {
	all := []*Engine{newEngine(t, dataplane.Anchor, Config{}), newEngine(t, dataplane.Gateway, Config{})}
	for _, f := range testFramings {
		all = append(all, newFramed(t, dataplane.Anchor, f.local, f.remote, Config{}), newFramed(t, dataplane.Node, f.local, f.remote, Config{}))
	}
	return all
}

// icmpAbout is "too big" about an outer packet, which is quoted as far as n.
func icmpAbout(t testing.TB, to netip.Addr, pkt []byte, n int) []byte {
	t.Helper()
	src, h := coa, ip.Header{Dst: to, Proto: ip.ICMPv6, TTL: 64}
	msg := []byte{2, 0, 0, 0, 0, 0, 5, 0}
	if to.Is4() {
		src, h.Proto, msg[0], msg[1] = coa4, ip.ICMPv4, 3, 4
	}
	h.Src = src
	msg = append(msg, pkt[:min(n, len(pkt))]...)
	sum := ip.Checksum(msg)
	if !to.Is4() {
		sum = ip.PseudoChecksum(src, to, ip.ICMPv6, msg)
	}
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	b, err := h.Append(nil, len(msg))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, msg...)
}

func limited(t testing.TB, src, dst netip.Addr, n uint8) []byte {
	inner := packet(t, cn6, dst, 64, 10)
	h := ip.Header{Src: src, Dst: dst, Proto: ip.DstOpts, TTL: 64}
	b, err := h.Append(nil, 8+len(inner))
	if err != nil {
		t.Fatal(err)
	}
	return append(ip.AppendLimit(b, ip.IPv6, n), inner...)
}
