package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
)

// Rules of policy routing, in the order in which the kernel looks. Those of package movement, from a care-of address to the
// table of its link, stand between the first two (system.RulePriority).
const (
	prioHome   = 10690 // from a home address: the home table
	prioDirect = 10710 // to what never goes through the tunnel: the table of a care-of address
	prioLink   = 10720 // everything: the main table without its default routes, so what is on a link stays there
	prioPrefer = 10730 // everything else: the home table, whose routes prefer the home addresses
)

const dnsPort = 53

// hostState compares what the host should have with what it was told.
type hostState struct {
	set     map[string]core.HostOp // as told, by name
	order   []string               // of set, in the order of telling
	pending map[core.Ref]string    // names of what waits for its result
	failed  map[string]bool        // told once
	ref     core.Ref
	retryAt time.Duration // never = nothing failed
	backoff time.Duration
}

// name tells the things of the host apart; setting one again replaces it.
func name(op *core.HostOp) string {
	if op.Kind == "rule" {
		return fmt.Sprint(op.Kind, op.Prefix, op.Table, op.Name, op.Value)
	}
	return fmt.Sprint(op.Kind, op.Prefix, op.Table, op.Name)
}

// configure brings the host to what the state of the node wants.
func (m *Machine) configure() {
	if m.state == stopped { // what was taken back stays so, whatever is told of links
		return
	}
	m.serve()
	h := &m.host
	want := m.desired()
	names := make(map[string]bool, len(want))
	for i := range want {
		n := name(&want[i])
		names[n] = true
		if have, ok := h.set[n]; ok && have == want[i] {
			continue
		}
		if _, ok := h.set[n]; !ok {
			h.order = append(h.order, n)
		}
		h.set[n] = want[i]
		m.change(n, want[i])
	}
	for i := len(h.order) - 1; i >= 0; i-- {
		if n := h.order[i]; !names[n] {
			m.remove(i)
		}
	}
}

// unconfigure removes everything, the newest first.
func (m *Machine) unconfigure() {
	for i := len(m.host.order) - 1; i >= 0; i-- {
		m.remove(i)
	}
}

func (m *Machine) remove(i int) {
	h := &m.host
	n := h.order[i]
	op := h.set[n]
	h.order = slices.Delete(h.order, i, i+1)
	delete(h.set, n)
	delete(h.failed, n)
	if op.Kind == "link" { // the device is the data plane's
		return
	}
	op.Del = true
	m.change("", op)
}

// change tells one thing, so that one that fails keeps no other back.
func (m *Machine) change(n string, op core.HostOp) {
	h := &m.host
	h.ref++
	ref := refChange + h.ref
	if n != "" {
		h.pending[ref] = n
	}
	m.out = append(m.out, core.Change{Ops: []core.HostOp{op}, Ref: ref})
}

// changed takes the host's answer; what failed is told again later.
func (m *Machine) changed(ref core.Ref, err error) {
	h := &m.host
	n, ok := h.pending[ref]
	delete(h.pending, ref)
	if err == nil {
		if ok {
			delete(h.failed, n)
		}
		if len(h.failed) == 0 {
			h.backoff = 0
		}
		return
	}
	if !ok { // a removal: the next run sweeps
		m.failed("host", err)
		return
	}
	delete(h.set, n)
	h.order = slices.DeleteFunc(h.order, func(o string) bool { return o == n })
	if !h.failed[n] {
		h.failed[n] = true
		m.failed("host", err)
	}
	h.backoff = min(max(2*h.backoff, time.Second), m.cfg.Timers.RetransmitMax)
	h.retryAt = m.now.Boot + h.backoff
}

// serve keeps since when the node has been without service.
func (m *Machine) serve() {
	serving := m.state == home || m.bound() && !m.path.dead && m.state != detached && m.state != refused
	switch {
	case serving:
		m.lostAt, m.served = never, true
	case m.lostAt == never:
		m.lostAt = m.now.Boot
	}
}

// passing says whether traffic goes out directly for want of a home agent.
func (m *Machine) passing() bool {
	return m.cfg.Unreachable == Pass && m.lostAt != never && (!m.served || m.now.Boot >= m.lostAt+m.cfg.Timers.DeadPath)
}

// desired lists what the host should have, in the order of setting.
func (m *Machine) desired() []core.HostOp {
	var ops []core.HostOp
	add := func(op core.HostOp) { ops = append(ops, op) }
	dev, table := m.cfg.Device, m.cfg.Table
	v4 := m.home4()
	add(core.HostOp{Kind: "link", Name: dev, MTU: m.deviceMTU(), Value: "up"})
	add(core.HostOp{Kind: "address", Prefix: host(m.hoa()), Name: dev, Value: "nodad"})
	for _, x := range m.also {
		// One that is not preferred yet, or not any more: what uses it goes on, and nothing new takes it (RFC 4862 5.5.4).
		add(core.HostOp{Kind: "address", Prefix: host(x.home.Addr()), Name: dev, Value: "nodad deprecated"})
	}
	if v4.IsValid() {
		add(core.HostOp{Kind: "address", Prefix: host(v4), Name: dev})
	}
	m.networkRoutes(add)
	m.homeRoutes(v4, add)
	rule := func(p netip.Prefix, table, prio int, what string) {
		add(core.HostOp{Kind: "rule", Prefix: p, Table: table, Value: fmt.Sprintf("%spriority %d", what, prio)})
	}
	rule(host(m.hoa()), table, prioHome, "")
	for _, x := range m.also {
		rule(host(x.home.Addr()), table, prioHome, "")
	}
	if v4.IsValid() {
		rule(host(v4), table, prioHome, "")
	}
	for _, all := range []netip.Prefix{all6, all4} {
		if !m.prefers(all) {
			continue
		}
		if direct := m.directTable(all.Addr().Is4()); direct != 0 {
			for _, p := range m.bypass(all.Addr().Is4()) {
				rule(p, direct, prioDirect, "to ")
			}
			if m.cfg.DNS == DNSDirect {
				rule(all, direct, prioDirect, fmt.Sprintf("dport %d ", dnsPort))
			}
		}
		rule(all, mainTable, prioLink, "suppress 0 ")
		// What is on the link by IPv4 the main table knows. IPv6 prefixes are with the addresses that package movement makes.
		for _, c := range m.move.CareOfs() {
			if !all.Addr().Is4() && !c.Addr.Is4() && !c.Home && c.Table != 0 && c.Prefix.IsValid() {
				rule(c.Prefix.Masked(), c.Table, prioLink, "to ")
			}
		}
		rule(all, table, prioPrefer, "")
	}
	return ops
}

const mainTable = 254

var (
	all4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	all6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// home4 is the IPv4 home address as far as it is known.
func (m *Machine) home4() netip.Addr {
	switch {
	case m.cfg.Home.IPv4 == IPv4Static:
		return m.cfg.Home.V4.Addr()
	case m.given4.IsValid():
		return m.given4.Addr()
	}
	return netip.Addr{}
}

// homeRoutes fill the home table: into the tunnel while the node is away. At home package movement sets the default routes
// there when the addresses are claimed; before, only the home agent is reached by the home link.
func (m *Machine) homeRoutes(v4 netip.Addr, add func(core.HostOp)) {
	dev, table := m.cfg.Device, m.cfg.Table
	if m.state != home {
		add(core.HostOp{Kind: "route", Prefix: all6, Table: table, Name: dev, Src: m.hoa(), MTU: m.deviceMTU(), Value: m.advertisedMSS()})
		switch {
		case v4.IsValid():
			add(core.HostOp{Kind: "route", Prefix: all4, Table: table, Name: dev, Src: v4, MTU: m.innerMTU()})
		case m.serves4():
			add(core.HostOp{Kind: "route", Prefix: all4, Table: table, Value: "unreachable"})
		}
	}
	if m.homeIf != 0 {
		r := core.HostOp{Kind: "route", Prefix: host(m.ha.v6), Table: table, Name: m.homeAt.Link, If: m.homeAt.If}
		if !m.home6.Masked().Contains(m.ha.v6) && m.homeAt.Router.Is6() {
			r.Via = m.homeAt.Router
		}
		add(r)
	}
}

// advertisedMSS keeps TCP over IPv6 below what the path carries where the device's MTU cannot: the other end's segments would
// be fragmented outside by the home agent, which does not know of a path that swallows what is longer.
func (m *Machine) advertisedMSS() string {
	if m.innerMTU() >= minIPv6 {
		return ""
	}
	return fmt.Sprintf("advmss %d", m.innerMTU()-tcpHead6)
}

// tcpHead6 is IPv6 and TCP header (RFC 9293 3.7.1: options are not counted).
const tcpHead6 = 40 + 20

// serves4 says whether the home agent is expected to serve IPv4.
func (m *Machine) serves4() bool { return m.wants4() && m.why4 == "" }

// prefers says whether new connections of a family take the home address.
func (m *Machine) prefers(all netip.Prefix) bool {
	if m.passing() {
		return false
	}
	if !all.Addr().Is4() {
		return true
	}
	return m.serves4() && (m.state != home || m.cfg.Home.IPv4 == IPv4Static)
}

// bypass lists the destinations of a family that never go through the tunnel.
func (m *Machine) bypass(is4 bool) []netip.Prefix {
	var ps []netip.Prefix
	if a := m.ha.v6; !is4 {
		ps = append(ps, host(a))
	}
	if a := m.ha.v4; is4 && a.IsValid() {
		ps = append(ps, host(a))
	}
	for _, p := range m.cfg.Exclude {
		if p.Addr().Is4() == is4 {
			ps = append(ps, p)
		}
	}
	return ps
}

// directTable is the routing table of the care-of address that leads out directly: the bound one, else the best.
func (m *Machine) directTable(is4 bool) int {
	cs := m.move.CareOfs()
	i := slices.IndexFunc(cs, func(c movement.CareOf) bool {
		return m.bound() && keyOf(&c) == keyOf(&m.bind.careOf) && c.Addr.Is4() == is4
	})
	if i < 0 {
		i = slices.IndexFunc(cs, func(c movement.CareOf) bool { return c.Addr.Is4() == is4 && c.Table != 0 })
	}
	if i < 0 {
		return 0
	}
	return cs[i].Table
}
