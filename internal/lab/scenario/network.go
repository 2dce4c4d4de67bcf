package scenario

import (
	"net/netip"
	"time"
)

// Router is what a node does for the one LAN that it is on: a network as nodes visit it, or a home link.
type Router struct {
	Pos
	V6         netip.Prefix  // advertised by radvd; the router is ::1
	V4         netip.Prefix  // leased by dnsmasq; the router is .1
	NAT        bool          // masquerade: V4 is private, and nobody else has a route to it
	UDPTimeout time.Duration // how long the NAT keeps an idle mapping of UDP; 0 = as the kernel does
	RAInterval time.Duration // longest time between advertisements (RFC 6275 7.5 below 4 s)
	Lease      time.Duration
	Leases     int // how many addresses it leases
	NoDHCP     bool
	HomeAgent  bool                  // the advertisements are those of a home agent: H flag, and R with its address
	Block      []string              // what it does not forward: ip4 ip41 (protocols), udp, mh, icmp6
	Portal     bool                  // a captive portal: nothing is forwarded before a step opens it
	Names      map[string]netip.Addr // what its DNS server answers
}

// blockable are the kinds of packets that a router may refuse to forward.
var blockable = []string{"ip4", "ip41", "udp", "mh", "icmp6", "tcp"}

// Mobile is what a mobile node is to its home agent.
type Mobile struct {
	Pos
	V6         netip.Prefix // home address with the length of its home prefix
	V4         netip.Prefix // IPv4 home address; invalid = none
	Dynamic4   bool         // it asks for any
	Dialect    string
	Subscriber map[string]any // overrides of the home agent's entry
}

// Network changes a LAN while hosts are on it.
type Network struct {
	At     string // the router
	Do     string // rebind v6-off v6-on v4-off v4-on renumber open close
	V6, V4 netip.Prefix
}

// WireGuard is a tunnel of a host to a server that it compares with.
type WireGuard struct {
	Pos
	Server   string         // node
	Endpoint string         // v4 or v6: how the host reaches it
	Address  netip.Prefix   // of the host, in the tunnel
	To       []netip.Prefix // what it reaches by the tunnel
}

// Row is a sample of a table, by system, of probes that are over: what they lost and how long they were silent; or the figure that is
// named, of one probe a system: its median round trip, the rate of a bulk, or how long route optimization took to be set up between
// its ends.
type Row struct {
	Name    string
	Figure  string // "" = loss; rtt, rate, set-up
	Systems []System
}

// System is who the probes of a row are about.
type System struct {
	Name   string
	Probes []string
}

// networkChanges are all that a network step can do.
var networkChanges = []string{"rebind", "v6-off", "v6-on", "v4-off", "v4-on", "renumber", "open", "close", "silence"}

func parseRouter(v value) *Router {
	r := &Router{Pos: v.pos, RAInterval: 500 * time.Millisecond, Lease: time.Hour, Leases: 190}
	v.object(map[string]func(value){
		"v6": func(v value) {
			if r.V6 = v.prefix(); !r.V6.Addr().Is6() || r.V6.Bits() > 64 || r.V6 != r.V6.Masked() {
				v.errorf("want an IPv6 prefix as in 2001:db8:51::/64")
			}
		},
		"v4": func(v value) {
			if r.V4 = v.prefix(); !r.V4.Addr().Is4() || r.V4.Bits() > 28 || r.V4 != r.V4.Masked() {
				v.errorf("want an IPv4 network of at least 16 addresses as in 192.168.1.0/24")
			}
		},
		"nat":         func(v value) { r.NAT = v.boolean() },
		"udp-timeout": func(v value) { r.UDPTimeout = v.duration() },
		"ra-interval": func(v value) { r.RAInterval = max(v.duration(), 70*time.Millisecond) },
		"lease":       func(v value) { r.Lease = max(v.duration(), 2*time.Minute) }, // dnsmasq knows no shorter one
		"leases":      func(v value) { r.Leases = v.integer(1, 190) },
		"dhcp":        func(v value) { r.NoDHCP = !v.boolean() },
		"home-agent":  func(v value) { r.HomeAgent = v.boolean() },
		"block":       func(v value) { v.each(func(x value) { r.Block = append(r.Block, x.oneOf(blockable...)) }) },
		"portal":      func(v value) { r.Portal = v.boolean() },
		"names": func(v value) {
			r.Names = map[string]netip.Addr{}
			v.pairs(func(key string, x value) { r.Names[key] = x.addr() })
		},
	})
	if !r.V6.IsValid() && !r.V4.IsValid() {
		v.errorf("want v6, v4 or both: the network that it serves")
	}
	if (r.NAT || r.UDPTimeout > 0) && !r.V4.IsValid() {
		v.errorf("a NAT needs v4, its private network")
	}
	return r
}

func parseMobile(v value) *Mobile {
	m := &Mobile{Pos: v.pos, Dialect: "rfc5555"}
	v.object(map[string]func(value){
		"v6": func(v value) {
			if m.V6 = v.prefix(); !m.V6.Addr().Is6() {
				v.errorf("want an IPv6 home address with the length of its prefix as in 2001:db8:2000::5/64")
			}
		},
		"v4": func(v value) {
			if v.text() == "dynamic" {
				m.Dynamic4 = true
			} else if m.V4 = v.prefix(); !m.V4.Addr().Is4() {
				v.errorf("want an IPv4 home address with a length as in 10.20.0.5/24, or dynamic")
			}
		},
		"dialect":    func(v value) { m.Dialect = v.oneOf("rfc5555", "draft-soliman-00") },
		"subscriber": func(v value) { m.Subscriber = v.anyMap() },
	})
	if !m.V6.IsValid() {
		v.errorf("v6 is missing: the home address")
	}
	return m
}

// checkMobile holds that a mobile node has what it runs with.
func (n *Node) checkMobile(s *Scenario, v value) {
	switch {
	case n.Kedge == "" || !n.OnAccess() || len(n.On) > 0 && n.Serve == nil:
		v.errorf("a mobile node needs kedge (its config template) and at (its LANs); with router and on, it is a mobile router for another LAN")
	case n.Host != "" && n.Host != "udhcpc" && n.Host != "dhclient":
		v.errorf("the DHCP client of a mobile node is udhcpc or dhclient")
	case n.Count > 1:
		v.errorf("mobile nodes come one by one: each has home addresses of its own")
	}
	for _, i := range n.Ifaces {
		if l := s.Link(i.Link); l != nil && !l.LAN {
			v.errorf("%q is no LAN: mobile nodes visit networks of ordinary routers", i.Link)
		}
	}
	if n.Host == "" {
		n.Host = "udhcpc"
	}
}

// checkServe holds that a router is on exactly one LAN and on something else.
func (s *Scenario) checkServe(n *Node, v value) {
	lans := 0
	for _, p := range n.On {
		if l := s.Link(p.Link); l != nil && l.LAN {
			lans++
		}
	}
	if n.Mobile != nil { // its way to the world moves
		if lans != 1 || len(n.On) != 1 || n.Serve.NAT {
			v.errorf("a mobile router is on its one LAN, which is no private network")
		}
		return
	}
	if lans != 1 || len(n.On) < 2 {
		v.errorf("a router is on one LAN, and on another link that leads to the world")
	}
}

func (p *stepParser) network(v value) *Network {
	n := &Network{}
	v.object(map[string]func(value){
		"at": func(v value) {
			n.At = v.text()
			if x := p.s.Node(n.At); x == nil || x.Serve == nil {
				v.errorf("%q is no router of a LAN", n.At)
			}
		},
		"do": func(v value) { n.Do = v.oneOf(networkChanges...) },
		"v6": func(v value) { n.V6 = v.prefix() },
		"v4": func(v value) { n.V4 = v.prefix() },
	})
	if n.At == "" || n.Do == "" {
		v.errorf("want at and do")
		return n
	}
	if x := p.s.Node(n.At); x != nil && x.Serve != nil {
		switch {
		case n.Do == "rebind" && !x.Serve.NAT:
			v.errorf("only a NAT can be rebound")
		case n.Do == "renumber" && !n.V6.IsValid() && !n.V4.IsValid():
			v.errorf("want the new v6, v4 or both")
		case (n.Do == "v6-off" || n.Do == "v6-on") && !x.Serve.V6.IsValid(), (n.Do == "v4-off" || n.Do == "v4-on") && !x.Serve.V4.IsValid():
			v.errorf("the network does not have this family")
		}
	}
	return n
}

func (s *Scenario) parseWireGuard(v value) *WireGuard {
	w := &WireGuard{Pos: v.pos, Endpoint: "v6"}
	v.object(map[string]func(value){
		"server": func(v value) {
			if w.Server = v.text(); s.Node(w.Server) == nil || s.Node(w.Server).OnAccess() {
				v.errorf("%q is no node with an address that stays", w.Server)
			}
		},
		"endpoint": func(v value) { w.Endpoint = v.oneOf("v4", "v6") },
		"address":  func(v value) { w.Address = v.prefix() },
		"to":       func(v value) { v.each(func(x value) { w.To = append(w.To, x.prefix().Masked()) }) },
	})
	if w.Server == "" || !w.Address.IsValid() {
		v.errorf("want server and address")
	}
	return w
}

func (p *stepParser) row(v value) *Row {
	r := &Row{}
	v.object(map[string]func(value){
		"name":   func(v value) { r.Name = v.text() },
		"figure": func(v value) { r.Figure = v.oneOf("rtt", "rate", "set-up") },
		"of": func(v value) {
			v.pairs(func(name string, v value) {
				sys := System{Name: name}
				v.each(func(x value) {
					if !p.probes[x.text()] {
						x.errorf("%q was not started", x.text())
					}
					sys.Probes = append(sys.Probes, x.text())
				})
				r.Systems = append(r.Systems, sys)
			})
		},
	})
	if r.Name == "" || len(r.Systems) == 0 {
		v.errorf("want name and of")
	}
	for _, s := range r.Systems {
		if r.Figure != "" && len(s.Probes) != 1 {
			v.errorf("%s: a figure is of one probe", s.Name)
		}
	}
	return r
}
