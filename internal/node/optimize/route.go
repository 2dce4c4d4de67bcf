package optimize

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// told is what the data plane was told of an entry.
type told struct {
	exists, up bool
	chain      core.Chain
	before     netip.Addr // care-of address of the chain that is still taken
}

// route brings the data plane to what the entry knows. The session takes what comes from the correspondent for as long as it may
// hold a binding; it sends only while that is sure, and from an address that is there.
func (m *Machine) route(e *entry) {
	now, t := m.now.Boot, &e.told
	if !e.bind.ok() && now >= e.lives && !(t.exists && now < e.lives+grace) {
		if t.exists {
			m.out = append(m.out, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
			*t = told{}
		}
		return
	}
	own := e.bind.careOf
	if was := t.chain.Layer[0].Local.Addr(); t.exists && (e.unsure || !e.bind.ok()) {
		// It may hold any of several. What the data plane has stays if the node is there, for what was before is still taken then.
		if own = was; !m.owns(was) {
			own = m.mayHold(e, was, was)
		}
	}
	if e.upd.running && e.upd.target.what == register && e.upd.tries > 0 {
		own = e.upd.target.careOf // the correspondent may have it already
	}
	chain := t.chain
	if own.IsValid() {
		chain = m.chain(e, own)
	}
	if chain == (core.Chain{}) {
		return // nothing is known of where it sends to
	}
	up := m.sends(e) && own == e.bind.careOf
	match := core.Match{Src: single(m.place.Home), Dst: single(e.peer)}
	var ops []core.Op
	if t.exists && t.up && !up {
		ops = append(ops, core.SetKey{Match: match, ID: e.id, Down: true})
	}
	// Of all former addresses one is still taken: one that is there, if the correspondent may hold such.
	was, before := t.chain.Layer[0].Local.Addr(), t.before
	if t.exists && was != own {
		before = was
	}
	detour := false
	if t.exists && !m.owns(before) {
		there := m.mayHold(e, own, before)
		before, detour = there, there != before
	}
	if detour {
		ops = append(ops, core.SetSession{ID: e.id, Chain: m.chain(e, before)})
	}
	if !t.exists || t.chain != chain || detour {
		ops = append(ops, core.SetSession{ID: e.id, Chain: chain, Grace: min(max(e.lives-now, 0), MaxBindingLifetime)})
	}
	if !t.exists || up && !t.up {
		ops = append(ops, core.SetKey{Match: match, ID: e.id, Up: up, Down: true})
	}
	if len(ops) > 0 {
		m.out = append(m.out, core.Forward{Ops: ops, Ref: refBase + e.serial})
	}
	*t = told{true, up, chain, before}
}

// chain is the direct way from a care-of address.
func (m *Machine) chain(e *entry, own netip.Addr) core.Chain {
	return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: addrPort(own), Remote: addrPort(m.wire(e.peer))}}}
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

// sends says whether data leaves directly.
func (m *Machine) sends(e *entry) bool {
	u := &e.upd
	switch {
	case !e.bind.ok() || e.unsure || e.bind.expires <= m.now.Boot || m.place.At == AtHome || !m.owns(e.bind.careOf):
		return false
	case u.running && u.tries > 0 && u.target.what == remove:
		return false
	case e.verify && u.running && u.tries > 1: // no answer at once
		return false
	}
	return true
}

// wire is the address of a correspondent on the wire: its care-of address, if it is mobile and registered here.
func (m *Machine) wire(peer netip.Addr) netip.Addr {
	if a, ok := m.mobile[peer]; ok {
		return a
	}
	return peer
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
