package access

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/nd"
)

func prefixesOf(m *nd.RouterAdvertisement) (list []nd.PrefixInformation) {
	for _, o := range m.Options {
		if p, ok := o.(*nd.PrefixInformation); ok {
			list = append(list, *p)
		}
	}
	return list
}

// The whole advertisement of a host, field by field.
func TestAdvertisement(t *testing.T) {
	spec.Covers(t, "RFC5213-6.7")
	r := newRig(t, config())
	r.in(rs(macA, llA))
	f := r.grant(macA, Grant{Prefixes: []netip.Prefix{prefixA, prefixB}, Valid: 300 * time.Second, Preferred: 200 * time.Second}).only()
	if f.Dst != macA || f.SrcIP != routerLL || f.DstIP != llA {
		t.Errorf("from %v to %v %v", f.SrcIP, f.DstIP, f.Dst)
	}
	want := &nd.RouterAdvertisement{CurHopLimit: 64, RouterLifetime: 300, Options: nd.Options{
		nd.SourceLinkLayer(routerMAC), nd.MTU(1460),
		&nd.PrefixInformation{Prefix: prefixA, OnLink: true, Autonomous: true, Valid: 300, Preferred: 200},
		&nd.PrefixInformation{Prefix: prefixB, OnLink: true, Autonomous: true, Valid: 300, Preferred: 200},
		&nd.RDNSS{Lifetime: 300, Servers: []netip.Addr{addr("2001:db8:53::53")}},
		&nd.DNSSL{Lifetime: 300, Domains: []string{"example.net", "lab.example.net"}},
	}}
	if d := cmp.Diff(want, f.Body, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Error(d)
	}
}

// RFC 6085: before the link-local address is known the advertisement goes to all nodes, but to this host's MAC alone.
func TestAdvertisementWithoutLinkLocal(t *testing.T) {
	r := newRig(t, config())
	if f := r.grant(macA, dualStack()).did("ra", "arp").frames[0]; f.Dst != macA || f.DstIP != nd.AllNodes {
		t.Errorf("to %v %v", f.Dst, f.DstIP)
	}
	// Duplicate Address Detection says which address comes, not that it is usable.
	r.in(ns(macA, none6, llA))
	if f := r.in(rs(macA, none6)).only(); f.DstIP != nd.AllNodes {
		t.Errorf("to %v", f.DstIP)
	}
	if f := r.in(rs(macA, llA)).only(); f.DstIP != llA {
		t.Errorf("to %v", f.DstIP)
	}
}

func TestSolicitationWaitsForGrant(t *testing.T) {
	r := newRig(t, config())
	got := r.in(rs(macA, llA)).silent()
	if a := got.attached(); a != (Attached{MAC: macA, By: "rs", Addr: llA, Wants: V6, Arriving: true}) {
		t.Errorf("%+v", a)
	}
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).did("arp") // no IPv6 in it: still waiting
	r.grant(macA, dualStack()).did("ra", "arp")
	r.in(rs(macA, llA)).did("Attached", "ra")
}

// Each host sees its own prefix only (RFC 5213 6.7).
func TestOwnPrefixesOnly(t *testing.T) {
	r := newRig(t, config())
	a := r.grant(macA, Grant{Prefixes: []netip.Prefix{prefixA}, Valid: time.Minute})
	b := r.grant(macB, Grant{Prefixes: []netip.Prefix{prefixB}, Valid: time.Minute})
	if p := prefixesOf(a.ra()); a.only().Dst != macA || len(p) != 1 || p[0].Prefix != prefixA {
		t.Errorf("A: %v", p)
	}
	if p := prefixesOf(b.ra()); b.only().Dst != macB || len(p) != 1 || p[0].Prefix != prefixB {
		t.Errorf("B: %v", p)
	}
}

// Three in quick succession, then one an interval, each with what is left of the binding; a refresh fills it up again.
func TestPeriodicTimes(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	valid := func(res result, want uint32) {
		t.Helper()
		m := res.ra()
		if p := prefixesOf(m); p[0].Valid != want || p[0].Preferred != want || uint32(m.RouterLifetime) != want {
			t.Errorf("lifetimes %d, %d, %d, want %d", p[0].Valid, p[0].Preferred, m.RouterLifetime, want)
		}
	}
	valid(r.next(4*time.Second).did("ra"), 296)
	valid(r.next(4*time.Second).did("ra"), 292)
	valid(r.next(100*time.Second).did("ra"), 192)
	r.after(50 * time.Second)
	valid(r.grant(macA, dualStack()).did("ra", "arp"), 300)
	valid(r.next(100*time.Second).did("ra"), 200)
	valid(r.next(100*time.Second).did("ra"), 100)
	// Nobody refreshed: at the end the link takes everything back by itself, and says so three times.
	valid(r.next(100*time.Second).did("ra"), 0)
	valid(r.next(3*time.Second).did("ra"), 0)
	valid(r.next(3*time.Second).did("ra"), 0)
	r.next(54 * time.Second).silent() // a stranger again, forgotten after a minute
	if g, s := r.l.Hosts(); g+s != 0 {
		t.Errorf("%d hosts and %d strangers are left", g, s)
	}
	if _, ok := r.l.Deadline(); ok {
		t.Error("an empty link has a deadline")
	}
}

func TestJitter(t *testing.T) {
	for _, c := range []struct {
		octets [4]byte
		want   time.Duration
	}{{[4]byte{}, 50 * time.Second}, {[4]byte{0x80}, 100 * time.Second}, {[4]byte{0xff, 0xff, 0xff, 0xff}, 150 * time.Second}} {
		l := NewHomeLink(config(), &fixed{c.octets[:]})
		if got := l.jitter(100 * time.Second).Round(time.Microsecond); got != c.want {
			t.Errorf("%x: %v, want %v", c.octets, got, c.want)
		}
		// Without randomness the interval is the mean.
		if got := l.jitter(100 * time.Second); got != 100*time.Second {
			t.Errorf("no random numbers: %v", got)
		}
	}
}

func TestWithdrawal(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, Grant{Prefixes: []netip.Prefix{prefixA, prefixB}, Valid: 300 * time.Second})
	m := r.grant(macA, dualStack()).ra()
	want := []nd.PrefixInformation{
		{Prefix: prefixA, OnLink: true, Autonomous: true, Valid: 300, Preferred: 300},
		{Prefix: prefixB, OnLink: true, Autonomous: true},
	}
	same := cmpopts.EquateComparable(netip.Prefix{})
	if d := cmp.Diff(want, prefixesOf(m), same); d != "" || m.RouterLifetime != 300 {
		t.Error(d, m.RouterLifetime)
	}
	for range 2 {
		if d := cmp.Diff(want[1], prefixesOf(r.next(3 * time.Second).ra())[1], same); d != "" {
			t.Error(d)
		}
	}
	if p := prefixesOf(r.in(rs(macA, llA)).ra()); len(p) != 1 || p[0].Prefix != prefixA {
		t.Errorf("after three withdrawals: %v", p)
	}
	// Given back before all was said.
	r.grant(macA, Grant{Valid: time.Minute})
	if p := prefixesOf(r.grant(macA, dualStack()).ra()); len(p) != 1 || p[0].Valid != 300 {
		t.Errorf("given back: %v", p)
	}
}

// Everything is taken away: the host must know at once that it has no router and no DNS here.
func TestWithdrawalOfAll(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	m := r.grant(macA, Grant{}).did("ra").ra()
	if m.RouterLifetime != 0 {
		t.Errorf("router lifetime %d", m.RouterLifetime)
	}
	for _, o := range m.Options {
		switch o := o.(type) {
		case *nd.PrefixInformation:
			if o.Valid != 0 || o.Preferred != 0 {
				t.Errorf("%+v", o)
			}
		case *nd.RDNSS:
			if o.Lifetime != 0 {
				t.Errorf("%+v", o)
			}
		case *nd.DNSSL:
			if o.Lifetime != 0 {
				t.Errorf("%+v", o)
			}
		}
	}
	r.in(rs(macA, llA)).silent()
}

func TestDenyWithdrawsOneFamily(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.deny(macA, V4, "ipv4-service-disabled").silent()
	r.in(rs(macA, llA)).did("Attached", "ra")
	r.in(arp(macA, homeA.Addr(), addr("10.20.0.77"))).did("Attached")
	r.deny(macA, V6, "not-authorized").did("ra")
	r.in(rs(macA, llA)).silent()
	r.deny(macB, V4|V6, "not-authorized").did() // never seen
}

func TestForget(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.result(r.l.Forget(r.now, macA, nil)).did()
	r.result(r.l.Forget(r.now, macA, nil)).did()
	if _, ok := r.l.Deadline(); ok {
		t.Error("a forgotten host has a deadline")
	}
	r.in(rs(macA, llA)).silent()
}

func TestRADetails(t *testing.T) {
	cfg := config()
	cfg.MTU, cfg.DNS, cfg.Search, cfg.RouterLifetime = 1240, nil, nil, 100*time.Second
	r := newRig(t, cfg)
	m := r.grant(macA, Grant{Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1000::5/56")}, Valid: 300 * time.Second}).ra()
	want := &nd.RouterAdvertisement{CurHopLimit: 64, RouterLifetime: 100, Options: nd.Options{
		nd.SourceLinkLayer(routerMAC),
		nd.MTU(1280), // RFC 4861 6.3.4: less is invalid
		// A prefix of 56 bits is on the link but cannot make addresses (RFC 2464 4).
		&nd.PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:1000::/56"), OnLink: true, Valid: 300, Preferred: 300},
	}}
	if d := cmp.Diff(want, m, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Error(d)
	}
	// Lifetimes are rounded up: the last half second is not a withdrawal.
	r.after(299*time.Second + 500*time.Millisecond)
	if m := r.in(rs(macA, llA)).ra(); m.RouterLifetime != 1 || prefixesOf(m)[0].Valid != 1 {
		t.Errorf("%d, %+v", m.RouterLifetime, prefixesOf(m))
	}
}

func TestManyPrefixes(t *testing.T) {
	r := newRig(t, config())
	var all []netip.Prefix
	for i := range MaxPrefixes + 1 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(i)}), 64))
	}
	res := r.grant(macA, Grant{Prefixes: all, Valid: time.Minute}).refused(wire.BadValue)
	if n := len(prefixesOf(res.ra())); n != MaxPrefixes {
		t.Errorf("%d prefixes", n)
	}
	b, err := res.only().Append(nil)
	if err != nil || len(b) > 14+1280 {
		t.Errorf("%d octets, %v", len(b), err)
	}
}

type fixed struct{ b []byte }

func (f *fixed) Read(b []byte) (int, error) {
	n := copy(b, f.b)
	f.b = f.b[n:]
	if n == 0 {
		return 0, errEmpty
	}
	return n, nil
}

var errEmpty = wire.Reason("no more random numbers")

// A host that changes its interface takes its IPv4 address along.
func TestAddressMovesBetweenInterfaces(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.grant(macB, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute})
	r.in(discover(macA)).did("Attached") // held: it has no address now
	_, m := r.in(discover(macB)).dhcp(2)
	if addr4(m.YourIPAddr) != homeA.Addr() {
		t.Errorf("offered %v", m.YourIPAddr)
	}
}
