package node

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/node/optimize"
	"kedge/internal/peer"
)

// A mobile node may be a correspondent of others (Config.Peer): machine peer is a sub-machine then, for the home address. Its messages
// come by the home agent's tunnel, or from a correspondent that has this node's binding with a type 2 routing header, and its answers
// go the same way back. Its bindings and the own ones there are the matter of package optimize, which makes one session of both.

// maxPeers is how many correspondents may have a binding here.
const maxPeers = optimize.MaxLimit

// newPeer makes it.
func (m *Machine) newPeer() (err error) {
	if m.cfg.Peer == nil {
		return nil
	}
	c := *m.cfg.Peer
	c.Addresses = nil // what comes to the home address is handed over, whichever that is
	if c.Limits.Bindings <= 0 || c.Limits.Bindings > maxPeers {
		c.Limits.Bindings = maxPeers
	}
	c.Forward = func(b peer.Binding) []core.Effect { return m.opt.Mobile(m.now, b.Home, b.CareOf, nil) }
	m.peer, err = peer.New(c, m.rand)
	return err
}

// corresponds gives the sub-machine an event, if there is one that takes it.
func (m *Machine) corresponds(ev core.Event) bool {
	if m.peer == nil || m.state == starting || m.state == stopped {
		return false
	}
	var theirs bool
	switch ev := ev.(type) {
	case core.Message:
		_, home := m.cameFor(&ev.Path)
		theirs = peer.Takes(ev.Body) && home == m.hoa() && ev.Path.Remote.Addr() != m.ha.v6
	case core.Reported:
		theirs = ev.HomeAddress
	case core.Tick:
		at, ok := m.peer.Deadline()
		theirs = ok && at <= m.now.Boot
	}
	if !theirs {
		return false
	}
	from := len(m.out)
	m.out = m.peer.Handle(m.now, ev, m.out)
	for i := from; i < len(m.out); i++ {
		if s, ok := m.out[i].(core.Send); ok {
			m.out[i] = m.outward(s)
		}
	}
	return true
}

// outward sends what is from the home address, and answers nothing that came by the tunnel, through it while the node is away: Binding
// Errors for data, and Binding Refresh Requests.
func (m *Machine) outward(s core.Send) core.Send {
	p := &s.Path
	switch {
	case p.Local.Addr() != m.hoa() || p.Outer.N > 0 || p.Own.IsValid():
	case m.state == home:
		p.If = m.homeIf
	case m.session.up:
		p.Outer = m.session.chain
		p.Outer.MTU = 0
	}
	return s
}

// mobiles are the bindings of correspondents here.
func (m *Machine) mobiles(filter string) (bs []core.Binding) {
	if m.peer == nil {
		return nil
	}
	for _, e := range m.peer.Handle(m.now, core.Command{Body: core.GetBindings{Filter: filter}}, nil) {
		if r, ok := e.(core.Reply); ok {
			bs, _ = r.Body.([]core.Binding)
		}
	}
	return bs
}

// peerStatus adds what there is to say of them.
func (m *Machine) peerStatus(s *core.Status) {
	if m.peer == nil {
		return
	}
	at := m.peer.Status()
	for state, n := range at.Sessions {
		s.Sessions["peer-"+state] += n
	}
	for r, n := range at.Counters {
		s.Counters[r] += n
	}
}

// CareOf is where a mobile correspondent has registered this node's packets to go; invalid = it has no binding here.
func (m *Machine) CareOf(of netip.Addr) netip.Addr {
	if m.peer == nil {
		return netip.Addr{}
	}
	a, _ := m.peer.CareOf(m.hoa(), of)
	return a
}
