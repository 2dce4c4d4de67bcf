package anchor

import (
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// The home agent half: registrations of nodes that speak for themselves, RFC 6275 10 and RFC 5555 4.5.

// hosts is its state.
type hosts struct {
	table  *homeagent.Table
	rules  homeagent.Rules
	link   *homeagent.Link // nil: there is no home link with frames
	detect detection
	asked  map[core.Ref]*hostRequest // of changes that are under way
	stored []storedHost              // read from the store, until all are
}

// hostRequest is one Binding Update, or Mobile Prefix Solicitation, on its way through the rules.
type hostRequest struct {
	homeagent.Request
	profile *subscriber.Profile // nil: of nobody here
	peer    *peer               // who vouches; nil: nobody
	have    *homeagent.Registration
	arrived core.Now // its timestamp is as old as it was then, however long it waits
}

func newHosts(cfg *Config) hosts {
	h := hosts{
		table:  homeagent.NewTable(cfg.DSMIP6.RefreshRequest),
		rules:  homeagent.Rules{Dialects: homeagent.DialectSet(cfg.DSMIP6.Dialects...), PrivateCareOf: cfg.DSMIP6.PrivateCareOf},
		detect: newDetection(), asked: make(map[core.Ref]*hostRequest),
	}
	if p := &cfg.HomePort; cfg.HomeLink != "" && p.If != 0 {
		h.link = homeagent.NewLink(homeagent.LinkConfig{MAC: p.MAC, LinkLocal: p.LinkLocal, Transmits: p.DADTransmits, RetransTimer: p.RetransTimer})
	}
	return h
}

// hostUpdate takes a Binding Update without the P flag.
func (m *Machine) hostUpdate(path core.Path, bu *mobility.BindingUpdate) {
	req, refusal := homeagent.Read(path, bu, &m.hosts.rules)
	r := m.admit(req)
	if r == nil {
		return
	}
	if refusal == nil {
		refusal = m.examineHost(r)
	}
	switch {
	case refusal != nil:
		m.refuseHost(r, refusal)
	case r.Delete:
		m.deregisterHost(r)
	case m.detectDuplicates(r):
	default:
		m.registerHost(r)
	}
}

// admit lets in what a node of DSMIP6 sends, or gives nil: nothing is answered, and nothing but a counter changes, before
// somebody vouches for it who may.
func (m *Machine) admit(req homeagent.Request) *hostRequest {
	r := &hostRequest{Request: req, arrived: m.now}
	if p := &r.Path; p.If != m.cfg.HomePort.If || p.Outer.N > 0 {
		// The answer goes where routes lead. To who is on the home link it goes there, whatever route leads his home address
		// elsewhere (RFC 6275 10.3.2).
		p.If = 0
	}
	r.profile, _ = m.subs.Home(r.Home)
	refusal := m.vouch(r)
	switch {
	case !m.peers.take(m.now, r.peer):
		m.refused[wire.RateLimit]++ // no event: that is the point
		return nil
	case refusal != nil:
		m.drop(refusal.Reason, m.hostFields(r, refusal))
		return nil
	}
	return r
}

// vouch finds who answers for a request, and refuses it when he may not: the home address says which security association
// must be used (RFC 6275 10.3.1), and that vouches for the IPv4 home address too (RFC 5555 5).
func (m *Machine) vouch(r *hostRequest) *homeagent.Refusal {
	deny := func(reason wire.Reason, detail string) *homeagent.Refusal {
		return &homeagent.Refusal{Silent: true, Reason: reason, Detail: detail}
	}
	auth := r.Path.Auth
	switch auth.Kind {
	case "esp", "rfc4285":
		if r.peer = m.peers.byName[auth.Peer]; r.peer == nil {
			return deny(wire.UnknownPeer, auth.Peer)
		}
		if r.profile != nil && r.profile.Peer != auth.Peer {
			return deny(wire.WrongAssociation, "peer "+auth.Peer+" may not speak for "+r.Home.String())
		}
		return nil
	}
	if r.profile == nil {
		return deny(wire.UnknownPeer, "")
	}
	p := m.peers.byName[r.profile.Peer]
	if p == nil || p.Protection != "none" {
		return deny(wire.Unprotected, "peer "+r.profile.Peer+" has to protect it")
	}
	r.peer = p
	return nil
}

// examineHost is RFC 6275 9.5.1, 10.3.1 and 10.3.2, RFC 3963 6.2, RFC 4285 6 and RFC 5555 4.5, in their order.
func (m *Machine) examineHost(r *hostRequest) *homeagent.Refusal {
	deny := func(s mobility.Status, reason wire.Reason, format string, args ...any) *homeagent.Refusal {
		return &homeagent.Refusal{Status: s, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	}
	ignore := func(reason wire.Reason) *homeagent.Refusal { return &homeagent.Refusal{Silent: true, Reason: reason} }
	if r.profile != nil {
		r.have = m.hosts.table.ByHome(r.profile.Domain, netip.PrefixFrom(r.Home, 128))
	}
	if r.Flags&mobility.BUHome == 0 { // for a correspondent node, which this is not
		switch {
		case r.Router(): // answered whether flag A is set or not, RFC 3963 6.2
			return deny(mobility.MobileRouterNotPermitted, wire.MobileRouterRefused, "without the H flag")
		case r.have != nil && r.have.State == binding.Active: // answered whether flag A is set or not, 9.5.1
			return deny(mobility.TypeChangeDisallowed, wire.TypeChange, "the binding is a home registration")
		}
		return ignore(wire.NotHomeRegistration)
	}
	local := r.Path.Local.Addr()
	switch {
	case r.NonceIndices:
		return ignore(wire.NonceIndices)
	case !m.isLocal(local):
		return ignore(wire.BadDestination)
	case !slices.Contains(m.cfg.DSMIP6.HomeAgents, local):
		return deny(mobility.HomeRegistrationNotSupported, wire.NotHomeAgentAddress, "%s", local)
	case r.profile == nil && !m.homeSubnet(r.Home):
		return deny(mobility.NotHomeSubnet, wire.NotHomeSubnet, "%s", r.Home)
	case r.profile == nil:
		return deny(mobility.NotHomeAgent, wire.UnknownSubscriber, "nobody has %s", r.Home)
	case !r.profile.May(subscriber.DSMIP6):
		return deny(mobility.AdministrativelyProhibited, wire.ServiceDisabled, "no host registration for this subscriber")
	case r.Delete && m.behindDetected(r):
		return ignore(wire.SequenceOld)
	case r.Delete && r.have == nil:
		m.forgetDetection(r)
		return deny(mobility.NotHomeAgent, wire.NothingToDeregister, "no registration")
	case m.cfg.DSMIP6.RequireMessageID && r.Path.Auth.Kind == "rfc4285" && !r.HasMessageID:
		return deny(mobility.MIPv6MsgIDRequired, wire.MessageIDRequired, "")
	}
	if f := homeagent.InOrder(&r.Request, r.have, r.arrived, m.cfg.DSMIP6.MessageIDWindow); f != nil {
		return f
	}
	if r.Delete {
		return nil
	}
	if f := m.staying(r); f != nil {
		return f
	}
	if valid, bounded := m.validFor(r.profile.Domain, r.Home); bounded && valid < mobility.LifetimeUnit {
		return deny(mobility.NotHomeSubnet, wire.NotHomeSubnet, "the prefix of %s is valid no more", r.Home)
	}
	switch {
	case r.Flags&mobility.BUForceUDP != 0 && (r.Framing != homeagent.UDP || m.cfg.DSMIP6.NoForcedUDP):
		if r.HasMessageID { // to its sender 144 would speak of its clock
			return deny(mobility.AdministrativelyProhibited, wire.UDPNotForced, "")
		}
		return deny(mobility.IDMismatch, wire.UDPNotForced, "")
	case r.Bare && r.Path.Auth.Kind == "esp": // RFC 4877 4.3: somebody on the way could have written it
		return deny(mobility.InvalidCareOf, wire.CareOfUncovered, "no Alternate Care-of Address option, and ESP does not cover the source %s", r.CareOf)
	case m.isLocal(r.CareOf):
		return deny(mobility.InvalidCareOf, wire.CareOfLocal, "%s", r.CareOf)
	case m.isHome(r):
		return deny(mobility.InvalidCareOf, wire.CareOfHome, "%s", r.CareOf)
	case r.have == nil && m.hosts.table.Len()+m.cache.Len() >= m.cfg.Limits.Sessions:
		return deny(mobility.InsufficientResources, wire.SessionLimit, "")
	}
	return m.examineRouter(r)
}

// homeSubnet says whether an address lies in a home network of this anchor (RFC 6275 10.3.1).
func (m *Machine) homeSubnet(a netip.Addr) bool {
	for _, p := range m.pools.All() {
		if p.Range().Contains(a) {
			return true
		}
	}
	return m.homeNetworks.Contains(a)
}

// isHome says whether a care-of address is a home address, of whomever: its packets would come back here. Only the
// addresses of domain 0 are the core network's, where tunnels go.
func (m *Machine) isHome(r *hostRequest) bool {
	a := r.CareOf
	k := netip.PrefixFrom(a, a.BitLen())
	if _, proxy := m.cache.ByHome(0, k); proxy || m.subs.IsHome(0, a) || m.hosts.table.ByHome(0, k) != nil {
		return true
	}
	// What lies in his own mobile network would be tunnelled into the tunnel.
	return r.profile.Domain == 0 && slices.ContainsFunc(r.profile.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// refuseHost answers, counts and remembers a refusal. Home registrations are answered whether the A flag is set or not
// (RFC 6275 9.5.4, 10.3.1).
func (m *Machine) refuseHost(r *hostRequest, f *homeagent.Refusal) {
	about := m.hostFields(r, f)
	if r.profile == nil && f.Silent {
		m.drop(f.Reason, about)
		return
	}
	m.refused[f.Reason]++
	var id core.ID
	if r.have != nil {
		id = r.have.ID
	}
	m.emit(core.Emit{Name: "refused", ID: id, Why: string(f.Reason), Fields: about})
	m.past.add(past{when: m.now.Wall, sub: about.Sub, status: uint8(f.Status), silent: f.Silent, reason: f.Reason, host: true,
		coa: about.CareOf, seq: r.Sequence, lifetime: r.Lifetime, detail: f.Detail})
	if f.Silent {
		return
	}
	m.effect(core.Send{Path: r.Path, Body: r.Refuse(f, m.cfg.DSMIP6.NATRefresh)})
}

// hostFields describes a request.
func (m *Machine) hostFields(r *hostRequest, f *homeagent.Refusal) Fields {
	about := Fields{HoA: r.Home, CareOf: r.CareOf, Seq: r.Sequence, Lifetime: seconds(r.Lifetime), Dialect: r.Dialect.String()}
	if !about.CareOf.IsValid() {
		about.CareOf = r.Path.Remote.Addr()
		if r.Path.Outer.N > 0 {
			about.CareOf = r.Path.Outer.Layer[0].Remote.Addr()
		}
	}
	if r.profile != nil {
		about.Sub = r.profile.ID
	}
	if r.peer != nil {
		about.Peer = r.peer.Name
	}
	if f != nil {
		about.Status, about.Reason, about.Detail = uint8(f.Status), string(f.Reason), f.Detail
	}
	return about
}

// aboutHost describes a registration.
func (m *Machine) aboutHost(h *homeagent.Registration) Fields {
	f := Fields{Sub: h.Node, Peer: h.Auth.Peer, HoA: h.Home, CareOf: h.CareOf, NAT: h.NAT, Seq: h.Sequence, Lifetime: seconds(h.Lifetime), Dialect: h.Dialect.String()}
	for _, v := range h.V4 {
		f.V4 = append(f.V4, v.Prefix)
	}
	f.Networks = h.Networks
	return f
}

// setHostState is transition for a registration whose state was from.
func (m *Machine) setHostState(h *homeagent.Registration, from binding.State, why string, former netip.Addr) {
	f := m.aboutHost(h)
	if former.IsValid() && former != h.CareOf {
		f.Former = former
	}
	m.transition(h.ID, from, h.State, why, f)
	if h.State == binding.Active {
		m.discoveryBound(h)
	} else {
		m.discoveryUnbound(h, why)
	}
}
