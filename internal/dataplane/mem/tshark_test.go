package mem

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/testpcap"
	"kedge/wire/ip"
)

// recorder keeps what came out of a router.
type recorder struct {
	conformance.Router
	frames *[][]byte
}

func (r recorder) Drain() []conformance.Packet {
	got := r.Router.Drain()
	for _, p := range got {
		if p.Side == conformance.Signal {
			continue // it came in, with whatever its sender made of it
		}
		*r.frames = append(*r.frames, ethernet(p.MAC, p.B))
	}
	return got
}

func ethernet(dst core.MAC, pkt []byte) []byte {
	f := append(dst[:len(dst):len(dst)], conformance.RouterMAC[:]...)
	if pkt[0]>>4 == 6 {
		return append(append(f, 0x86, 0xdd), pkt...)
	}
	return append(append(f, 0x08, 0x00), pkt...)
}

// TestWireshark has another implementation read everything that the conformance suite makes the engine emit: headers, checksums
// at every depth, fragments, ICMP errors.
func TestWireshark(t *testing.T) {
	var frames [][]byte
	conformance.Run(t, func(t *testing.T, o conformance.Options) conformance.Router {
		return recorder{newRouter(t, o), &frames}
	})
	if len(frames) < 400 {
		t.Fatalf("only %d packets", len(frames))
	}
	path := filepath.Join(t.TempDir(), "out.pcap")
	testpcap.Write(t, path, frames)
	base := []string{"-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-d", "udp.port==4191,ip", "-T", "fields", "-e", "frame.number"}
	count := func(filter string) int {
		t.Helper()
		cmd := exec.Command("tshark", append(base, "-Y", filter)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("tshark: %v: %s", err, stderr.String())
		}
		return bytes.Count(out, []byte("\n"))
	}
	if n := count("frame"); n != len(frames) {
		t.Fatalf("tshark read %d of %d packets", n, len(frames))
	}
	for _, bad := range []string{
		"_ws.malformed", "ip.checksum.status == 0", "udp.checksum.status == 0 && !icmp && !icmpv6", "tcp.checksum.status == 0 && !icmp && !icmpv6",
		"icmp.checksum.status == 0", "icmpv6.checksum.status == 0",
	} {
		if n := count(bad); n != 0 {
			t.Errorf("%s: %d packets", bad, n)
		}
	}
	for good, least := range map[string]int{"ipv6.nxt == 4": 100, "ipv6.nxt == 41": 100, "ipv6.reassembled.length": 5,
		"ip.proto == 4": 100, "ip.proto == 41": 100, "ip.src == 198.51.100.1 && udp.port == 4191 && ipv6": 40, "ip.src == 198.51.100.1 && udp.port == 4191 && ip.dst == 10.20.0.10": 40,
		"ipv6.src == 2001:db8:a::1 && udp.port == 4191 && ip.dst == 10.20.0.10": 40, "ip.reassembled.length": 5, "ip.proto == 41 && esp": 2, "udp.port == 4191 && esp": 2,
		"icmpv6.type == 2": 5, "icmp.type == 3": 5,
		"ip.checksum.status == 1": 100, "udp.checksum.status == 1": 100, "tcp.checksum.status == 1": 50, "icmpv6.checksum.status == 1": 20} {
		if n := count(good); n < least {
			t.Errorf("%s: %d packets, want at least %d", good, n, least)
		}
	}
}

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
				one := e.links[1]
				one.MTU = 1500
				e.links[1] = one
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
