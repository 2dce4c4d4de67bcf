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
	if was := t.chain.Layer[0].Local.Addr(); e.unsure && t.exists && m.owns(was) {
		own = was // it may hold this one as well, and what was before is still taken
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
	if !t.exists || t.chain != chain {
		was := t.chain.Layer[0].Local.Addr()
		if t.exists && !m.owns(was) {
			// Of all former addresses one is still taken: one that is there.
			i := slices.IndexFunc(e.may, func(a netip.Addr) bool { return a != own && m.owns(a) })
			if i >= 0 {
				ops = append(ops, core.SetSession{ID: e.id, Chain: m.chain(e, e.may[i])})
			}
		}
		ops = append(ops, core.SetSession{ID: e.id, Chain: chain, Grace: min(max(e.lives-now, 0), MaxBindingLifetime)})
	}
	if !t.exists || up && !t.up {
		ops = append(ops, core.SetKey{Match: match, ID: e.id, Up: up, Down: true})
	}
	if len(ops) > 0 {
		m.out = append(m.out, core.Forward{Ops: ops, Ref: refBase + e.serial})
	}
	*t = told{true, up, chain}
}

// chain is the direct way from a care-of address.
func (m *Machine) chain(e *entry, own netip.Addr) core.Chain {
	return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: addrPort(own), Remote: addrPort(m.wire(e.peer))}}}
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
