package mem

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// TestSuperPacketFromTunnel: several segments that the kernel's receive offload made one, with the checksum not finished, are cut
// into what the tunnel carries.
func TestSuperPacketFromTunnel(t *testing.T) {
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway} {
		for _, six := range []bool{true, false} {
			src, dst, hdr := home4, cn4, 20
			if six {
				src, dst, hdr = home6, cn6, 40
			}
			o := Outer{Local: plain(lmaa), Remote: plain(coa), Proto: inner(src), Offload: true}
			cfg := Config{Forwarded: true}
			if role == dataplane.Gateway {
				src, dst, o.Local, o.Remote = dst, src, plain(coa), plain(lmaa)
				cfg.Access = []dataplane.Link{{If: 9, MAC: routerMAC}}
			}
			payload := bytes.Repeat([]byte("0123456789abcdefg"), 3000)
			seg := append([]byte{1, 2, 3, 4, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0}, payload...)
			// The sum of the pseudo header is the complement of its checksum over nothing.
			sum := ^ip.PseudoChecksum(src, dst, ip.TCP, make([]byte, len(seg)))
			seg[16], seg[17] = byte(sum>>8), byte(sum)
			h := ip.Header{Src: src, Dst: dst, Proto: ip.TCP, TTL: 64}
			pkt, err := h.Append(nil, len(seg))
			if err != nil {
				t.Fatal(err)
			}
			e := newEngine(t, role, cfg)
			if role == dataplane.Gateway { // a link that carries whole tunnel packets
				e.SetLinkMTU(1, 1500)
			}
			var out Out
			e.Decapsulate(time.Hour, o, append(pkt, seg...), &out)
			var got []byte
			for i, p := range out.Packets {
				h, err := ip.Parse(p.B)
				if err != nil || p.To != dataplane.ToNative || len(p.B) > 1460 || ip.PseudoChecksum(src, dst, ip.TCP, p.B[hdr:]) != 0 {
					t.Fatalf("segment %d: %+v, %v", i, h, err)
				}
				if seq := binary.BigEndian.Uint32(p.B[hdr+4:]); int(seq) != 256+len(got) {
					t.Errorf("segment %d: sequence %d, want %d", i, seq, 256+len(got))
				}
				got = append(got, p.B[hdr+20:]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("role %d, IPv6 %v: %d octets came out of %d", role, six, len(got), len(payload))
			}
			// Not from a kernel's socket: a wrong checksum is the receiver's business, and the packet is too long for plain routing to pass.
			out.Reset()
			o.Offload = false
			e.Decapsulate(time.Hour, o, append(bytes.Clone(pkt), seg...), &out)
			if role == dataplane.Anchor && len(out.Packets) != 1 {
				t.Errorf("without offload: %d packets", len(out.Packets))
			}
		}
	}
}
