package mem_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
)

// TestWitness: an ICMP error about ESP, inside which nobody can look, is believed if it quotes a packet that was sealed lately, also if
// the kernel wrote its IP header; a guess is not.
func TestWitness(t *testing.T) {
	const spi, now = 0x4711, time.Hour
	top := map[bool]netip.Addr{true: netip.MustParseAddr("198.51.100.1"), false: netip.MustParseAddr("2001:db8:a::1")}
	end := map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.7"), false: netip.MustParseAddr("2001:db8:b::7")}
	home := netip.MustParseAddr("2001:db8:1000::1")
	for _, four := range []bool{false, true} {
		for _, port := range []uint16{0, mem.PortESP} {
			data := ipsec.NewData(ipsec.DataConfig{}, nil)
			key := func(b byte) ipsec.Half { return ipsec.Half{Encryption: bytes.Repeat([]byte{b}, 20)} }
			if err := data.Add(ipsec.DataSA{Handle: 3, Peer: "p", SPIIn: ipsec.DataSPI | 1, SPIOut: spi, Keys: ipsec.Keys{Suite: "aes128-gcm", In: key(1), Out: key(2)}, Negotiated: true}); err != nil {
				t.Fatal(err)
			}
			e, err := mem.New(mem.Config{Role: dataplane.Anchor, Local: []netip.Addr{top[false], top[true]}, Security: data, Forwarded: true, Now: func() time.Duration { return now }})
			if err != nil {
				t.Fatal(err)
			}
			l := core.Layer{Local: netip.AddrPortFrom(top[four], 0), Remote: netip.AddrPortFrom(end[four], 0), SA: 3, ESPPort: port}
			if err := e.Update([]core.Op{
				core.SetSession{ID: 1, Chain: core.Chain{N: 1, Layer: [2]core.Layer{l}}},
				core.SetKey{ID: 1, Match: core.Match{Dst: netip.PrefixFrom(home, 128)}, Up: true, Down: true},
			}); err != nil {
				t.Fatal(err)
			}
			var out mem.Out
			send := func() mem.Packet {
				h := ip.Header{Src: netip.MustParseAddr("2001:db8:c::c"), Dst: home, Proto: 17, TTL: 64}
				b, err := h.Append(nil, 1340)
				if err != nil {
					t.Fatal(err)
				}
				out.Reset()
				e.Native(now, mem.Native{B: append(b, make([]byte, 1340)...)}, &out)
				if len(out.Packets) != 1 {
					t.Fatalf("%d packets", len(out.Packets))
				}
				return out.Packets[0]
			}
			// What the kernel makes of a run of datagrams has no Identification of the engine's, and no flow label.
			outer := bytes.Clone(send().B)
			at := ip.IPv6Len
			if four {
				at = ip.IPv4Len
				outer[4], outer[5], outer[10], outer[11] = 0, 0, 0, 0
				binary.BigEndian.PutUint16(outer[10:], ip.Checksum(outer[:at]))
			} else {
				outer[1], outer[2], outer[3] = outer[1]&0xf0, 0, 0
			}
			if port != 0 {
				at += ip.UDPLen
			}
			if binary.BigEndian.Uint32(outer[at:]) != spi {
				t.Fatalf("%x", outer[:at+8])
			}
			report := func(change func([]byte)) {
				q := bytes.Clone(outer)
				change(q)
				msg := []byte{2, 0, 0, 0, 0, 0, 0x05, 0x14} // 1,300 octets
				if four {
					msg[0], msg[1] = 3, 4
				}
				out.Reset()
				e.TunnelError(now, four, append(msg, q...), &out)
			}
			report(func(q []byte) { q[at+3]++ })
			report(func(q []byte) { q[at+7]++ })
			if p := send(); p.To != dataplane.ToTunnel {
				t.Errorf("IPv4 %v, port %d: a guess is believed: %v, %d too big", four, port, p.To, e.Dropped(wire.TooBig))
			}
			report(func([]byte) {})
			if p := send(); p.To != dataplane.ToSelf || e.Dropped(wire.TooBig) != 1 {
				t.Errorf("IPv4 %v, port %d: the path does not shrink: %v", four, port, p.To)
			}
		}
	}
}
