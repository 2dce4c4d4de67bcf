package anchor

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// overheard takes what comes from the home link and not from a port of signalling.
func (m *Machine) overheard(ev *core.Message) bool {
	if f, ok := ev.Body.(*access.Frame); ok {
		if ev.Path.If == m.cfg.HomePort.If && ev.Err == nil {
			m.frame(f)
		}
		return true
	}
	return !ev.Path.Remote.IsValid() // a frame that could not be read
}

// storedHost is a registration that comes out of the store.
type storedHost struct {
	*homeagent.Registration
	expires time.Time
}

// readHost takes a record. What comes of it is decided when all are in: the node may have registered anew while the end of
// its former registration could not be stored.
func (m *Machine) readHost(id core.ID, val []byte) error {
	h, expires, err := homeagent.Decode(id, val)
	if err != nil {
		return err
	}
	m.store.next = max(m.store.next, uint64(id)+1)
	m.hosts.stored = append(m.hosts.stored, storedHost{&h, expires})
	return nil
}

// restoreHosts brings the registrations back, the newest first.
func (m *Machine) restoreHosts() {
	slices.SortFunc(m.hosts.stored, func(a, b storedHost) int { return cmp.Compare(b.ID, a.ID) })
	for _, h := range m.hosts.stored {
		if err := m.restoreHost(h.Registration, h.expires); err != nil {
			m.badRecord(hostKey(h.ID), err)
		}
	}
	m.hosts.stored = nil
}

// restoreHost brings one registration back, with its forwarding and its defence, as restoreSession does for the others.
func (m *Machine) restoreHost(h *homeagent.Registration, expires time.Time) error {
	id := h.ID
	ends := func(why error) error {
		m.store.stale = append(m.store.stale, hostKey(id))
		if why == nil {
			return nil
		}
		return fmt.Errorf("registration %d of %s ends: %w", id, h.Node, why)
	}
	if h.State == binding.Active && expires.Add(lifetime(h.Lifetime)).Before(m.now.Wall) {
		m.remember(h.Domain, h.Node, h.Keys())
		return ends(nil)
	}
	if _, proxy := m.cache.ByID(id); proxy {
		return fmt.Errorf("session %d is there twice", id)
	}
	if m.hosts.table.ByHome(h.Domain, h.V6()) != nil {
		return ends(nil)
	}
	p, ok := m.subs.Home(h.Home)
	switch {
	case !ok || p.ID != h.Node || p.Domain != h.Domain:
		return ends(fmt.Errorf("%s is not his home address any more", h.Home))
	case !m.cfg.DSMIP6.On || !p.May(subscriber.DSMIP6):
		return ends(errors.New("no host registrations for him any more"))
	}
	keys := h.Keys()
	for _, n := range h.Networks {
		if !slices.Contains(p.Networks, n) {
			return ends(fmt.Errorf("%s: not his any more", n))
		}
	}
	for n, k := range keys {
		if k.Addr().Is4() && (!m.mayHave(p, k) || !slices.Contains(p.Networks, k) && !m.takeAgain(h, k)) {
			m.releaseHost(h.Domain, h.Node, keys[:n], false)
			return ends(fmt.Errorf("%s: not his any more", k))
		}
	}
	h.Sequence += sequenceMargin // refreshes are written up to a second late
	if h.MessageID != 0 {
		if now := rfc4285.NTP(m.now.Wall); h.MessageID < now || !homeagent.Passed(h.MessageID, m.now, m.cfg.DSMIP6.MessageIDWindow) {
			h.MessageID = now
		}
	}
	h.Expires = m.now.Boot + m.cfg.Timers.MinDelayBeforeBCEDelete
	if h.State == binding.Active {
		h.Expires = m.now.Boot + lifetime(h.Lifetime)
	}
	if err := m.hosts.table.Restore(h); err != nil {
		m.releaseHost(h.Domain, h.Node, keys, false)
		return ends(err)
	}
	if !edges[binding.None][h.State] {
		panic("anchor: a record lets an impossible state through")
	}
	m.count[h.State]++
	if ops := m.hostOps(h, 0, nil); !isDrop(ops[0]) { // nothing is there yet to drop
		m.effect(core.Forward{Ops: ops})
	}
	if h.State == binding.Active {
		m.hostEndpoint(h)
		m.defendHost(h, m.keysOnLink(h), false)
		m.doubt(h, true)
	}
	return nil
}

// mayHave says whether the config still gives a subscriber an IPv4 home address or network that he had.
func (m *Machine) mayHave(p *subscriber.Profile, k netip.Prefix) bool {
	if m.cfg.DSMIP6.NoIPv4 || !p.Has(subscriber.V4) {
		return false
	}
	around := m.pools.Around(p.Domain, k.Addr())
	return slices.Contains(p.Networks, k) || k.Addr() == p.V4 || around != nil && m.dynamicV4(p, around)
}

func isDrop(op core.Op) bool {
	_, ok := op.(core.Drop)
	return ok
}

// tellHost is a registration as users see it.
func (m *Machine) tellHost(h *homeagent.Registration) core.Binding {
	b := core.Binding{
		ID: h.Node, Session: h.ID, State: h.State.String(), Kind: "host", Families: []string{"v6"}, Home: h.Keys(),
		CareOf: h.CareOf, Framing: "ip", NAT: h.NAT, Anchor: h.Local, Dialect: h.Dialect.String(),
		Lifetime: lifetime(h.Lifetime), Expires: m.now.Wall.Add(h.Expires - m.now.Boot), Since: time.Unix(0, h.Since).UTC(), Sequence: h.Sequence,
	}
	if s, listed, _ := m.subs.Find(h.Node); listed {
		b.Protection = m.peers.protection(m.peers.byName[s.Peer])
	}
	if h.UDP {
		b.Framing, b.Port = "udp", h.Port
	}
	if h.Framing != homeagent.Native {
		b.Anchor = h.Outer.Addr()
	}
	for _, v := range h.V4 {
		if v.Prefix.IsSingleIP() {
			b.Families, b.IPv4 = []string{"v4", "v6"}, v.Prefix
			break
		}
	}
	return b
}

// hostOf gives the host registration of an identifier, nil if there is none. A subscriber has one home address.
func (m *Machine) hostOf(id string) *homeagent.Registration {
	p, listed, _ := m.subs.Find(id)
	if !listed || !p.HoA.IsValid() {
		return nil
	}
	return m.hosts.table.ByHome(p.Domain, netip.PrefixFrom(p.HoA.Addr(), 128))
}

// hostByAddress finds the registration that has an address, of whatever domain.
func (m *Machine) hostByAddress(s string) *homeagent.Registration {
	a, err := netip.ParseAddr(s)
	if err != nil {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil
		}
		a = p.Addr()
	}
	if p, ok := m.subs.Home(a); ok {
		return m.hosts.table.ByHome(p.Domain, netip.PrefixFrom(a, 128))
	}
	for _, d := range m.domains {
		for bits := a.BitLen(); bits > 0; bits-- { // longest first, as it is forwarded
			k, _ := a.Prefix(bits)
			if h := m.hosts.table.ByHome(d, k); h != nil {
				return h
			}
		}
	}
	return nil
}

// detectedBindings are the requests that wait for the detection of duplicates.
func (m *Machine) detectedBindings() (out []core.Binding) {
	for _, q := range m.hosts.detect.byHome {
		out = append(out, core.Binding{
			ID: q.profile.ID, Session: q.id, State: binding.Pending.String(), Kind: "host", Families: []string{"v6"},
			Home: []netip.Prefix{netip.PrefixFrom(q.Home, 128)}, CareOf: q.CareOf, Framing: "ip", Anchor: q.Path.Local.Addr(),
			Dialect: q.Dialect.String(), Sequence: q.Sequence,
		})
	}
	return out
}

// profileText says what of a profile concerns host registrations.
func (m *Machine) profileText(id string) string {
	p, listed, _ := m.subs.Find(id)
	if !listed || !p.HoA.IsValid() {
		return ""
	}
	s := fmt.Sprintf("; home address %s, peer %s", p.HoA, p.Peer)
	if p.V4.IsValid() {
		s += ", IPv4 " + p.V4.String()
	}
	var networks []string
	for _, n := range p.Networks {
		networks = append(networks, n.String())
	}
	if len(networks) > 0 {
		s += ", networks " + strings.Join(networks, ", ")
	}
	return s
}

// revokeHost ends a registration on command. Its node is not told: RFC 5846 indications to mobile nodes are not sent; its next
// Binding Update is served anew.
func (m *Machine) revokeHost(h *homeagent.Registration) (busy bool) {
	if m.flights.open(h.ID) {
		return true
	}
	was := h.State
	next := *h
	next.State, next.Expires = binding.Deprecated, m.now.Boot+m.cfg.Timers.MinDelayBeforeBCEDelete
	h, err := m.hosts.table.Put(next)
	if err != nil {
		panic("anchor: a revoked registration has the keys of another one")
	}
	m.endHostService(h, was, "revoked")
	m.effect(core.Persist{Key: hostKey(h.ID), Val: h.Encode(m.now)})
	m.effect(core.Forward{Ops: m.hostOps(h, 0, nil)})
	return false
}

// reportedHost says whose packets the data plane dropped, when they are those of a node that registered by itself: behind a
// NAT that moved it, they come from another port or address. Only an authenticated Binding Update moves the tunnel.
func (m *Machine) reportedHost(ev *core.Reported, f *Fields) {
	h := m.hosts.table.ByID(ev.ID)
	if h == nil && ev.Inner.Src.IsValid() {
		a := ev.Inner.Src.Addr()
		h = m.hosts.table.ByHome(ev.Inner.Domain, netip.PrefixFrom(a, a.BitLen()))
	}
	if h == nil {
		return
	}
	f.Sub, f.CareOf, f.ProxyCoA = h.Node, f.ProxyCoA, netip.Addr{}
	from := ev.Outer.Remote
	switch {
	case wire.Reason(ev.Reason) != wire.WrongTunnel:
	case from.Addr() != h.CareOf:
		f.Detail = "other address: registered is " + h.CareOf.String()
	case from.Port() != h.Port && h.UDP:
		f.Detail = fmt.Sprintf("other NAT port: %d, registered is %d", from.Port(), h.Port)
	}
}

// bindingErrorSize is the octets of a Binding Error, RFC 6275 6.1.9.
const bindingErrorSize = 24

// bindingError answers a message with a Binding Error, RFC 6275 9.3.3: to the source that is on the wire, without a routing
// header. A stranger gets no more octets than it sent.
func (m *Machine) bindingError(ev *core.Message, known bool) {
	path := ev.Path
	to := path.Remote.Addr()
	if !m.isLocal(path.Local.Addr()) || !to.IsValid() || to.IsMulticast() || to.IsUnspecified() || !known && len(ev.Raw) < bindingErrorSize {
		return
	}
	home := netip.IPv6Unspecified()
	if path.Home.IsValid() {
		home, path.Home = path.Home, netip.Addr{}
	}
	m.effect(core.Send{Path: path, Body: &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: home}})
}
