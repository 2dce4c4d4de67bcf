package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// bufferSize holds any packet with its link-layer and virtio-net headers.
const bufferSize = ip.MaxPacket + 64

const receiveBuffer = 8 << 20 // octets that a socket queues

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// opts sets integer socket options, each a level, a name and a value.
func opts(fd int, list ...[3]int) error {
	for _, o := range list {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	return nil
}

// frame sends one Ethernet frame into a link.
func (w *Wire) frame(t *testing.T, dst, src core.MAC, b []byte, v ip.VNet) {
	t.Helper()
	buf := make([]byte, ip.VNetLen, ip.VNetLen+14+len(b))
	head, proto := 14, uint16(unix.ETH_P_IP)
	if w.tun {
		head = 0
	}
	if v.NeedsChecksum {
		le := binary.LittleEndian
		upper := 20
		if v.CsumOffset == 6 {
			upper = ip.UDPLen
		}
		buf[0], buf[1] = 1, v.Type
		le.PutUint16(buf[2:], uint16(head+v.CsumStart+upper))
		le.PutUint16(buf[4:], uint16(v.Size))
		le.PutUint16(buf[6:], uint16(head+v.CsumStart))
		le.PutUint16(buf[8:], uint16(v.CsumOffset))
	}
	if b[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	if !w.tun {
		buf = append(append(buf, dst[:]...), src[:]...)
		buf = binary.BigEndian.AppendUint16(buf, proto)
	}
	if err := unix.Sendto(w.fd, append(buf, b...), 0, &unix.SockaddrLinklayer{Ifindex: w.outIndex, Halen: 6, Protocol: htons(proto)}); err != nil {
		t.Fatalf("send %d octets on %s: %v", len(b), w.name, err)
	}
}

// Link makes a veth pair: name inside, the test's end outside. The thread is inside.
func Link(t *testing.T, outside, inside netns.NsHandle, name string) *Wire {
	t.Helper()
	return linkMTU(t, outside, inside, name, 1500)
}

func linkMTU(t *testing.T, outside, inside netns.NsHandle, name string, mtu int) *Wire {
	t.Helper()
	must(t, netns.Set(outside))
	peer := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "o-" + name, MTU: mtu}, PeerName: name, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(inside)}
	must(t, netlink.LinkAdd(peer))
	sysctl(t, "ipv6/conf/o-"+name+"/disable_ipv6", "1")
	out, err := netlink.LinkByName("o-" + name)
	must(t, err)
	must(t, netlink.LinkSetUp(out))
	w := &Wire{name: name, mac: core.MAC(out.Attrs().HardwareAddr), outIndex: out.Attrs().Index}
	w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(w.fd) })
	must(t, opts(w.fd, [3]int{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}, [3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer}))
	must(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.outIndex}))
	must(t, unix.SetsockoptPacketMreq(w.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(w.outIndex), Type: unix.PACKET_MR_PROMISC}))
	must(t, netns.Set(inside))
	in, err := netlink.LinkByName(name)
	must(t, err)
	// No address is made up, so nothing solicits on its own.
	sysctl(t, "ipv6/conf/"+name+"/addr_gen_mode", "1")
	sysctl(t, "ipv6/conf/"+name+"/accept_dad", "0")
	must(t, netlink.LinkSetUp(in))
	w.peer, w.ifi = core.MAC(in.Attrs().HardwareAddr), in.Attrs().Index
	return w
}

// neighbour makes an address reachable over a link without ND or ARP.
func (w *Wire) neighbour(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: w.ifi, Dst: dst, Scope: netlink.SCOPE_LINK}))
		must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: w.ifi, IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(w.mac[:]), State: netlink.NUD_PERMANENT}))
	}
}

// device is a packet socket on a TUN device of this namespace.
func device(t *testing.T, name string) *Wire {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetMTU(l, ip.MaxPacket))
	w := &Wire{name: name, tun: true, ifi: l.Attrs().Index, outIndex: l.Attrs().Index}
	w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(w.fd) })
	must(t, opts(w.fd, [3]int{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}, [3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer}))
	must(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.ifi}))
	return w
}

// Wire is the test's end of one link of the router, or of its TUN device: there, what is sent is read by the plane.
type Wire struct {
	tun      bool
	name     string // of the router's end
	fd       int
	mac      core.MAC // of the test's end
	peer     core.MAC // of the router's end
	ifi      int      // of the router's end, in its namespace
	outIndex int
}
