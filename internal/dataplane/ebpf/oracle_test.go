package ebpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/internal/dataplane/user"
	"kedge/wire"
	"kedge/wire/ip"
)

// oracle runs one packet through a program and through an engine with the same state.
type oracle struct {
	*world
	role  dataplane.Role
	p     *Plane
	e     *mem.Engine
	mac   [2]core.MAC // of the interfaces core0 and acc1 here
	index [2]int
	do    chan func() // on a thread in the namespace
	out   mem.Out
	seen  map[string]int
}

const (
	passed     = -1
	dropped    = 2
	redirected = 7
)

var hostMAC = core.MAC{2, 0, 0, 0, 0, 0x0a}

func newOracle(t testing.TB, role dataplane.Role, change ...func(*Config)) *oracle {
	w := newWorld(t, "r", "x")
	w.veth("r", "core0", "x", "core0", 1500)
	w.veth("r", "acc1", "x", "acc1", 1500)
	w.sh("r", "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1")
	cfg := user.Config{Role: role, Now: func() time.Duration { return time.Hour }, MTU: 1500}
	o := &oracle{world: w, role: role, do: make(chan func()), seen: map[string]int{}}
	switch role {
	case dataplane.Anchor:
		cfg.Local = []netip.Addr{conformance.LMAA, conformance.LMAA4}
	case dataplane.Gateway:
		cfg.Local = []netip.Addr{conformance.CoA1, coaGateway4}
		cfg.Access = []dataplane.Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}
	case dataplane.Node:
		cfg.Home = []netip.Addr{conformance.H16}
		cfg.Local = nil
	}
	own := []netip.Addr{conformance.LMAA, conformance.LMAA4}
	if role != dataplane.Anchor {
		own = []netip.Addr{conformance.CoA1, conformance.CoA4}
	}
	for _, a := range own {
		w.sh("r", fmt.Sprintf("ip addr add %v/%d dev lo", a, a.BitLen()))
	}
	w.sh("r", "ip route add ::/0 via fe80::99 dev core0", "ip route add 0.0.0.0/0 via 192.0.2.99 dev core0 onlink",
		"ip neigh replace fe80::99 lladdr 02:00:00:00:00:99 dev core0 nud permanent", "ip neigh replace 192.0.2.99 lladdr 02:00:00:00:00:99 dev core0 nud permanent")
	for i, n := range []string{"core0", "acc1"} {
		o.mac[i], o.index[i] = w.mac("r", n)
	}
	w.in("r", func() (err error) {
		c := Config{load: loaded.take, Config: cfg, Sessions: 64, Core: []string{"none"}, fakeClock: true}
		for _, f := range change {
			f(&c)
		}
		o.p, err = New(c)
		return err
	})
	t.Cleanup(func() { must(t, o.p.Close()) })
	e := mem.Config{Role: role, Local: cfg.Local, Home: cfg.Home, Now: cfg.Now, MTU: 1500}
	if role == dataplane.Gateway {
		e.Access = []dataplane.Link{{If: o.index[1], MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}
	}
	var err error
	o.e, err = mem.New(e)
	must(t, err)
	ops := o.ops()
	w.in("r", func() error { return o.p.Update(ops) })
	must(t, o.e.Update(ops))
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		ready <- netns.Set(w.spaces["r"])
		for f := range o.do {
			f()
		}
	}()
	must(t, <-ready)
	t.Cleanup(func() { close(o.do) })
	return o
}

// ops are three sessions in three framings, the second one just moved.
func (o *oracle) ops() (ops []core.Op) {
	type s struct {
		chain core.Chain
		keys  []netip.Prefix
	}
	home := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	all := []s{
		{tunnelOf(conformance.LMAA, conformance.CoA1, 0), []netip.Prefix{conformance.HNP1, home(conformance.H14)}},
		{tunnelOf(conformance.LMAA4, coaGateway4, 0), []netip.Prefix{conformance.HNP2, home(conformance.H24)}},
		{core.Chain{N: 1, Layer: [2]core.Layer{{Local: ap(conformance.LMAA4, 4191), Remote: ap(conformance.NAT4, 40001)}}},
			[]netip.Prefix{conformance.HNP3, home(conformance.H34)}},
	}
	before := tunnelOf(conformance.LMAA, conformance.CoA2, 0)
	switch o.role {
	case dataplane.Gateway:
		all[0].chain, all[1].chain = tunnelOf(conformance.CoA1, conformance.LMAA, 0), tunnelOf(coaGateway4, conformance.LMAA4, 0)
		before, all = tunnelOf(conformance.CoA1, conformance.CoA2, 0), all[:2]
	case dataplane.Node:
		all[0].chain, all[1].chain = tunnelOf(conformance.CoA1, conformance.LMAA, 0), tunnelOf(conformance.CoA4, conformance.LMAA4, 0)
		all[2].chain = tunnelOf(conformance.CoA4, conformance.LMAA4, 4191)
		before = tunnelOf(conformance.CoA1, conformance.CoA2, 0)
	}
	for i, s := range all {
		set := core.SetSession{ID: core.ID(i + 1), Chain: s.chain, Grace: time.Second}
		if o.role == dataplane.Gateway {
			set.If, set.MAC = o.index[1], hostMAC
		}
		if i == 1 {
			first := set
			first.Chain = before
			ops = append(ops, first)
		}
		ops = append(ops, set)
		for _, k := range s.keys {
			m := core.Match{Src: k, If: set.If, MAC: set.MAC}
			if o.role == dataplane.Anchor {
				m = core.Match{Dst: k}
			}
			ops = append(ops, core.SetKey{ID: set.ID, Match: m, Up: true, Down: true})
		}
	}
	gone := core.Match{Src: netip.MustParsePrefix("10.20.0.77/32"), If: o.index[1], MAC: hostMAC}
	if o.role == dataplane.Anchor {
		gone = core.Match{Dst: gone.Src}
	} else if o.role == dataplane.Node {
		gone.If, gone.MAC = 0, core.MAC{}
	}
	return append(ops, core.SetKey{ID: 1, Match: gone})
}

// check runs pkt, from its IP header on, and compares. access: it comes from the host.
func (o *oracle) check(t testing.TB, pkt []byte, access bool) {
	t.Helper()
	at := 0
	prog := o.p.k.programs["core"]
	dst, src := o.mac[0], core.MAC{2, 0, 0, 0, 0, 0x99}
	if access {
		at, prog, dst, src = 1, o.p.k.programs["access"], conformance.RouterMAC, hostMAC
	}
	frame := append(append([]byte{}, dst[:]...), src[:]...)
	if len(pkt) > 0 && pkt[0]>>4 == 6 {
		frame = append(frame, 0x86, 0xdd)
	} else {
		frame = append(frame, 0x08, 0)
	}
	frame = append(frame, pkt...)
	var ctx [12]uint32
	ctx[10] = uint32(o.index[at])
	after := make([]byte, len(frame)+256)
	opts := ebpf.RunOptions{Data: frame, DataOut: after, Context: &ctx}
	drops := map[wire.Reason]uint64{}
	for _, r := range reasons {
		drops[r] = o.p.dropped(r)
	}
	var ret uint32
	var err error
	done := make(chan struct{})
	o.do <- func() { ret, err = prog.Run(&opts); close(done) }
	<-done
	if err != nil {
		if len(frame) < 14+40 {
			return // the kernel does not run so short a frame
		}
		t.Fatalf("%x: %v", frame, err)
	}
	o.out.Reset()
	was := map[wire.Reason]uint64{}
	o.e.Drops(func(r wire.Reason, n uint64) { was[r] = n })
	b := bytes.Clone(pkt)
	switch {
	case access:
		o.e.Native(time.Hour, mem.Native{If: o.index[1], MAC: hostMAC, B: b}, &o.out)
	case o.tunnelled(b):
		o.e.Tunnel(time.Hour, b, &o.out)
	case o.role == dataplane.Anchor:
		o.e.Native(time.Hour, mem.Native{B: b}, &o.out)
	}
	verdict := int32(ret)
	if !access && verdict != passed && corruptUDP(pkt) {
		// The program looks no further than headers. What it let pass, the next one finds.
		o.seen["corrupt"]++
		if _, body, ok := payload(pkt); !ok || soundInner(body) {
			t.Errorf("%x: verdict %d on a packet of which only the outer checksum is wrong", pkt, verdict)
		}
		return
	}
	switch verdict {
	case passed:
		o.seen["passed"]++
		if !bytes.Equal(opts.DataOut[:min(len(opts.DataOut), len(frame))], frame[:min(len(opts.DataOut), len(frame))]) {
			t.Errorf("a packet was changed and passed:\n in %x\nout %x", frame, opts.DataOut)
		}
	case dropped:
		o.seen["dropped"]++
		if len(o.out.Packets) != 0 && o.out.Packets[0].To != dataplane.ToSelf && !o.anError() {
			t.Errorf("%x was dropped, but the engine sends %x", pkt, o.out.Packets[0].B)
		}
		for _, r := range reasons {
			if n := o.p.dropped(r) - drops[r]; n != o.e.Dropped(r)-was[r] {
				t.Errorf("%s: dropped for %s: program %d, engine %d", brief(pkt), r, n, o.e.Dropped(r)-was[r])
			}
		}
	case redirected:
		o.seen["redirected"]++
		o.compare(t, pkt, opts.DataOut)
	default:
		t.Errorf("%x: verdict %d", pkt, verdict)
	}
}

// payload is what a UDP datagram has in it.
func payload(b []byte) (h ip.Header, body []byte, ok bool) {
	h, err := ip.Parse(b)
	if err != nil || h.Proto != ip.UDP || h.Len < h.HdrLen+8 {
		return h, nil, false
	}
	return h, b[h.HdrLen+8 : h.Len], true
}

func corruptUDP(b []byte) bool {
	h, _, ok := payload(b)
	return ok && !bytes.Equal(b[h.HdrLen+6:h.HdrLen+8], []byte{0, 0}) && !soundInner(b)
}

// anError: what the engine sends is an ICMP error, which the program leaves to the first packets.
func (o *oracle) anError() bool {
	h, err := ip.Parse(o.out.Packets[0].B)
	return err == nil && (h.Proto == ip.ICMPv4 || h.Proto == ip.ICMPv6)
}

// tunnelled: is it for the router, in a framing?
func (o *oracle) tunnelled(b []byte) bool {
	h, err := ip.Parse(b)
	if err != nil {
		return false
	}
	switch h.Dst {
	case conformance.LMAA, conformance.LMAA4:
		return o.role == dataplane.Anchor
	case conformance.CoA1, coaGateway4: // that of the node too
		return o.role != dataplane.Anchor
	}
	return false
}

func (o *oracle) compare(t testing.TB, in, frame []byte) {
	t.Helper()
	if len(o.out.Packets) != 1 {
		t.Errorf("%s was sent on, as %s, but the engine sends %d packets", brief(in), brief(frame), len(o.out.Packets))
		return
	}
	want := o.out.Packets[0]
	if o.role == dataplane.Node && want.To == dataplane.ToNative && len(frame) == len(want.B) {
		frame = append(make([]byte, 14), frame...)
	}
	got, b := bytes.Clone(frame[14:]), bytes.Clone(want.B)
	if want.To == dataplane.ToTunnel && got[0]>>4 == 4 && b[0]>>4 == 4 {
		if ip.Checksum(got[:20]) != 0 {
			t.Errorf("%x: header checksum of %x", in, got)
		}
		for _, p := range [][]byte{got, b} { // the Identification is secret
			copy(p[4:6], []byte{0, 0})
			copy(p[10:12], []byte{0, 0})
		}
	}
	if want.To == dataplane.ToTunnel && len(got) == len(b) && got[0]>>4 == 4 && got[9] == ip.UDP && !bytes.Equal(got[26:28], b[26:28]) && !soundInner(in) {
		copy(got[26:28], b[26:28]) // a sum that says that the inner one is wrong
	}
	if !bytes.Equal(got, b) {
		t.Errorf("%s:\nprogram %s\n engine %s", brief(in), brief(got), brief(b))
	}
	if o.role == dataplane.Gateway && want.To == dataplane.ToNative && (core.MAC(frame[:6]) != want.MAC || core.MAC(frame[6:12]) != conformance.RouterMAC) {
		t.Errorf("%x: frame %x, want it to %v", in, frame[:14], want.MAC)
	}
}

// soundInner: the checksum of the transport is right.
func soundInner(b []byte) bool {
	h, err := ip.Parse(b)
	if err != nil {
		return false
	}
	body := b[h.HdrLen:h.Len]
	if h.Proto == ip.ICMPv4 {
		return ip.Checksum(body) == 0
	}
	return ip.PseudoChecksum(h.Src, h.Dst, h.Proto, body) == 0
}

// seeds are packets as they should be, in every framing from every side.
func seeds(role dataplane.Role) (native, tunnel [][]byte) {
	hosts := []netip.Addr{conformance.H16, conformance.H26, conformance.H36, conformance.Nobody, conformance.H14, conformance.H24, conformance.H34, netip.MustParseAddr("10.20.0.77")}
	build := func(src, dst netip.Addr, proto uint8, body []byte, h ip.Header) []byte {
		h.Src, h.Dst, h.Proto = src, dst, proto
		if h.TTL == 0 {
			h.TTL = 64
		}
		b, err := h.Append(nil, len(body))
		if err != nil {
			panic(err)
		}
		return append(b, body...)
	}
	transport := func(src, dst netip.Addr, proto uint8, n int) []byte {
		if proto == ip.UDP {
			b, _ := ip.AppendUDP(nil, ap(src, 4000), ap(dst, 5000), make([]byte, n))
			return b
		}
		b := make([]byte, 20+n)
		b[12] = 0x50
		if proto == ip.ICMPv6 {
			b = append([]byte{128, 0, 0, 0, 1, 2, 3, 4}, make([]byte, n)...)
		} else if proto == ip.ICMPv4 {
			b = append([]byte{8, 0, 0, 0, 1, 2, 3, 4}, make([]byte, n)...)
			binary.BigEndian.PutUint16(b[2:], ip.Checksum(b))
			return b
		}
		at := 16
		if proto == ip.ICMPv6 {
			at = 2
		}
		binary.BigEndian.PutUint16(b[at:], ip.PseudoChecksum(src, dst, proto, b))
		return b
	}
	var inners [][]byte
	for _, a := range hosts {
		cn, icmp := conformance.CN6, uint8(ip.ICMPv6)
		if a.Is4() {
			cn, icmp = conformance.CN4, ip.ICMPv4
		}
		for _, proto := range []uint8{ip.UDP, ip.TCP, icmp} {
			for _, n := range []int{0, 1, 100, 1280, 1440, 1472} {
				src, dst := cn, a
				if role != dataplane.Anchor {
					src, dst = a, cn
				}
				native = append(native, build(src, dst, proto, transport(src, dst, proto, n), ip.Header{TOS: uint8(n)}))
				inners = append(inners, build(dst, src, proto, transport(dst, src, proto, n), ip.Header{TOS: uint8(n), DF: n%3 == 0, TTL: uint8(n)}))
			}
		}
	}
	for _, in := range inners {
		for _, end := range []struct {
			local, remote netip.AddrPort
		}{
			{ap(conformance.LMAA, 0), ap(conformance.CoA1, 0)}, {ap(conformance.LMAA, 0), ap(conformance.CoA2, 0)}, {ap(conformance.LMAA4, 0), ap(coaGateway4, 0)},
			{ap(conformance.LMAA4, 4191), ap(conformance.NAT4, 40001)}, {ap(conformance.LMAA4, 4191), ap(coaGateway4, 4191)},
			{ap(conformance.LMAA, 0), ap(conformance.Alien, 0)},
		} {
			if role != dataplane.Anchor { // towards the care-of address instead
				switch end.remote.Addr() {
				case conformance.CoA1:
					end.local, end.remote = ap(conformance.CoA1, 0), ap(conformance.LMAA, 0)
				case coaGateway4:
					end.local, end.remote = ap(coaGateway4, end.remote.Port()), ap(conformance.LMAA4, end.local.Port())
				case conformance.NAT4:
					continue
				default:
					end.local = ap(conformance.CoA1, 0)
				}
			}
			proto, body := uint8(ip.IPv6), in
			if in[0]>>4 == 4 {
				proto = ip.IPv4
			}
			if end.local.Port() != 0 {
				proto = ip.UDP
				body, _ = ip.AppendUDP(nil, end.remote, end.local, in)
			}
			tunnel = append(tunnel, build(end.remote.Addr(), end.local.Addr(), proto, body, ip.Header{TOS: in[1], ID: 7}))
		}
	}
	return native, tunnel
}

// TestOracle: what the programs do, they do as the engine does; good packets, and ones with a few octets changed.
func TestOracle(t *testing.T) {
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
		t.Run(fmt.Sprint(role), func(t *testing.T) {
			o := newOracle(t, role)
			native, tunnel := seeds(role)
			rnd := rand.New(rand.NewPCG(1, uint64(role)))
			for round := range 4 {
				for _, side := range []struct {
					pkts   [][]byte
					access bool
				}{{native, role == dataplane.Gateway}, {tunnel, false}} {
					if role == dataplane.Node && !side.access && &side.pkts[0] == &native[0] {
						continue // from the device, which has no frames to test with
					}
					for _, b := range side.pkts {
						b = bytes.Clone(b)
						for range round {
							b[rnd.IntN(min(len(b), 100))] = byte(rnd.Uint32())
						}
						if round > 1 {
							resum(b)
						}
						o.check(t, b, side.access)
						if t.Failed() && testing.Short() {
							return
						}
					}
				}
			}
			t.Logf("%v", o.seen)
			if o.seen["redirected"] < 100 || o.seen["passed"] < 100 || o.seen["dropped"] < 1 {
				t.Errorf("too little was tried: %v", o.seen)
			}
		})
	}
}

// resum repairs the checksums of IPv4 headers, so that changes behind them are seen.
func resum(b []byte) {
	fix := func(b []byte) (rest []byte) {
		switch {
		case len(b) >= 20 && b[0] == 0x45:
			copy(b[10:12], []byte{0, 0})
			binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:20]))
			if b[9] == ip.UDP && len(b) > 28 {
				return b[28:]
			}
			return b[20:]
		case len(b) >= 40 && b[0]>>4 == 6:
			return b[40:]
		}
		return nil
	}
	if in := fix(b); in != nil {
		fix(in)
	}
}

func brief(b []byte) string { return fmt.Sprintf("%x (%d)", b[:min(len(b), 110)], len(b)) }

// FuzzOracle compares what the programs make of any packet with what the engine makes of it. It needs root. The first octet says
// which side the packet comes from.
func FuzzOracle(f *testing.F) {
	var each [3]*oracle
	for role := range each {
		each[role] = newOracle(f, dataplane.Role(role))
		native, tunnel := seeds(dataplane.Role(role))
		for i := 0; i < len(native); i += 7 {
			f.Add(append([]byte{byte(role) | 4}, native[i]...))
		}
		for i := 0; i < len(tunnel); i += 23 {
			f.Add(append([]byte{byte(role)}, tunnel[i]...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 22 || len(b) > 3000 || b[0]&3 > 2 {
			return
		}
		o, access := each[b[0]&3], b[0]&4 != 0 && b[0]&3 == byte(dataplane.Gateway)
		o.check(t, b[1:], access)
		again := bytes.Clone(b[1:])
		resum(again)
		o.check(t, again, access)
	})
}
