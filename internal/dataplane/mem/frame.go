package mem

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// tuple names the ends of a layer: outer addresses and, in UDP, ports. Many sessions may share one (RFC 5213 5.6.1).
type tuple struct{ local, remote netip.AddrPort }

func (t tuple) is4() bool { return t.remote.Addr().Is4() }
func (t tuple) udp() bool { return t.local.Port() != 0 }

// head is how many octets the outer headers have.
func (t tuple) head() int {
	n := ip.IPv6Len
	if t.is4() {
		n = ip.IPv4Len
	}
	if t.udp() {
		n += ip.UDPLen
	}
	return n
}

// kind says what stands between the outer IP or UDP header and the inner packet, and which way it goes.
type kind uint8

const (
	inTLV   kind = 1 << iota // of either layout
	inGRE                    //
	keyed                    // GRE with a key, also if that is 0
	inESP                    //
	without                  // not a tunnel: the headers of route optimization
	leaving                  // as this router sends it; else as it arrives
)

// frame names a tunnel that is not plain: by its ends, by what its packets have in common beside them, and by the tunnel that
// they come in. Two tunnels between the same ends are told apart by it, so it also says which routing domain a packet is of.
type frame struct {
	tuple
	kind   kind
	key    uint32 // of GRE, or the handle of the security association
	within uint32 // serial of the carrier around it, 0 = none
}

// carrier is the outer layer of chains of two, in one direction.
type carrier struct {
	frame
	*path
	serial uint32
	refs   int
}

// plain: a tuple and nothing else, which tables.tunnels has.
func (f *frame) plain() bool { return f.kind&^leaving == 0 && f.within == 0 }

// find looks a tunnel up.
func (t *tables) find(f *frame) *tunnel {
	if f.plain() {
		return t.tunnels[f.tuple]
	}
	return t.framed[*f]
}

// keys are those of GRE in a layer, as this router sends and expects them: KeyUp goes towards the anchor.
func (e *Engine) keys(l *core.Layer) (out, in uint32) {
	if e.cfg.Role == dataplane.Anchor {
		return l.KeyDown, l.KeyUp
	}
	return l.KeyUp, l.KeyDown
}

// frames are how packets of a layer arrive, and how they leave.
func (e *Engine) frames(l *core.Layer, within [2]uint32) (in, out frame) {
	t := tuple{l.Local, l.Remote}
	switch {
	case l.ESPPort != 0:
		t = tuple{netip.AddrPortFrom(l.Local.Addr(), PortESP), netip.AddrPortFrom(l.Remote.Addr(), l.ESPPort)}
	case !t.udp():
		t.remote = netip.AddrPortFrom(l.Remote.Addr(), 0)
	}
	in = frame{tuple: t}
	if l.TLV != 0 {
		in.kind |= inTLV
	}
	if l.GRE {
		in.kind |= inGRE
	}
	if l.SA != 0 {
		in.kind, in.key = in.kind|inESP, l.SA
	}
	out = in
	if l.GRE {
		out.key, in.key = e.keys(l)
		for _, f := range []*frame{&in, &out} {
			if f.key != 0 {
				f.kind |= keyed
			}
		}
	}
	out.kind |= leaving
	in.within, out.within = within[0], within[1]
	return in, out
}

// layer is a frame that packets arrive in, as an answer needs it.
func (e *Engine) layer(f *frame, tlv uint8) core.Layer {
	l := core.Layer{Local: f.local, Remote: f.remote, TLV: tlv, GRE: f.kind&inGRE != 0}
	switch {
	case l.GRE && e.cfg.Role == dataplane.Anchor:
		l.KeyUp = f.key
	case l.GRE:
		l.KeyDown = f.key
	case f.kind&inESP != 0:
		l.SA = f.key
	}
	if l.SA != 0 && f.kind&inTLV == 0 && f.udp() {
		l.ESPPort = f.remote.Port()
		l.Local, l.Remote = netip.AddrPortFrom(f.local.Addr(), 0), netip.AddrPortFrom(f.remote.Addr(), 0)
	}
	return l
}

// special reports whether a chain has more than one layer, or more in it than IP and UDP.
func special(c *core.Chain) bool {
	l := &c.Layer[0]
	return c.N != 1 || c.RO != 0 || l.TLV != 0 || l.GRE || l.SA != 0
}

// twinOf is, over IPv4, the other framing between the addresses of a plain chain (package comment).
func twinOf(l *core.Layer) (other tuple) {
	if !l.Remote.Addr().Is4() {
		return tuple{}
	}
	if l.Local.Port() != 0 {
		return tuple{netip.AddrPortFrom(l.Local.Addr(), 0), netip.AddrPortFrom(l.Remote.Addr(), 0)}
	}
	port := l.Remote.Port()
	if port == 0 {
		port = dataplane.PortUDP
	}
	return tuple{netip.AddrPortFrom(l.Local.Addr(), dataplane.PortUDP), netip.AddrPortFrom(l.Remote.Addr(), port)}
}
