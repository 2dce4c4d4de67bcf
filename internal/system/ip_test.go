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
		{"routing header, data", [][]byte{chain(17, make([]byte, 8), rh(2, 1))}, chain(17, make([]byte, 8), rh(2, 1)), false},
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

		{"Home Address option, data", [][]byte{chain(17, make([]byte, 8), aligned)}, nil, true},
		{"another option that must be known", [][]byte{chain(135, msg, option(0xc7, 1, 0))}, nil, true},
		{"another option before a Home Address option", [][]byte{chain(135, msg, option(append([]byte{4, 1, 3, 1, 1, 0, 0xc9, 16}, make([]byte, 16)...)...))}, nil, true},
		{"another routing header", [][]byte{chain(135, msg, rh(0, 1))}, nil, true},
		{"Home Address option, AH", [][]byte{chain(51, append([]byte{135, 4, 0, 0}, make([]byte, 60)...), aligned)}, nil, true},
		{"no next header", [][]byte{chain(59, nil, aligned)}, nil, true},
	}
)

// TestIPPort: each packet comes exactly once and whole, or is the kernel's as before; of nothing that comes the sender hears.
func TestIPPort(t *testing.T) {
	for _, conntrack := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "conntrack"}[conntrack], func(t *testing.T) {
			pa, pb, a, b := ipPorts(t)
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
				for _, last := range [][]byte{chain(135, end), chain(50, end), chain(135, end, aligned)} {
					if _, err := pb.Write([]core.Packet{{B: last}}); err != nil {
						t.Fatal(err)
					}
				}
				var got [][]byte
				var came []core.Packet
				for ends := 0; ends < 3; {
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
			if s := pa.Stats(); s.Overrun+s.Truncated+s.Foreign+s.Fragments != 0 {
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
