package mem

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// BenchmarkMove moves the sessions of one gateway to another in batches, in an order that no cache likes.
func BenchmarkMove(b *testing.B) {
	local := netip.MustParseAddr("2001:db8:a::1")
	to := func(gateway string) core.Chain {
		remote := netip.AddrPortFrom(netip.MustParseAddr(gateway), 0)
		return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: remote}}}
	}
	gateways := [2]core.Chain{to("2001:db8:a::11"), to("2001:db8:a::12")}
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e, err := New(Config{Role: dataplane.Anchor, Local: []netip.Addr{local}, MTU: 1500, Now: func() time.Duration { return 0 }})
			if err != nil {
				b.Fatal(err)
			}
			six, four := netip.MustParseAddr("3fff::").As16(), [4]byte{}
			for i := range uint32(n) {
				binary.BigEndian.PutUint32(six[4:], i)
				binary.BigEndian.PutUint32(four[:], 10<<24|i)
				id := core.ID(i + 1)
				err := e.Update([]core.Op{
					core.SetSession{ID: id, Chain: gateways[0]},
					core.SetKey{Match: core.Match{Dst: netip.PrefixFrom(netip.AddrFrom16(six), 64)}, ID: id, Up: true, Down: true},
					core.SetKey{Match: core.Match{Dst: netip.PrefixFrom(netip.AddrFrom4(four), 32)}, ID: id, Up: true, Down: true},
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			ops := make([]core.Op, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += len(ops) {
				b.StopTimer()
				for i := range ops {
					ops[i] = core.SetSession{ID: core.ID((done+i)*7919%n + 1), Chain: gateways[(done/n+1)%2], Grace: time.Second}
				}
				b.StartTimer()
				if err := e.Update(ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
