package mem

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// sealer is a Security that hides nothing: the SPI is the handle with the bit of data, then a sequence number, then what it carries with
// its protocol behind it.
type sealer struct{}

const sealerLen = 9

func (s *sealer) Overhead(sa uint32) int {
	if sa > 9 {
		return 0
	}
	return sealerLen
}

func (s *sealer) Seal(sa uint32, next uint8, inner, dst []byte) ([]byte, error) {
	if sa == 9 {
		return dst, wire.SequenceExhausted
	}
	dst = binary.BigEndian.AppendUint32(dst, 1<<31|sa)
	dst = append(dst, 0, 0, 0, 1)
	return append(append(dst, inner...), next), nil
}

func (s *sealer) Open(_ time.Duration, _, _ netip.AddrPort, esp, dst []byte) (uint32, uint8, []byte, error) {
	if len(esp) < sealerLen {
		return 0, 0, nil, wire.Truncated
	}
	spi := binary.BigEndian.Uint32(esp)
	switch {
	case spi&(1<<31) == 0:
		return 0, 0, nil, wire.UnknownSPI
	case esp[4] != 0:
		return 0, 0, nil, wire.Replayed
	case esp[5] != 0:
		return 0, 0, nil, wire.BadICV
	}
	return spi &^ (1 << 31), esp[len(esp)-1], esp[8 : len(esp)-1], nil
}

var (
	fa4  = netip.MustParseAddr("192.0.2.30")  // a foreign agent
	an4  = netip.MustParseAddr("192.168.7.2") // an access node behind it
	udp4 = netip.AddrPortFrom(lmaa4, 4191)    // the anchor's port
	far4 = netip.AddrPortFrom(coa4, 4191)     // a peer's
	udp6 = netip.AddrPortFrom(lmaa, 4191)
	far6 = netip.AddrPortFrom(coa, 4191)
)

// testChains are those of an anchor, with what its packets add to the inner one.
var testChains = []struct {
	name  string
	chain core.Chain
	over  int
}{
	{"GRE in IPv6", one(core.Layer{Local: plain(lmaa), Remote: plain(coa), GRE: true}), 44},
	{"GRE with keys in IPv6", one(core.Layer{Local: plain(lmaa), Remote: plain(coa), GRE: true, KeyUp: 0x11, KeyDown: 0x22}), 48},
	{"GRE in IPv4", one(core.Layer{Local: plain(lmaa4), Remote: plain(coa4), GRE: true}), 24},
	{"GRE with keys in IPv4", one(core.Layer{Local: plain(lmaa4), Remote: plain(coa4), GRE: true, KeyUp: 0x11, KeyDown: 0x22}), 28},
	{"GRE with a key up", one(core.Layer{Local: plain(lmaa), Remote: plain(coa), GRE: true, KeyUp: 0x11}), 44},
	{"TLV", one(core.Layer{Local: udp4, Remote: far4, TLV: ip.TLV5845}), 32},
	{"TLV over IPv6", one(core.Layer{Local: udp6, Remote: far6, TLV: ip.TLV5845}), 52},
	{"TLV of 2007", one(core.Layer{Local: udp4, Remote: far4, TLV: ip.TLV2007}), 32},
	{"TLV around GRE", one(core.Layer{Local: udp4, Remote: far4, TLV: ip.TLV5845, GRE: true, KeyUp: 0x11, KeyDown: 0x22}), 40},
	{"TLV of 2007 around GRE", one(core.Layer{Local: udp4, Remote: far4, TLV: ip.TLV2007, GRE: true, KeyUp: 0x11, KeyDown: 0x22}), 40},
	{"TLV around ESP", one(core.Layer{Local: udp4, Remote: far4, TLV: ip.TLV5845, SA: 3}), 32 + sealerLen},
	{"ESP in IPv6", one(core.Layer{Local: plain(lmaa), Remote: plain(coa), SA: 3}), 40 + sealerLen},
	{"ESP in IPv4", one(core.Layer{Local: plain(lmaa4), Remote: plain(coa4), SA: 3}), 20 + sealerLen},
	{"ESP in UDP over IPv4", one(core.Layer{Local: plain(lmaa4), Remote: plain(coa4), SA: 3, ESPPort: PortESP}), 28 + sealerLen},
	{"ESP in UDP over IPv6", one(core.Layer{Local: plain(lmaa), Remote: plain(coa), SA: 3, ESPPort: PortESP}), 48 + sealerLen},
	{"6 in 6", two(core.Layer{Local: plain(lmaa), Remote: plain(coa2)}, core.Layer{Local: plain(lmaa), Remote: plain(coa)}), 80},
	{"4 in 4, a foreign agent", two(core.Layer{Local: plain(lmaa4), Remote: plain(an4)}, core.Layer{Local: plain(lmaa4), Remote: plain(fa4)}), 40},
	{"4 in 6", two(core.Layer{Local: plain(lmaa4), Remote: plain(an4)}, core.Layer{Local: plain(lmaa), Remote: plain(coa)}), 60},
	{"6 in UDP", two(core.Layer{Local: plain(lmaa), Remote: plain(coa2)}, core.Layer{Local: udp4, Remote: far4}), 68},
	{"UDP in 4", two(core.Layer{Local: udp4, Remote: far4}, core.Layer{Local: plain(lmaa4), Remote: plain(fa4)}), 48},
	{"GRE in GRE", two(core.Layer{Local: plain(lmaa4), Remote: plain(an4), GRE: true, KeyUp: 0x11, KeyDown: 0x22}, core.Layer{Local: plain(lmaa4), Remote: plain(fa4), GRE: true, KeyUp: 0x33, KeyDown: 0x44}), 56},
	{"6 in ESP", two(core.Layer{Local: plain(lmaa), Remote: plain(coa2)}, core.Layer{Local: plain(lmaa), Remote: plain(coa), SA: 3}), 80 + sealerLen},
	{"ESP in 6", two(core.Layer{Local: plain(lmaa), Remote: plain(coa2), SA: 4}, core.Layer{Local: plain(lmaa), Remote: plain(coa)}), 80 + sealerLen},
	{"ESP in ESP", two(core.Layer{Local: plain(lmaa4), Remote: plain(an4), SA: 4}, core.Layer{Local: plain(lmaa), Remote: plain(coa), SA: 3}), 60 + 2*sealerLen},
}

func one(l core.Layer) core.Chain       { return core.Chain{N: 1, Layer: [2]core.Layer{l}} }
func two(in, out core.Layer) core.Chain { return core.Chain{N: 2, Layer: [2]core.Layer{in, out}} }

// other is a chain as its other end has it, where nobody translates addresses.
func other(c core.Chain) core.Chain {
	for i := range c.N {
		l := &c.Layer[i]
		l.Local, l.Remote = l.Remote, l.Local
		if l.Local.Port() != 0 {
			l.Local = netip.AddrPortFrom(l.Local.Addr(), dataplane.PortUDP)
		}
		if l.ESPPort != 0 {
			l.ESPPort = PortESP
		}
	}
	return c
}

// newChained makes an anchor or the other end of it with one session.
func newChained(t testing.TB, role dataplane.Role, c core.Chain, cfg Config) *Engine {
	t.Helper()
	cfg.Role, cfg.Now, cfg.Security, cfg.UDP = role, func() time.Duration { return time.Hour }, &sealer{}, true
	s := core.SetSession{ID: 1, Chain: c}
	match := func(p netip.Prefix) core.Match { return core.Match{Src: p} }
	switch role {
	case dataplane.Anchor:
		cfg.Local = []netip.Addr{lmaa, lmaa4}
		match = func(p netip.Prefix) core.Match { return core.Match{Dst: p} }
	case dataplane.Gateway:
		cfg.Local = []netip.Addr{coa, coa2, coa4, an4, fa4}
		cfg.Access = append(cfg.Access, dataplane.Link{If: 1, MAC: routerMAC})
		s.Chain, s.If, s.MAC = other(c), 1, hostA
	default:
		s.Chain = other(c)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Update([]core.Op{
		s, core.SetKey{ID: 1, Match: match(netip.PrefixFrom(home6, 64).Masked()), Up: true, Down: true},
		core.SetKey{ID: 1, Match: match(whole(home4)), Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	return e
}

// carried sends one packet into e's native side and returns the outer packets.
func carried(t testing.TB, e *Engine, pkt []byte) [][]byte {
	t.Helper()
	var out Out
	in := Native{B: bytes.Clone(pkt)}
	if e.cfg.Role == dataplane.Gateway {
		in.If, in.MAC = 1, hostA
	}
	e.Native(time.Hour, in, &out)
	var all [][]byte
	for _, p := range out.Packets {
		if p.To != dataplane.ToTunnel {
			t.Fatalf("a packet for %v", p.To)
		}
		all = append(all, bytes.Clone(p.B))
	}
	return all
}

// taken gives outer packets to e and returns what leaves on its native side.
func taken(t testing.TB, e *Engine, outer [][]byte) [][]byte {
	t.Helper()
	var out Out
	var all [][]byte
	for _, b := range outer {
		out.Reset()
		e.Tunnel(time.Hour, bytes.Clone(b), &out)
		for _, p := range out.Packets {
			if p.To != dataplane.ToNative {
				t.Fatalf("a packet for %v", p.To)
			}
			all = append(all, bytes.Clone(p.B))
		}
	}
	return all
}

// TestChains: what one end puts into a chain, the other end takes out again, in both directions, families and all sizes.
func TestChains(t *testing.T) {
	for _, c := range testChains {
		for _, role := range []dataplane.Role{dataplane.Gateway, dataplane.Node} {
			t.Run(c.name+"/"+[]string{"", "gateway", "node"}[role], func(t *testing.T) {
				a, b := newChained(t, dataplane.Anchor, c.chain, Config{Forwarded: true}), newChained(t, role, c.chain, Config{})
				for _, fam := range []struct{ home, cn netip.Addr }{{home6, cn6}, {home4, cn4}} {
					for _, n := range []int{0, 1, 100, 1200, 1500 - c.over - 52, 1232, 1252} {
						down, up := packet(t, fam.cn, fam.home, 64, n), packet(t, fam.home, fam.cn, 64, n)
						outer := carried(t, a, down)
						whole := len(down)+c.over <= 1500
						if (len(outer) == 1) != whole {
							t.Fatalf("%d octets: %d outer packets", len(down), len(outer))
						}
						if whole && len(outer[0]) != len(down)+c.over {
							t.Fatalf("%d octets became %d, want %d more", len(down), len(outer[0]), c.over)
						}
						got := taken(t, b, outer)
						if role == dataplane.Gateway {
							ip.DecrementTTL(down)
						}
						if len(got) != 1 || !bytes.Equal(got[0], down) {
							t.Fatalf("%d octets down: %d packets, %x", len(down), len(got), got)
						}
						outer = carried(t, b, up)
						if role == dataplane.Gateway {
							ip.DecrementTTL(up)
						}
						if got = taken(t, a, outer); len(got) != 1 || !bytes.Equal(got[0], up) {
							t.Fatalf("%d octets up: %d packets, %x", len(up), len(got), got)
						}
					}
				}
				for _, e := range []*Engine{a, b} {
					c := make([]core.Counter, 1)
					if err := e.Counters([]core.ID{1}, c); err != nil || c[0].PacketsIn != 14 || c[0].PacketsOut != 14 {
						t.Errorf("counted %+v, %v", c, err)
					}
					e.Drops(func(r wire.Reason, n uint64) {
						if n != 0 {
							t.Errorf("%d drops for %v", n, r)
						}
					})
					if err := e.Update([]core.Op{core.Drop{ID: 1}}); err != nil {
						t.Fatal(err)
					}
					e.mustBeEmpty(t)
				}
			})
		}
	}
}
