package ip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestErrorsOfBothFamilies(t *testing.T) {
	for _, c := range []struct {
		p      Problem
		info   uint32
		v6, v4 []byte // type, code, checksum left out, second word
	}{
		{NoRoute, 0, []byte{1, 0, 0, 0, 0, 0}, []byte{3, 0, 0, 0, 0, 0}},
		{Prohibited, 0, []byte{1, 1, 0, 0, 0, 0}, []byte{3, 13, 0, 0, 0, 0}},
		{Unreachable, 0, []byte{1, 3, 0, 0, 0, 0}, []byte{3, 1, 0, 0, 0, 0}},
		{TooBig, 1460, []byte{2, 0, 0, 0, 5, 0xb4}, []byte{3, 4, 0, 0, 5, 0xb4}},
		{TimeExceeded, 0, []byte{3, 0, 0, 0, 0, 0}, []byte{11, 0, 0, 0, 0, 0}},
		{ParameterFail, 44, []byte{4, 0, 0, 0, 0, 44}, []byte{12, 0, 44, 0, 0, 0}},
	} {
		for _, f := range []struct {
			src, dst netip.Addr
			proto    uint8
			max, hdr int
			want     []byte
		}{{a6, b6, ICMPv6, 1280, 40, c.v6}, {a4, b4, ICMPv4, 576, 20, c.v4}} {
			for _, n := range []int{8, 2000} {
				pkt := packet(t, Header{Src: f.dst, Dst: f.src, Proto: UDP, TTL: 3}, bytes.Repeat([]byte{0xab}, n))
				out, err := AppendError(nil, f.src, c.p, c.info, pkt)
				if err != nil {
					t.Fatal(err)
				}
				h, err := Parse(out)
				if err != nil || h.Src != f.src || h.Dst != f.dst || h.Proto != f.proto || len(out) != min(f.hdr+8+len(pkt), f.max) {
					t.Errorf("problem %d: %+v, %d octets, %v", c.p, h, len(out), err)
				}
				if tos := map[uint8]uint8{ICMPv4: 0xc0}[f.proto]; h.TOS != tos { // RFC 1812 4.3.2.5
					t.Errorf("problem %d: type of service %#x, want %#x", c.p, h.TOS, tos)
				}
				body := out[h.HdrLen:]
				if got := append(bytes.Clone(body[:2]), body[4:8]...); !bytes.Equal(got, f.want) {
					t.Errorf("problem %d: % x, want % x", c.p, got, f.want)
				}
				if !bytes.Equal(body[8:], pkt[:len(body)-8]) {
					t.Errorf("problem %d: the quotation differs", c.p)
				}
				sum := plainSum(body)
				if f.proto == ICMPv6 {
					s, d := f.src.As16(), f.dst.As16()
					pseudo := append(append(s[:], d[:]...), 0, 0, byte(len(body)>>8), byte(len(body)), 0, 0, 0, ICMPv6)
					sum = plainSum(append(pseudo, body...))
				}
				if sum != 0 {
					t.Errorf("problem %d: checksum leaves %04x", c.p, sum)
				}
			}
		}
	}
}

func TestNeverAnswered(t *testing.T) {
	v6 := func(src, dst string, proto uint8, payload ...byte) []byte {
		return packet(t, Header{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: proto, TTL: 9}, append(payload, make([]byte, 8)...))
	}
	v4 := func(src, dst string, proto uint8, off int, payload ...byte) []byte {
		return packet(t, Header{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: proto, TTL: 9, Off: off}, append(payload, make([]byte, 8)...))
	}
	for name, c := range map[string]struct {
		pkt []byte
		p   Problem
		ok  bool
	}{
		"UDP":                            {v6("2001:db8::1", "2001:db8::2", UDP), Unreachable, true},
		"echo request":                   {v6("2001:db8::1", "2001:db8::2", ICMPv6, 128), Unreachable, true},
		"ICMPv6 error":                   {v6("2001:db8::1", "2001:db8::2", ICMPv6, 3), Unreachable, false},
		"ICMPv6 private error":           {v6("2001:db8::1", "2001:db8::2", ICMPv6, 127), Unreachable, false},
		"redirect":                       {v6("2001:db8::1", "2001:db8::2", ICMPv6, 137), Unreachable, false},
		"to multicast":                   {v6("2001:db8::1", "ff05::2", UDP), Unreachable, false},
		"Packet Too Big to multicast":    {v6("2001:db8::1", "ff05::2", UDP), TooBig, true},
		"from nowhere":                   {v6("::", "2001:db8::2", UDP), Unreachable, false},
		"from multicast":                 {v6("ff02::1", "2001:db8::2", UDP), Unreachable, false},
		"from loopback":                  {v6("::1", "2001:db8::2", UDP), Unreachable, false},
		"first fragment":                 {v6("2001:db8::1", "2001:db8::2", Fragment, UDP, 0, 0, 1, 0, 0, 0, 1), Unreachable, true},
		"later fragment":                 {v6("2001:db8::1", "2001:db8::2", Fragment, UDP, 0, 1, 0, 0, 0, 0, 1), Unreachable, false},
		"error behind extension headers": {v6("2001:db8::1", "2001:db8::2", DstOpts, ICMPv6, 0, 1, 4, 0, 0, 0, 0, 1), Unreachable, false},
		"broken extension header":        {v6("2001:db8::1", "2001:db8::2", DstOpts, UDP, 9), Unreachable, false},
		"IPv4 UDP":                       {v4("192.0.2.1", "192.0.2.2", UDP, 0), Unreachable, true},
		"IPv4 echo request":              {v4("192.0.2.1", "192.0.2.2", ICMPv4, 0, 8), Unreachable, true},
		"IPv4 unreachable":               {v4("192.0.2.1", "192.0.2.2", ICMPv4, 0, 3), Unreachable, false},
		"IPv4 redirect":                  {v4("192.0.2.1", "192.0.2.2", ICMPv4, 0, 5), Unreachable, false},
		"IPv4 time exceeded":             {v4("192.0.2.1", "192.0.2.2", ICMPv4, 0, 11), Unreachable, false},
		"IPv4 later fragment":            {v4("192.0.2.1", "192.0.2.2", UDP, 64), Unreachable, false},
		"IPv4 broadcast":                 {v4("192.0.2.1", "255.255.255.255", UDP, 0), Unreachable, false},
		"IPv4 multicast":                 {v4("192.0.2.1", "224.0.0.1", UDP, 0), TooBig, false},
		"IPv4 from nowhere":              {v4("0.0.0.0", "192.0.2.2", UDP, 0), Unreachable, false},
		"IPv4 from class E":              {v4("240.0.0.1", "192.0.2.2", UDP, 0), Unreachable, false},
		"nothing":                        {nil, Unreachable, false},
	} {
		if got := MayAnswer(c.pkt, c.p); got != c.ok {
			t.Errorf("%s: %v, want %v", name, got, c.ok)
		}
		src := a6
		if len(c.pkt) > 0 && c.pkt[0]>>4 == 4 {
			src = a4
		}
		if _, err := AppendError(nil, src, c.p, 1280, c.pkt); (err == nil) != c.ok {
			t.Errorf("%s: AppendError says %v", name, err)
		}
	}
	if _, err := AppendError(nil, a4, Unreachable, 0, v6("2001:db8::1", "2001:db8::2", UDP)); err == nil {
		t.Error("an IPv4 source for an ICMPv6 error was accepted")
	}
	short := v6("2001:db8::1", "2001:db8::2", ICMPv6, 128)[:40]
	binary.BigEndian.PutUint16(short[4:], 8)
	if MayAnswer(short, Unreachable) {
		t.Error("an ICMPv6 message cut before its type was answered")
	}
}
