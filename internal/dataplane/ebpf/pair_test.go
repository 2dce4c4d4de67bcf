package ebpf

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
	"kedge/internal/spec"
	"kedge/wire/ip"
)

// pairOps are a session of route optimization and its key.
func pairOps(id core.ID, local, remote, own, other netip.Addr) []core.Op {
	c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: ap(local, 0), Remote: ap(remote, 0)}}}
	m := core.Match{Src: netip.PrefixFrom(own, 128), Dst: netip.PrefixFrom(other, 128)}
	return []core.Op{core.SetSession{ID: id, Chain: c}, core.SetKey{ID: id, Match: m, Up: true, Down: true}}
}

// TestPairs: what a node exchanges with a correspondent goes straight while there is a session for the two, all of it and by the
// engines of both; its packets to others stay fast meanwhile, and those to this one are again when it ends.
func TestPairs(t *testing.T) {
	spec.Covers(t, "S004-2.3-03")
	p := newNode(t, tunnelOf(conformance.CoA1, conformance.LMAA, 0))
	home, elsewhere := netip.MustParseAddr(host6), netip.MustParseAddr("2001:db8:c::99")
	p.sh("host", "ip -6 rule add from 2001:db8:a::11 lookup 100", "ip -6 route add default via 2001:db8:a::1 table 100")
	node := func(ops ...core.Op) { p.in("host", func() error { return p.gateway.Update(ops) }) }
	node(pairOps(8, conformance.CoA1, elsewhere, home, elsewhere)...)
	for _, f := range flows {
		p.fast("beside a pair, "+f.name, f.from, f.to, f.at)
	}
	var peer *Plane
	p.in("cn", func() (err error) {
		peer, err = New(Config{load: loaded.take, Sessions: 16, Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.CN6}}})
		return err
	})
	t.Cleanup(func() { must(t, peer.Close()) })
	p.sh("cn", "ip route add "+host6+"/128 dev kedge0")
	p.in("cn", func() error { return peer.Update(pairOps(9, conformance.CN6, conformance.CoA1, conformance.CN6, home)) })
	node(pairOps(9, conformance.CoA1, conformance.CN6, home, conformance.CN6)...)
	p.reach("host", conformance.CN6, "cn")
	for _, f := range flows {
		if f.to.Is4() {
			p.fast("of the other family, "+f.name, f.from, f.to, f.at) // the home agent has all of IPv4
			p.settle(func() uint64 { return total(p.gateway, 1).PacketsIn })
			continue
		}
		was := total(p.gateway, 1)
		before := [2]core.Counter{total(p.gateway, 9), total(peer, 9)}
		rate := p.flow(f.from, f.to, f.at, 300*time.Millisecond)
		for i, pl := range []*Plane{p.gateway, peer} {
			now := total(pl, 9)
			if in, out := now.PacketsIn-before[i].PacketsIn, now.PacketsOut-before[i].PacketsOut; in < 10 || out < 10 || now.OctetsIn == 0 || now.OctetsOut == 0 {
				t.Errorf("%s: %d in, %d out; %s", f.name, in, out, p.drops())
			}
		}
		if now := total(p.gateway, 1); now != was {
			t.Errorf("%s: through the tunnel: %+v, were %+v", f.name, now, was)
		}
		t.Logf("%s: %.2f Gbit/s", f.name, rate/1e9)
	}
	p.in("cn", func() error { return peer.Update([]core.Op{core.Drop{ID: 9}}) })
	p.sh("cn", "ip route del "+host6+"/128 dev kedge0")
	node(core.Drop{ID: 9})
	for _, f := range flows {
		p.fast("afterwards, "+f.name, f.from, f.to, f.at)
	}
}

// TestPairsOverflow: a pair that finds no room in the table is the engine's all the same, as is all of IPv6; not longer than it is there.
func TestPairsOverflow(t *testing.T) {
	o := newOracle(t, dataplane.Node, func(c *Config) { c.Pairs = 2 })
	var others []netip.Addr
	o.ownAddress()
	for i := range 3 {
		others = append(others, numbered("2001:db8:c::", i+1))
		o.in("r", func() error {
			return o.p.Update(pairOps(core.ID(10+i), conformance.CoA1, others[i], homeOnDevice, others[i]))
		})
	}
	passes := func(dst netip.Addr) bool {
		return o.run(o.p.k.programs["device"], long6(homeOnDevice, dst, 200), 1) == passed
	}
	if c := o.p.k.control.pairs; c != anyPair || !passes(others[0]) || !passes(others[2]) || !passes(conformance.CN6) {
		t.Errorf("with one too many: %d; to CN6 %v", c, passes(conformance.CN6))
	}
	o.in("r", func() error { return o.p.Update([]core.Op{core.Drop{ID: 12}}) })
	if c := o.p.k.control.pairs; c != somePairs || !passes(others[0]) || passes(others[2]) || passes(conformance.CN6) {
		t.Errorf("with those that fit: %d; to CN6 %v", c, passes(conformance.CN6))
	}
	o.in("r", func() error { return o.p.Update([]core.Op{core.Drop{ID: 10}, core.Drop{ID: 11}}) })
	if c := o.p.k.control.pairs; c != noPairs || passes(others[0]) {
		t.Errorf("with none: %d", c)
	}
}

// long6 is a datagram of n octets in all.
func long6(src, dst netip.Addr, n int) []byte {
	body, err := ip.AppendUDP(nil, ap(src, 1), ap(dst, 2), make([]byte, n-48))
	if err != nil {
		panic(err)
	}
	b, err := (&ip.Header{Src: src, Dst: dst, Proto: ip.UDP, TTL: 64}).Append(nil, len(body))
	if err != nil {
		panic(err)
	}
	return append(b, body...)
}

// homeOnDevice is a home address whose packets the kernel's test of programs takes for frames of IPv6: it has its protocol where that is in
// an Ethernet header, which packets of the device do not have.
var homeOnDevice = netip.MustParseAddr("2001:db8:86dd::a")

func (o *oracle) ownAddress() {
	o.Helper()
	key := core.SetKey{ID: 1, Match: core.Match{Src: netip.PrefixFrom(homeOnDevice, 128)}, Up: true, Down: true}
	o.in("r", func() error { return o.p.Update([]core.Op{key}) })
}

// run runs a packet of the device or, behind a frame's header, of a link through a program, so many times, and gives its verdict.
func (o *oracle) run(prog *ebpf.Program, b []byte, times uint32) int32 {
	o.Helper()
	var ctx [12]uint32
	ctx[10] = uint32(o.index[0])
	frame := b
	if prog == o.p.k.programs["core"] {
		frame = append(append(append([]byte{}, o.mac[0][:]...), 2, 0, 0, 0, 0, 0x99, 0x86, 0xdd), b...)
	}
	var ret uint32
	var err error
	done := make(chan struct{})
	o.do <- func() {
		ret, err = prog.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: &ctx, Repeat: times})
		close(done)
	}
	<-done
	if err != nil {
		o.Fatal(err)
	}
	return int32(ret)
}

// TestTalk: a node is told whom its home address exchanges packets with, about once a second, and their packets stay fast.
func TestTalk(t *testing.T) {
	p := newNode(t, tunnelOf(conformance.CoA1, conformance.LMAA, 0), func(c *Config) { c.Correspondents = true })
	said := make(chan core.Reported, 1000)
	p.gateway.Reports(func(r core.Reported) { said <- r })
	start := time.Now()
	for _, f := range flows {
		p.fast(f.name, f.from, f.to, f.at)
	}
	// What was told before there was somebody to listen is not told again within the second.
	for len(said) == 0 && time.Since(start) < 10*time.Second {
		p.fast("again", flows[0].from, flows[0].to, flows[0].at)
	}
	if len(said) == 0 {
		t.Fatal("nobody was told of a correspondent")
	}
	first := <-said
	want := core.Match{Src: netip.PrefixFrom(netip.MustParseAddr(host6), 128), Dst: netip.PrefixFrom(conformance.CN6, 128)}
	if first.Reason != core.ReportCorrespondent || first.Inner != want || first.ID != 0 {
		t.Errorf("%+v", first)
	}
	most := 2*int(time.Since(start)/time.Second) + 2 // in each direction
	n := 1
	for len(said) > 0 {
		if r := <-said; r != first {
			t.Errorf("%+v", r)
		}
		n++
	}
	if n > most {
		t.Errorf("said %d times in %v", n, time.Since(start))
	}
}

// BenchmarkPrograms is what one packet of a node costs in the programs, out and in, until it would be changed: without route
// optimization, with a pair of others, and telling of correspondents. Then it is too big, or there is no device to bring it to, so that the
// next run has the same packet.
func BenchmarkPrograms(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		pairs  bool
	}{
		{"plain", func(*Config) {}, false},
		{"pairs of others", func(*Config) {}, true},
		{"correspondents", func(c *Config) { c.Correspondents = true }, false},
	} {
		o := newOracle(b, dataplane.Node, c.change)
		if c.pairs {
			o.in("r", func() error {
				return o.p.Update(pairOps(10, conformance.CoA1, conformance.Alien, homeOnDevice, conformance.Alien))
			})
		}
		o.ownAddress()
		o.p.k.control.tun = 0
		inner := long6(conformance.CN6, homeOnDevice, 200)
		outer, err := (&ip.Header{Src: conformance.LMAA, Dst: conformance.CoA1, Proto: 41, TTL: 64}).Append(nil, len(inner))
		must(b, err)
		for _, d := range []struct {
			name string
			prog *ebpf.Program
			pkt  []byte
		}{{"out", o.p.k.programs["device"], long6(homeOnDevice, conformance.CN6, 1470)}, {"in", o.p.k.programs["core"], append(outer, inner...)}} {
			b.Run(c.name+"/"+d.name, func(b *testing.B) {
				const times = 20000
				for b.Loop() {
					if v := o.run(d.prog, d.pkt, times); v != passed {
						b.Fatal(v)
					}
				}
				b.ReportMetric(float64(b.Elapsed())/float64(b.N)/times, "ns/packet")
			})
		}
	}
}
