package anchor

import (
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
)

// Fields go with every Emit of an anchor, under their log keys. Names of events: "session" (of either kind; From, To: states of
// package binding; Why: new, handoff, changed, returned, deregistered, partly-deregistered, expired,
// delay-over, waits, replaced, revoked, still-attached, max-delay-over, unique, duplicate-address, undone), "refused" (a request that was answered with an error or ignored; Why: a
// wire.Reason), "message-ignored" (it got no answer), "dropped" (a packet, told by the data plane), "peer" (a gateway's liveness and what it understands), "conflict" (somebody on the home link claims an address that is defended), "refresh-request", "revocation" (To: sent, not-sent, done,
// refused, unanswered), "retransmit", "store", "failed" (an effect).
type Fields struct {
	Sub      string         `json:"sub,omitempty"` // MN-Identifier
	Peer     string         `json:"peer,omitempty"`
	ProxyCoA netip.Addr     `json:"proxy_coa,omitzero"`
	Former   netip.Addr     `json:"former_coa,omitzero"` // of a handoff
	CareOf   netip.Addr     `json:"coa,omitzero"`        // of a node that registered by itself
	NAT      bool           `json:"nat,omitempty"`
	HoA      netip.Addr     `json:"hoa,omitzero"`
	V4       []netip.Prefix `json:"v4,omitempty"` // IPv4 home addresses beside an IPv6 one
	HNP      []netip.Prefix `json:"hnp,omitempty"`
	Networks []netip.Prefix `json:"networks,omitempty"` // of a mobile router, IPv6
	Seq      uint16         `json:"seq,omitempty"`
	Lifetime int            `json:"lifetime_s,omitempty"`
	Status   uint8          `json:"status,omitempty"`
	Dialect  string         `json:"dialect,omitempty"`
	ATT      uint8          `json:"att,omitempty"`
	Handoff  uint8          `json:"handoff,omitempty"`
	Rule     string         `json:"rule,omitempty"` // of the existence test
	Reason   string         `json:"reason,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Err      string         `json:"err,omitempty"`
}

// fieldsOf describes a session.
func (m *Machine) fieldsOf(i binding.Index) Fields {
	e, h := m.cache.At(i), m.cache.Homes(i)
	f := Fields{
		Sub: m.cache.Node(i), Peer: m.peerName(addr(e.CareOf)), ProxyCoA: addr(e.CareOf), HNP: h.Prefixes, Seq: e.Sequence,
		Lifetime: seconds(e.Lifetime), Dialect: Dialect(e.Dialect).String(), ATT: e.ATT, Handoff: e.Handoff,
	}
	if h.V4.IsValid() {
		f.HoA = h.V4.Addr()
	}
	return f
}

func addr(a [16]byte) netip.Addr { return netip.AddrFrom16(a).Unmap() }

func seconds(units uint16) int { return int(units) * 4 }

func lifetime(units uint16) time.Duration { return time.Duration(units) * 4 * time.Second }

// edges are the legal changes of a session's state.
var edges = [4][4]bool{
	binding.None:       {binding.Active: true, binding.Pending: true, binding.Deprecated: true}, // the last by restoring
	binding.Pending:    {binding.None: true},                                                    // what it became has an id of its own
	binding.Active:     {binding.Active: true, binding.Deprecated: true, binding.None: true},
	binding.Deprecated: {binding.Active: true, binding.Deprecated: true, binding.None: true}, // to itself: undone
}

// illegal says what an impossible change of state does: tests make it panic.
var illegal = func(m *Machine, from, to binding.State, why string) {
	m.refused["illegal-transition"]++
	m.emit(core.Emit{Name: "failed", From: from.String(), To: to.String(), Why: "illegal-transition", Fields: Fields{Detail: why}})
}

// transition is the only place where the state of a session or of a request that waits changes; it says so. False: the
// edge does not exist and nothing may change.
func (m *Machine) transition(id core.ID, from, to binding.State, why string, f Fields) bool {
	if !edges[from][to] {
		illegal(m, from, to, why)
		return false
	}
	m.count[from]--
	m.count[to]++
	m.emit(core.Emit{Name: "session", ID: id, From: from.String(), To: to.String(), Why: why, Fields: f})
	p := past{when: m.now.Wall, sub: f.Sub, what: why, from: from, to: to, coa: f.ProxyCoA, seq: f.Seq, detail: f.Detail, rule: f.Rule}
	if f.CareOf.IsValid() {
		p.coa, p.host = f.CareOf, true
	}
	m.past.add(p)
	return true
}

// setState is transition for a session. former is the care-of address it had, rule what the existence test said.
func (m *Machine) setState(i binding.Index, to binding.State, why string, former netip.Addr, rule string) {
	e := m.cache.At(i)
	f := m.fieldsOf(i)
	f.Former, f.Rule = former, rule
	if m.transition(e.ID, e.State, to, why, f) {
		e.State = to
	}
}

// peerName is the config's name of a gateway.
func (m *Machine) peerName(a netip.Addr) string {
	if p := m.peers.find(a); p != nil {
		return p.Name
	}
	return ""
}
