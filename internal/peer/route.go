package peer

import (
	"fmt"
	"net/netip"

	"kedge/internal/core"
)

// The host's own packets to a home address must get to the data plane, but only those from the address that the binding is for:
// another one of this host has none, and its packets go by the home agent as ever. So each own address has a routing table, and a
// policy rule by source. A socket that has no source address yet is shown a table of all home addresses, whose routes say which one
// to take:
//
//	10690  from OWN lookup T(OWN)         home addresses bound for OWN
//	10691  from ::/1 goto 10693           whoever has a source, but none of those
//	10691  from 8000::/1 goto 10693
//	10692  lookup T                       home addresses, with the source to take
//	10693  lookup T+1                     an empty table
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
	table  int // T; T+1 is empty, T+2 on are those of own addresses
	mine   bool
	own    map[netip.Addr]*ownRoutes
	taken  [MaxOwn]bool
	homes  map[netip.Addr][]netip.Addr // own addresses of each home address; the first is the one to take
}

type ownRoutes struct{ slot, bindings int }

func newRoutes(cfg *Config) routes {
	return routes{
		device: cfg.Device, table: cfg.Table, mine: cfg.Forward == nil,
		own: make(map[netip.Addr]*ownRoutes), homes: make(map[netip.Addr][]netip.Addr),
	}
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
		r.rule(everywhere, r.table+1, ruleEnd, "", del),
		r.rule(halves[0], 0, ruleSkip, jump, del), r.rule(halves[1], 0, ruleSkip, jump, del),
		r.rule(everywhere, r.table, ruleAny, "", del))
}

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
		ops = append(ops, r.rule(single(k.own), r.table+2+o.slot, ruleOwn, "", false))
	}
	o.bindings++
	ops = append(ops, r.to(k.home, k.own, r.table+2+o.slot, false))
	if r.homes[k.home] = append(r.homes[k.home], k.own); len(r.homes[k.home]) == 1 {
		ops = append(ops, r.to(k.home, k.own, r.table, false))
	}
	return ops
}

// remove takes it back.
func (r *routes) remove(k key) (ops []core.HostOp) {
	o := r.own[k.own]
	ops = append(ops, r.to(k.home, k.own, r.table+2+o.slot, true))
	list := r.homes[k.home]
	for i, own := range list {
		if own != k.own {
			continue
		}
		list = append(list[:i:i], list[i+1:]...)
		if i == 0 {
			ops = append(ops, r.to(k.home, k.own, r.table, true))
			if len(list) > 0 {
				ops = append(ops, r.to(k.home, list[0], r.table, false))
			}
		}
		break
	}
	if r.homes[k.home] = list; len(list) == 0 {
		delete(r.homes, k.home)
	}
	if o.bindings--; o.bindings == 0 {
		delete(r.own, k.own)
		r.taken[o.slot] = false
		ops = append(ops, r.rule(single(k.own), r.table+2+o.slot, ruleOwn, "", true))
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
