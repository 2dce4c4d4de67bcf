package node

import (
	"fmt"
	"net/netip"
	stdpath "path"
	"slices"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// A node with mobile networks is a mobile router, RFC 3963: its registrations have the R flag, and in explicit mode name the IPv6
// prefixes. IPv4 prefixes are asked for by options of their own in both modes (RFC 5555 3.1.1, flag P). Signalling is of the home
// address alone. Where the home agent does not serve the networks, the node goes on as a host: its own traffic is no hostage of
// theirs.
//
// What comes from a mobile network leaves by the home table, which leads into the tunnel's device, or at home to the home link. It never
// leaves otherwise: also not while there is no binding, whatever Config.Unreachable says, for its addresses mean nothing in a visited
// network.

// Rules for mobile networks, before those of the home addresses.
const (
	prioNetworkHere = 10680 + iota // to a mobile network: the main table without its default routes, which has the links
	prioNetworkNone                // to what of it is on no link: the home table says unreachable. It would go into the tunnel, and come back
	prioNetworkFrom                // from a mobile network: the home table
	prioNetworkElse                // from the links of mobile networks with another source (RFC 3963 9): nowhere
)

// router is the state of a mobile router.
type router struct {
	// refused says why the home agent does not serve the networks; registrations are a host's then (RFC 3963 5.4.2: "MUST stop sending
	// Binding Updates with the Mobile Router Flag"), until there is no binding any more, or core.Roam.
	refused string
	// retyped: the home agent had a registration of the other type (status 139), which is being ended.
	retyped bool
}

// MaxNetworks limits the mobile network prefixes of a node: their options fit into any message, and the data plane knows few lengths.
const (
	MaxNetworks = 16
	maxLengths  = 7 // of each family, beside that of a home address
)

// checkNetworks says what of the mobile networks cannot be.
func (c *Config) checkNetworks() error {
	h := &c.Home
	if len(h.Networks) == 0 {
		if len(h.Interfaces) > 0 {
			return fmt.Errorf("home: interfaces %v without networks", h.Interfaces)
		}
		return nil
	}
	if len(h.Networks) > MaxNetworks {
		return fmt.Errorf("home: %d networks, want at most %d", len(h.Networks), MaxNetworks)
	}
	lengths := map[[2]int]bool{}
	for i, n := range h.Networks {
		switch {
		case !core.IsNetwork(n):
			return fmt.Errorf("home: %v is no mobile network prefix", n)
		case n.Contains(h.V6.Addr()) || h.V4.IsValid() && n.Contains(h.V4.Addr()):
			return fmt.Errorf("home: network %v holds the home address", n)
		case n.Contains(c.Anchor.V6) || n.Contains(c.Anchor.V4):
			return fmt.Errorf("home: network %v holds the home agent", n)
		case n.Addr().Is4() && c.Anchor.Dialect == Soliman:
			return fmt.Errorf("home: network %v: %s has no IPv4 prefixes", n, Soliman)
		case slices.ContainsFunc(h.Networks[:i], n.Overlaps):
			return fmt.Errorf("home: network %v overlaps another one", n)
		}
		if !n.IsSingleIP() {
			lengths[[2]int{n.Addr().BitLen(), n.Bits()}] = true
		}
	}
	for _, family := range []int{32, 128} {
		n := 0
		for l := range lengths {
			if l[0] == family {
				n++
			}
		}
		if n > maxLengths {
			return fmt.Errorf("home: networks of %d different lengths, want at most %d of a family", n, maxLengths)
		}
	}
	for _, name := range h.Interfaces {
		if name == "" || name == c.Device || len(name) > 15 {
			return fmt.Errorf("home: %q cannot be an interface of a mobile network", name)
		}
		for _, l := range c.Links {
			if hit, err := stdpath.Match(l.Match, name); hit && err == nil {
				return fmt.Errorf("home: interface %s of a mobile network is one of the links to register from (%s)", name, l.Match)
			}
		}
	}
	return nil
}

// routes says whether the node is a mobile router, and the home agent has not refused that.
func (m *Machine) routes() bool { return len(m.cfg.Home.Networks) > 0 && m.router.refused == "" }

// inNetwork says whether an address is of a mobile network of the node itself: no care-of address is.
func (m *Machine) inNetwork(a netip.Addr) bool {
	return slices.ContainsFunc(m.cfg.Home.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// routerUpdate makes a Binding Update a mobile router's, RFC 3963 5.2. One that ends a registration names no prefix (5.8).
func (m *Machine) routerUpdate(s *sent, bu *mobility.BindingUpdate) {
	if !m.routes() || s.home.IsValid() && s.home != m.hoa() {
		return
	}
	s.router = true
	bu.Flags |= mobility.BURouter
	if s.kind != register {
		return
	}
	for _, n := range m.cfg.Home.Networks {
		switch {
		case n.Addr().Is4():
			bu.Options = bu.Options.Add(mobility.IPv4HomeAddress{PrefixLen: uint8(n.Bits()), P: true, Addr: n.Addr()})
		case !m.cfg.Home.Implicit:
			bu.Options = bu.Options.Add(mobility.MobileNetworkPrefix{Prefix: n})
		}
	}
}

// takeNetworks reads which mobile networks the home agent forwards, RFC 3963 5.3, RFC 5555 3.2.1. Without the R flag it knows nothing of
// mobile routers.
func (m *Machine) takeNetworks(s *sent, ba *mobility.BindingAck) (networks []netip.Prefix) {
	m.router.retyped = false
	if !s.router {
		return nil
	}
	if ba.Flags&mobility.BARouter == 0 {
		m.onlyHost(wire.MobileRouterRefused, "the home agent does not know mobile routers: its answer has no R flag")
		return nil
	}
	for _, n := range m.cfg.Home.Networks {
		if n.Addr().Is6() {
			networks = append(networks, n)
			continue
		}
		why := "the home agent did not answer for it"
		for ack := range ba.Options.IPv4AddressAcks() {
			if ack.Addr != n.Addr() || int(ack.PrefixLen) != n.Bits() && ack.Status.Success() {
				continue
			}
			if why = ack.Status.String(); ack.Status.Success() {
				why = ""
				break
			}
		}
		if why == "" {
			networks = append(networks, n)
			continue
		}
		m.problemNetwork(n, why)
	}
	return networks
}

// addressAck is the first acknowledgement of an IPv4 home address that is none of a mobile network.
func (m *Machine) addressAck(ba *mobility.BindingAck) (mobility.IPv4AddressAck, bool) {
	for ack := range ba.Options.IPv4AddressAcks() {
		if !slices.ContainsFunc(m.cfg.Home.Networks, func(n netip.Prefix) bool { return n.Addr() == ack.Addr }) {
			return ack, true
		}
	}
	return mobility.IPv4AddressAck{}, false
}

// problemNetwork tells once that an IPv4 network is not served.
func (m *Machine) problemNetwork(n netip.Prefix, detail string) {
	m.count(wire.NetworkRefused)
	text := n.String() + ": " + detail
	if slices.Contains(m.unserved, text) {
		return
	}
	m.unserved = append(m.unserved, text)
	m.past("mobile network is not served", string(wire.NetworkRefused), text)
	m.emit(core.Emit{Name: "warning", ID: m.session.id, Why: string(wire.NetworkRefused), Fields: map[string]any{"peer": m.ha.name, "prefix": n.String(), "err": detail}})
}

// onlyHost: the home agent does not serve the networks, so the node registers as a host.
func (m *Machine) onlyHost(r wire.Reason, detail string) {
	m.router.refused = detail
	m.count(r)
	m.past("registers as a host only", string(r), detail)
	m.emit(core.Emit{Name: "warning", ID: m.session.id, Why: string(r), Fields: map[string]any{"peer": m.ha.name, "networks": m.cfg.Home.Networks, "err": detail}})
}

// routerAgain: the home agent has no binding of the node any more, so it may be asked for another type of it.
func (m *Machine) routerAgain() { m.router, m.unserved = router{}, nil }

// routerReasons are the statuses of RFC 3963 4.2.
var routerReasons = map[mobility.Status]wire.Reason{
	mobility.MobileRouterNotPermitted: wire.MobileRouterRefused,
	mobility.InvalidPrefix:            wire.BadPrefixLength,
	mobility.NotAuthorizedForPrefix:   wire.NetworkRefused,
	mobility.ForwardingSetupFailed:    wire.ForwardingFailed,
}

// refuseRouter takes a refusal of a mobile router's registration, RFC 3963 5.4: another home agent may accept it, else the node is a
// host, and asks as one at once. It says whether it was such a refusal.
func (m *Machine) refuseRouter(s *sent, ba *mobility.BindingAck) bool {
	if ba.Status == mobility.TypeChangeDisallowed && !m.router.retyped {
		// A binding of the other type: of an earlier run with another config, or from before networks were refused.
		m.refusal(wire.TypeChange, ba.Status, "ends the former registration")
		m.router.retyped = true
		m.startRace([]movement.CareOf{s.careOf}, farewell, false, false)
		return true
	}
	r, ok := routerReasons[ba.Status]
	if !ok || !s.router {
		return false
	}
	m.refusal(r, ba.Status, "mobile networks")
	if m.gaveUp("refused: "+string(r), InitialBindackTimeoutFirstReg) {
		return true
	}
	m.onlyHost(r, fmt.Sprintf("status %d, %s", uint8(ba.Status), ba.Status))
	m.configure()
	if m.racing() {
		m.hasten()
		m.sendDue()
	} else {
		m.evaluate("as a host")
	}
	return true
}

// retypedNot gives up where the registration of the other type cannot be ended: it ends by itself.
func (m *Machine) retypedNot(s *sent, ba *mobility.BindingAck) bool {
	if s.kind != farewell || m.state == stopping || !m.router.retyped {
		return false
	}
	m.refusal(wire.TypeChange, ba.Status, "deregistration")
	m.wait(min(lastingFirst<<min(m.tries, 10), lastingMax), wire.TypeChange)
	return true
}

// retypedDone goes on when a registration of the other type has ended.
func (m *Machine) retypedDone(s *sent) bool {
	if s.kind != farewell || m.state == stopping || !m.router.retyped {
		return false
	}
	m.endRace()
	m.sent = m.sent[:0]
	m.unbind()
	if m.state == active || m.state == updating {
		m.setState(registering, "type of registration")
	}
	m.seen = nil
	m.evaluate("type of registration")
	return true
}

// closedTable is a routing table in which nothing is reachable. Those of care-of addresses begin 100 after the home table.
func (m *Machine) closedTable() int { return m.cfg.Table + 1 }

// networkRoutes are the host's routes and rules for mobile networks, and that it forwards.
func (m *Machine) networkRoutes(add func(core.HostOp)) {
	h := &m.cfg.Home
	if len(h.Networks) == 0 {
		return
	}
	table := m.cfg.Table
	rule := func(p netip.Prefix, in string, table, prio int, what string) {
		add(core.HostOp{Kind: "rule", Prefix: p, Name: in, Table: table, Value: fmt.Sprintf("%spriority %d", what, prio)})
	}
	four := false
	for _, n := range h.Networks {
		four = four || is4(n)
		add(core.HostOp{Kind: "route", Prefix: n, Table: table, Value: "unreachable"})
		rule(n, "", mainTable, prioNetworkHere, "to suppress 0 ")
		rule(n, "", table, prioNetworkNone, "to ")
		rule(n, "", table, prioNetworkFrom, "")
		rule(n, "", m.closedTable(), prioNetworkElse, "")
	}
	if four && m.state != home && !m.home4().IsValid() { // else it has this route
		add(core.HostOp{Kind: "route", Prefix: all4, Table: table, Name: m.cfg.Device, MTU: m.innerMTU()})
	}
	for _, all := range []netip.Prefix{all6, all4} {
		if !all.Addr().Is4() || four {
			add(core.HostOp{Kind: "route", Prefix: all, Table: m.closedTable(), Value: "unreachable"})
		}
	}
	for _, in := range h.Interfaces {
		rule(all6, in, m.closedTable(), prioNetworkElse, "")
		if four {
			rule(all4, in, m.closedTable(), prioNetworkElse, "")
		}
	}
	// Behind all that keeps packets in, so that they are forwarded no sooner, and at the end no longer. And before package movement makes
	// hosts of the links that the node registers from (RFC 3963 5.6, 5.7): this sets all.
	add(core.HostOp{Kind: "sysctl", Name: "net/ipv6/conf/all/forwarding", Value: "1"})
	if four {
		add(core.HostOp{Kind: "sysctl", Name: "net/ipv4/ip_forward", Value: "1"})
	}
}

func is4(n netip.Prefix) bool { return n.Addr().Is4() }
