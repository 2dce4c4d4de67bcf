package ipsec

import (
	"bytes"
	"fmt"
	"testing"
)

// What data costs a packet. BenchmarkDataParallel has all processors use one association, as the queues of one peer do.

var dataSizes = []int{64, 512, 1400}

func BenchmarkDataSeal(b *testing.B) {
	for _, suite := range []Suite{"aes128-gcm", "aes128-sha256"} {
		for _, n := range dataSizes {
			b.Run(fmt.Sprintf("%s/%d", suite, n), func(b *testing.B) {
				d, _ := dataPairOf(b, suite, true)
				inner, dst := innerOf(b, ProtoIPv6, n), make([]byte, 0, 2048)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.Seal(7, ProtoIPv6, inner, dst); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkDataOpen(b *testing.B) {
	for _, suite := range []Suite{"aes128-gcm", "aes128-sha256"} {
		for _, n := range dataSizes {
			b.Run(fmt.Sprintf("%s/%d", suite, n), func(b *testing.B) {
				a, d := dataPairOf(b, suite, true)
				esp := mustSeal(b, a, 7, ProtoIPv6, innerOf(b, ProtoIPv6, n))
				work, in := bytes.Clone(esp), d.table.get(9).in
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					in.win = window{} // the same packet again
					copy(work, esp)
					if _, _, _, err := d.Open(0, dataLocal, dataRemote, work, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkDataParallel(b *testing.B) {
	for _, n := range dataSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, _ := dataPairOf(b, "aes128-gcm", true)
			inner := innerOf(b, ProtoIPv6, n)
			b.SetBytes(int64(n))
			b.RunParallel(func(pb *testing.PB) {
				dst := make([]byte, 0, 2048)
				for pb.Next() {
					if _, err := d.Seal(7, ProtoIPv6, inner, dst); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
