package ebpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/wire"
	"kedge/wire/ip"
)

// pour sends whole IPv6 packets from a namespace, as fast as it can.
func (w *world) pour(from string, n int, packet func(i int) []byte) {
	w.Helper()
	w.in(from, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range n {
			b := packet(i)
			if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}); err != nil {
				return err
			}
		}
		return nil
	})
}

func udp6(src, dst netip.Addr) []byte {
	body, err := ip.AppendUDP(nil, ap(src, 1), ap(dst, 2), []byte("flood"))
	if err != nil {
		panic(err)
	}
	b, err := (&ip.Header{Src: src, Dst: dst, Proto: ip.UDP, TTL: 64}).Append(nil, len(body))
	if err != nil {
		panic(err)
	}
	return append(b, body...)
}

// settle waits until a count stays as it is.
func (w *world) settle(count func() uint64) {
	for last, still := count(), 0; still < 20; wait(10 * time.Millisecond) {
		if now := count(); now != last {
			last, still = now, 0
		} else {
			still++
		}
	}
}

// numbered is an address of its own for each i.
func numbered(prefix string, i int) netip.Addr {
	a := netip.MustParseAddr(prefix).As16()
	binary.BigEndian.PutUint32(a[12:], uint32(i)*2654435761)
	return netip.AddrFrom16(a)
}

// TestFlood: many packets of strangers are all counted by their reason, few of them reach the daemon, some are reported, no table
// grows, and signalling of a stranger who does not flood still gets through.
func TestFlood(t *testing.T) {
	const n = 30000
	p := newPath(t, false, nil)
	reports := make(chan core.Reported, 1024)
	p.anchor.Reports(func(r core.Reported) {
		select {
		case reports <- r:
		default:
		}
	})
	p.sh("mag", "ip route add 2001:db8:f::/48 dev lo", "sysctl -qw net.ipv6.ip_nonlocal_bind=1")
	wrap := func(src netip.Addr, in []byte) []byte {
		b, err := (&ip.Header{Src: src, Dst: conformance.LMAA, Proto: ip.IPv6, TTL: 64}).Append(nil, len(in))
		must(t, err)
		return append(b, in...)
	}
	for _, c := range []struct {
		name, from string
		reason     wire.Reason
		packet     func(i int) []byte
	}{
		{"to unknown homes", "cn", wire.UnknownHome, func(i int) []byte { return udp6(conformance.CN6, numbered("2001:db8:1000:99::", i)) }},
		{"from unknown peers", "mag", wire.WrongTunnel, func(i int) []byte {
			return wrap(numbered("2001:db8:f::", i), udp6(netip.MustParseAddr(host6), conformance.CN6))
		}},
		{"from one unknown peer", "mag", wire.WrongTunnel, func(i int) []byte {
			return wrap(netip.MustParseAddr("2001:db8:f::1"), udp6(numbered("2001:db8:1000:77::", i), conformance.CN6))
		}},
		{"of unknown sources from a known peer", "mag", wire.WrongSource, func(i int) []byte {
			return wrap(conformance.CoA1, udp6(numbered("2001:db8:1000:77::", i), conformance.CN6))
		}},
	} {
		before, kernel := p.anchor.Dropped(c.reason), p.anchor.dropped(c.reason)
		for len(reports) > 0 {
			<-reports
		}
		start := time.Now()
		p.pour(c.from, n, c.packet)
		// Of those that the programs leave to the daemon, some may be lost before it, where its sockets are full.
		passed := uint64(5000 * (time.Since(start) + time.Second) / time.Second)
		until(t, c.name+": counted in the kernel", func() bool { return p.anchor.dropped(c.reason)-kernel+passed+passed/10 >= n })
		p.settle(func() uint64 { return p.anchor.Dropped(c.reason) }) // so that the next count begins after this one
		all, fast := p.anchor.Dropped(c.reason)-before, p.anchor.dropped(c.reason)-kernel
		t.Logf("%s: %d of %d counted, %d of them in the kernel", c.name, all, n, fast)
		if all > n+10 {
			t.Errorf("%s: %d packets of %d counted, %d of them in the kernel", c.name, all, n, fast)
		}
		select {
		case r := <-reports:
			if r.Reason != string(c.reason) {
				t.Errorf("%s: reported as %s", c.name, r.Reason)
			}
		case <-time.After(time.Second):
			t.Errorf("%s: nothing was reported", c.name)
		}
	}
	p.reach("host", conformance.CN6, "cn")
	if len(p.anchor.Ops()) != 3 {
		t.Errorf("state %v", p.anchor.Ops())
	}
	// A Mobility Header for the anchor, from a stranger.
	mh, err := (&ip.Header{Src: netip.MustParseAddr("2001:db8:1000:5::1"), Dst: conformance.LMAA, Proto: ip.Mobility, TTL: 64}).Append(nil, 8)
	must(t, err)
	mh = append(mh, 59, 0, 5, 0, 0, 0, 0, 0)
	p.pour("mag", 1, func(int) []byte { return wrap(netip.MustParseAddr("2001:db8:f::55"), mh) })
	until(t, "signalling", func() bool { return p.anchor.SignalsWaiting() == 1 })
}
