package ebpf

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/wire"
)

// TestHandoverLosesNothing sends the same stream twice into an anchor's tunnel, as fast as it can, once in peace and once while its
// session moves to and fro between two tunnels to the same gateway all the time. What the programs took in came out again: not one
// packet was dropped at the anchor for a reason, in either.
func TestHandoverLosesNothing(t *testing.T) {
	const n = 50000
	p := newPath(t, false, nil)
	six, four := tunnelOf(conformance.LMAA, conformance.CoA1, 0), tunnelOf(conformance.LMAA4, coaGateway4, 0)
	drops := func() (sum uint64) {
		p.anchor.Drops(func(_ wire.Reason, k uint64) { sum += k })
		return sum
	}
	move := func(i int) {
		c := six
		if i%2 == 0 {
			c = four
		}
		must(t, p.anchor.Update([]core.Op{core.SetSession{ID: 1, Chain: c, Grace: 500 * time.Millisecond}}))
	}
	for _, moving := range []bool{false, true} {
		before, was := drops(), total(p.anchor, 1).PacketsOut
		var end atomic.Bool
		moves := make(chan int)
		go func() {
			i := 0
			for ; moving && !end.Load(); i++ {
				move(i)
			}
			moves <- i
		}()
		start := time.Now()
		p.pour("cn", n, func(i int) []byte {
			b := udp6(conformance.CN6, netip.MustParseAddr(host6))
			binary.BigEndian.PutUint32(b[len(b)-4:], uint32(i)) // the payload says which it is, its sum no more
			return b
		})
		took := time.Since(start)
		p.settle(func() uint64 { return total(p.anchor, 1).PacketsOut })
		end.Store(true)
		handovers := <-moves
		if out := total(p.anchor, 1).PacketsOut - was; out != n || drops() != before {
			t.Errorf("moving %v: %d of %d packets went into the tunnels, %d were dropped; %s", moving, out, n, drops()-before, p.drops())
		}
		t.Logf("moving %v: %d packets in %v, %d handovers", moving, n, took, handovers)
		if moving && handovers < 10 {
			t.Errorf("only %d handovers", handovers)
		}
	}
	// Some go the slow way while the kernel looks for the neighbour of a way that is new; none may be lost for it.
	if _, out := slow(p.anchor, 1); out > n/20 {
		t.Errorf("%d packets went the slow way", out)
	}
}
