package ip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"kedge/wire"

	"pgregory.net/rapid"
)

func fragments(t testing.TB, pkt []byte, mtu int, id uint32) (out [][]byte) {
	t.Helper()
	f, err := NewFragmenter(pkt, mtu, id)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, ok := f.Next(nil)
		if !ok {
			return out
		}
		out = append(out, b)
	}
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestFragmentBytes(t *testing.T) {
	// 60 octets of fragmentable part behind a Hop-by-Hop Options header, MTU 96: 40+8+8+40 and 40+8+8+20.
	hbh := []byte{UDP, 0, 1, 4, 0, 0, 0, 0}
	pkt := packet(t, Header{Src: a6, Dst: b6, Proto: HopByHop, TTL: 64}, append(bytes.Clone(hbh), counting(60)...))
	got := fragments(t, pkt, 96, 0x01020304)
	if len(got) != 2 {
		t.Fatalf("%d fragments", len(got))
	}
	one := packet(t, Header{Src: a6, Dst: b6, Proto: HopByHop, TTL: 64}, bytes.Join([][]byte{{Fragment, 0, 1, 4, 0, 0, 0, 0}, {UDP, 0, 0, 1, 1, 2, 3, 4}, counting(60)[:40]}, nil))
	two := packet(t, Header{Src: a6, Dst: b6, Proto: HopByHop, TTL: 64}, bytes.Join([][]byte{{Fragment, 0, 1, 4, 0, 0, 0, 0}, {UDP, 0, 0, 40, 1, 2, 3, 4}, counting(60)[40:]}, nil))
	if !bytes.Equal(got[0], one) || !bytes.Equal(got[1], two) {
		t.Errorf("%x\n%x, want\n%x\n%x", got[0], got[1], one, two)
	}
	got = fragments(t, packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 64, ID: 5}, counting(60)), 60, 0)
	one = packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 64, ID: 5, MF: true}, counting(60)[:40])
	two = packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 64, ID: 5, Off: 40}, counting(60)[40:])
	if len(got) != 2 || !bytes.Equal(got[0], one) || !bytes.Equal(got[1], two) {
		t.Errorf("%x, want\n%x\n%x", got, one, two)
	}
}

func TestFragmentRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		h      Header
		mtu    int
		reason wire.Reason
	}{
		"DF":            {Header{Src: a4, Dst: b4, DF: true}, 100, wire.TooBig},
		"fragment":      {Header{Src: a6, Dst: b6, Proto: Fragment}, 1280, wire.BadValue},
		"no room":       {Header{Src: a6, Dst: b6, Proto: UDP}, 55, wire.BadValue},
		"no room, IPv4": {Header{Src: a4, Dst: b4}, 27, wire.BadValue},
	} {
		if _, err := NewFragmenter(packet(t, c.h, make([]byte, 200)), c.mtu, 1); !errors.Is(err, c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIPv4OptionsInFragments(t *testing.T) {
	// Loose source route (copied), record route (not copied), both 7 octets, and padding.
	opts := []byte{0x83, 7, 4, 1, 2, 3, 4, 0x07, 7, 4, 0, 0, 0, 0, 1, 0}
	pkt := packet(t, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 64, ID: 9}, append(opts, counting(100)...))
	pkt[0], pkt[10], pkt[11] = 0x40|9, 0, 0
	binary.BigEndian.PutUint16(pkt[10:], plainSum(pkt[:36]))
	got := fragments(t, pkt, 100, 0)
	for i, f := range got {
		h, err := Parse(f)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 36, false: 28}[i == 0]; h.HdrLen != want {
			t.Errorf("fragment %d: header of %d octets, want %d", i, h.HdrLen, want)
		}
		if !bytes.Equal(f[20:27], opts[:7]) {
			t.Errorf("fragment %d lost the copied option", i)
		}
	}
}

func TestFragmentAndReassemble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{Src: a6, Dst: b6, Proto: UDP, TTL: 64, TOS: rapid.Uint8().Draw(t, "tos")}
		if rapid.Bool().Draw(t, "v4") {
			h.Src, h.Dst, h.ID = a4, b4, rapid.Uint16().Draw(t, "id")
		}
		n := rapid.IntRange(1501, 9000).Draw(t, "n")
		b, err := h.Append(nil, n)
		if err != nil {
			t.Fatal(err)
		}
		pkt := append(b, counting(n)...)
		f, err := NewFragmenter(pkt, rapid.IntRange(200, 1500).Draw(t, "mtu"), 77)
		if err != nil {
			t.Fatal(err)
		}
		var all [][]byte
		for b, ok := f.Next(nil); ok; b, ok = f.Next(nil) {
			all = append(all, b)
		}
		all = rapid.Permutation(all).Draw(t, "order")
		r := NewReassembler(Limits{})
		for i, b := range all {
			if i > 0 && rapid.IntRange(0, 3).Draw(t, "repeat") == 0 && i < len(all)-1 {
				if _, err := r.Add(0, all[i-1]); err != nil {
					t.Fatalf("a repeated fragment: %v", err)
				}
			}
			whole, err := r.Add(0, b)
			if err != nil || (whole != nil) != (i == len(all)-1) {
				t.Fatalf("fragment %d of %d: %d octets, %v", i, len(all), len(whole), err)
			}
			if whole != nil && !bytes.Equal(whole, pkt) {
				t.Fatalf("%x\n%x", whole, pkt)
			}
		}
		if p, o := r.Held(); p != 0 || o != 0 {
			t.Fatalf("%d packets and %d octets are left", p, o)
		}
	})
}

func frag6(t testing.TB, id uint32, off int, more bool, data []byte) []byte {
	v := uint16(off)
	if more {
		v |= 1
	}
	hdr := []byte{UDP, 0, byte(v >> 8), byte(v)}
	return packet(t, Header{Src: a6, Dst: b6, Proto: Fragment, TTL: 64}, append(binary.BigEndian.AppendUint32(hdr, id), data...))
}

func TestOverlapDropsTheWhole(t *testing.T) {
	for name, second := range map[string][]byte{
		"from inside":        frag6(t, 1, 32, true, counting(64)),
		"around":             frag6(t, 1, 0, true, counting(128)),
		"same place, other":  frag6(t, 1, 0, true, bytes.Repeat([]byte{9}, 64)),
		"before":             frag6(t, 1, 56, true, counting(64)),
		"last one too short": frag6(t, 1, 8, false, counting(3)),
	} {
		r := NewReassembler(Limits{})
		if _, err := r.Add(0, frag6(t, 1, 0, true, counting(64))); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Add(0, second); !errors.Is(err, wire.OverlapFragment) {
			t.Errorf("%s: %v", name, err)
		}
		if whole, err := r.Add(0, frag6(t, 1, 64, false, counting(8))); whole != nil || !errors.Is(err, wire.OverlapFragment) {
			t.Errorf("%s: the fragment after it: %d octets, %v", name, len(whole), err)
		}
		if _, o := r.Held(); o != 0 {
			t.Errorf("%s: still holds %d octets", name, o)
		}
		r.Expire(time.Minute)
		if p, _ := r.Held(); p != 0 {
			t.Errorf("%s: still holds %d packets after the timeout", name, p)
		}
	}
}

func TestReassemblyRefuses(t *testing.T) {
	ce := frag6(t, 1, 64, false, counting(8))
	SetTOS(ce, CE)
	for name, c := range map[string]struct {
		pkts   [][]byte
		reason wire.Reason
	}{
		"not a multiple of 8":   {[][]byte{frag6(t, 1, 0, true, counting(63))}, wire.BadLength},
		"empty":                 {[][]byte{frag6(t, 1, 64, false, nil)}, wire.BadLength},
		"beyond 65,535 octets":  {[][]byte{frag6(t, 1, 0xfff8, false, counting(64))}, wire.TooLong},
		"two ends":              {[][]byte{frag6(t, 1, 64, false, counting(8)), frag6(t, 1, 128, false, counting(8))}, wire.OverlapFragment},
		"headers cut":           {[][]byte{packet(t, Header{Src: a6, Dst: b6, Proto: Fragment}, []byte{DstOpts, 0, 0, 1, 0, 0, 0, 1, UDP, 4, 1, 4, 0, 0, 0, 0})}, wire.Truncated},
		"marked and incapable":  {[][]byte{frag6(t, 1, 0, true, counting(64)), ce}, wire.ECNDrop},
		"too many of one":       {[][]byte{frag6(t, 1, 0, true, counting(8)), frag6(t, 1, 8, true, counting(8)), frag6(t, 1, 16, true, counting(8)), frag6(t, 1, 24, true, counting(8)), frag6(t, 1, 32, true, counting(8))}, wire.ReassemblyLimit},
		"bad one kills earlier": {[][]byte{frag6(t, 1, 0, true, counting(64)), frag6(t, 1, 64, true, counting(63))}, wire.BadLength},
	} {
		r := NewReassembler(Limits{Parts: 4})
		var err error
		for _, p := range c.pkts {
			if _, err = r.Add(0, p); err != nil {
				break
			}
		}
		if !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
		if _, o := r.Held(); o != 0 {
			t.Errorf("%s: %d octets are left", name, o)
		}
	}
}

func TestReassemblyCongestion(t *testing.T) {
	one, two := frag6(t, 1, 0, true, counting(64)), frag6(t, 1, 64, false, counting(8))
	SetTOS(one, 0xb8|ECT0)
	SetTOS(two, 0xb8|CE)
	r := NewReassembler(Limits{})
	if _, err := r.Add(0, one); err != nil {
		t.Fatal(err)
	}
	whole, err := r.Add(0, two)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := Parse(whole); err != nil || h.TOS != 0xb8|CE {
		t.Errorf("traffic class %02x, %v: a mark on one fragment is a mark on the packet", h.TOS, err)
	}
}

func TestReassemblyLimits(t *testing.T) {
	r := NewReassembler(Limits{Packets: 10, Octets: 1000, Timeout: time.Second})
	for id := range uint32(100000) {
		if _, err := r.Add(0, frag6(t, id, 0, true, counting(64))); err != nil {
			t.Fatal(err)
		}
		if p, o := r.Held(); p > 10 || o > 1000 {
			t.Fatalf("holds %d packets, %d octets", p, o)
		}
	}
	if n := r.Evicted(); n != 99990 || r.Evicted() != 0 {
		t.Errorf("%d packets are said to be given up, want 99990, and once", n)
	}
	// The newest ones are still there: a flood evicts the oldest.
	if whole, err := r.Add(0, frag6(t, 99999, 64, false, counting(8))); whole == nil || err != nil {
		t.Errorf("newest: %v", err)
	}
	if gone := r.Expire(999 * time.Millisecond); gone != 0 {
		t.Errorf("%d expired too early", gone)
	}
	if gone := r.Expire(time.Second); gone != 9 {
		t.Errorf("%d expired, want 9", gone)
	}
	r = NewReassembler(Limits{Octets: 1000})
	for id := range uint32(100) {
		if _, err := r.Add(0, frag6(t, id, 0, true, counting(400))); err != nil {
			t.Fatal(err)
		}
		if _, o := r.Held(); o > 1000 {
			t.Fatalf("holds %d octets", o)
		}
	}
	if n := r.Evicted(); n != 98 {
		t.Errorf("%d packets are said to be given up, want 98", n)
	}
}

func FuzzReassembly(f *testing.F) {
	f.Add(append(frag6(f, 1, 0, true, counting(64)), frag6(f, 1, 64, false, counting(8))...))
	f.Add(append(frag6(f, 1, 0, true, counting(64)), frag6(f, 1, 32, true, counting(64))...))
	v4 := fragments(f, packet(f, Header{Src: a4, Dst: b4, Proto: UDP, TTL: 64, ID: 5}, counting(60)), 60, 0)
	f.Add(append(v4[1], v4[0]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReassembler(Limits{Packets: 4, Octets: 4096, Parts: 8})
		for now := time.Duration(0); len(b) > 0; now += time.Second {
			n := len(b)
			if h, err := ParseQuoted(b); err == nil {
				n = max(1, min(n, h.Len))
			}
			whole, _ := r.Add(now, b[:n])
			if whole != nil {
				if _, err := Parse(whole); err != nil {
					t.Fatalf("reassembled into %x: %v", whole, err)
				}
			}
			if p, o := r.Held(); p > 4 || o > 4096 || o < 0 {
				t.Fatalf("holds %d packets, %d octets", p, o)
			}
			b = b[n:]
		}
		r.Expire(time.Hour * 24 * 365)
		if p, o := r.Held(); p != 0 || o != 0 {
			t.Fatalf("%d packets, %d octets are left", p, o)
		}
	})
}
