package user

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/wire"
)

const espUp, espDown = ipsec.DataSPI | 0x101, ipsec.DataSPI | 0x102

// espKeys are AES-128-GCM keys, as the anchor has them.
func espKeys() ipsec.Keys {
	half := func(b byte) ipsec.Half { return ipsec.Half{Encryption: bytes.Repeat([]byte{b}, 20)} }
	return ipsec.Keys{Suite: "aes128-gcm", In: half(1), Out: half(2)}
}

// espTables are the associations of both ends, with handle 1.
func espTables(t testing.TB) (anchor, gateway *ipsec.Data) {
	t.Helper()
	anchor, gateway = ipsec.NewData(ipsec.DataConfig{}, nil), ipsec.NewData(ipsec.DataConfig{}, nil)
	must(t, errors.Join(
		anchor.Add(ipsec.DataSA{Handle: 1, Peer: "mag1", SPIIn: espUp, SPIOut: espDown, Keys: espKeys(), Negotiated: true}),
		gateway.Add(ipsec.DataSA{Handle: 1, Peer: "lma1", SPIIn: espDown, SPIOut: espUp, Keys: espKeys().Swapped(), Negotiated: true})))
	return anchor, gateway
}

// newESPPath is host - gateway - anchor - correspondent node, with ESP between gateway and anchor, in UDP if port is not 0.
func newESPPath(t *testing.T, four bool, port uint16) *path {
	p := &path{t: t, host: newNS(t), mag: newNS(t), lma: newNS(t), cn: newNS(t)}
	for _, n := range []netns.NsHandle{p.host, p.mag, p.lma, p.cn} {
		p.sysctl(n, "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0")
		p.up(n, "lo", nil)
	}
	p.sysctl(p.lma, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	p.sysctl(p.mag, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	p.veth(p.host, "eth0", p.mag, "acc1", 1500)
	p.veth(p.mag, "core0", p.lma, "core0", 1500)
	p.veth(p.lma, "net0", p.cn, "eth0", 1500)
	p.up(p.mag, "acc1", nil)
	p.up(p.host, "eth0", []string{"2001:db8:1000:1::a/64", "10.20.0.10/24"}, "::/0 via fe80::1", "0.0.0.0/0 via 10.20.0.1")
	p.up(p.mag, "core0", []string{"2001:db8:a::11/64", "198.51.100.11/24"})
	p.up(p.lma, "core0", []string{"2001:db8:a::1/64", "198.51.100.1/24"})
	p.up(p.lma, "net0", []string{"2001:db8:c::1/64", "203.0.113.1/24"})
	p.up(p.cn, "eth0", []string{"2001:db8:c::c/64", "203.0.113.9/24"}, "::/0 via 2001:db8:c::1", "0.0.0.0/0 via 203.0.113.1")
	coa4 := netip.MustParseAddr("198.51.100.11")
	above, below := espTables(t)
	p.must(p.mag, func() (err error) {
		p.gateway, err = New(Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1, coa4}, Security: below,
			Access: []Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}})
		return err
	})
	t.Cleanup(func() { must(t, p.gateway.Close()) })
	p.must(p.lma, func() (err error) {
		p.anchor, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, Security: above})
		return err
	})
	t.Cleanup(func() { must(t, p.anchor.Close()) })
	p.up(p.lma, DefaultDevice, nil, "2001:db8:1000::/36", "10.20.0.0/16")

	low, high := conformance.CoA1, conformance.LMAA
	if four {
		low, high = coa4, conformance.LMAA4
	}
	chain := func(a, b netip.Addr) core.Chain {
		return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(a, 0), Remote: netip.AddrPortFrom(b, 0), SA: 1, ESPPort: port}}}
	}
	var mac core.MAC
	var acc int
	p.must(p.host, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac = core.MAC(l.Attrs().HardwareAddr)
		for _, router := range []string{"fe80::1", "10.20.0.1"} {
			err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(router), HardwareAddr: net.HardwareAddr(conformance.RouterMAC[:]), State: netlink.NUD_PERMANENT}))
		}
		return err
	})
	p.must(p.mag, func() error {
		l, err := netlink.LinkByName("acc1")
		if err == nil {
			acc = l.Attrs().Index
		}
		return err
	})
	g := []core.Op{core.SetSession{ID: 1, Chain: chain(low, high), If: acc, MAC: mac}}
	a := []core.Op{core.SetSession{ID: 1, Chain: chain(high, low)}}
	for _, k := range []netip.Prefix{conformance.HNP1, netip.MustParsePrefix("10.20.0.10/32")} {
		g = append(g, core.SetKey{ID: 1, Match: core.Match{Src: k, If: acc, MAC: mac}, Up: true, Down: true})
		a = append(a, core.SetKey{ID: 1, Match: core.Match{Dst: k}, Up: true, Down: true})
	}
	p.must(p.mag, func() error { return p.gateway.Update(g) })
	p.must(p.lma, func() error { return p.anchor.Update(a) })
	return p
}

// TestESPPath: TCP and UDP of real hosts through ESP, in protocol 50 and in UDP port 4500, over both families. On the core is ESP and
// nothing else; tshark with the keys reads it.
func TestESPPath(t *testing.T) {
	for _, c := range []struct {
		name string
		four bool
		port uint16
	}{
		{"IPv6", false, 0}, {"IPv4", true, 0}, {"UDP over IPv6", false, mem.PortESP}, {"UDP over IPv4", true, mem.PortESP},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newESPPath(t, c.four, c.port)
			stop := p.capture()
			p.reach(p.host, "[2001:db8:c::c]", p.cn)
			p.reach(p.host, "203.0.113.9", p.cn)
			p.judgeESP(stop(), c.port != 0)
			for _, to := range []netip.Addr{conformance.CN6, conformance.CN4} {
				p.transfer(p.host, to, p.cn, 8<<20)
			}
			for _, to := range []netip.Addr{conformance.H16, conformance.H14} {
				p.transfer(p.cn, to, p.host, 8<<20)
			}
			for _, r := range []wire.Reason{wire.BadICV, wire.Replayed, wire.UnknownSPI, wire.WrongTunnel, wire.SendFailed} {
				if n := p.anchor.Dropped(r) + p.gateway.Dropped(r); n != 0 {
					t.Errorf("%d drops for %s", n, r)
				}
			}
		})
	}
}

// mark is the port of a datagram that ends a capture: what was sent before it has been recorded when it is.
const mark = 9

// capture records what passes core0 of the gateway until stop, which gives the file.
func (p *path) capture() (stop func() string) {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "core.pcap")
	cmd := exec.Command("tcpdump", "-i", "core0", "-U", "--immediate-mode", "-w", "-")
	said, err := cmd.StderrPipe()
	must(p.t, err)
	data, err := cmd.StdoutPipe()
	must(p.t, err)
	p.must(p.mag, cmd.Start)
	for lines := bufio.NewScanner(said); lines.Scan() && !strings.Contains(lines.Text(), "listening on"); {
	}
	seen := make(chan []byte, 1)
	go func() {
		var all []byte
		b := make([]byte, 1<<16)
		for {
			n, err := data.Read(b)
			if all = append(all, b[:n]...); err != nil || bytes.Contains(all, []byte("the end of the capture")) {
				seen <- all
				return
			}
		}
	}()
	return func() string {
		p.t.Helper()
		p.must(p.mag, func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(conformance.LMAA, mark).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("the end of the capture"))
			return err
		})
		must(p.t, os.WriteFile(file, <-seen, 0o600))
		must(p.t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		return file
	}
}

// judgeESP reads a capture as a stranger and as one who has the keys.
func (p *path) judgeESP(file string, udp bool) {
	p.t.Helper()
	tshark := func(args ...string) (lines []string) {
		var stderr strings.Builder
		cmd := exec.Command("tshark", append([]string{"-n", "-r", file}, args...)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			p.t.Fatalf("tshark: %v: %s (Debian package tshark)", err, &stderr)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	// Neighbour discovery is the core's own.
	for _, line := range tshark("-Y", fmt.Sprintf("!esp && !arp && !(icmpv6.type in {133..136, 143}) && !(udp.port == %d)", mark)) {
		if line != "" {
			p.t.Errorf("in the clear: %s", line)
		}
	}
	var keys []string
	for spi, h := range map[uint32]ipsec.Half{espUp: espKeys().In, espDown: espKeys().Out} {
		for _, family := range []string{"IPv4", "IPv6"} {
			keys = append(keys, "-o", fmt.Sprintf(`uat:esp_sa:"%s","*","*","0x%08x","AES-GCM with 16 octet ICV [RFC4106]","0x%s","NULL",""`, family, spi, hex.EncodeToString(h.Encryption)))
		}
	}
	seen := map[string]int{}
	for _, line := range tshark(append(keys, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE", "-Y", "esp",
		"-T", "fields", "-E", "separator=|", "-e", "esp.icv_good", "-e", "udp.port", "-e", "ip.dst", "-e", "ipv6.dst")...) {
		f := strings.Split(line, "|")
		if len(f) != 4 || f[0] != "1" || strings.HasPrefix(f[1], "4500,4500") != udp {
			p.t.Errorf("ESP as tshark sees it: %q", line)
			continue
		}
		for _, a := range strings.Split(f[2]+","+f[3], ",") {
			seen[a]++
		}
	}
	for _, a := range []netip.Addr{conformance.CN6, conformance.CN4, conformance.H16, conformance.H14} {
		if seen[a.String()] == 0 {
			p.t.Errorf("nothing to %v in ESP: %v", a, seen)
		}
	}
}
