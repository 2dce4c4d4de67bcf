package mem

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ip"
)

// outerOf is the one outer packet that the other end of c makes of an inner one.
func outerOf(t testing.TB, c core.Chain, inner []byte) []byte {
	t.Helper()
	all := carried(t, newChained(t, dataplane.Node, c, Config{}), inner)
	if len(all) != 1 {
		t.Fatalf("%d outer packets", len(all))
	}
	return all[0]
}

// TestChainRefusals: what differs in one field from what a session's chain says is dropped, counted and nothing else.
func TestChainRefusals(t *testing.T) {
	up := packet(t, home6, cn6, 64, 10)
	gre, tlv, esp := testChains[3].chain, testChains[5].chain, testChains[12].chain
	edit := func(c core.Chain, at int, v ...byte) []byte {
		b := bytes.Clone(outerOf(t, c, up))
		copy(b[at:], v)
		if b[9] == ip.UDP {
			b[26], b[27] = 0, 0
		}
		return b
	}
	const g, v = 20, 28 // where the GRE and the TLV header begin
	for _, c := range []struct {
		name  string
		chain core.Chain
		pkt   []byte
		want  wire.Reason
	}{
		{"another key", gre, edit(gre, g+4, 0, 0, 0, 0x12), wire.WrongTunnel},
		{"key 0", gre, edit(gre, g+4, 0, 0, 0, 0), wire.WrongTunnel},
		{"the key down", gre, edit(gre, g+4, 0, 0, 0, 0x22), wire.WrongTunnel},
		{"GRE without a key", gre, outerOf(t, testChains[2].chain, up), wire.WrongTunnel},
		{"no GRE", gre, around(t, coa4, lmaa4, up), wire.WrongTunnel},
		{"a key where there is none", testChains[2].chain, outerOf(t, gre, up), wire.WrongTunnel},
		{"routing", gre, edit(gre, g, 0x60), wire.BadGRE},
		{"strict source route", gre, edit(gre, g, 0x28), wire.BadGRE},
		{"recursion", gre, edit(gre, g, 0x24), wire.BadGRE},
		{"version 1", gre, edit(gre, g+1, 1), wire.BadGRE},
		{"a bad checksum", gre, edit(gre, g, 0xa0), wire.BadGRE},
		{"a frame of Ethernet", gre, edit(gre, g+2, 0x65, 0x58), wire.BadGRE},
		{"IPv4 named IPv6", gre, edit(gre, g+2, 0x08, 0), wire.BadInner},
		{"TLV length", tlv, edit(tlv, v+3, 1), wire.BadTLV},
		{"TLV of TCP", tlv, edit(tlv, v+1, ip.TCP), wire.BadTLV},
		{"TLV of 2007, length", tlv, edit(tlv, v, 2, 1), wire.BadTLV},
		{"TLV type 5", tlv, edit(tlv, v, 5), wire.BadInner},
		{"no TLV", tlv, framed(t, udp4, far4, up), wire.WrongTunnel},
		{"TLV where there is none", one(core.Layer{Local: udp4, Remote: far4}), edit(tlv, v), wire.WrongTunnel},
		{"another association", esp, edit(esp, 20, 0x80, 0, 0, 4), wire.WrongTunnel},
		{"an SPI of nobody", esp, edit(esp, 20, 0), wire.UnknownSPI},
		{"a repetition", esp, edit(esp, 24, 1), wire.Replayed},
		{"forged", esp, edit(esp, 25, 1), wire.BadICV},
		{"not protected", esp, around(t, coa4, lmaa4, up), wire.WrongTunnel},
		{"6 in 6, no outer one", testChains[15].chain, around(t, coa2, lmaa, up), wire.WrongTunnel},
		{"6 in 6, another inner one", testChains[15].chain, around(t, coa, lmaa, around(t, cn6, lmaa, up)), wire.WrongTunnel},
		{"6 in 6, no inner one", testChains[15].chain, around(t, coa, lmaa, up), wire.WrongTunnel},
		{"6 in 6 in 6", testChains[15].chain, around(t, coa, lmaa, around(t, coa2, lmaa, around(t, home6, lmaa, up))), wire.EncapsulateDeep},
	} {
		e := newChained(t, dataplane.Anchor, c.chain, Config{})
		var out Out
		e.Tunnel(time.Hour, bytes.Clone(c.pkt), &out)
		if len(out.Packets) != 0 || e.Dropped(c.want) != 1 {
			t.Errorf("%s: %d packets came out, %d drops for %s", c.name, len(out.Packets), e.Dropped(c.want), c.want)
			e.Drops(func(r wire.Reason, n uint64) {
				if n != 0 {
					t.Logf("%d for %s", n, r)
				}
			})
		}
	}
}

// TestGRETolerated: a checksum that is right, a sequence number, and the bits that a receiver ignores.
func TestGRETolerated(t *testing.T) {
	c := testChains[3].chain
	up := packet(t, home6, cn6, 64, 10)
	for name, head := range map[string][]byte{
		"sequence": {0x30, 0, 0x86, 0xdd, 0, 0, 0, 0x11, 0, 0, 0, 9}, "ignored bits": {0x23, 0xf8, 0x86, 0xdd, 0, 0, 0, 0x11},
		"checksum": {0xa0, 0, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0x11},
	} {
		body := append(bytes.Clone(head), up...)
		if name == "checksum" {
			binary.BigEndian.PutUint16(body[4:], ip.Checksum(body))
		}
		h := ip.Header{Src: coa4, Dst: lmaa4, Proto: ip.GRE, TTL: 64}
		b, err := h.Append(nil, len(body))
		if err != nil {
			t.Fatal(err)
		}
		if got := taken(t, newChained(t, dataplane.Anchor, c, Config{Forwarded: true}), [][]byte{append(b, body...)}); len(got) != 1 || !bytes.Equal(got[0], up) {
			t.Errorf("%s: %x", name, got)
		}
	}
}

// TestKeysSeparateDomains: two sessions share both ends and every inner address, and only the GRE key tells them apart.
func TestKeysSeparateDomains(t *testing.T) {
	layer := core.Layer{Local: plain(lmaa4), Remote: plain(coa4), GRE: true, KeyUp: 0x11, KeyDown: 0x22}
	e := newChained(t, dataplane.Anchor, one(layer), Config{Forwarded: true})
	second := layer
	second.KeyUp, second.KeyDown = 0x33, 0x44
	if err := e.Update([]core.Op{
		core.SetSession{ID: 2, Domain: 7, Chain: one(second)},
		core.SetKey{ID: 2, Match: core.Match{Domain: 7, Dst: whole(home4)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	taken(t, e, [][]byte{outerOf(t, one(second), packet(t, home4, cn4, 64, 10)), outerOf(t, one(layer), packet(t, home4, cn4, 64, 10))})
	got := make([]core.Counter, 2)
	if err := e.Counters([]core.ID{1, 2}, got); err != nil || got[0].PacketsIn != 1 || got[1].PacketsIn != 1 {
		t.Errorf("counted %+v, %v", got, err)
	}
	// Across them nothing goes: a packet from the second to the address that the first has is the second's own.
	outer := outerOf(t, one(second), packet(t, home4, home4, 64, 10))
	var out Out
	e.Tunnel(time.Hour, outer, &out)
	if len(out.Packets) != 1 || binary.BigEndian.Uint32(out.Packets[0].B[24:]) != 0x44 {
		t.Errorf("%+v, want it with key 0x44", out.Packets)
	}
	for name, l := range map[string]core.Layer{"key up": {Local: layer.Local, Remote: layer.Remote, GRE: true, KeyUp: 0x11, KeyDown: 9}, "key down": {Local: layer.Local, Remote: layer.Remote, GRE: true, KeyUp: 9, KeyDown: 0x22}} {
		if err := e.Update([]core.Op{core.SetSession{ID: 3, Domain: 9, Chain: one(l)}}); err == nil {
			t.Errorf("one %s for two domains was accepted", name)
		}
	}
	if err := e.Update([]core.Op{core.Drop{ID: 1}, core.Drop{ID: 2}}); err != nil {
		t.Fatal(err)
	}
	e.mustBeEmpty(t)
}

// TestTLVOnWire: the headers of data in UDP and TLV, octet by octet, from both ends, for each kind of payload.
func TestTLVOnWire(t *testing.T) {
	spec.Covers(t, "S001-4.2.2-47", "S001-4.2.2-48", "S001-4.2.2-50", "S001-4.3.2-36")
	for _, c := range []struct {
		name     string
		at       int
		src, dst netip.Addr
		want     string // TLV header, and what follows it
	}{
		{name: "IPv4", at: 5, src: cn4, dst: home4, want: "\x00\x04\x00\x26\x45"},
		{name: "IPv6", at: 5, src: cn6, dst: home6, want: "\x00\x29\x00\x3a\x60"},
		{name: "GRE around IPv4", at: 8, src: cn4, dst: home4, want: "\x00\x2f\x00\x2e\x20\x00\x08\x00\x00\x00\x00\x22\x45"},
		{name: "GRE around IPv6", at: 8, src: cn6, dst: home6, want: "\x00\x2f\x00\x42\x20\x00\x86\xdd\x00\x00\x00\x22\x60"},
		{name: "ESP", at: 10, src: cn4, dst: home4, want: "\x00\x32\x00\x2f\x80\x00\x00\x03"},
		{name: "IPv4, 2007", at: 7, src: cn4, dst: home4, want: "\x01\x26\x00\x00\x45"},
		{name: "IPv6, 2007", at: 7, src: cn6, dst: home6, want: "\x02\x3a\x00\x00\x60"},
		{name: "GRE, 2007", at: 9, src: cn4, dst: home4, want: "\x04\x2e\x00\x00\x20\x00\x08\x00"},
	} {
		for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway} {
			src, dst, inner, want := lmaa4, coa4, packet(t, c.src, c.dst, 64, 10), []byte(c.want)
			if role == dataplane.Gateway {
				src, dst, inner = coa4, lmaa4, packet(t, c.dst, c.src, 64, 10)
				want = bytes.Replace(want, []byte("\x00\x00\x00\x22"), []byte("\x00\x00\x00\x11"), 1)
			}
			b := carried(t, newChained(t, role, testChains[c.at].chain, Config{}), inner)[0]
			h, err := ip.Parse(b)
			if err != nil || h.Src != src || h.Dst != dst || h.Proto != ip.UDP || ip.PseudoChecksum(h.Src, h.Dst, ip.UDP, b[20:]) != 0 {
				t.Fatalf("%s: %+v, %v", c.name, h, err)
			}
			if got := b[28:][:len(want)]; !bytes.Equal(got, want) {
				t.Errorf("%s, role %d: %x, want %x", c.name, role, got, want)
			}
		}
	}
}

// TestTLVMalformed: what differs in length from its datagram, or is of an unknown kind, goes nowhere and is counted.
func TestTLVMalformed(t *testing.T) {
	spec.Covers(t, "S001-4.2.2-51")
	for _, at := range []int{5, 7, 8, 9} {
		good := outerOf(t, testChains[at].chain, packet(t, home6, cn6, 64, 10))
		for name, f := range map[string]func(b []byte){
			"longer": func(b []byte) { b[29]++; b[31]++ }, "shorter": func(b []byte) { b[29]--; b[31]-- },
			"unknown type": func(b []byte) { b[28], b[29] = 0, 99 },
		} {
			b := bytes.Clone(good)
			f(b)
			b[26], b[27] = 0, 0
			e := newChained(t, dataplane.Anchor, testChains[at].chain, Config{})
			var out Out
			e.Tunnel(time.Hour, b, &out)
			if len(out.Packets) != 0 || e.Dropped(wire.BadTLV) != 1 {
				t.Errorf("%s, %s: %d packets, %d drops", testChains[at].name, name, len(out.Packets), e.Dropped(wire.BadTLV))
			}
		}
	}
}

// TestSignalInTLV: signalling that came with a TLV header is answered with one, whether a session knows the tuple or not.
func TestSignalInTLV(t *testing.T) {
	for _, layout := range []uint8{ip.TLV5845, ip.TLV2007} {
		e := newFramed(t, dataplane.Anchor, plain(lmaa), plain(coa), Config{})
		msg := mobility(t, home6, lmaa)
		body := append(ip.AppendTLV(nil, layout, ip.IPv6, len(msg)), msg...)
		var out Out
		e.Tunnel(time.Hour, framed(t, udp4, far4, body), &out)
		want := one(core.Layer{Local: udp4, Remote: far4, TLV: layout})
		if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSignal || out.Packets[0].Outer != want {
			t.Fatalf("%+v", out.Packets)
		}
		var back Out
		if err := e.Encapsulate(time.Hour, want, mobility(t, lmaa, home6), &back); err != nil {
			t.Fatal(err)
		}
		if got := back.Packets[0].B[28:]; !bytes.Equal(got[:4], ip.AppendTLV(nil, layout, ip.IPv6, len(msg))) {
			t.Errorf("answered with %x", got[:4])
		}
	}
}

// TestChainErrors: an error about the outer packet of any chain whose inside can be read lowers the path MTU, and its inner
// source hears of it; of what is encrypted the path MTU alone, and only if the quotation is of a packet that was sent.
func TestChainErrors(t *testing.T) {
	for _, c := range testChains {
		e := newChained(t, dataplane.Anchor, c.chain, Config{})
		big := packet(t, cn6, home6, 64, 1500-c.over-48-8)
		sent := carried(t, e, big)
		if len(sent) != 1 {
			t.Fatalf("%s: %d packets", c.name, len(sent))
		}
		secret := c.chain.Layer[0].SA|c.chain.Layer[1].SA != 0
		about := func(b []byte) []Packet {
			msg := append([]byte{2, 0, 0, 0, 0, 0, 5, 0x78}, b[:min(len(b), 500)]...) // 1,400
			if sent[0][0]>>4 == 4 {
				msg = append([]byte{3, 4, 0, 0, 0, 0, 5, 0x78}, b[:min(len(b), 500)]...)
			}
			var out Out
			e.TunnelError(time.Hour, sent[0][0]>>4 == 4, msg, &out)
			return out.Packets
		}
		forged := bytes.Clone(sent[0])
		if forged[0]>>4 == 4 {
			forged[4]++
		} else {
			forged[3]++
		}
		if secret {
			if about(forged); len(carried(t, e, big)) != 1 {
				t.Errorf("%s: a forged error was believed", c.name)
			}
		}
		got := about(sent[0])
		if secret && len(got) != 0 || !secret && (len(got) != 1 || got[0].To != dataplane.ToSelf || binary.BigEndian.Uint32(got[0].B[44:]) != uint32(max(1400-c.over, 1280))) {
			t.Errorf("%s: told %+v", c.name, got)
		}
		var out Out
		e.Native(time.Hour, Native{B: bytes.Clone(big)}, &out)
		// Of ESP in UDP over IPv6 only a Witness could tell that it was sent.
		deaf := c.chain.Layer[0].ESPPort != 0 && sent[0][0]>>4 == 6
		if noted := len(out.Packets) == 1 && out.Packets[0].To == dataplane.ToSelf; noted == deaf {
			t.Errorf("%s: the path MTU was noted: %v", c.name, noted)
		}
	}
}

// TestChainsFragmented: over a path of 1,280 octets what must pass is fragmented outside and arrives whole.
func TestChainsFragmented(t *testing.T) {
	for _, c := range testChains {
		a, b := newChained(t, dataplane.Anchor, c.chain, Config{MTU: 1280}), newChained(t, dataplane.Node, c.chain, Config{})
		for _, pkt := range [][]byte{packet(t, cn6, home6, 64, 1232), packet(t, cn4, home4, 64, 1272)} {
			sent := carried(t, a, pkt)
			ip.DecrementTTL(pkt)
			if got := taken(t, b, sent); len(sent) < 2 || len(got) != 1 || !bytes.Equal(got[0], pkt) {
				t.Errorf("%s: %d fragments, %d packets", c.name, len(sent), len(got))
			}
		}
	}
}

// TestChainLimits: the second layer takes one from the limit of the first (RFC 2473 4.1.1); what must not enter it is answered.
func TestChainLimits(t *testing.T) {
	c := testChains[15].chain
	sent := carried(t, newChained(t, dataplane.Anchor, c, Config{EncapsulationLimit: 4}), packet(t, cn6, home6, 64, 10))[0]
	if want := []byte{41, 0, 4, 1, 3, 1, 1, 0}; !bytes.Equal(sent[40:48], want) {
		t.Errorf("outer limit %x, want %x", sent[40:48], want)
	}
	if want := []byte{41, 0, 4, 1, 4, 1, 1, 0}; !bytes.Equal(sent[88:96], want) {
		t.Errorf("inner limit %x, want %x", sent[88:96], want)
	}
	for n, want := range map[uint8][2]byte{0: {4, 0}, 1: {1, 3}} {
		e := newChained(t, dataplane.Anchor, c, Config{})
		var out Out
		e.Native(time.Hour, Native{B: limited(t, cn6, home6, n)}, &out)
		if len(out.Packets) != 1 || [2]byte(out.Packets[0].B[40:42]) != want || e.Dropped(wire.EncapsulateDeep) != 1 {
			t.Errorf("limit %d: %+v", n, out.Packets)
		}
	}
}

// TestChainECN: congestion at the outer layer reaches the packet through both.
func TestChainECN(t *testing.T) {
	for _, c := range testChains[15:21] {
		pkt := packet(t, home6, cn6, 64, 10)
		ip.SetTOS(pkt, 0xb8|ip.ECT0)
		sent := outerOf(t, c.chain, pkt)
		ip.SetTOS(sent, 0xb8|ip.CE)
		got := taken(t, newChained(t, dataplane.Anchor, c.chain, Config{Forwarded: true}), [][]byte{sent})
		ip.SetTOS(pkt, 0xb8|ip.CE)
		if len(got) != 1 || !bytes.Equal(got[0], pkt) {
			t.Errorf("%s: %x", c.name, got)
		}
	}
}

// TestNoAllocationChained: no chain costs memory, in no direction.
func TestNoAllocationChained(t *testing.T) {
	for _, c := range testChains {
		a := newChained(t, dataplane.Anchor, c.chain, Config{Forwarded: true})
		down, up := packet(t, cn6, home6, 64, 1000), outerOf(t, c.chain, packet(t, home6, cn6, 64, 1000))
		var out Out
		buf := make([]byte, 0, 70000)
		for name, f := range map[string]func(){
			"down":    func() { a.Native(time.Hour, Native{B: append(buf, down...)}, &out) },
			"up":      func() { a.Tunnel(time.Hour, append(buf, up...), &out) },
			"garbage": func() { a.Tunnel(time.Hour, append(buf, up[:len(up)-1]...), &out) },
		} {
			if n := testing.AllocsPerRun(100, func() { out.Reset(); f() }); n != 0 {
				t.Errorf("%s, %s: %v allocations", c.name, name, n)
			}
			if len(out.Packets) != 1 && name != "garbage" {
				t.Errorf("%s, %s: %d packets", c.name, name, len(out.Packets))
			}
		}
	}
}

func FuzzChains(f *testing.F) {
	for i, c := range testChains {
		f.Add(uint8(i), outerOf(f, c.chain, packet(f, home6, cn6, 64, 100)))
		f.Add(uint8(i), outerOf(f, c.chain, packet(f, home4, cn4, 64, 100)))
	}
	f.Fuzz(func(t *testing.T, at uint8, pkt []byte) {
		c := testChains[int(at)%len(testChains)].chain
		for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
			e := newChained(t, role, c, Config{})
			var out Out
			e.Tunnel(time.Hour, bytes.Clone(pkt), &out)
			e.Native(time.Hour, Native{If: 1, MAC: hostA, B: bytes.Clone(pkt)}, &out)
			if len(pkt) > 8 {
				e.TunnelError(time.Hour, pkt[0]&1 != 0, bytes.Clone(pkt), &out)
			}
			for _, p := range out.Packets {
				if h, err := ip.Parse(p.B); err != nil || h.Len != len(p.B) {
					t.Fatalf("%v: %x: %v", p.To, p.B, err)
				}
			}
		}
	})
}
