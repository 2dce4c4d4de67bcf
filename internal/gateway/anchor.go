package gateway

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// anchor is a local mobility anchor as this gateway knows it.
type anchor struct {
	Anchor
	dialect  Dialect // in use
	proven   bool    // it answered about IPv4 in this dialect
	sessions int     // bound
	relay    bool    // it wants DHCP relayed, RFC 5844 3.3.4
	offset   time.Duration
	offsetAt time.Time // when its clock was last seen to differ
}

func newAnchor(c Anchor) *anchor {
	a := &anchor{Anchor: c, dialect: c.Dialect}
	if c.Dialect == Auto {
		a.dialect = RFC5844
	}
	return a
}

func (m *Machine) anchorAt(addr netip.Addr) *anchor {
	for _, a := range m.anchors {
		if a.Address == addr {
			return a
		}
	}
	return nil
}

// serve counts the sessions of an anchor; it is watched while it has some (RFC 5847 3).
func (m *Machine) serve(a *anchor, more bool) {
	if more {
		a.sessions++
	} else {
		a.sessions--
	}
	switch {
	case m.cfg.HeartbeatOff:
	case a.sessions == 1 && more:
		m.monitor.Add(m.now, a.Address)
	case a.sessions == 0:
		m.monitor.Remove(a.Address)
	}
}

// heartbeat answers requests of everybody (RFC 5847 3) and believes responses of anchors.
func (m *Machine) heartbeat(a *anchor, from netip.Addr, hb *mobility.Heartbeat) {
	if a == nil {
		m.count(wire.UnknownPeer)
	}
	before := m.monitor.Ignored()
	reply, news := m.monitor.Handle(m.now, from, hb)
	if m.monitor.Ignored() > before {
		m.ignored(from, "", wire.Unsolicited, "heartbeat response")
	}
	if reply != nil {
		m.out = append(m.out, core.Send{Path: m.path(&anchor{Anchor: Anchor{Address: from}}), Body: reply})
	}
	m.hear(news)
}

func (m *Machine) tickAnchors() {
	send, news := m.monitor.Tick(m.now)
	for _, o := range send {
		m.out = append(m.out, core.Send{Path: m.path(&anchor{Anchor: Anchor{Address: o.Peer}}), Body: o.Message})
	}
	m.hear(news)
}

// hear takes news about anchors.
func (m *Machine) hear(news []heartbeat.News) {
	for _, n := range news {
		a := m.anchorAt(n.Peer)
		if a == nil {
			continue
		}
		switch n.Kind {
		case heartbeat.Alive:
			m.emitPeer(a, "", "alive", "heartbeat")
		case heartbeat.Dead:
			m.count(wire.NoAnswer)
			m.emitPeer(a, "alive", "dead", "no heartbeat response")
		case heartbeat.Restarted:
			m.emitPeer(a, "alive", "restarted", fmt.Sprintf("restart counter %d -> %d", n.Old, n.New))
			m.reregister(a)
		}
	}
}

// reregister brings all sessions back to an anchor that lost them: at once, but spread, because all gateways do.
func (m *Machine) reregister(a *anchor) {
	if a.Dialect == Auto {
		a.proven = false // it may be another implementation now
	}
	over := max(m.cfg.Timers.Reregister, time.Duration(a.sessions)*time.Millisecond)
	for _, e := range m.ordered() {
		switch {
		case e.anchor != a || !e.state.bound():
		default:
			e.lost, e.checking, e.tried = true, false, nil
			m.touch(e)
			m.arm(e, tRefresh, m.now.Boot+m.spread(over))
		}
	}
}

// bindingError takes a Binding Error, RFC 6275 6.1.9. Status 2 while a heartbeat is out: the anchor does not know
// heartbeats. Status 1: packets of a host came out of our tunnel, but another gateway has its session. The host came back
// without a sign, or a forger is here: if it answers, its session is taken back.
func (m *Machine) bindingError(a *anchor, b *mobility.BindingError) {
	if b.Status == 2 && m.monitor.Unsupported(a.Address) {
		m.emitPeer(a, "", "alive", "does not support heartbeats")
		return
	}
	e := m.ownerOf(b.Home.Unmap())
	if b.Status != mobility.UnknownBinding || e == nil || e.anchor != a || e.state != active || e.checking {
		m.ignored(a.Address, "", wire.Unsolicited, fmt.Sprintf("binding error %d", b.Status))
		return
	}
	m.past(e.mn, "another gateway has the session", "", "binding error")
	e.trigger, e.by = m.now.Boot, "data"
	e.reassert, e.checking, e.probes = true, true, 0
	m.probe(e)
}

// ownerOf finds the session that forwards an address.
func (m *Machine) ownerOf(a netip.Addr) *entry {
	for bits := a.BitLen(); bits > 0; bits-- {
		p, _ := a.Prefix(bits)
		if e := m.owners[p]; e != nil {
			return e
		}
	}
	return nil
}

// unsupported answers a message type that a gateway does not understand (RFC 6275 9.2).
func (m *Machine) unsupported(a *anchor, b mobility.Message) {
	m.ignored(a.Address, "", wire.UnsupportedMessage, fmt.Sprintf("message type %d", b.Type()))
	m.out = append(m.out, core.Send{Path: m.path(a), Body: &mobility.BindingError{Status: 2, Home: netip.IPv6Unspecified()}})
}

// clockOff notes how far an anchor's clock is from ours, from the Timestamp of a refusal. The clock itself is left alone
// (RFC 5213 6.9.1.2 (9)).
func (m *Machine) clockOff(a *anchor, b *mobility.BindingAck) {
	ts, ok := b.Options.Timestamp()
	if !ok {
		return
	}
	a.offset, a.offsetAt = ts.Time().Sub(m.now.Wall), m.now.Wall
	m.emit(core.Emit{Name: "clock", Why: string(refusalOf(b.Status)), Fields: map[string]any{
		"peer": a.Name, "offset_ms": float64(a.offset) / float64(time.Millisecond)}})
}

// dhcpMode notes which DHCP function an anchor wants (RFC 5844 3.2.3.2): without the S flag, and without the option, a
// relay. There is none here. The address is the one that the anchor registered in either case, so the server of the link
// gives it out; but people must know that nobody else's DHCP server is asked for options. Document 001 has no such option.
func (m *Machine) dhcpMode(e *entry, r *request, b *mobility.BindingAck) {
	if r.dialect != RFC5844 || e.link.Link.DHCP.Off {
		return
	}
	v, ok := b.Options.IPv4DHCPSupportMode()
	relay := !v.Server
	if relay {
		m.counts["dhcp-relay-unsupported"]++
	}
	if relay == e.anchor.relay {
		return
	}
	e.anchor.relay = relay
	switch {
	case !relay:
		m.emitPeer(e.anchor, "dhcp relay", "dhcp server", "option 39")
	case ok:
		m.emitPeer(e.anchor, "", "dhcp relay", "option 39 without S: not supported, DHCP is answered by this gateway")
	default:
		m.emitPeer(e.anchor, "", "dhcp relay", "no option 39: not supported, DHCP is answered by this gateway")
	}
}

func (m *Machine) emitPeer(a *anchor, from, to, why string) {
	m.emit(core.Emit{Name: "peer", From: from, To: to, Why: why, Fields: map[string]any{"peer": a.Name, "address": a.Address.String()}})
}

// memory holds, for identifiers whose hosts may have left, what the profile learned: the last IPv4 home address, and what
// an anchor barred until an administrator acts. At most max identifiers; the oldest go first.
type memory struct {
	max   int
	evict func(mn string) // what was stored of it goes as well
	hosts map[string]*learned
	order []string
}

type learned struct {
	home   netip.Prefix
	barred access.Families
}

func newMemory(most int, evict func(mn string)) memory {
	return memory{max: most, evict: evict, hosts: map[string]*learned{}}
}

func (k *memory) of(mn string) *learned {
	l := k.hosts[mn]
	if l == nil {
		if len(k.order) >= k.max {
			k.evict(k.order[0])
			delete(k.hosts, k.order[0])
			k.order = k.order[1:]
		}
		l = &learned{}
		k.hosts[mn] = l
		k.order = append(k.order, mn)
	}
	return l
}

func (k *memory) ipv4(mn string) netip.Prefix {
	if l := k.hosts[mn]; l != nil {
		return l.home
	}
	return netip.Prefix{}
}

func (k *memory) barred(mn string) access.Families {
	if l := k.hosts[mn]; l != nil {
		return l.barred
	}
	return 0
}

func (k *memory) set(mn string, home netip.Prefix) { k.of(mn).home = home }

// learn records the IPv4 home address of a host in its profile (document 001, 3.2.2).
func (k *memory) learn(m *Machine, mn string, home netip.Prefix) {
	if !home.IsValid() || k.ipv4(mn) == home {
		return
	}
	k.set(mn, home)
	a := home.Addr().As4()
	m.out = append(m.out, core.Persist{Key: []byte(learnedPrefix + mn), Lazy: true,
		Val: append(append([]byte{recordVersion}, a[:]...), byte(home.Bits()))})
}

// unlearn deletes the record of an identifier that memory has no room for: the store is as bounded as the memory.
func (m *Machine) unlearn(mn string) {
	if m.known.ipv4(mn).IsValid() {
		m.out = append(m.out, core.Persist{Key: []byte(learnedPrefix + mn), Lazy: true})
	}
}

// bar remembers that families must not be asked for until an administrator acts (RFC 5213 6.9.1.2 (7), RFC 5844 3.2.3.2).
func (k *memory) bar(mn string, f access.Families) { k.of(mn).barred |= f }

// pardon is the administrator's act.
func (k *memory) pardon(mn string) {
	if l := k.hosts[mn]; l != nil {
		l.barred = 0
	}
}
