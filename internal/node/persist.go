package node

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/discovery"
	"kedge/internal/node/movement"
	"kedge/internal/node/optimize"
	"kedge/wire"
)

// recordVersion is the first octet of the record; JSON follows.
const (
	recordVersion = 1
	recordKey     = "node"
	// seqMargin is how far the sequence number is advanced at a restart: more than can be sent before a lazy record is
	// written (MAX_UPDATE_RATE a second).
	seqMargin = 64
)

// record is what outlives the process.
type record struct {
	Restart  uint32       `json:"restart"`
	Seq      uint16       `json:"seq"`
	Secret   []byte       `json:"secret"`            // of interface identifiers
	Lives    time.Time    `json:"lives,omitzero"`    // until then the home agent may have a binding
	Given4   netip.Prefix `json:"given4,omitzero"`   // dynamic IPv4 home address
	Without4 netip.Addr   `json:"without4,omitzero"` // home agent that does not know the IPv4 Home Address option
	Home     netip.Addr   `json:"home"`              // whose record this is
	Session  core.ID      `json:"session,omitzero"`  // in the data plane
	Binding  *bindingRec  `json:"binding,omitempty"`
	Networks []networkRec `json:"networks,omitempty"` // the one used last at the end
	Agents   []agentRec   `json:"agents,omitempty"`   // home agents that were discovered, the one in use first
	By       string       `json:"by,omitempty"`       // how
	Homes    []homeRec    `json:"homes,omitempty"`    // home addresses, if it is not that of the config for ever
	Current  netip.Addr   `json:"current,omitzero"`   // the preferred one of them
}

type bindingRec struct {
	CareOf    netip.Addr    `json:"care_of"`
	Link      string        `json:"link"`
	If        int           `json:"if"`
	MTU       int           `json:"mtu"`
	Framing   framing       `json:"framing"`
	Seq       uint16        `json:"seq"`
	Lifetime  time.Duration `json:"lifetime_ns"`
	Expires   time.Time     `json:"expires"`
	Keepalive time.Duration `json:"keepalive_ns"`
	IPv4      netip.Prefix  `json:"ipv4,omitzero"`
	// Router: of a mobile router, with the mobile networks that are forwarded.
	Router   bool           `json:"router,omitzero"`
	Networks []netip.Prefix `json:"mobile_networks,omitempty"`
}

type agentRec struct {
	V6 netip.Addr `json:"v6"`
	V4 netip.Addr `json:"v4,omitzero"`
}

// homeRec is a home address. A zero time is one that does not come.
type homeRec struct {
	Home      netip.Prefix `json:"home"`
	Preferred time.Time    `json:"preferred,omitzero"`
	Valid     time.Time    `json:"valid,omitzero"`
	Bound     time.Time    `json:"bound,omitzero"` // until then, beside the preferred one
}

type networkRec struct {
	Name  string        `json:"name"`
	RTT   time.Duration `json:"rtt_ns"`
	Fails int           `json:"fails,omitzero"`
	Other bool          `json:"other,omitzero"`
	Avoid time.Time     `json:"avoid,omitzero"`
	Plain verdict       `json:"plain,omitzero"`
	Until time.Time     `json:"until,omitzero"`
}

// persist writes the record behind: no message waits for it, because a sequence number that is lost is made good by the
// margin, and in the end by status 135.
func (m *Machine) persist() {
	r := record{
		Restart: m.restart, Seq: m.seq, Secret: m.secret, Given4: m.given4, Without4: m.without4, Home: m.cfg.Home.V6.Addr(),
	}
	m.recordDiscovery(&r)
	if m.livesUntil > m.now.Boot {
		r.Lives = m.wall(m.livesUntil)
	}
	if b := &m.bind; m.bound() && m.session.up {
		r.Session = m.session.id
		r.Binding = &bindingRec{CareOf: b.careOf.Addr, Link: b.careOf.Link, If: b.careOf.If, MTU: b.careOf.MTU, Framing: b.framing, Seq: b.seq,
			Lifetime: b.lifetime, Expires: m.wall(b.expires), Keepalive: b.keepalive, IPv4: b.ipv4, Router: b.router, Networks: m.behind}
	}
	for _, n := range m.nets.list {
		r.Networks = append(r.Networks, networkRec{n.name, n.rtt, n.fails, n.other, utc(n.avoid), n.plain, utc(n.until)})
	}
	val, err := json.Marshal(&r)
	if err != nil {
		m.failed("record", err)
		return
	}
	m.out = append(m.out, core.Persist{Key: []byte(recordKey), Val: append([]byte{recordVersion}, val...), Lazy: true})
}

// wall and utc make records that are equal for equal contents.
func (m *Machine) wall(boot time.Duration) time.Time { return utc(m.now.Wall.Add(boot - m.now.Boot)) }

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Round(0).UTC()
}

// restored takes the record of an earlier run, and begins when there is nothing more.
func (m *Machine) restored(ev *core.Restored) {
	switch {
	case ev.Last:
		m.start()
	case string(ev.Key) == optimize.Key && m.opt != nil:
		if err := m.opt.Restore(m.now, m.hoa(), ev.Val); err != nil {
			m.count(wire.Malformed)
			m.failed("record", err)
		}
	case string(ev.Key) != recordKey:
	default:
		if err := m.adopt(ev.Val); err != nil {
			m.count(wire.Malformed)
			m.failed("record", err)
		}
	}
}

// adopt takes over what an earlier run knew. What does not fit the config is left out.
func (m *Machine) adopt(val []byte) error {
	if len(val) == 0 || val[0] != recordVersion {
		return wire.UnknownType
	}
	var r record
	if err := json.Unmarshal(val[1:], &r); err != nil {
		return err
	}
	m.restart = r.Restart + 1
	if len(r.Secret) >= 16 && len(r.Secret) <= 64 {
		if err := m.watch(r.Secret); err != nil {
			return err
		}
	}
	for _, n := range r.Networks[max(0, len(r.Networks)-maxNetworks):] {
		if n.Name != "" && n.RTT >= 0 && n.RTT < time.Minute && n.Fails >= 0 && n.Plain <= blocked {
			m.nets.list = append(m.nets.list, &network{name: n.Name, rtt: n.RTT, fails: n.Fails, other: n.Other, avoid: n.Avoid, plain: n.Plain, until: n.Until})
		}
	}
	if r.Home != m.cfg.Home.V6.Addr() {
		return nil
	}
	m.adoptDiscovery(&r)
	m.seq = r.Seq + seqMargin
	m.acked = m.seq
	m.without4 = r.Without4
	if m.cfg.Home.IPv4 == IPv4Dynamic && r.Given4.IsValid() && usable4(r.Given4.Addr()) {
		m.given4 = r.Given4
	}
	if left := r.Lives.Sub(m.now.Wall); left > 0 {
		m.livesUntil = m.now.Boot + min(left, maxLifetime)
	}
	if r.Binding != nil {
		m.adoptBinding(&r)
	}
	for _, h := range r.Homes { // their packets go on through the tunnel meanwhile
		if x := m.alsoOf(h.Home.Addr()); x != nil && m.bound() && h.Bound.After(m.now.Wall) {
			x.agent, x.careOf, x.expires = m.ha.v6, m.bind.careOf, m.now.Boot+min(h.Bound.Sub(m.now.Wall), maxLifetime)
		}
	}
	return nil
}

// adoptBinding takes over a binding that still lives, so that the data plane keeps its tunnel.
func (m *Machine) adoptBinding(r *record) {
	b := r.Binding
	left := b.Expires.Sub(m.now.Wall)
	if left <= 0 || left > maxLifetime || !b.CareOf.IsValid() || b.CareOf.Is4In6() || b.CareOf.Is6() != (b.Framing == inIPv6) || b.Framing > inUDP ||
		!m.ha.reachable(b.CareOf) || b.Lifetime <= 0 || b.Lifetime > maxLifetime || b.MTU < 0 || b.MTU > 65535 || b.Keepalive < 0 || r.Session == 0 ||
		b.Router != m.routes() || len(b.Networks) > MaxNetworks { // the home agent would not take it for a refresh (status 139)
		return
	}
	m.bind = binding{
		careOf:  movement.CareOf{If: b.If, Link: b.Link, Addr: b.CareOf, MTU: b.MTU},
		framing: b.Framing, seq: m.seq, lifetime: b.Lifetime, expires: m.now.Boot + left, refreshAt: never, keepalive: b.Keepalive,
	}
	if b.IPv4.IsValid() && usable4(b.IPv4.Addr()) {
		m.bind.ipv4 = b.IPv4
	}
	m.bind.router = b.Router
	for _, n := range b.Networks {
		if slices.Contains(m.cfg.Home.Networks, n) {
			m.behind = append(m.behind, n)
		}
	}
	m.session.id = r.Session
}

// recordDiscovery notes what was found out about the home network.
func (m *Machine) recordDiscovery(r *record) {
	if cur, by, ok := m.agents.Current(); ok && by != discovery.Config.String() {
		r.By = by
		for _, a := range m.agents.List() {
			r.Agents = append(r.Agents, agentRec{a.V6, a.V4})
		}
		i := slices.IndexFunc(r.Agents, func(a agentRec) bool { return a.V6 == cur.V6 })
		first := r.Agents[i]
		copy(r.Agents[1:], r.Agents[:i])
		r.Agents[0] = first
	}
	at := func(boot time.Duration) time.Time {
		if boot == discovery.Forever {
			return time.Time{}
		}
		return m.wall(boot).Truncate(time.Second)
	}
	homes := m.prefixes.Homes()
	for _, h := range homes {
		rec := homeRec{Home: h.Prefix, Preferred: at(h.Preferred), Valid: at(h.Valid)}
		if x := m.alsoOf(h.Addr()); x != nil && m.serves(x) {
			rec.Bound = m.wall(x.expires)
		}
		r.Homes = append(r.Homes, rec)
	}
	if len(homes) == 1 && homes[0] == (discovery.Home{Prefix: m.cfg.Home.V6, Preferred: discovery.Forever, Valid: discovery.Forever}) {
		r.Homes = nil
		return
	}
	r.Current = m.hoa()
}

// adoptDiscovery takes it over. What the config does not allow any more is left out.
func (m *Machine) adoptDiscovery(r *record) {
	// One that the node was sent to holds the home address while a registration there may live, even if the config names another.
	sent := slices.ContainsFunc(r.Agents, func(a agentRec) bool { return a.V6 == m.cfg.Anchor.V6 }) && r.Lives.After(m.now.Wall)
	if len(r.Agents) > 0 && (sent || m.cfg.discovers() != discovery.Config) {
		var list []discovery.Agent
		for _, a := range r.Agents[:min(len(r.Agents), discovery.MaxAgents)] {
			list = append(list, discovery.Agent{V6: a.V6, V4: a.V4})
		}
		m.agents.Adopt(list, r.By)
		m.take()
	}
	boot := func(t time.Time) time.Duration {
		if t.IsZero() {
			return discovery.Forever
		}
		return max(m.now.Boot+t.Sub(m.now.Wall), 0)
	}
	var homes []discovery.Home
	for _, h := range r.Homes {
		d := discovery.Home{Prefix: h.Home, Preferred: boot(h.Preferred), Valid: boot(h.Valid)}
		if h.Home.IsValid() && h.Home.Addr().Is6() && m.cfg.Home.allows(h.Home.Masked()) && d.Valid > m.now.Boot {
			homes = append(homes, d)
		}
	}
	i := slices.IndexFunc(homes, func(h discovery.Home) bool { return h.Prefix.Addr() == r.Current })
	if i < 0 {
		return
	}
	m.prefixes.Adopt(m.now.Boot, homes)
	m.home6 = homes[i].Prefix
	for k, h := range homes {
		if k != i {
			m.also = append(m.also, &also{home: h.Prefix, next: m.now.Boot})
		}
	}
	m.move.SetHome(m.homeAddrs(), m.home6.Masked())
}
