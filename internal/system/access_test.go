package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

var hostMAC, routerMAC = core.MAC{2, 0, 0, 0, 0, 0x0a}, core.MAC{0, 0, 0x5e, 0, 0x52, 0x13}

// eth puts an Ethernet header before a payload.
func eth(typ uint16, payload ...byte) []byte {
	b := append(append([]byte{}, routerMAC[:]...), hostMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = append(b, payload...)
	for len(b) < 60 {
		b = append(b, 0)
	}
	return b
}

// v4 is an IPv4 packet with optional options; frag are its flags and offset.
func v4(proto byte, frag uint16, options int, payload ...byte) []byte {
	b := make([]byte, 20+options)
	b[0] = 0x40 | byte(len(b)/4)
	binary.BigEndian.PutUint16(b[6:], frag)
	b[9] = proto
	return append(b, payload...)
}

func v6(next byte, payload ...byte) []byte {
	b := make([]byte, 40)
	b[0], b[6] = 0x60, next
	return append(b, payload...)
}

func udp(dst uint16) []byte { return []byte{0, 68, byte(dst >> 8), byte(dst), 0, 8, 0, 0} }

// hopByHop is a header of n times 8 octets before ICMPv6.
func hopByHop(n int, next byte, payload ...byte) []byte {
	b := make([]byte, 8*n)
	b[0], b[1] = next, byte(n-1)
	return append(b, payload...)
}

type filterCase struct {
	name  string
	frame []byte
	pass  bool
}

func filterCases() []filterCase {
	cases := []filterCase{
		{"ARP", eth(0x0806), true},
		{"DHCP", eth(0x0800, v4(17, 0, 0, udp(67)...)...), true},
		{"DHCP behind IPv4 options", eth(0x0800, v4(17, 0, 12, udp(67)...)...), true},
		{"DHCP with don't fragment", eth(0x0800, v4(17, 0x4000, 0, udp(67)...)...), true},
		{"DHCP client port", eth(0x0800, v4(17, 0, 0, udp(68)...)...), false},
		{"DNS", eth(0x0800, v4(17, 0, 0, udp(53)...)...), false},
		{"first fragment of DHCP", eth(0x0800, v4(17, 0x2000, 0, udp(67)...)...), false},
		{"later fragment that looks like DHCP", eth(0x0800, v4(17, 5, 0, udp(67)...)...), false},
		{"TCP to 67", eth(0x0800, v4(6, 0, 0, udp(67)...)...), false},
		{"IPv4 echo request", eth(0x0800, v4(1, 0, 0, 8, 0)...), true},
		{"IPv4 echo reply", eth(0x0800, v4(1, 0, 4, 0, 0)...), true},
		{"IPv4 unreachable", eth(0x0800, v4(1, 0, 0, 3, 0)...), false},
		{"IPv6 TCP", eth(0x86dd, v6(6)...), false},
		{"IPv6 UDP to 67", eth(0x86dd, v6(17, udp(67)...)...), false},
		{"ND in a fragment", eth(0x86dd, v6(44, 58, 0, 0, 0, 0, 0, 0, 0, 133)...), false},
		{"MLDv2 behind hop-by-hop", eth(0x86dd, v6(0, hopByHop(1, 58, 143)...)...), true},
		{"MLDv1 report behind hop-by-hop", eth(0x86dd, v6(0, hopByHop(1, 58, 131)...)...), true},
		{"MLDv1 done behind two units", eth(0x86dd, v6(0, hopByHop(2, 58, 132)...)...), true},
		{"MLDv2 behind a long hop-by-hop", eth(0x86dd, v6(0, hopByHop(150, 58, 143)...)...), true},
		{"hop-by-hop length beyond the frame", eth(0x86dd, v6(0, 58, 255, 0, 0, 0, 0, 0, 0, 143)...), false},
		{"echo behind hop-by-hop", eth(0x86dd, v6(0, hopByHop(1, 58, 128)...)...), false},
		{"TCP behind hop-by-hop", eth(0x86dd, v6(0, hopByHop(1, 6, 143)...)...), false},
		{"VLAN in the frame", eth(0x8100, 0, 5, 8, 6), false},
		{"LLDP", eth(0x88cc), false},
		{"cut off behind the type", eth(0x0800)[:14], false},
		{"cut off in the IPv4 header", eth(0x0800, v4(17, 0, 0)...)[:30], false},
		{"nothing", nil, false},
	}
	for typ := range 256 {
		pass := typ >= 133 && typ <= 137 || typ == 128 || typ == 129 || typ == 131 || typ == 132 || typ == 143
		cases = append(cases, filterCase{fmt.Sprintf("ICMPv6 %d", typ), eth(0x86dd, v6(58, byte(typ), 0, 0, 0)...), pass})
	}
	return cases
}

// TestFilterProgram runs the program in the bpf package's machine, which has no VLAN extension: that instruction is
// replaced by "no tag".
func TestFilterProgram(t *testing.T) {
	raw, err := AccessFilter()
	must(t, err)
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program does not disassemble")
	}
	prog[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0}
	vm, err := bpf.NewVM(prog)
	must(t, err)
	for _, c := range filterCases() {
		n, err := vm.Run(c.frame)
		if err != nil || n > 0 != c.pass {
			t.Errorf("%s: passes %v (%v), want %v", c.name, n > 0, err, c.pass)
		}
	}
}

// accessLinks is a gateway's access link acc0 and a host's h0 at the other end.
func accessLinks(t *testing.T) (gw, host *netns.NS) {
	t.Helper()
	gw, host = netns.Test(t, "gw"), netns.Test(t, "host")
	netns.TestVeth(t, netns.End{NS: gw, Name: "acc0"}, netns.End{NS: host, Name: "h0", MAC: hostMAC})
	return gw, host
}

func openAccess(t *testing.T, gw *netns.NS, ifs ...string) *AccessPort {
	t.Helper()
	p, err := newHost(t, gw).Open("access", ifs...)
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p.(*AccessPort)
}

// injector sends whole frames from a link.
func injector(t *testing.T, ns *netns.NS, link string) func(frames ...[]byte) {
	t.Helper()
	var fd int
	must(t, ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ns.Index(link)})
	}))
	t.Cleanup(func() { unix.Close(fd) })
	return func(frames ...[]byte) {
		for _, f := range frames {
			if _, err := unix.Write(fd, f); err != nil {
				t.Errorf("inject %x: %v", f, err)
			}
		}
	}
}

// end is a frame that surely passes and marks the end of a test's frames.
var endFrame = eth(0x0806, []byte("the end of it")...)

func readToEnd(t *testing.T, p core.Port) (frames []core.Packet) {
	t.Helper()
	for end := false; ; {
		for _, g := range read(t, p, 1) {
			if bytes.Equal(g.B, endFrame) {
				end = true
				continue
			}
			frames = append(frames, core.Packet{If: g.If, MAC: g.MAC, B: bytes.Clone(g.B)})
		}
		if end {
			return frames
		}
	}
}

func TestAccessReceivesItsFramesOnly(t *testing.T) {
	gw, host := accessLinks(t)
	p := openAccess(t, gw, "acc0")
	must(t, host.Sysctl("net.ipv6.conf.h0.disable_ipv6", "1")) // the host's own MLD would mix in
	send := injector(t, host, "h0")
	var want [][]byte
	for _, c := range filterCases() {
		if len(c.frame) < 14 {
			continue // no device sends it
		}
		send(c.frame)
		if c.pass {
			want = append(want, c.frame)
		}
	}
	send(endFrame)

	got := readToEnd(t, p)
	i := 0
	for _, g := range got {
		if i < len(want) && bytes.Equal(g.B, want[i]) {
			if g.If != gw.Index("acc0") || g.MAC != hostMAC {
				t.Fatalf("frame %d came on link %d from %s", i, g.If, g.MAC)
			}
			i++
		} else if !bytes.Equal(g.B[12:14], []byte{0x86, 0xdd}) { // the host's kernel may have had something to say before
			t.Errorf("unexpected frame %x", g.B)
		}
	}
	if i != len(want) {
		t.Errorf("%d of %d frames came in order", i, len(want))
	}
}

func TestAccessWriteIsNotHeardByItself(t *testing.T) {
	gw, host := accessLinks(t)
	p := openAccess(t, gw, "acc0")
	must(t, host.Sysctl("net.ipv6.conf.h0.disable_ipv6", "1"))
	peer, err := newHost(t, host, func(o *Options) { o.KeepAccess = true }).Open("access", "h0")
	must(t, err)
	t.Cleanup(func() { peer.Close() })
	reply := append(append(append([]byte{}, hostMAC[:]...), routerMAC[:]...), 8, 6)
	reply = append(reply, bytes.Repeat([]byte{7}, 46)...)
	ifi := gw.Index("acc0")
	n, err := p.Write([]core.Packet{{If: ifi, B: reply}, {If: ifi + 1000, B: reply}, {If: ifi, B: []byte{1, 2, 3}}, {If: ifi, B: endFrame}})
	if n != 2 || err == nil || !strings.Contains(err.Error(), fmt.Sprint(ifi+1000)) || !strings.Contains(err.Error(), "3 octets") {
		t.Errorf("Write = %d, %v", n, err)
	}
	if got := readToEnd(t, peer); len(got) != 1 || !bytes.Equal(got[0].B, reply) {
		t.Errorf("the host got %+v", got)
	}
	injector(t, host, "h0")(endFrame)
	if got := readToEnd(t, p); len(got) != 0 {
		for _, g := range got {
			if g.MAC != hostMAC {
				t.Errorf("the port hears itself: %x", g.B)
			}
		}
	}
}

// TestAccessFinishesChecksums: a UDP socket on the same machine leaves the checksum to the card, and veth has none.
func TestAccessFinishesChecksums(t *testing.T) {
	gw, host := accessLinks(t)
	p := openAccess(t, gw, "acc0")
	must(t, host.Sysctl("net.ipv6.conf.h0.disable_ipv6", "1"))
	must(t, host.AddAddr("h0", pfx("10.20.0.10/24")))
	ip(t, host, "neigh", "add", "10.20.0.1", "lladdr", routerMAC.String(), "dev", "h0")
	for size := range 4 {
		payload := bytes.Repeat([]byte{0xab}, 300+size)
		must(t, host.Do(func() error {
			c, err := net.Dial("udp", "10.20.0.1:67")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(payload)
			return err
		}))
		for found := false; !found; {
			pkts := read(t, p, 1)
			i := slices.IndexFunc(pkts, func(g core.Packet) bool { return bytes.Equal(g.B[12:14], []byte{8, 0}) })
			if i < 0 {
				continue
			}
			found = true
			f := pkts[i].B[14 : 14+20+8+len(payload)]
			var sum uint32
			add := func(b []byte) {
				for i := range b {
					sum += uint32(b[i]) << (8 * (1 - i%2))
				}
			}
			add(f[12:20])
			add([]byte{0, 17})
			add(f[24:26])
			add(f[20:])
			for sum>>16 != 0 {
				sum = sum&0xffff + sum>>16
			}
			if sum != 0xffff || f[26] == 0 && f[27] == 0 {
				t.Errorf("UDP checksum %x of %d octets is wrong: %x", f[26:28], len(payload), sum)
			}
		}
	}
}

func TestFinishChecksumBounds(t *testing.T) {
	frame := make([]byte, 20)
	for _, c := range [][2]int{{-1, 0}, {0, -1}, {0, 19}, {19, 1}, {20, 0}, {1 << 16, 1 << 16}} {
		finishChecksum(frame, c[0], c[1])
		if !bytes.Equal(frame, make([]byte, 20)) {
			t.Errorf("start %d, offset %d: wrote %x", c[0], c[1], frame)
		}
	}
}

func waitLink(t *testing.T, p *AccessPort, name string, ok func(AccessLink) bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
		for _, l := range p.Links() {
			if l.Name == name && ok(l) {
				return
			}
		}
	}
	t.Fatalf("links are %+v", p.Links())
}

func TestAccessLinkReturns(t *testing.T) {
	gw, host := accessLinks(t)
	netns.TestVeth(t, netns.End{NS: gw, Name: "acc1"}, netns.End{NS: host, Name: "h1", MAC: hostMAC})
	p := openAccess(t, gw, "acc0", "acc1")
	there := func(l AccessLink) bool { return l.If != 0 && l.Err == nil }
	notThere := func(l AccessLink) bool { return l.If == 0 && l.Err != nil }
	first := map[string]int{"acc0": gw.Index("acc0"), "acc1": gw.Index("acc1")}
	works := func(link, at string) {
		t.Helper()
		injector(t, host, at)(endFrame)
		for found := false; !found; {
			for _, g := range read(t, p, 1) {
				if bytes.Equal(g.B, endFrame) && g.If != first[link] {
					t.Fatalf("frame of %s came with index %d, want its first one, %d", link, g.If, first[link])
				}
				found = found || bytes.Equal(g.B, endFrame)
			}
		}
		if n, err := p.Write([]core.Packet{{If: first[link], B: endFrame}}); n != 1 {
			t.Fatal(err)
		}
	}
	works("acc0", "h0")
	works("acc1", "h1")

	// Down and up again: the socket stays.
	must(t, gw.Down("acc0"))
	if _, err := p.Write([]core.Packet{{If: gw.Index("acc0"), B: endFrame}}); err == nil {
		t.Error("writing to a link that is down succeeded")
	}
	must(t, gw.Up("acc0"))
	works("acc0", "h0")

	// Renamed away, and back.
	old := gw.Index("acc0")
	must(t, gw.Rename("acc0", "away"))
	waitLink(t, p, "acc0", notThere)
	if _, err := p.Write([]core.Packet{{If: old, B: endFrame}}); err == nil || !strings.Contains(err.Error(), "no access link") {
		t.Errorf("Write to a link that went: %v", err)
	}
	works("acc1", "h1")
	must(t, gw.Rename("away", "acc0"))
	waitLink(t, p, "acc0", there)
	works("acc0", "h0")

	// Removed, and made anew with another index: prepared again.
	must(t, gw.DeleteLink("acc0"))
	waitLink(t, p, "acc0", notThere)
	works("acc1", "h1")
	netns.TestVeth(t, netns.End{NS: gw, Name: "acc0"}, netns.End{NS: host, Name: "h0", MAC: hostMAC})
	waitLink(t, p, "acc0", there)
	if gw.Index("acc0") == old {
		t.Error("the link has its old index: the test shows nothing")
	}
	works("acc0", "h0")
	if _, err := p.Write([]core.Packet{{If: gw.Index("acc0"), B: endFrame}}); err == nil {
		t.Error("the new index names a link: nobody but the kernel knows it")
	}
	if v, err := gw.GetSysctl("net.ipv6.conf.acc0.disable_ipv6"); v != "1" {
		t.Errorf("the new link was not prepared: disable_ipv6=%s, %v", v, err)
	}

	// Removed, and made anew with the same index before anybody looked.
	same := strconv.Itoa(gw.Index("acc1"))
	p.mu.Lock() // holds the port's own look up
	must(t, gw.DeleteLink("acc1"))
	ip(t, gw, "link", "add", "acc1", "index", same, "type", "veth", "peer", "name", "h1", "netns", host.Name)
	must(t, gw.Up("acc1"))
	must(t, host.SetMAC("h1", hostMAC))
	must(t, host.Up("h1"))
	p.mu.Unlock()
	for end := time.Now().Add(5 * time.Second); ; <-time.After(time.Millisecond) {
		if v, _ := gw.GetSysctl("net.ipv6.conf.acc1.disable_ipv6"); v == "1" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a link that came back with its index was not prepared")
		}
	}
	waitLink(t, p, "acc1", there)
	works("acc1", "h1")
}

// TestPrepareAccess: the kernel is deaf and mute on the link, and as before afterwards.
func TestPrepareAccess(t *testing.T) {
	gw, host := accessLinks(t)
	// The gateway has addresses elsewhere and forwards.
	must(t, gw.AddAddr("lo", pfx("198.51.100.1/32")))
	must(t, gw.AddAddr("lo", pfx("2001:db8:a::11/128")))
	must(t, gw.Sysctl("net.ipv4.ip_forward", "1"))
	must(t, gw.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	must(t, host.AddAddr("h0", pfx("10.20.0.10/24")))
	must(t, host.AddAddr("h0", pfx("2001:db8:1000::10/64")))
	state := func() (s string) {
		for _, k := range accessSysctls {
			v, err := gw.GetSysctl(fmt.Sprintf(k.name, "acc0"))
			must(t, err)
			s += k.name + "=" + v + "\n"
		}
		l, err := gw.Link("acc0")
		must(t, err)
		return s + fmt.Sprint(l.Attrs().RawFlags&1)
	}
	must(t, gw.Down("acc0"))
	before := state()
	h := newHost(t, gw)
	undo, err := h.PrepareAccess("acc0")
	must(t, err)
	l, err := gw.Link("acc0")
	must(t, err)
	mac := l.Attrs().HardwareAddr.String()
	for _, dst := range []string{"198.51.100.1", "2001:db8:a::11"} {
		prefix := dst + "/32"
		if addr(dst).Is6() {
			prefix = dst + "/128"
		}
		must(t, host.Route(netip.MustParsePrefix(prefix), netip.Addr{}, "h0"))
		_, _ = host.Run(t.Context(), "ping", "-c1", "-W1", dst)
		if out := ip(t, host, "neigh", "show", dst); strings.Contains(out, "lladdr") {
			t.Errorf("the kernel answers for %s: %s", dst, out)
		}
		ip(t, host, "neigh", "replace", dst, "lladdr", mac, "dev", "h0")
		if out, err := host.Run(t.Context(), "ping", "-c1", "-W1", dst); err == nil {
			t.Errorf("the kernel answers a packet to its own MAC: %s", out)
		}
	}
	addrs, err := gw.Addrs("acc0")
	if err != nil || len(addrs) != 0 {
		t.Errorf("the link has addresses %v, %v", addrs, err)
	}
	must(t, undo())
	if after := state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if gone, err := h.Sweep(); len(gone) != 0 || err != nil {
		t.Errorf("undo left %v, %v", gone, err)
	}
	if _, err := h.PrepareAccess("nosuch"); err == nil || !strings.Contains(err.Error(), "no such interface") {
		t.Errorf("error = %v", err)
	}
}
