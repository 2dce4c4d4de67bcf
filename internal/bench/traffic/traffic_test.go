package traffic

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// pair is two namespaces on one link. The second one has the whole of a prefix as its addresses.
func pair(t *testing.T) (a, b *netns.NS) {
	t.Helper()
	a, b = netns.Test(t, "a"), netns.Test(t, "b")
	netns.TestVeth(t, netns.End{NS: a, Name: "x", Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::a/64"), netip.MustParsePrefix("192.0.2.1/24")}},
		netns.End{NS: b, Name: "y", Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("2001:db8::2/64"), netip.MustParsePrefix("192.0.2.2/24")}})
	return a, b
}

var source = netip.MustParseAddr("2001:db8::a")

// sender is a's end of the link; the router is b.
func sender(t *testing.T, a, b *netns.NS) Sender {
	t.Helper()
	l, err := b.Link("y")
	if err != nil {
		t.Fatal(err)
	}
	return Sender{NS: a, Link: "x", Source: source, Router: core.MAC(l.Attrs().HardwareAddr)}
}

func TestTCPStreams(t *testing.T) {
	a, b := pair(t)
	for _, to := range []string{"[2001:db8::1]:5201", "192.0.2.2:5201"} {
		for _, n := range []int{1, 3} {
			octets, seconds, err := TCP{From: a, At: b, To: netip.MustParseAddrPort(to), Streams: n, Time: 50 * time.Millisecond}.Measure(t.Context())
			if err != nil || octets == 0 || seconds < 0.05 {
				t.Errorf("%s, %d streams: %d octets in %v s, %v", to, n, octets, seconds, err)
			}
		}
	}
	if _, _, err := (TCP{From: b, At: a, To: netip.MustParseAddrPort("[2001:db8::99]:1"), Streams: 1, Time: time.Millisecond}).Measure(t.Context()); err == nil {
		t.Error("nobody is there, and TCP says nothing")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := (TCP{From: a, At: b, To: netip.MustParseAddrPort("[2001:db8::1]:5201"), Streams: 1, Time: time.Hour}).Measure(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a sample that was given up: %v", err)
	}
}

// TestUDPPackets: all packets arrive, and never more than the rate allows: fewer on a busy machine.
func TestUDPPackets(t *testing.T) {
	a, b := pair(t)
	for _, size := range []int{64, 512} {
		u, err := NewUDP(sender(t, a, b), b, []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}, size)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		var p Probe
		for range 100 { // until the link carries
			if p, err = u.Send(t.Context(), 1000, 10*time.Millisecond, nil); err != nil || p.Sent > 0 && p.Received == p.Sent {
				break
			}
		}
		var h Histogram
		if p, err = u.Send(t.Context(), 20000, 100*time.Millisecond, &h); err != nil {
			t.Fatal(err)
		}
		if p.Sent == 0 || p.Sent > 2000 || p.Received != p.Sent || h.N() != p.Received {
			t.Errorf("%d octets: %d sent of 2000 at most, %d received, %d latencies", size, p.Sent, p.Received, h.N())
		}
		if l := h.Quantile(0.5); l <= 0 || l > int64(time.Second) {
			t.Errorf("median latency %d ns", l)
		}
		if p, err = u.Send(t.Context(), 0, 20*time.Millisecond, nil); err != nil || p.Sent == 0 {
			t.Errorf("as fast as it can: %d packets, %v", p.Sent, err)
		}
	}
	if _, err := NewUDP(sender(t, a, b), b, nil, 63); err == nil {
		t.Error("packets without room for their marks")
	}
}

// TestUDPSize: packets have the size on the wire that was asked for, with their headers.
func TestUDPSize(t *testing.T) {
	a, b := pair(t)
	u, err := NewUDP(sender(t, a, b), b, []netip.Addr{netip.MustParseAddr("2001:db8::1")}, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var tap int
	err = b.Do(func() (err error) {
		tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0xdd86) // ETH_P_IPV6 in network order
		return errors.Join(err, timeouts(tap, 2*time.Second))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tap)
	if _, err := u.Send(t.Context(), 1000, 50*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 2000); ; {
		n, _, err := unix.Recvfrom(tap, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal("no packet: ", err)
		}
		if n > 40 && buf[6] == 17 { // UDP
			if n != 64 {
				t.Errorf("a packet of %d octets", n)
			}
			return
		}
	}
}

// TestSendAllocates: what goes on while packets are sent takes no memory, so that no garbage collection is measured.
func TestSendAllocates(t *testing.T) {
	a, b := pair(t)
	u, err := NewUDP(sender(t, a, b), b, []netip.Addr{netip.MustParseAddr("2001:db8::1")}, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	of := func(d time.Duration) float64 {
		return testing.AllocsPerRun(3, func() {
			if _, err := u.Send(t.Context(), 50000, d, nil); err != nil {
				t.Fatal(err)
			}
		})
	}
	// 10,000 packets more must not mean allocations more; some belong to a call.
	if short, long := of(10*time.Millisecond), of(210*time.Millisecond); long > short+50 {
		t.Errorf("%v allocations of a short probe, %v of a long one", short, long)
	}
}
