package core

import (
	"context"
	"errors"
	"iter"
	"net/netip"
)

// Packet is one datagram or frame on a Port.
//
// On "mh" ports B is the upper-layer message of Proto (0 = 135, the Mobility Header; 58, ICMPv6) and Src, Dst are the
// addresses of its IPv6 header. SrcHome is what its Home Address option says, DstHome its type 2 routing header: valid only
// if the packet has them, and part of the checksum's pseudo header (RFC 6275 6.1.1). Outer is what the packet came or goes
// in; N=0 = natively. Auth is who vouches for it, or what must protect it.
//
// On "ip" ports B is a whole IPv6 packet, from its header on, with Outer around it. On "access" and "links" ports B is the
// whole Ethernet frame and If the link.
type Packet struct {
	If               int
	MAC              MAC
	Src, Dst         netip.AddrPort
	SrcHome, DstHome netip.Addr
	Proto            uint8
	Outer            Chain
	Auth             Auth
	B                []byte
}

// Port carries signalling packets: ring, tcx tap, raw, UDP, simnet, channel twin. Batched as in wireguard-go.
// Read blocks until at least one packet is there and reuses into[i].B when its capacity suffices; it fails with
// net.ErrClosed after Close.
type Port interface {
	Read(into []Packet) (int, error)
	Write(pkts []Packet) (int, error)
	Close() error
}

// HostOp is one thing of the operating system. Kind: route, rule, address, link, neighbour, proxy (ND or ARP by the
// family of Prefix), sysctl, anycast. Name is the interface name (or the sysctl's), If its index; either is enough. Src is the
// source address that a route prefers, Metric its rank (0 = the kernel's choice), Proto who set it, which only Watch tells. What
// Value says is in package system.
type HostOp struct {
	Kind        string
	Del         bool
	If          int
	Prefix      netip.Prefix
	Via, Src    netip.Addr
	MAC         MAC
	Table, MTU  int
	Metric      int
	Proto       uint8
	Name, Value string
}

// Host is the operating system: netlink or simnet. Everything set is tagged so that a restart can sweep.
type Host interface {
	Now() Now
	Apply(ops []HostOp) error
	Watch(ctx context.Context, f func(HostChanged)) error
	// Open kind "mh": Mobility Headers on the host's addresses; "ip": the whole IPv6 packets that carry them, with
	// Home Address option, type 2 routing header and ESP; "access": the signalling frames of access links ifs (ARP, ND,
	// MLD, DHCPv4); "links": ND and ARP of the links of a node, ifs are patterns of names as in path.Match, and links may
	// come and go.
	Open(kind string, ifs ...string) (Port, error)
}

// ErrTooLarge is a packet that must not be cut and does not fit into what the path carries, as is known here.
var ErrTooLarge = errors.New("larger than the path carries")

// Keeper is a Host that puts back what it has set and other programs remove, until ctx ends; tell is given what there is to say of it.
type Keeper interface {
	Keep(ctx context.Context, tell func(Emit)) error
}

// Lease is the ownership of a virtual anchor.
type Lease interface {
	Token() uint64
	Lost() <-chan struct{}
	Release() error
}

// Store. Commit: all or nothing, fenced by the lease token, returns when it outlives kill -9 (bolt) or has a quorum (etcd).
type Store interface {
	Load(ctx context.Context, anchor string) iter.Seq2[Persist, error]
	Commit(ctx context.Context, token uint64, batch []Persist) (rev uint64, err error)
	Watch(ctx context.Context, anchor string, from uint64) iter.Seq2[Persist, error]
	Own(ctx context.Context, anchor string) (Lease, error)
	Close() error
}

// Directory maps names (NAI, home address, prefix, SPI) to shards: shared and locked.
type Directory interface {
	Route(m *Message) (Shard, bool)
	Bind(s Shard, names ...string) error // error if another shard holds one
}
