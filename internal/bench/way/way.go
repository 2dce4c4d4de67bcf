// Package way says what is compared: how packets get from a gateway to an anchor, in a network whose addresses are given here.
//
//	host ---access--- gateway ---core--- anchor ---net--- correspondent
//
// The host has a home prefix and a home address for each session, all at once. Packets go by plain routes, in a tunnel of the
// kernel or of WireGuard, or in one of Kedge's.
package way

import (
	"encoding/binary"
	"net/netip"

	"kedge/internal/core"
)

// Kinds of ways.
const (
	Plain     = "plain"
	VXLAN     = "vxlan"
	WireGuard = "wireguard-go"
	User      = "user"
	EBPF      = "ebpf"   // attached by tcx
	Clsact    = "clsact" // the same programs, attached as before Linux 6.6
)

// Way is one thing to measure.
type Way struct {
	Kind     string `json:"kind"`
	Encap    string `json:"encap,omitempty"` // of Kedge's: one of Encaps
	Sessions int    `json:"sessions,omitempty"`
}

// Name tells ways apart: "ebpf/gre6".
func (w Way) Name() string {
	if w.Encap == "" {
		return w.Kind
	}
	return w.Kind + "/" + w.Encap
}

// Kedge says whether planes of this project carry it.
func (w Way) Kedge() bool { return w.Kind == User || w.Kind == EBPF || w.Kind == Clsact }

// Encap is an encapsulation.
type Encap struct {
	Name   string
	Over4  bool // outer headers of IPv4
	UDP    bool // in UDP 4191 (RFC 5555)
	GRE    bool // with a key each way (RFC 5845)
	Layers int
}

// Encaps are those that are measured.
var Encaps = []Encap{
	{Name: "v6", Layers: 1},
	{Name: "v4", Over4: true, Layers: 1},
	{Name: "udp4", Over4: true, UDP: true, Layers: 1},
}

// FindEncap finds one by name.
func FindEncap(name string) (Encap, bool) {
	for _, e := range Encaps {
		if e.Name == name {
			return e, true
		}
	}
	return Encap{}, false
}

// Addresses of the network.
var (
	Home6     = netip.MustParsePrefix("2001:db9::/32") // a /64 for each session
	Home4     = netip.MustParsePrefix("10.0.0.0/8")    // an address for each session
	Access6   = netip.MustParseAddr("fe80::1")         // the gateway on the access link
	Access4   = netip.MustParseAddr("192.0.2.1")
	Host6     = netip.MustParseAddr("fe80::2") // the host there
	Host4     = netip.MustParseAddr("192.0.2.2")
	Gateway6  = netip.MustParseAddr("2001:db8:a::11")
	Gateway4  = netip.MustParseAddr("198.51.100.11")
	Anchor6   = netip.MustParseAddr("2001:db8:a::1")
	Anchor4   = netip.MustParseAddr("198.51.100.1")
	Net6      = netip.MustParsePrefix("2001:db8:c::/64")
	Net4      = netip.MustParsePrefix("203.0.113.0/24")
	Router6   = netip.MustParseAddr("2001:db8:c::1") // the anchor there
	Router4   = netip.MustParseAddr("203.0.113.1")
	CN6       = netip.MustParseAddr("2001:db8:c::c")
	CN4       = netip.MustParseAddr("203.0.113.9")
	RouterMAC = core.MAC{2, 0, 0x5e, 0, 0, 1}
	HostMAC   = core.MAC{2, 0, 0x5e, 0, 0, 2}
)

// PortUDP is Kedge's.
const PortUDP = 4191

// HomeOf are the addresses of session i, from 1 to 2^24 - 2.
func HomeOf(i int) (six, four netip.Addr) {
	a := Home6.Addr().As16()
	binary.BigEndian.PutUint32(a[4:], uint32(i))
	a[15] = 0xa
	return netip.AddrFrom16(a), netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// Chain of session i, as the anchor or else the gateway has it.
func (e Encap) Chain(anchor bool, i int) core.Chain {
	local, remote, port := Gateway6, Anchor6, uint16(0)
	if e.Over4 {
		local, remote = Gateway4, Anchor4
	}
	if e.UDP {
		port = PortUDP
	}
	if anchor {
		local, remote = remote, local
	}
	c := core.Chain{N: uint8(e.Layers)}
	c.Layer[0] = core.Layer{Local: netip.AddrPortFrom(local, port), Remote: netip.AddrPortFrom(remote, port)}
	if e.GRE {
		c.Layer[0].GRE, c.Layer[0].KeyUp, c.Layer[0].KeyDown = true, uint32(i), uint32(i)|1<<31
	}
	return c
}

// Ops make sessions from..to-1. On a gateway the host is at an access link.
func (e Encap) Ops(anchor bool, from, to, access int) []core.Op {
	ops := make([]core.Op, 0, 3*(to-from))
	for i := from; i < to; i++ {
		s := core.SetSession{ID: core.ID(i), Chain: e.Chain(anchor, i)}
		if !anchor {
			s.If, s.MAC = access, HostMAC
		}
		ops = append(ops, s)
		six, four := HomeOf(i)
		for _, p := range []netip.Prefix{netip.PrefixFrom(six, 64).Masked(), netip.PrefixFrom(four, 32)} {
			k := core.SetKey{ID: s.ID, Up: true, Down: true}
			if anchor {
				k.Match.Dst = p
			} else {
				k.Match.Src, k.Match.If, k.Match.MAC = p, access, HostMAC
			}
			ops = append(ops, k)
		}
	}
	return ops
}
