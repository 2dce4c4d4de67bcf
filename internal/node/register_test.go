package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/signal"
	"kedge/internal/spec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

// packet builds the IPv6 packet of a message, as what stands between machine and sockets does.
func packet(t *testing.T, s core.Send) ip.Signal {
	t.Helper()
	local, remote := s.Path.Local.Addr(), s.Path.Remote.Addr()
	if s.Path.Own.IsValid() {
		local = s.Path.Own
	}
	b, err := mobility.Append(nil, s.Body.(mobility.Message), local, remote)
	if err != nil {
		t.Fatal(err)
	}
	b, err = signal.NewCodec(signal.Config{Mapped: true}).Out(core.Now{}, &core.Packet{
		If: s.Path.If, Src: s.Path.Local, Dst: s.Path.Remote, SrcHome: s.Path.Own, DstHome: s.Path.Home, Outer: s.Path.Outer, B: b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := ip.ParseSignal(b)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// wantOptions holds that a Binding Update has these options and no other, in this order.
func wantOptions(t *testing.T, bu *mobility.BindingUpdate, want ...mobility.Value) {
	t.Helper()
	if got := slices.Collect(bu.Options.Values()); !slices.Equal(got, want) {
		t.Errorf("options %+v, want %+v", got, want)
	}
}

func TestRegistersOverIPv6(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-01", "S004-2.2.1-04", "S004-3.3-15", "S004-3.3-16", "S004-3.3-17", "S004-2-01", "S004-4-01", "S004-2.2-03")
	r := newRig(t, nil)
	r.wantState(detached)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	r.show(v4, v6)
	r.run(20 * ms)
	r.wantState(active)
	r.wantTimes(0) // one Binding Update for both home addresses, and from the IPv6 care-of address

	s, bu := r.lastUpdate()
	p := packet(t, s)
	if p.Src != v6.care.Addr || p.Dst != ha6 || p.SrcHome != hoa6 || s.Path.If != 1 || s.Path.Outer.N != 0 {
		t.Errorf("sent as %+v by %+v", p, s.Path)
	}
	if s.Path.Auth != (core.Auth{Kind: "esp", Peer: "ha1"}) {
		t.Errorf("protected by %+v", s.Path.Auth)
	}
	if bu.Flags != mobility.BUAck|mobility.BUHome || bu.Lifetime != 150 {
		t.Errorf("flags %v, lifetime %d", bu.Flags, bu.Lifetime)
	}
	wantOptions(t, bu, mobility.AlternateCareOf{Addr: v6.care.Addr}, mobility.IPv4HomeAddress{PrefixLen: 32, Addr: hoa4})
	if !r.ok() || r.m.bind.framing != inIPv6 {
		t.Fatalf("not in agreement: %s", r.story())
	}
	want := []core.Op{
		core.SetSession{ID: 1, Chain: r.m.session.chain, Grace: 5 * sec},
		core.SetKey{ID: 1, Match: core.Match{Src: netip.PrefixFrom(hoa6, 128)}, Up: true, Down: true},
		core.SetKey{ID: 1, Match: core.Match{Src: netip.PrefixFrom(hoa4, 32)}, Up: true, Down: true},
	}
	if !slices.Equal(r.ops, want) {
		t.Errorf("forwarding %+v, want %+v", r.ops, want)
	}
	if l := r.m.session.chain.Layer[0]; l.Local != addrPort(v6.care.Addr) || l.Remote != addrPort(ha6) {
		t.Errorf("tunnel %+v", l)
	}
}

func TestIdentifierIsSent(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ID = "n1@example.net"; c.Home.IPv4, c.Home.V4 = IPv4None, netip.Prefix{} })
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	_, bu := r.lastUpdate()
	wantOptions(t, bu, mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: "n1@example.net"}, mobility.AlternateCareOf{Addr: n.care.Addr})
}

func TestRegistersOverIPv4InUDP(t *testing.T) {
	spec.Covers(t, "S004-2.2-04", "S004-3.3-12")
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	r.show(n)
	r.run(20 * ms)
	s, bu := r.lastUpdate()
	p := packet(t, s)
	udp := core.Layer{Local: netip.AddrPortFrom(n.care.Addr, 4191), Remote: netip.AddrPortFrom(ha4, 4191)}
	if p.Src != hoa6 || p.Dst != ha6 || p.SrcHome.IsValid() || s.Path.Outer.N != 1 || s.Path.Outer.Layer[0] != udp {
		t.Errorf("sent as %+v in %+v", p, s.Path.Outer)
	}
	if s.Path.Auth.Kind != "esp" {
		t.Errorf("protected by %+v", s.Path.Auth)
	}
	wantOptions(t, bu, mobility.IPv4CareOf{Addr: n.care.Addr}, mobility.IPv4HomeAddress{PrefixLen: 32, Addr: hoa4})
	if bu.Flags != mobility.BUAck|mobility.BUHome {
		t.Errorf("flags %v", bu.Flags)
	}
	if !r.ok() || r.m.bind.framing != inIPv4 {
		t.Errorf("without a NAT data goes in %v", r.m.bind.framing)
	}
	r.run(time.Minute)
	for _, s := range r.sent { // no prefix or home agent discovery over IPv4
		switch s.Body.(type) {
		case *mobility.BindingUpdate, *ip.Echo:
		default:
			t.Errorf("sent %T", s.Body)
		}
	}
}

func TestSolimanDialect(t *testing.T) {
	spec.Covers(t, "S004-2.2.2-01", "S004-2.2.2-02", "S004-2.2.2-03", "S004-2.2.2-04", "S004-2.2.2-05", "S004-2.2.2-13", "S004-3.3-05", "S004-3.3-06",
		"S004-3.3-07", "S004-3.3-08", "S004-3.3-09", "S004-3.3-14", "S004-3.3-25", "S004-2.1-04", "S004-2.1-03")
	for _, short := range []bool{false, true} {
		r := newRig(t, func(c *Config) { c.Anchor.Dialect, c.Anchor.ShortOctet = Soliman, short })
		n := r.net(1, "192.0.2.7")
		r.show(n)
		r.run(20 * ms)
		s, bu := r.lastUpdate()
		p := packet(t, s)
		careOf := netip.MustParseAddr("::ffff:192.0.2.7")
		outer := core.Layer{Local: addrPort(n.care.Addr), Remote: addrPort(ha4)}
		if p.Src != careOf || p.Dst != ha6 || p.SrcHome != hoa6 || s.Path.Outer.N != 1 || s.Path.Outer.Layer[0] != outer {
			t.Errorf("sent as %+v in %+v", p, s.Path.Outer)
		}
		length := uint8(1)
		if short {
			length = 4
		}
		wantOptions(t, bu, mobility.AlternateCareOf{Addr: careOf}, mobility.IPv4HomeAddress{Addr: hoa4, Short: length})
		// The answer came to ::ffff:192.0.2.7. Data goes without a mapped address, in protocols 4 and 41.
		if !r.ok() || r.m.bind.framing != inIPv4 || r.m.session.chain.Layer[0] != outer || r.m.path.verify {
			t.Errorf("bound %+v, tunnel %+v: %s", r.m.bind, r.m.session.chain, r.story())
		}
		r.run(time.Minute)
		for _, s := range r.sent {
			switch s.Body.(type) {
			case *mobility.BindingUpdate, *ip.Echo:
			default:
				t.Errorf("sent %T", s.Body)
			}
		}
		// When the network is left, an answer to the address is nobody's.
		r.show()
		r.agent.r.handle(core.Message{Path: core.Path{Local: addrPort(careOf), Remote: addrPort(ha6), Own: hoa6, Outer: s.Path.Outer,
			Auth: s.Path.Auth}, Body: &mobility.BindingAck{Sequence: r.m.seq, Lifetime: 9}})
		r.wantState(detached)
	}
}

// TestDialects: in the format the two cases of document 004 differ, and so do its dialect and RFC 5555.
func TestFormatFollowsTheNetwork(t *testing.T) {
	spec.Covers(t, "S004-2.2-02")
	r := newRig(t, func(c *Config) { c.Anchor.Dialect = Soliman })
	r.show(r.net(1, "2001:db8:1::7"))
	a, _ := r.lastUpdate()
	r.show(r.net(2, "192.0.2.7"))
	b, _ := r.lastUpdate()
	if a.Path.Outer.N != 0 || b.Path.Outer.N != 1 {
		t.Errorf("with IPv6 in %+v, without in %+v", a.Path.Outer, b.Path.Outer)
	}
}

func TestRetransmission(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	n.down = true
	r.show(n)
	r.run(80 * sec)
	// RFC 6275 11.8: 1.5 s without a binding, doubled until 32 s.
	r.wantTimes(0, 1500*ms, 4500*ms, 10500*ms, 22500*ms, 46500*ms, 78500*ms)
	us, _ := r.updates()
	for i := 1; i < len(us); i++ {
		a, b := us[i-1].Body.(*mobility.BindingUpdate).Sequence, us[i].Body.(*mobility.BindingUpdate).Sequence
		if b != a+1 {
			t.Errorf("sequence number %d after %d", b, a)
		}
	}
	if n := len(slices.DeleteFunc(r.emits, func(e core.Emit) bool { return e.Name != "retransmit" })); n != 6 {
		t.Errorf("%d retransmissions were told of, want 6", n)
	}
	n.down = false
	if !r.until(32*sec, r.ok) {
		t.Error("not bound within the cap of the back-off")
	}
}

func TestRetransmissionOfARefresh(t *testing.T) {
	r := newRig(t, nil)
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(sec)
	r.agent.mute = true // its tunnel goes on
	r.run(490 * sec)
	r.wantTimes(0, 480*sec, 481*sec, 483*sec, 487*sec)
	r.wantState(updating)
	r.agent.mute = false
	r.run(10 * sec)
	r.wantState(active)
}

// TestNetworkChangeEndsBackOff: a new network is tried at once.
func TestNetworkChangeEndsBackOff(t *testing.T) {
	r := newRig(t, nil)
	bad, good := r.net(1, "2001:db8:1::7"), r.net(2, "2001:db8:2::7")
	bad.down = true
	r.show(bad)
	r.run(60 * sec)
	r.forget()
	r.show(good)
	r.run(20 * ms)
	r.wantTimes(60 * sec)
	r.wantState(active)
}

// TestUpdateRate: never more than MAX_UPDATE_RATE Binding Updates in a second, whatever happens.
func TestUpdateRate(t *testing.T) {
	r := newRig(t, nil)
	var ns []*netw
	for i := range 12 {
		n := r.net(i+1, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i), 15: 7}).String())
		n.loss = 0.5
		ns = append(ns, n)
	}
	for i := range 200 {
		r.rng.Shuffle(len(ns), func(i, j int) { ns[i], ns[j] = ns[j], ns[i] })
		r.show(ns[:1+i%len(ns)]...)
		r.run(77 * ms)
	}
	_, at := r.updates()
	for i := MaxUpdateRate; i < len(at); i++ {
		if at[i]-at[i-MaxUpdateRate] < sec {
			t.Fatalf("4 Binding Updates from %v to %v", at[i-MaxUpdateRate], at[i])
		}
	}
	if len(at) < 30 {
		t.Errorf("only %d Binding Updates: the test shows nothing", len(at))
	}
}

// TestManyCareOfAddresses: more of them than a race has places take turns.
func TestManyCareOfAddresses(t *testing.T) {
	r := newRig(t, nil)
	var ns []*netw
	for i := range maxAttempts + 3 {
		n := r.net(i+1, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i), 15: 7}).String())
		n.down = true
		ns = append(ns, n)
	}
	ns[len(ns)-1].down = false
	r.show(ns...)
	if !r.until(35*sec, r.ok) {
		t.Errorf("the last of %d was not tried: %+v", len(ns), r.m.race)
	}
}

func TestRefreshTimes(t *testing.T) {
	for _, c := range []struct {
		name    string
		granted uint16 // units of 4 s
		advice  uint16
		want    time.Duration
	}{
		{"at a part of the lifetime", 150, 0, 480 * sec},
		{"of a lifetime that the home agent made shorter", 25, 0, 80 * sec},
		{"as the home agent advises", 150, 30, 120 * sec},
		{"advice behind the lifetime is none", 25, 30, 80 * sec},
		{"the least lifetime", 1, 0, 3200 * ms},
		{"never more than was asked for", 200, 0, 480 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
				ba.Lifetime = c.granted
				if c.advice > 0 {
					ba.Options = ba.Options.Add(mobility.BindingRefreshAdvice{Interval: c.advice})
				}
			}
			r.show(r.net(1, "2001:db8:1::7"))
			r.run(c.want + 10*ms)
			r.wantTimes(0, c.want)
		})
	}
}

// TestExpiry: the lifetime counts from when the Binding Update was sent, and with it the tunnel ends.
func TestExpiry(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Timers.Lifetime = 40 * sec })
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(10 * sec)
	r.agent.down = true
	r.run(30*sec - ms)
	if !r.m.bound() || len(r.list()) != 2 {
		t.Error("the binding ended before its lifetime")
	}
	r.forget()
	r.run(ms)
	r.wantState(registering)
	if r.m.bound() || !slices.Contains(r.ops, core.Op(core.Drop{ID: 1})) {
		t.Errorf("after its lifetime: bound %v, forwarding %+v", r.m.bound(), r.ops)
	}
	r.agent.down = false
	if !r.until(33*sec, r.ok) || r.m.session.id != 2 {
		t.Errorf("not bound again, or by an old session id: %d", r.m.session.id)
	}
}
