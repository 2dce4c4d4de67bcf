package ebpf

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/conformance"
	"kedge/wire/ip"
)

// flooded is what a TCP stream to the host gets while another namespace sends as fast as it can, bits a second.
func (w *world) flooded(from string, packet func(i int) []byte) (rate float64) {
	var end atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.try(from, func() error {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for i := 0; !end.Load(); i++ {
				b := packet(i)
				_ = unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}) // a full queue is a flood's own
			}
			return nil
		})
	}()
	rate = w.flow("cn", netip.MustParseAddr(host6), "host", 300*time.Millisecond)
	end.Store(true)
	<-done
	return rate
}

// TestFloodGate: known traffic keeps under a flood what it keeps at a plain router that drops the same flood by a rule, or not much
// less. The benchmark tells how much; here is half of what it must be, in pairs taken by turns, and beyond doubt: on a busy machine the
// median of seven samples is likely to be anything up to the second best.
func TestFloodGate(t *testing.T) {
	plain, p := newPlain(t, true), newPath(t, false, nil)
	plain.sh("lma", "nft add table ip6 f", "nft add chain ip6 f pre { type filter hook prerouting priority -300 ; }",
		"nft add rule ip6 f pre ip6 daddr 2001:db8:1000:99::/64 drop", "nft add rule ip6 f pre ip6 saddr 2001:db8:f::/48 drop")
	for _, w := range []*world{plain, p.world} {
		w.sh("mag", "ip route add 2001:db8:f::/48 dev lo", "sysctl -qw net.ipv6.ip_nonlocal_bind=1")
	}
	for _, c := range []struct {
		name, from string
		packet     func(i int) []byte
	}{
		{"to unknown homes", "cn", func(i int) []byte { return udp6(conformance.CN6, numbered("2001:db8:1000:99::", i)) }},
		{"from unknown peers", "mag", func(i int) []byte {
			in := udp6(netip.MustParseAddr(host6), conformance.CN6)
			b, err := (&ip.Header{Src: numbered("2001:db8:f::", i), Dst: conformance.LMAA, Proto: ip.IPv6, TTL: 64}).Append(nil, len(in))
			must(t, err)
			return append(b, in...)
		}},
	} {
		var ratios []float64
		for range 7 {
			a := plain.flooded(c.from, c.packet)
			ratios = append(ratios, p.flooded(c.from, c.packet)/a)
		}
		slices.Sort(ratios)
		t.Logf("%s: known traffic keeps, of what plain routing keeps, %.2f", c.name, ratios)
		if ratios[5] < 0.4 {
			t.Errorf("%s: the median of %.2f is surely below 0.4", c.name, ratios)
		}
	}
	if ops := len(p.anchor.Ops()); ops != 3 {
		t.Errorf("state has grown to %d ops", ops)
	}
}
