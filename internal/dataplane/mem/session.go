package mem

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// carries says why this back end cannot carry a chain, or nil.
func (e *Engine) carries(c core.Chain) error {
	l := c.Layer[0]
	local, remote := l.Local.Addr(), l.Remote.Addr()
	least := ip.MinMTU6
	if remote.Is4() {
		least = minMTU4
	}
	switch {
	case c.N == 0:
		return errors.New("a chain without a layer, native delivery, is not carried by this back end")
	case c.N > 1:
		return fmt.Errorf("a chain of %d layers is not carried by this back end: only one", c.N)
	case c.RO != 0:
		return errors.New("route optimization is not carried by this back end")
	case l.TLV != 0:
		return errors.New("a TLV header is not carried by this back end")
	case l.GRE || l.KeyUp != 0 || l.KeyDown != 0:
		return errors.New("GRE is not carried by this back end")
	case l.SA != 0 || l.ESPPort != 0:
		return errors.New("ESP is not carried by this back end")
	case l.Local.Port() != 0 && e.cfg.Role == dataplane.Gateway:
		return errors.New("UDP is not carried by a gateway")
	case l.Local.Port() != 0 && l.Local.Port() != dataplane.PortUDP:
		return fmt.Errorf("UDP port %d: this router's is %d (RFC 5555 6), or 0 for no UDP", l.Local.Port(), dataplane.PortUDP)
	case l.Local.Port() != 0 && l.Remote.Port() == 0:
		return fmt.Errorf("UDP to %v: the remote port is missing", remote)
	case e.cfg.Role != dataplane.Node && !slices.Contains(e.cfg.Local, local), !unicast(local):
		return fmt.Errorf("tunnel entry point %v is no address of this router", local)
	case !unicast(remote):
		return fmt.Errorf("tunnel exit point %v is no unicast address", remote)
	case local.Is4() != remote.Is4():
		return fmt.Errorf("a tunnel from %v to %v: two address families", local, remote)
	case local == remote || slices.Contains(e.cfg.Local, remote):
		return fmt.Errorf("tunnel exit point %v is this router itself (RFC 2473 4.1.2)", remote)
	case c.MTU != 0 && int(c.MTU) < least:
		return fmt.Errorf("path MTU %d is below %d, the least of its family", c.MTU, least)
	}
	return nil
}

// unicast reports whether a can be one end of a tunnel.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && (!a.Is4() || a.As4()[0] != 0 && a.As4()[0] < 240)
}

func (e *Engine) setSession(op core.SetSession, now time.Duration) error {
	if op.ID == 0 {
		return errors.New("session id 0 is no session")
	}
	if op.Mode != core.Routed {
		return errors.New("bridged mode is not carried by this back end")
	}
	if err := e.carries(op.Chain); err != nil {
		return err
	}
	access := hostKey{op.If, op.MAC}
	if e.cfg.Role != dataplane.Gateway {
		access = hostKey{}
	} else if _, ok := e.links[op.If]; access != (hostKey{}) && (!ok || op.MAC == (core.MAC{})) {
		return fmt.Errorf("session %d: interface %d and MAC %v name no host on an access link", op.ID, op.If, op.MAC)
	}
	own, other := framings(op.Chain)
	if t := e.tables.tunnels[own]; t != nil && t.domain != op.Domain {
		return fmt.Errorf("session %d: the tunnel to %v carries routing domain %d: without GRE keys it cannot carry domain %d as well", op.ID, own.remote, t.domain, op.Domain)
	}
	s := e.tables.sessions[op.ID]
	if s != nil && s.domain != op.Domain {
		return fmt.Errorf("session %d is in routing domain %d and cannot move to %d", op.ID, s.domain, op.Domain)
	}
	if s != nil {
		for _, b := range s.bindings {
			if b.prefix.Contains(own.remote.Addr()) {
				return fmt.Errorf("session %d: its home prefix %v holds its own tunnel's exit point %v", op.ID, b.prefix, own.remote.Addr())
			}
		}
	}
	tun, twin := e.hold(own, op.Domain), e.hold(other, op.Domain)
	if s == nil {
		s = &session{id: op.ID, domain: op.Domain, access: access}
		e.tables.sessions[op.ID] = s
	}
	if s.tun == tun {
		// The same tunnel, perhaps with another port for the other framing.
		e.release(s.tun)
		e.release(s.twin)
		s.twin = twin
	} else {
		tun.senders++
		if s.tun != nil {
			s.tun.senders--
			e.release(s.prev[0])
			e.release(s.prev[1])
			s.prev, s.until = [2]*tunnel{s.tun, s.twin}, now+op.Grace
		}
		s.tun, s.twin = tun, twin
	}
	s.chain, s.grace, s.mode = op.Chain, op.Grace, op.Mode
	if s.access != access {
		s.access = access
		for _, b := range s.bindings {
			e.place(b)
		}
	}
	e.mirrorSession(s)
	return nil
}

// hold takes one use of a tunnel, which the first one makes. nil: the tuple is none, or carries another routing domain.
func (e *Engine) hold(t tuple, d core.Domain) *tunnel {
	if !t.remote.IsValid() {
		return nil
	}
	tun := e.tables.tunnels[t]
	if tun == nil {
		tun = &tunnel{tuple: t, domain: d, secret: e.hash(t)}
		e.tables.tunnels[t] = tun
		if e.cfg.Mirror != nil {
			e.cfg.Mirror.Peer(t.local, t.remote, true)
		}
	}
	if tun.domain != d {
		return nil
	}
	tun.refs++
	return tun
}

// release gives up one use of a tunnel; the last one removes it (RFC 5213 5.6.1).
func (e *Engine) release(t *tunnel) {
	if t == nil {
		return
	}
	if t.refs--; t.refs == 0 {
		delete(e.tables.tunnels, t.tuple)
		if e.cfg.Mirror != nil {
			e.cfg.Mirror.Peer(t.local, t.remote, false)
			if t.slot != 0 {
				e.cfg.Mirror.DropTunnel(t.slot)
			}
		}
	}
}
