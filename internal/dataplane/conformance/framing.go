package conformance

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// port is the one of packets in UDP.
const port = 4191

// framing is a way to carry packets between the router and the other end of its tunnel.
type framing struct {
	name          string
	local, remote netip.AddrPort
}

func (f framing) is4() bool { return f.remote.Addr().Is4() }
func (f framing) udp() bool { return f.local.Port() != 0 }

// head is what the framing costs: 20, 28, 40 or 48 octets.
func (f framing) head() int {
	n := headerLen(f.remote.Addr())
	if f.udp() {
		n += 8
	}
	return n
}

func (f framing) chain() core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: f.local, Remote: f.remote}}}
}

// back is the framing as the other end sees it.
func (f framing) back() framing { return framing{f.name, f.remote, f.local} }

// plain is the framing without UDP between the same addresses.
func (f framing) plain() framing {
	return framing{f.name, netip.AddrPortFrom(f.local.Addr(), 0), netip.AddrPortFrom(f.remote.Addr(), 0)}
}

// other is the other framing between the same addresses.
func (f framing) other() framing {
	if f.udp() {
		return f.plain()
	}
	return framing{f.name, ap(f.local.Addr(), port), ap(f.remote.Addr(), port)}
}

// wrap is the outer packet: figures 4.1 and 4.4.3 of RFC 5555, RFC 2003 3.1, RFC 4213 3.5. Traffic class copied, TTL 64. In IPv4
// the Identification and checksum are left out, as they are compared.
func (f framing) wrap(inner []byte, h hdr) []byte {
	next := byte(41)
	h = hopsLeft(h, inner)
	if h.tos == 0 {
		h.tos = inner[0]<<4 | inner[1]>>4
	}
	if inner[0]>>4 == 4 {
		next = 4
		if h.tos == inner[0]<<4|inner[1]>>4 {
			h.tos = inner[1]
		}
	}
	if f.udp() {
		next, inner = 17, datagram(f.local, f.remote, inner)
	}
	return packet(f.local.Addr(), f.remote.Addr(), next, h, inner)
}

// wrapDF is what the router emits: Don't Fragment as the inner IPv4 packet says, and for IPv6 where the tunnel carries 1,280
// octets in one piece.
func (f framing) wrapDF(inner []byte) []byte {
	return f.compared(f.wrap(inner, hdr{df: inner[0]>>4 == 6 || inner[6]&0x40 != 0}))
}

// compared takes out what is the router's choice.
func (f framing) compared(b []byte) []byte {
	if b[0]>>4 == 4 {
		copy(b[4:], []byte{0, 0})
		copy(b[10:], []byte{0, 0})
	}
	return b
}

func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	sum := pseudoSum(src.Addr(), dst.Addr(), 17, b)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// cutOuter fragments an outer packet of either family (RFC 791 2.3 has no options here).
func (f framing) cutOuter(pkt []byte, mtu int) (out [][]byte) {
	if !f.is4() {
		return cut(pkt, mtu)
	}
	step, body := (mtu-20)/8*8, pkt[20:]
	for off := 0; off < len(body); off += step {
		end := min(off+step, len(body))
		p := slices.Concat(pkt[:20], body[off:end])
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		v := uint16(off / 8)
		if end < len(body) {
			v |= 0x2000
		}
		binary.BigEndian.PutUint16(p[6:], v)
		copy(p[10:], []byte{0, 0})
		binary.BigEndian.PutUint16(p[10:], plainSum(p[:20]))
		out = append(out, p)
	}
	return out
}

// view is a router with one session in one framing: packets of host 1 go out of one side and into the other.
type view struct {
	*bench
	f    framing
	role dataplane.Role
}

// ends are source and destination of what enters the tunnel.
func (v view) ends(fam family) (src, dst netip.Addr) {
	if v.role == dataplane.Node {
		return fam.one, fam.cn
	}
	return fam.cn, fam.one
}

// hop is what is left of a hop limit: a node forwards nothing.
func (v view) hop(before int) int {
	if v.role == dataplane.Node {
		return before
	}
	return before - 1
}

func (v view) native(b []byte) Packet { return Packet{Side: Native, B: b} }
func (v view) out(b []byte) want      { return want{Packet: Packet{Side: Native, B: b}} }

// told wants an ICMP error back on the native side.
func (v view) told(dst netip.Addr, typ, code byte, info uint32, about []byte) want {
	return told(dst, typ, code, info, about)
}

// tooBig wants the error of the family.
func (v view) tooBig(mtu int, about []byte) want {
	src, _, _ := addresses(about)
	if src.Is4() {
		return v.told(src, 3, 4, uint32(mtu), about)
	}
	return v.told(src, 2, 0, uint32(mtu), about)
}

var (
	probeID = uint16(0x4b47)
	node    = Options{Role: dataplane.Node, Home: []netip.Addr{H26}, Anchors: []netip.Addr{LMAA}, ProbeID: probeID, Unreachable: true}
)

func ap(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// framingsOf are those of a role: to gateway 1 or a node, which may be behind a NAT; or from a node to its home agent.
func framingsOf(r dataplane.Role) []framing {
	if r == dataplane.Node {
		return []framing{
			{"IPv6", ap(CoA1, 0), ap(LMAA, 0)}, {"IPv4", ap(CoA4, 0), ap(LMAA4, 0)},
			{"UDP over IPv4", ap(CoA4, port), ap(LMAA4, port)}, {"UDP over IPv6", ap(CoA1, port), ap(LMAA, port)},
		}
	}
	return []framing{
		{"IPv6", ap(LMAA, 0), ap(CoA1, 0)}, {"IPv4", ap(LMAA4, 0), ap(CoA4, 0)},
		{"UDP over IPv4", ap(LMAA4, port), ap(NAT4, 40001)}, {"UDP over IPv6", ap(LMAA, port), ap(CoA1, 40001)},
	}
}

// inEach makes a case for each role and framing.
func inEach(name string, f func(v view)) (out []testCase) {
	for _, o := range []Options{anchor, node} {
		for _, fr := range framingsOf(o.Role) {
			role := map[dataplane.Role]string{dataplane.Anchor: "anchor", dataplane.Node: "node"}[o.Role]
			out = append(out, testCase{name: role + " in " + fr.name + "/" + name, o: o, f: func(b *bench) {
				b.update(core.SetSession{ID: sessionOne, Chain: fr.chain(), Grace: grace})
				b.r.Advance(grace) // of the setup's chain
				f(view{b, fr, o.Role})
			}})
		}
	}
	return out
}
