package anchor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
)

// command answers the API.
func (m *Machine) command(ev core.Command) {
	reply := core.Reply{Ref: ev.Ref}
	switch c := ev.Body.(type) {
	case core.GetStatus:
		reply.Body = m.status()
	case core.GetBindings:
		reply.Body = m.bindings(c.Filter)
	case core.Explain:
		reply.Body = m.explain(c.ID)
	case core.Revoke:
		reply.Body, reply.Err = m.commandRevoke(c.ID)
	case core.Stop:
		if home := m.discovery.home; home != nil {
			home.End(m.now)
			m.advertise()
		}
	case core.Switch:
		reply.Body, reply.Err = m.commandSwitch(c)
	default:
		reply.Err = fmt.Errorf("an anchor does not know the command %T", ev.Body)
	}
	m.effect(reply)
}

func (m *Machine) status() core.Status {
	s := core.Status{Role: "anchor", Since: m.since, Sessions: make(map[string]int), Notes: slices.Clone(m.notes), Counters: make(map[string]uint64)}
	for _, st := range []binding.State{binding.Pending, binding.Active, binding.Deprecated} {
		s.Sessions[st.String()] = m.count[st]
	}
	for r, n := range m.refused {
		s.Counters[string(r)] = n
	}
	for _, p := range m.pools.All() {
		used, free := p.Used(m.now)
		s.Pools = append(s.Pools, core.PoolStatus{Name: p.Name(), Range: p.Range(), Used: used, Free: free})
	}
	s.Peers = m.peerStatus()
	m.discoveryStatus(&s)
	if m.store.held {
		s.Notes = append(s.Notes, fmt.Sprintf("the store was lost: hints are honoured, nothing dynamic for another %s", (m.store.heldUntil-m.now.Boot).Round(time.Second)))
	}
	return s
}

// peerStatus lists the gateways that have sessions, and the configured ones that have none.
func (m *Machine) peerStatus() (out []core.PeerStatus) {
	seen := make(map[netip.Addr]bool)
	add := func(p *peer, a netip.Addr, sessions int) {
		st := core.PeerStatus{Address: a, Sessions: sessions}
		if p != nil {
			st.Name, st.Protection = p.Name, p.Protection
		}
		if m.watch != nil {
			st.Alive, st.Restarts, st.LastHeard = m.watch.Status(a)
		}
		seen[a] = true
		out = append(out, st)
	}
	for _, g := range m.gateways.list[1:] {
		if g.sessions > 0 {
			add(m.peers.find(g.addr), g.addr, g.sessions)
		}
	}
	for _, p := range m.peers.list {
		for _, a := range p.Addresses {
			if a.IsSingleIP() && !seen[a.Addr()] && p.gateway {
				add(p, a.Addr(), 0)
			}
		}
	}
	slices.SortFunc(out, func(a, b core.PeerStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Address.Compare(b.Address))
	})
	return out
}

// bindings lists those whose id, address or prefix contains the filter, by id and age.
func (m *Machine) bindings(filter string) []core.Binding {
	out := []core.Binding{}
	add := func(b core.Binding) {
		if filter == "" || matches(&b, filter) {
			out = append(out, b)
		}
	}
	for i := range m.cache.All() {
		add(m.tell(i))
	}
	for h := range m.hosts.table.All() {
		add(m.tellHost(h))
	}
	for _, b := range m.detectedBindings() {
		add(b)
	}
	slices.SortFunc(out, func(a, b core.Binding) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Session, b.Session)) })
	return out
}

func matches(b *core.Binding, filter string) bool {
	if strings.Contains(b.ID, filter) || b.IPv4.IsValid() && strings.Contains(b.IPv4.String(), filter) {
		return true
	}
	a, err := netip.ParseAddr(filter)
	for _, p := range slices.Concat(b.Prefixes, b.Home) {
		if strings.Contains(p.String(), filter) || err == nil && p.Contains(a) {
			return true
		}
	}
	return false
}

// tell is a session as users see it.
func (m *Machine) tell(i binding.Index) core.Binding {
	e, h := m.cache.At(i), m.cache.Homes(i)
	b := core.Binding{
		ID: m.cache.Node(i), Session: e.ID, State: e.State.String(), Families: []string{}, Prefixes: h.Prefixes, IPv4: h.V4,
		ProxyCoA: addr(e.CareOf), Gateway: m.peerName(addr(e.CareOf)), Anchor: addr(e.Anchor), Dialect: Dialect(e.Dialect).String(),
		ATT: e.ATT, Lifetime: lifetime(e.Lifetime), Expires: m.now.Wall.Add(e.Expires - m.now.Boot),
		Since: time.Unix(0, e.Since).UTC(), Sequence: e.Sequence,
		Protection: m.peers.protection(m.peers.find(addr(e.CareOf))), Kind: "proxy", CareOf: addr(e.CareOf), Framing: "ip", Home: h.Keys(),
	}
	if h.V4.IsValid() {
		b.Families = append(b.Families, "v4")
		b.Router4 = netip.AddrFrom4(e.Router4)
	}
	if len(h.Prefixes) > 0 {
		b.Families = append(b.Families, "v6")
	}
	b.LinkLayer = linkLayerText(m.cache.LinkLayer(i))
	return b
}

// linkLayerText is a link-layer identifier in hexadecimal with colons.
func linkLayerText(id []byte) string {
	var s strings.Builder
	for n, b := range id {
		if n > 0 {
			s.WriteByte(':')
		}
		fmt.Fprintf(&s, "%02x", b)
	}
	return s.String()
}

// explain tells why things are as they are for an identifier, or for whose session has the address or prefix.
func (m *Machine) explain(id string) core.Explanation {
	if i, ok := m.byAddress(id); ok {
		id = m.cache.Node(i)
	} else if h := m.hostByAddress(id); h != nil {
		id = h.Node
	}
	x := core.Explanation{ID: id, Bindings: []core.Binding{}, History: m.past.of(id)}
	switch p, listed, known := m.subs.Find(id); {
	case listed:
		x.Profile = "listed in the config"
		if len(p.Gateways) > 0 {
			x.Profile += "; gateways " + strings.Join(p.Gateways, ", ")
		}
		x.Profile += m.profileText(id)
	case known:
		x.Profile = "unknown, accepted by subscribers.default"
	default:
		x.Profile = "unknown, refused by subscribers.default"
	}
	for i := range m.cache.ByNode(id) {
		x.Bindings = append(x.Bindings, m.tell(i))
	}
	if h := m.hostOf(id); h != nil {
		x.Bindings = append(x.Bindings, m.tellHost(h))
	}
	for _, b := range m.detectedBindings() {
		if b.ID == id {
			x.Bindings = append(x.Bindings, b)
		}
	}
	return x
}

func (m *Machine) byAddress(s string) (binding.Index, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return 0, false
		}
		a = p.Addr()
	}
	for _, p := range m.pools.All() {
		if u, ok := p.Unit(a); ok {
			if i, ok := m.cache.ByHome(p.Domain(), u); ok {
				return i, true
			}
		}
	}
	return 0, false
}
