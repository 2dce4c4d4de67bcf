package mem

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Mobile nodes behind mobile routers (RFC 3963, appendix A). The tunnel of such a node ends at its anchor as any other; between here
// and its router it is in the router's tunnel, like all that comes from the router's network. So where one anchor serves both, what
// comes out of the router's tunnel enters again as if it had come natively: the tunnel packets, and the messages of the node. In the
// other direction the outer packet of the node's tunnel is one to an address of a mobile network; routing brings it back here.

// maxNested is how many tunnels a packet may come out of, one in another, beside the first: the default of the Tunnel Encapsulation
// Limit (RFC 2473 6.6). Each must be of a session, with a source that is the session's; anchors let no loop of sessions come into being.
const maxNested = 4

// behind reports whether what comes from a in tun is of a mobile network. The lock is held.
func (e *Engine) behind(now time.Duration, tun *tunnel, a netip.Addr) bool {
	if e.cfg.Role != dataplane.Anchor || tun == nil {
		return false
	}
	from, _, _ := e.tables.up(tun.domain, tun, a, now)
	return from != nil && from.network()
}

// network reports whether a key is a mobile network: it has several addresses, and its session a home address beside. A host's session
// in a gateway's tunnel has the prefix of a link, and no address of its own.
func (b *binding) network() bool {
	if b.prefix.IsSingleIP() {
		return false
	}
	for _, o := range b.s.bindings {
		if o.prefix.IsSingleIP() && o.prefix.Addr().Is6() {
			return true
		}
	}
	return false
}

// enters reports whether a packet to this router is of a tunnel, or a fragment that may be. b is its payload.
func (e *Engine) enters(u *ip.Upper, b []byte) bool {
	switch {
	case u.Fragment:
		return true
	case u.Proto == ip.UDP && len(b) >= ip.UDPLen:
		port := binary.BigEndian.Uint16(b[2:])
		return port == dataplane.PortUDP || port == PortESP && e.cfg.Security != nil
	}
	return u.Proto == ip.IPv4 || u.Proto == ip.IPv6 || u.Proto == ip.GRE || u.Proto == ip.ESP && e.cfg.Security != nil
}

// hopsLeft is how many hops a packet that is of a tunnel itself may still make: its outer one shall make no more. 0: it is none, and the
// tunnel one hop of its way, however many it has (RFC 2473 6.3). Else a circle of tunnels that different anchors forward, none of which
// sees it whole, would give the packet a new hop limit in each round (4.1.3). A Tunnel Encapsulation Limit would end it too, but not in
// IPv4, nor in a tunnel that is fragmented on its way, and many networks drop packets with options (RFC 7872). hop: this router takes
// one from its hop limit.
func hopsLeft(pkt []byte, h *ip.Header, u *ip.Upper, hop bool) uint8 {
	switch u.Proto {
	case ip.IPv4, ip.IPv6, ip.GRE, ip.ESP:
	case ip.UDP:
		if u.FragOff == 0 && (u.Off+4 > len(pkt) || !tunnelPort(pkt[u.Off:]) && !tunnelPort(pkt[u.Off+2:])) {
			return 0
		}
	default:
		return 0
	}
	if hop {
		return h.TTL - 1
	}
	return h.TTL
}

func tunnelPort(b []byte) bool {
	port := binary.BigEndian.Uint16(b)
	return port == dataplane.PortUDP || port == PortESP
}

// hopLimit is that of an outer packet.
func (e *Engine) hopLimit(w *wrapping) uint8 {
	if w.ttl != 0 {
		return min(w.ttl, e.cfg.HopLimit)
	}
	return e.cfg.HopLimit
}
