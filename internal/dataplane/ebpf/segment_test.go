package ebpf

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
)

// segments sends datagrams of 1,200 octets and one shorter, many in each system call, as QUIC does, and wants each to arrive whole.
func (w *world) segments(from string, to netip.Addr, at string) error {
	const size, each, calls, last = 1200, 20, 20, 77
	var l net.PacketConn
	if err := w.try(at, func() (err error) {
		l, err = net.ListenPacket("udp", netip.AddrPortFrom(to, 4433).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	must(w, l.(*net.UDPConn).SetReadBuffer(4<<20))
	payload := func(call, i, n int) []byte { return bytes.Repeat([]byte{byte(call), byte(i)}, n/2+1)[:n] }
	err := w.try(from, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to, 4433).String())
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) }); cerr != nil || err != nil {
			return fmt.Errorf("UDP_SEGMENT: %v %w", cerr, err)
		}
		for call := range calls {
			var b []byte
			for i := range each {
				b = append(b, payload(call, i, size)...)
			}
			if _, err := c.Write(append(b, payload(call, each, last)...)); err != nil {
				return err
			}
			wait(time.Millisecond)
		}
		return nil
	})
	if err != nil {
		return err
	}
	got := map[[2]byte]int{}
	b := make([]byte, 65536)
	for {
		_ = l.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, _, err := l.ReadFrom(b)
		if err != nil {
			break
		}
		want := size
		if n >= 2 && b[1] == each {
			want = last
		}
		if n != want || !bytes.Equal(b[:n], payload(int(b[0]), int(b[1]), n)) {
			return fmt.Errorf("a datagram of %d octets, want %d", n, want)
		}
		got[[2]byte(b)]++
	}
	if len(got) != calls*(each+1) {
		return fmt.Errorf("%d of %d datagrams arrived", len(got), calls*(each+1))
	}
	return nil
}

// TestSegments: UDP_SEGMENT in every framing, both ways, with super packets on the tunnel's link and with ones cut before it.
func TestSegments(t *testing.T) {
	for _, c := range []struct {
		name string
		end  core.Chain
	}{
		{"over IPv6", tunnelOf(conformance.CoA1, conformance.LMAA, 0)},
		{"over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, 0)},
		{"UDP over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP)},
		{"GRE with keys over IPv6", inGREOf(tunnelOf(conformance.CoA1, conformance.LMAA, 0), 7, 8)},
		{"GRE with keys over IPv4", inGREOf(tunnelOf(coaGateway4, conformance.LMAA4, 0), 7, 8)},
		{"UDP over IPv6", tunnelOf(conformance.CoA1, conformance.LMAA, dataplane.PortUDP)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newNode(t, c.end)
			for _, cut := range []bool{false, true} {
				if cut {
					p.sh("host", "ethtool -K wlan0 gso off tso off tx-udp-segmentation off tx-udp_tnl-segmentation off")
					p.sh("lma", "ethtool -K core0 gso off tso off tx-udp-segmentation off tx-udp_tnl-segmentation off")
				}
				for _, f := range flows {
					before := total(p.anchor, 1)
					in0, out0 := slow(p.anchor, 1)
					if err := p.segments(f.from, f.to, f.at); err != nil {
						t.Errorf("cut %v, %s: %v; %s", cut, f.name, err, p.drops())
					}
					in, out := slow(p.anchor, 1)
					is := total(p.anchor, 1)
					t.Logf("cut %v, %s: anchor %d packets, %d slowly", cut, f.name, is.PacketsIn+is.PacketsOut-before.PacketsIn-before.PacketsOut, in+out-in0-out0)
				}
			}
		})
	}
}

// TestSegmentsUncut: what a program puts in UDP uncut, for no link wants it cut, a plane without programs takes out in segments.
func TestSegmentsUncut(t *testing.T) {
	p := newNode(t, tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP))
	ops := p.gateway.Ops()
	must(t, p.gateway.Close())
	home6, home4 := netip.MustParseAddr(host6), netip.MustParseAddr(host4)
	var node *user.Plane
	p.in("host", func() (err error) {
		if node, err = user.New(user.Config{Role: dataplane.Node, Home: []netip.Addr{home6}, DeviceMTU: 1500}); err != nil {
			return err
		}
		return node.Update(ops)
	})
	t.Cleanup(func() { must(t, node.Close()) })
	p.sh("host", "ip addr add "+host6+"/128 dev kedge0 nodad", "ip addr add "+host4+"/32 dev kedge0",
		"ip route add 2001:db8:c::/64 dev kedge0 src "+host6, "ip route add 203.0.113.0/24 dev kedge0 src "+host4)
	p.reach("host", conformance.CN6, "cn")
	p.reach("host", conformance.CN4, "cn")
	for _, to := range []netip.Addr{home6, home4} {
		if err := p.segments("cn", to, "host"); err != nil {
			t.Errorf("to %v: %v; %s", to, err, p.drops())
		}
	}
	if in, out := slow(p.anchor, 1); in+out > 20 {
		t.Errorf("%d packets went the anchor's slow way: what they show is another one's work", in+out)
	}
}
