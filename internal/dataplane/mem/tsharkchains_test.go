package mem

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/dataplane"
	"kedge/internal/testpcap"
)

// TestWiresharkReadsChains: another implementation reads what each chain makes of packets of both families: the protocols from the
// outside to the inside, GRE keys, and every checksum. What TLV and ESP headers hold it does not know, only where they stand.
func TestWiresharkReadsChains(t *testing.T) {
	var frames [][]byte
	var want []string
	add := func(b []byte, protocols, keys string) {
		ether := make([]byte, 12, 14+len(b))
		if ether = append(ether, 0x86, 0xdd); b[0]>>4 == 4 {
			ether[12], ether[13] = 8, 0
		}
		frames, want = append(frames, append(ether, b...)), append(want, protocols+"|"+keys)
	}
	name := func(four bool) string {
		if four {
			return "ip"
		}
		return "ipv6"
	}
	for _, c := range testChains {
		e := newChained(t, dataplane.Anchor, c.chain, Config{})
		for _, four := range []bool{false, true} {
			pkt, protocols, keys := packet(t, cn6, home6, 64, 100), "eth:ethertype", ""
			if four {
				pkt = packet(t, cn4, home4, 64, 100)
			}
			read := true
			for i := int(c.chain.N) - 1; i >= 0 && read; i-- {
				l := c.chain.Layer[i]
				protocols += ":" + name(l.Remote.Addr().Is4())
				switch {
				case l.TLV != 0:
					protocols, read = protocols+":udp:ip", false
				case l.Local.Port() != 0:
					protocols += ":udp"
					if next := i == 0 && four || i > 0 && c.chain.Layer[i-1].Remote.Addr().Is4(); !next {
						protocols += ":ip" // whose version hands over
					}
				case l.ESPPort != 0:
					protocols, read = protocols+":udp:udpencap:esp", false
				case l.SA != 0:
					protocols, read = protocols+":esp", false
				case l.GRE:
					protocols += ":gre"
					if l.KeyDown != 0 {
						keys += fmt.Sprintf(",0x%08x", l.KeyDown)
					}
				}
			}
			if read {
				protocols += ":" + name(four) + ":udp:data"
			}
			add(carried(t, e, pkt)[0], protocols, strings.TrimPrefix(keys, ","))
		}
	}
	mn, cn := newOptimized(t, Config{})
	add(carried(t, mn, packet(t, home6, cn6, 64, 100))[0], "eth:ethertype:ipv6:ipv6.dstopts:udp:data", "")
	add(carried(t, cn, packet(t, cn6, home6, 64, 100))[0], "eth:ethertype:ipv6:ipv6.routing:udp:data", "")
	path := filepath.Join(t.TempDir(), "chains.pcap")
	testpcap.Write(t, path, frames)
	out, err := exec.Command("tshark", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-d", "udp.port==4191,ip",
		"-T", "fields", "-E", "separator=|", "-e", "frame.protocols", "-e", "gre.key", "-e", "_ws.malformed", "-e", "ip.checksum.status", "-e", "udp.checksum.status").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(want) {
		t.Fatalf("tshark read %d of %d packets", len(lines), len(want))
	}
	for i, l := range lines {
		f := strings.Split(l, "|")
		if f[0]+"|"+f[1] != want[i] || f[2] != "" || strings.Contains(f[3]+f[4], "0") {
			t.Errorf("packet %d: %s, want %s", i, l, want[i])
		}
	}
}
