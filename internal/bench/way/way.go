// Package way says what is compared: how packets get from a gateway to an anchor, in a network whose addresses are given here.
//
//	host ---access--- gateway ---core--- anchor ---net--- correspondent
//
// The host has a home prefix and a home address for each session, all at once. Packets go by plain routes, in a tunnel of the
// kernel or of WireGuard, or in one of Kedge's.
package way

import (
	"encoding/binary"
	"fmt"
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
	Encap    string `json:"encap,omitempty"`    // of Kedge's: one of Encaps
	Sessions int    `json:"sessions,omitempty"` // 0 = 1
	Second   bool   `json:"second,omitempty"`   // there is another gateway that the host is at as well
}

// Name tells ways apart: "ebpf/gre6", "plain*1000000".
func (w Way) Name() string {
	s := w.Kind
	if w.Encap != "" {
		s += "/" + w.Encap
	}
	if w.Sessions > 1 {
		s += fmt.Sprintf("*%d", w.Sessions)
	}
	if w.Second {
		s += "+handover"
	}
	return s
}

// Kedge says whether planes of this project carry it.
func (w Way) Kedge() bool { return w.Kind == User || w.Fast() }

// Fast says whether programs in the kernel are to carry it.
func (w Way) Fast() bool { return w.Kind == EBPF || w.Kind == Clsact }

// Encap is an encapsulation.
type Encap struct {
	Name, Text string
	Over4      bool   // outer headers of IPv4
	UDP        bool   // in UDP 4191 (RFC 5844 4, RFC 5555)
	GRE        bool   // with a key each way (RFC 5845)
	ESP        bool   // AES-128-GCM (RFC 4303, 4106)
	ESPPort    uint16 // ESP is in UDP, at this port (RFC 3948); 0 = protocol 50
	Double     bool   // a tunnel in a tunnel, both of IPv6
}

// Encaps are those that are measured.
var Encaps = []Encap{
	{Name: "v6", Text: "protocol 41 or 4 in IPv6"},
	{Name: "v4", Text: "protocol 41 or 4 in IPv4", Over4: true},
	{Name: "udp4", Text: "UDP 4191 in IPv4", Over4: true, UDP: true},
	{Name: "gre6", Text: "GRE with keys in IPv6", GRE: true},
	{Name: "gre4", Text: "GRE with keys in IPv4", Over4: true, GRE: true},
	{Name: "two6", Text: "two layers of IPv6", Double: true},
	{Name: "esp6", Text: "ESP, AES-128-GCM, in IPv6", ESP: true},
	{Name: "esp4", Text: "ESP, AES-128-GCM, in UDP 4500 over IPv4", Over4: true, ESP: true, ESPPort: 4500},
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

// Side is where a chain begins.
type Side int

const (
	Gateway Side = iota
	Anchor
	Second // the other gateway
)

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
	Inner6    = netip.MustParseAddr("2001:db8:a::12") // of a tunnel in a tunnel
	Anchor6   = netip.MustParseAddr("2001:db8:a::1")
	Anchor4   = netip.MustParseAddr("198.51.100.1")
	AnchorIn6 = netip.MustParseAddr("2001:db8:a::2")
	Second6   = netip.MustParseAddr("2001:db8:b::11")
	Second4   = netip.MustParseAddr("192.0.0.11")
	ToSecond6 = netip.MustParseAddr("2001:db8:b::1") // the anchor on the link to it
	ToSecond4 = netip.MustParseAddr("192.0.0.1")
	Net6      = netip.MustParsePrefix("2001:db8:c::/64")
	Net4      = netip.MustParsePrefix("203.0.113.0/24")
	Router6   = netip.MustParseAddr("2001:db8:c::1") // the anchor there
	Router4   = netip.MustParseAddr("203.0.113.1")
	CN6       = netip.MustParseAddr("2001:db8:c::c")
	CN4       = netip.MustParseAddr("203.0.113.9")
	RouterMAC = core.MAC{2, 0, 0x5e, 0, 0, 1}
	HostMAC   = core.MAC{2, 0, 0x5e, 0, 0, 2}
)

// Ports in UDP.
const (
	PortUDP       = 4191
	PortVXLAN     = 4789
	PortWireGuard = 51820
)

// MaxSessions have addresses.
const MaxSessions = 1<<24 - 2

// HomeOf are the addresses of session i, from 1 to MaxSessions.
func HomeOf(i int) (six, four netip.Addr) {
	a := Home6.Addr().As16()
	binary.BigEndian.PutUint32(a[4:], uint32(i))
	a[15] = 0xa
	return netip.AddrFrom16(a), netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// Chain of session i as one side has it; the anchor's leads to a gateway.
func (e Encap) Chain(at Side, to Side, i int) core.Chain {
	addr := func(s Side, inner bool) netip.Addr {
		switch {
		case s == Anchor && e.Over4:
			return Anchor4
		case s == Anchor && inner:
			return AnchorIn6
		case s == Anchor:
			return Anchor6
		case s == Second && e.Over4:
			return Second4
		case s == Second:
			return Second6
		case e.Over4:
			return Gateway4
		case inner:
			return Inner6
		}
		return Gateway6
	}
	port := uint16(0)
	if e.UDP {
		port = PortUDP
	}
	layer := func(inner bool) core.Layer {
		return core.Layer{Local: netip.AddrPortFrom(addr(at, inner), port), Remote: netip.AddrPortFrom(addr(to, inner), port)}
	}
	c := core.Chain{N: 1, Layer: [2]core.Layer{layer(e.Double)}}
	if e.Double {
		c.N, c.Layer[1] = 2, layer(false)
	}
	if e.GRE {
		c.Layer[0].GRE, c.Layer[0].KeyUp, c.Layer[0].KeyDown = true, uint32(i), uint32(i)|1<<31
	}
	if e.ESP {
		c.Layer[0].SA, c.Layer[0].ESPPort = uint32(i), e.ESPPort
	}
	return c
}

// Ops make sessions from..until-1 on one side; on a gateway the host is at an access link.
func (e Encap) Ops(at Side, from, until, access int) []core.Op {
	ops := make([]core.Op, 0, 3*(until-from))
	to := Anchor
	if at == Anchor {
		to = Gateway
	}
	for i := from; i < until; i++ {
		s := core.SetSession{ID: core.ID(i), Chain: e.Chain(at, to, i), Grace: Grace}
		if at != Anchor {
			s.If, s.MAC = access, HostMAC
		}
		ops = append(ops, s)
		six, four := HomeOf(i)
		for _, p := range []netip.Prefix{netip.PrefixFrom(six, 64).Masked(), netip.PrefixFrom(four, 32)} {
			k := core.SetKey{ID: s.ID, Match: core.Match{Src: p, If: s.If, MAC: s.MAC}, Up: true, Down: true}
			if at == Anchor {
				k.Match = core.Match{Dst: p}
			}
			ops = append(ops, k)
		}
	}
	return ops
}
