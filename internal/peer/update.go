package peer

import (
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// request is a Binding Update on its way through the checks.
type request struct {
	path   *core.Path
	bu     *mobility.BindingUpdate
	key    key
	careOf netip.Addr // that the authenticator covers: the home address in a deregistration
	delete bool
	kbm    []byte      // nil: not known, so that the answer has no authorization data
	home   *generation // of the home nonce
}

// update checks a Binding Update as RFC 6275 9.5.1 says. What is wrong with it is answered only where that section demands it, and
// dropped silently else. One thing is in another order there: the sequence number is looked at behind the authenticator, because the
// answer to a bad one, status 135, must be authorized by a key that only a valid update gives (9.5.4), and tells a number that
// strangers need not know.
func (m *Machine) update(ev *core.Message, bu *mobility.BindingUpdate) {
	p := &ev.Path
	r := request{path: p, bu: bu, key: key{own(p), p.Remote.Addr()}, delete: bu.Lifetime == 0}
	if p.Home.IsValid() {
		r.key.home = p.Home
	}
	if r.careOf = p.Remote.Addr(); bu.Options.Has(mobility.OptAlternateCareOf) {
		alt, _ := bu.Options.AlternateCareOf()
		r.careOf = alt.Addr
	}
	if r.delete {
		r.careOf = r.key.home
	}
	nonces, named := bu.Options.NonceIndices()
	switch {
	case !ip.Routable(r.key.home) || r.key.home == r.key.own || len(m.cfg.Addresses) > 0 && m.isOwn(r.key.home):
		m.ignored(p, wire.BadHomeAddress, "")
		return
	case !ip.Routable(r.careOf): // RFC 6275 6.1.7
		m.ignored(p, wire.BadCareOf, "")
		return
	case bu.Flags&mobility.BUHome != 0 && named:
		m.ignored(p, wire.NonceIndices, "in a home registration")
		return
	case bu.Flags&mobility.BUHome != 0:
		m.homeRegistration(&r)
		return
	case !named:
		m.ignored(p, wire.NonceIndices, "none")
		return
	}
	if !m.authorize(ev, &r, nonces) {
		return
	}
	e := m.cache.byKey[r.key]
	// Of a binding that ended, what counts is that nothing is used again: who got a home keygen token since is free in his numbers.
	// What older tokens proved had other numbers, and is over then.
	fresh := e == nil || !e.live() && r.home.number > e.newest
	if !fresh && (r.home.number < e.least || !mobility.Newer(bu.Sequence, e.seq)) {
		m.refuse(&r, mobility.SequenceOutOfWindow, wire.SequenceOld, e.seq)
		return
	}
	if e != nil && fresh {
		e.least = r.home.number
	}
	switch {
	case !m.accepted(r.key.home):
		m.refuse(&r, mobility.AdministrativelyProhibited, wire.NotAuthorized, bu.Sequence)
	case r.delete:
		m.deregister(&r, e)
	case r.careOf == r.key.home || r.careOf == r.key.own || len(m.cfg.Addresses) > 0 && m.isOwn(r.careOf):
		m.refuse(&r, mobility.InvalidCareOf, wire.BadCareOf, bu.Sequence)
	default:
		m.register(&r, e)
	}
}

func (m *Machine) accepted(home netip.Addr) bool {
	for _, p := range m.cfg.Accept {
		if p.Contains(home) {
			return true
		}
	}
	return len(m.cfg.Accept) == 0
}

// homeRegistration refuses to be a home agent: RFC 6275 10.3.1, and 9.5.1 where there is a binding of the other kind. There is no key
// to authorize the answer with.
func (m *Machine) homeRegistration(r *request) {
	status, reason := mobility.HomeRegistrationNotSupported, wire.ServiceDisabled
	if e := m.cache.byKey[r.key]; e != nil && e.live() {
		status, reason = mobility.TypeChangeDisallowed, wire.TypeChange
	}
	m.refuse(r, status, reason, r.bu.Sequence)
}

// authorize makes the tokens and Kbm again and checks the authenticator. The care-of nonce counts only where something is bound.
func (m *Machine) authorize(ev *core.Message, r *request, named mobility.NonceIndices) bool {
	r.home = m.nonces.find(m.now.Boot, named.Home)
	careOf := r.home
	if !r.delete {
		careOf = m.nonces.find(m.now.Boot, named.CareOf)
	}
	// Without the last option it is no request of return routability at all, and is not told about nonces.
	if !r.bu.Options.Has(mobility.OptBindingAuthorization) {
		m.ignored(r.path, wire.MissingAuthorization, "")
		return false
	}
	switch {
	case r.home == nil && careOf == nil && !r.delete:
		m.refuse(r, mobility.ExpiredNonces, wire.NonceExpired, r.bu.Sequence)
		return false
	case r.home == nil:
		m.refuse(r, mobility.ExpiredHomeNonce, wire.NonceExpired, r.bu.Sequence)
		return false
	case careOf == nil:
		m.refuse(r, mobility.ExpiredCareOfNonce, wire.NonceExpired, r.bu.Sequence)
		return false
	}
	token := r.home.token(r.key.home, false)
	kbm := mobility.DeregistrationKey(token)
	if !r.delete {
		kbm = mobility.BindingKey(token, careOf.token(r.careOf, true))
	}
	if err := mobility.VerifyAuthorization(ev.Raw, kbm, r.careOf, r.key.own); err != nil {
		m.ignored(r.path, wire.ReasonOf(err), err.Error())
		return false
	}
	r.kbm = kbm
	return true
}

// register caches a binding, RFC 6275 9.5.2.
func (m *Machine) register(r *request, e *entry) {
	if !m.routes.fits(r.key.own) || e == nil && !m.room() {
		m.refuse(r, mobility.InsufficientResources, wire.SessionLimit, r.bu.Sequence)
		return
	}
	from, why := "gone", "new"
	switch {
	case e == nil:
		e = m.cache.add(r.key)
		e.since = m.now.Wall
	case !e.live():
		m.cache.revive(e)
		e.since = m.now.Wall
	case e.careOf == r.careOf:
		from, why = "active", "refreshed"
	default:
		from, why = "active", "moved"
	}
	before := e.careOf
	m.proved(e, r)
	e.careOf = r.careOf
	e.lifetime = min(time.Duration(r.bu.Lifetime)*mobility.LifetimeUnit, m.cfg.LifetimeMax).Truncate(mobility.LifetimeUnit)
	e.expires = m.now.Boot + e.lifetime
	m.cache.renewed(e)
	m.schedule(e)
	if before != e.careOf {
		m.forward(e, before)
	}
	m.changed(e, from, "active", why, before)
	if r.bu.Flags&mobility.BUAck != 0 {
		m.acknowledge(r, mobility.Accepted, r.bu.Sequence, e.lifetime)
	}
}

// proved takes over what a valid Binding Update says of itself.
func (m *Machine) proved(e *entry, r *request) {
	e.seq, e.link, e.trouble = r.bu.Sequence, r.path.If, trouble{}
	e.newest, e.guarded = max(e.newest, r.home.number), max(e.guarded, r.home.end())
}

// deregister deletes a binding, RFC 6275 9.5.3, and makes none: but what proved it must not do so again, be there a binding or not.
func (m *Machine) deregister(r *request, e *entry) {
	if e != nil {
		m.proved(e, r)
		if e.live() {
			m.unbind(e, "deregistered")
		} else {
			m.remember(e)
		}
	}
	if r.bu.Flags&mobility.BUAck != 0 {
		m.acknowledge(r, mobility.Accepted, r.bu.Sequence, 0)
	}
}

// acknowledge answers an update that is accepted.
func (m *Machine) acknowledge(r *request, s mobility.Status, seq uint16, lifetime time.Duration) {
	var body mobility.Message = &mobility.BindingAck{Status: s, Sequence: seq, Lifetime: uint16(lifetime / mobility.LifetimeUnit)}
	if r.kbm != nil {
		body = &mobility.Authorized{Message: body, Key: r.kbm, CareOf: r.careOf, Peer: r.key.own}
	}
	m.out = append(m.out, core.Send{Path: answering(r.path), Body: body})
}

// refuse answers an update with an error: to its source, with a type 2 routing header if it had a Home Address option (RFC 6275
// 9.5.4). Statuses 136 to 138 come without authorization data, there is no key for it; so do those to a home registration.
func (m *Machine) refuse(r *request, s mobility.Status, why wire.Reason, seq uint16) {
	m.count(why)
	f := Fields{HoA: r.key.home, CareOf: r.careOf, Own: r.key.own, Seq: r.bu.Sequence, Status: uint8(s)}
	m.emit(core.Emit{Name: "refused", Why: string(why), Fields: f})
	m.past.add(core.Past{When: m.now.Wall, What: "refused " + s.String(), Reason: string(why)}, r.key.home)
	m.acknowledge(r, s, seq, 0)
}
