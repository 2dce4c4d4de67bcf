package ip

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"kedge/wire"

	"pgregory.net/rapid"
)

var (
	a6 = netip.MustParseAddr("2001:db8:a::1")
	b6 = netip.MustParseAddr("2001:db8:a::11")
	a4 = netip.MustParseAddr("192.0.2.1")
	b4 = netip.MustParseAddr("198.51.100.2")
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func packet(t testing.TB, h Header, payload []byte) []byte {
	t.Helper()
	b, err := h.Append(nil, len(payload))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func TestHeaderBytes(t *testing.T) {
	// The IPv4 header is an example with the checksum b861 that is found in many textbooks.
	v4 := unhex(t, "4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")
	h := Header{Src: netip.MustParseAddr("192.168.0.1"), Dst: netip.MustParseAddr("192.168.0.199"), Proto: UDP, TTL: 64, DF: true}
	if got, err := h.Append(nil, 0x73-20); err != nil || !bytes.Equal(got, v4) {
		t.Errorf("IPv4 header %x, %v, want %x", got, err, v4)
	}
	v6 := unhex(t, "6b8f edcb 0004 2940 20010db8000a00000000000000000001 20010db8000a00000000000000000011 01020304")
	h = Header{Src: a6, Dst: b6, Proto: IPv6, TTL: 64, TOS: 0xb8, Flow: 0xfedcb}
	if got, err := h.Append(nil, 4); err != nil || !bytes.Equal(got, v6[:40]) {
		t.Errorf("IPv6 header %x, %v, want %x", got, err, v6[:40])
	}
	got, err := Parse(v6)
	if want := (Header{Src: a6, Dst: b6, Proto: IPv6, TTL: 64, TOS: 0xb8, Flow: 0xfedcb, Len: 44, HdrLen: 40}); err != nil || got != want {
		t.Errorf("parsed %+v, %v, want %+v", got, err, want)
	}
}

func TestParseRefuses(t *testing.T) {
	good4 := packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 1}, make([]byte, 8))
	good6 := packet(t, Header{Src: a6, Dst: b6, Proto: UDP, TTL: 1}, make([]byte, 8))
	edit := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	for name, c := range map[string]struct {
		b      []byte
		reason wire.Reason
	}{
		"empty":                  {nil, wire.Truncated},
		"version 5":              {edit(good4, 0, 0x55), wire.UnknownType},
		"IPv4 19 octets":         {good4[:19], wire.Truncated},
		"IHL 4":                  {edit(good4, 0, 0x44), wire.BadLength},
		"IHL beyond the packet":  {edit(good4, 0, 0x4f), wire.BadLength},
		"total below the header": {edit(good4, 3, 19), wire.BadLength},
		"total beyond the bytes": {edit(good4, 3, 29), wire.Truncated},
		"IPv4 checksum":          {edit(good4, 8, 2), wire.BadChecksum},
		"IPv6 39 octets":         {good6[:39], wire.Truncated},
		"IPv6 cut":               {good6[:47], wire.Truncated},
		"IPv6 jumbogram":         {append(packet(t, Header{Src: a6, Dst: b6, TTL: 1}, nil), 17, 0, 0xc2, 4, 0, 1, 0, 0), wire.BadLength},
	} {
		if _, err := Parse(c.b); !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	for name, h := range map[string]Header{
		"two families": {Src: a4, Dst: b6}, "no source": {Dst: b6}, "no destination": {Src: a4},
	} {
		if _, err := h.Append(nil, 1); !errors.Is(err, wire.BadValue) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, h := range []Header{{Src: a4, Dst: b4}, {Src: a6, Dst: b6}} {
		if _, err := h.Append(nil, MaxPacket+1); !errors.Is(err, wire.TooLong) {
			t.Errorf("too long: %v", err)
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Proto: rapid.Uint8().Draw(t, "proto"), TOS: rapid.Uint8().Draw(t, "tos"), TTL: rapid.Uint8().Draw(t, "ttl"),
		}
		n := rapid.IntRange(0, 2000).Draw(t, "n")
		if rapid.Bool().Draw(t, "v4") {
			h.Src, h.Dst = a4, b4
			h.ID, h.Off, h.DF, h.MF = rapid.Uint16().Draw(t, "id"), rapid.IntRange(0, 8191).Draw(t, "off")*8, rapid.Bool().Draw(t, "df"), rapid.Bool().Draw(t, "mf")
			h.HdrLen = 20
		} else {
			h.Src, h.Dst = a6, b6
			h.Flow, h.HdrLen = rapid.Uint32Range(0, 0xfffff).Draw(t, "flow"), 40
			if h.Proto == HopByHop {
				n = max(n, 8) // without it it is a jumbogram
			}
		}
		b, err := h.Append(nil, n)
		if err != nil {
			t.Fatal(err)
		}
		h.Len = len(b) + n
		got, err := Parse(append(b, make([]byte, n+3)...)) // three octets of link padding
		if err != nil || got != h {
			t.Fatalf("%+v, %v, want %+v", got, err, h)
		}
	})
}

// plainSum is RFC 1071 word by word.
func plainSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func TestChecksumAgainstPlainLoop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "b")
		if got, want := Checksum(b), plainSum(b); got != want {
			t.Fatalf("%x: %04x, want %04x", b, got, want)
		}
	})
	if got, want := Checksum(bytes.Repeat([]byte{0xff}, 65535)), plainSum(bytes.Repeat([]byte{0xff}, 65535)); got != want {
		t.Errorf("64 KB of ones: %04x, want %04x", got, want)
	}
}

func TestChangesKeepChecksumRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{Src: a4, Dst: b4, Proto: None, TTL: rapid.Uint8Range(1, 255).Draw(t, "ttl"), TOS: rapid.Uint8().Draw(t, "tos"), ID: rapid.Uint16().Draw(t, "id")}
		if rapid.Bool().Draw(t, "v6") {
			h.Src, h.Dst, h.ID = a6, b6, 0
		}
		b, err := h.Append(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		tos := rapid.Uint8().Draw(t, "new tos")
		SetTOS(b, tos)
		DecrementTTL(b)
		got, err := Parse(b)
		if err != nil || got.TOS != tos || got.TTL != h.TTL-1 || got.Flow != h.Flow {
			t.Fatalf("%+v, %v", got, err)
		}
		if h.Is4() && plainSum(b) != 0 {
			t.Fatal("checksum")
		}
	})
}

func TestAppendUDP(t *testing.T) {
	for _, c := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		b, err := AppendUDP(nil, netip.AddrPortFrom(c[0], 68), netip.AddrPortFrom(c[1], 67), []byte("odd"))
		if err != nil || binary.BigEndian.Uint16(b) != 68 || binary.BigEndian.Uint16(b[2:]) != 67 || binary.BigEndian.Uint16(b[4:]) != 11 {
			t.Fatalf("%x, %v", b, err)
		}
		if got := PseudoChecksum(c[0], c[1], UDP, b); got != 0 {
			t.Errorf("checksum leaves %04x", got)
		}
	}
	// A datagram whose checksum comes out as 0 must carry ffff (RFC 768): search one.
	for i := 0; i < 1<<16; i++ {
		b, err := AppendUDP(nil, netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), []byte{byte(i >> 8), byte(i)})
		if err != nil || b[6] == 0 && b[7] == 0 {
			t.Fatalf("payload %04x: checksum 0 on the wire, %v", i, err)
		}
	}
	if _, err := AppendUDP(nil, netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), make([]byte, 65528)); !errors.Is(err, wire.TooLong) {
		t.Errorf("too long: %v", err)
	}
}

func TestFindUpper(t *testing.T) {
	udp := make([]byte, 8)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	ext := func(next byte, n int) []byte {
		b := make([]byte, 8+n*8)
		b[0], b[1] = next, byte(n)
		b[2], b[3] = 1, byte(len(b)-4) // PadN
		return b
	}
	frag := func(next byte, off uint16, more bool) []byte {
		v := off
		if more {
			v |= 1
		}
		return []byte{next, 0, byte(v >> 8), byte(v), 0, 0, 0, 7}
	}
	bad := ext(UDP, 0)
	bad[3] = 200
	for name, c := range map[string]struct {
		first  byte
		rest   []byte
		want   Upper
		reason wire.Reason
	}{
		"none":            {UDP, udp, Upper{Proto: UDP, Off: 40}, ""},
		"all":             {HopByHop, join(ext(Routing, 0), ext(DstOpts, 1), ext(UDP, 0), udp), Upper{Proto: UDP, Off: 40 + 8 + 16 + 8}, ""},
		"limit":           {DstOpts, join(AppendLimit(nil, IPv6, 3), udp), Upper{Proto: IPv6, Off: 48, Limit: 44}, ""},
		"first fragment":  {Fragment, join(frag(UDP, 0, true), udp), Upper{Proto: UDP, Off: 48, Fragment: true, FragHdr: 40, fragName: 6, More: true, ID: 7}, ""},
		"atomic fragment": {Fragment, join(frag(UDP, 0, false), udp), Upper{Proto: UDP, Off: 48, FragHdr: 40, fragName: 6, ID: 7}, ""},
		"later fragment":  {Fragment, join(frag(DstOpts, 64, false), udp), Upper{Proto: DstOpts, Off: 48, Fragment: true, FragHdr: 40, fragName: 6, FragOff: 64, ID: 7}, ""},
		"AH":              {AH, join([]byte{UDP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, udp), Upper{Proto: UDP, Off: 52}, ""},
		"ESP ends it":     {ESP, udp, Upper{Proto: ESP, Off: 40}, ""},
		"cut":             {DstOpts, ext(UDP, 1)[:15], Upper{Proto: DstOpts, Off: 40}, wire.Truncated},
		"two fragments":   {Fragment, join(frag(Fragment, 0, false), frag(UDP, 64, false), udp), Upper{Proto: Fragment, Off: 48, FragHdr: 40, fragName: 6, ID: 7}, wire.BadValue},
		"late hop-by-hop": {DstOpts, join(ext(HopByHop, 0), ext(UDP, 0), udp), Upper{Proto: HopByHop, Off: 48}, wire.BadValue},
		"option too long": {DstOpts, join(bad, udp), Upper{Proto: DstOpts, Off: 40}, wire.BadOptionLength},
		"eleven headers":  {DstOpts, bytes.Repeat(ext(DstOpts, 0), 11), Upper{Proto: DstOpts, Off: 120}, wire.TooManyOptions},
	} {
		pkt := packet(t, Header{Src: a6, Dst: b6, Proto: c.first, TTL: 64}, c.rest)
		h, err := Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FindUpper(pkt, &h)
		if got != c.want || (err == nil) != (c.reason == "") || err != nil && !errors.Is(err, c.reason) {
			t.Errorf("%s: %+v, %v, want %+v, %q", name, got, err, c.want, c.reason)
		}
	}
}

// TestECN writes the table of RFC 6040 figure 4 out once more, row by row.
func TestECN(t *testing.T) {
	names := map[string]uint8{"Not-ECT": 0, "ECT(0)": 2, "ECT(1)": 1, "CE": 3}
	outers := []string{"Not-ECT", "ECT(0)", "ECT(1)", "CE"}
	for inner, row := range map[string][]string{
		"Not-ECT": {"Not-ECT", "Not-ECT!", "Not-ECT!", "drop!"},
		"ECT(0)":  {"ECT(0)", "ECT(0)", "ECT(1)", "CE"},
		"ECT(1)":  {"ECT(1)", "ECT(1)!", "ECT(1)", "CE"},
		"CE":      {"CE", "CE", "CE!", "CE"},
	} {
		for i, cell := range row {
			want, odd := strings.CutSuffix(cell, "!")
			const innerDSCP, outerDSCP = 0x28, 0xb8
			tos, ok, o := Decapsulate(innerDSCP|names[inner], outerDSCP|names[outers[i]])
			if ok != (want != "drop") || o != odd || ok && tos != outerDSCP|names[want] {
				t.Errorf("inner %s, outer %s: %02x %v %v, want %s", inner, outers[i], tos, ok, o, cell)
			}
		}
	}
	for tos := range 256 {
		if got := Encapsulate(uint8(tos)); got != uint8(tos) {
			t.Errorf("encapsulation of %02x gives %02x: normal mode and the uniform model copy", tos, got)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	pkt := packet(t, Header{Src: a6, Dst: b6, Proto: DstOpts, TTL: 9}, append(AppendLimit(nil, UDP, 1), make([]byte, 600)...))
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		h, _ := Parse(pkt)
		_, _ = FindUpper(pkt, &h)
		SetTOS(pkt, 3)
		_, _ = Parse(pkt[:39])
		out, _ := AppendError(buf, a6, TooBig, 1280, pkt)
		f, _ := NewFragmenter(pkt, 400, 1)
		for ok := true; ok; {
			_, ok = f.Next(out)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet(f, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 1, ID: 7}, make([]byte, 8)))
	f.Add(packet(f, Header{Src: a6, Dst: b6, Proto: DstOpts, TTL: 1}, AppendLimit(nil, IPv6, 0)))
	f.Add(packet(f, Header{Src: a6, Dst: b6, Proto: Fragment, TTL: 1}, []byte{UDP, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if err != nil {
			var e *wire.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no wire.Error", err)
			}
		} else {
			pkt := b[:h.Len]
			if u, err := FindUpper(pkt, &h); err == nil && (u.Off < h.HdrLen || u.Off > h.Len) {
				t.Fatalf("upper layer at %d of %d", u.Off, h.Len)
			}
			if fr, err := NewFragmenter(pkt, MinMTU6, 1); err == nil {
				for {
					out, ok := fr.Next(nil)
					if !ok {
						break
					}
					if _, err := Parse(out); err != nil || len(out) > MinMTU6 {
						t.Fatalf("fragment of %d octets: %v", len(out), err)
					}
				}
			}
		}
		out, err := AppendError(nil, a6, Unreachable, 0, b)
		if err != nil {
			out, err = AppendError(nil, a4, Unreachable, 0, b)
		}
		if err == nil {
			if _, err := Parse(out); err != nil || len(out) > MinMTU6 {
				t.Fatalf("ICMP error of %d octets: %v", len(out), err)
			}
			if MayAnswer(out, Unreachable) {
				t.Fatal("an ICMP error would be answered")
			}
		}
	})
}
