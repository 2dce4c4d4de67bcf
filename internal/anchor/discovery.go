package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor/homeagent"
	"kedge/internal/anchor/homelist"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Discovery is how nodes of DSMIP6 find home agents and the prefixes of their home link: RFC 6275 7, 10.5 and 10.6. Zero values
// mean the defaults of package homelist.
type Discovery struct {
	On         bool
	Preference uint16        // as home agent
	Lifetime   time.Duration // as home agent

	Advertise                            bool // Router Advertisements on the home link
	MaxInterval, MinInterval             time.Duration
	MinDelay                             time.Duration // MinDelayBetweenRAs
	RouterLifetime                       time.Duration // negative = no default router
	Managed, Other                       bool
	Prefixes                             []homelist.Prefix // of the home link, beside those of its interface
	Requests                             int               // for home agents, answered in a second
	NoPrefixes                           bool              // Mobile Prefix Advertisements are not sent
	MinPrefixInterval, MaxPrefixInterval time.Duration     // MinMobPfxAdvInterval, MaxMobPfxAdvInterval
}

// maxAnycast limits the home subnets that requests for home agents can be sent to.
const maxAnycast = 256

// prefixesEvery is the least time between two rounds that tell all nodes of changed prefixes.
const prefixesEvery = time.Second

// discovery is the state of it.
type discovery struct {
	home       *homelist.Machine    // nil: off
	deliveries *homelist.Deliveries // nil: no prefixes are advertised to nodes
	anycast    []netip.Addr
	last       time.Duration // boot time of the last round about changed prefixes
	dirty      bool          // they have changed since

	leave   *homelist.Switch
	leaving leaving
}

// checkDiscovery says what is wrong with the config.
func (c *Config) checkDiscovery() error {
	d := &c.Discovery
	switch {
	case !d.On:
		return nil
	case !c.DSMIP6.On:
		return errors.New("discovery is for nodes that register by themselves")
	case d.Advertise && (c.HomeLink == "" || c.HomePort.If == 0):
		return errors.New("there is no home link to advertise on")
	case d.Lifetime != 0 && (d.Lifetime < time.Second || d.Lifetime > 65535*time.Second):
		return fmt.Errorf("home agent lifetime %s is not between 1s and 65535s", d.Lifetime)
	}
	for _, p := range d.Prefixes {
		if !p.Prefix.IsValid() || !p.Prefix.Addr().Is6() || p.Prefix != p.Prefix.Masked() || p.Preferred > p.Valid {
			return fmt.Errorf("home prefix %s: want one of IPv6 that is preferred no longer than valid", p.Prefix)
		}
	}
	return nil
}

func (m *Machine) newDiscovery() {
	d := &m.discovery
	d.leave = homelist.NewSwitch()
	c := &m.cfg.Discovery
	if !c.On {
		return
	}
	cfg := homelist.Config{
		Addresses: m.cfg.DSMIP6.HomeAgents, Preference: c.Preference, Lifetime: c.Lifetime,
		Prefixes: slices.Clone(c.Prefixes), Managed: c.Managed, Other: c.Other, Requests: c.Requests,
		MaxInterval: c.MaxInterval, MinInterval: c.MinInterval, MinDelay: c.MinDelay, RouterLifetime: c.RouterLifetime,
		Mobile: slices.ContainsFunc(m.cfg.Subscribers.List, func(p subscriber.Profile) bool { return len(p.Networks) > 0 }),
	}
	if p := &m.cfg.HomePort; m.hosts.link != nil {
		cfg.MAC, cfg.LinkLocal, cfg.Advertise = p.MAC, p.LinkLocal, c.Advertise
		for _, on := range p.Prefixes {
			if on.Addr().Is6() && !slices.ContainsFunc(cfg.Prefixes, func(x homelist.Prefix) bool { return x.Prefix == on }) {
				cfg.Prefixes = append(cfg.Prefixes, homelist.Prefix{Prefix: on, OnLink: true, Autonomous: on.Bits() == 64,
					Valid: homelist.DefaultValid, Preferred: homelist.DefaultPreferred})
			}
		}
	}
	d.home = homelist.New(cfg, m.rand)
	if !c.NoPrefixes {
		d.deliveries = homelist.NewDeliveries(homelist.DeliveryConfig{Min: c.MinPrefixInterval, Max: c.MaxPrefixInterval, Preferred: m.preferred}, m.rand)
	}
}

// preferred is what remains of the preferred lifetime of a home address's prefix.
func (m *Machine) preferred(now core.Now, home netip.Addr) time.Duration {
	if _, preferred, ok := m.discovery.home.Lifetimes(now, home); ok {
		return preferred
	}
	return homelist.DefaultPreferred
}

// startDiscovery takes the anycast addresses of the home subnets and says on the home link that the anchor is there.
func (m *Machine) startDiscovery() {
	d := &m.discovery
	if d.home == nil {
		return
	}
	var ops []core.HostOp
	join := func(p netip.Prefix, name string) {
		a := nd.HomeAgentsAnycast(p)
		switch {
		case !a.IsValid() || slices.Contains(d.anycast, a):
		case len(d.anycast) == maxAnycast:
			m.note(fmt.Sprintf("discovery: more than %d home subnets; nodes of the others cannot ask for home agents", maxAnycast))
		default:
			d.anycast = append(d.anycast, a)
			ops = append(ops, core.HostOp{Kind: "anycast", Prefix: netip.PrefixFrom(a, 128), Name: name})
		}
	}
	device := m.cfg.Device
	if m.hosts.link != nil {
		device = m.cfg.HomeLink
		for _, p := range m.cfg.HomePort.Prefixes {
			join(p, device)
		}
	}
	for _, p := range m.cfg.Discovery.Prefixes {
		join(p.Prefix, device)
	}
	m.subs.All(func(s *subscriber.Profile) {
		if s.HoA.IsValid() && s.Domain == 0 && s.May(subscriber.DSMIP6) {
			join(s.HoA.Masked(), device)
		}
	})
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops})
	}
	d.home.Start(m.now)
	m.advertise()
	for h := range m.hosts.table.All() {
		if h.State == binding.Active {
			m.discoveryBound(h)
		}
	}
	d.dirty = true // the config may say otherwise than before
	m.tickDiscovery()
}

// discoveryDeadline is when tickDiscovery wants to be called.
func (m *Machine) discoveryDeadline(earlier func(time.Duration, bool)) {
	d := &m.discovery
	earlier(d.leave.Deadline())
	if d.home != nil {
		earlier(d.home.Deadline())
		earlier(d.last+prefixesEvery, d.dirty)
	}
	if d.deliveries != nil {
		earlier(d.deliveries.Deadline())
	}
}

// tickDiscovery does what is due.
func (m *Machine) tickDiscovery() {
	d := &m.discovery
	m.dueSwitch()
	if d.home == nil {
		return
	}
	m.newsOfHome(d.home.Tick(m.now))
	m.advertise()
	if d.dirty && (d.last == 0 || m.now.Boot-d.last >= prefixesEvery) {
		d.dirty, d.last = false, m.now.Boot
		m.prefixesChanged()
	}
	if d.deliveries == nil {
		return
	}
	for range maxDue {
		x, ok := d.deliveries.Due(m.now)
		if !ok {
			break
		}
		m.deliver(x)
	}
}

// advertise sends the frames that the home agents list wants to.
func (m *Machine) advertise() {
	for _, f := range m.discovery.home.Frames() {
		m.effect(core.Send{Path: core.Path{If: m.cfg.HomePort.If}, Body: f})
	}
}

// discoveryFrame takes a frame of the home link that routers and hosts find each other by.
func (m *Machine) discoveryFrame(f *access.Frame) {
	d := &m.discovery
	if d.home == nil {
		return
	}
	switch f.Body.(type) {
	case *nd.RouterAdvertisement, *nd.RouterSolicitation:
		m.newsOfHome(d.home.Frame(m.now, f))
		m.advertise()
	}
}

// newsOfHome tells what has changed on the home link.
func (m *Machine) newsOfHome(news []homelist.News) {
	for _, n := range news {
		name, f := "home-agent", Fields{HoA: n.Agent}
		switch n.Kind {
		case "refused", "prefix-limit":
			m.refused[wire.RouterLimit]++
			m.note("discovery: the home link has more home agents or prefixes than are listed")
			continue
		case "new", "changed", "expired", "left":
			f.Detail = fmt.Sprintf("preference %d, addresses %v", n.Preference, n.Addresses)
		default:
			name, f.HNP = "home-prefix", []netip.Prefix{n.Prefix}
			m.discovery.dirty = true
		}
		m.emit(core.Emit{Name: name, To: n.Kind, Why: "advertisement", Fields: f})
	}
}

// discover takes what concerns home agents and prefixes; false: the message is another one.
func (m *Machine) discover(ev *core.Message) bool {
	if _, ok := ev.Body.(nd.Message); !ok || ev.Err != nil {
		return false
	}
	about := Fields{CareOf: ev.Path.Remote.Addr(), HoA: ev.Path.Home}
	switch b := ev.Body.(type) {
	case *nd.HomeAgentAddressDiscoveryRequest:
		m.discoverAgents(ev.Path, b, about)
	case *nd.MobilePrefixSolicitation:
		m.discoverPrefixes(ev.Path, b)
	default:
		if !m.peers.take(m.now, nil) {
			m.refused[wire.RateLimit]++
			return true
		}
		m.drop(wire.Unsolicited, about)
	}
	return true
}

// discoverAgents is RFC 6275 10.5.1. Who asks is not known and may be anybody.
func (m *Machine) discoverAgents(path core.Path, q *nd.HomeAgentAddressDiscoveryRequest, about Fields) {
	d := &m.discovery
	to := path.Local.Addr()
	var reason wire.Reason
	switch {
	case d.home == nil:
		reason = wire.ServiceDisabled
	case path.Outer.N > 0: // there is none of it in IPv4-only networks, and from a home address nobody is asked
		reason = wire.NotSignalling
	case path.Home.IsValid():
		reason = wire.BadSource
	case !slices.Contains(d.anycast, to) && !slices.Contains(m.cfg.DSMIP6.HomeAgents, to):
		reason = wire.BadDestination
	}
	var reply *nd.HomeAgentAddressDiscoveryReply
	var from netip.Addr
	if reason == "" {
		reply, from, reason = d.home.Discover(m.now, path.Remote.Addr(), to, q)
	}
	if reason != "" {
		if reason == wire.RateLimit || !m.peers.take(m.now, nil) {
			m.refused[reason]++ // no event: that is the point
			return
		}
		m.drop(reason, about)
		return
	}
	m.refused["home-agents-answered"]++
	m.effect(core.Send{Path: core.Path{Local: netip.AddrPortFrom(from, 0), Remote: path.Remote}, Body: reply})
}

// discoverPrefixes is RFC 6275 9.3.1 and 10.6.2: it comes from a node of this home agent, protected as the node's signalling is.
func (m *Machine) discoverPrefixes(path core.Path, q *nd.MobilePrefixSolicitation) {
	home := path.Home
	if !home.IsValid() && path.Outer.N > 0 { // in IPv4 the source says it (RFC 5555 2.2), unless that is mapped
		home = path.Remote.Addr()
	}
	r := m.admit(homeagent.Request{Path: path, Home: home})
	if r == nil {
		return
	}
	path = r.Path
	deny := func(reason wire.Reason) { m.drop(reason, m.hostFields(r, &homeagent.Refusal{Reason: reason})) }
	if r.profile != nil {
		r.have = m.hosts.table.ByHome(r.profile.Domain, netip.PrefixFrom(r.Home, 128))
	}
	switch {
	case m.discovery.deliveries == nil:
		deny(wire.ServiceDisabled)
	case !r.Home.IsValid():
		deny(wire.MissingHome)
	case !slices.Contains(m.cfg.DSMIP6.HomeAgents, path.Local.Addr()):
		deny(wire.BadDestination)
	case r.profile == nil:
		deny(wire.UnknownSubscriber)
	case !r.profile.May(subscriber.DSMIP6):
		deny(wire.ServiceDisabled)
	case path.Outer.N > 0 && path.Auth.Kind != "esp": // S004-2.1-03: a security association, or nothing
		deny(wire.Unprotected)
	case path.Auth.Kind != "esp" && !r.fromCareOf():
		deny(wire.UnknownHome)
		m.effect(core.Send{
			Path: core.Path{If: path.If, Local: path.Local, Remote: path.Remote},
			Body: &mobility.BindingError{Status: mobility.UnknownBinding, Home: r.Home},
		})
	default:
		if m.discovery.deliveries.Solicited(m.now, r.Home, homelist.Owed{Path: path, ID: q.ID}) {
			m.deliver(homelist.Delivery{Home: r.Home, Answer: &homelist.Owed{Path: path, ID: q.ID}})
		}
	}
}

// fromCareOf says whether a request comes from where its home address is bound (RFC 6275 9.3.1).
func (r *hostRequest) fromCareOf() bool {
	from := r.Path.Remote.Addr()
	if r.Path.Outer.N > 0 {
		from = r.Path.Outer.Layer[0].Remote.Addr()
	}
	return r.have != nil && r.have.State == binding.Active && r.have.CareOf == from
}

// deliver sends a Mobile Prefix Advertisement, RFC 6275 10.6.3.
func (m *Machine) deliver(x homelist.Delivery) {
	p, ok := m.subs.Home(x.Home)
	if !ok {
		return
	}
	h := m.hosts.table.ByHome(p.Domain, netip.PrefixFrom(x.Home, 128))
	why, path, id := "solicited", core.Path{}, uint16(0)
	switch {
	case x.Answer != nil:
		path, id = x.Answer.Path, x.Answer.ID
	case h == nil || h.State != binding.Active:
		return
	default:
		why, path = "unsolicited", h.Path()
		if x.Sends > 0 {
			why = "unacknowledged"
		}
	}
	if path.Outer.N > 0 && path.Home == path.Remote.Addr() { // in UDP nothing is left for a routing header to say (RFC 5555 2.2, 4.2)
		path.Home = netip.Addr{}
	}
	if path.Auth.Kind != "esp" { // RFC 4285 authenticates registrations only
		path.Auth = core.Auth{}
	}
	f := Fields{Sub: p.ID, Peer: p.Peer, HoA: x.Home, CareOf: path.Remote.Addr()}
	var session core.ID
	if h != nil {
		session = h.ID
	}
	m.emit(core.Emit{Name: "prefixes", ID: session, To: "sent", Why: why, Fields: f})
	m.effect(core.Send{Path: path, Body: m.discovery.home.Advertisement(m.now, p.HoA, id)})
}

// discoveryBound follows a registration: it is there, or there again.
func (m *Machine) discoveryBound(h *homeagent.Registration) {
	if m.discovery.deliveries != nil {
		m.discovery.deliveries.Bound(m.now, h.Home)
	}
}

// discoveryUnbound follows its end.
func (m *Machine) discoveryUnbound(h *homeagent.Registration, why string) {
	if m.discovery.deliveries != nil {
		m.discovery.deliveries.Unbound(m.now, h.Home)
	}
	m.left(h, why)
}

// prefixesChanged schedules what nodes are to be told, and ends bindings with their prefixes (RFC 6275 10.3.1, 10.6.4).
func (m *Machine) prefixesChanged() {
	var late []homeagent.Registration
	for h := range m.hosts.table.All() {
		if h.State != binding.Active {
			continue
		}
		if m.discovery.deliveries != nil {
			m.discovery.deliveries.Changed(m.now, h.Home)
		}
		if valid, bounded := m.validFor(h.Domain, h.Home); bounded && h.Expires-m.now.Boot > valid {
			cut := *h
			cut.Expires = m.now.Boot + valid
			late = append(late, cut)
		}
	}
	for _, h := range late {
		if _, err := m.hosts.table.Put(h); err != nil {
			panic("anchor: a shortened registration has the keys of another one")
		}
	}
}

// validFor is what remains of the valid lifetime of a home address's prefix; false: nothing bounds it.
func (m *Machine) validFor(d core.Domain, home netip.Addr) (time.Duration, bool) {
	if m.discovery.home == nil || d != 0 {
		return 0, false
	}
	valid, _, ok := m.discovery.home.Lifetimes(m.now, home)
	return valid, ok && valid != homelist.Forever
}
