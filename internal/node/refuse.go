package node

import (
	"fmt"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// What a refusal makes the node wait, doubled each time. A change of network ends the wait, so does core.Roam.
const (
	refusedFirst   = 2 * time.Second
	lastingFirst   = 32 * time.Second // refusals that a person has to mend
	lastingMax     = 5 * time.Minute
	refusedForever = never
	// maxUnverified is how many Binding Updates in a row the home agent may call not authentic before that is believed.
	maxUnverified = 3
	// maxResyncs is how often in a row a home agent may correct the sequence number.
	maxResyncs = 4
)

// refusal says what a status means for the node.
type refusal struct {
	reason  wire.Reason
	lasting bool
}

// refusals are the statuses that end a registration for a while. Those that do not are handled in refuse.
var refusals = map[mobility.Status]refusal{
	mobility.AdministrativelyProhibited:   {wire.ServiceDisabled, true},
	mobility.InsufficientResources:        {wire.SessionLimit, false},
	mobility.HomeRegistrationNotSupported: {wire.ServiceDisabled, true},
	mobility.NotHomeSubnet:                {wire.PrefixNotAuthorized, true},
	mobility.NotHomeAgent:                 {wire.UnknownSubscriber, true},
	mobility.DADFailed:                    {wire.AddressClaimed, true},
	mobility.TypeChangeDisallowed:         {wire.TypeChange, true},
	mobility.MobileRouterNotPermitted:     {wire.NotAuthorized, true},
	mobility.MIPv6MsgIDRequired:           {wire.NotAuthorized, true},
	mobility.MIPv6AuthFail:                {wire.NotAuthorized, true},
	mobility.IDMismatch:                   {wire.TimestampMismatch, false},
}

// refuse takes a Binding Acknowledgement with a status of 128 or more for a Binding Update that was outstanding.
func (m *Machine) refuse(s *sent, ba *mobility.BindingAck) {
	switch {
	case ba.Status == mobility.IDMismatch && s.force && !mismatch(s, ba):
		// RFC 5555 gives the number to "cannot force UDP encapsulation" (3.2): without the F flag then.
		m.refusesUDP = true
		m.refusal(wire.UDPNotForced, ba.Status, "")
		m.hasten()
		m.sendDue()
		return
	case ba.Status == mobility.InvalidCareOf:
		m.nets.fail(&s.careOf, &s.careOf, m.now.Wall)
		m.refusal(wire.BadSource, ba.Status, s.careOf.Addr.String())
		m.drop(&s.careOf)
		return
	}
	if m.refuseRouter(s, ba) {
		return
	}
	r, ok := refusals[ba.Status]
	if !ok {
		r.reason = wire.RefusedByAnchor
	}
	m.refusal(r.reason, ba.Status, "")
	if elsewhereServed(ba.Status) && m.gaveUp("refused: "+string(r.reason), InitialBindackTimeoutFirstReg) {
		return
	}
	switch {
	case ba.Status == mobility.DADFailed && m.agents.Alone():
		// The address is another node's: RFC 6275 11.7.1 forbids another try. Whoever mends it says so by core.Roam. With several home
		// agents it may be a former one that still defends it.
		m.unbind()
		m.wait(refusedForever, r.reason)
	case r.lasting:
		m.wait(min(lastingFirst<<min(m.tries, 10), lastingMax), r.reason)
	default:
		m.wait(min(refusedFirst<<min(m.tries, 10), m.cfg.Timers.RetransmitMax), r.reason)
	}
}

// spoiled takes status 146, which the home agent must send for every Binding Update whose authenticator is wrong (RFC 4285 5.3):
// also for a copy that somebody who saw ours has spoiled, and that overtook it, or that he sends much later. So ours stays
// outstanding, and is sent again in its time. Only when maxUnverified were refused so, each sent after the one before was, does the
// node conclude that it has the wrong key.
func (m *Machine) spoiled(s *sent) bool {
	if m.unverified > 0 && s.at <= m.unverifiedAt {
		m.count(wire.AuthFailed)
		return true
	}
	if m.unverified++; m.unverified == maxUnverified {
		m.unverified = 0
		return false
	}
	m.unverifiedAt = m.now.Boot
	m.refusal(wire.AuthFailed, mobility.MIPv6AuthFail, "perhaps a spoiled copy")
	return true
}

// refusal tells of a status.
func (m *Machine) refusal(r wire.Reason, s mobility.Status, detail string) {
	m.count(r)
	m.reason = r
	m.past(fmt.Sprintf("refused %d", uint8(s)), string(r), s.String())
	f := map[string]any{"peer": m.ha.name, "status": uint8(s), "hoa": m.hoa().String()}
	if detail != "" {
		f["err"] = detail
	}
	m.emit(core.Emit{Name: "refused", ID: m.session.id, Why: string(r), Fields: f})
}

// refusedFor is a refusal that has no status.
func (m *Machine) refusedFor(d time.Duration, r wire.Reason, detail string) {
	m.refusal(r, mobility.Accepted, detail)
	m.wait(d, r)
}

// wait ends what is under way; the next registration comes after d, or with another network.
func (m *Machine) wait(d time.Duration, r wire.Reason) {
	m.endRace()
	m.tries++
	m.retryAt, m.barred = never, d == refusedForever
	if !m.barred {
		m.retryAt = m.now.Boot + d
	}
	m.setState(refused, string(r))
	m.configure()
}

// drop takes a care-of address out of the race. The next one is tried at once; if there is none, all wait.
func (m *Machine) drop(c *movement.CareOf) {
	rest := m.race.attempts[:0]
	for _, a := range m.race.attempts {
		if keyOf(&a.careOf) != keyOf(c) {
			rest = append(rest, a)
		}
	}
	m.race.attempts = rest
	switch {
	case len(rest) == 0 && m.bound() && !m.path.dead && keyOf(&m.bind.careOf) != keyOf(c):
		m.confirm("refused")
	case len(rest) == 0:
		m.wait(min(refusedFirst<<min(m.tries, 10), m.cfg.Timers.RetransmitMax), wire.BadSource)
	default:
		m.hasten()
		m.sendDue()
	}
}

// resync takes status 135: the home agent has accepted a greater number than that of the Binding Update it answers
// (RFC 6275 11.7.3). It may answer one that was overtaken by a newer one of ours; then there is nothing to do.
func (m *Machine) resync(p *core.Path, ba *mobility.BindingAck) {
	if mobility.Newer(m.seq, ba.Sequence) || !m.racing() {
		m.ignored(p, wire.SequenceOld, "status 135")
		return
	}
	m.count(wire.SequenceOld)
	m.past("sequence number out of window", string(wire.SequenceOld), fmt.Sprintf("sent %d, the home agent has %d", m.seq, ba.Sequence))
	m.emit(core.Emit{Name: "resync", ID: m.session.id, Why: string(wire.SequenceOld), Fields: map[string]any{
		"peer": m.ha.name, "seq": m.seq, "accepted": ba.Sequence}})
	m.seq, m.acked, m.bind.seq = ba.Sequence, ba.Sequence, ba.Sequence
	m.sent = m.sent[:0] // none of them can be accepted any more
	if m.resyncs++; m.resyncs > maxResyncs {
		m.refusedFor(m.cfg.Timers.RetransmitMax, wire.SequenceOld, "the home agent wants ever greater sequence numbers")
		return
	}
	m.hasten()
	m.sendDue()
	m.persist()
}

// requested: the home agent wants a Binding Update. What is under way answers that.
func (m *Machine) requested(why string) {
	if !m.bound() || m.racing() || m.state != active && m.state != refused {
		return
	}
	m.setState(updating, why)
	m.startRace([]movement.CareOf{m.bind.careOf}, register, false, true)
}
