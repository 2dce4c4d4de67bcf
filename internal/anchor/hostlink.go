package anchor

import (
	"net/netip"
	"slices"

	"kedge/internal/access"
	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// On a real home link the home agent tests an address before it serves it, and answers for it afterwards (RFC 6275 10.3.1,
// 10.4.1, RFC 5555 4.5).

// detection is the requests that wait for duplicate address detection.
type detection struct {
	byHome   map[netip.Addr]*detected
	byTarget map[netip.Addr][]*detected
	locals   map[netip.Addr]core.ID // link-local addresses that are defended, and for whom
}

// detected is a request that waits.
type detected struct {
	hostRequest
	id   core.ID
	left []netip.Addr // addresses whose test goes on

	tested []netip.Addr
}

func newDetection() detection {
	return detection{byHome: make(map[netip.Addr]*detected), byTarget: make(map[netip.Addr][]*detected), locals: make(map[netip.Addr]core.ID)}
}

func (m *Machine) onHomeLink(d core.Domain) bool { return m.cfg.HomeLink != "" && d == 0 }

// detectDuplicates holds a request back until its addresses are known to be unique, "unless this home agent already has a
// binding"; false: there is nothing to wait for. A newer request takes the place of one that waits, and not its time.
func (m *Machine) detectDuplicates(r *hostRequest) bool {
	d := &m.hosts.detect
	if q := d.byHome[r.Home]; q != nil {
		switch {
		case q.newer(r):
			m.refuseHost(r, &homeagent.Refusal{Silent: true, Reason: wire.SequenceOld, Detail: "a copy of what waits for the detection of duplicates, or older"})
		default:
			q.hostRequest = *r
			m.detectLocal(q)
		}
		return true
	}
	if f := m.localTaken(r); f != nil {
		m.refuseHost(r, f)
		return true
	}
	if m.hosts.link == nil || !m.onHomeLink(r.profile.Domain) || r.have != nil && r.have.State == binding.Active {
		return false
	}
	targets := []netip.Addr{r.Home}
	if r.Flags&mobility.BULinkLocal != 0 {
		targets = append(targets, homeagent.LinkLocal(r.Home))
	}
	if r.peer.waiting >= m.cfg.Limits.PendingPerPeer {
		m.refuseHost(r, &homeagent.Refusal{Status: mobility.InsufficientResources, Reason: wire.PendingLimit})
		return true
	}
	q := &detected{hostRequest: *r}
	for _, a := range targets {
		if m.hosts.link.Probe(m.now, a) {
			q.left = append(q.left, a)
			d.byTarget[a] = append(d.byTarget[a], q)
		}
	}
	if len(q.left) == 0 {
		return false
	}
	q.id = m.store.newID()
	d.byHome[r.Home] = q
	r.peer.waiting++
	m.transition(q.id, binding.None, binding.Pending, "waits", m.hostFields(r, nil))
	m.transmit()
	return true
}

// detectLocal tests the link-local address too when a newer request asks for it.
func (m *Machine) detectLocal(q *detected) {
	d, ll := &m.hosts.detect, homeagent.LinkLocal(q.Home)
	if q.Flags&mobility.BULinkLocal == 0 || slices.Contains(q.left, ll) || slices.Contains(q.tested, ll) {
		return
	}
	if m.hosts.link.Probe(m.now, ll) {
		q.left = append(q.left, ll)
		d.byTarget[ll] = append(d.byTarget[ll], q)
		m.transmit()
	}
}

// newer says whether what waits is as new as another request of its node, or newer.
func (q *detected) newer(r *hostRequest) bool {
	if r.HasMessageID {
		return r.MessageID <= q.MessageID
	}
	return !mobility.Newer(r.Sequence, q.Sequence)
}

// behindDetected says whether a request is older than what waits: it came late, and must not end that.
func (m *Machine) behindDetected(r *hostRequest) bool {
	q := m.hosts.detect.byHome[r.Home]
	return q != nil && q.newer(r)
}

// localTaken refuses a request with flag L whose link-local address is defended for another node.
func (m *Machine) localTaken(r *hostRequest) *homeagent.Refusal {
	if r.Flags&mobility.BULinkLocal == 0 || !m.onHomeLink(r.profile.Domain) {
		return nil
	}
	ll := homeagent.LinkLocal(r.Home)
	if id, taken := m.hosts.detect.locals[ll]; taken && (r.have == nil || r.have.ID != id) {
		return duplicate(ll, "another node here has it")
	}
	return nil
}

func duplicate(a netip.Addr, detail string) *homeagent.Refusal {
	return &homeagent.Refusal{Status: mobility.DADFailed, Reason: wire.DuplicateAddress, Detail: a.String() + ": " + detail}
}

// forget drops a request that waits. Addresses that nobody else waits for are not tested any more.
func (d *detection) forget(m *Machine, q *detected, why string) {
	delete(d.byHome, q.Home)
	q.peer.waiting--
	for _, a := range q.left {
		rest := slices.DeleteFunc(d.byTarget[a], func(o *detected) bool { return o == q })
		if len(rest) > 0 {
			d.byTarget[a] = rest
			continue
		}
		delete(d.byTarget, a)
		m.hosts.link.Yield(a)
	}
	m.transition(q.id, binding.Pending, binding.None, why, m.hostFields(&q.hostRequest, nil))
}

// forgetDetection drops what waits when its node deregisters.
func (m *Machine) forgetDetection(r *hostRequest) {
	if q := m.hosts.detect.byHome[r.Home]; q != nil {
		m.hosts.detect.forget(m, q, "replaced")
	}
}

// tickLink does what is due on the home link.
func (m *Machine) tickLink() {
	l := m.hosts.link
	if l == nil {
		return
	}
	for _, a := range l.Tick(m.now) {
		waiting := m.hosts.detect.byTarget[a]
		delete(m.hosts.detect.byTarget, a)
		for _, q := range waiting {
			q.tested = append(q.tested, a)
			if q.left = slices.DeleteFunc(q.left, func(o netip.Addr) bool { return o == a }); len(q.left) == 0 {
				m.unique(q)
			}
		}
	}
	m.transmit()
}

// unique goes on with a request whose addresses nobody else has. What it was held against may have changed since.
func (m *Machine) unique(q *detected) {
	m.hosts.detect.forget(m, q, "unique")
	r := &q.hostRequest
	f := m.examineHost(r)
	if f == nil { // two that waited may have the same link-local address
		f = m.localTaken(r)
	}
	if f != nil {
		m.refuseHost(r, f)
		return
	}
	m.registerHost(r)
}

// frame takes a frame of the home link.
func (m *Machine) frame(f *access.Frame) {
	l := m.hosts.link
	if l == nil {
		return
	}
	m.discoveryFrame(f)
	c, ok := l.Handle(m.now, f)
	if !ok {
		return
	}
	m.refused[wire.DuplicateAddress]++
	if c.Probing {
		waiting := m.hosts.detect.byTarget[c.Addr]
		delete(m.hosts.detect.byTarget, c.Addr)
		for _, q := range waiting {
			m.hosts.detect.forget(m, q, string(wire.DuplicateAddress))
			m.refuseHost(&q.hostRequest, duplicate(c.Addr, c.MAC.String()+" has it"))
		}
	} else if h := m.hosts.table.ByHome(0, netip.PrefixFrom(c.Addr, c.Addr.BitLen())); c.Over && h != nil && h.State == binding.Active {
		m.emit(core.Emit{Name: "conflict", ID: h.ID, Why: string(wire.DuplicateAddress), Fields: Fields{HoA: c.Addr, Detail: c.MAC.String() + " has it since an earlier run"}})
		m.removeHost(h, string(wire.DuplicateAddress), true)
	} else {
		m.emit(core.Emit{Name: "conflict", Why: string(wire.DuplicateAddress), Fields: Fields{HoA: c.Addr, Detail: c.MAC.String() + " claims it"}})
	}
	m.transmit()
}

// transmit sends the frames that the link wants to.
func (m *Machine) transmit() {
	for _, f := range m.hosts.link.Frames() {
		m.effect(core.Send{Path: core.Path{If: m.cfg.HomePort.If}, Body: f})
	}
}

// keysOnLink lists what is defended for a registration on the home link: its addresses and mobile networks, and its link-local
// address with flag L.
func (m *Machine) keysOnLink(h *homeagent.Registration) []netip.Prefix {
	keys := h.Keys()
	if h.Both {
		keys = append(keys, netip.PrefixFrom(h.LinkLocal(), 128))
	}
	return keys
}

// defendHost starts or stops answering for addresses of a registration.
func (m *Machine) defendHost(h *homeagent.Registration, keys []netip.Prefix, stop bool) {
	if !m.onHomeLink(h.Domain) {
		return
	}
	for _, k := range keys {
		if k.Addr().IsLinkLocalUnicast() {
			if stop {
				delete(m.hosts.detect.locals, k.Addr())
			} else {
				m.hosts.detect.locals[k.Addr()] = h.ID
			}
		}
	}
	networks := slices.DeleteFunc(slices.Clone(keys), func(k netip.Prefix) bool { return !m.isNetwork(h.Node, k) })
	m.leadNetworks(h, networks, stop)
	m.defend(h.Domain, without(keys, networks), stop)
}

// doubt says whether the home addresses of a registration are given up when somebody else on the home link claims them: those of an
// earlier run, until their node has registered again.
func (m *Machine) doubt(h *homeagent.Registration, yes bool) {
	if m.hosts.link == nil || !m.onHomeLink(h.Domain) {
		return
	}
	for _, k := range h.Keys() {
		m.hosts.link.Doubt(k.Addr(), yes)
	}
}
