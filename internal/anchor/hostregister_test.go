package anchor

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestHostNative: one Binding Update from an IPv6 network binds both home addresses to the care-of address.
func TestHostNative(t *testing.T) {
	spec.Covers(t, "S004-2.2-01", "S004-2.2.1-02", "S004-2.2.1-06", "S004-2.2.1-07", "S004-2.2.1-08", "S004-3.4-01", "S004-3.4-02",
		"S004-3.4-03", "S004-3.4-09", "S004-3.4-11", "S004-3.4-12", "S004-3.4-13", "S004-3.4-15", "S004-3.2.1-05", "S004-3.2.1-11",
		"S004-4-03", "S004-4-04")
	r := startHosts(t)
	b := native(hoa1, coa1, opt29("10.20.0.21", 32))
	b.flags |= mobility.BUKeyMgmt // which stays clear in the answer: keys do not move by themselves
	b.seq = 4711
	a := r.status(b, mobility.Accepted)
	if a.Sequence != 4711 || a.Lifetime != 75 || a.Flags != 0 {
		t.Errorf("answer %+v", a)
	}
	want := []mobility.IPv4AddressAck{{Addr: ip("10.20.0.21"), PrefixLen: 32}}
	if got := acks(a); !slices.Equal(got, want) || a.Options.Has(mobility.OptNATDetection) || a.Options.Has(mobility.OptBindingRefreshAdvice) {
		t.Errorf("acknowledged %+v", got)
	}
	r.reaches(hoa1, layer6(coa1))
	r.reaches(ip("10.20.0.21"), layer6(coa1))
	if len(r.keys) != 2 {
		t.Errorf("keys %v", r.keys)
	}
	for k, v := range r.keys {
		if !v.Up || !v.Down || !k.IsSingleIP() {
			t.Errorf("key %v: %+v", k, v)
		}
	}
	got := r.one(mn1)
	got.Session = 0
	wantB := core.Binding{
		ID: mn1, State: "active", Protection: "esp", Kind: "host", Families: []string{"v4", "v6"}, IPv4: pfx("10.20.0.21/32"),
		Home: []netip.Prefix{netip.PrefixFrom(hoa1, 128), pfx("10.20.0.21/32")}, CareOf: coa1, Framing: "ip", Anchor: lmaa, Dialect: "rfc5555",
		Lifetime: 300 * time.Second, Expires: r.now.Wall.Add(300 * time.Second), Since: r.now.Wall, Sequence: 4711,
	}
	if d := cmp.Diff(wantB, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("binding (-want +got):\n%s", d)
	}
	// Without the option the IPv4 home address goes, and that alone (RFC 5555 4.4.2.1).
	a = r.status(native(hoa1, coa1).with(func(b *bu) { b.seq = 4712 }), mobility.Accepted)
	if a.Options.Has(mobility.OptIPv4AddressAck) {
		t.Error("acknowledges what was not asked for")
	}
	r.reaches(hoa1, layer6(coa1))
	r.unreached(ip("10.20.0.21"))
	// It is still stored with the home address: asked for again, it is there again.
	r.status(native(hoa1, coa2, opt29("10.20.0.21", 32)).with(func(b *bu) { b.seq = 4713 }), mobility.Accepted)
	r.reaches(hoa1, layer6(coa2))
	r.reaches(ip("10.20.0.21"), layer6(coa2))
	r.leakless()
}

// TestHostUDP: from an IPv4 network, in UDP: without a NAT data goes in plain protocols 4 and 41, with one, or forced, in UDP
// to the address and port that are seen.
func TestHostUDP(t *testing.T) {
	outside := netip.MustParseAddrPort("203.0.113.5:50123")
	for _, c := range []struct {
		name   string
		own    netip.Addr
		seen   netip.AddrPort
		flags  mobility.BUFlags
		change func(*Config)
		want   core.Layer
		nat    mobility.NATDetection
	}{
		{"public", v4coa, netip.AddrPortFrom(v4coa, port4191), 0, nil, layer4(v4coa), mobility.NATDetection{Refresh: math.MaxUint32}},
		{"public, other port", v4coa, netip.AddrPortFrom(v4coa, 5000), 0, nil,
			core.Layer{Local: netip.AddrPortFrom(ha4, 0), Remote: netip.AddrPortFrom(v4coa, 5000)}, mobility.NATDetection{Refresh: math.MaxUint32}},
		{"public, forced by the node", v4coa, netip.AddrPortFrom(v4coa, 5000), mobility.BUForceUDP, nil,
			layerUDP(netip.AddrPortFrom(v4coa, 5000)), mobility.NATDetection{F: true, Refresh: math.MaxUint32}},
		{"public, forced by the anchor", v4coa, netip.AddrPortFrom(v4coa, 5000), 0, func(c *Config) { c.DSMIP6.ForceUDP = true },
			layerUDP(netip.AddrPortFrom(v4coa, 5000)), mobility.NATDetection{F: true, Refresh: math.MaxUint32}},
		{"NAT", ip("10.0.0.7"), outside, 0, nil, layerUDP(outside), mobility.NATDetection{F: true, Refresh: 110}},
		{"NAT, other refresh time", ip("10.0.0.7"), outside, 0, func(c *Config) { c.DSMIP6.NATRefresh = 25 * time.Second }, layerUDP(outside), mobility.NATDetection{F: true, Refresh: 25}},
		{"NAT, forced", ip("10.0.0.7"), outside, mobility.BUForceUDP, nil, layerUDP(outside), mobility.NATDetection{F: true, Refresh: 110}},
		{"NAT, home and private address are equal", ip("10.20.0.21"), outside, 0, nil, layerUDP(outside), mobility.NATDetection{F: true, Refresh: 110}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startHosts(t, c.change)
			b := udp(hoa1, c.own, c.seen, opt29("10.20.0.21", 32))
			b.flags |= c.flags
			a := r.status(b, mobility.Accepted)
			if nat, ok := a.Options.NATDetection(); !ok || nat != c.nat {
				t.Errorf("NAT detection %+v, want %+v", nat, c.nat)
			}
			if got := acks(a); !slices.Equal(got, []mobility.IPv4AddressAck{{Addr: ip("10.20.0.21"), PrefixLen: 32}}) {
				t.Errorf("acknowledged %+v", got)
			}
			r.reaches(hoa1, c.want)
			r.reaches(ip("10.20.0.21"), c.want)
			got := r.one(mn1)
			framing := "ip"
			if c.want.Local.Port() != 0 {
				framing = "udp"
			}
			if got.CareOf != c.seen.Addr() || got.Framing != framing || got.NAT != (c.nat.Refresh != math.MaxUint32) || got.Anchor != ha4 || (got.Port != 0) != (framing == "udp") {
				t.Errorf("binding %+v", got)
			}
			r.leakless()
		})
	}
}

// TestHostMoves: every change of care-of address and framing is one SetSession with all keys, the former tunnel stays
// accepted for UplinkGrace, and nothing is answered before it is durable.
func TestHostMoves(t *testing.T) {
	r := startHosts(t)
	v4 := opt29("10.20.0.21", 32)
	nat1, nat2 := netip.MustParseAddrPort("203.0.113.5:50123"), netip.MustParseAddrPort("203.0.113.5:50124")
	var id core.ID
	var former netip.Addr
	careOf := func(b bu) netip.Addr {
		if b.seen.IsValid() {
			return b.seen.Addr()
		}
		return b.src
	}
	steps := []struct {
		bu    bu
		want  core.Layer
		event string
	}{
		{native(hoa1, coa1, v4), layer6(coa1), "none -> active new"},
		{native(hoa1, coa2, v4), layer6(coa2), "active -> active handoff"},
		{udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, port4191), v4), layer4(v4coa), "active -> active handoff"},
		{udp(hoa1, ip("10.0.0.7"), nat1, v4), layerUDP(nat1), "active -> active handoff"},
		{udp(hoa1, ip("10.0.0.7"), nat2, v4), layerUDP(nat2), "active -> active handoff"}, // NAT rebinding
		{in41(hoa1, v4coa, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), Short: 1}), layer4(v4coa), "active -> active handoff"},
		{native(hoa1, coa1, v4), layer6(coa1), "active -> active handoff"},
	}
	for n, s := range steps {
		events := len(r.emits)
		r.hold = true
		at := len(r.sent)
		r.handle(r.hostMessage(s.bu))
		r.flush()
		if a := r.hostAnswer(at, s.bu.path()); a == nil || a.Status != 0 {
			t.Fatalf("step %d: %+v; %v", n, a, r.tail())
		}
		if got := r.events(events); !slices.Equal(got, []string{s.event}) {
			t.Errorf("step %d: %v", n, got)
		}
		for _, e := range r.emits[events:] {
			if f := e.Fields.(Fields); f.Former != former {
				t.Errorf("step %d: former care-of address %v, want %v", n, f.Former, former)
			}
		}
		former = r.one(mn1).CareOf
		if n+1 < len(steps) && careOf(steps[n+1].bu) == former {
			former = netip.Addr{} // another port or dialect, and the same address
		}
		r.reaches(hoa1, s.want)
		r.reaches(ip("10.20.0.21"), s.want)
		if len(r.keys) != 2 || len(r.tuns) != 1 {
			t.Errorf("step %d: %v %v", n, r.keys, r.tuns)
		}
		b := r.one(mn1)
		if id == 0 {
			id = b.Session
		}
		if b.Session != id || r.tuns[id].Grace != 500*time.Millisecond {
			t.Errorf("step %d: session %d grace %v", n, b.Session, r.tuns[id].Grace)
		}
		r.pass(time.Second)
	}
	r.leakless()
}

// TestHostOrderOfEffects: a change is durable and forwarded before its answer; a refresh waits for nothing.
func TestHostOrderOfEffects(t *testing.T) {
	r := startHosts(t)
	kinds := func(b bu) (out []string) {
		for _, e := range r.m.Handle(r.now, r.hostMessage(b), nil) {
			switch e := e.(type) {
			case core.Persist:
				if e.Lazy {
					out = append(out, "lazy")
				} else {
					out = append(out, "persist")
				}
			case core.Forward:
				out = append(out, "forward")
				if e.Ref != 0 {
					r.pending = append(r.pending, core.Done{Ref: e.Ref})
				}
			case core.Send:
				out = append(out, "send")
				if e.Ref != 0 {
					r.pending = append(r.pending, core.Done{Ref: e.Ref})
				}
			}
		}
		for _, d := range r.pending {
			r.m.Handle(r.now, d, nil)
		}
		r.pending = nil
		return out
	}
	strict, lazy := []string{"persist", "forward", "send"}, []string{"lazy", "send"}
	for n, s := range []struct {
		bu   bu
		want []string
	}{
		{native(hoa1, coa1), strict},
		{native(hoa1, coa1), lazy},
		{native(hoa1, coa1, opt29("10.20.0.21", 32)), strict},
		{native(hoa1, coa1, opt29("10.20.0.21", 32)), lazy},
		{native(hoa1, coa2, opt29("10.20.0.21", 32)), strict},
		{native(hoa1, coa2, opt29("10.20.0.21", 32)).with(func(b *bu) { b.flags |= mobility.BULinkLocal }), strict},
		{native(hoa1, coa2), strict},
		{atHome(hoa1), strict},
		{atHome(hoa1), lazy},
	} {
		if got := kinds(s.bu); !slices.Equal(got, s.want) {
			t.Errorf("step %d: %v, want %v", n, got, s.want)
		}
	}
	// A refresh while a change is not durable yet is as strict as the change.
	r.m.Handle(r.now, r.hostMessage(native(hoa1, coa1)), nil)
	if got := kinds(native(hoa1, coa1)); !slices.Equal(got, strict) {
		t.Errorf("refresh behind a change: %v", got)
	}
}

// TestHostDeregistration: the answer goes the way the request came, the binding is gone at once, its ordering state after ten
// seconds (RFC 6275 10.3.2).
func TestHostDeregistration(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	gone := func(b *bu) { b.lifetime = 0 }
	for name, b := range map[string]bu{
		"at home": atHome(hoa1),
		// RFC 3963 6.2: a care-of address that is the home address deletes too.
		"at home, lifetime set":                  atHome(hoa1).with(func(b *bu) { b.lifetime = 75 }),
		"away":                                   native(hoa1, coa2).with(gone),
		"away, home as care-of":                  native(hoa1, coa2).with(func(b *bu) { b.more = []mobility.Value{mobility.AlternateCareOf{Addr: hoa1}} }),
		"in UDP":                                 udp(hoa1, ip("10.0.0.7"), seen).with(gone),
		"in UDP, without option":                 udp(hoa1, ip("10.0.0.7"), seen).with(func(b *bu) { b.lifetime, b.more = 0, nil }),
		"in protocol 41":                         in41(hoa1, v4coa).with(gone),
		"with flag R, which is for nothing here": atHome(hoa1).with(func(b *bu) { b.flags |= mobility.BURouter }),
		"with an option":                         atHome(hoa1).with(func(b *bu) { b.v4 = []mobility.Value{opt29("10.20.0.21", 32)} }),
	} {
		t.Run(name, func(t *testing.T) {
			r := startHosts(t)
			r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)
			last := r.seq
			a := r.status(b, mobility.Accepted)
			if a.Lifetime != 0 || a.Sequence != last+1 || len(acks(a)) != len(b.v4) {
				t.Errorf("answer %+v", a)
			}
			if nat, ok := a.Options.NATDetection(); ok != (b.seen.Port() != 0) || nat.F != (ok && len(b.more) > 0) {
				t.Errorf("NAT detection %+v", nat)
			}
			r.unreached(hoa1)
			r.unreached(ip("10.20.0.21"))
			// The delayed Binding Update of RFC 6275 10.3.2.
			late := r.status(native(hoa1, coa1).with(func(b *bu) { b.seq = last }), mobility.SequenceOutOfWindow)
			if late.Sequence != last+1 {
				t.Errorf("last accepted %d, want %d", late.Sequence, last+1)
			}
			// Sent again because the answer was lost, it is answered, and does not prolong the wait.
			r.pass(9 * time.Second)
			r.status(b, mobility.Accepted)
			if got := r.one(mn1); got.State != "deprecated" {
				t.Errorf("state %s", got.State)
			}
			if n := len(r.emits); len(r.events(n)) != 0 {
				t.Error("told again")
			}
			r.pass(999 * time.Millisecond)
			if len(r.bindings(mn1)) != 1 {
				t.Error("gone before its time")
			}
			r.pass(time.Millisecond)
			if len(r.bindings(mn1)) != 0 || len(r.keys) != 0 || len(r.tuns) != 0 {
				t.Error("not gone in its time")
			}
			// Without a binding any sequence number will do, and there is nothing to end.
			r.status(b, mobility.NotHomeAgent)
			r.status(native(hoa1, coa1).with(func(b *bu) { b.seq = last }), mobility.Accepted)
			r.leakless()
		})
	}
}

// TestHostReturns: away again within the ten seconds, it is the same registration.
func TestHostReturns(t *testing.T) {
	r := startHosts(t)
	a := r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)
	v4 := acks(a)[0].Addr
	r.status(atHome(hoa2), mobility.Accepted)
	r.unreached(v4)
	if k := r.keys[netip.PrefixFrom(v4, 32)]; k.ID == 0 || k.Up || k.Down {
		t.Errorf("key %+v: packets are to be dropped silently", k)
	}
	r.pass(5 * time.Second)
	n := len(r.emits)
	a = r.status(native(hoa2, coa2, dynamic29), mobility.Accepted)
	if got := acks(a); got[0].Addr != v4 {
		t.Errorf("another address: %+v", got)
	}
	if got := r.events(n); !slices.Equal(got, []string{"deprecated -> active returned"}) {
		t.Errorf("%v", got)
	}
	r.reaches(v4, layer6(coa2))
	r.pass(20 * time.Second)
	r.reaches(v4, layer6(coa2))
	r.leakless()
}

// TestHostLifetime: what was asked for, at most lifetime-max, at most the lease of a dynamic address, in units of 4 s.
func TestHostLifetime(t *testing.T) {
	spec.Covers(t, "S004-2.4-03")
	lease := func(d time.Duration) func(*Config) {
		return func(c *Config) { c.Pools[len(c.Pools)-1].Lease = d }
	}
	for _, c := range []struct {
		name      string
		bu        bu
		asked     uint16
		max       time.Duration
		lease     time.Duration
		want      uint16
		beforeEnd time.Duration
	}{
		{"as asked", native(hoa4, coa1), 75, time.Hour, time.Minute, 75, 299 * time.Second},
		{"maximum", native(hoa4, coa1), 65535, time.Hour, time.Minute, 900, 3599 * time.Second},
		{"maximum is no multiple of four", native(hoa4, coa1), 65535, 63 * time.Second, time.Minute, 15, 59 * time.Second},
		{"lease", native(hoa4, coa1, dynamic29), 150, time.Hour, time.Minute, 15, 59 * time.Second},
		{"lease is no multiple of four", native(hoa4, coa1, dynamic29), 150, time.Hour, 63 * time.Second, 15, 59 * time.Second},
		{"lease is longer", native(hoa4, coa1, dynamic29), 150, time.Hour, 1000 * time.Second, 150, 599 * time.Second},
		{"lease of a static address is nobody's", native(hoa1, coa1, opt29("10.20.0.21", 32)), 150, time.Hour, time.Minute, 150, 599 * time.Second},
		{"one unit", native(hoa4, coa1, dynamic29), 1, time.Hour, time.Minute, 1, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startHosts(t, lease(c.lease), func(cfg *Config) { cfg.Timers.LifetimeMax = c.max })
			b := c.bu
			b.lifetime = c.asked
			a := r.status(b, mobility.Accepted)
			if a.Lifetime != c.want {
				t.Fatalf("lifetime %d, want %d", a.Lifetime, c.want)
			}
			r.pass(c.beforeEnd)
			r.reaches(b.home, layer6(coa1))
			n := len(r.emits)
			r.pass(time.Second)
			r.unreached(b.home)
			if len(r.keys) != 0 || !slices.Equal(r.events(n), []string{"active -> none expired"}) {
				t.Errorf("left %v, events %v", r.keys, r.events(n))
			}
			r.leakless()
		})
	}
}

// TestHostSequence is RFC 6275 9.5.1 to the number.
func TestHostSequence(t *testing.T) {
	spec.Covers(t, "S004-3.4-05")
	for _, c := range []struct {
		last, seq uint16
		ok        bool
	}{
		{15, 16, true}, {15, 15, false}, {15, 0, false}, {15, 65535, false}, {15, 32783, false}, {15, 32782, true}, {15, 30000, true},
		{65535, 0, true}, {65535, 1, true}, {65535, 65534, false}, {65535, 32767, false}, {65535, 32766, true}, {0, 32768, false}, {0, 32767, true},
	} {
		r := startHosts(t)
		r.status(native(hoa1, coa1).numbered(c.last), mobility.Accepted)
		b := native(hoa1, coa2).numbered(c.seq)
		if c.ok {
			if a := r.status(b, mobility.Accepted); a.Sequence != c.seq {
				t.Errorf("answered %d", a.Sequence)
			}
			continue
		}
		a := r.status(b, mobility.SequenceOutOfWindow)
		if a.Sequence != c.last {
			t.Errorf("after %d, %d: the last accepted one is %d", c.last, c.seq, a.Sequence)
		}
		r.reaches(hoa1, layer6(coa1))
	}
}
