package optimize

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// told is what the data plane was told of an entry.
type told struct {
	exists, up bool
	chain      core.Chain
	own        netip.Addr // care-of address that a type 2 routing header leads to; invalid = none
	before     netip.Addr // the one before, which is still taken
}

// route brings the data plane to what the entry knows. The session takes what comes from the correspondent for as long as it may
// hold a binding; it sends only while that is sure, and from an address that is there. To a correspondent that is mobile itself and
// has registered here it sends in any case: through the tunnel to the own home agent, when not directly.
func (m *Machine) route(e *entry) {
	now, t := m.now.Boot, &e.told
	theirs := e.theirs.IsValid()
	if e.why == wire.ForwardingFailed && now < e.hold {
		return // the back end does not carry it
	}
	if !e.bind.ok() && now >= e.lives && !theirs && !(t.exists && now < e.lives+grace) {
		if t.exists {
			m.out = append(m.out, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
			*t = told{}
		}
		return
	}
	own := m.ownEnd(e)
	direct := m.sends(e) && own == e.bind.careOf
	chain, up := t.chain, direct
	switch {
	case theirs && !direct && m.place.At == AtHome:
		chain, up = m.chain(e, m.place.Home), true
	case theirs && !direct && m.place.At == Away:
		chain, up = m.within(e), true
	case own.IsValid():
		chain = m.chain(e, own)
	}
	if chain == (core.Chain{}) {
		return // nothing is known of where it sends to
	}
	match := core.Match{Src: single(m.place.Home), Dst: single(e.peer)}
	var ops []core.Op
	if t.exists && t.up && !up {
		ops = append(ops, core.SetKey{Match: match, ID: e.id, Down: true})
	}
	// Of all former addresses one is still taken: one that is there, if the correspondent may hold such.
	before, detour := t.before, false
	if t.exists && t.own.IsValid() && t.own != own {
		before = t.own
	}
	if t.exists && before.IsValid() && !m.owns(before) {
		there := m.mayHold(e, own, before)
		before, detour = there, there != before
	}
	if detour {
		ops = append(ops, core.SetSession{ID: e.id, Chain: m.chain(e, before)})
	}
	if straight := m.chain(e, own); own.IsValid() && chain != straight && (t.own != own || !t.exists) {
		ops = append(ops, core.SetSession{ID: e.id, Chain: straight}) // taken beside the way through the tunnel
		detour = true
	}
	if !t.exists || t.chain != chain || detour {
		ops = append(ops, core.SetSession{ID: e.id, Chain: chain, Grace: max(min(max(e.lives-now, 0), MaxBindingLifetime), m.moved(t, chain))})
	}
	if !t.exists || up && !t.up {
		ops = append(ops, core.SetKey{Match: match, ID: e.id, Up: up, Down: true})
	}
	if len(ops) > 0 {
		m.out = append(m.out, core.Forward{Ops: ops, Ref: refBase + e.serial})
	}
	*t = told{true, up, chain, own, before}
}

// moved is how long the way before is still taken when a correspondent that is mobile itself has moved, or gone home.
func (m *Machine) moved(t *told, to core.Chain) (d time.Duration) {
	if t.exists && t.chain.Layer[0].Remote != to.Layer[0].Remote {
		d = grace
	}
	return d
}

// ownEnd is the care-of address that the correspondent sends to, as far as is known.
func (m *Machine) ownEnd(e *entry) netip.Addr {
	t, own := &e.told, e.bind.careOf
	if t.exists && t.own.IsValid() && (e.unsure || !e.bind.ok()) {
		// It may hold any of several. What the data plane has stays if the node is there, for what was before is still taken then.
		if own = t.own; !m.owns(own) {
			own = m.mayHold(e, own, own)
		}
	}
	if e.upd.running && e.upd.target.what == register && e.upd.tries > 0 {
		own = e.upd.target.careOf // it may have it already
	}
	if !own.IsValid() && m.now.Boot < e.lives {
		own = m.mayHold(e, netip.Addr{}, netip.Addr{}) // after a restart
		if !own.IsValid() && len(e.may) > 0 {
			own = e.may[len(e.may)-1]
		}
	}
	return own
}

// chain is the direct way from an address of ours.
func (m *Machine) chain(e *entry, own netip.Addr) core.Chain {
	return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: addrPort(own), Remote: addrPort(e.wire())}}}
}

// within is the way through the tunnel to the own home agent: the own end is not registered with the correspondent.
func (m *Machine) within(e *entry) core.Chain {
	c := core.Chain{N: 1, RO: 1}
	c.Layer[0] = core.Layer{Local: addrPort(m.place.Home), Remote: addrPort(e.wire())}
	c.Layer[1] = m.place.Tunnel.Layer[0]
	return c
}

// mayHold is the newest address that the correspondent may hold and that the node has, but for one; or else.
func (m *Machine) mayHold(e *entry, but, or netip.Addr) netip.Addr {
	for _, a := range slices.Backward(e.may) {
		if a != but && m.owns(a) {
			return a
		}
	}
	return or
}

func (m *Machine) owns(a netip.Addr) bool { return slices.Contains(m.place.Own, a) }

// sends says whether data leaves directly from the care-of address.
func (m *Machine) sends(e *entry) bool {
	u := &e.upd
	switch {
	case !e.bind.ok() || e.unsure || e.bind.expires <= m.now.Boot || m.place.At == AtHome || !m.owns(e.bind.careOf):
		return false
	case u.running && u.tries > 0 && u.target.what == remove:
		return false
	case e.verify && (e.astray || u.running && u.tries > 1): // no answer at once
		return false
	}
	return true
}

// wire is the address of a correspondent on the wire: its care-of address, if it is mobile and registered here.
func (e *entry) wire() netip.Addr {
	if e.theirs.IsValid() {
		return e.theirs
	}
	return e.peer
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
