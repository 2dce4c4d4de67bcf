package anchor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestHostStoreFails: what is not durable is not answered, and did not happen; the node asks again.
func TestHostStoreFails(t *testing.T) {
	v4 := opt29("10.20.0.21", 32)
	for _, held := range []bool{false, true} {
		r := startHosts(t)
		fail := func(b bu) {
			t.Helper()
			r.hold = held
			r.failStore = true
			if a := r.bu(b); a != nil {
				t.Fatalf("answered %+v", a)
			}
			r.failStore = false
			r.flush()
			r.pass(time.Second)
		}
		fail(native(hoa2, coa1, dynamic29))
		if len(r.bindings(mn2)) != 0 || len(r.keys) != 0 {
			t.Errorf("%v, %v", r.bindings(mn2), r.keys)
		}
		r.status(native(hoa1, coa1, v4), mobility.Accepted)
		fail(native(hoa1, coa2))
		r.reaches(hoa1, layer6(coa1))
		r.reaches(ip("10.20.0.21"), layer6(coa1))
		fail(atHome(hoa1))
		r.reaches(hoa1, layer6(coa1))
		if b := r.one(mn1); b.State != "active" || b.CareOf != coa1 || len(b.Home) != 2 {
			t.Errorf("%+v", b)
		}
		// The sequence number of what did not happen may be used again.
		r.status(native(hoa1, coa2, v4).numbered(r.one(mn1).Sequence+1), mobility.Accepted)
		r.status(atHome(hoa1), mobility.Accepted)
		fail(native(hoa1, coa1, v4))
		if b := r.one(mn1); b.State != "deprecated" {
			t.Errorf("%+v", b)
		}
		r.leakless()
	}
}

// TestHostForwardingFails: refused forwarding is undone and answered with 128.
func TestHostForwardingFails(t *testing.T) {
	r := startHosts(t)
	r.half = true // what was done of it is undone too
	r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)
	r.failOnce = true
	r.status(native(hoa1, coa2), mobility.ReasonUnspecified)
	r.reaches(hoa1, layer6(coa1))
	r.reaches(ip("10.20.0.21"), layer6(coa1))
	if n := len(r.m.hosts.asked); n != 0 {
		t.Errorf("%d requests are remembered", n)
	}
	r.leakless()
}

// TestHostSecondChangeInFlight: a change behind one that fails stands, with all that it says.
func TestHostSecondChangeInFlight(t *testing.T) {
	r := startHosts(t)
	r.status(native(hoa1, coa1), mobility.Accepted)
	r.hold, r.failStore = true, true
	first := native(hoa1, coa2)
	r.handle(r.hostMessage(first))
	r.failStore = false
	second := native(hoa1, coa2, opt29("10.20.0.21", 32))
	if a := r.bu(second); a == nil || a.Status != 0 {
		t.Fatalf("%+v", a)
	}
	r.flush()
	r.pass(time.Second)
	r.reaches(hoa1, layer6(coa2))
	r.reaches(ip("10.20.0.21"), layer6(coa2))
	// A refresh behind it was as strict, so it undoes nothing either.
	r.hold, r.failStore = true, true
	r.handle(r.hostMessage(native(hoa1, coa1, opt29("10.20.0.21", 32))))
	if a := r.bu(native(hoa1, coa1, opt29("10.20.0.21", 32))); a != nil {
		t.Fatalf("answered %+v", a)
	}
	r.failStore = false
	r.flush()
	r.pass(time.Second)
	r.reaches(hoa1, layer6(coa2))
	r.leakless()
}

// TestHostRestart: kill -9 at any time: registrations are there again, with their forwarding, before anybody asks; sequence
// numbers go on behind a margin.
func TestHostRestart(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	for name, b := range map[string]bu{
		"native": native(hoa2, coa1, dynamic29),
		"UDP":    udp(hoa2, ip("10.0.0.7"), seen, dynamic29),
		"41":     in41(hoa2, v4coa, short("0.0.0.0", 1)),
	} {
		t.Run(name, func(t *testing.T) {
			r := startHosts(t)
			v4 := acks(r.status(b.numbered(100), mobility.Accepted))[0].Addr
			want, _ := r.chain(hoa2)
			before := r.one(mn2)
			r.keepLazy = true
			r.status(b.numbered(101), mobility.Accepted) // written behind, and lost
			r.pass(10 * time.Second)
			r.restart()
			r.reaches(hoa2, want)
			r.reaches(v4, want)
			after := r.one(mn2)
			if after.Session != before.Session || after.CareOf != before.CareOf || after.NAT != before.NAT || after.Framing != before.Framing ||
				after.Dialect != before.Dialect || !slices.Equal(after.Home, before.Home) || after.Lifetime != before.Lifetime {
				t.Errorf("%+v, was %+v", after, before)
			}
			if left := after.Expires.Sub(r.now.Wall); left != after.Lifetime {
				t.Errorf("%v are left, want a whole lifetime", left)
			}
			a := r.status(b.numbered(101), mobility.SequenceOutOfWindow)
			if a.Sequence != 100+sequenceMargin {
				t.Errorf("last accepted %d", a.Sequence)
			}
			r.status(b.numbered(a.Sequence+1), mobility.Accepted)
			if got := r.one(mn2).Session; got != before.Session {
				t.Errorf("session %d, was %d", got, before.Session)
			}
			r.leakless()
		})
	}
}

// TestHostRestartDeprecated: the ordering state of a registration that ended survives too.
func TestHostRestartDeprecated(t *testing.T) {
	for _, change := range [][]func(*Config){nil, {homeLink, func(c *Config) { c.HomePort.DADTransmits = -1 }}} {
		r := startHosts(t, change...)
		r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)).numbered(100), mobility.Accepted)
		r.status(atHome(hoa1).numbered(101), mobility.Accepted)
		r.restart()
		r.unreached(hoa1)
		if b := r.one(mn1); b.State != "deprecated" {
			t.Errorf("%+v", b)
		}
		r.status(native(hoa1, coa1).numbered(101), mobility.SequenceOutOfWindow)
		r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)).numbered(200), mobility.Accepted)
		r.reaches(ip("10.20.0.21"), layer6(coa1))
		r.leakless()
	}
}

// TestHostRestartConfig: what the config does not give any more ends, and is told; the rest stays.
func TestHostRestartConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"service is off":                func(c *Config) { c.DSMIP6.On = false },
		"home address":                  func(c *Config) { profileOf(c, mn4).HoA = pfx("2001:db8:1000:11::11/64") },
		"another subscriber":            func(c *Config) { profileOf(c, mn4).ID = "new@example.net" },
		"network":                       func(c *Config) { profileOf(c, mn4).Networks = nil },
		"pool":                          func(c *Config) { c.Pools[len(c.Pools)-1].Prefix = pfx("10.41.0.0/24") },
		"address of another":            func(c *Config) { profileOf(c, mn1).V4 = ip("10.40.0.2") },
		"no host registrations for him": func(c *Config) { profileOf(c, mn4).Services = subscriber.PMIP6 },
		"no IPv4 for him":               func(c *Config) { profileOf(c, mn4).Families = subscriber.V6 },
		"no IPv4 for anybody":           func(c *Config) { c.DSMIP6.NoIPv4 = true },
		"other pools":                   func(c *Config) { profileOf(c, mn4).V4Pools = []string{"v4b"} },
		"another static address":        func(c *Config) { p := profileOf(c, mn4); p.V4, p.V4Pools = ip("10.40.0.99"), nil },
		"reserved by the way":           func(c *Config) { c.Pools[len(c.Pools)-1].Reserve = []netip.Prefix{pfx("10.40.0.0/30")} },
	} {
		t.Run(name, func(t *testing.T) {
			r := startHosts(t)
			r.status(native(hoa4, coa1, dynamic29, opt29p("10.99.0.0", 28)), mobility.Accepted)
			r.cfg.Subscribers.List = slices.Clone(r.cfg.Subscribers.List)
			r.cfg.Pools = slices.Clone(r.cfg.Pools)
			change(&r.cfg)
			r.restart()
			if len(r.keys) != 0 || r.m.hosts.table.Len() != 0 {
				t.Errorf("keys %v", r.keys)
			}
			for k := range r.store {
				if strings.HasPrefix(k, hostPrefix) {
					t.Errorf("record %x is left", k)
				}
			}
			if r.m.refused[wire.StoreFailed] != 1 || len(r.m.notes) == 0 {
				t.Errorf("refused %v, notes %v", r.m.refused, r.m.notes)
			}
			r.leakless()
		})
	}
}

func profileOf(c *Config, id string) (p *profile) {
	for n := range c.Subscribers.List {
		if c.Subscribers.List[n].ID == id {
			return &c.Subscribers.List[n]
		}
	}
	panic("no subscriber " + id)
}

// TestHostRestartOver: a lifetime that is over twice is not brought back.
func TestHostRestartOver(t *testing.T) {
	r := startHosts(t)
	r.status(native(hoa1, coa1), mobility.Accepted)
	r.to(r.now.Boot + 601*time.Second)
	r.restart()
	if len(r.keys) != 0 || len(r.store) != 1 {
		t.Errorf("keys %v, store %v", r.keys, r.store)
	}
	r.leakless()
}

// TestHostBadRecords: damaged records are told and do not stop the start.
func TestHostBadRecords(t *testing.T) {
	r := startHosts(t)
	r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)
	var good []byte
	for k, v := range r.store {
		if strings.HasPrefix(k, hostPrefix) {
			good = v
		}
	}
	bad := [][]byte{nil, {}, {9}, good[:len(good)-1], append(slices.Clone(good), 0)}
	for n, b := range bad {
		r.store[string(hostKey(core.ID(n+1)))] = b
	}
	r.store[string(hostKey(99999))] = good // an older registration whose end was not stored
	r.restart()
	if got := r.m.refused[wire.StoreFailed]; got != uint64(len(bad)) {
		t.Errorf("%d records are refused, want %d", got, len(bad))
	}
	if _, there := r.store[string(hostKey(99999))]; there {
		t.Error("the older one is still stored")
	}
	if _, ok := r.chain(hoa1); !ok {
		t.Error("the good one is lost")
	}
}

// TestHostStoreLost: static addresses and what nodes register by name are served, nothing dynamic for one lifetime.
func TestHostStoreLost(t *testing.T) {
	r := startHosts(t, func(c *Config) { c.FirstStart = false })
	r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)
	if a := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)); a[0].Status != mobility.DynamicAddressNotAvailable {
		t.Errorf("%+v", a)
	}
	r.pass(time.Hour)
	if a := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)); a[0].Status != 0 {
		t.Errorf("%+v", a)
	}
}

// TestHostRecord: a record is decoded to what was encoded.
func TestHostRecord(t *testing.T) {
	r := startHosts(t)
	r.status(udp(hoa4, ip("10.0.0.7"), netip.MustParseAddrPort("203.0.113.5:50123"), dynamic29, opt29p("10.99.0.0", 28)).
		with(by4285(r, 0)).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	h := r.m.hosts.table.ByHome(0, netip.PrefixFrom(hoa4, 128))
	b := h.Encode(r.now)
	back, expires, err := homeagent.Decode(h.ID, b)
	if err != nil || expires.Sub(r.now.Wall) != 300*time.Second || back.MessageID != rfc4285.NTP(r.now.Wall) || !back.Both || !back.NAT || !back.UDP {
		t.Fatalf("%+v %v %v", back, expires, err)
	}
	back.Expires = h.Expires
	if got := back.Encode(r.now); !slices.Equal(got, b) {
		t.Errorf("%x, want %x", got, b)
	}
	if back.Chain() != h.Chain() || back.Path() != h.Path() || !slices.Equal(back.V4, h.V4) || back.Auth != h.Auth {
		t.Errorf("%+v, want %+v", back, *h)
	}
}

// TestHostEndInFlight: an address is its node's until the store has forgotten that it was, and after: registered anew while
// the end of the former registration is under way, or could not be stored, it is there again.
func TestHostEndInFlight(t *testing.T) {
	for _, fails := range []bool{false, true} {
		r := startHosts(t)
		v4 := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
		r.hold, r.failStore = true, fails
		r.pass(300 * time.Second)
		r.failStore = false
		if len(r.bindings(mn2)) != 0 {
			t.Fatalf("%v", r.bindings(mn2))
		}
		if fails { // its result is in, and it is to be tried again
			r.flush()
		}
		if a := acks(r.status(native(hoa1, coa1, opt29(v4.String(), 32)), mobility.Accepted)); a[0].Status != mobility.AddressIncorrect {
			t.Errorf("%+v for another node", a)
		}
		a := acks(r.status(native(hoa2, coa2, opt29(v4.String(), 32)), mobility.Accepted))
		if a[0].Status != 0 || a[0].Addr != v4 {
			t.Errorf("%+v, want %v back", a, v4)
		}
		r.flush()
		r.pass(time.Second)
		r.reaches(v4, layer6(coa2))
		r.restart()
		r.reaches(v4, layer6(coa2))
		r.leakless()
	}
}

// TestHostDeregisteredTwiceInFlight: a deregistration sent again is answered no sooner than the first one may be; where the
// first could not be stored, the second stands.
func TestHostDeregisteredTwiceInFlight(t *testing.T) {
	r := startHosts(t)
	r.status(native(hoa1, coa1), mobility.Accepted)
	r.hold, r.failStore = true, true
	r.handle(r.hostMessage(atHome(hoa1)))
	r.failStore = false
	writes := 0
	for _, e := range r.m.Handle(r.now, r.hostMessage(atHome(hoa1)), nil) {
		switch e := e.(type) {
		case core.Persist:
			if writes++; e.Lazy {
				t.Error("written behind")
			}
		case core.Send:
			if e.Ref == 0 {
				t.Error("answered before it is durable")
			}
			r.pending = append(r.pending, core.Done{Ref: e.Ref})
		case core.Forward:
			for _, op := range e.Ops {
				r.forward(op)
			}
			r.pending = append(r.pending, core.Done{Ref: e.Ref})
		}
	}
	if writes != 1 {
		t.Errorf("%d writes", writes)
	}
	r.flush()
	if b := r.one(mn1); b.State != "deprecated" {
		t.Errorf("state %s", b.State)
	}
	r.unreached(hoa1)
}

// TestHostDefenceUndone: what is defended on the home link follows a registration back, whichever way it had gone.
func TestHostDefenceUndone(t *testing.T) {
	v4 := opt29("10.20.0.21", 32)
	both := []string{"10.20.0.21", "2001:db8:1000:10::10"}
	r := startHosts(t, homeLink, func(c *Config) { c.HomePort.DADTransmits = -1 })
	fail := func(b bu, want []string) {
		t.Helper()
		r.failStore = true
		r.ignoredFrames(b)
		r.failStore = false
		r.pass(time.Second)
		if got := r.proxies("proxy"); !slices.Equal(got, want) {
			t.Errorf("defended %v, want %v", got, want)
		}
		if got := r.proxies("route"); !slices.Equal(got, want) {
			t.Errorf("routed %v, want %v", got, want)
		}
	}
	fail(native(hoa1, coa1, v4), nil)
	r.status(native(hoa1, coa1), mobility.Accepted)
	fail(native(hoa1, coa1, v4), both[1:])
	r.status(native(hoa1, coa1, v4), mobility.Accepted)
	fail(native(hoa1, coa2), both)
	fail(atHome(hoa1), both)
	r.status(atHome(hoa1), mobility.Accepted)
	fail(native(hoa1, coa2, v4), nil)
	r.leakless()
}

// ignoredFrames gives a request that must not be answered, whatever is said on the home link meanwhile.
func (r *rig) ignoredFrames(b bu) {
	r.t.Helper()
	if a := r.bu(b); a != nil {
		r.t.Fatalf("answered %+v", a)
	}
	r.frames()
}
