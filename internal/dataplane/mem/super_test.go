package mem

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// superPacket is one of TCP or UDP with n octets of payload.
func superPacket(t testing.TB, src, dst netip.Addr, proto uint8, n int, df bool) []byte {
	t.Helper()
	const push, ack, cwr = 0x08, 0x10, 0x80
	up := []byte{1, 2, 3, 4, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, push | ack | cwr, 1, 0, 0, 0, 0, 0}
	if proto == ip.UDP {
		up = []byte{1, 2, 3, 4, 0, 0, 0, 0}
	}
	for i := range n {
		up = append(up, byte(i*i>>7))
	}
	h := ip.Header{Src: src, Dst: dst, Proto: proto, TTL: 64, TOS: 0xba, ID: 0xfffe, DF: df}
	b, err := h.Append(nil, len(up))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, up...)
}

// joined are the packets of an Out, each in one piece. A random Identification of an outer header is left out.
func joined(out *Out) (all []string) {
	for i := range out.Packets {
		p := &out.Packets[i]
		b := append(bytes.Clone(p.B), p.Tail...)
		if len(b) != p.Len() {
			panic("length")
		}
		if p.To == dataplane.ToTunnel && b[0]>>4 == 4 && b[6]&0x40 == 0 {
			if ip.Checksum(b[:20]) != 0 {
				all = append(all, "wrong IPv4 checksum")
			}
			clear(b[4:6])
			clear(b[10:12])
		}
		if p.To == dataplane.ToTunnel && b[0]>>4 == 6 && b[6] == ip.Fragment {
			clear(b[44:48])
		}
		all = append(all, fmt.Sprintf("%d %d %v %x", p.To, p.If, p.MAC, b))
	}
	return all
}

// TestSuperPacketSplit: a super packet that leaves in parts is what it is when each segment is decided on and copied by itself; so
// are counters and drops. Its payload stays where it is.
func TestSuperPacketSplit(t *testing.T) {
	four, six := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway} {
		for _, port := range []uint16{0, 4191} {
			for _, outer4 := range []bool{false, true} {
				for _, inner4 := range []bool{false, true} {
					for _, proto := range []uint8{ip.TCP, ip.UDP} {
						for _, c := range []struct {
							size, n, mtu, limit int
							ttl                 uint8
							df                  bool
						}{
							{size: 1300, n: 40001, df: true},
							{size: 1301, n: 13010, limit: 4},
							{size: 1000, n: 1000, df: true},
							{size: 1000, n: 0},
							{size: 1420, n: 9000, df: true},         // too big where the tunnel takes more
							{size: 1200, n: 9000, mtu: 1280},        // in fragments
							{size: 1300, n: 9000, ttl: 1, df: true}, // expires
							{size: 3, n: 301, df: true},             // not even a checksum's word
						} {
							name := fmt.Sprintf("role %d, port %d, outer IPv4 %v, inner IPv4 %v, protocol %d, %+v", role, port, outer4, inner4, proto, c)
							near, far := lmaa, coa
							if outer4 {
								near, far = four, six
							}
							src, dst, kind := cn6, home6, uint8(ip.GSOTCP6)
							if inner4 {
								src, dst, kind = cn4, home4, ip.GSOTCP4
							}
							if proto == ip.UDP {
								kind = ip.GSOUDPL4
							}
							if role == dataplane.Gateway {
								src, dst = dst, src
							}
							pkt := superPacket(t, src, dst, proto, c.n, c.df)
							if c.ttl != 0 && inner4 {
								pkt[8] = c.ttl
								pkt[10], pkt[11] = 0, 0
								binary.BigEndian.PutUint16(pkt[10:], ip.Checksum(pkt[:20]))
							} else if c.ttl != 0 {
								pkt[7] = c.ttl
							}
							local, layer := []netip.Addr{near}, core.Layer{Local: netip.AddrPortFrom(near, port), Remote: netip.AddrPortFrom(far, port)}
							if role == dataplane.Gateway && !outer4 {
								local, layer.Local, layer.Remote = []netip.Addr{coa}, layer.Remote, layer.Local
							}
							e := newEngine(t, role, Config{UDP: true, MTU: c.mtu, EncapsulationLimit: uint8(c.limit)})
							e.cfg.Local = append(e.cfg.Local, local...)
							op := core.SetSession{ID: 1, Chain: core.Chain{N: 1, Layer: [2]core.Layer{layer}}}
							if role == dataplane.Gateway {
								op.If, op.MAC = 1, hostA
							}
							if err := e.Update([]core.Op{op}); err != nil {
								t.Fatal(name, err)
							}
							run := func(now time.Duration, split bool) (*Out, [][4]uint64, map[string]uint64) {
								out := &Out{Split: split}
								in := Native{If: 1, MAC: hostA, B: bytes.Clone(pkt), VNet: ip.VNet{Type: kind, Size: c.size}}
								e.Native(now, in, out)
								shared, segments := false, len(out.Packets) > 1 && len(out.Packets) == (c.n+c.size-1)/c.size
								for i := range out.Packets {
									tail := out.Packets[i].Tail
									segments = segments && out.Packets[i].To == dataplane.ToTunnel
									shared = shared || len(tail) != 0 && &tail[0] == &in.B[len(in.B)-c.n+i*c.size]
								}
								if shared != (split && segments) {
									t.Errorf("%s: shared %v", name, shared)
								}
								var counts [][4]uint64
								s := e.tables.sessions[1]
								counts = append(counts, [4]uint64{s.count.pIn.Load(), s.count.oIn.Load(), s.count.pOut.Load(), s.count.oOut.Load()})
								drops := map[string]uint64{}
								for i := range e.drops {
									if n := e.drops[i].Swap(0); n != 0 {
										drops[string(reasons[i])] = n
									}
								}
								for _, n := range []interface{ Store(uint64) }{&s.count.pIn, &s.count.oIn, &s.count.pOut, &s.count.oOut} {
									n.Store(0)
								}
								return out, counts, drops
							}
							want, counts, drops := run(time.Hour, false)
							got, counts2, drops2 := run(2*time.Hour, true)
							if d := cmp.Diff(joined(want), joined(got)) + cmp.Diff(counts, counts2) + cmp.Diff(drops, drops2); d != "" {
								t.Fatalf("%s: %s", name, d)
							}
							if len(want.Packets) == 0 {
								t.Errorf("%s: nothing left: %v", name, drops)
							}
						}
					}
				}
			}
		}
	}
}
