package anchor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Nodes are sent to other home agents on command, before maintenance or to spread load (RFC 5142 5).

// leaving is what the last command said.
type leaving struct {
	on   bool
	all  bool          // every node, and those that come
	to   []netip.Addr  // as given; none: the home agents of the link
	at   time.Duration // boot time when the bindings end; 0 = with their lifetime
	sent int           // messages
	gone int           // nodes that have left since
}

// maxSwitchAddresses is how many addresses a command may give: a Mobility Header holds 127.
const maxSwitchAddresses = 32

// commandSwitch begins, ends or shows.
func (m *Machine) commandSwitch(c core.Switch) (core.Switched, error) {
	d := &m.discovery
	bad := func(format string, args ...any) (core.Switched, error) {
		return core.Switched{}, fmt.Errorf(format, args...)
	}
	switch {
	case !m.cfg.DSMIP6.On:
		return bad("this anchor is no home agent: services.dsmip6 is not there")
	case c.Show:
		return m.switched(0), nil
	case c.Stop:
		d.leave.Stop()
		d.leaving = leaving{}
		m.retire(false)
		return m.switched(0), nil
	case c.Rate < 0 || c.Rate > 1000 || c.Within < 0 || c.Within > maxLifetime:
		return bad("rate %d or time %s: want up to 1000 nodes a second, and at most %s", c.Rate, c.Within, maxLifetime)
	case c.Within > 0 && c.Within < 4*time.Second:
		return bad("time %s: a node needs 4s at least", c.Within)
	case len(c.To) > maxSwitchAddresses:
		return bad("%d addresses: at most %d are told", len(c.To), maxSwitchAddresses)
	}
	for _, a := range c.To {
		if !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() || m.isLocal(a) {
			return bad("%s: want the IPv6 address of another home agent", a)
		}
	}
	var nodes []*homeagent.Registration
	unprotected := 0
	for h := range m.hosts.table.All() {
		switch {
		case h.State != binding.Active || c.ID != "" && c.ID != h.Node && c.ID != h.Home.String():
		case h.Auth.Kind != "esp": // RFC 5142 5.1: it must be protected
			unprotected++
		default:
			nodes = append(nodes, h)
		}
	}
	if c.ID != "" && len(nodes)+unprotected == 0 {
		return bad("no node %s is registered", c.ID)
	}
	slices.SortFunc(nodes, func(a, b *homeagent.Registration) int { return cmp.Compare(a.ID, b.ID) })
	l := &d.leaving
	if !l.on {
		*l = leaving{on: true}
	}
	l.all = l.all || c.ID == ""
	l.to, l.at = slices.Clone(c.To), 0
	if c.Within > 0 {
		l.at = m.now.Boot + c.Within
	}
	d.leave.Rate = max(c.Rate, 1)
	for _, h := range nodes {
		d.leave.Add(m.now, h.Home)
	}
	m.retire(l.all)
	m.dueSwitch()
	return m.switched(unprotected), nil
}

// retire keeps the nodes that leave from finding back.
func (m *Machine) retire(yes bool) {
	if home := m.discovery.home; home != nil {
		home.Retire(m.now, yes)
		m.advertise()
	}
}

// switched is how far it is.
func (m *Machine) switched(unprotected int) core.Switched {
	d := &m.discovery
	all, told, deaf := d.leave.Counts()
	return core.Switched{On: d.leaving.on, All: d.leaving.all, Nodes: all, Told: told, Deaf: deaf, Gone: d.leaving.gone, Unprotected: unprotected, To: d.leaving.to}
}

// dueSwitch sends what is due.
func (m *Machine) dueSwitch() {
	d := &m.discovery
	for range maxDue {
		home, sends, ok := d.leave.Due(m.now)
		if !ok {
			return
		}
		h := m.activeHost(home)
		if h == nil {
			d.leave.Gone(home)
			continue
		}
		m.sendSwitch(h, sends)
	}
}

// activeHost is the registration of a home address, if it is in use.
func (m *Machine) activeHost(home netip.Addr) *homeagent.Registration {
	p, ok := m.subs.Home(home)
	if !ok {
		return nil
	}
	h := m.hosts.table.ByHome(p.Domain, netip.PrefixFrom(home, 128))
	if h == nil || h.State != binding.Active {
		return nil
	}
	return h
}

// sendSwitch is RFC 5142 5.1.
func (m *Machine) sendSwitch(h *homeagent.Registration, sends int) {
	d := &m.discovery
	s := &mobility.HomeAgentSwitch{Addresses: d.leaving.to}
	if len(s.Addresses) == 0 && d.home != nil {
		s.Addresses, _ = d.home.Candidates(h.Router, true)
		s.Addresses = s.Addresses[:min(len(s.Addresses), maxSwitchAddresses)]
	}
	if d.leaving.at != 0 {
		left := max(d.leaving.at-m.now.Boot, 4*time.Second)
		s.Options = s.Options.AddAt(8, mobility.BindingRefreshAdvice{Interval: uint16(left / mobility.LifetimeUnit)})
		if h.Expires > m.now.Boot+left { // the binding ends when it was said to
			cut := *h
			cut.Expires = m.now.Boot + left
			var err error
			if h, err = m.hosts.table.Put(cut); err != nil {
				panic("anchor: a shortened registration has the keys of another one")
			}
		}
	}
	d.leaving.sent++
	why := "command"
	if sends > 0 {
		why = "no-answer"
	}
	f := m.aboutHost(h)
	f.Detail = fmt.Sprintf("to %v", s.Addresses)
	m.emit(core.Emit{Name: "home-agent-switch", ID: h.ID, To: "sent", Why: why, Fields: f})
	path := h.Path()
	path.Auth = h.Auth
	m.effect(core.Send{Path: path, Body: s})
}

// left notes that a node that was sent away has gone.
func (m *Machine) left(h *homeagent.Registration, why string) {
	if m.discovery.leave.Gone(h.Home) {
		m.discovery.leaving.gone++
		m.emit(core.Emit{Name: "home-agent-switch", ID: h.ID, To: "done", Why: why, Fields: m.aboutHost(h)})
	}
}

// staying refuses what would keep a node here that was told to leave (RFC 5142 5.3), and new ones while all are sent away. A node
// that moves meanwhile is followed for the time it has left.
func (m *Machine) staying(r *hostRequest) *homeagent.Refusal {
	d := &m.discovery
	moved := r.have != nil && r.have.State == binding.Active && (r.have.CareOf != r.CareOf || r.have.Port != r.Port)
	switch {
	case !d.leaving.on || moved:
		return nil
	case d.leave.Has(r.Home), d.leaving.all && (r.have == nil || r.have.State != binding.Active):
		return &homeagent.Refusal{Status: mobility.AdministrativelyProhibited, Reason: wire.HomeAgentSwitched, Detail: "other home agents serve it"}
	}
	return nil
}

// bound is how long a registration may last beside what the node asks for, units of 4 s: no longer than the prefix of its home
// address is valid (RFC 6275 10.3.1), and than it has left when it was told to leave.
func (m *Machine) bound(r *hostRequest, units uint16) uint16 {
	if valid, bounded := m.validFor(r.profile.Domain, r.Home); bounded {
		units = uint16(min(int64(units), int64(valid/mobility.LifetimeUnit)))
	}
	if r.have != nil && r.have.State == binding.Active && m.discovery.leave.Has(r.Home) {
		units = uint16(min(int64(units), max(1, int64((r.have.Expires-m.now.Boot)/mobility.LifetimeUnit))))
	}
	return units
}

// deafToSwitch takes a Binding Error of a node that does not know the message: it is not asked again (RFC 5142 5.3).
func (m *Machine) deafToSwitch(path *core.Path, b *mobility.BindingError) bool {
	if b.Status != mobility.UnrecognizedMHType || !m.discovery.leaving.on {
		return false
	}
	for _, home := range []netip.Addr{path.Home, path.Remote.Addr(), b.Home} {
		h := m.activeHost(home)
		if h == nil || home != path.Home && home != path.Remote.Addr() && h.CareOf != path.Remote.Addr() {
			continue
		}
		if m.discovery.leave.Deaf(home) {
			m.emit(core.Emit{Name: "home-agent-switch", ID: h.ID, To: "refused", Why: string(wire.UnsupportedMessage), Fields: m.aboutHost(h)})
			return true
		}
	}
	return false
}

// discoveryStatus adds what users see of it.
func (m *Machine) discoveryStatus(s *core.Status) {
	d := &m.discovery
	if d.leaving.on {
		x := m.switched(0)
		s.Switching = &x
	}
	if d.home == nil {
		return
	}
	for _, a := range d.home.Agents() {
		x := core.HomeAgentStatus{LinkLocal: a.LinkLocal, Preference: a.Preference, MobileRouters: a.Mobile, Left: a.Expires - m.now.Boot}
		for _, b := range a.Addresses {
			x.Addresses = append(x.Addresses, b.Addr)
		}
		s.HomeAgents = append(s.HomeAgents, x)
	}
}
