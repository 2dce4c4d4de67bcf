package optimize

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// update is the Binding Update that is under way.
type update struct {
	running bool
	target  target
	tries   int
	timeout time.Duration
	next    time.Duration
	sent    []sentUpdate // for target, whose acknowledgements are still taken; newest last
}

// sentUpdate is one Binding Update.
type sentUpdate struct {
	seq      uint16
	at       time.Duration
	lifetime time.Duration
	key      []byte // Kbm: a secret
}

const (
	// maxUpdates is how many Binding Updates are sent before the direct path counts as dead. The correspondent may have heard the first, and
	// what it sends be lost from then on: so they are fewer than MAX_RO_FAILURE allows.
	maxUpdates = 2
	// maxSent is how many Binding Updates for one target may still be acknowledged.
	maxSent = 8
	maxMay  = 8
	// slack is how much later than here a lifetime may end at a correspondent, which counts from when it heard.
	slack = 2 * time.Second
)

// update sends what is due of a Binding Update. The tokens are there.
func (m *Machine) update(e *entry, t target) {
	u, now := &e.upd, m.now.Boot
	if !u.running {
		sent := u.sent
		if u.target != t {
			sent = nil // they were for something else
		}
		*u = update{running: true, target: t, next: now, sent: sent}
	}
	switch {
	case u.next > now:
	case u.tries > MaxFailure, t.what == register && u.tries >= maxUpdates:
		m.unanswered(e)
	default:
		m.sendUpdate(e)
	}
}

// sendUpdate sends one, 11.7.2, as the rate allows. The data plane comes first: the correspondent may use the new care-of address
// as soon as it has heard.
func (m *Machine) sendUpdate(e *entry) {
	u, now := &e.upd, m.now.Boot
	if at := e.rates[updates].Free(now); at > now {
		u.next = at
		return
	}
	e.rates[updates].Spend(now)
	if u.timeout = min(2*u.timeout, MaxBindackTimeout); u.timeout == 0 {
		u.timeout = InitialBindackTimeout
	} else {
		m.emit(core.Emit{Name: "retransmit", ID: e.id, Why: string(wire.NoAnswer), Fields: map[string]any{
			"type": "bu", "correspondent": e.peer.String(), "seq": e.seq + 1, "tries": u.tries + 1}})
	}
	u.tries++
	u.next = now + u.timeout
	e.seq++
	bu := &mobility.BindingUpdate{Sequence: e.seq, Flags: mobility.BUAck}
	nonces := &mobility.NonceIndices{Home: e.home.index}
	s := sentUpdate{seq: e.seq, at: now}
	careOf := m.place.Home // a deletion names the home address (6.2.7)
	if u.target.what == register {
		care := e.careFor(now, u.target.careOf)
		careOf, nonces.CareOf = u.target.careOf, care.index
		s.key = mobility.BindingKey(e.home.value, care.value)
		// No longer than the registration at the home agent and the care-of address live.
		s.lifetime = min(m.cfg.Lifetime, m.place.Until-now).Truncate(mobility.LifetimeUnit)
		bu.Lifetime = uint16(s.lifetime / mobility.LifetimeUnit)
		e.lives = max(e.lives, now+s.lifetime+slack)
		if !slices.Contains(e.may, careOf) {
			e.may = append(e.may[max(0, len(e.may)-maxMay+1):], careOf)
		}
	} else {
		s.key = mobility.DeregistrationKey(e.home.value)
	}
	if len(u.sent) == maxSent {
		u.sent = slices.Delete(u.sent, 0, 1)
	}
	u.sent = append(u.sent, s)
	m.route(e)
	m.out = append(m.out, core.Send{Path: m.updatePath(e, u.target),
		Body: &mobility.Authorized{Message: bu, Nonces: nonces, Key: s.key, CareOf: careOf, Peer: e.peer}})
}

// sendFarewell sends a deletion that wants no answer.
func (m *Machine) sendFarewell(e *entry) {
	e.seq++
	m.out = append(m.out, core.Send{Path: m.updatePath(e, target{what: remove}), Body: &mobility.Authorized{
		Message: &mobility.BindingUpdate{Sequence: e.seq}, Nonces: &mobility.NonceIndices{Home: e.home.index},
		Key: mobility.DeregistrationKey(e.home.value), CareOf: m.place.Home, Peer: e.peer}})
}

// updatePath is from the care-of address with the Home Address option, or from the home address where that is all there is: at
// home, and in an IPv4-only network, and where the direct path is dead.
func (m *Machine) updatePath(e *entry, t target) core.Path {
	a := t.careOf
	if t.what == remove {
		a = m.place.CareOf
	}
	if m.place.At == AtHome || !a.IsValid() || t.what == remove && e.silent {
		return m.homePath(e)
	}
	p := m.carePath(e, a)
	p.Own = m.place.Home
	return p
}

// acknowledged takes a Binding Acknowledgement, 11.7.3. raw is the Mobility Header as it came.
func (m *Machine) acknowledged(e *entry, p *core.Path, ba *mobility.BindingAck, raw []byte) {
	u := &e.upd
	if len(u.sent) == 0 {
		m.ignored(p, wire.Unsolicited, "")
		return
	}
	careOf, wrong := m.cameTo(e, p)
	if wrong {
		m.ignored(p, wire.WrongTunnel, p.Local.Addr().String())
		return
	}
	i := slices.IndexFunc(u.sent, func(s sentUpdate) bool { return s.seq == ba.Sequence })
	switch ba.Status {
	case mobility.SequenceOutOfWindow:
		i = len(u.sent) - 1 // its number is the correspondent's, and says nothing of which one it answers
	case mobility.ExpiredHomeNonce, mobility.ExpiredCareOfNonce, mobility.ExpiredNonces:
		// The correspondent has no key to prove this with (9.5.4). It costs new tests, at most.
		switch {
		case i < 0 || !u.running:
			m.ignored(p, wire.Unsolicited, ba.Status.String())
		default:
			m.expired(e, ba.Status)
		}
		return
	}
	if i < 0 {
		m.ignored(p, wire.SequenceMismatch, "")
		return
	}
	s := u.sent[i]
	if ba.Status == mobility.SequenceOutOfWindow {
		// Whichever was answered, its key proves it.
		for j := range u.sent {
			if mobility.VerifyAuthorization(raw, u.sent[j].key, careOf, e.peer) == nil {
				s = u.sent[j]
			}
		}
	}
	if err := mobility.VerifyAuthorization(raw, s.key, careOf, e.peer); err != nil {
		m.ignored(p, wire.AuthFailed, err.Error())
		return
	}
	switch {
	case ba.Status == mobility.SequenceOutOfWindow:
		m.resync(e, p, ba)
	case u.target.what == remove:
		m.deleted(e, ba)
	case !ba.Status.Accepted():
		m.refused(e, p, ba)
	default:
		m.accepted(e, p, &s, ba)
	}
}

// cameTo is the address that the authenticator of an acknowledgement is about, and whether it came to where its Binding Update left
// from.
func (m *Machine) cameTo(e *entry, p *core.Path) (careOf netip.Addr, wrong bool) {
	t := e.upd.target
	from := m.updatePath(e, t)
	careOf = t.careOf
	if t.what == remove {
		careOf = m.place.Home
	}
	if !from.Own.IsValid() {
		return careOf, p.Local.Addr() != m.place.Home || p.Own.IsValid() || !m.fromAnchor(p)
	}
	return careOf, p.Local != from.Local || p.Own != from.Own || p.Outer.N != 0
}

// accepted: the correspondent has the care-of address.
func (m *Machine) accepted(e *entry, p *core.Path, s *sentUpdate, ba *mobility.BindingAck) {
	u, now := &e.upd, m.now.Boot
	if !u.running && !mobility.Newer(s.seq, e.bind.seq) {
		m.ignored(p, wire.SequenceOld, "")
		return
	}
	// Binding Refresh Advice is ignored here (11.7.3). The lifetime counts from when the Binding Update was sent.
	lifetime := min(time.Duration(ba.Lifetime)*mobility.LifetimeUnit, s.lifetime)
	if lifetime == 0 || s.at+lifetime <= now {
		m.fail(e, wire.SessionLimit)
		m.drive(e)
		return
	}
	before := e.bind.careOf
	e.may = append(e.may[:0], u.target.careOf)
	e.bind = binding{careOf: u.target.careOf, seq: s.seq, lifetime: lifetime, expires: s.at + lifetime}
	e.bind.refreshAt = e.bind.expires - max(3*lifetime/10, min(renewBefore, lifetime/2))
	e.lives = e.bind.expires + slack
	for _, o := range u.sent {
		if mobility.Newer(o.seq, s.seq) { // repeated before this came, and may still be heard
			e.lives = max(e.lives, o.at+o.lifetime+slack)
		}
	}
	begun := e.begun
	u.running, e.verify, e.unsure, e.begun = false, false, false, 0
	e.fails, e.renews, e.resyncs, e.kept = 0, 0, 0, false
	if before != e.bind.careOf && begun > 0 {
		f := m.fields(e)
		f["phase"], f["took_ms"] = "optimization", float64(now-begun)/1e6
		m.emit(core.Emit{Name: "handover", ID: e.id, Why: "optimized", Fields: f})
		m.past("correspondent "+e.peer.String()+" has "+e.bind.careOf.String(), "", (now - begun).String())
	}
	m.drive(e)
}

// deleted: the correspondent holds no binding any more; or it refused, and goes on until its lifetime ends.
func (m *Machine) deleted(e *entry, ba *mobility.BindingAck) {
	e.upd, e.silent = update{}, false
	if ba.Status.Accepted() {
		e.bind, e.lives = binding{}, m.now.Boot
		m.past("correspondent "+e.peer.String()+" has no binding", "", "")
	} else {
		e.kept = true
		m.count(wire.RefusedByAnchor)
	}
	m.drive(e)
}

// maxRepeats is how often in a row a correspondent may want other nonces or sequence numbers.
const maxRepeats = 3

// expired takes statuses 136 to 138: other nonces are in use.
func (m *Machine) expired(e *entry, s mobility.Status) {
	if s != mobility.ExpiredCareOfNonce {
		e.home = token{}
	}
	if s != mobility.ExpiredHomeNonce {
		e.forgetCare(e.upd.target.careOf)
	}
	e.interrupt()
	m.counts["expired-nonce"]++
	m.past("correspondent "+e.peer.String()+" wants new tests", "", s.String())
	if e.renews++; e.renews > maxRepeats {
		m.fail(e, wire.RefusedByAnchor)
	}
	m.drive(e)
}

// resync takes status 135, proven: the correspondent has accepted a greater number.
func (m *Machine) resync(e *entry, p *core.Path, ba *mobility.BindingAck) {
	if mobility.Newer(e.seq, ba.Sequence) || !e.upd.running {
		m.ignored(p, wire.SequenceOld, "status 135")
		return
	}
	m.count(wire.SequenceOld)
	e.seq = ba.Sequence
	if e.resyncs++; e.resyncs > maxRepeats {
		m.fail(e, wire.SequenceOld)
	} else {
		e.upd.sent = nil // none of them can be accepted any more
		e.upd.tries, e.upd.timeout, e.upd.next = 0, 0, m.now.Boot
	}
	m.drive(e)
}

// refusals are the reasons of statuses that are proven.
var refusals = map[mobility.Status]wire.Reason{
	mobility.AdministrativelyProhibited:   wire.ServiceDisabled,
	mobility.InsufficientResources:        wire.SessionLimit,
	mobility.HomeRegistrationNotSupported: wire.ServiceDisabled,
	mobility.TypeChangeDisallowed:         wire.TypeChange,
	mobility.InvalidCareOf:                wire.BadCareOf,
}

// refused takes any other status of 128 and more: an earlier binding may go on, so the correspondent may hold one.
func (m *Machine) refused(e *entry, p *core.Path, ba *mobility.BindingAck) {
	if !e.upd.running {
		m.ignored(p, wire.Unsolicited, ba.Status.String())
		return
	}
	r, ok := refusals[ba.Status]
	if !ok {
		r = wire.RefusedByAnchor
	}
	m.past("correspondent "+e.peer.String()+" refuses", string(r), ba.Status.String())
	m.fail(e, r)
	m.drive(e)
}
