package anchor

import (
	"net/netip"

	"kedge/internal/anchor/lma"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// registration is one Proxy Binding Update on its way through the rules.
type registration struct {
	lma.Request
	peer    *peer
	path    core.Path
	profile *subscriber.Profile
	domain  core.Domain
	rule    string // of the existence test
	session binding.Index
}

// proxyUpdate is RFC 5213 5.3.1: the checks in their order, then what the existence test decides.
func (m *Machine) proxyUpdate(p *peer, path core.Path, bu *mobility.BindingUpdate) {
	r := &registration{Request: lma.Read(bu, path.Remote.Addr(), m.dialects), peer: p, path: path}
	d, refusal := m.examine(r)
	if refusal != nil {
		m.refuse(r, refusal)
		return
	}
	if d.Verdict == lma.Await {
		r.rule = d.Rule
		m.await(r, bu)
		return
	}
	m.forget(r)
	m.decide(r, d)
}

// decide does what the existence test says.
func (m *Machine) decide(r *registration, d lma.Decision) {
	r.rule, r.session = d.Rule, binding.Index(d.Ref)
	switch d.Verdict {
	case lma.Create:
		m.create(r)
	case lma.Update:
		m.update(r)
	default:
		m.refuse(r, d.Refusal)
	}
}

// examine does steps 4 to 13 of RFC 5213 5.3.1, with RFC 5844 3.1.2.1. Whoever may send at all was asked before.
func (m *Machine) examine(r *registration) (d lma.Decision, refusal *lma.Refusal) {
	if refusal = lma.Identify(&r.Request); refusal != nil { // step 4
		return d, refusal
	}
	if refusal = m.authorize(r); refusal != nil { // steps 5 to 8
		return d, refusal
	}
	if refusal = lma.Flags(&r.Request); refusal != nil {
		return d, refusal
	}
	last := m.look(r)
	d = lma.Exists(&r.Request, m.view.key(), m.view.node, m.cfg.Timers.MaxDelayBeforeNewBCEAssign > 0)
	if d.Verdict == lma.Update {
		last.Known, last.Sequence = true, m.cache.At(binding.Index(d.Ref)).Sequence
	}
	r.session = binding.Index(d.Ref)
	m.clock(r)
	if refusal = lma.InOrder(&r.Request, last, m.time()); refusal != nil { // step 9
		return d, refusal
	}
	if refusal = lma.Complete(&r.Request); refusal != nil { // steps 10 to 12
		return d, refusal
	}
	if refusal = m.superseded(r, d); refusal != nil {
		return d, refusal
	}
	has := m.entitled(r)
	return d, lma.Entitled(&r.Request, has)
}

// clock reports how far a gateway's clock is from the anchor's: the Timestamp option lives from their agreement.
func (m *Machine) clock(r *registration) {
	if !r.HasTimestamp || m.cfg.PMIP6.MobileNodeTimestamps || r.peer.clock > m.now.Boot {
		return
	}
	r.peer.clock = m.now.Boot + clockEvery
	ahead := (mobility.Timestamp{Value: r.Timestamp}).Time().Sub(m.now.Wall)
	m.emit(core.Emit{Name: "clock", Fields: map[string]any{"peer": r.peer.Name, "offset_ms": float64(ahead.Microseconds()) / 1e3}})
}

// superseded refuses a re-registration (handoff indicator 5, which RFC 5213 6.9.1.3 allows the serving gateway only) of
// a gateway that another one has relieved meanwhile. Taking it as a handoff would give the session back to where the host
// has left. 157 makes a gateway that does have the host assert its presence (6.9.1.2 (8)), as unknown handoff state.
func (m *Machine) superseded(r *registration, d lma.Decision) *lma.Refusal {
	if d.Verdict != lma.Update || r.Lifetime == 0 || r.Asked() != mobility.HandoffReRegistration {
		return nil
	}
	e := m.cache.At(binding.Index(d.Ref))
	if e.State != binding.Active || addr(e.CareOf) == r.CareOf {
		return nil
	}
	return &lma.Refusal{Status: mobility.TimestampLowerThanPrevious, Reason: wire.NotServingGateway,
		Detail: addr(e.CareOf).String() + " serves the session", Time: mobility.TimestampOf(m.now.Wall).Value}
}

// entitled says which families the subscriber and the home network have.
func (m *Machine) entitled(r *registration) lma.Families {
	return lma.Families{
		V4: r.profile.Has(subscriber.V4) && !m.cfg.PMIP6.NoIPv4,
		V6: r.profile.Has(subscriber.V6) && !m.cfg.PMIP6.NoIPv6,
	}
}

// authorize is steps 5 to 8: the gateway, the subscriber, the service.
func (m *Machine) authorize(r *registration) *lma.Refusal {
	deny := func(s mobility.Status, reason wire.Reason, detail string) *lma.Refusal {
		return &lma.Refusal{Status: s, Reason: reason, Detail: detail}
	}
	profile, _, known := m.subs.Find(r.Node)
	known = known && r.Subtype == mobility.SubtypeNAI
	switch {
	case !r.peer.gateway:
		return deny(mobility.MAGNotAuthorized, wire.NotAuthorized, "peer "+r.peer.Name+" is no gateway")
	case m.peers.find(r.CareOf) != r.peer || !r.CareOf.Is6() || r.CareOf.Is4In6() || r.CareOf.IsMulticast() || r.CareOf.IsUnspecified():
		return deny(mobility.MAGNotAuthorized, wire.NotAuthorized, "care-of address "+r.CareOf.String()+" is not of peer "+r.peer.Name)
	case known && !profile.Via(r.peer.Name):
		return deny(mobility.MAGNotAuthorized, wire.NotAuthorized, "peer "+r.peer.Name+" may not register this subscriber")
	case !known:
		return deny(mobility.NotLMAForThisMobileNode, wire.UnknownSubscriber, "no profile")
	case !profile.May(subscriber.PMIP6):
		return deny(mobility.ProxyRegNotEnabled, wire.ServiceDisabled, "no proxy registration for this subscriber")
	}
	r.profile, r.domain = profile, profile.Domain
	return nil
}

// view is the existence test's sight of the cache, in memory that is used again.
type view struct {
	node     []lma.Session
	byKey    lma.Session
	hasKey   bool
	prefixes []netip.Prefix
}

func (v *view) key() *lma.Session {
	if !v.hasKey {
		return nil
	}
	return &v.byKey
}

// look fills the view for a request and says what orders it.
func (m *Machine) look(r *registration) (last lma.Last) {
	v := &m.view
	v.node, v.prefixes, v.hasKey = v.node[:0], v.prefixes[:0], false
	for i := range m.cache.ByNode(r.Node) {
		last.Timestamp = max(last.Timestamp, m.accepted(i))
		v.node = append(v.node, m.see(i))
	}
	key, found := binding.Index(0), false
	for _, p := range r.Prefixes[:r.NonZero] {
		if key, found = m.cache.ByHome(r.domain, p); found {
			break
		}
	}
	if a, ok := r.V4Key(); ok && r.NonZero == 0 {
		key, found = m.cache.ByHome(r.domain, netip.PrefixFrom(a, 32))
	}
	if found {
		v.byKey, v.hasKey = m.see(key), true
		v.byKey.Foreign = !m.cache.IsNode(key, r.Node)
	}
	return last
}

// time is the clock that timestamps are held against.
func (m *Machine) time() lma.Clock {
	return lma.Clock{Wall: m.now.Wall, Window: m.cfg.Timers.TimestampWindow, Free: m.cfg.PMIP6.MobileNodeTimestamps}
}

// accepted is the timestamp that requests must exceed, 0 = any will do. One that a clock gave which was set back since
// must not shut its host out until its lifetime ends: the window alone tells old from new then.
func (m *Machine) accepted(i binding.Index) uint64 {
	if t := m.cache.At(i).Timestamp; m.time().Passed(t) {
		return t
	}
	return 0
}

func (m *Machine) see(i binding.Index) lma.Session {
	e, v := m.cache.At(i), &m.view
	from := len(v.prefixes)
	v.prefixes = m.cache.AppendPrefixes(v.prefixes, i)
	return lma.Session{
		Ref: uint32(i), Prefixes: v.prefixes[from:len(v.prefixes):len(v.prefixes)], CareOf: addr(e.CareOf), ATT: e.ATT,
		LinkLayer: m.cache.LinkLayer(i), Deprecated: e.State == binding.Deprecated,
	}
}

// refuse answers, counts and remembers a refusal.
func (m *Machine) refuse(r *registration, f *lma.Refusal) {
	m.refused[f.Reason]++
	about := Fields{
		Sub: r.Node, Peer: r.peer.Name, ProxyCoA: r.CareOf, Seq: r.Sequence, Status: uint8(f.Status), Dialect: r.Dialect.String(),
		ATT: r.ATT, Handoff: r.HI, Rule: r.rule, Reason: string(f.Reason), Detail: f.Detail,
	}
	var id core.ID
	var held netip.Prefix
	if r.session != 0 {
		e := m.cache.At(r.session)
		id = e.ID
		held, _ = e.V4()
	}
	m.emit(core.Emit{Name: "refused", ID: id, Why: string(f.Reason), Fields: about})
	m.past.add(past{when: m.now.Wall, sub: r.Node, status: uint8(f.Status), silent: f.Silent, reason: f.Reason, coa: r.CareOf,
		seq: r.Sequence, lifetime: r.Lifetime, detail: f.Detail, rule: r.rule})
	if f.Silent {
		return
	}
	m.effect(core.Send{Path: r.path, Body: r.Refuse(f, held, m.dialects.Has(Draft02))})
}

// answer is what an accepted request is told about its session.
func (m *Machine) answer(r *registration, e *binding.Entry, h binding.Homes, v4 *lma.Refusal) *mobility.BindingAck {
	a := lma.Answer{Lifetime: e.Lifetime, Prefixes: h.Prefixes, V4: h.V4, LinkLocal: addr(e.LinkLocal)}
	if h.V4.IsValid() {
		a.Router = netip.AddrFrom4(e.Router4)
	}
	if v4 != nil {
		a.Address, a.V4 = v4.Address, netip.Prefix{}
	}
	return r.Accept(a)
}

// granted is the lifetime of an accepted request: what was asked for, at most LifetimeMax.
func (m *Machine) granted(asked uint16) uint16 {
	return min(asked, uint16(m.cfg.Timers.LifetimeMax.Seconds()/4))
}
