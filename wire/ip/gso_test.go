package ip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"kedge/wire"
)

func tcp(t testing.TB, src, dst netip.Addr, flags byte, n int) []byte {
	seg := append([]byte{0x1f, 0x90, 0, 80, 0, 0, 0xff, 0xf0, 0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0, 1, 1, 5, 10, 1, 1, 1, 1, 2, 2, 2, 2}, counting(n)...)
	return packet(t, Header{Src: src, Dst: dst, Proto: TCP, TTL: 64, ID: map[bool]uint16{true: 0xffff}[src.Is4()], DF: src.Is4()}, seg)
}

func TestSegmentTCP(t *testing.T) {
	const fin, psh, ack, cwr = 1, 8, 16, 128
	for _, c := range []struct {
		src, dst netip.Addr
		kind     uint8
	}{{a6, b6, GSOTCP6}, {a4, b4, GSOTCP4}} {
		super := tcp(t, c.src, c.dst, fin|psh|ack|cwr, 2500)
		s, err := NewSegmenter(super, c.kind, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var payload []byte
		for i, want := range []struct {
			n     int
			flags byte
		}{{1000, ack | cwr}, {1000, ack}, {500, fin | psh | ack}} {
			b, ok := s.Next(nil)
			if !ok {
				t.Fatalf("only %d segments", i)
			}
			h, err := Parse(b)
			if err != nil || h.Len != len(b) {
				t.Fatalf("segment %d: %v", i, err)
			}
			up := b[h.HdrLen:]
			if got := binary.BigEndian.Uint32(up[4:]); got != 0xfff0+uint32(i)*1000 {
				t.Errorf("segment %d: sequence %x", i, got)
			}
			if up[13] != want.flags || len(up)-32 != want.n {
				t.Errorf("segment %d: flags %02x, %d octets, want %02x, %d", i, up[13], len(up)-32, want.flags, want.n)
			}
			if c.src.Is4() && h.ID != 0xffff+uint16(i) {
				t.Errorf("segment %d: Identification %x", i, h.ID)
			}
			if PseudoChecksum(c.src, c.dst, TCP, up) != 0 {
				t.Errorf("segment %d: TCP checksum", i)
			}
			payload = append(payload, up[32:]...)
		}
		if _, ok := s.Next(nil); ok || !bytes.Equal(payload, counting(2500)) {
			t.Error("the payload differs")
		}
	}
}

func TestSegmentUDP(t *testing.T) {
	pkt := packet(t, Header{Src: a6, Dst: b6, Proto: UDP, TTL: 64}, append([]byte{0, 1, 0, 2, 9, 9, 9, 9}, counting(1500)...))
	s, err := NewSegmenter(pkt, GSOUDPL4, 600)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{600, 600, 300} {
		b, ok := s.Next(nil)
		if !ok || len(b) != 48+n || int(binary.BigEndian.Uint16(b[44:])) != 8+n || PseudoChecksum(a6, b6, UDP, b[40:]) != 0 {
			t.Errorf("datagram %d: %v, %x", i, ok, b[:48])
		}
	}
}

func TestSegmentRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		pkt    []byte
		kind   uint8
		size   int
		reason wire.Reason
	}{
		"other family":  {tcp(t, a6, b6, 16, 99), GSOTCP4, 50, wire.UnknownType},
		"UFO":           {packet(t, Header{Src: a4, Dst: b4, Proto: UDP}, make([]byte, 99)), GSOUDP, 50, wire.UnknownType},
		"size 0":        {tcp(t, a6, b6, 16, 99), GSOTCP6, 0, wire.BadLength},
		"TCP cut":       {packet(t, Header{Src: a6, Dst: b6, Proto: TCP}, make([]byte, 19)), GSOTCP6, 50, wire.BadInner},
		"data offset":   {packet(t, Header{Src: a6, Dst: b6, Proto: TCP}, make([]byte, 20)), GSOTCP6, 50, wire.BadInner},
		"UDP cut":       {packet(t, Header{Src: a6, Dst: b6, Proto: UDP}, make([]byte, 7)), GSOUDPL4, 50, wire.BadInner},
		"no IP packet":  {[]byte{1}, GSOTCP6, 50, wire.UnknownType},
		"IPv4 fragment": {packet(t, Header{Src: a4, Dst: b4, Proto: TCP, MF: true}, make([]byte, 40)), GSOTCP4, 50, wire.BadInner},
	} {
		if _, err := NewSegmenter(c.pkt, c.kind, c.size); !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
	}
}

func TestPartialChecksum(t *testing.T) {
	for _, c := range [][2]netip.Addr{{a6, b6}, {a4, b4}} {
		pkt := tcp(t, c[0], c[1], 16, 333)
		h, err := Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		u, err := FindUpper(pkt, &h)
		if err != nil {
			t.Fatal(err)
		}
		up := pkt[u.Off:]
		if CompletePartial(pkt, &h, &u) {
			t.Error("a checksum field of 0 was taken for a partial one")
		}
		binary.BigEndian.PutUint16(up[16:], fold(pseudo(c[0], c[1], TCP, len(up))))
		other := bytes.Clone(pkt)
		if !CompletePartial(pkt, &h, &u) || PseudoChecksum(c[0], c[1], TCP, up) != 0 {
			t.Error("not completed")
		}
		if CompletePartial(pkt, &h, &u) {
			t.Error("completed twice")
		}
		if err := CompleteChecksum(other, u.Off, 16); err != nil || !bytes.Equal(other, pkt) {
			t.Errorf("by offsets: %v", err)
		}
	}
	// A right packet whose checksum is by chance the pseudo header's sum must stay as it is.
	hit := false
	for i := range 1 << 16 {
		b, err := AppendUDP(nil, netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), []byte{byte(i >> 8), byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		if binary.BigEndian.Uint16(b[6:]) != fold(pseudo(a4, b4, UDP, len(b))) {
			continue
		}
		hit = true
		pkt := packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 9}, b)
		want := bytes.Clone(pkt)
		h, _ := Parse(pkt)
		u, _ := FindUpper(pkt, &h)
		if CompletePartial(pkt, &h, &u); !bytes.Equal(pkt, want) {
			t.Errorf("payload %04x: %x became %x", i, want, pkt)
		}
	}
	if !hit {
		t.Error("no payload has such a checksum: the search is wrong")
	}
	if err := CompleteChecksum(make([]byte, 10), 8, 6); !errors.Is(err, wire.BadLength) {
		t.Errorf("beyond the packet: %v", err)
	}
}

func TestVNet(t *testing.T) {
	v, err := ParseVNet([]byte{1, GSOTCP6 | 0x80, 0x4a, 0, 0xa0, 5, 54, 0, 16, 0})
	if want := (VNet{NeedsChecksum: true, Type: GSOTCP6, Size: 1440, CsumStart: 54, CsumOffset: 16}); err != nil || v != want {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := ParseVNet(make([]byte, 9)); !errors.Is(err, wire.Truncated) {
		t.Errorf("nine octets: %v", err)
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(tcp(f, a6, b6, 16, 3000), uint8(GSOTCP6), uint16(1000))
	f.Add(tcp(f, a4, b4, 16, 3000), uint8(GSOTCP4), uint16(1000))
	f.Add(packet(f, Header{Src: a4, Dst: b4, Proto: UDP}, make([]byte, 99)), uint8(GSOUDPL4), uint16(10))
	f.Fuzz(func(t *testing.T, pkt []byte, kind uint8, size uint16) {
		s, err := NewSegmenter(pkt, kind, int(size))
		if err != nil {
			return
		}
		for n := 0; ; n++ {
			b, ok := s.Next(nil)
			if !ok {
				break
			}
			if _, err := Parse(b); err != nil || n > len(pkt) {
				t.Fatalf("segment %d: %v", n, err)
			}
		}
	})
}
