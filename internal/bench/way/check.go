package way

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/wire/ip"
)

// Grace is how long a session's previous tunnel stays let in.
const Grace = 500 * time.Millisecond

// protoGRE is the protocol number of GRE (RFC 2784 4).
const protoGRE = 47

// ErrOther is a packet that is none of the traffic that is measured: neighbour discovery and the like.
var ErrOther = errors.New("a packet of something else")

// Check looks at a packet of the core, the beginning of it at least, and says whether it is carried as the way says: nil if so,
// ErrOther if it has nothing to do with it.
func (w Way) Check(b []byte) error {
	h, rest, err := outer(b)
	if err != nil {
		return err
	}
	home := Home6.Contains(h.dst) || Home6.Contains(h.src) || Home4.Contains(h.dst) || Home4.Contains(h.src)
	switch {
	case w.Kind == Plain && home:
		return nil
	case home:
		return fmt.Errorf("a packet from %v to %v is in no tunnel", h.src, h.dst)
	case w.Kind == VXLAN:
		return h.udp(rest, PortVXLAN)
	case w.Kind == WireGuard:
		return h.udp(rest, PortWireGuard)
	case w.Kind == Plain:
		return ErrOther
	}
	e, ok := FindEncap(w.Encap)
	if !ok {
		return fmt.Errorf("no encapsulation %q", w.Encap)
	}
	return e.check(h, rest)
}

func (e Encap) check(h header, rest []byte) error {
	if h.src.Is4() != e.Over4 {
		return ErrOther
	}
	switch {
	case e.UDP:
		if err := h.udp(rest, PortUDP); err != nil {
			return err
		}
		return inner(rest[8:])
	case e.GRE && h.proto == protoGRE:
		const flags = 0x2000 // a key, and nothing else (RFC 2890)
		if len(rest) < 8 || binary.BigEndian.Uint16(rest) != flags || binary.BigEndian.Uint32(rest[4:])&(1<<31-1) == 0 {
			return fmt.Errorf("GRE without a key: % x", rest[:min(8, len(rest))])
		}
		return inner(rest[8:])
	case e.ESPPort != 0:
		return h.udp(rest, e.ESPPort)
	case e.ESP && h.proto == ip.ESP:
		return nil
	case e.GRE || e.ESP || h.proto != ip.IPv6 && h.proto != ip.IPv4:
		return h.other()
	case e.Double:
		in, below, err := outer(rest)
		if err != nil {
			return err
		}
		if in.proto != ip.IPv6 && in.proto != ip.IPv4 {
			return fmt.Errorf("one layer, and protocol %d in it", in.proto)
		}
		return inner(below)
	}
	return inner(rest)
}

// header is what is looked at of an IP header.
type header struct {
	src, dst netip.Addr
	proto    uint8
}

// outer reads the first header. IPv6 extension headers do not occur.
func outer(b []byte) (h header, rest []byte, err error) {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		return header{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[6]}, b[40:], nil
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		return header{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[9]}, b[int(b[0]&15)*4:], nil
	case len(b) > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6):
		return h, nil, fmt.Errorf("an IP header is cut off after %d octets", len(b))
	}
	return h, nil, ErrOther
}

// other: ICMP belongs to no traffic, other protocols to none that should be there.
func (h header) other() error {
	if h.proto == ip.ICMPv4 || h.proto == ip.ICMPv6 {
		return ErrOther
	}
	return fmt.Errorf("protocol %d from %v to %v", h.proto, h.src, h.dst)
}

func (h header) udp(b []byte, port uint16) error {
	if h.proto != ip.UDP {
		return h.other()
	}
	if len(b) < 8 || binary.BigEndian.Uint16(b[2:]) != port {
		return fmt.Errorf("UDP from %v to %v, not to port %d", h.src, h.dst, port)
	}
	return nil
}

// inner is a packet of the host.
func inner(b []byte) error {
	h, _, err := outer(b)
	if err != nil {
		return err
	}
	if !Home6.Contains(h.dst) && !Home6.Contains(h.src) && !Home4.Contains(h.dst) && !Home4.Contains(h.src) {
		return fmt.Errorf("in the tunnel a packet from %v to %v", h.src, h.dst)
	}
	return nil
}
