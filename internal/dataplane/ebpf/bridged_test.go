package ebpf

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
	"kedge/wire"
	"kedge/wire/ip"
)

// TestBridgedOracle shows a gateway's programs the corpus that all back ends are shown, whole and changed, with the host's session in
// bridged mode in each encapsulation.
func TestBridgedOracle(t *testing.T) {
	o := newOracle(t, dataplane.Gateway)
	native, tunnel := conformance.Corpus(t, dataplane.Gateway, "../../..")
	more, moreTunnel := seeds(dataplane.Gateway)
	native, tunnel = append(native, more...), append(tunnel, moreTunnel...)
	both := func(ops ...core.Op) {
		t.Helper()
		must(t, o.p.Update(ops))
		must(t, o.e.Update(ops))
	}
	both(core.Drop{ID: 1}, core.Drop{ID: 2})
	rnd := rand.New(rand.NewPCG(9, 9))
	for _, c := range conformance.Chains(dataplane.Gateway) {
		both(core.SetSession{ID: 1, Chain: c, Mode: core.Bridged, If: o.index[1], MAC: hostMAC, Grace: time.Second})
		for round := range 2 {
			for i, side := range [][][]byte{native, tunnel} {
				for _, b := range side {
					b = slices.Clone(b)
					for range min(round, len(b)) {
						b[rnd.IntN(min(len(b), 110))] = byte(rnd.Uint32())
					}
					if len(b) > 0 && rnd.IntN(2) < round {
						resum(b)
					}
					o.counted(t, b, i == 0)
				}
			}
		}
	}
	t.Logf("%v", o.seen)
	if o.seen["redirected"] < 1000 || o.seen["passed"] < 1000 || o.seen["dropped"] < 100 {
		t.Errorf("too little was tried: %v", o.seen)
	}
	both(core.Drop{ID: 1})
	o.p.noBridges(t)
}

// noBridges wants nothing of bridged mode left in the tables.
func (p *Plane) noBridges(t *testing.T) {
	t.Helper()
	var n tunnelName
	var h host
	if p.k.bridges.Iterate().Next(&n, new(uint32)) {
		t.Errorf("tunnel %+v is left", n)
	}
	if p.k.hosts.Iterate().Next(&h, new(uint32)) {
		t.Errorf("host %+v is left", h)
	}
	if p.k.control.bridged != 0 {
		t.Errorf("%d sessions are left", p.k.control.bridged)
	}
}

// TestBridged: a gateway carries the packets of a host in bridged mode on the fast path, from one tunnel to another, and strangers
// on the link are dropped in the kernel as ever.
func TestBridged(t *testing.T) {
	p := newPath(t, false, nil)
	mac, _ := p.mac("host", "eth0")
	_, acc := p.mac("mag", "acc1")
	must(t, p.gateway.Update([]core.Op{core.Drop{ID: 1}}))
	for _, c := range []struct {
		name     string
		up, down core.Chain
	}{
		{"IPv6", tunnelOf(conformance.CoA1, conformance.LMAA, 0), tunnelOf(conformance.LMAA, conformance.CoA1, 0)},
		{"IPv4", tunnelOf(coaGateway4, conformance.LMAA4, 0), tunnelOf(conformance.LMAA4, coaGateway4, 0)},
		{"GRE with keys", inGREOf(tunnelOf(conformance.CoA1, conformance.LMAA, 0), 1, 2), inGREOf(tunnelOf(conformance.LMAA, conformance.CoA1, 0), 1, 2)},
	} {
		p.in("lma", func() error { return p.anchor.Update([]core.Op{core.SetSession{ID: 1, Chain: c.down}}) })
		p.in("mag", func() error {
			return p.gateway.Update([]core.Op{core.SetSession{ID: 1, Chain: c.up, Mode: core.Bridged, If: acc, MAC: mac}})
		})
		p.reach("host", conformance.CN6, "cn")
		for _, f := range flows {
			p.fast(c.name+", "+f.name, f.from, f.to, f.at)
		}
	}
	if p.gateway.Status().Partial {
		t.Error("what is unknown is left to the daemon")
	}
	const n = 20000
	before := p.gateway.dropped(wire.UnknownHost)
	frame := append(append(append(conformance.RouterMAC[:len(conformance.RouterMAC):len(conformance.RouterMAC)], 2, 0, 0, 0, 9, 9), 0x86, 0xdd), udp6(conformance.H26, conformance.CN6)...)
	p.in("host", func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range n {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index}); err != nil {
				return fmt.Errorf("frame: %w", err)
			}
		}
		return nil
	})
	until(t, "strangers counted in the kernel", func() bool { return p.gateway.dropped(wire.UnknownHost)-before > n*9/10 })
	must(t, p.gateway.Update([]core.Op{core.Drop{ID: 1}}))
	p.gateway.noBridges(t)
}

// TestBridgedRestart: what a former process left of bridged mode stays until Sync says what there is.
func TestBridgedRestart(t *testing.T) {
	w := newWorld(t, "r", "x")
	w.veth("r", "acc1", "x", "acc1", 1500)
	_, acc := w.mac("r", "acc1")
	dir := filepath.Join(bpffs(t), "mag")
	set := core.SetSession{ID: 1, Chain: tunnelOf(conformance.CoA1, conformance.LMAA, 0), Mode: core.Bridged, If: acc, MAC: hostMAC}
	slow := set
	slow.ID, slow.MAC, slow.Chain = 2, core.MAC{2, 0, 0, 0, 0, 0x0b}, tunnelOf(conformance.CoA1, conformance.CoA2, 0)
	slow.Chain.N, slow.Chain.Layer[1] = 2, tunnelOf(conformance.CoA1, conformance.Alien, 0).Layer[0]
	for i, c := range []struct {
		before, after []core.Op
		tunnels       int // and hosts of bridged mode before
		hosts         int
	}{
		{nil, []core.Op{set, slow}, 0, 0},
		{[]core.Op{set, slow}, []core.Op{set}, 1, 2},
		{[]core.Op{set}, nil, 1, 1},
	} {
		var p *Plane
		w.in("r", func() (err error) {
			p, err = New(Config{Sessions: 16, Pin: dir, Config: user.Config{Role: dataplane.Gateway, MTU: 1500, Local: []netip.Addr{conformance.CoA1},
				Access: []dataplane.Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}}})
			return err
		})
		if tunnels, hosts := p.bridgedNow(); tunnels != c.tunnels || hosts != c.hosts || (p.k.control.bridged != 0) != (c.tunnels != 0) {
			t.Errorf("process %d finds %d tunnels and %d hosts, says %d, want %d, %d", i, tunnels, hosts, p.k.control.bridged, c.tunnels, c.hosts)
		}
		w.in("r", func() error { return p.Sync(slices.Values(c.before)) })
		w.in("r", func() error { return p.Sync(slices.Values(c.after)) })
		if len(c.after) == 0 {
			p.noBridges(t)
		}
		must(t, p.Close())
	}
}

// bridgedNow counts tunnels and hosts of sessions in bridged mode.
func (p *Plane) bridgedNow() (tunnels, hosts int) {
	var n tunnelName
	var h host
	var of uint32
	for all := p.k.bridges.Iterate(); all.Next(&n, &of); tunnels++ {
	}
	for all := p.k.hosts.Iterate(); all.Next(&h, &of); {
		if of != 0 {
			hosts++
		}
	}
	return tunnels, hosts
}

// TestPlainBesideGRE: what comes plain from the other end of a tunnel of GRE comes in no tunnel.
func TestPlainBesideGRE(t *testing.T) {
	o := newOracle(t, dataplane.Anchor)
	c := inGREOf(tunnelOf(conformance.LMAA, conformance.Alien, 0), 1, 2)
	ops := []core.Op{core.Drop{ID: 1}, core.SetSession{ID: 1, Chain: c}, core.SetKey{ID: 1, Match: core.Match{Dst: conformance.HNP1}, Up: true, Down: true}}
	must(t, o.p.Update(ops))
	must(t, o.e.Update(ops))
	in := udp6(conformance.Nobody, conformance.CN6)
	b, err := (&ip.Header{Src: conformance.Alien, Dst: conformance.LMAA, Proto: ip.IPv6, TTL: 64}).Append(nil, len(in))
	must(t, err)
	for range 300 { // more than the engine is shown
		o.check(t, append(slices.Clone(b), in...), false)
	}
	if o.seen["dropped"] < 50 || o.p.dropped(wire.WrongTunnel) == 0 {
		t.Errorf("%v; %d for %s", o.seen, o.p.dropped(wire.WrongTunnel), wire.WrongTunnel)
	}
}
