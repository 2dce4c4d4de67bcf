package gateway

import (
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// A bound host whose carrier comes back may have been at another gateway: it is registered again at once, as a handoff of
// unknown state. What a starting stack sends in one go, and what is no start, changes nothing.
func TestReturnedHost(t *testing.T) {
	for name, start := range map[string]func(b *bench){
		"mld":         func(b *bench) { b.mld(3, macA) },
		"rs":          func(b *bench) { b.rs(3, macA) },
		"init-reboot": func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.bind(3, macA)
			b.until(ReturnAfter)
			start(b)
			b.arp(3, macA, hoa.Addr())
			b.data(3, macA, hoa.Addr())
			b.none()
			b.until(ReturnAfter + 1)
			b.arp(3, macA, hoa.Addr())
			b.data(3, macA, hoa.Addr())
			b.none()
			start(b)
			u := b.pbu()
			if u.handoff() != mobility.HandoffUnknown || len(u.hnps()) != 1 || u.hnps()[0] != hnp {
				t.Errorf("update %v", u)
			}
			b.answer(u, reply{})
			b.state(macA, active)
			b.until(b.now.Boot + 18*sec)
			if u := b.pbu(); u.handoff() != mobility.HandoffReRegistration {
				t.Errorf("the next refresh is %v", u)
			}
		})
	}
}

// 157 to a refresh: another gateway has the session. It is taken back only if the host shows that it is here.
func TestRefreshSuperseded(t *testing.T) {
	spec.Covers(t, "RFC5213-6.9.1.2")
	for _, here := range []bool{true, false} {
		cfg := nudConfig()
		cfg.Timers.NUDReachable = time.Hour
		b := newBench(t, cfg)
		b.bind(3, macA)
		b.arp(3, macA, hoa.Addr())
		b.until(17900 * ms)
		b.arp(3, macA, hoa.Addr()) // seen so lately that no probe comes before the refresh
		b.until(18 * sec)
		u := b.pbu()
		n := len(b.frames)
		b.answer(u, reply{status: mobility.TimestampLowerThanPrevious})
		b.state(macA, active)
		b.none()
		if b.probes(n) == 0 {
			t.Fatal("the host is not asked whether it is here")
		}
		if here {
			b.arp(3, macA, hoa.Addr())
			u := b.pbu()
			if u.handoff() != mobility.HandoffUnknown {
				t.Errorf("asserted with %v", u)
			}
			b.answer(u, reply{})
			b.state(macA, active)
			continue
		}
		b.until(22 * sec)
		if u := b.pbu(); u.Lifetime != 0 {
			t.Errorf("an absent host was asserted: %v", u)
		}
	}
}

// 156 although the clocks agree: the message was late, and is sent again; once, then at the pace of retransmissions.
func TestLateUpdate(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	b.until(18 * sec)
	late := reply{status: mobility.TimestampMismatch, stamp: mobility.TimestampOf(b.now.Wall.Add(-5 * ms)).Value}
	b.answer(b.pbu(), late)
	u := b.pbu()
	b.answer(u, late)
	b.none()
	b.state(macA, refreshing)
	b.until(19 * sec)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
	b.counted(wire.TimestampMismatch, 2)
}

// 156 because the clock is wrong: a binding that exists is not given up before its end, and is tried again.
func TestClockWrongWhileBound(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	wrong := func() reply {
		return reply{status: mobility.TimestampMismatch, stamp: mobility.TimestampOf(b.now.Wall.Add(time.Hour)).Value}
	}
	b.until(18 * sec)
	n := len(b.frames)
	b.answer(b.pbu(), wrong())
	b.state(macA, active)
	if len(b.keys()) != 2 || len(b.ras(n)) != 0 {
		t.Errorf("given up: %v %v", b.keys(), b.ras(n))
	}
	for _, at := range []time.Duration{23, 28, 33, 38} {
		b.until(at * sec)
		b.answer(b.pbu(), wrong())
	}
	b.until(40 * sec) // its lifetime
	if len(b.keys()) != 0 {
		t.Errorf("still forwarded at its end: %v", b.keys())
	}
}

// A Binding Error of status 1 from the anchor: another gateway has the session of a host that sends here. Only a host that
// answers is taken back; nonsense changes nothing.
func TestBindingErrorForBoundHost(t *testing.T) {
	b := newBench(t, nudConfig())
	b.bind(3, macA)
	b.arp(3, macA, hoa.Addr())
	b.until(sec)
	n := len(b.frames)
	for _, home := range []string{"::", "2001:db8:ffff::1", "::ffff:10.20.99.99"} {
		b.receive(lmaa, &mobility.BindingError{Status: mobility.UnknownBinding, Home: netip.MustParseAddr(home)})
	}
	b.receive(netip.MustParseAddr("2001:db8:bad::1"), &mobility.BindingError{Status: mobility.UnknownBinding, Home: hnp.Addr().Next()})
	b.receive(lmaa, &mobility.BindingError{Status: 77, Home: hnp.Addr().Next()})
	if b.probes(n) != 0 {
		t.Fatal("a host was asked for no reason")
	}
	for _, home := range []netip.Addr{hnp.Addr().Next(), netip.AddrFrom16(hoa.Addr().As16())} {
		n = len(b.frames)
		b.receive(lmaa, &mobility.BindingError{Status: mobility.UnknownBinding, Home: home})
		b.receive(lmaa, &mobility.BindingError{Status: mobility.UnknownBinding, Home: home})
		b.none()
		if b.probes(n) == 0 {
			t.Fatal("the host is not asked whether it is here")
		}
		b.arp(3, macA, hoa.Addr())
		u := b.pbu()
		if u.handoff() != mobility.HandoffUnknown {
			t.Errorf("asserted with %v", u)
		}
		b.answer(u, reply{})
		b.state(macA, active)
	}
	// Nobody answers: the host is not here.
	b.receive(lmaa, &mobility.BindingError{Status: mobility.UnknownBinding, Home: hnp.Addr().Next()})
	b.until(b.now.Boot + 10*sec)
	if us := b.pbus(); len(us) != 1 || us[0].Lifetime != 0 {
		t.Errorf("updates %v, want the deregistration", us)
	}
}

// The IPv4 address of former times is somebody else's by now, says an acceptance of the rest (document 001): any other is
// asked for at once, and not the same one for ever.
func TestFormerIPv4AddressIsTaken(t *testing.T) {
	cfg := testConfig()
	cfg.Anchors[0].Dialect = Draft02
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.until(sec)
	b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(hoa.Addr().AsSlice()))
	b.answer(b.pbu(), reply{})
	b.until(2 * sec)
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	us := b.pbus()
	u := us[len(us)-1]
	if u.v4() != hoa {
		t.Fatalf("asks for %v: the test shows nothing", u.v4())
	}
	b.answer(u, reply{v4status: mobility.AddressIncorrect})
	u = b.pbu()
	if u.v4() != anyIPv4 {
		t.Fatalf("asks again for %v", u.v4())
	}
	b.answer(u, reply{v4: netip.MustParsePrefix("10.20.0.99/16")})
	if _, ok := b.keys()[netip.MustParsePrefix("10.20.0.99/32")]; !ok {
		t.Errorf("forwards %v", b.keys())
	}
}
