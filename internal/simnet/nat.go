package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/wire/ip"
)

// nat translates UDP behind one public address: a mapping for each pair of endpoints, filtered by both, as the carriers'
// least friendly do (RFC 4787 4.1, 5). All other protocols are dropped, 4 and 41 too.
type nat struct {
	s       *Sim
	public  netip.Addr
	timeout time.Duration
	next    uint16
	byPair  map[natPair]uint16
	byPort  map[uint16]*mapping
}

type natPair struct{ inside, outside netip.AddrPort }

type mapping struct {
	natPair
	last time.Duration
}

func newNAT(s *Sim, public netip.Addr, timeout time.Duration) *nat {
	if timeout == 0 {
		timeout = 2 * time.Minute // RFC 4787 4.3
	}
	n := &nat{s: s, public: public, timeout: timeout, next: 20000}
	n.byPair, n.byPort = make(map[natPair]uint16), make(map[uint16]*mapping)
	return n
}

func (n *nat) rebind() {
	clear(n.byPair)
	clear(n.byPort)
	n.next += 1000
}

// ports of a UDP packet over IPv4 that is no fragment.
func ports(b []byte) (src, dst netip.AddrPort, off int, ok bool) {
	h, err := ip.Parse(b)
	if err != nil || !h.Is4() || h.Proto != ip.UDP {
		return
	}
	u, err := ip.FindUpper(b, &h)
	if err != nil || u.Fragment || h.Len < u.Off+ip.UDPLen {
		return
	}
	port := func(at int) uint16 { return binary.BigEndian.Uint16(b[u.Off+at:]) }
	return netip.AddrPortFrom(h.Src, port(0)), netip.AddrPortFrom(h.Dst, port(2)), u.Off, true
}

// out translates a packet from the inside; nil drops it.
func (n *nat) out(b []byte) []byte {
	src, dst, _, ok := ports(b)
	if !ok {
		return nil
	}
	pair := natPair{src, dst}
	port, known := n.byPair[pair]
	if !known || n.s.boot-n.byPort[port].last > n.timeout {
		delete(n.byPort, port)
		n.next++
		port = n.next
		n.byPair[pair] = port
		n.byPort[port] = &mapping{natPair: pair}
	}
	n.byPort[port].last = n.s.boot
	return rewrite(b, netip.AddrPortFrom(n.public, port), dst)
}

// in translates a packet from the outside; nil drops it. Only what goes out keeps a mapping (RFC 4787 4.3).
func (n *nat) in(b []byte) []byte {
	src, dst, _, ok := ports(b)
	if !ok {
		return nil
	}
	m := n.byPort[dst.Port()]
	if m == nil || m.outside != src || n.s.boot-m.last > n.timeout {
		return nil
	}
	return rewrite(b, src, m.inside)
}

// rewrite gives a UDP packet over IPv4 other endpoints.
func rewrite(b []byte, src, dst netip.AddrPort) []byte {
	h, _ := ip.Parse(b)
	u, _ := ip.FindUpper(b, &h)
	h.Src, h.Dst = src.Addr(), dst.Addr()
	out, err := h.Append(nil, len(b)-u.Off)
	if err != nil {
		return nil
	}
	out, err = ip.AppendUDP(out, src, dst, b[u.Off+ip.UDPLen:h.Len])
	if err != nil {
		return nil
	}
	return out
}
