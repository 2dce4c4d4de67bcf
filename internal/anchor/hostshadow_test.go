package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/wire/mobility"
)

// withEngine gives every forwarding operation to the real rules too.
func (r *rig) withEngine() {
	r.t.Helper()
	e, err := mem.New(mem.Config{Local: r.cfg.Addresses, Now: func() time.Duration { return r.now.Boot }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.engine = e
}

// downTo says which session of the engine delivers to a prefix, and which may send from it.
func downTo(e *mem.Engine, k string) (down core.ID, up []core.ID) {
	for _, op := range e.Ops() {
		if s, ok := op.(core.SetKey); ok && s.Match.Dst == pfx(k) {
			if s.Down {
				down = s.ID
			}
			if s.Up {
				up = append(up, s.ID)
			}
		}
	}
	slices.Sort(up)
	return down, up
}

// TestShadowOrders: host and proxy registrations of one subscriber with the same IPv4 home address, in every order of
// beginnings and ends: packets go to the node while it is registered by itself, to its gateway when it is not; both may send;
// neither takes the other's address away, and the pool gives it to nobody else meanwhile.
func TestShadowOrders(t *testing.T) {
	const v4 = "10.20.0.21"
	key := v4 + "/32"
	type step = func(r *rig)
	proxyOn := func(r *rig) { r.ok(attach(mag1, mn1, mac1)) }
	hostOn := func(r *rig) { r.status(native(hoa1, coa1, opt29(v4, 32)), 0) }
	proxyOff := func(r *rig) {
		p := attach(mag1, mn1, mac1)
		p.lifetime, p.hi = 0, mobility.HandoffInterfaces
		b := r.kind("proxy")
		p.hnp, p.v4 = b.Prefixes, want36(v4, 32)
		r.ok(p)
	}
	hostOff := func(r *rig) { r.status(atHome(hoa1), 0) }
	hostNoV4 := func(r *rig) { r.status(native(hoa1, coa1), 0) }
	restart := func(r *rig) {
		r.restart()
		r.seq += 2 * sequenceMargin
	}
	wait := func(r *rig) { r.pass(11 * time.Second) }
	for name, c := range map[string]struct {
		steps []step
		down  string // kind of the session that is delivered to
		up    int
	}{
		"proxy, host":                         {[]step{proxyOn, hostOn}, "host", 2},
		"host, proxy":                         {[]step{hostOn, proxyOn}, "host", 2},
		"host, proxy, restart":                {[]step{hostOn, proxyOn, restart}, "host", 2},
		"proxy, host, restart":                {[]step{proxyOn, hostOn, restart}, "host", 2},
		"proxy, host, host off":               {[]step{proxyOn, hostOn, hostOff}, "proxy", 1},
		"proxy, host, host off, wait":         {[]step{proxyOn, hostOn, hostOff, wait}, "proxy", 1},
		"proxy, host, host off, restart":      {[]step{proxyOn, hostOn, hostOff, restart}, "proxy", 1},
		"proxy, host, host without IPv4":      {[]step{proxyOn, hostOn, hostNoV4}, "proxy", 1},
		"proxy, host, host without IPv4, on":  {[]step{proxyOn, hostOn, hostNoV4, hostOn}, "host", 2},
		"proxy, host, proxy off":              {[]step{proxyOn, hostOn, proxyOff}, "host", 1},
		"proxy, host, proxy off, wait":        {[]step{proxyOn, hostOn, proxyOff, wait}, "host", 1},
		"host, proxy, proxy off, wait, proxy": {[]step{hostOn, proxyOn, proxyOff, wait, proxyOn}, "host", 2},
		"host, proxy, host off, wait, host":   {[]step{hostOn, proxyOn, hostOff, wait, hostOn}, "host", 2},
		"host, proxy, both off":               {[]step{hostOn, proxyOn, hostOff, proxyOff}, "", 0},
		"host, proxy, both off, wait":         {[]step{hostOn, proxyOn, hostOff, proxyOff, wait}, "", 0},
		"host off, proxy":                     {[]step{hostOn, hostOff, proxyOn}, "proxy", 1},
		"host off, proxy, restart":            {[]step{hostOn, hostOff, proxyOn, restart}, "proxy", 1},
		"host off, proxy, wait":               {[]step{hostOn, hostOff, proxyOn, wait}, "proxy", 1},
		"proxy off, host":                     {[]step{proxyOn, proxyOff, hostOn}, "host", 1},
		"proxy off, host, wait":               {[]step{proxyOn, proxyOff, hostOn, wait}, "host", 1},
		"host fails beside proxy":             {[]step{proxyOn, func(r *rig) { r.failOnce = true; r.bu(native(hoa1, coa1, opt29(v4, 32))) }}, "proxy", 1},
		"proxy fails beside host":             {[]step{hostOn, func(r *rig) { r.failOnce = true; r.send(attach(mag1, mn1, mac1)); r.pass(2 * time.Second) }}, "host", 1},
		"giving up IPv4 fails beside proxy":   {[]step{proxyOn, hostOn, func(r *rig) { r.failOnce = true; r.bu(native(hoa1, coa2)); r.pass(2 * time.Second) }}, "host", 2},
		"deregistration fails beside proxy":   {[]step{proxyOn, hostOn, func(r *rig) { r.failOnce = true; r.bu(atHome(hoa1)); r.pass(2 * time.Second) }}, "host", 2},
		"host expires, proxy stays": {[]step{proxyOn, func(r *rig) {
			r.status(native(hoa1, coa1, opt29(v4, 32)).with(func(b *bu) { b.lifetime = 5 }), 0)
			r.pass(21 * time.Second)
		}}, "proxy", 1},
		"host revoked, both in fact":          {[]step{proxyOn, hostOn, func(r *rig) { r.handle(core.Command{Ref: 9, Body: core.Revoke{ID: mn1}}) }}, "", 0},
		"host revoked by its IPv6 address":    {[]step{proxyOn, hostOn, func(r *rig) { r.handle(core.Command{Ref: 9, Body: core.Revoke{ID: hoa1.String()}}) }}, "proxy", 1},
		"expired while the other end is open": {[]step{proxyOn, hostOn, func(r *rig) { r.hold = true; hostOff(r); r.flush() }}, "proxy", 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := startHosts(t)
			r.withEngine()
			_, free := r.m.pools.Around(0, ip(v4)).Used(r.now)
			for _, s := range c.steps {
				s(r)
			}
			down, up := downTo(r.engine, key)
			kind := ""
			for _, b := range r.bindings(mn1) {
				if b.Session == down {
					kind = b.Kind
				}
			}
			if kind != c.down || len(up) != c.up {
				t.Fatalf("delivered to %q (%d), sent from %v; want %q, %d; %v", kind, down, up, c.down, c.up, r.bindings(mn1))
			}
			// What the machine thinks is forwarded is forwarded by the real rules.
			if got, ok := r.chain(ip(v4)); ok != (c.down != "") || c.down == "host" && got.Remote.Addr() != coa1 || c.down == "proxy" && got.Remote.Addr() != mag1 {
				t.Errorf("chain %+v %v", got, ok)
			}
			r.leakless()
			if _, now := r.m.pools.Around(0, ip(v4)).Used(r.now); now != free {
				t.Errorf("%d are free, want %d", now, free)
			}
		})
	}
}

// kind gives the subscriber's binding of a kind.
func (r *rig) kind(k string) core.Binding {
	r.t.Helper()
	for _, b := range r.bindings(mn1) {
		if b.Kind == k {
			return b
		}
	}
	r.t.Fatalf("no %s binding: %v", k, r.bindings(mn1))
	return core.Binding{}
}

// TestShadowDynamic: a dynamic IPv4 home address is the subscriber's, whoever registers him.
func TestShadowDynamic(t *testing.T) {
	any4 := attach(mag1, mn2, mac1)
	// The host has it first.
	r := startHosts(t)
	v4 := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
	if got := v4of(t, r.ok(any4)); got != v4 {
		t.Errorf("the gateway got %v, the host has %v", got, v4)
	}
	r.reaches(v4, layer6(coa1))
	r.status(atHome(hoa2), mobility.Accepted)
	r.reaches(v4, layer6(mag1))
	r.pass(20 * time.Second)
	r.reaches(v4, layer6(mag1))
	// It is bound by name as well, because it is his.
	if a := acks(r.status(native(hoa2, coa2, opt29(v4.String(), 32)), mobility.Accepted)); a[0].Status != 0 {
		t.Errorf("%+v", a)
	}
	r.reaches(v4, layer6(coa2))
	r.leakless()
	// The gateway has it first.
	r = startHosts(t)
	v4 = v4of(t, r.ok(any4))
	if a := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)); a[0].Addr != v4 {
		t.Errorf("the host got %+v, the gateway has %v", a, v4)
	}
	r.reaches(v4, layer6(coa1))
	r.restart()
	r.reaches(v4, layer6(coa1))
	r.leakless()
	// Another subscriber's is refused, to both.
	r = startHosts(t)
	v4 = v4of(t, r.ok(attach(mag1, "static2@example.net", mac1).with4("10.30.0.9")))
	if a := acks(r.status(native(hoa2, coa1, opt29(v4.String(), 32)), mobility.Accepted)); a[0].Status != mobility.AddressIncorrect {
		t.Errorf("%+v", a)
	}
	own := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
	if a := r.send(attach(mag1, "static2@example.net", mac2).with4(own.String())); a == nil || a.Status.Accepted() {
		t.Errorf("%+v", a)
	}
	r.reaches(own, layer6(coa1))
	r.leakless()
}

// TestShadowLongerKey: the home address inside a home network prefix: the longer key is the host's, and the rest of the prefix
// stays with the gateway.
func TestShadowLongerKey(t *testing.T) {
	r := startHosts(t, func(c *Config) {
		c.Subscribers.List = slices.Clone(c.Subscribers.List)
		profileOf(c, mn1).HoA = pfx("2001:db8:1000:e::10/64") // in his own home network prefix
	})
	home := ip("2001:db8:1000:e::10")
	r.ok(attach(mag1, mn1, mac1))
	r.reaches(home, layer6(mag1))
	b := native(home, coa1).with(func(b *bu) { b.auth = peerOf(hoa1) })
	r.status(b, mobility.Accepted)
	r.reaches(home, layer6(coa1))
	r.reaches(ip("2001:db8:1000:e::11"), layer6(mag1))
	gone := native(home, coa1).with(func(b *bu) { b.auth, b.lifetime = peerOf(hoa1), 0 })
	r.status(gone, mobility.Accepted)
	// The dead key is transparent (mem knows that; the keys say that it delivers nothing).
	if k := r.keys[netip.PrefixFrom(home, 128)]; k.Up || k.Down {
		t.Errorf("key %+v", k)
	}
	r.pass(11 * time.Second)
	r.reaches(home, layer6(mag1))
	r.leakless()
}
