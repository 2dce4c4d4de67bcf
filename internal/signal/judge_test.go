package signal

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/internal/system"
	"kedge/internal/system/netns"
	"kedge/internal/testpcap"
	"kedge/wire/mobility"
)

// tshark gives one line of fields a packet of a capture, with the keys of the tests' associations.
func tshark(t *testing.T, file, filter string, fields ...string) []string {
	t.Helper()
	args := []string{"-r", file, "-d", "udp.port==4191,ipv6", "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-T", "fields", "-E", "separator=|"}
	keys := make(map[uint32]ipsec.Half)
	for _, sa := range uses(0x1001) {
		keys[sa.SPIIn], keys[sa.SPIOut] = sa.Keys.In, sa.Keys.Out
	}
	for spi, h := range keys {
		args = append(args, "-o", fmt.Sprintf(`uat:esp_sa:"IPv6","*","*","0x%08x","AES-CBC [RFC3602]","0x%s","HMAC-SHA-256-128 [RFC4868]","0x%s"`,
			spi, hex.EncodeToString(h.Encryption), hex.EncodeToString(h.Integrity)))
	}
	if filter != "" {
		args = append(args, "-Y", filter)
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var stderr strings.Builder
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s (Debian package tshark)", err, &stderr)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

// clean fails for everything that tshark finds wrong or odd, checksums included.
func clean(t *testing.T, file string) {
	t.Helper()
	for _, l := range tshark(t, file, "_ws.malformed || _ws.expert.severity >= warning", "frame.number", "frame.protocols", "_ws.expert.message") {
		t.Errorf("tshark finds: %s", l)
	}
}

// TestTsharkReadsOurs: every framing, in the clear and under ESP, by a judge that is not ours.
func TestTsharkReadsOurs(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-01", "S004-2.2.2-01", "S004-2.2.2-04", "S004-3.3-13", "S004-3.4-20")
	var frames [][]byte
	var want []string
	for _, protection := range []ipsec.Protection{ipsec.None, ipsec.ESP, ipsec.RFC4285} {
		ha, mn, _ := pair(t, protection)
		net := newNetwork(t)
		for _, f := range []struct {
			path   core.Path
			careOf netip.Addr
			up     string
			down   string
		}{
			{byIPv6, coa6, "ipv6:ipv6.dstopts", "ipv6:ipv6.routing"},
			{byUDP, hoa, "ip:udp:ipv6", "ip:udp:ipv6"},
			{by41, mapped, "ip:ipv6:ipv6.dstopts", "ip:ipv6:ipv6.routing"},
		} {
			esp := ""
			if protection == ipsec.ESP {
				esp = ":esp"
			}
			add := func(outer []byte, protocols string, typ mobility.Type) {
				ethertype := []byte{0x86, 0xdd}
				if outer[0]>>4 == 4 {
					ethertype = []byte{8, 0}
				}
				frames = append(frames, slices.Concat([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, ethertype, outer))
				want = append(want, fmt.Sprintf("eth:ethertype:%s%s:mipv6|%d", protocols, esp, typ))
			}
			outer, inner, chain := net.carry(t, true, f.path.Outer, mustOut(t, mn, packet(t, f.path, update(f.careOf))))
			add(outer, f.up, mobility.TypeBindingUpdate)
			var came core.Packet
			if err := ha.In(now(), inner, chain, &came); err != nil {
				t.Fatal(err)
			}
			m := decoded(t, &came)
			outer, _, _ = net.carry(t, false, m.Path.Outer, mustOut(t, ha, packet(t, m.Path, ack)))
			add(outer, f.down, mobility.TypeBindingAck)
		}
	}
	file := filepath.Join(t.TempDir(), "forms.pcap")
	testpcap.Write(t, file, frames)
	if got := tshark(t, file, "", "frame.protocols", "mip6.mhtype"); !cmp.Equal(got, want) {
		t.Errorf("protocols|type (-want +tshark):\n%s", cmp.Diff(want, got))
	}
	clean(t, file)
}

// TestInNamespaces: a node and a home agent over real sockets. Messages with a Home Address option, a type 2 routing header and ESP
// come through, the kernels say nothing to any of it, and tshark finds nothing wrong with what was on the wire.
func TestInNamespaces(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-01", "S004-2.2.1-11", "RFC3776-3.1", "RFC6275-6.3", "RFC6275-6.4")
	for _, protection := range []ipsec.Protection{ipsec.None, ipsec.ESP, ipsec.RFC4285} {
		t.Run(string(protection), func(t *testing.T) {
			a, b := netns.Test(t, "ha"), netns.Test(t, "mn")
			netns.TestVeth(t,
				netns.End{NS: a, Name: "d0", Addrs: []netip.Prefix{netip.PrefixFrom(haV6, 64)}},
				netns.End{NS: b, Name: "d1", Addrs: []netip.Prefix{netip.PrefixFrom(coa6, 64)}})
			for _, r := range []struct {
				ns   *netns.NS
				to   string
				link string
			}{{a, "2001:db8:c::/64", "d0"}, {b, "2001:db8:a::/64", "d1"}} {
				netns.Must(t, r.ns.Route(netip.MustParsePrefix(r.to), netip.Addr{}, r.link))
			}
			ha, mn, _ := pair(t, protection)
			open := func(ns *netns.NS, c *Codec, local ...netip.Addr) core.Port {
				h, err := system.NewHost(system.Options{NS: ns, Local: local, SendByIf: len(local) == 0})
				netns.Must(t, err)
				t.Cleanup(func() { h.Close() })
				p, err := NewHost(h, c, nil).Open("mh")
				netns.Must(t, err)
				t.Cleanup(func() { p.Close() })
				return p
			}
			captured := capture(t, a, "d0")
			atHA, atMN := open(a, ha, haV6), open(b, mn)
			for i := range 3 {
				path := byIPv6
				path.If = b.Index("d1")
				if n, err := atMN.Write([]core.Packet{packet(t, path, update(coa6))}); n != 1 {
					t.Fatal(err)
				}
				came := readOne(t, atHA)
				m := decoded(t, &came)
				if m.Path.Home != hoa || m.Path.Remote != port(coa6) || m.Path.If != a.Index("d0") || m.Path.Auth.Kind != string(protection) {
					t.Errorf("%d: the home agent sees %+v", i, m.Path)
				}
				if n, err := atHA.Write([]core.Packet{packet(t, m.Path, ack)}); n != 1 {
					t.Fatal(err)
				}
				came = readOne(t, atMN)
				if m = decoded(t, &came); m.Path.Own != hoa || m.Path.Local != port(coa6) || m.Path.Auth.Kind != string(protection) {
					t.Errorf("%d: the node sees %+v", i, m.Path)
				}
			}
			file := captured(b, haV6)
			if bus, bas := tshark(t, file, "mip6.mhtype == 5", "frame.number"), tshark(t, file, "mip6.mhtype == 6", "frame.number"); len(bus) != 3 || len(bas) != 3 {
				t.Errorf("tshark reads %d Binding Updates and %d acknowledgements, want 3 each", len(bus), len(bas))
			}
			clean(t, file)
		})
	}
}

// capture records the IPv6 packets of a link, seen from one of its ends. The function that it gives ends that, by an echo from a node to an
// address, and gives the file. No kernel may have answered by an ICMPv6 error.
func capture(t *testing.T, at *netns.NS, link string) func(from *netns.NS, to netip.Addr) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "wire.pcap")
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	dump := exec.CommandContext(ctx, "tcpdump", "-i", link, "-U", "-w", file, "ip6")
	dump.Cancel = func() error { return dump.Process.Signal(os.Interrupt) }
	stderr, err := dump.StderrPipe()
	netns.Must(t, err)
	netns.Must(t, at.Start(dump))
	if n, err := stderr.Read(make([]byte, 200)); n == 0 { // "listening on d0"
		t.Fatal(err)
	}
	return func(from *netns.NS, to netip.Addr) string {
		t.Helper()
		// The echo comes last: when it is in the capture, everything before it is.
		if out, err := from.Run(t.Context(), "ping", "-c1", "-W2", to.String()); err != nil {
			t.Fatal(out, err)
		}
		waitFor(t, func() bool {
			out, _ := exec.Command("tshark", "-r", file, "-Y", "icmpv6.type == 129").Output()
			return len(out) > 0
		})
		stop()
		_ = dump.Wait()
		if errs := tshark(t, file, "icmpv6.type < 128", "icmpv6.type", "icmpv6.code"); len(errs) > 0 {
			t.Errorf("a kernel answered: %q", errs)
		}
		return file
	}
}

// readOne waits for one packet.
func readOne(t *testing.T, p core.Port) core.Packet {
	t.Helper()
	got := make(chan core.Packet, 1)
	go func() {
		into := make([]core.Packet, 1)
		if n, _ := p.Read(into); n == 1 {
			got <- into[0]
		}
	}()
	select {
	case k := <-got:
		return k
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came in 5 s")
	}
	return core.Packet{}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("waited 10 s")
		}
	}
}
