package peer

import (
	"fmt"
	"net/netip"

	"kedge/internal/core"
)

// The host's own packets to a home address must get to the data plane, but only those from the address that the binding is for:
// another one of this host has none, and its packets go by the home agent as ever. So each own address has a routing table, and a
// policy rule by source. A socket that has no source address yet is shown all these tables, whose routes say which one to take:
//
//	10690  from OWN lookup T(OWN)         home addresses bound for OWN
//	10691  from ::/1 goto 10693           whoever has a source, but none of those
//	10691  from 8000::/1 goto 10693
//	10692  lookup T(OWN)                  for each, in the order of their first bindings
//	10693  lookup T                       an empty table
//
// Both ways lead to one and the same route: what Packet Too Big says of the path is kept beside a route, and a socket that got its
// route before its source would never hear of it from another one.
const (
	ruleOwn  = 10690
	ruleSkip = 10691
	ruleAny  = 10692
	ruleEnd  = 10693
)

var halves = [2]netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}
var everywhere = netip.MustParsePrefix("::/0")

// routes is what of that is set on the host.
type routes struct {
	device string
	table  int // T is empty, T+1 on are those of own addresses
	mine   bool
	own    map[netip.Addr]*ownRoutes
	taken  [MaxOwn]bool
}

type ownRoutes struct{ slot, bindings int }

func newRoutes(cfg *Config) routes {
	return routes{device: cfg.Device, table: cfg.Table, mine: cfg.Forward == nil, own: make(map[netip.Addr]*ownRoutes)}
}

// fits says whether an own address can have a table.
func (r *routes) fits(own netip.Addr) bool {
	return !r.mine || r.own[own] != nil || len(r.own) < MaxOwn
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (r *routes) rule(p netip.Prefix, table, prio int, what string, del bool) core.HostOp {
	return core.HostOp{Kind: "rule", Prefix: p, Table: table, Value: fmt.Sprintf("from priority %d%s", prio, what), Del: del}
}

func (r *routes) frame(ops []core.HostOp, del bool) []core.HostOp {
	jump := fmt.Sprintf(" goto %d", ruleEnd)
	return append(ops,
		r.rule(everywhere, r.table, ruleEnd, "", del),
		r.rule(halves[0], 0, ruleSkip, jump, del), r.rule(halves[1], 0, ruleSkip, jump, del))
}

// rules lead packets of an own address, and of sockets without one, into its table.
func (r *routes) rules(own netip.Addr, o *ownRoutes, del bool) []core.HostOp {
	return []core.HostOp{r.rule(single(own), r.tableOf(o), ruleOwn, "", del), r.rule(everywhere, r.tableOf(o), ruleAny, "", del)}
}

func (r *routes) tableOf(o *ownRoutes) int { return r.table + 1 + o.slot }

func (r *routes) to(home, src netip.Addr, table int, del bool) core.HostOp {
	return core.HostOp{Kind: "route", Prefix: single(home), Name: r.device, Src: src, Table: table, Del: del}
}

// add leads packets of a new binding to the data plane.
func (r *routes) add(k key) (ops []core.HostOp) {
	if len(r.own) == 0 {
		ops = r.frame(ops, false)
	}
	o := r.own[k.own]
	if o == nil {
		o = &ownRoutes{}
		for r.taken[o.slot] {
			o.slot++
		}
		r.taken[o.slot], r.own[k.own] = true, o
		ops = append(ops, r.rules(k.own, o, false)...)
	}
	o.bindings++
	return append(ops, r.to(k.home, k.own, r.tableOf(o), false))
}

// remove takes it back.
func (r *routes) remove(k key) (ops []core.HostOp) {
	o := r.own[k.own]
	ops = append(ops, r.to(k.home, k.own, r.tableOf(o), true))
	if o.bindings--; o.bindings == 0 {
		delete(r.own, k.own)
		r.taken[o.slot] = false
		ops = append(ops, r.rules(k.own, o, true)...)
	}
	if len(r.own) == 0 {
		ops = r.frame(ops, true)
	}
	return ops
}

// forward has the data plane follow a binding: new, moved from before, or gone.
func (m *Machine) forward(e *entry, before netip.Addr) {
	if m.cfg.Forward != nil {
		m.out = append(m.out, m.cfg.Forward(e.binding())...)
		return
	}
	if !e.live() {
		m.out = append(m.out, core.Change{Ops: m.routes.remove(e.key)}, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
		return
	}
	set := core.SetSession{ID: e.id, Chain: core.Chain{RO: 1}}
	set.Chain.Layer[0] = core.Layer{Local: netip.AddrPortFrom(e.key.own, 0), Remote: netip.AddrPortFrom(e.careOf, 0)}
	if before.IsValid() {
		set.Grace = m.cfg.Grace
		m.out = append(m.out, core.Forward{Ops: []core.Op{set}, Ref: core.Ref(e.id)})
		return
	}
	m.out = append(m.out, core.Forward{Ref: core.Ref(e.id), Ops: []core.Op{set, core.SetKey{
		Match: core.Match{Dst: single(e.key.home), Src: single(e.key.own)}, ID: e.id, Up: true, Down: true,
	}}}, core.Change{Ops: m.routes.add(e.key), Ref: core.Ref(e.id)})
}
