// Package scenario is the language of the lab: one YAML file says which links and nodes a network has, what happens in it
// step by step, and what must hold. Parse reports every mistake with its line and column and what would be right.
//
// There is no bare sleep: a step waits for a condition, with a limit, or changes something.
//
// Links are of three kinds. The core is where anchors, gateways, routers and correspondent nodes are; it may have delay, loss,
// an MTU, or swallow large packets. On access links hosts meet a gateway of ours. LANs are networks of ordinary routers
// (radvd, dnsmasq, nftables), which mobile nodes visit, or their home links; a step changes a LAN while hosts are on it.
// Routes between all of them are made by the lab; what a NAT hides has none.
package scenario

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/lab/impair"
)

// Scenario is one file.
type Scenario struct {
	Name, About, Figure string
	Covers              []string // requirement ids that a pass shows
	Budget              time.Duration
	Matrix              bool // also run with every data plane back end
	Long                bool // not part of the quick run: figures that need many repetitions
	Links               []Link
	Nodes               []Node
	Steps               []Step
	End                 End
	File                string
}

// Pos is where a thing was written.
type Pos struct{ Line, Col int }

// Link is one broadcast domain. On access links hosts are isolated from each other, as RFC 5213 assumes. A LAN is a home
// link or a visited network behind an ordinary router: its hosts see each other.
type Link struct {
	Pos
	Name   string
	Access bool // hosts attach and move here: access links of gateways, and LANs
	LAN    bool
	Prefix []netip.Prefix
	MTU    int // of every interface on it; 0 = 1500
	Impair impair.Settings
	User   bool // switched by the lab even without impairments: a step drops frames on it
}

// Node is a namespace: a kedge daemon, a host on access links, or a static host on other links.
type Node struct {
	Pos
	Name   string
	Kedge  string // config template; "" = a host
	Config any    // overrides of the template: mappings merge, everything else replaces
	Down   bool   // not started before a fault step does
	On     []Port // attachments of kedge nodes and static hosts

	Routes  map[netip.Prefix]netip.Addr // by next hop, of kedge nodes and static hosts on other links
	Forward bool                        // a static host that is a router
	Serve   *Router                     // what the node does for the LAN that it is on
	Mobile  *Mobile                     // a host that runs kedge in role node

	DNS map[string]netip.Addr // what a static host's DNS server answers
	Web bool                  // a static host or router answers HTTP

	WireGuard *WireGuard // a host that has such a tunnel, for comparison

	Protection string // of a gateway's or mobile node's signalling: esp, rfc4285, none; "" = esp for mobile nodes, none for gateways
	Suite      string // of ESP; "" = aes128-sha256

	Host     string // static, slaac, dhclient, udhcpc, dhcpcd
	Ifaces   []Iface
	Count    int            // > 1: a crowd NAME-1 .. NAME-n with consecutive MACs
	ID       string         // MN-Identifier if not made from the MAC
	Families []string       // what the host's own stack does: v4, v6
	Address  []netip.Prefix // static hosts on access links
	Router   netip.Addr     // default router of a static host on an access link, IPv4
	Profile  map[string]any // of the anchor's subscriber list; nil = the default
	Unknown  bool           // the host is left out of the subscriber list
	Gateway  map[string]any // of the gateways' host list
	Off      bool           // powered off until a step starts it
}

// Port attaches a node to a link. Access interfaces of gateways have a name and no address.
type Port struct {
	Pos
	Link       string
	Iface      string
	Technology string // of an access link, as the config calls it; "" = as the template says
	Addrs      []netip.Addr
}

// Iface is one interface of a host on an access link.
type Iface struct {
	Link string
	MAC  core.MAC
}

// Step is one thing that happens; Kind says which field counts.
type Step struct {
	Pos
	Kind   string // wait expect start stop move fault attach detach send repeat say network row
	Check  *Check // wait, expect
	Start  []Probe
	Stop   []string
	Move   *Move
	Fault  *Fault
	Attach *Attach // attach, detach
	Send   *Send
	Repeat *Repeat
	Say    string

	Network *Network
	Row     *Row
	// Only is the data plane that the step is for, ebpf or user; "" = all. What goes on without its daemon differs.
	Only string
}

// Check is a set of conditions that hold together. Within 0 = they hold now.
type Check struct {
	Within time.Duration
	Conds  []Cond
}

// Cond is one condition: Kind is host, probe, binding, metric, capture, ladder, peer, process, pool, route or handover; On the
// node or probe it is about.
type Cond struct {
	Pos
	Kind, On string
	Want     map[string]Want
}

// Want is the value of one key of a condition.
type Want struct {
	Pos
	Text string
	List []string
	Map  map[string]string
	Cmp  Compare
	Bool bool
}

// Has says whether the condition has a key.
func (c *Cond) Has(key string) bool { _, ok := c.Want[key]; return ok }

// Probe is traffic that goes on until it is stopped.
type Probe struct {
	Pos
	Kind     string // ping, tcp, udp, download, bulk
	Name     string
	From, To string // To: NODE, NODE.v4, NODE.v6 or an address
	Family   string // v4 or v6
	Iface    string // of To, if it has several; "" = any
	Every    time.Duration
	Size     int  // octets of payload
	Any      bool // the kernel chooses the source address; else it is the host's own, of a mobile node the home address
}

// Move takes a host's interface to another link. How: flap (carrier down and up), silent (bridge port moved), break (off
// for a second), second (a new interface appears there).
type Move struct {
	Node, To, How string
	Iface         int
	MAC           core.MAC // of a second interface
}

// Fault does something bad, or ends it. Do: kill stop cont start restart quit end switch suspend
// lost-store drop pass partition heal unplug plug off on renew release flush.
type Fault struct {
	Node, Link, Do string
	Iface          string        // off, on: this interface of the host only
	Match          string        // drop: pbu pba heartbeat mh direct dhcp rs ra ns na arp mld ipv4 ipv6; flush: rules addresses routes
	Count          int           // drop: how many, 0 = until "pass"
	For            time.Duration // suspend
}

// Attach is told to a gateway by its API.
type Attach struct{ Host, At, Previous, ID string }

// Send is forged traffic from a node's first interface.
type Send struct {
	From     string
	Count    int
	MAC      string // source MAC: a node's name or an address; "" = own
	Src, Dst string // inner IP addresses: NODE.v4, NODE.v6 or literal; UDP
	Size     int
	OuterSrc string // with OuterDst: in an IPv6 tunnel
	OuterDst string
	Via      string // whose MAC the frame goes to, a node's name or an address; "" = who has the destination
	PBU      *ForgedPBU
	BU       *ForgedBU
	Port     int    // UDP, both ways
	Hex      string // a whole frame
	Replay   string // the newest frame of this kind on the node's first link, again
	Corrupt  bool   // with one bit of it changed
}

// ForgedPBU is a Proxy Binding Update that nobody should believe.
type ForgedPBU struct {
	ID, V4   string
	MAC      core.MAC // zero: without the Mobile Node Link-layer Identifier option
	Lifetime time.Duration
}

// ForgedBU is a Binding Update without protection, from an address that is none of the node's.
type ForgedBU struct {
	Home     string
	Lifetime time.Duration
}

// Repeat does its steps several times. Moves alternate by steps of their own.
type Repeat struct {
	Times int
	Steps []Step
}

// End is what must hold when all steps are over.
type End struct {
	TsharkErrors *Compare
	Leaks        bool // nothing may be left
	Conds        []Cond
}

// Link finds a link.
func (s *Scenario) Link(name string) *Link {
	for i := range s.Links {
		if s.Links[i].Name == name {
			return &s.Links[i]
		}
	}
	return nil
}

// Node finds a node.
func (s *Scenario) Node(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// OnAccess says whether the node is a host on access links.
func (n *Node) OnAccess() bool { return len(n.Ifaces) > 0 }

// Names are the names of the instances: one, or NAME-1 .. NAME-n of a crowd.
func (n *Node) Names() []string {
	if n.Count <= 1 {
		return []string{n.Name}
	}
	out := make([]string, n.Count)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", n.Name, i+1)
	}
	return out
}

// HostMAC is the MAC of interface k of instance i (from 0): the last three octets count up.
func (n *Node) HostMAC(i, k int) core.MAC {
	m := n.Ifaces[k].MAC
	v := uint32(m[3])<<16 | uint32(m[4])<<8 | uint32(m[5])
	v += uint32(i)
	m[3], m[4], m[5] = byte(v>>16), byte(v>>8), byte(v)
	return m
}

// Identity is the MN-Identifier of instance i: its own, or its first MAC in the realm.
func (n *Node) Identity(i int) string {
	if n.ID != "" {
		return n.ID
	}
	m := n.HostMAC(i, 0)
	return fmt.Sprintf("%02x-%02x-%02x-%02x-%02x-%02x@%s", m[0], m[1], m[2], m[3], m[4], m[5], Realm)
}

// Realm is that of identifiers made from MAC addresses.
const Realm = "example.net"

// Kinds of hosts.
var hostKinds = []string{"static", "slaac", "dhclient", "udhcpc", "dhcpcd"}

func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Col) }
