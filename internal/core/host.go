package core

import (
	"context"
	"iter"
	"net/netip"
)

// Packet is one datagram or frame on a Port. On "mh" ports B is the Mobility Header and Src, Dst the addresses of its IPv6
// header; on "access" ports B is the whole Ethernet frame and If the link.
type Packet struct {
	If       int
	MAC      MAC
	Src, Dst netip.AddrPort
	Outer    Chain
	B        []byte
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
// family of Prefix), sysctl. Name is the interface name (or the sysctl's), If its index; either is enough.
type HostOp struct {
	Kind        string
	Del         bool
	If          int
	Prefix      netip.Prefix
	Via         netip.Addr
	MAC         MAC
	Table, MTU  int
	Name, Value string
}

// Host is the operating system: netlink or simnet. Everything set is tagged so that a restart can sweep.
type Host interface {
	Now() Now
	Apply(ops []HostOp) error
	Watch(ctx context.Context, f func(HostChanged)) error
	// Open kind "mh": raw protocol 135 on the host's addresses; "access": the signalling frames of access links ifs
	// (ARP, ND, MLD, DHCPv4).
	Open(kind string, ifs ...string) (Port, error)
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
