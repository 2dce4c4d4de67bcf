package node

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
)

// A path is dead when probeTries echoes in a row stay unanswered. They are echoes through the tunnel, from the home address to
// the home agent: an answer says that packets go both ways, that the home agent has the binding, and that a NAT still knows
// the way; it also keeps the NAT's mapping alive (RFC 5555 4.3).
const (
	probeTries  = 4
	verifyTries = 3 // plain protocols 4 and 41: then UDP
	narrowTries = 2 // while a better care-of address is tried
	maxProbes   = 8 // without an answer whose answer still counts
	minSpacing  = 100 * time.Millisecond
	// echoless is after how many registrations without a single answered echo, ever, the home agent is taken for one that
	// does not answer any. Binding Updates take their place, every updateProbe.
	echoless    = 3
	updateProbe = 15 * time.Second
)

// path is what is known of the tunnel in use.
type path struct {
	dead     bool
	verify   bool          // plain framing has yet to show that it works
	answered bool          // an echo came back since the tunnel is as it is
	lost     int           // echoes in a row without an answer, the outstanding one left out
	waiting  bool          // for the answer of the last one
	next     time.Duration // of the next echo, or when the last one counts as lost; 0 = no probing
	heard    time.Duration // of the last answer
	probes   []probe       // newest last
	search   search
}

// probe is one echo. The token makes its answer hard to forge for who cannot see it.
type probe struct {
	seq   uint16
	token [8]byte
	size  int // octets of its data
	at    time.Duration
}

func (p *path) stop() { *p = path{} }

// restart begins anew with an echo at once: the tunnel changed, or may have.
func (p *path) restart(m *Machine) {
	*p = path{next: m.now.Boot}
	if m.bind.framing == inIPv4 && m.cfg.Anchor.Dialect != Soliman {
		p.verify = m.nets.plain(&m.bind.careOf) != carried
	}
}

// period is the time between echoes while they are answered.
func (m *Machine) period() time.Duration {
	d := m.cfg.Timers.DeadPath / 3
	if k := m.bind.keepalive; k > 0 {
		d = min(d, k)
	}
	return d
}

// spacing is the time that an echo has to be answered.
func (m *Machine) spacing() time.Duration {
	longest := (m.cfg.Timers.DeadPath - m.period()) / probeTries
	return max(min(2*m.nets.rtt(&m.bind.careOf)+minSpacing/2, longest), min(minSpacing, longest))
}

// probeDue sends the next echo, or concludes from those that were not answered.
func (m *Machine) probeDue() {
	p := &m.path
	if m.silent() {
		m.echo(len(probe{}.token)) // one that is answered ends this
		every := time.Duration(updateProbe)
		if k := m.bind.keepalive; k > 0 {
			every = min(every, k) // the echo keeps the NAT's mapping all the same
		}
		p.waiting, p.next = false, min(m.bind.sentAt+updateProbe, m.now.Boot+every)
		if m.bind.sentAt+updateProbe <= m.now.Boot {
			p.next = m.now.Boot + every
			m.requested("probe")
		}
		return
	}
	if p.waiting {
		p.lost++
	}
	if m.race.narrow && p.lost >= narrowTries && m.state == updating && m.now.Boot >= m.race.begun+maxRTT {
		m.giveUp() // the better care-of address may have taken the tunnel away, and does not answer
	}
	if m.race.refresh && !m.settled() && m.race.attempts[0].tries < maxTries {
		p.lost = 0 // the home agent may be told something else just now
	}
	switch {
	case p.dead:
		p.next = m.now.Boot + m.cfg.Timers.DeadPath
	case p.verify && p.lost >= verifyTries:
		m.filtered()
		return
	case p.lost >= probeTries:
		m.died("no answer through the tunnel")
		p.next = m.now.Boot + m.cfg.Timers.DeadPath
		return
	default:
		p.next = m.now.Boot + m.spacing()
	}
	m.echo(len(probe{}.token))
	p.waiting = true
}

// echo sends one with that many octets of data through the tunnel, and waits for its answer.
func (m *Machine) echo(size int) {
	chain := m.session.chain
	chain.MTU = 0 // what is known of the path must not cut what asks about it
	p := &m.path
	if len(p.probes) == maxProbes {
		p.probes = slices.Delete(p.probes, 0, 1)
	}
	p.probes = append(p.probes, m.send(chain, size))
}

// send sends an echo from the home address to the home agent.
func (m *Machine) send(chain core.Chain, size int) probe {
	m.probeSeq++
	pr := probe{seq: m.probeSeq, size: size, at: m.now.Boot}
	binary.BigEndian.PutUint16(pr.token[:], pr.seq) // random or not, no two are equal
	_, _ = io.ReadFull(m.rand, pr.token[:])
	data := make([]byte, size)
	copy(data, pr.token[:])
	m.out = append(m.out, core.Send{
		Path: core.Path{Local: addrPort(m.hoa()), Remote: addrPort(m.ha.v6), Outer: chain, Auth: core.Auth{Kind: "none"}},
		Body: &ip.Echo{ID: m.cfg.ProbeID, Seq: pr.seq, Data: data},
	})
	return pr
}

// echoed takes an answer.
func (m *Machine) echoed(from *core.Path, e *ip.Echo) {
	p := &m.path
	_, home := m.cameFor(from)
	i := slices.IndexFunc(p.probes, func(pr probe) bool {
		return e.Reply && e.ID == m.cfg.ProbeID && e.Seq == pr.seq && len(e.Data) == pr.size && bytes.HasPrefix(e.Data, pr.token[:])
	})
	if i < 0 && e.Reply && e.ID == m.cfg.ProbeID && home == m.hoa() && from.Remote.Addr() == m.ha.v6 && m.answeredAsk(from, e) {
		return
	}
	if i < 0 || home != m.hoa() || from.Remote.Addr() != m.ha.v6 {
		m.ignored(from, wire.Unsolicited, "echo")
		return
	}
	pr := p.probes[i]
	p.probes = slices.Delete(p.probes, i, i+1)
	m.deaf, m.echoes = 0, true
	m.echoAnswered()
	if !m.bound() {
		return
	}
	m.nets.measured(&m.bind.careOf, m.now.Boot-pr.at)
	m.nets.works(&m.bind.careOf)
	m.move.Confirm(m.now, m.bind.careOf.Addr)
	if p.verify {
		p.verify = false
		m.nets.judge(&m.bind.careOf, carried, m.now.Wall)
	}
	p.answered, p.waiting, p.lost, p.heard = true, false, 0, m.now.Boot
	p.next = m.now.Boot + m.period()
	switch {
	case p.search.size == 0 && p.search.next == 0:
		m.searchMTU()
	case pr.size > len(pr.token):
		m.foundMTU(pr.size + echoHead + m.bind.framing.overhead())
	}
	if !p.dead {
		return
	}
	p.dead = false
	m.emit(core.Emit{Name: "path", ID: m.session.id, From: "dead", To: "alive", Why: "answered", Fields: m.fields()})
	m.evaluate("path alive")
	m.configure()
}

// died: nothing comes back. The binding stays, but every care-of address is tried.
func (m *Machine) died(why string) {
	p := &m.path
	p.dead, p.verify = true, false
	if m.bind.framing == inIPv4 {
		m.nets.judge(&m.bind.careOf, unknown, m.now.Wall) // it may be filtered by now
	}
	if !p.answered {
		if m.deaf++; m.silent() {
			m.emit(core.Emit{Name: "warning", ID: m.session.id, Why: string(wire.NoAnswer), Fields: map[string]any{"peer": m.ha.name,
				"err": "the home agent acknowledges, but never answered an echo through the tunnel: Binding Updates take their place"}})
			p.dead, p.next = false, m.now.Boot+updateProbe
			return
		}
		// The home agent could be reached, but not by a tunnel from there.
		m.nets.fail(&m.bind.careOf, &m.bind.careOf, m.now.Wall)
		m.nets.of(&m.bind.careOf).deaf++
	}
	m.emit(core.Emit{Name: "path", ID: m.session.id, From: "alive", To: "dead", Why: why, Fields: m.fields()})
	m.past("path dead", string(wire.NoAnswer), why)
	m.out = m.move.Suspect(m.now, m.bind.careOf.Addr, m.out)
	switch m.state {
	case refused, returning, stopping: // the home agent does not want us now, or the tunnel is not what is waited for
		return
	}
	m.endRace()
	m.evaluate("dead path")
	m.configure()
}

// silent says whether the home agent is taken for one that answers no echoes.
func (m *Machine) silent() bool { return !m.echoes && m.deaf >= echoless }

// filtered: the home agent is there, but packets of protocols 4 and 41 do not come through. Ask for UDP (RFC 5555 4.4.1).
func (m *Machine) filtered() {
	m.nets.judge(&m.bind.careOf, blocked, m.now.Wall)
	if !m.force(&m.bind.careOf) {
		m.path.verify = false
		m.died("plain framing is filtered, and UDP refused")
		m.path.next = m.now.Boot + m.cfg.Timers.DeadPath
		return
	}
	m.past("plain framing is filtered", string(wire.NoAnswer), m.bind.careOf.Addr.String())
	m.emit(core.Emit{Name: "path", ID: m.session.id, From: "ipv4", To: "udp", Why: "filtered", Fields: m.fields()})
	m.path.next = m.now.Boot + m.cfg.Timers.DeadPath
	m.path.verify = false
	m.requested("filtered")
}

// doubt is a sign from outside that the tunnel may not work: it is asked, at most once a second. Signs can be forged, so
// nothing else follows from one.
func (m *Machine) doubt() {
	p := &m.path
	if !m.bound() || p.next == 0 || p.dead || p.waiting || m.now.Boot < m.doubted+time.Second {
		return
	}
	m.doubted = m.now.Boot
	m.probeDue()
}

// resumed: the machine slept, or the process was stopped. NATs have forgotten, networks may be others.
func (m *Machine) resumed(slept time.Duration) {
	m.past("resumed", "", slept.Round(time.Second).String())
	m.emit(core.Emit{Name: "resumed", ID: m.session.id, Fields: map[string]any{"slept_ms": float64(slept) / 1e6}})
	if m.racing() {
		m.hasten()
	} else {
		m.requested("resumed")
	}
	if m.path.next > 0 {
		dead := m.path.dead
		m.path.restart(m)
		m.path.dead = dead
	}
}

// resume probes again after a time without, if there is a tunnel.
func (p *path) resume(m *Machine) {
	if m.bound() && m.session.up && p.next == 0 {
		p.restart(m)
	}
}
