package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

func dynamic(c *Config) { c.Home.IPv4, c.Home.V4 = IPv4Dynamic, netip.Prefix{} }

// homesOf are the home addresses of the Binding Update List.
func (r *rig) homesOf() (hs []string) {
	for _, b := range r.list() {
		hs = append(hs, b.Home[0].Addr().String())
	}
	return hs
}

// keys are the inner sources that the data plane forwards.
func (r *rig) keys() []netip.Prefix { return r.m.session.keys }

func TestIPv4HomeAddressAccepted(t *testing.T) {
	spec.Covers(t, "S004-3.3-01", "S004-3.3-02", "S004-3.3-03", "S004-3.3-20", "S004-3.3-10", "S004-3.2.1-04")
	for _, status := range []mobility.AddressStatus{0, 5, 127} {
		r := newRig(t, nil)
		r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
			o, _ := bu.Options.IPv4HomeAddress()
			ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Status: status, PrefixLen: 32, Addr: o.Addr})
		}
		r.show(r.net(1, "2001:db8:1::7"))
		r.run(sec)
		if got := r.homesOf(); !slices.Equal(got, []string{"2001:db8:2000::5", "::ffff:10.20.0.5"}) {
			t.Errorf("status %d: Binding Update List %v", status, got)
		}
		if want := []netip.Prefix{host(hoa6), host(hoa4)}; !slices.Equal(r.keys(), want) {
			t.Errorf("forwarded: %v", r.keys())
		}
		for _, s := range r.sent {
			if bu, ok := s.Body.(*mobility.BindingUpdate); ok && strings.Contains(string(bu.Options), string(mapped(hoa4).AsSlice())) {
				t.Error("the IPv4 home address is sent in IPv4-mapped form")
			}
		}
	}
	// Who has no IPv4 home address and wants none does not ask.
	r := newRig(t, func(c *Config) { c.Home.IPv4, c.Home.V4 = IPv4None, netip.Prefix{} })
	r.show(r.net(1, "192.0.2.7"))
	r.run(sec)
	if _, bu := r.lastUpdate(); len(r.homesOf()) != 1 {
		t.Errorf("Binding Update List %v", r.homesOf())
	} else if _, ok := bu.Options.IPv4HomeAddress(); ok {
		t.Error("the option is there")
	}
}

func TestIPv4HomeAddressUnanswered(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-09", "S004-2.2.1-10", "S004-3.3-21")
	r := newRig(t, nil)
	r.agent.option = func(*mobility.BindingUpdate, *mobility.BindingAck) {}
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(sec)
	r.wantState(active)
	if got := r.homesOf(); !slices.Equal(got, []string{"2001:db8:2000::5"}) || len(r.keys()) != 1 {
		t.Errorf("Binding Update List %v, forwarded %v", got, r.keys())
	}
	if s, _ := r.command(core.GetStatus{}); !slices.ContainsFunc(s.(core.Status).Notes, func(n string) bool { return strings.Contains(n, "no IPv4 home address") }) {
		t.Errorf("status does not say that IPv4 is not supported: %v", s)
	}
	asks := func() bool {
		_, bu := r.lastUpdate()
		_, ok := bu.Options.IPv4HomeAddress()
		return ok
	}
	r.run(480 * sec)
	r.wantTimes(0, 480*sec)
	if asks() {
		t.Error("the refresh has the option again")
	}
	// Neither does another run ask this home agent, but it asks another one.
	r.boot(baseConfig())
	r.show(r.net(2, "2001:db8:2::7"))
	if asks() {
		t.Error("the next run has the option again")
	}
	other := baseConfig()
	other.Anchor.V6 = netip.MustParseAddr("2001:db8:a::2")
	r.boot(other)
	r.show(r.net(2, "2001:db8:2::7"))
	if !asks() {
		t.Error("another home agent is not asked")
	}
}

func TestIPv4HomeAddressAskedAgain(t *testing.T) {
	spec.Covers(t, "S004-3.3-22")
	r := newRig(t, func(c *Config) { c.RetryIPv4 = true })
	r.agent.option = func(*mobility.BindingUpdate, *mobility.BindingAck) {}
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(470 * sec)
	r.agent.option = nil
	r.run(20 * sec)
	r.wantTimes(0, 480*sec)
	if got := r.homesOf(); len(got) != 2 {
		t.Errorf("Binding Update List %v", got)
	}
}

func TestIPv4HomeAddressRefused(t *testing.T) {
	spec.Covers(t, "S004-3.3-23", "S004-3.3-24", "S004-3.2.1-04")
	for _, status := range []mobility.AddressStatus{128, 129, 130, 131, 132, 133, 200} {
		r := newRig(t, nil)
		r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
			ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Status: status, Addr: hoa4})
		}
		r.show(r.net(1, "2001:db8:1::7"))
		r.run(470 * sec)
		r.wantState(active)
		if got := r.homesOf(); !slices.Equal(got, []string{"2001:db8:2000::5"}) || len(r.keys()) != 1 {
			t.Errorf("status %d: Binding Update List %v, forwarded %v", status, got, r.keys())
		}
		// Asked again with each refresh: it may have been mended.
		r.agent.option = nil
		r.run(20 * sec)
		r.wantTimes(0, 480*sec)
		if got := r.homesOf(); len(got) != 2 {
			t.Errorf("status %d: after the refresh %v", status, got)
		}
	}
}

// TestIPv4AnswersThatCannotBe: an address that is not ours, or that is none.
func TestIPv4AnswersThatCannotBe(t *testing.T) {
	for _, a := range []string{"10.20.0.6", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"} {
		for _, change := range []func(*Config){nil, dynamic} {
			if change != nil && a == "10.20.0.6" {
				continue
			}
			r := newRig(t, change)
			r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) {
				ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Addr: netip.MustParseAddr(a)})
			}
			r.show(r.net(1, "2001:db8:1::7"))
			r.run(sec)
			if got := r.homesOf(); len(got) != 1 {
				t.Errorf("%s: Binding Update List %v", a, got)
			}
		}
	}
}

func TestDynamicIPv4HomeAddress(t *testing.T) {
	spec.Covers(t, "S004-2.4-01", "S004-3.3-11", "S004-3.3-18")
	for _, addr := range []string{"2001:db8:1::7", "192.0.2.7"} {
		r := newRig(t, dynamic)
		r.agent.lease = netip.MustParseAddr("10.20.7.7")
		r.show(r.net(1, addr))
		asked := func() netip.Addr {
			_, bu := r.lastUpdate()
			o, ok := bu.Options.IPv4HomeAddress()
			if !ok {
				t.Fatal("no option")
			}
			return o.Addr
		}
		if a := asked(); a != netip.IPv4Unspecified() {
			t.Errorf("asked for %v", a)
		}
		r.run(sec)
		if got := r.homesOf(); !slices.Equal(got, []string{"2001:db8:2000::5", "::ffff:10.20.7.7"}) {
			t.Errorf("Binding Update List %v", got)
		}
		if _, ok := r.host[name(&core.HostOp{Kind: "address", Prefix: netip.MustParsePrefix("10.20.7.7/32"), Name: "kedge0"})]; !ok {
			t.Errorf("the host does not have the address: %v", r.host)
		}
		r.run(480 * sec)
		if a := asked(); a != r.agent.lease {
			t.Errorf("refreshed %v", a)
		}
		// A restarted node asks for the address that it had; when that is somebody else's by now, for any.
		r.run(sec)
		cfg := baseConfig()
		dynamic(&cfg)
		r.boot(cfg)
		r.forget()
		old := r.agent.lease
		r.agent.lease = netip.MustParseAddr("10.20.8.8")
		r.show(r.net(2, "2001:db8:2::7"))
		if a := asked(); a != old {
			t.Errorf("after the restart asked for %v", a)
		}
		r.run(100 * ms)
		if got := r.homesOf(); !slices.Equal(got, []string{"2001:db8:2000::5", "::ffff:10.20.8.8"}) {
			t.Errorf("Binding Update List %v", got)
		}
		if us, _ := r.updates(); len(us) != 2 {
			t.Errorf("%d Binding Updates", len(us))
		}
	}
}

// TestNoDynamicAddress: status 132 is no reason to ask without end.
func TestNoDynamicAddress(t *testing.T) {
	r := newRig(t, dynamic)
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(400 * sec)
	r.wantTimes(0)
	r.wantState(active)
}

// TestFramings: what the NAT Detection option says of data (RFC 5555 3.2.2, 4.2), with the keepalives that follow.
func TestFramings(t *testing.T) {
	type nat = mobility.NATDetection
	for _, c := range []struct {
		name      string
		option    *nat
		force     bool
		want      framing
		keepalive time.Duration
	}{
		{"no option: no NAT", nil, false, inIPv4, 0},
		{"no NAT, as this home agent says it", &nat{Refresh: noKeepalive}, false, inIPv4, 0},
		{"NAT, default refresh", &nat{F: true}, false, inUDP, 110 * sec},
		{"NAT, F not set", &nat{Refresh: 60}, false, inUDP, 60 * sec},
		{"NAT, refresh as told", &nat{F: true, Refresh: 25}, false, inUDP, 25 * sec},
		{"no NAT, but UDP demanded", &nat{F: true, Refresh: noKeepalive}, false, inUDP, 0},
		{"UDP asked for and given", &nat{F: true, Refresh: noKeepalive}, true, inUDP, 0},
		{"UDP asked for, answered without the option", nil, true, inUDP, 110 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.ForceUDP = c.force })
			r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) {
				if c.option != nil {
					ba.Options = ba.Options.Add(*c.option)
				}
			}
			r.show(r.net(1, "192.0.2.7"))
			r.run(25 * ms)
			if r.m.bind.framing != c.want || r.m.bind.keepalive != c.keepalive {
				t.Errorf("framing %v, keepalive %v; want %v, %v", r.m.bind.framing, r.m.bind.keepalive, c.want, c.keepalive)
			}
			port := uint16(0)
			if c.want == inUDP {
				port = 4191
			}
			if l := r.m.session.chain.Layer[0]; l.Local.Port() != port || l.Remote.Port() != port {
				t.Errorf("tunnel %+v", l)
			}
			if _, bu := r.lastUpdate(); bu.Flags&mobility.BUForceUDP != 0 != c.force {
				t.Errorf("flags %v", bu.Flags)
			}
		})
	}
}

// TestPlainFramingFiltered: echoes verify protocols 4 and 41; where they do not pass, the node asks for UDP, and remembers.
func TestPlainFramingFiltered(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	n.noPlain = true
	r.show(n)
	if !r.until(500*ms, func() bool { return r.ok() && r.m.bind.framing == inUDP }) {
		t.Fatalf("framing %v: %s", r.m.bind.framing, r.story())
	}
	if _, bu := r.lastUpdate(); bu.Flags&mobility.BUForceUDP == 0 {
		t.Error("without the F flag")
	}
	r.run(time.Minute)
	r.wantTimes(0, 320*ms) // three echoes at most 100 ms apart
	// Back in the network, the first Binding Update has the F flag.
	r.show()
	r.run(time.Minute)
	r.forget()
	r.show(n)
	if _, bu := r.lastUpdate(); bu.Flags&mobility.BUForceUDP == 0 {
		t.Error("forgotten")
	}
	r.run(25 * ms)
	if !r.ok() {
		t.Error("not bound")
	}
}

// TestUDPRefused: status 144 to a Binding Update with the F flag means UDP (RFC 5555 3.2), and the node does without.
func TestUDPRefused(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ForceUDP = true })
	n := r.net(1, "192.0.2.7")
	r.agent.status = mobility.IDMismatch
	r.show(n)
	r.run(15 * ms)
	r.agent.status = mobility.Accepted
	r.run(30 * ms)
	r.wantTimes(0, 20*ms)
	if _, bu := r.lastUpdate(); bu.Flags&mobility.BUForceUDP != 0 || !r.ok() {
		t.Errorf("flags %v, %s", bu.Flags, r.story())
	}
	if r.m.counts["forced-udp-not-accepted"] != 1 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestIPv4OnlyWithoutAddress: without the home agent's IPv4 address there is a clear word, and no packet.
func TestIPv4OnlyWithoutAddress(t *testing.T) {
	spec.Covers(t, "S004-2.1-01", "S004-3.3-04", "S004-2-02")
	r := newRig(t, func(c *Config) { c.Anchor.V4 = netip.Addr{} })
	r.show(r.net(1, "192.0.2.7"))
	r.run(time.Minute)
	r.wantState(detached)
	if len(r.sent) != 0 {
		t.Errorf("sent %v", r.sent)
	}
	i := slices.IndexFunc(r.emits, func(e core.Emit) bool { return e.Name == "warning" && e.Why == "ipv4-only" })
	s, _ := r.command(core.GetStatus{})
	if i < 0 || !slices.ContainsFunc(s.(core.Status).Notes, func(n string) bool { return strings.Contains(n, "the IPv4 address of ha1 is not configured") }) {
		t.Errorf("told %v, status %v", r.emits, s)
	}
}
