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
	tun, peersMask            uint32
	n4, n6                    uint32
	partial, _                uint32
	four, six                 [maxLengths]length
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
	id, until                 uint64
	tun, prev                 uint32
	twin, prevTwin, mtu, link uint16
	mac                       [6]byte
	_                         [2]byte
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
	local, remote              addr
	lport, rport, mtu, learned uint16
	learnedUntil, ids          uint32
	secret, _                  uint64
}

type counter struct{ packetsIn, octetsIn, packetsOut, octetsOut uint64 }

func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>32
}

// peerHash is that of a tuple as the programs have it.
func peerHash(seed uint64, local, remote netip.AddrPort) uint64 {
	l, r := addrOf(local.Addr()), addrOf(remote.Addr())
	return mix(mix(mix(mix(mix(seed^l.Hi)^l.Lo)^r.Hi)^r.Lo) ^ (uint64(port(local.Port()))<<16 ^ uint64(port(remote.Port()))))
}

func (k *key) prefix() netip.Prefix {
	a := k.Addr.netip()
	if a.Is4() {
		return netip.PrefixFrom(a, int(k.Bits)-96)
	}
	return netip.PrefixFrom(a, int(k.Bits))
}
