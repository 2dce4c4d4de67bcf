package mem

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// outLayer is one layer as this router sends it.
type outLayer struct {
	frame
	tlv  uint8
	sa   uint32
	head int // octets before the payload or the ESP packet
}

// stack is how a chain that is not plain is put around packets: layer[0] is the innermost.
type stack struct {
	n     int
	layer [2]outLayer
	over  int // octets of all that is added, at most; without Destination Options
	*path
}

// stackOf is the stack of a chain whose outermost layer goes along p.
func (e *Engine) stackOf(c *core.Chain, p *path) *stack {
	k := &stack{n: int(c.N), path: p}
	for i := range k.n {
		l := &c.Layer[i]
		_, out := e.frames(l, [2]uint32{})
		o := outLayer{frame: out, tlv: l.TLV, sa: l.SA, head: out.head()}
		if l.TLV != 0 {
			o.head += ip.TLVLen
		}
		if l.GRE {
			o.head += ip.GRELen(out.key)
		}
		k.layer[i], k.over = o, k.over+o.head
		if l.SA != 0 {
			k.over += e.cfg.Security.Overhead(l.SA)
		}
	}
	return k
}

// outermost is the layer of a chain whose packets the core carries.
func outermost(c *core.Chain) *core.Layer {
	if c.N == 2 || c.N == 1 && c.RO != 0 {
		return &c.Layer[1]
	}
	return &c.Layer[0]
}

// tunnelled is what a chain puts around the packet that goes its way.
func tunnelled(c core.Chain) core.Chain {
	if c.RO != 0 {
		c.RO, c.Layer = 0, [2]core.Layer{c.Layer[1]}
	}
	return c
}

// carries says why this back end cannot carry a chain, or nil.
func (e *Engine) carries(c core.Chain) error {
	if c.RO != 0 {
		return e.optimizes(&c)
	}
	switch {
	case c.N == 0:
		return errors.New("a chain without a layer, native delivery, is not carried by this back end")
	case int(c.N) > len(c.Layer):
		return fmt.Errorf("a chain of %d layers is not carried by this back end: at most %d", c.N, len(c.Layer))
	}
	for i := range c.N {
		if err := e.layerFault(&c.Layer[i]); err != nil {
			return err
		}
	}
	in, out := &c.Layer[0], outermost(&c)
	least := ip.MinMTU6
	if out.Remote.Addr().Is4() {
		least = minMTU4
	}
	switch {
	case c.MTU != 0 && int(c.MTU) < least:
		return fmt.Errorf("path MTU %d is below %d, the least of its family", c.MTU, least)
	case in != out && in.Local.Addr() == out.Local.Addr() && in.Remote.Addr() == out.Remote.Addr():
		return fmt.Errorf("a tunnel from %v to %v in itself (RFC 2473 4.1.2)", in.Local.Addr(), in.Remote.Addr())
	}
	return nil
}

// layerFault says what is wrong with one layer, or nil.
func (e *Engine) layerFault(l *core.Layer) error {
	local, remote, udp := l.Local.Addr(), l.Remote.Addr(), l.Local.Port() != 0
	switch {
	case udp && e.cfg.Role == dataplane.Gateway && !e.cfg.UDP:
		return errors.New("UDP is not carried by this gateway")
	case udp && l.Local.Port() != dataplane.PortUDP:
		return fmt.Errorf("UDP port %d: this router's is %d (RFC 5555 6), or 0 for no UDP", l.Local.Port(), dataplane.PortUDP)
	case udp && l.Remote.Port() == 0:
		return fmt.Errorf("UDP to %v: the remote port is missing", remote)
	case e.cfg.Role != dataplane.Node && !slices.Contains(e.cfg.Local, local), !unicast(local):
		return fmt.Errorf("tunnel entry point %v is no address of this router", local)
	case !unicast(remote):
		return fmt.Errorf("tunnel exit point %v is no unicast address", remote)
	case local.Is4() != remote.Is4():
		return fmt.Errorf("a tunnel from %v to %v: two address families", local, remote)
	case local == remote || slices.Contains(e.cfg.Local, remote):
		return fmt.Errorf("tunnel exit point %v is this router itself (RFC 2473 4.1.2)", remote)
	case l.TLV > ip.TLV2007:
		return fmt.Errorf("TLV layout %d: there are %d and %d", l.TLV, ip.TLV5845, ip.TLV2007)
	case l.TLV != 0 && !udp:
		return errors.New("a TLV header stands behind UDP only (RFC 5845 7.1)")
	case !l.GRE && (l.KeyUp != 0 || l.KeyDown != 0):
		return errors.New("keys without GRE")
	case l.GRE && udp && l.TLV == 0:
		return errors.New("GRE in UDP needs a TLV header (RFC 5845 7.1)")
	case l.SA != 0 && l.GRE:
		return errors.New("GRE and ESP in one layer: ESP protects IP packets here (RFC 4303 tunnel mode)")
	case l.SA != 0 && udp && l.TLV == 0:
		return fmt.Errorf("ESP in UDP port %d needs a TLV header; without one it goes to port %d (RFC 3948)", dataplane.PortUDP, PortESP)
	case l.ESPPort != 0 && (l.SA == 0 || udp):
		return errors.New("a port of ESP in UDP without ESP, or beside another port")
	case l.SA != 0 && e.cfg.Security == nil:
		return errors.New("ESP is not carried by this back end: nothing here seals data")
	case l.SA != 0 && e.cfg.Security.Overhead(l.SA) == 0:
		return fmt.Errorf("security association %d is unknown", l.SA)
	}
	return nil
}

// unicast reports whether a can be one end of a tunnel.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && (!a.Is4() || a.As4()[0] != 0 && a.As4()[0] < 240)
}
