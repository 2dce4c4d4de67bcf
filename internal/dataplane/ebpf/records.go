package ebpf

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// The records of bpf/tables.h, field by field. Addresses and ports are in network order, IPv4 addresses mapped.

const (
	maxLengths = 8
	maxLinks   = 256
	keyMany    = 1
	keyAsk     = 2
	keySilent  = 4

	kindUDP, kindGRE = 1, 2
	inGRE            = 1 << 31

	wayCounted, prevCounted, isBridged = 1, 2, 4
)

// reasons are those of drops that the programs make, in the order of enum reason.
var reasons = [...]wire.Reason{wire.UnknownHome, wire.UnknownHost, wire.WrongSource, wire.WrongTunnel, wire.Deprecated}

type addr struct{ Hi, Lo uint64 }

func addrOf(a netip.Addr) addr {
	b := a.As16()
	return addr{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

func (a addr) netip() netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], a.Hi)
	binary.NativeEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b).Unmap()
}

func (a addr) check() uint32 { return uint32(a.Lo ^ a.Lo>>32 ^ a.Hi ^ a.Hi>>32) }

func port(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// key32 is a GRE key as it is on the wire.
func key32(k uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], k)
	return binary.NativeEndian.Uint32(b[:])
}

type length struct {
	bits, _ uint32
	mask    addr
}

// lengthOf is that of a prefix of a family.
func lengthOf(bits uint8, is4 bool) length {
	n := int(bits)
	if is4 {
		n += 96
	}
	var b [16]byte
	for i := range n {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return length{bits: uint32(n), mask: addrOf(netip.AddrFrom16(b))}
}

type control struct {
	aliveUntil, fakeNow, seed uint64
	joinUntil                 uint64
	tun, peersMask            uint32
	n4, n6                    uint32
	partial, gre              uint32
	through, news, nested     uint32
	bridged, pairs, join      uint32
	four, six                 [maxLengths]length
}

// pairs of control: there are none, some, and more than are held.
const (
	noPairs = iota
	somePairs
	anyPair
)

type pair struct{ Own, Other addr }

// talk is what the programs tell of a pair.
type talk struct {
	Pair  pair
	In, _ uint32
}

type key struct {
	Domain, Bits uint32
	Addr         addr
}

func keyOf(domain uint32, p netip.Prefix) key {
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	return key{domain, uint32(n), addrOf(p.Addr())}
}

type where struct{ Down, Up, Check, Flags uint32 }

type session struct {
	id, until, way            uint64
	prev, key, prevKey        uint32
	twin, prevTwin, mtu, link uint16
	mac                       [6]byte
	counted                   uint8 // wayCounted, prevCounted: of this process; isBridged
	_                         [5]byte
}

type host struct {
	Link uint16
	MAC  [6]byte
}

type accessLink struct {
	ifindex, mtu uint32
	mac          [6]byte
	_            [2]byte
}

type tunnel struct {
	local, remote             addr
	kind, rport, mtu, learned uint16
	learnedUntil, ids         uint32
	secret, _                 uint64 // when it brought a super packet last
}

type counter struct{ packetsIn, octetsIn, packetsOut, octetsOut uint64 }

func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>32
}

// tunnelName is what tells one tunnel from another, as the programs have it.
type tunnelName struct {
	Local, Remote addr
	Kind, Port    uint16
	Key           uint32 // of GRE that is taken
}

// nameOf is the name of a tunnel: of UDP if there is a local port, else plain.
func nameOf(local, remote netip.AddrPort) tunnelName {
	n := tunnelName{Local: addrOf(local.Addr()), Remote: addrOf(remote.Addr())}
	if local.Port() != 0 {
		n.Kind, n.Port = kindUDP, port(remote.Port())
	}
	return n
}

func (t *tunnel) name() tunnelName { return tunnelName{t.local, t.remote, t.kind, t.rport, 0} }

// inGRE is what arrives in GRE between the ends of a tunnel.
func (t *tunnel) inGRE(key uint32) tunnelName { return tunnelName{t.local, t.remote, kindGRE, 0, key} }

// hash is that of what arrives in the tunnel.
func (n *tunnelName) hash(seed uint64) uint64 {
	x := mix(mix(mix(mix(seed^n.Local.Hi)^n.Local.Lo)^n.Remote.Hi) ^ n.Remote.Lo)
	return mix(x ^ (uint64(n.Key)<<32 | uint64(n.Kind)<<16 | uint64(n.Port)))
}

func (k *key) prefix() netip.Prefix {
	a := k.Addr.netip()
	if a.Is4() {
		return netip.PrefixFrom(a, int(k.Bits)-96)
	}
	return netip.PrefixFrom(a, int(k.Bits))
}
