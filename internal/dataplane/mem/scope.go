package mem

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire/ip"
)

// scoped reports whether a packet belongs to one link and so never enters or leaves a tunnel in routed mode: multicast, link-local
// and loopback addresses, the unspecified source, IPv4 broadcast, Neighbor Discovery (ICMPv6 133 to 137). An access link keeps
// DHCPv4 to itself as well.
func scoped(pkt []byte, h *ip.Header, u *ip.Upper, access bool) bool {
	if h.Is4() {
		if local4(h.Src) || local4(h.Dst) || h.Src.As4()[0] == 0 {
			return true
		}
		if access && u.Proto == ip.UDP && u.FragOff == 0 && u.Off+4 <= h.Len {
			port := binary.BigEndian.Uint16(pkt[u.Off+2:])
			return port == 67 || port == 68
		}
		return false
	}
	if local6(h.Src) || local6(h.Dst) {
		return true
	}
	if u.Proto == ip.ICMPv6 && u.FragOff == 0 && u.Off < h.Len {
		return pkt[u.Off] >= 133 && pkt[u.Off] <= 137
	}
	return false
}

func local4(a netip.Addr) bool {
	b := a.As4()
	return b[0] >= 224 && b[0] < 240 || b[0] == 169 && b[1] == 254 || b[0] == 127 || b == [4]byte{255, 255, 255, 255}
}

func local6(a netip.Addr) bool {
	return a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsUnspecified()
}

// signalling reports whether a scoped packet is one that the access link's own protocols see and report: ND, MLD, DHCP.
func signalling(pkt []byte, h *ip.Header, u *ip.Upper) bool {
	switch {
	case u.FragOff != 0:
		return false
	case !h.Is4() && u.Proto == ip.ICMPv6 && u.Off < h.Len:
		t := pkt[u.Off]
		return t >= 130 && t <= 137 || t == 143
	case u.Proto == ip.UDP && u.Off+4 <= h.Len:
		port := binary.BigEndian.Uint16(pkt[u.Off+2:])
		if h.Is4() {
			return port == 67 || port == 68
		}
		return port == 546 || port == 547
	}
	return false
}
