package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// sighting is one sign of life of a host, from whatever source.
type sighting struct {
	by       string // a word of Access.AttachOn
	addr     netip.Addr
	hint     netip.Addr
	wants    access.Families
	id       string     // identity, from the API
	previous netip.Addr // gateway it came from, from the API
	arriving bool       // what hosts send when their carrier comes up, or somebody who knows
	answer   bool       // what hosts send when they are asked
}

// frame takes what came from an access link.
func (m *Machine) frame(ev *core.Message, f *access.Frame) {
	l := m.linkAt(ev.Path.If)
	if l == nil {
		m.count(wire.InterfaceUnsupported)
		return
	}
	if ev.Err != nil {
		// Nonsense, but a sign of life all the same.
		m.count(wire.ReasonOf(ev.Err))
		m.sighted(l, f.Src, sighting{by: "data"})
		return
	}
	m.carryOut(l, l.home.Handle(m.now, f, nil))
}

// reported takes what the data plane saw: the first packet of a host that is unknown where it is.
func (m *Machine) reported(ev *core.Reported) {
	m.counts["reported-"+ev.Reason]++
	switch wire.Reason(ev.Reason) {
	case wire.UnknownHost, wire.UnknownHome, wire.WrongSource, wire.WrongMAC:
	default:
		return
	}
	l := m.linkAt(ev.Inner.If)
	if l == nil || ev.Inner.MAC == (core.MAC{}) {
		return
	}
	m.sighted(l, ev.Inner.MAC, sighting{by: "data", addr: ev.Inner.Src.Addr()})
}

// seen takes news from the bridge or another watcher of the link.
func (m *Machine) seen(ev *core.Seen) {
	l := m.linkAt(ev.If)
	if l == nil {
		m.count(wire.InterfaceUnsupported)
		return
	}
	if !ev.Gone {
		m.sighted(l, ev.MAC, sighting{by: ev.By, addr: ev.Addr})
		return
	}
	if e := m.hosts[ev.MAC]; e != nil && e.link == l && l.detach[ev.By] {
		m.detach(e, ev.By)
	}
}

// sighted is where every sign of life comes together: a new host, one that moved, one that wants more, or just one that
// is still there.
func (m *Machine) sighted(l *link, mac core.MAC, s sighting) {
	if mac[0]&1 != 0 || mac == (core.MAC{}) || mac == l.Link.MAC {
		m.count(wire.BadSource)
		return
	}
	e := m.hosts[mac]
	here := e != nil && e.link == l
	switch {
	case e == nil && !l.attach[s.by]:
		m.count(wire.NotAttached)
		return
	case e == nil && m.late(l, mac, s):
		return
	case e == nil:
		if e = m.attach(l, mac, s); e == nil {
			return
		}
	case e.link != l && !l.attach[s.by]:
		m.count(wire.NotAttached)
		return
	case e.link != l:
		if !m.move(e, l, s) {
			return
		}
	}
	m.present(e)
	m.demand(e, s)
	if here { // not from another link of this gateway
		m.returned(e, s)
	}
}

// returned follows a bound host that shows what hosts show when their carrier comes up. It may have been at another
// gateway meanwhile and this one was not told (RFC 5846): then the anchor sends its packets elsewhere, so the binding is
// registered again at once. What a stack sends while it starts, soon after the registration, means nothing.
func (m *Machine) returned(e *entry, s sighting) {
	if !s.arriving {
		return
	}
	e.arrived = m.now.Boot
	if e.state != active || m.now.Boot-e.confirmed <= ReturnAfter {
		return
	}
	e.trigger, e.by, e.reassert = m.now.Boot, s.by, true
	m.register(e, "back by "+s.by)
}

// attach makes an entry for a host that is new here. nil: it may not have one.
func (m *Machine) attach(l *link, mac core.MAC, s sighting) *entry {
	// One stranger that talks a lot must not use up what the link allows: each has a bucket, shared by few.
	if b := &l.strangers[m.slot(mac)]; !b.Take(m.now.Boot, m.limits.triggers) || !l.newHosts.Take(m.now.Boot, m.limits.newHosts) {
		m.count(wire.RateLimit)
		return nil
	}
	mn := s.id
	if mn == "" {
		var ok bool
		if mn, ok = l.Identity.of(mac); !ok {
			m.notServed(l, mac, wire.UnknownHost)
			return nil
		}
	}
	if (l.hosts >= m.cfg.Limits.HostsPerAccess || len(m.hosts) >= m.cfg.Limits.Hosts) && !m.evict(l) {
		m.notServed(l, mac, wire.HostLimit)
		return nil
	}
	if old := m.leaving(mn, mac); old != nil {
		return m.takeOver(old, l, mac, s)
	}
	e := m.newEntry(l, mac, mn)
	e.named = s.id != ""
	if len(m.byID[mn]) > 1 {
		// Another interface of the host is here and stays: this one is certainly new (RFC 5213 6.9.1.1).
		e.handoff = mobility.HandoffNewInterface
	}
	return e
}

// slot chooses the bucket of a stranger; seeded, so that nobody can aim at another's.
func (m *Machine) slot(mac core.MAC) uint16 {
	h := m.seed
	for _, b := range mac {
		h = (h ^ uint32(b)) * 16777619 // FNV-1a
	}
	return uint16(h>>16^h) % uint16(len(link{}.strangers))
}

func (m *Machine) notServed(l *link, mac core.MAC, r wire.Reason) {
	m.count(r)
	m.emit(core.Emit{Name: "refused", Why: string(r), Fields: map[string]any{"if": l.Link.Name, "mac": mac.String()}})
}

// evictEvery is how often a link may look through a full table for hosts to forget, and maxVictims how many it then notes:
// more than it may take in that time. Looking once for each newcomer would let a flood of them use up the processor.
const (
	evictEvery = time.Second
	maxVictims = 1024
)

// evict makes room by forgetting a host without a session that was silent for long. False: there is none.
func (m *Machine) evict(l *link) bool {
	for {
		for len(l.victims) > 0 {
			e := l.victims[0]
			l.victims = l.victims[1:]
			if m.hosts[e.mac] == e && m.evictable(e, l) {
				m.forget(e, "evicted")
				return true
			}
		}
		if l.looked != never && m.now.Boot-l.looked < evictEvery {
			return false
		}
		l.looked = m.now.Boot
		var all []*entry
		for _, e := range m.hosts {
			if m.evictable(e, l) {
				all = append(all, e)
			}
		}
		if len(all) == 0 {
			return false
		}
		slices.SortFunc(all, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.heard, b.heard), cmp.Compare(a.id, b.id))
		})
		l.victims = slices.Clone(all[:min(len(all), maxVictims)])
	}
}

// evictable tells whether a host may go to make room on a link. One that was just seen keeps its place: otherwise a flood
// of inventions would drive the real ones out.
func (m *Machine) evictable(e *entry, l *link) bool {
	return (e.state == idle || e.state == refused) && (e.link == l || l.hosts < m.cfg.Limits.HostsPerAccess) &&
		m.now.Boot-e.heard >= m.cfg.Timers.NUDReachable
}

// of names the host with a MAC address.
func (i *Identity) of(mac core.MAC) (string, bool) {
	if id, ok := i.Table[mac]; ok {
		return id, true
	}
	if i.TableOnly {
		return "", false
	}
	return fmt.Sprintf("%s@%s", strings.ReplaceAll(mac.String(), ":", "-"), i.Realm), true
}

// profileOf gives an entry its policy profile: the configured one, else what its link gives to everybody.
func (m *Machine) profileOf(e *entry) {
	e.profile = Profile{ID: e.mn, Families: e.link.Families}
	if p, ok := m.profiles[e.mn]; ok {
		e.profile = p
		set(&e.profile.Families, e.link.Families)
	}
	e.anchor = m.anchors[0]
	for _, a := range m.anchors {
		if a.Name == e.profile.Anchor {
			e.anchor = a
		}
	}
}

// leaving finds a session of the same identifier whose own interface is certainly gone, while it still waits to be ended:
// its link is down. The host then switched interfaces, and the session goes along (handoff indicator 2).
func (m *Machine) leaving(mn string, mac core.MAC) *entry {
	for _, e := range m.byID[mn] {
		if e.mac != mac && e.state.bound() && e.link.downAt != never {
			return e
		}
	}
	return nil
}

// takeOver gives the session of one interface to another one of the same host.
func (m *Machine) takeOver(e *entry, l *link, mac core.MAC, s sighting) *entry {
	delete(m.hosts, e.mac)
	m.hosts[mac] = e
	e.named, e.linkLocal = s.id != "", netip.Addr{}
	m.moveTo(e, l, mac, s.by, "another interface of the host")
	m.rehandoff(e, s)
	return e
}

// move follows a host to another link of this gateway. The anchor need not know unless it is another technology.
func (m *Machine) move(e *entry, l *link, s sighting) bool {
	if !e.moves.Take(m.now.Boot, m.limits.triggers) {
		m.count(wire.RateLimit)
		return false
	}
	if l.hosts >= m.cfg.Limits.HostsPerAccess && !m.evict(l) {
		m.notServed(l, e.mac, wire.HostLimit)
		return false
	}
	technology := e.link.Technology
	m.moveTo(e, l, e.mac, s.by, "another link of the gateway")
	if l.Technology != technology && e.state != deregistering {
		m.rehandoff(e, s)
	}
	return true
}

// moveTo makes a session work at another link or interface: its forwarding in one update, so that no packet is lost
// between the two, then the home link.
func (m *Machine) moveTo(e *entry, l *link, mac core.MAC, by, why string) {
	was := *e
	e.link.hosts--
	e.mac, e.link = mac, l
	l.hosts++
	e.trigger, e.by, e.checking = m.now.Boot, by, false
	m.touch(e)
	if len(e.forwarded) > 0 {
		ops := []core.Op{m.sessionOp(e)}
		for _, k := range e.forwarded {
			ops = append(ops, core.SetKey{Match: e.match(k), ID: e.id, Up: true, Down: true}, core.Drop{Match: was.match(k)})
		}
		m.refs++
		m.waiting[m.refs] = &handover{e: e, id: e.id}
		m.out = append(m.out, core.Forward{Ops: ops, Ref: m.refs})
	}
	m.carryOut(was.link, was.link.home.Forget(m.now, was.mac, nil))
	if e.state.bound() {
		m.grant(e)
	}
	m.emit(core.Emit{Name: "session", ID: e.id, From: e.state.String(), To: e.state.String(), Why: why, Fields: m.fields(e)})
	m.past(e.mn, "moved to "+l.Link.Name, "", why)
}

// rehandoff registers a session whose interface changed: handoff indicator 2.
func (m *Machine) rehandoff(e *entry, s sighting) {
	e.handoff = mobility.HandoffInterfaces
	if e.state.bound() {
		m.register(e, "handoff between interfaces: "+s.by)
	} else if e.req != nil {
		m.endRequest(e)
		m.register(e, "handoff between interfaces: "+s.by)
	}
}

// demand works out which families a host should have after a sign of life, and registers if it has less.
func (m *Machine) demand(e *entry, s sighting) {
	allowed := e.profile.Families
	if s.by == "dhcp" {
		e.left = false
	}
	f := allowed
	if e.left || m.cfg.IPv4OnDHCP && !m.asksIPv4(e, s) {
		f &^= access.V4
	}
	if refused := s.wants &^ allowed; refused != 0 {
		m.count(wire.FamilyDisabled)
		m.carryOut(e.link, e.link.home.Deny(m.now, e.mac, refused, string(wire.FamilyDisabled), nil))
	}
	again := e.state == deregistering
	if again {
		// No packets without a binding; but the host keeps its addresses, for the same ones will be asked for.
		m.endRequest(e)
		m.unforward(e)
		m.setState(e, idle, "seen again by "+s.by)
		e.handoff = m.cfg.FirstHandoff
	}
	if s.previous.IsValid() {
		e.handoff = mobility.HandoffGateways
	}
	if s.hint.Is4() && !e.ipv4.IsValid() {
		e.hint = s.hint
	}
	before := e.wants
	e.wants |= f
	open := e.wants &^ e.has() &^ m.refusedFamilies(e)
	switch {
	case open == 0 && !s.previous.IsValid():
		return
	case e.state == refused && s.by != "api":
		return // the retry timer decides
	case e.req != nil && !e.req.partial && e.req.lifetime > 0 && e.req.families == e.wants&^m.refusedFamilies(e):
		return // already asked
	case e.state == registering && e.req == nil && e.at[tRetry] != never && before == e.wants:
		return // postponed
	}
	e.trigger, e.by = m.now.Boot, s.by
	m.register(e, s.by)
}

// asksIPv4 tells whether a sign of life is a reason to ask for an IPv4 home address under `ipv4-on: dhcp`.
func (m *Machine) asksIPv4(e *entry, s sighting) bool {
	return s.by == "dhcp" || s.by == "arp" || s.by == "api" || s.addr.Unmap().Is4() || e.ipv4.IsValid() || e.profile.IPv4.IsValid() ||
		m.known.ipv4(e.mn).IsValid()
}

// refusedFamilies are those that the anchor refused and that may not be asked for yet.
func (m *Machine) refusedFamilies(e *entry) (f access.Families) {
	barred := m.known.barred(e.mn)
	for _, x := range [...]access.Families{access.V4, access.V6} {
		if barred&x != 0 || e.denied[family(x)].until > m.now.Boot {
			f |= x
		}
	}
	return f
}

func (m *Machine) linkAt(index int) *link {
	for _, l := range m.links {
		if l.Link.If == index {
			return l
		}
	}
	return nil
}

func (m *Machine) linkNamed(name string) *link {
	i := slices.IndexFunc(m.links, func(l *link) bool { return l.Link.Name == name })
	if i < 0 {
		return nil
	}
	return m.links[i]
}
