package ip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"kedge/wire"
)

func TestGRE(t *testing.T) {
	payload := []byte{0x45, 1, 2}
	for _, c := range []struct {
		proto uint8
		key   uint32
		want  string
	}{
		{IPv4, 0, "\x00\x00\x08\x00"}, {IPv6, 0, "\x00\x00\x86\xdd"},
		{IPv4, 0x01020304, "\x20\x00\x08\x00\x01\x02\x03\x04"}, {IPv6, 1, "\x20\x00\x86\xdd\x00\x00\x00\x01"},
	} {
		b := AppendGRE(nil, c.proto, c.key)
		if string(b) != c.want || len(b) != GRELen(c.key) {
			t.Errorf("%x, want %x", b, c.want)
		}
		if g, err := ParseGRE(append(b, payload...)); err != nil || g != (GREHeader{Proto: c.proto, Keyed: c.key != 0, Key: c.key, Len: len(c.want)}) {
			t.Errorf("%+v, %v", g, err)
		}
	}
}

func TestGRERefused(t *testing.T) {
	for name, c := range map[string]struct {
		b    string
		want wire.Reason
	}{
		"nothing": {"", wire.Truncated}, "three octets": {"\x00\x00\x08", wire.Truncated}, "no room for the key": {"\x20\x00\x08\x00\x00\x00\x00", wire.Truncated},
		"no room for the checksum": {"\x80\x00\x08\x00\x00", wire.Truncated}, "no room for the sequence": {"\x30\x00\x08\x00\x00\x00\x00\x00\x00", wire.Truncated},
		"routing": {"\x40\x00\x08\x00\x00\x00\x00\x00", wire.BadValue}, "bit 4": {"\x08\x00\x08\x00", wire.BadValue}, "bit 5": {"\x04\x00\x08\x00", wire.BadValue},
		"version 1": {"\x00\x01\x08\x00", wire.BadValue}, "version 7": {"\x00\x07\x08\x00", wire.BadValue}, "ARP": {"\x00\x00\x08\x06", wire.UnknownType},
		"checksum": {"\x80\x00\x08\x00\x12\x34\x00\x00\x45", wire.BadChecksum},
	} {
		if g, err := ParseGRE([]byte(c.b)); !errors.Is(err, c.want) || g != (GREHeader{}) {
			t.Errorf("%s: %+v, %v; want %v", name, g, err, c.want)
		}
	}
	full := []byte("\xb3\xf8\x86\xdd\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x09payload")
	binary.BigEndian.PutUint16(full[4:], Checksum(full))
	if g, err := ParseGRE(full); err != nil || g != (GREHeader{Proto: IPv6, Keyed: true, Key: 7, Len: 16}) {
		t.Errorf("%+v, %v", g, err)
	}
	full[len(full)-1]++
	if _, err := ParseGRE(full); !errors.Is(err, wire.BadChecksum) {
		t.Error(err)
	}
	if g, err := ParseQuotedGRE(full[:16]); err != nil || g.Key != 7 {
		t.Errorf("quoted: %+v, %v", g, err)
	}
}

func TestTLV(t *testing.T) {
	for _, c := range []struct {
		layout, proto uint8
		n             int
		want          string
	}{
		{TLV5845, IPv4, 20, "\x00\x04\x00\x14"}, {TLV5845, IPv6, 0x1234, "\x00\x29\x12\x34"}, {TLV5845, GRE, 1, "\x00\x2f\x00\x01"}, {TLV5845, ESP, 0, "\x00\x32\x00\x00"},
		{TLV2007, IPv4, 20, "\x01\x14\x00\x00"}, {TLV2007, IPv6, 40, "\x02\x28\x00\x00"}, {TLV2007, ESP, 255, "\x03\xff\x00\x00"}, {TLV2007, GRE, 0x1234, "\x04\x34\x00\x00"},
	} {
		b := AppendTLV(nil, c.layout, c.proto, c.n)
		if string(b) != c.want || !IsTLV(b) {
			t.Errorf("%x, want %x", b, c.want)
		}
		whole := append(b, make([]byte, c.n)...)
		if layout, proto, err := ParseTLV(whole); err != nil || layout != c.layout || proto != c.proto {
			t.Errorf("%x: %d, %d, %v", c.want, layout, proto, err)
		}
		for _, n := range []int{-1, 1} {
			if _, _, err := ParseTLV(append(bytes.Clone(b), make([]byte, max(c.n+n, 0))...)); c.n+n >= 0 && !errors.Is(err, wire.BadLength) {
				t.Errorf("%x with %d octets more: %v", c.want, n, err)
			}
		}
	}
	for in, want := range map[string]wire.Reason{"": wire.Truncated, "\x00\x04\x00": wire.Truncated, "\x05\x00\x00\x00": wire.UnknownType, "\x00\x06\x00\x00": wire.UnknownType, "\x00\x04\x00\x01": wire.BadLength} {
		if _, _, err := ParseTLV([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%x: %v, want %v", in, err, want)
		}
	}
	for _, b := range []string{"", "\x45", "\x60", "\x05", "\xff"} {
		if IsTLV([]byte(b)) {
			t.Errorf("%x is taken for a TLV header", b)
		}
	}
}

func FuzzFraming(f *testing.F) {
	f.Add(append(AppendGRE(nil, IPv6, 7), 0x60))
	f.Add([]byte("\xb0\x00\x86\xdd\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x09"))
	f.Add(append(AppendTLV(nil, TLV5845, IPv4, 1), 0x45))
	f.Add(append(AppendTLV(nil, TLV2007, GRE, 1), 0x20))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := ParseGRE(b); err == nil {
			// What was read, written again, is read the same way; without optional fields it is the same octets.
			w := AppendGRE(nil, g.Proto, g.Key)
			if again, err := ParseGRE(w); err != nil || again.Proto != g.Proto || again.Key != g.Key || g.Len > len(b) {
				t.Fatalf("%+v became %+v, %v", g, again, err)
			}
		}
		if layout, proto, err := ParseTLV(b); err == nil {
			w := AppendTLV(nil, layout, proto, len(b)-TLVLen)
			if l, p, err := ParseTLV(append(w, b[TLVLen:]...)); err != nil || l != layout || p != proto || !IsTLV(b) {
				t.Fatalf("%x became %x, %v", b, w, err)
			}
		}
	})
}
