package ebpf

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/conformance"
)

// flooded is what a TCP stream to the host gets while the correspondent node sends to unknown homes as fast as it can, bits a second.
func (w *world) flooded() (rate float64) {
	var end atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.try("cn", func() error {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for i := 0; !end.Load(); i++ {
				b := udp6(conformance.CN6, numbered("2001:db8:1000:99::", i))
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
// less. The benchmark tells how much; here is half of what it must be, as the median of pairs taken by turns.
func TestFloodGate(t *testing.T) {
	plain := newPlain(t, true)
	plain.sh("lma", "nft add table ip6 f", "nft add chain ip6 f pre { type filter hook prerouting priority -300 ; }", "nft add rule ip6 f pre ip6 daddr 2001:db8:1000:99::/64 drop")
	p := newPath(t, false, nil)
	var ratios []float64
	for range 5 {
		a := plain.flooded()
		b := p.flooded()
		ratios = append(ratios, b/a)
	}
	slices.Sort(ratios)
	t.Logf("known traffic under a flood, of what plain routing keeps: %.2f", ratios)
	if ratios[2] < 0.4 {
		t.Errorf("the median of %.2f is below 0.4", ratios)
	}
	if ops := len(p.anchor.Ops()); ops != 3 {
		t.Errorf("state has grown to %d ops", ops)
	}
}
