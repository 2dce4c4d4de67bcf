package system

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
	wireip "kedge/wire/ip"
)

var (
	home6 = addr("2001:db8:ff::5")
	left  = addr("2001:db8::2") // of ipPorts' second namespace
	right = addr("2001:db8::1") // of its first
)

// ipPorts opens an "ip" port on each of two connected namespaces.
func ipPorts(t *testing.T, opts ...func(*Options)) (pa, pb *IPPort, a, b *netns.NS) {
	t.Helper()
	a, b = pair(t)
	open := func(ns *netns.NS, opts ...func(*Options)) *IPPort {
		p, err := newHost(t, ns, opts...).Open("ip")
		must(t, err)
		t.Cleanup(func() { p.Close() })
		return p.(*IPPort)
	}
	return open(a, opts...), open(b), a, b
}

// chain builds an IPv6 packet from left to right: headers are (next header value of this one, its octets after the next header field).
type hdr struct {
	kind uint8
	rest []byte // all octets but the first, which names the next header
}

func chain(final uint8, payload []byte, hdrs ...hdr) []byte {
	var body []byte
	first := final
	for i, h := range hdrs {
		next := final
		if i+1 < len(hdrs) {
			next = hdrs[i+1].kind
		}
		if i == 0 {
			first = h.kind
		}
		body = append(append(body, next), h.rest...)
	}
	body = append(body, payload...)
	b, err := (&wireip.Header{Src: left, Dst: right, Proto: first, TTL: 64}).Append(nil, len(body))
	if err != nil {
		panic(err)
	}
	return append(b, body...)
}

func haoAt(pad ...byte) hdr {
	h := home6.As16()
	o := append(append([]byte{0}, pad...), 0xc9, 16)
	o = append(o, h[:]...)
	for (len(o)+1)%8 != 0 {
		o = append(o, 0)
	}
	o[0] = byte((len(o)+1)/8 - 1)
	return hdr{wireip.DstOpts, o}
}

func rh(kind, left byte) hdr {
	h := home6.As16()
	return hdr{wireip.Routing, append([]byte{2, kind, left, 0, 0, 0, 0}, h[:]...)}
}

func frag(off int, more bool, id byte) hdr {
	v := uint16(off)
	if more {
		v |= 1
	}
	return hdr{wireip.Fragment, append(binary.BigEndian.AppendUint16([]byte{0}, v), 0, 0, 0, id)}
}

func option(o ...byte) hdr {
	b := append([]byte{0}, o...)
	for (len(b)+1)%8 != 0 {
		b = append(b, 0)
	}
	b[0] = byte((len(b)+1)/8 - 1)
	return hdr{wireip.DstOpts, b}
}

// icmp6 is an ICMPv6 message from src to right with its checksum, which is wrong by bad.
func icmp6(src netip.Addr, bad uint16, b ...byte) []byte {
	b = append([]byte{b[0], 0, 0, 0}, b[1:]...)
	binary.BigEndian.PutUint16(b[2:], wireip.PseudoChecksum(src, right, wireip.ICMPv6, b)+bad)
	return b
}

// signalPackets come to right, as one packet or as fragments. got is what the port must give, nil for nothing; told: the kernel
// answers with an ICMPv6 error, as it did before.
var (
	aligned = haoAt(1, 2, 0, 0)
	hop     = hdr{wireip.HopByHop, []byte{0, 5, 2, 0, 0, 1, 0}}
	msg     = mh("signalling")
	esp     = append([]byte{0, 0, 1, 1, 0, 0, 0, 1}, bytes.Repeat([]byte{0xee}, 40)...)

	signalPackets = []struct {
		name string
		send [][]byte
		got  []byte
		told bool
	}{
		{"Mobility Header", [][]byte{chain(135, msg)}, chain(135, msg), false},
		{"ESP", [][]byte{chain(50, esp)}, chain(50, esp), false},
		{"Home Address option", [][]byte{chain(135, msg, aligned)}, chain(135, msg, aligned), false},
		{"Home Address option, ESP", [][]byte{chain(50, esp, aligned)}, chain(50, esp, aligned), false},
		{"Home Address option, four Pad1", [][]byte{chain(135, msg, haoAt(0, 0, 0, 0))}, chain(135, msg, haoAt(0, 0, 0, 0)), false},
		{"Home Address option, not aligned", [][]byte{chain(50, esp, haoAt())}, chain(50, esp, haoAt()), false},
		{"routing header", [][]byte{chain(135, msg, rh(2, 1))}, chain(135, msg, rh(2, 1)), false},
		{"routing header, ESP", [][]byte{chain(50, esp, rh(2, 1))}, chain(50, esp, rh(2, 1)), false},
		{"routing header, no segments left", [][]byte{chain(135, msg, rh(2, 0))}, chain(135, msg, rh(2, 0)), false},
		{"routing header, Home Address option", [][]byte{chain(135, msg, rh(2, 1), aligned)}, chain(135, msg, rh(2, 1), aligned), false},
		{"routing header, ICMPv6", [][]byte{chain(58, []byte{147, 0, 0, 0, 0, 1, 0, 0}, rh(2, 1))}, chain(58, []byte{147, 0, 0, 0, 0, 1, 0, 0}, rh(2, 1)), false},
		{"routing header, data", [][]byte{chain(17, make([]byte, 8), rh(2, 1))}, nil, false},
		{"routing header, fragments of data", [][]byte{chain(17, make([]byte, 16), rh(2, 1), frag(0, true, 6)), chain(17, make([]byte, 16), rh(2, 1), frag(16, false, 6))}, nil, false},
		{"hop-by-hop, Home Address option", [][]byte{chain(135, msg, hop, aligned)}, chain(135, msg, hop, aligned), false},
		{"limit option, Mobility Header", [][]byte{chain(135, msg, option(4, 1, 3))}, chain(135, msg), false},
		{"limit option, routing header", [][]byte{chain(135, msg, option(4, 1, 3), rh(2, 1))}, chain(135, msg, option(4, 1, 3), rh(2, 1)), false},
		{"fragments of a Mobility Header", [][]byte{chain(135, msg[:16], frag(0, true, 1)), chain(135, msg[16:], frag(16, false, 1))}, chain(135, msg), false},
		{"fragments behind a Home Address option",
			[][]byte{chain(135, msg[:16], aligned, frag(0, true, 2)), chain(135, msg[16:], aligned, frag(16, false, 2))}, chain(135, msg, aligned), false},
		{"fragments before a Home Address option, last first",
			[][]byte{chain(60, append(chain(50, esp, aligned)[64:], 0)[:48], frag(24, false, 3)), chain(50, nil, frag(0, true, 3), aligned)}, chain(50, esp, aligned), false},
		{"fragments behind a routing header",
			[][]byte{chain(50, esp[:16], rh(2, 1), frag(0, true, 4)), chain(50, esp[16:], rh(2, 1), frag(16, false, 4))}, chain(50, esp, rh(2, 1)), false},
		{"atomic fragment, Home Address option", [][]byte{chain(135, msg, frag(0, false, 5), aligned)}, chain(135, msg, frag(0, false, 5), aligned), false},

		{"ESP of data", [][]byte{chain(50, append([]byte{0x80, 0, 1, 1}, esp[4:]...))}, nil, false},
		{"Home Address option, data", [][]byte{chain(17, make([]byte, 8), aligned)}, nil, true},
		{"another option that must be known", [][]byte{chain(135, msg, option(0xc7, 1, 0))}, nil, true},
		{"another option before a Home Address option", [][]byte{chain(135, msg, option(append([]byte{4, 1, 3, 1, 1, 0, 0xc9, 16}, make([]byte, 16)...)...))}, nil, true},
		{"another routing header", [][]byte{chain(135, msg, rh(0, 1))}, nil, true},
		{"Home Address option, AH", [][]byte{chain(51, append([]byte{135, 4, 0, 0}, make([]byte, 60)...), aligned)}, nil, true},
		{"no next header", [][]byte{chain(59, nil, aligned)}, nil, true},

		{"prefix solicitation", [][]byte{chain(58, mps)}, chain(58, mps), false},
		{"prefix solicitation, Home Address option", [][]byte{chain(58, away, aligned)}, chain(58, away, aligned), false},
		{"prefix solicitation, Home Address option, four Pad1", [][]byte{chain(58, away, haoAt(0, 0, 0, 0))}, chain(58, away, haoAt(0, 0, 0, 0)), false},
		{"prefix solicitation, hop-by-hop", [][]byte{chain(58, mps, hop)}, chain(58, mps), false},
		{"prefix solicitation, wrong checksum", [][]byte{chain(58, icmp6(left, 1, 146, 1, 2, 0, 0))}, nil, false},
		{"prefix solicitation in fragments", [][]byte{chain(58, mps[:8], frag(0, true, 7)), chain(58, mps[8:], frag(8, false, 7))}, chain(58, mps), false},
		{"search for home agents", [][]byte{chain(58, icmp6(left, 0, 144, 1, 2, 0, 0))}, chain(58, icmp6(left, 0, 144, 1, 2, 0, 0)), false},
		{"an answer to none", [][]byte{chain(58, icmp6(left, 0, 145, 1, 2, 0, 0))}, nil, false},
		{"prefix advertisement", [][]byte{chain(58, icmp6(left, 0, 147, 1, 2, 0, 0))}, nil, false},
		{"Home Address option, echo", [][]byte{chain(58, icmp6(home6, 0, 128, 1, 2, 0, 0), aligned)}, nil, true},
		{"Home Address option, prefix advertisement", [][]byte{chain(58, icmp6(home6, 0, 147, 1, 2, 0, 0), aligned)}, nil, true},
	}
	mps  = icmp6(left, 0, 146, 1, 2, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7)
	away = icmp6(home6, 0, 146, 1, 2, 0, 0)
)

// TestIPPort: each packet comes exactly once and whole, or is the kernel's as before; of nothing that comes the sender hears.
func TestIPPort(t *testing.T) {
	for _, conntrack := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "conntrack"}[conntrack], func(t *testing.T) {
			pa, pb, a, b := ipPorts(t, func(o *Options) { o.ICMPv6 = []uint8{144, 146} })
			if conntrack { // the kernel then puts fragments together before its input hook
				_, err := a.Run(context.Background(), "nft", "add table inet tracked; add chain inet tracked c { type filter hook prerouting priority 0; }; add rule inet tracked c ct state new accept")
				must(t, err)
			}
			errs := make([]func(time.Duration) ([]byte, netip.Addr), 0, 4)
			for typ := byte(1); typ <= 4; typ++ {
				errs = append(errs, icmpListener(t, b, typ))
			}
			must(t, b.Sysctl("net.ipv6.icmp.ratelimit", "0"))
			must(t, a.Sysctl("net.ipv6.icmp.ratelimit", "0"))
			end := mh("end of the case")
			for _, c := range signalPackets {
				for _, f := range c.send {
					if _, err := pb.Write([]core.Packet{{B: f}}); err != nil {
						t.Fatalf("%s: %v", c.name, err)
					}
				}
				// What comes behind comes last: the link keeps the order, and each socket does.
				for _, last := range [][]byte{chain(135, end), chain(50, end), chain(135, end, aligned), chain(58, icmp6(left, 0, append([]byte{146}, end...)...))} {
					if _, err := pb.Write([]core.Packet{{B: last}}); err != nil {
						t.Fatal(err)
					}
				}
				var got [][]byte
				var came []core.Packet
				for ends := 0; ends < 4; {
					if len(came) == 0 {
						came = read(t, pa, 1)
					}
					p := came[0]
					came = came[1:]
					if bytes.HasSuffix(p.B, end) {
						ends++
						continue
					}
					if p.If != a.Index("d0") || p.Src.Addr() != left || p.Dst.Addr() != right || p.Outer.N != 0 {
						t.Errorf("%s: %+v", c.name, p)
					}
					got = append(got, p.B)
				}
				switch {
				case c.got == nil && len(got) == 0:
				case c.got == nil || len(got) != 1:
					t.Errorf("%s: %d packets came: %x", c.name, len(got), got)
				case !bytes.Equal(got[0], c.got):
					t.Errorf("%s:\n got %x\nwant %x", c.name, got[0], c.got)
				}
				var told []byte
				for _, listen := range errs {
					if m, _ := listen(map[bool]time.Duration{true: 300 * time.Millisecond, false: 5 * time.Millisecond}[c.told]); m != nil {
						told = m
					}
				}
				if (told != nil) != c.told {
					t.Errorf("%s: the kernel told the sender %x, want one: %v", c.name, told, c.told)
				}
			}
			if s := pa.Stats(); s.Overrun != 1 || s.Truncated+s.Foreign+s.Fragments != 0 { // the wrong checksum
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// TestIPPortClosed: the kernel answers again, and no table is left.
func TestIPPortClosed(t *testing.T) {
	pa, pb, a, b := ipPorts(t)
	table := func() string {
		out, err := a.Run(context.Background(), "nft", "list", "ruleset")
		must(t, err)
		return out
	}
	if out := table(); !strings.Contains(out, "kedge-107") || !strings.Contains(out, "rt type 2") {
		t.Errorf("rules:\n%s", out)
	}
	must(t, pa.Close())
	must(t, pa.Close())
	if _, err := pa.Read(make([]core.Packet, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := pa.Write([]core.Packet{{B: chain(135, msg)}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if out := table(); out != "" {
		t.Errorf("left behind:\n%s", out)
	}
	listen := icmpListener(t, b, 4)
	if _, err := pb.Write([]core.Packet{{B: chain(135, msg, aligned)}}); err != nil {
		t.Fatal(err)
	}
	if m, _ := listen(5 * time.Second); m == nil {
		t.Error("the kernel says nothing to a Home Address option: something still drops it")
	}
}

// TestIPPortForeign: what is addressed to others, and what is only forwarded, is neither taken nor dropped.
func TestIPPortForeign(t *testing.T) {
	pa, pb, a, b := ipPorts(t, func(o *Options) { o.Local = []netip.Addr{right, addr("192.0.2.1")} })
	must(t, a.AddAddr("d0", pfx("2001:db8::11/64")))
	ip(t, a, "link", "add", "stub", "type", "veth", "peer", "name", "end")
	ip(t, a, "link", "set", "end", "up")
	ip(t, a, "link", "set", "stub", "up")
	ip(t, a, "-6", "neigh", "add", "2001:db8:77::9", "dev", "stub", "lladdr", "02:00:00:00:00:09")
	ip(t, a, "-6", "route", "add", "2001:db8:77::/64", "dev", "stub")
	must(t, a.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	ip(t, b, "-6", "route", "add", "2001:db8:77::/64", "via", "2001:db8::1")
	to := func(dst string, p []byte) []byte {
		p = bytes.Clone(p)
		d := addr(dst).As16()
		copy(p[24:40], d[:])
		return p
	}
	listen := icmpListener(t, b, 4)
	forwarded := func() string { return ip(t, a, "-s", "link", "show", "stub") }
	before := forwarded()
	if n, err := pb.Write([]core.Packet{
		{B: to("2001:db8:77::9", chain(135, msg, aligned))},
		{B: to("2001:db8::11", chain(135, msg, aligned))},
		{B: to("2001:db8::11", chain(135, msg))},
		{B: chain(135, mh("ours"), aligned)},
	}); n != 4 {
		t.Fatal(n, err)
	}
	got := read(t, pa, 1)
	if len(got) != 1 || !bytes.Equal(got[0].B, chain(135, mh("ours"), aligned)) {
		t.Errorf("got %+v", got)
	}
	if m, from := listen(5 * time.Second); m == nil || from != addr("2001:db8::11") {
		t.Errorf("an address that is not the port's: the kernel answered %x from %s, want as without the port", m, from)
	}
	deadline := time.Now().Add(5 * time.Second)
	for forwarded() == before && time.Now().Before(deadline) {
		_, _ = listen(10 * time.Millisecond)
	}
	if forwarded() == before {
		t.Error("a packet that is to be forwarded did not leave")
	}
	if s := pa.Stats(); s.Foreign < 2 {
		t.Errorf("stats %+v", s)
	}
	// The set of addresses can change.
	must(t, pa.SetLocal(addr("2001:db8::11")))
	if _, err := pb.Write([]core.Packet{{B: chain(135, msg, aligned)}, {B: to("2001:db8::11", chain(135, msg, rh(2, 1)))}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, pa, 1); got[0].Dst.Addr() != addr("2001:db8::11") {
		t.Errorf("got %+v", got)
	}
}

// TestIPPortAddressesComeAndGo: care-of addresses of a node need no configuration.
func TestIPPortAddressesComeAndGo(t *testing.T) {
	pa, pb, a, b := ipPorts(t)
	ip(t, b, "-6", "route", "add", "2001:db8:5::/64", "dev", "d1")
	to := bytes.Clone(chain(135, msg, rh(2, 1)))
	d := addr("2001:db8:5::7").As16()
	copy(to[24:40], d[:])
	ip(t, a, "addr", "add", "2001:db8:5::7/64", "dev", "d0", "nodad")
	waitFor(t, "the new address", func() bool { return pa.local.has(addr("2001:db8:5::7")) })
	if _, err := pb.Write([]core.Packet{{B: to}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, pa, 1); !bytes.Equal(got[0].B, to) {
		t.Errorf("got %+v", got)
	}
	ip(t, a, "addr", "del", "2001:db8:5::7/64", "dev", "d0")
	waitFor(t, "the address to go", func() bool { return !pa.local.has(addr("2001:db8:5::7")) })
	if !pa.local.has(right) {
		t.Error("the other address went with it")
	}
}

// TestTapTableComesBack: firewalls flush all rules when they are loaded.
func TestTapTableComesBack(t *testing.T) {
	_, _, a, _ := ipPorts(t)
	for _, cmd := range []string{"flush ruleset", "delete table ip6 kedge-107", "flush chain ip6 kedge-107 taken"} {
		_, err := a.Run(context.Background(), "nft", strings.Fields(cmd)...)
		must(t, err)
		waitFor(t, "the rules after "+cmd, func() bool {
			out, err := a.Run(context.Background(), "nft", "list", "ruleset")
			must(t, err)
			return strings.Count(out, "drop") == 7
		})
	}
}

// TestTapTableOfACrash: a table that an earlier run left is replaced, or swept if none is wanted.
func TestTapTableOfACrash(t *testing.T) {
	a, _ := pair(t)
	left := func() {
		_, err := a.Run(context.Background(), "nft", "add table ip6 kedge-107; add chain ip6 kedge-107 taken { type filter hook input priority -300; }; add rule ip6 kedge-107 taken drop")
		must(t, err)
	}
	tables := func() string {
		out, err := a.Run(context.Background(), "nft", "list", "tables")
		must(t, err)
		return strings.TrimSpace(out)
	}
	left()
	h := newHost(t, a)
	if gone, err := h.Sweep(); err != nil || tables() != "" || len(gone) != 1 || gone[0].Kind != "ip port" {
		t.Errorf("swept %+v, %v; left: %s", gone, err, tables())
	}
	left()
	p, err := h.Open("ip")
	must(t, err)
	if gone, err := h.Sweep(); err != nil || len(gone) != 0 || tables() != "table ip6 kedge-107" {
		t.Errorf("swept %+v, %v; left: %s", gone, err, tables())
	}
	must(t, p.Close())
	if tables() != "" {
		t.Errorf("left: %s", tables())
	}
}

// waitFor polls a condition for five seconds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited 5 s for %s", what)
		}
	}
}

// TestIPPortLong: what does not fit one packet goes in fragments and comes whole; what no message can be is refused, not lost silently.
func TestIPPortLong(t *testing.T) {
	pa, pb, _, _ := ipPorts(t)
	long := func(proto uint8, n int, hdrs ...hdr) []byte { return chain(proto, bytes.Repeat([]byte{7}, n), hdrs...) }
	for _, c := range []struct {
		name string
		pkt  []byte
		len  int // octets that come
	}{
		{"the longest Mobility Header", long(135, 2048), 40 + 2048},
		{"the same with a Home Address option", long(135, 2048, aligned), 40 + 24 + 2048},
		{"ESP around it", long(50, 2100, rh(2, 1)), 40 + 24 + 2100},
		{"longer than any, for the parser to refuse", long(135, 9000), 40 + maxSignal},
		{"65,535 octets behind a Home Address option", long(135, 65535-24, aligned), 40 + 65535},
	} {
		if n, err := pb.Write([]core.Packet{{B: c.pkt}}); n != 1 {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := read(t, pa, 1)[0].B
		if len(got) != c.len || len(got) == len(c.pkt) && !bytes.Equal(got, c.pkt) {
			t.Errorf("%s: %d octets came, want %d", c.name, len(got), c.len)
		}
		if h, err := wireip.Parse(got); err != nil || h.Len != len(got) {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
	}
	// Of ESP that is cut nothing can be verified.
	if _, err := pb.Write([]core.Packet{{B: long(50, 9000)}, {B: chain(50, esp)}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, pa, 1)[0].B; !bytes.Equal(got, chain(50, esp)) {
		t.Errorf("%d octets came", len(got))
	}
	if s := pa.Stats(); s.Truncated != 1 {
		t.Errorf("stats %+v", s)
	}
}

// TestIPPortBadFragments: overlapping and endless ones are counted and leave the port at work.
func TestIPPortBadFragments(t *testing.T) {
	pa, pb, _, _ := ipPorts(t)
	var pkts []core.Packet
	for id := range byte(50) { // overlapping
		pkts = append(pkts, core.Packet{B: chain(135, msg[:16], aligned, frag(0, true, id))}, core.Packet{B: chain(135, msg[:16], aligned, frag(8, false, id))})
	}
	for id := range 400 { // without end: more than are kept
		f := frag(0, true, byte(id))
		f.rest[5] = byte(1 + id>>8)
		pkts = append(pkts, core.Packet{B: chain(135, msg[:16], aligned, f)})
	}
	pkts = append(pkts, core.Packet{B: chain(135, msg, aligned)})
	for len(pkts) > 0 {
		n := min(len(pkts), 50)
		if _, err := pb.Write(pkts[:n]); err != nil {
			t.Fatal(err)
		}
		pkts = pkts[n:]
	}
	if got := read(t, pa, 1); !bytes.Equal(got[0].B, chain(135, msg, aligned)) {
		t.Errorf("got %x", got[0].B)
	}
	if s := pa.Stats(); s.Fragments != 50+144 { // of those given up, 50 were refused before
		t.Errorf("stats %+v, want 50 refused fragments, and 144 given up", s)
	}
	if held, _ := pa.tap.frags.Held(); held > tapFragments.Packets {
		t.Errorf("%d packets are kept", held)
	}
}

// TestIPPortWrites: one bad packet does not hold the others, sources are ours, and links are chosen where asked.
func TestIPPortWrites(t *testing.T) {
	pa, pb, a, b := ipPorts(t)
	from := func(src, dst string) []byte {
		p, err := (&wireip.Header{Src: addr(src), Dst: addr(dst), Proto: 135, TTL: 64}).Append(nil, len(msg))
		must(t, err)
		return append(p, msg...)
	}
	good := from("2001:db8::2", "2001:db8::1")
	n, err := pb.Write([]core.Packet{
		{B: good}, {B: []byte("garbage")}, {B: nil}, {B: good[:50]}, {B: good, Outer: core.Chain{N: 1}},
		{B: from("2001:db8::99", "2001:db8::1")}, {B: from("2001:db8::2", "2001:db8:ffff::1")}, {B: good},
	})
	if n != 2 || err == nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	for _, want := range []string{"2001:db8::99 must be an address of this host", "no route", "truncated", "unsupported"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if got := read(t, pa, 2); !bytes.Equal(got[0].B, good) || !bytes.Equal(got[1].B, good) {
		t.Errorf("got %+v", got)
	}
	// A wrong checksum is the parser's.
	bad := bytes.Clone(good)
	bad[45] ^= 1
	if _, err := pb.Write([]core.Packet{{B: bad}}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, pa, 1); !bytes.Equal(got[0].B, bad) {
		t.Errorf("got %+v", got)
	}
	// Link-local: the zone or If says which link.
	out, err := b.Addrs("d1")
	must(t, err)
	var local string
	for _, p := range out {
		if p.Addr().IsLinkLocalUnicast() {
			local = p.Addr().String()
		}
	}
	var peer string
	waitFor(t, "a link-local address", func() bool {
		out, err := a.Addrs("d0")
		must(t, err)
		for _, p := range out {
			if p.Addr().IsLinkLocalUnicast() {
				peer = p.Addr().String()
			}
		}
		return peer != "" && !strings.Contains(ip(t, a, "addr", "show", "d0")+ip(t, b, "addr", "show", "d1"), "tentative")
	})
	if _, err := pb.Write([]core.Packet{{If: b.Index("d1"), B: from(local, peer)}, {B: from(local, peer)}}); err == nil {
		t.Error("a link-local destination without a link was taken")
	}
	if got := read(t, pa, 1)[0]; got.Src.Addr() != addr(local) || got.If != a.Index("d0") {
		t.Errorf("got %+v", got)
	}
}

// TestIPPortSendsByIf: a node with two ways sends by the one it means; others by the routing table.
func TestIPPortSendsByIf(t *testing.T) {
	a, b := pair(t)
	netns.TestVeth(t,
		netns.End{NS: a, Name: "e0", Addrs: []netip.Prefix{pfx("2001:db8:9::1/64")}}, netns.End{NS: b, Name: "e1", Addrs: []netip.Prefix{pfx("2001:db8:9::2/64")}})
	ip(t, a, "addr", "add", "2001:db8:aa::1/128", "dev", "lo")
	for _, l := range []string{"d1 metric 10", "e1 metric 20"} {
		args := append([]string{"-6", "route", "add", "2001:db8:aa::1/128", "dev"}, strings.Fields(l)...)
		ip(t, b, args...)
	}
	lla := func(link string) {
		l, err := a.Link(map[string]string{"d1": "d0", "e1": "e0"}[link])
		must(t, err)
		ip(t, b, "-6", "neigh", "replace", "2001:db8:aa::1", "dev", link, "lladdr", l.Attrs().HardwareAddr.String())
	}
	lla("d1")
	lla("e1")
	for _, byIf := range []bool{false, true} {
		ha := newHost(t, a)
		pa, err := ha.Open("ip")
		must(t, err)
		pb, err := newHost(t, b, func(o *Options) { o.SendByIf, o.Tag = byIf, 9 }).Open("ip")
		must(t, err)
		h := wireip.Header{Src: addr("2001:db8:9::2"), Dst: addr("2001:db8:aa::1"), Proto: 135, TTL: 64}
		p, err := h.Append(nil, len(msg))
		must(t, err)
		if n, err := pb.Write([]core.Packet{{If: b.Index("e1"), B: append(p, msg...)}}); n != 1 {
			t.Fatal(err)
		}
		want := "d0"
		if byIf {
			want = "e0"
		}
		if got := read(t, pa, 1)[0]; got.If != a.Index(want) {
			t.Errorf("SendByIf %v: it came by %d, want %s", byIf, got.If, want)
		}
		must(t, errors.Join(pa.Close(), pb.Close()))
	}
}

// TestTapFilterPassesWhatIsTaken: the filter of the packet socket keeps nothing out that the rules drop.
func TestTapFilterPassesWhatIsTaken(t *testing.T) {
	raw, err := tapFilter()
	must(t, err)
	var prog []bpf.Instruction
	for _, r := range raw {
		prog = append(prog, r.Disassemble())
	}
	vm, err := bpf.NewVM(prog)
	must(t, err)
	passes := func(b []byte) bool { n, err := vm.Run(b); return err == nil && n > 0 }
	for _, c := range signalPackets {
		for i, b := range c.send {
			if kept, later := tapped(b, true); (kept || later) && !passes(b) {
				t.Errorf("%s, %d: is kept out", c.name, i)
			}
		}
	}
	for name, b := range map[string][]byte{
		"data": chain(6, make([]byte, 20)), "data in a tunnel with a limit": chain(41, make([]byte, 40), option(4, 1, 3)),
		"fragmented data": chain(17, make([]byte, 16), frag(0, true, 1)), "segment routing": chain(41, make([]byte, 40), rh(4, 1)),
	} {
		if passes(b) {
			t.Errorf("%s wakes the port", name)
		}
	}
}

// FuzzTapped: the look at headers that decides what is taken never reads beyond the packet.
func FuzzTapped(f *testing.F) {
	for _, c := range signalPackets {
		for _, b := range c.send {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < wireip.IPv6Len {
			return
		}
		if kept, later := tapped(b, true); kept && later {
			t.Error("kept and to be kept later")
		}
	})
}

// TestPollTakesTurns: who keeps one socket full leaves the others alone.
func TestPollTakesTurns(t *testing.T) {
	ep, err := newEpoll()
	must(t, err)
	defer ep.Close()
	var fds []int
	for range 3 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		_, err = unix.Write(pair[1], []byte("never read, so there is always more"))
		must(t, err)
		must(t, watchInput(ep, pair[0]))
		fds = append(fds, pair[0])
	}
	served := map[int]int{}
	must(t, ep.control(func(e int) {
		for range 9 {
			var p IPPort
			left := 32 // as a flood takes all the room there is
			if _, err := poll(e, p.events[:], func(fd, _ int) int {
				took := left
				if left = 0; took > 0 {
					served[fd]++
				}
				return took
			}); err != nil {
				t.Error(err)
			}
		}
	}))
	for _, fd := range fds {
		if served[fd] != 3 {
			t.Errorf("%v of 9 turns", served)
			break
		}
	}
}
