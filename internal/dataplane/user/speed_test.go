package user

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

// BenchmarkForward is the way of packets through a plane, between its system calls: a batch of them in 64,000 octets.
func BenchmarkForward(b *testing.B) {
	home := netip.MustParsePrefix("2001:db8:1000:1::/64")
	p := &Plane{}
	var err error
	p.Engine, err = mem.New(mem.Config{Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, MTU: 1500, Forwarded: true})
	must(b, err)
	must(b, p.Update([]core.Op{
		core.SetSession{ID: 1, Chain: layer(conformance.LMAA4, conformance.CoA4, 4191, 4191)},
		core.SetKey{ID: 1, Match: core.Match{Dst: home}, Up: true, Down: true},
	}))
	p.vnet = true
	local, remote := netip.AddrPortFrom(conformance.LMAA4, 4191), netip.AddrPortFrom(conformance.CoA4, 4191)
	down := segment{n: 1388 * 44}
	super := append(make([]byte, ip.VNetLen), down.packet()...)
	ip.VNet{NeedsChecksum: true, Type: ip.GSOTCP6, Size: 1388, CsumStart: 40, CsumOffset: 16}.Put(super, 60)
	out, send := &mem.Out{Split: true}, new(sendBatch)
	send.gro.tcp, send.gro.udp = true, true
	b.Run("super in", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(super)))
		for b.Loop() {
			out.Reset()
			p.fromTUN(1, super, out)
			if segments(out.Packets) != 44 {
				b.Fatal(len(out.Packets))
			}
		}
	})
	back := segment{n: 1388 * 44}
	whole := back.packet()
	swap := append([]byte(nil), whole[8:24]...)
	copy(whole[8:], whole[24:40])
	copy(whole[24:], swap)
	s, err := ip.NewSegmenter(whole, ip.GSOTCP6, 1388)
	must(b, err)
	var wire []byte
	for ok := true; ok; {
		wire, ok = s.Next(wire)
	}
	b.Run("run out", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(wire)))
		for b.Loop() {
			out.Reset()
			for rest := wire; len(rest) != 0; rest = rest[1388+60:] {
				p.Decapsulate(1, mem.Outer{Local: local, Remote: remote, Proto: ip.UDP, Offload: true}, rest[:1388+60], out)
			}
			send.gro.fill(out.Packets)
			if len(send.gro.supers) != 1 {
				b.Fatal(len(send.gro.supers))
			}
			send.gro.iovs = send.gro.iovs[:0]
			send.gro.message(&send.gro.supers[0], out.Packets, nil)
		}
	})
	small := segment{n: 16, udp: true}
	in := append(make([]byte, ip.VNetLen), small.packet()...)
	b.Run("64 octets in", func(b *testing.B) {
		for b.Loop() {
			out.Reset()
			for range 64 {
				p.fromTUN(1, in, out)
			}
			if segments(out.Packets) != 64 {
				b.Fatal(len(out.Packets))
			}
		}
	})
	one := small.packet()
	copy(one[8:], in[ip.VNetLen+24:][:16])
	copy(one[24:], in[ip.VNetLen+8:][:16])
	b.Run("64 octets out", func(b *testing.B) {
		for b.Loop() {
			out.Reset()
			for range 64 {
				p.Decapsulate(1, mem.Outer{Local: local, Remote: remote, Proto: ip.UDP, Offload: true}, one, out)
			}
			send.gro.fill(out.Packets)
			if len(send.gro.supers) != 1 {
				b.Fatal(len(send.gro.supers))
			}
			send.gro.iovs = send.gro.iovs[:0]
			send.gro.message(&send.gro.supers[0], out.Packets, nil)
		}
	})
}
