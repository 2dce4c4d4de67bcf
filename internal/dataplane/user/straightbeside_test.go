package user

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/system"
	"kedge/wire"
	"kedge/wire/ip"
)

// TestStraightBesideSignalling: the port of signalling takes its packets below the stack as well. Each packet comes to one of them, once,
// and no kernel answers any.
func TestStraightBesideSignalling(t *testing.T) {
	d := newDirect(t)
	ports := map[*Plane]core.Port{}
	for _, p := range []*Plane{d.node, d.peer} {
		d.must(map[*Plane]netns.NsHandle{d.node: d.host, d.peer: d.cn}[p], func() error {
			h, err := system.NewHost(system.Options{})
			if err != nil {
				return err
			}
			t.Cleanup(func() { h.Close() })
			ports[p], err = h.Open("ip")
			return err
		})
		t.Cleanup(func() { ports[p].Close() })
	}
	d.begin()
	stop := d.record()
	mh := []byte{59, 1, 5, 0, 0, 0, 0, 1, 0xc0, 0, 0, 9, 1, 2, 0, 0}
	signal := func(want string) {
		t.Helper()
		up := message(coa6, conformance.CN6, ip.DstOpts, slices.Concat(ip.AppendHomeAddress(nil, ip.Mobility, home6), mh, []byte(want)))
		down := message(conformance.CN6, coa6, ip.Routing, slices.Concat(ip.AppendRouting2(nil, ip.Mobility, home6), mh, []byte(want)))
		d.from(up, down)
		for p, b := range map[*Plane][]byte{d.peer: up, d.node: down} {
			into := make([]core.Packet, 8)
			n, err := ports[p].Read(into)
			if err != nil || n != 1 || !bytes.Equal(into[0].B[40:], b[40:]) {
				t.Fatalf("%d messages, %x, %v, want %x", n, into[0].B, err, b)
			}
		}
	}
	signal("before..")
	d.source = home6
	d.transfer(d.host, conformance.CN6, d.cn, 1<<20)
	d.source = netip.Addr{}
	d.transfer(d.cn, home6, d.host, 1<<20)
	signal("after...") // and nothing came in between
	for _, p := range []*Plane{d.node, d.peer} {
		for _, r := range []wire.Reason{wire.BadInner, wire.Malformed, wire.WrongTunnel} {
			if p.Dropped(r) != 0 {
				t.Errorf("drops: %s", d.drops())
			}
		}
	}
	recorded := stop() // what a connection says last may come when nobody takes it any more
	must(t, d.peer.Close())
	if s := d.tables(d.cn); !strings.Contains(s, "kedge-107") || strings.Contains(s, "kedge-ro") {
		t.Errorf("after Close: %s", s)
	}
	if l := d.tshark(recorded, "icmpv6.type in {1..4}"); len(l) != 0 {
		t.Errorf("%d errors, as %s", len(l), l[0])
	}
}

// TestStraightSuper: what a correspondent's kernel left to a device that is none, a super packet with half a checksum, arrives as the
// datagrams that it is.
func TestStraightSuper(t *testing.T) {
	d := newDirect(t)
	d.begin()
	const size, count = 1000, 3
	udp := make([]byte, ip.UDPLen+size*count)
	for i := range udp[ip.UDPLen:] {
		udp[ip.UDPLen+i] = byte(i / size)
	}
	binary.BigEndian.PutUint16(udp, 5)
	binary.BigEndian.PutUint16(udp[2:], 78)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	ends := slices.Concat(home6.AsSlice(), conformance.CN6.AsSlice(), []byte{0, 0, 0, 0, 0, 0, 0, ip.UDP})
	binary.BigEndian.PutUint32(ends[32:], uint32(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], ^ip.Checksum(ends))
	pkt := message(coa6, conformance.CN6, ip.DstOpts, slices.Concat(ip.AppendHomeAddress(nil, ip.UDP, home6), udp))
	binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-ip.IPv6Len))

	var server net.PacketConn
	var mac net.HardwareAddr
	d.must(d.cn, func() (err error) {
		if server, err = net.ListenPacket("udp", "["+conformance.CN6.String()+"]:78"); err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth0")
		mac = l.Attrs().HardwareAddr
		return err
	})
	defer server.Close()
	d.must(d.router, func() error {
		l, err := netlink.LinkByName("net0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := opts(fd, [3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1}); err != nil {
			return err
		}
		const head = 14 + ip.IPv6Len + ip.HomeAddressLen
		v := []byte{1, ip.GSOUDPL4, head + ip.UDPLen, 0, size & 0xff, size >> 8, head, 0, 6, 0}
		frame := slices.Concat(v, mac, l.Attrs().HardwareAddr, []byte{0x86, 0xdd}, pkt)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Halen: 6, Protocol: htons(unix.ETH_P_IPV6)})
	})
	must(t, server.SetReadDeadline(time.Now().Add(5*time.Second)))
	for i := range count {
		b := make([]byte, len(udp))
		n, from, err := server.ReadFrom(b)
		if err != nil || n != size || b[0] != byte(i) || b[size-1] != byte(i) || from.String() != netip.AddrPortFrom(home6, 5).String() {
			t.Fatalf("datagram %d: %d octets of %d from %v, %v; %s", i, n, b[0], from, err, d.drops())
		}
	}
}
