package movement

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"kedge/internal/core"
)

// hostState is what the kernel was told. After each event the machine writes down what should be (want), compares it with
// what it has told (have), and tells the difference: so nothing that was set is ever left behind, whatever way an address or
// a link goes.
type hostState struct {
	have    map[opKey]core.HostOp
	sure    map[opKey]bool      // the host has answered that it did it
	pending map[core.Ref][]told // not answered yet
	newest  map[opKey]core.Ref  // of those, the last that concerns an object: answers to others are of the past
	ref     core.Ref
	retryAt time.Duration
	again   time.Duration // how long the next retry waits
	bad     map[opKey]bool
}

// told is an operation that the host was told, and what was there before.
type told struct {
	op, before core.HostOp
	had        bool
}

// opKey names the object of an operation.
type opKey struct {
	kind   string
	ifi    int
	prefix netip.Prefix
	table  int
	name   string
}

const (
	retryFirst = time.Second
	retryMax   = 30 * time.Second
	maxPending = 1024 // answers that are waited for; the oldest is taken for a success
)

func (h *hostState) init() {
	h.have, h.pending = make(map[opKey]core.HostOp), make(map[core.Ref][]told)
	h.newest = make(map[opKey]core.Ref)
	h.sure, h.bad = make(map[opKey]bool), make(map[opKey]bool)
	h.ref, h.retryAt, h.again = refBase, never, retryFirst
}

func keyOf(op core.HostOp) opKey {
	k := opKey{kind: op.Kind, ifi: op.If, prefix: op.Prefix, table: op.Table}
	switch op.Kind {
	case "sysctl":
		k.name = op.Name
	case "route":
		k.ifi = 0 // one of a prefix in a table
	}
	return k
}

// Addresses and routes go by the index of their link: its name may change between two operations.

// rank orders operations: an address before the routes that need it, the rule when its table is complete.
func rank(op core.HostOp) int {
	switch op.Kind {
	case "sysctl":
		return 0
	case "address":
		return 1
	case "route":
		if op.Prefix.Bits() > 0 {
			return 2 // before the default route, whose next hop they reach
		}
		return 3
	}
	return 4
}

func compareOps(a, b core.HostOp) int {
	return cmp.Or(rank(a)-rank(b), cmp.Compare(a.Table, b.Table), cmp.Compare(a.If, b.If), a.Prefix.Addr().Compare(b.Prefix.Addr()),
		cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()), cmp.Compare(a.Name, b.Name))
}

// reconcile tells the kernel what differs from what should be. Each address, and the settings of each link, are a Change of
// their own: one that the kernel refuses does not hold up the others.
func (m *Machine) reconcile() {
	h := &m.host
	if m.now.Boot >= h.retryAt {
		h.retryAt = never
		clear(h.bad)
	}
	want := make(map[opKey]core.HostOp)
	groups := m.desired()
	for _, g := range groups {
		for _, op := range g {
			want[keyOf(op)] = op
		}
	}
	var gone []core.HostOp
	for k, op := range h.have {
		if _, ok := want[k]; !ok && !h.bad[k] {
			op.Del = true
			gone = append(gone, op)
		}
	}
	slices.SortFunc(gone, func(a, b core.HostOp) int { return compareOps(b, a) })
	m.change(gone)
	for _, g := range groups {
		var ops []core.HostOp
		for _, op := range g {
			k := keyOf(op)
			_, waits := h.newest[k]
			if have, ok := h.have[k]; h.bad[k] || ok && have == op && (h.sure[k] || waits) {
				continue
			}
			ops = append(ops, op)
		}
		slices.SortFunc(ops, compareOps)
		m.change(ops)
	}
}

// change tells the kernel, and takes it as done unless the answer says otherwise.
func (m *Machine) change(ops []core.HostOp) {
	if len(ops) == 0 {
		return
	}
	h := &m.host
	h.ref++
	pending := make([]told, 0, len(ops))
	for _, op := range ops {
		k := keyOf(op)
		before, had := h.have[k]
		pending = append(pending, told{op, before, had})
		h.newest[k] = h.ref
		if op.Del {
			h.forget(k)
		} else { // one that is replaced, as a route by another router, works meanwhile
			h.have[k] = op
		}
	}
	h.pending[h.ref] = pending
	if old := h.ref - maxPending; h.pending[old] != nil {
		m.done(core.Done{Ref: old})
	}
	m.out = append(m.out, core.Change{Ops: ops, Ref: h.ref})
}

// done takes the kernel's answer. What it refused is tried again later: the reason may pass, as IPv6 being off on a link.
func (m *Machine) done(d core.Done) {
	h := &m.host
	ops, ok := h.pending[d.Ref]
	if !ok {
		return
	}
	delete(h.pending, d.Ref)
	at := 0
	var oe *core.OpError
	if d.Err == nil {
		at = len(ops)
	} else if errors.As(d.Err, &oe) && oe.Index < len(ops) {
		at = oe.Index
	}
	for i, x := range ops {
		k := keyOf(x.op)
		if h.newest[k] != d.Ref {
			continue
		}
		delete(h.newest, k)
		if i < at {
			if !x.op.Del && h.have[k] == x.op {
				h.sure[k] = true
			}
			continue
		}
		// What was there is there still, as far as is known.
		h.forget(k)
		if x.had {
			h.have[k] = x.before
		}
		h.bad[k] = true
	}
	if d.Err == nil {
		if len(h.bad) == 0 {
			h.again = retryFirst
		}
		return
	}
	if h.retryAt == never {
		h.retryAt = m.now.Boot + h.again
		h.again = min(2*h.again, retryMax)
	}
	m.emit(core.Emit{Name: "failed", Why: "the host refused a change", Fields: map[string]any{"err": d.Err.Error()}})
}

// desired is what the kernel should hold, a group for each thing that stands by itself.
func (m *Machine) desired() (groups [][]core.HostOp) {
	if m.closed {
		return nil
	}
	for _, ifi := range m.order {
		l := m.links[ifi]
		if l.wants6() {
			groups = append(groups, m.settings(l))
		}
		if !l.admin { // the kernel refuses
			for _, x := range l.addrs {
				x.way = false
			}
			continue
		}
		for _, x := range l.addrs {
			way := m.wayOf(x)
			x.way = !slices.ContainsFunc(way, func(op core.HostOp) bool { return !m.host.sure[keyOf(op)] })
			groups = append(groups, way)
		}
	}
	if h := &m.home; h.l != nil && h.claimed && h.l.admin {
		groups = append(groups, m.homeOps())
	}
	return groups
}

// settings of a managed link: the kernel leaves addresses and routers to us. addr_gen_mode stays, because the kernel makes
// the link-local address.
func (m *Machine) settings(l *link) []core.HostOp {
	set := func(name string, value int) core.HostOp {
		return core.HostOp{Kind: "sysctl", Name: "net/ipv6/conf/" + l.name + "/" + name, Value: strconv.Itoa(value)}
	}
	ops := []core.HostOp{set("accept_ra", 0), set("autoconf", 0)}
	if !m.cfg.NoOptimistic {
		ops = append(ops, set("optimistic_dad", 1), set("use_optimistic", 1))
	}
	if m.cfg.Router {
		ops = append(ops, set("forwarding", 0))
	}
	if l.hopLimit != 0 {
		ops = append(ops, set("hop_limit", int(l.hopLimit)))
	}
	return ops
}

// wayOf is an address, its table and its rule. The way stays while the router is being asked or is thought to be dead: it is
// only not offered then.
func (m *Machine) wayOf(x *addr) (ops []core.HostOp) {
	l := x.l
	if x.state == duplicate {
		return nil
	}
	if x.formed {
		ops = append(ops, core.HostOp{Kind: "address", If: l.ifi, Prefix: netip.PrefixFrom(x.a, x.p.Bits()), Value: x.flags})
	}
	if x.router == nil && !x.direct {
		return ops
	}
	route := func(p netip.Prefix, via netip.Addr) core.HostOp {
		return core.HostOp{Kind: "route", If: l.ifi, Prefix: p.Masked(), Via: via, Table: x.table}
	}
	def := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if x.a.Is4() {
		def = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	} else {
		ops = append(ops, route(netip.MustParsePrefix("fe80::/64"), netip.Addr{}))
	}
	if x.p.Bits() < x.a.BitLen() && (x.from == nil || x.from.onLink) {
		ops = append(ops, route(x.p, netip.Addr{}))
	}
	var via netip.Addr
	if x.router != nil {
		via = x.router.addr
		if x.a.Is4() && !x.p.Contains(via) {
			ops = append(ops, route(netip.PrefixFrom(via, 32), netip.Addr{}))
		}
	}
	d := route(def, via)
	if x.a.Is6() && l.effectiveMTU() < l.mtu {
		d.MTU = l.effectiveMTU()
	}
	return append(ops, d, core.HostOp{Kind: "rule", Prefix: netip.PrefixFrom(x.a, x.a.BitLen()), Table: x.table})
}

// flags of an address that we form. The kernel adds the route to what is on the link to the main table by itself. They are
// settled when the address is formed: who sets others later begins its test anew.
func (m *Machine) flags(x *addr, there bool) string {
	var words []string
	switch {
	case m.cfg.NoOptimistic:
		words = append(words, "nodad")
	case there: // from before a restart
	case slices.ContainsFunc(x.from.by, func(v via) bool { return v.r.sll }):
		words = append(words, "optimistic") // RFC 4429 3.3: not without the router's link-layer address
	}
	if !x.from.onLink {
		words = append(words, "noprefixroute")
	}
	return strings.Join(words, " ")
}

// homeOps are the home addresses on the home link, and the way out of it.
func (m *Machine) homeOps() (ops []core.HostOp) {
	h := &m.home
	for _, p := range h.addrs {
		a := p.Addr()
		value := "noprefixroute"
		if a.Is6() {
			value = "nodad noprefixroute" // RFC 6275 11.5.5: no duplicate address detection while a binding was there
		}
		ops = append(ops, core.HostOp{Kind: "address", If: h.l.ifi, Prefix: p, Value: value})
		if m.cfg.HomeTable == 0 || !h.routes {
			continue
		}
		if p.Bits() < a.BitLen() {
			ops = append(ops, core.HostOp{Kind: "route", If: h.l.ifi, Prefix: p.Masked(), Table: m.cfg.HomeTable})
		}
		if via, ok := m.homeRouter(a.Is4()); ok {
			def := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			if a.Is4() {
				def = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
			ops = append(ops, core.HostOp{Kind: "route", If: h.l.ifi, Prefix: def, Via: via, Table: m.cfg.HomeTable, Src: a})
		}
	}
	return ops
}

// homeRouter is the router of a family on the home link: the one of an address that is offered there, else any.
func (m *Machine) homeRouter(v4 bool) (netip.Addr, bool) {
	var best *router
	for _, r := range m.home.l.routers {
		if r.is4() == v4 && (best == nil || better(r, best)) {
			best = r
		}
	}
	if best == nil {
		if v4 {
			return m.cfg.HomeRouter4, m.cfg.HomeRouter4.IsValid()
		}
		return netip.Addr{}, false
	}
	return best.addr, true
}

// forget: what is wanted of it is to be set again.
func (h *hostState) forget(k opKey) {
	delete(h.have, k)
	delete(h.sure, k)
}

// doubtRoutes: the link was set down, and its routes went. They are told again, or taken back: what was told and is not taken back
// the host keeps.
func (h *hostState) doubtRoutes(l *link) {
	for k, op := range h.have {
		if op.If == l.ifi && (op.Kind == "route" || op.Kind == "address" && op.Prefix.Addr().Is6()) {
			delete(h.sure, k)
		}
	}
}

// forgetLink: an interface went with everything on it. Rules are of no interface and are removed.
func (h *hostState) forgetLink(l *link) {
	for k, op := range h.have {
		if op.If == l.ifi && op.Kind != "rule" || op.Kind == "sysctl" && strings.HasPrefix(op.Name, "net/ipv6/conf/"+l.name+"/") {
			h.forget(k)
		}
	}
}

// disown leaves the default routes of a table to somebody else.
func (h *hostState) disown(table int) {
	for k, op := range h.have {
		if table != 0 && op.Table == table && op.Kind == "route" && op.Prefix.Bits() == 0 {
			h.forget(k)
		}
	}
}

// removeAll makes room for what Close wants: nothing.
func (m *Machine) removeAll() {
	clear(m.host.bad)
	m.home = homeState{next: never}
	m.reconcile()
}

// readHeld takes the flags of an address from the watch. Value has them by word; Tentative alone, without them, is what a
// watch says that knows no more.
func readHeld(c *core.HostChanged) held {
	h := held{p: c.Op.Prefix, tentative: c.Tentative}
	for w := range strings.FieldsSeq(c.Op.Value) {
		switch w {
		case "optimistic":
			h.optimistic = true
		case "dadfailed", "failed":
			h.failed = true
		case "tentative":
			h.tentative = true
		}
	}
	if h.optimistic && !h.failed {
		h.tentative = false // the kernel sets both flags
	}
	return h
}
