package node

import (
	"fmt"
	"slices"

	"kedge/internal/core"
)

// state of the node's one registration.
//
//	starting --> detached <--> registering --> active <--> updating
//	                ^               ^  |          |            |
//	                |               |  v          |            |
//	                |            refused <--------+------------+
//	                v
//	            returning <--> home            any --> stopping --> stopped
//
// Between registering, active and updating on one side and returning on the other a node moves as it comes home and leaves.
type state uint8

const (
	starting    state = iota // the store has not told everything yet
	detached                 // no care-of address; a binding may still live
	registering              // a Binding Update is under way, and there is no binding
	active                   // the home agent forwards to where the node is
	updating                 // bound, and a Binding Update is under way: another care-of address, a refresh, a doubt
	refused                  // the home agent said no; tried again later
	returning                // on the home link, deregistration under way
	home                     // on the home link, without a binding
	stopping                 // told to end, deregistration under way
	stopped
)

var stateNames = [...]string{"starting", "detached", "registering", "active", "updating", "refused", "returning", "home", "stopping", "stopped"}

func (s state) String() string { return stateNames[s] }

// edges are the legal changes of state.
var edges = [...][]state{
	starting:    {detached, stopping, stopped},
	detached:    {registering, updating, refused, returning, stopping, stopped},
	registering: {active, detached, refused, returning, stopping, updating},
	active:      {updating, detached, registering, refused, returning, stopping},
	updating:    {active, detached, registering, refused, returning, stopping},
	refused:     {registering, updating, active, detached, returning, stopping, stopped},
	returning:   {home, detached, registering, updating, stopping},
	home:        {detached, registering, returning, updating, stopping, stopped},
	stopping:    {stopped},
	stopped:     {},
}

// setState is the only way the registration changes its state.
func (m *Machine) setState(to state, why string) {
	from := m.state
	if from == to {
		return
	}
	if !slices.Contains(edges[from], to) {
		if m.strict {
			panic(fmt.Sprintf("node: %v -> %v: %s", from, to, why))
		}
		m.counts["illegal-transition"]++
	}
	m.state, m.stateAt, m.stateSince = to, m.now.Boot, m.now.Wall
	m.emit(core.Emit{Name: "session", ID: m.session.id, From: from.String(), To: to.String(), Why: why, Fields: m.fields()})
	m.past(from.String()+" -> "+to.String(), "", why)
}

// fields say where the node is.
func (m *Machine) fields() map[string]any {
	f := map[string]any{"role": "node", "hoa": m.hoa().String(), "peer": m.ha.name, "dialect": string(m.cfg.Anchor.Dialect)}
	if m.cfg.ID != "" {
		f["sub"] = m.cfg.ID
	}
	if m.bound() {
		f["coa"], f["encap"] = m.bind.careOf.Addr.String(), m.bind.framing.String()
		f["if"], f["seq"], f["lifetime_s"] = m.bind.careOf.Link, m.bind.seq, int(m.bind.lifetime.Seconds())
		if len(m.behind) > 0 {
			f["networks"] = m.behind
		}
		if m.bind.ipv4.IsValid() {
			f["hoa4"] = m.bind.ipv4.String()
		}
	}
	return f
}

func (m *Machine) emit(e core.Emit) { m.out = append(m.out, e) }
