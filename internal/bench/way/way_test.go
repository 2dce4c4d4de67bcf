package way

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/wire/ip"
)

func packet(t testing.TB, src, dst netip.Addr, proto uint8, payload []byte) []byte {
	t.Helper()
	h := ip.Header{Src: src, Dst: dst, Proto: proto, TTL: 64}
	b, err := h.Append(nil, len(payload))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func udp(to uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x10, 0x5f}, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// carried are packets as each way puts them into the core.
func carried(t testing.TB) map[Way][]byte {
	home, _ := HomeOf(5)
	in := packet(t, CN6, home, ip.UDP, udp(9, make([]byte, 16)))
	gre := append([]byte{0x20, 0, 0x86, 0xdd, 0x80, 0, 0, 5}, in...)
	out := map[Way][]byte{
		{Kind: Plain}:     in,
		{Kind: VXLAN}:     packet(t, Anchor4, Gateway4, ip.UDP, udp(PortVXLAN, in)),
		{Kind: WireGuard}: packet(t, Anchor4, Gateway4, ip.UDP, udp(PortWireGuard, in)),
	}
	for e, b := range map[string][]byte{
		"v6": packet(t, Anchor6, Gateway6, ip.IPv6, in), "v4": packet(t, Anchor4, Gateway4, ip.IPv6, in), "udp4": packet(t, Anchor4, Gateway4, ip.UDP, udp(PortUDP, in)),
		"gre6": packet(t, Anchor6, Gateway6, protoGRE, gre), "gre4": packet(t, Anchor4, Gateway4, protoGRE, gre),
		"two6": packet(t, Anchor6, Gateway6, ip.IPv6, packet(t, AnchorIn6, Inner6, ip.IPv6, in)), "esp6": packet(t, Anchor6, Gateway6, ip.ESP, in),
		"esp4": packet(t, Anchor4, Gateway4, ip.UDP, udp(4500, in)),
	} {
		out[Way{Kind: EBPF, Encap: e}] = b
	}
	return out
}

// TestCheck: every way takes its own packets and, but for what only differs deeper, none of another.
func TestCheck(t *testing.T) {
	all := carried(t)
	if len(all) != 3+len(Encaps) {
		t.Fatalf("%d ways, want one for each encapsulation and three", len(all))
	}
	for w := range all {
		for of, b := range all {
			err := w.Check(b)
			if mine := w == of; mine != (err == nil) {
				t.Errorf("%s takes a packet of %s: %v", w.Name(), of.Name(), err)
			}
			if of.Kind == Plain && w.Kind != Plain && errors.Is(err, ErrOther) {
				t.Errorf("%s takes no notice of a packet in no tunnel", w.Name())
			}
			for n := range b { // cut off anywhere: never accepted before the inner header is there, and no panic
				if err := w.Check(b[:n]); err == nil && n < 20 {
					t.Errorf("%s takes %d octets", w.Name(), n)
				}
			}
		}
		nd := packet(t, Anchor6, Gateway6, ip.ICMPv6, make([]byte, 24))
		if err := w.Check(nd); !errors.Is(err, ErrOther) {
			t.Errorf("%s: neighbour discovery: %v", w.Name(), err)
		}
	}
	if err := (Way{Kind: User, Encap: "none"}).Check(all[Way{Kind: EBPF, Encap: "v6"}]); err == nil {
		t.Error("an encapsulation that does not exist")
	}
}

// TestCheckInner: a tunnel that carries something else is not the traffic.
func TestCheckInner(t *testing.T) {
	stranger := packet(t, CN6, Router6, ip.UDP, udp(9, nil))
	for _, b := range [][]byte{
		packet(t, Anchor6, Gateway6, ip.IPv6, stranger),
		packet(t, Anchor6, Gateway6, protoGRE, append([]byte{0, 0, 0x86, 0xdd}, stranger...)),
	} {
		for _, e := range []string{"v6", "gre6", "two6"} {
			if err := (Way{Kind: User, Encap: e}).Check(b); err == nil {
				t.Errorf("%s takes % x", e, b[:48])
			}
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, b := range carried(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keep := bytes.Clone(b)
		for w := range carried(t) {
			_ = w.Check(b)
		}
		if !bytes.Equal(b, keep) {
			t.Error("the packet was changed")
		}
	})
}

// TestChains: both ends of a session say the same of its tunnel.
func TestChains(t *testing.T) {
	for _, e := range Encaps {
		for _, far := range []Side{Gateway, Second} {
			down, up := e.Chain(Anchor, far, 9), e.Chain(far, Anchor, 9)
			for i := range down.N {
				a, g := down.Layer[i], up.Layer[i]
				a.Local, a.Remote = a.Remote, a.Local
				if a != g || !a.Local.IsValid() || a.Local.Addr().Is4() != e.Over4 {
					t.Errorf("%s, layer %d: %+v and %+v", e.Name, i, down.Layer[i], g)
				}
			}
			if down.N != up.N || (down.N == 2) != e.Double {
				t.Errorf("%s: %d and %d layers", e.Name, down.N, up.N)
			}
		}
		if e.Chain(Anchor, Gateway, 9) == e.Chain(Anchor, Second, 9) {
			t.Errorf("%s: a handover changes nothing", e.Name)
		}
	}
}

// TestOps: sessions have addresses of their own within the home prefixes, up to the last one.
func TestOps(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for _, i := range []int{1, 2, 255, 256, 65536, MaxSessions} {
		six, four := HomeOf(i)
		if seen[six] || seen[four] || !Home6.Contains(six) || !Home4.Contains(four) {
			t.Errorf("session %d has %v and %v", i, six, four)
		}
		seen[six], seen[four] = true, true
	}
	e, _ := FindEncap("gre6")
	for _, at := range []Side{Gateway, Anchor} {
		ops := e.Ops(at, 3, 5, 7)
		if len(ops) != 6 {
			t.Fatalf("%d ops for two sessions", len(ops))
		}
		s, k := ops[3].(core.SetSession), ops[4].(core.SetKey)
		if s.ID != 4 || k.ID != 4 || (s.If == 7) != (at == Gateway) || k.Match.Dst.IsValid() != (at == Anchor) || k.Match.Src.IsValid() != (at == Gateway) || k.Match.If != s.If {
			t.Errorf("side %d: %+v, %+v", at, s, k)
		}
	}
}

func TestNames(t *testing.T) {
	for w, want := range map[Way]string{
		{Kind: Plain}: "plain", {Kind: User, Encap: "v6"}: "user/v6", {Kind: EBPF, Encap: "gre4", Sessions: 1000}: "ebpf/gre4*1000",
		{Kind: User, Encap: "v6", Second: true}: "user/v6+handover",
	} {
		if got := w.Name(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
