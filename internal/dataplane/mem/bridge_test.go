package mem

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ip"
)

var hostB = core.MAC{2, 0, 0, 0, 0, 11}

// newBridges makes an access node and its anchor with two hosts, which share both ends of their tunnels if they have keys.
func newBridges(t testing.TB, keys bool) (an, ha *Engine) {
	t.Helper()
	now := func() time.Duration { return time.Hour }
	an, err := New(Config{Role: dataplane.Gateway, Local: []netip.Addr{coa, coa4, an4}, Access: []dataplane.Link{{If: 1, MAC: routerMAC}, {If: 2, MAC: routerMAC}}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if ha, err = New(Config{Local: []netip.Addr{lmaa, lmaa4}, Now: now}); err != nil {
		t.Fatal(err)
	}
	for i, mac := range []core.MAC{hostA, hostB} {
		l := core.Layer{Local: plain(lmaa4), Remote: plain(coa4)}
		if keys {
			l.GRE, l.KeyUp, l.KeyDown = true, 0x100+uint32(i), 0x200+uint32(i)
		} else if i == 1 {
			l.Remote = plain(an4)
		}
		id := core.ID(i + 1)
		if err := an.Update([]core.Op{core.SetSession{ID: id, Chain: other(one(l)), Mode: core.Bridged, If: i + 1, MAC: mac}}); err != nil {
			t.Fatal(err)
		}
		if err := ha.Update([]core.Op{core.SetSession{ID: id, Chain: one(l), Mode: core.Bridged, If: 10 + i}}); err != nil {
			t.Fatal(err)
		}
	}
	return an, ha
}

// TestBridged: everything from a host arrives at its inner link octet for octet, and the other way; that of two hosts stays apart,
// by care-of address or by GRE key.
func TestBridged(t *testing.T) {
	spec.Covers(t, "S002-3.2.1-07", "S002-3.2.1-19")
	ll, all := netip.MustParseAddr("fe80::a"), netip.MustParseAddr("ff02::1")
	solicitation := func(src, dst netip.Addr) []byte {
		h := ip.Header{Src: src, Dst: dst, Proto: ip.ICMPv6, TTL: 255}
		body := make([]byte, 24)
		body[0] = 135
		sum := ip.PseudoChecksum(src, dst, ip.ICMPv6, body)
		body[2], body[3] = byte(sum>>8), byte(sum)
		b, err := h.Append(nil, len(body))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, body...)
	}
	zero4, cast4 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")
	packets := map[string][]byte{
		"data": packet(t, home6, cn6, 64, 100), "hop limit 1": packet(t, home6, cn6, 1, 100), "the longest": packet(t, home6, cn6, 64, 1452),
		"IPv4": packet(t, home4, cn4, 64, 100), "a DHCP broadcast": packet(t, zero4, cast4, 64, 300), "link-local": packet(t, ll, netip.MustParseAddr("fe80::1"), 255, 10),
		"multicast": packet(t, home6, netip.MustParseAddr("ff05::1"), 1, 10), "a DAD solicitation": solicitation(netip.IPv6Unspecified(), all),
		"Neighbor Solicitation": solicitation(ll, all),
	}
	for _, keys := range []bool{false, true} {
		for name, pkt := range packets {
			an, ha := newBridges(t, keys)
			for i, mac := range []core.MAC{hostA, hostB} {
				var out Out
				in := Native{If: i + 1, MAC: mac, B: bytes.Clone(pkt)}
				if an.Native(time.Hour, in, &out); name == "multicast" {
					out.Reset()
					in.B = bytes.Clone(pkt)
					an.Sighted(time.Hour, in, &out)
				}
				got := through(ha, &out)
				if len(got) != 1 || got[0].To != dataplane.ToNative || got[0].If != 10+i || !bytes.Equal(got[0].B, pkt) {
					t.Fatalf("%s, keys %v, up from host %d: %+v", name, keys, i, got)
				}
				out.Reset()
				ha.Native(time.Hour, Native{If: 10 + i, B: bytes.Clone(pkt)}, &out)
				got = through(an, &out)
				if len(got) != 1 || got[0].To != dataplane.ToNative || got[0].If != i+1 || got[0].MAC != mac || !bytes.Equal(got[0].B, pkt) {
					t.Fatalf("%s, keys %v, down to host %d: %+v", name, keys, i, got)
				}
			}
			var out Out
			an.Native(time.Hour, Native{If: 1, MAC: hostB, B: bytes.Clone(pkt)}, &out)
			if len(out.Packets) != 0 {
				t.Errorf("%s: a host on another's link came through", name)
			}
		}
	}
}

// through gives outer packets to an engine and keeps a copy of what it makes of them.
func through(e *Engine, outer *Out) (all []Packet) {
	for _, p := range outer.Packets {
		var out Out
		e.Tunnel(time.Hour, bytes.Clone(p.B), &out)
		for _, q := range out.Packets {
			q.B = bytes.Clone(q.B)
			all = append(all, q)
		}
	}
	return all
}

// TestBridgedIsSilent: no error is made for a host that does not know of the router (S002-5.2.2), whatever is wrong with its packet.
func TestBridgedIsSilent(t *testing.T) {
	an, ha := newBridges(t, true)
	var out Out
	an.Native(time.Hour, Native{If: 1, MAC: hostA, B: packet(t, home6, cn6, 1, 3000)}, &out)
	for _, p := range out.Packets {
		if p.To != dataplane.ToTunnel || len(p.B) > 1500 {
			t.Errorf("%+v", p)
		}
	}
	if got := through(ha, &out); len(got) != 1 || len(got[0].B) != 3048 {
		t.Errorf("%d packets arrived", len(got))
	}
	sent := bytes.Clone(out.Packets[0].B)
	msg := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, sent...)
	out.Reset()
	if an.TunnelError(time.Hour, true, msg, &out); len(out.Packets) != 0 {
		t.Errorf("an error was relayed: %+v", out.Packets)
	}
}

// TestBridgedRefused: what is one session's own, another cannot have; and a handover is one update.
func TestBridgedRefused(t *testing.T) {
	an, ha := newBridges(t, false)
	free := one(core.Layer{Local: plain(coa), Remote: plain(lmaa)})
	for name, op := range map[string]core.Op{
		"the host of another": core.SetSession{ID: 3, Chain: free, Mode: core.Bridged, If: 1, MAC: hostA},
		"its routed host":     core.SetSession{ID: 3, Chain: free, If: 1, MAC: hostA},
		"no host":             core.SetSession{ID: 3, Chain: free, Mode: core.Bridged},
		"the tunnel":          core.SetSession{ID: 3, Chain: one(core.Layer{Local: plain(coa4), Remote: plain(lmaa4)}), Mode: core.Bridged, If: 1, MAC: hostB},
		"the tunnel, routed":  core.SetSession{ID: 3, Chain: one(core.Layer{Local: plain(coa4), Remote: plain(lmaa4)}), If: 1, MAC: hostB},
		"a key":               core.SetKey{ID: 1, Match: core.Match{Src: whole(home6), If: 1, MAC: hostA}, Up: true},
		"the other mode":      core.SetSession{ID: 1, Chain: free, If: 1, MAC: hostA},
		"mode 2":              core.SetSession{ID: 3, Chain: free, Mode: 2, If: 1, MAC: hostB},
	} {
		if err := an.Update([]core.Op{op}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// The host moves to another access node: the anchor's session follows, and takes from the former one for a while.
	moved := core.SetSession{ID: 1, Chain: one(core.Layer{Local: plain(lmaa4), Remote: plain(fa4)}), Mode: core.Bridged, If: 10, Grace: time.Second}
	if err := ha.Update([]core.Op{moved}); err != nil {
		t.Fatal(err)
	}
	pkt := packet(t, home6, cn6, 64, 10)
	for when, want := range map[time.Duration]int{time.Hour: 1, time.Hour + time.Second: 0} {
		var out Out
		ha.Tunnel(when, around(t, coa4, lmaa4, bytes.Clone(pkt)), &out)
		if len(out.Packets) != want {
			t.Errorf("from the former access node at %v: %d packets", when, len(out.Packets))
		}
	}
	if n := ha.Dropped(wire.WrongTunnel); n != 1 {
		t.Errorf("%d drops", n)
	}
	for _, e := range []*Engine{an, ha} {
		if err := e.Update([]core.Op{core.Drop{ID: 1}, core.Drop{ID: 2}}); err != nil {
			t.Fatal(err)
		}
		e.mustBeEmpty(t)
	}
}

func TestNoAllocationBridged(t *testing.T) {
	for _, keys := range []bool{false, true} {
		an, ha := newBridges(t, keys)
		pkt := packet(t, home6, cn6, 64, 1000)
		var out, back Out
		buf, again := make([]byte, 0, 4000), make([]byte, 0, 4000)
		if n := testing.AllocsPerRun(100, func() {
			out.Reset()
			back.Reset()
			an.Native(time.Hour, Native{If: 1, MAC: hostA, B: append(buf, pkt...)}, &out)
			ha.Tunnel(time.Hour, append(again, out.Packets[0].B...), &back)
		}); n != 0 || len(back.Packets) != 1 {
			t.Errorf("keys %v: %v allocations, %d packets", keys, n, len(back.Packets))
		}
	}
}
