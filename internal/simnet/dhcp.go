package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"kedge/internal/access"
	"kedge/internal/core"
)

// Lease is what DHCP gave.
type Lease struct {
	Server, Router netip.Addr
	T1, T2, Until  time.Duration // boot time
}

// dhcpState is a state of RFC 2131 4.4, figure 5.
type dhcpState uint8

const (
	initial dhcpState = iota
	selecting
	requesting
	rebooting
	bound
	renewing
	rebinding
)

// dhcpClient is the client of one host. Retransmission: 4 s, doubled to 64 s, without the random part.
type dhcpClient struct {
	state dhcpState
	xid   dhcpv4.TransactionID
	offer netip.Addr
	from  netip.Addr // server of the offer
	tries int
	timer *Timer
}

const dhcpFirst = 4 * time.Second

var (
	any4  = netip.IPv4Unspecified()
	all4  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	every = core.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// carrier starts an exchange when the link comes up.
func (c *dhcpClient) carrier(h *Host) {
	c.to(h, initial)
	if h.Addr4.IsValid() {
		c.to(h, rebooting)
	} else {
		c.to(h, selecting)
	}
	c.again(h)
}

// to changes the state; a new exchange has a new number.
func (c *dhcpClient) to(h *Host, s dhcpState) {
	if s != requesting && s != bound { // the request belongs to its offer
		binary.BigEndian.PutUint32(c.xid[:], h.s.rng.Uint32())
	}
	c.state, c.tries = s, 0
}

// again sends the message of the state and waits for an answer.
func (c *dhcpClient) again(h *Host) {
	kind, src, dst, opts := dhcpv4.MessageTypeRequest, any4, all4, dhcpv4.Options{}
	have := h.Addr4.Addr()
	ciaddr := any4
	switch c.state {
	case initial, bound:
		return
	case selecting:
		kind = dhcpv4.MessageTypeDiscover
	case requesting:
		opts[50], opts[54] = c.offer.AsSlice(), c.from.AsSlice()
	case rebooting:
		opts[50] = have.AsSlice()
	case renewing:
		src, dst, ciaddr = have, h.Lease.Server, have
	case rebinding:
		src, ciaddr = have, have
	}
	c.send(h, kind, src, dst, ciaddr, opts)
	c.tries++
	wait := dhcpFirst << min(c.tries-1, 4)
	c.wait(h, wait, func() {
		switch {
		case c.state == requesting && c.tries >= 4:
			c.to(h, selecting)
		case c.state == rebooting && c.tries >= 3: // RFC 2131 3.2: the lease is still good
			c.to(h, bound)
			c.rearm(h)
			return
		case c.state == renewing && h.s.boot >= h.Lease.T2:
			c.to(h, rebinding)
		case h.Addr4.IsValid() && h.s.boot >= h.Lease.Until:
			c.lose(h, "lease over")
		}
		c.again(h)
	})
}

func (c *dhcpClient) wait(h *Host, d time.Duration, f func()) {
	c.timer.Stop(h.s)
	c.timer = h.s.After(d, f)
}

// rearm waits for the next deadline of a lease.
func (c *dhcpClient) rearm(h *Host) {
	if c.state != bound {
		return
	}
	c.wait(h, max(h.Lease.T1-h.s.boot, 0), func() {
		if c.state == bound {
			c.to(h, renewing)
			c.again(h)
		}
	})
}

func (c *dhcpClient) lose(h *Host, why string) {
	h.event("lost " + h.Addr4.String() + ": " + why)
	h.Addr4, h.Lease = netip.Prefix{}, Lease{}
	c.to(h, selecting)
}

// Ask starts the client again if it has no lease and rests: the administrator does it.
func (h *Host) Ask() {
	if c := &h.dhcp; !h.No4 && !h.Addr4.IsValid() && c.state == initial {
		c.to(h, selecting)
		c.again(h)
	}
}

// Release gives the lease back.
func (h *Host) Release() {
	if !h.Addr4.IsValid() {
		return
	}
	c := &h.dhcp
	a := h.Addr4.Addr()
	c.timer.Stop(h.s)
	c.to(h, initial)
	c.send(h, dhcpv4.MessageTypeRelease, a, h.Lease.Server, a, dhcpv4.Options{54: h.Lease.Server.AsSlice()})
	h.event("released " + h.Addr4.String())
	h.Addr4, h.Lease = netip.Prefix{}, Lease{}
}

func (c *dhcpClient) send(h *Host, kind dhcpv4.MessageType, src, dst, ciaddr netip.Addr, opts dhcpv4.Options) {
	zero := []byte{0, 0, 0, 0}
	opts[53] = []byte{byte(kind)}
	opts[55] = []byte{1, 3, 6, 26, 51, 54, 58, 59}
	to := every
	if dst != all4 {
		to = h.router()
	}
	h.send(&access.Frame{Dst: to, SrcIP: src, DstIP: dst, Body: &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, TransactionID: c.xid, ClientHWAddr: h.MAC[:],
		ClientIPAddr: ciaddr.AsSlice(), YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero, Options: opts,
	}})
}

// frame takes a DHCP answer.
func (c *dhcpClient) frame(h *Host, f *access.Frame) {
	m, ok := f.Body.(*dhcpv4.DHCPv4)
	if !ok || m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != c.xid || core.MAC(m.ClientHWAddr) != h.MAC || h.No4 {
		return
	}
	server := option4(m, 54)
	switch kind := m.MessageType(); {
	case kind == dhcpv4.MessageTypeOffer && c.state == selecting:
		c.offer, _ = netip.AddrFromSlice(m.YourIPAddr.To4())
		c.from = server
		c.to(h, requesting)
		c.again(h)
	case kind == dhcpv4.MessageTypeNak && c.state > selecting && c.state != bound:
		c.timer.Stop(h.s)
		if h.Addr4.IsValid() {
			c.lose(h, "NAK")
		}
		c.to(h, selecting)
		c.wait(h, time.Second, func() { c.again(h) })
	case kind == dhcpv4.MessageTypeAck && c.state > selecting && c.state != bound:
		a, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
		bits, _ := m.SubnetMask().Size()
		p := netip.PrefixFrom(a, bits)
		if p != h.Addr4 {
			h.event("has " + p.String())
		}
		h.Addr4 = p
		lease := seconds(m, 51)
		h.Lease = Lease{Server: server, Router: option4(m, 3), Until: h.s.boot + lease, T1: h.s.boot + lease/2, T2: h.s.boot + lease*7/8}
		if t := seconds(m, 58); t > 0 {
			h.Lease.T1 = h.s.boot + t
		}
		if t := seconds(m, 59); t > 0 {
			h.Lease.T2 = h.s.boot + t
		}
		c.timer.Stop(h.s)
		c.to(h, bound)
		c.rearm(h)
	}
}

func option4(m *dhcpv4.DHCPv4, code uint8) netip.Addr {
	a, _ := netip.AddrFromSlice(m.Options[code])
	return a
}

func seconds(m *dhcpv4.DHCPv4, code uint8) time.Duration {
	if b := m.Options[code]; len(b) == 4 {
		return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
	}
	return 0
}
