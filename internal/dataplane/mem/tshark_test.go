package mem_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/oracle"
	"kedge/internal/testpcap"
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
	conformance.Written(t, func(t *testing.T, o conformance.Options) conformance.Router {
		return recorder{oracle.New(t, o), &frames}
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
