package signal

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/loop"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Addresses of the tests: a home agent, a node with its home addresses and care-of addresses, and another node.
var (
	haV6     = netip.MustParseAddr("2001:db8:a::1")
	haV4     = netip.MustParseAddr("198.51.100.1")
	hoa      = netip.MustParseAddr("2001:db8:2000::5")
	hoa4     = netip.MustParseAddr("10.20.0.10")
	coa6     = netip.MustParseAddr("2001:db8:c::77")
	coa4     = netip.MustParseAddr("192.0.2.77")
	mapped   = netip.MustParseAddr("::ffff:192.0.2.77")
	otherHoA = netip.MustParseAddr("2001:db8:2000::6")
)

func now() core.Now { return core.Now{Boot: time.Hour, Wall: time.Unix(1_700_000_000, 0)} }

func port(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// sas gives the associations of node and home agent for a home address, from the home agent's side.
func sas(spi uint32) ipsec.SA {
	half := func(seed byte) ipsec.Half {
		return ipsec.Half{Encryption: bytes.Repeat([]byte{seed}, 16), Integrity: bytes.Repeat([]byte{seed + 1}, 32)}
	}
	return ipsec.SA{Use: ipsec.Signalling, SPIIn: spi, SPIOut: spi + 1,
		Keys: ipsec.Keys{Suite: "aes128-sha256", In: half(byte(spi)), Out: half(byte(spi + 7))}}
}

func swap(sa ipsec.SA) ipsec.SA {
	sa.SPIIn, sa.SPIOut, sa.Keys = sa.SPIOut, sa.SPIIn, sa.Keys.Swapped()
	return sa
}

func association(spi uint32) rfc4285.Association {
	return rfc4285.Association{SPI: spi, Key: bytes.Repeat([]byte{byte(spi)}, rfc4285.KeySize)}
}

// peers is the policy of both sides for one node; name is what the home agent calls it.
func peers(protection ipsec.Protection, name string, home netip.Addr, spi uint32) (atHA, atMN ipsec.Peer) {
	atHA = ipsec.Peer{Name: name, Homes: []netip.Addr{home}, Protection: protection}
	atMN = ipsec.Peer{Name: "ha1", Addresses: []netip.Prefix{netip.PrefixFrom(haV6, 128)}, Own: []netip.Addr{home}, Protection: protection}
	switch protection {
	case ipsec.ESP:
		atHA.SAs, atMN.SAs = []ipsec.SA{sas(spi)}, []ipsec.SA{swap(sas(spi))}
	case ipsec.RFC4285:
		atHA.Mobility, atMN.Mobility = association(spi), association(spi)
	}
	return atHA, atMN
}

func engine(t testing.TB, ps ...ipsec.Peer) *ipsec.Engine {
	t.Helper()
	e, err := ipsec.New(ipsec.Config{Peers: ps}, &ipsec.Volatile{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// pair is a home agent that knows two nodes, and both nodes.
func pair(t testing.TB, protection ipsec.Protection) (ha, mn, other *Codec) {
	t.Helper()
	a1, m1 := peers(protection, "mn1", hoa, 0x1001)
	a2, m2 := peers(protection, "mn2", otherHoA, 0x2001)
	return NewCodec(Config{IPsec: engine(t, a1, a2), Mapped: true}),
		NewCodec(Config{IPsec: engine(t, m1), Homes: []netip.Addr{hoa}, Mapped: true}),
		NewCodec(Config{IPsec: engine(t, m2), Homes: []netip.Addr{otherHoA}, Mapped: true})
}

// drops are the counts of a codec.
func drops(c *Codec) map[wire.Reason]uint64 {
	m := make(map[wire.Reason]uint64)
	c.Drops(func(r wire.Reason, n uint64) { m[r] = n })
	return m
}

func tunnel(local, remote netip.AddrPort) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: local, Remote: remote}}}
}

// Paths of a node's messages to its home agent, as the node's machine has them.
var (
	byIPv6 = core.Path{Local: port(coa6), Remote: port(haV6), Own: hoa}
	byUDP  = core.Path{Local: port(hoa), Remote: port(haV6), Outer: tunnel(netip.AddrPortFrom(coa4, 4191), netip.AddrPortFrom(haV4, 4191))}
	by41   = core.Path{Local: port(mapped), Remote: port(haV6), Own: hoa, Outer: tunnel(port(coa4), port(haV4))}
	atHome = core.Path{Local: port(hoa), Remote: port(haV6)}
)

// update is a Binding Update as it goes by a path.
func update(careOf netip.Addr) *mobility.BindingUpdate {
	vs := []mobility.Value{mobility.AlternateCareOf{Addr: careOf}, mobility.IPv4HomeAddress{PrefixLen: 32, Addr: hoa4}}
	if careOf == hoa { // RFC 5555 4.1
		vs = []mobility.Value{mobility.IPv4HomeAddress{PrefixLen: 32, Addr: hoa4}, mobility.IPv4CareOf{Addr: coa4}}
	}
	return &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck | mobility.BUHome, Lifetime: 30, Options: mobility.Options{}.Add(vs...)}
}

var ack = &mobility.BindingAck{Sequence: 7, Lifetime: 30, Options: mobility.Options{}.Add(mobility.IPv4AddressAck{PrefixLen: 32, Addr: hoa4})}

// packet makes of a message and its path what the loop gives to the "mh" port.
func packet(t testing.TB, p core.Path, m mobility.Message) core.Packet {
	t.Helper()
	local, remote := p.Local.Addr(), p.Remote.Addr()
	if p.Own.IsValid() {
		local = p.Own
	}
	if p.Home.IsValid() {
		remote = p.Home
	}
	b, err := mobility.Append(nil, m, local, remote)
	if err != nil {
		t.Fatal(err)
	}
	return core.Packet{If: p.If, Src: p.Local, Dst: p.Remote, SrcHome: p.Own, DstHome: p.Home, Outer: p.Outer, Auth: p.Auth, B: b}
}

func mustOut(t testing.TB, c *Codec, p core.Packet) []byte {
	t.Helper()
	b, err := c.Out(now(), &p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decoded is what the loop makes of a packet that came.
func decoded(t testing.TB, p *core.Packet) core.Message {
	t.Helper()
	m, ok := loop.Decode("mh", p).(core.Message)
	if !ok || m.Err != nil {
		t.Fatalf("%+v: %v", p, m.Err)
	}
	return m
}

// network is the data planes of a node and a home agent, which put the outer headers around and take them off.
type network struct{ mn, ha *mem.Engine }

func newNetwork(t testing.TB) network {
	t.Helper()
	mn, err1 := mem.New(mem.Config{Role: dataplane.Node, Home: []netip.Addr{hoa}})
	ha, err2 := mem.New(mem.Config{Role: dataplane.Anchor, Local: []netip.Addr{haV6, haV4}})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return network{mn, ha}
}

// carry gives the packet on the wire, and what the other side's data plane hands to its codec.
func (n network) carry(t testing.TB, up bool, chain core.Chain, inner []byte) (outer, got []byte, came core.Chain) {
	t.Helper()
	if chain.N == 0 {
		return inner, inner, chain
	}
	from, to := n.mn, n.ha
	if !up {
		from, to = to, from
	}
	var out, in mem.Out
	if err := from.Encapsulate(time.Hour, chain, bytes.Clone(inner), &out); err != nil || len(out.Packets) != 1 {
		t.Fatalf("%d packets: %v", len(out.Packets), err)
	}
	outer = bytes.Clone(out.Packets[0].B)
	to.Tunnel(time.Hour, bytes.Clone(outer), &in)
	if len(in.Packets) != 1 || in.Packets[0].To != dataplane.ToSignal {
		t.Fatalf("the other data plane gives %+v", in.Packets)
	}
	return outer, in.Packets[0].B, in.Packets[0].Outer
}

// headers names the headers of a packet, outermost first, with their addresses.
func headers(t testing.TB, pkt []byte) (s string) {
	t.Helper()
	h, err := ip.Parse(pkt)
	if err != nil {
		t.Fatal(err)
	}
	s = fmt.Sprintf("%s>%s", h.Src, h.Dst)
	next, at := h.Proto, h.HdrLen
	for {
		s += fmt.Sprintf("|%d", next)
		switch next {
		case ip.IPv6:
			return s + "|" + headers(t, pkt[at:])
		case ip.UDP:
			return s + fmt.Sprintf("[%d>%d]|", int(pkt[at])<<8|int(pkt[at+1]), int(pkt[at+2])<<8|int(pkt[at+3])) + headers(t, pkt[at+8:])
		case ip.DstOpts, ip.Routing:
			home := netip.AddrFrom16([16]byte(pkt[at+8 : at+24]))
			if next == ip.Routing {
				s += fmt.Sprintf("[%d,%d,%s]", pkt[at+2], pkt[at+3], home)
			} else {
				s += fmt.Sprintf("[%#x,%s]", pkt[at+6], home)
			}
			next, at = pkt[at], at+8+8*int(pkt[at+1])
		default:
			return s
		}
	}
}
