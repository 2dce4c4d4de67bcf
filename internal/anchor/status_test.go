package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// draft29 is the draft's request for an IPv4 home address.
func draft29(a string, plen uint8) []mobility.Value {
	return []mobility.Value{mobility.IPv4HomeAddress{Addr: ip(a), PrefixLen: plen}}
}

// TestEveryRejectStatus provokes each status that an anchor refuses with, by one request that differs from a good one in
// one thing. The counters, events and, where there is one, the status of the IPv4 option are compared too.
func TestEveryRejectStatus(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-01", "S001-3.3.2-04", "S001-3.3.2-13", "S001-3.3.2-31")
	const h = "h1@example.net"
	registered := func(r *rig) { r.ok(attach(mag1, h, mac1)) }
	type row struct {
		name    string
		config  func(*Config)
		before  func(*rig)
		request func(*rig) pbu
		status  mobility.Status
		reason  wire.Reason
		v4      mobility.AddressStatus // 0 = no IPv4 option in the answer
		check   func(*testing.T, *rig, *mobility.BindingAck)
	}
	change := func(f func(*pbu)) func(*rig) pbu {
		return func(*rig) pbu { p := attach(mag1, h, mac1); f(&p); return p }
	}
	noSession := func(t *testing.T, r *rig, _ *mobility.BindingAck) {
		if n := r.m.cache.Len(); n != 0 {
			t.Errorf("%d sessions, want none", n)
		}
	}
	rows := []row{
		{name: "128 no A flag", request: change(func(p *pbu) { p.flags = mobility.BUProxy }), status: 128, reason: wire.MissingACK, v4: 128, check: noSession},
		{name: "129 draft: no IPv4 service and nothing else", request: change(func(p *pbu) {
			p.id, p.hnp, p.v4 = "v6@example.net", nil, draft29("0.0.0.0", 0)
		}), status: 129, reason: wire.IPv4Disabled, v4: 129, check: noSession},
		{name: "129 forced UDP", request: change(func(p *pbu) { p.flags = mobility.BUAck | mobility.BUProxy | mobility.BUForceUDP }),
			status: 129, reason: wire.UDPNotForced, v4: 128, check: noSession},
		{name: "144 draft: forced UDP", request: change(func(p *pbu) {
			p.flags, p.v4 = mobility.BUAck|mobility.BUProxy|mobility.BUForceUDP, draft29("0.0.0.0", 0)
		}), status: 144, reason: wire.UDPNotForced, v4: 128, check: noSession},
		{name: "130 no IPv4 address left", config: func(c *Config) {
			c.Pools[1] = pool.Config{Name: "v4", Prefix: pfx("10.20.0.8/29"), Reserve: []netip.Prefix{pfx("10.20.0.11/32"), pfx("10.20.0.12/30")}}
			c.Pools = c.Pools[:2]
			c.Subscribers.List = nil
		}, before: registered, request: change(func(p *pbu) { p.id = "h2@example.net" }), status: 130, reason: wire.PoolExhausted, v4: 128,
			check: func(t *testing.T, r *rig, a *mobility.BindingAck) {
				if len(r.bindings("h2@example.net")) != 0 || len(r.tuns) != 1 {
					t.Error("the refused host has a session or forwarding")
				}
				if used, _ := r.m.pools.ByName("hnp").Used(r.now); used != 1 {
					t.Errorf("%d prefixes are used: the refused host kept one", used)
				}
			}},
		{name: "130 draft", config: func(c *Config) {
			c.Pools = []pool.Config{c.Pools[0], {Name: "v4", Prefix: pfx("10.20.0.8/30")}}
			c.Subscribers.List = nil
		}, before: registered, request: change(func(p *pbu) { p.id, p.v4 = "h2@example.net", draft29("0.0.0.0", 0) }),
			status: 130, reason: wire.PoolExhausted, v4: 132},
		{name: "130 no prefix left", config: func(c *Config) {
			c.Pools[0].Prefix = pfx("2001:db8:1000::/64")
			c.Subscribers.List = nil
		}, before: registered, request: change(func(p *pbu) { p.id = "h2@example.net" }), status: 130, reason: wire.PoolExhausted, v4: 128},
		{name: "130 too many sessions", config: func(c *Config) { c.Limits.Sessions = 1 }, before: registered,
			request: change(func(p *pbu) { p.id, p.from = "h2@example.net", mag2 }), status: 130, reason: wire.SessionLimit, v4: 128},
		{name: "130 too many sessions of a gateway", config: func(c *Config) { c.Limits.SessionsPerGateway = 1 }, before: registered,
			request: change(func(p *pbu) { p.id = "h2@example.net" }), status: 130, reason: wire.PeerSessionLimit, v4: 128},
		{name: "130 too many that wait", config: func(c *Config) { c.Limits.PendingPerPeer = 1 }, before: func(r *rig) {
			registered(r)
			r.ok(attach(mag1, "h2@example.net", mac1))
			p := attach(mag2, "h2@example.net", mac2)
			r.silent(p)
		}, request: change(func(p *pbu) { p.from, p.ll = mag2, mac2 }), status: 130, reason: wire.PendingLimit, v4: 128},
		{name: "135 sequence number not newer", before: func(r *rig) {
			p := attach(mag1, h, mac1)
			p.noTS, p.seq = true, 40000
			r.ok(p)
		}, request: change(func(p *pbu) { p.noTS, p.seq = true, 39999 }), status: 135, reason: wire.SequenceOld, v4: 128,
			check: func(t *testing.T, _ *rig, a *mobility.BindingAck) {
				if a.Sequence != 40000 {
					t.Errorf("sequence %d, want the last accepted one, 40000 (RFC 6275 9.5.1)", a.Sequence)
				}
			}},
		{name: "152 subscriber without the service", request: change(func(p *pbu) { p.id = "host@example.net" }), status: 152, reason: wire.ServiceDisabled, v4: 128},
		{name: "153 unknown subscriber", config: func(c *Config) { c.Subscribers.Accept = false }, request: change(func(*pbu) {}),
			status: 153, reason: wire.UnknownSubscriber, v4: 128},
		{name: "153 identifier that is no NAI", request: change(func(p *pbu) {
			p.id, p.more = "", []mobility.Value{mobility.MobileNodeID{Subtype: 2, ID: "x"}}
		}), status: 153, reason: wire.UnknownSubscriber, v4: 128},
		{name: "154 peer that is no gateway", request: change(func(p *pbu) { p.from = mag3 }), status: 154, reason: wire.NotAuthorized, v4: 128},
		{name: "154 gateway not of the subscriber", request: change(func(p *pbu) { p.id = "mag2only@example.net" }), status: 154, reason: wire.NotAuthorized, v4: 128},
		{name: "154 care-of address of somebody else", request: change(func(p *pbu) {
			p.more = []mobility.Value{mobility.AlternateCareOf{Addr: mag2}}
		}), status: 154, reason: wire.NotAuthorized, v4: 128},
		{name: "155 prefix of another node", before: registered, request: change(func(p *pbu) {
			p.id, p.hnp = "h2@example.net", []netip.Prefix{pfx("2001:db8:1000::/64")}
		}), status: 155, reason: wire.PrefixNotAuthorized, v4: 128},
		{name: "155 prefix not of this anchor", request: change(func(p *pbu) { p.hnp = []netip.Prefix{pfx("2001:db8:ffff::/64")} }),
			status: 155, reason: wire.PrefixNotAuthorized, v4: 128, check: noSession},
		{name: "155 static prefix of another subscriber", request: change(func(p *pbu) { p.hnp = []netip.Prefix{pfx("2001:db8:1000:a::/64")} }),
			status: 155, reason: wire.PrefixNotAuthorized, v4: 128},
		{name: "155 prefix of another length", request: change(func(p *pbu) { p.hnp = []netip.Prefix{pfx("2001:db8:1000::/56")} }),
			status: 155, reason: wire.PrefixNotAuthorized, v4: 128},
		{name: "155 nine prefixes", request: change(func(p *pbu) {
			p.hnp = nil
			for i := range 9 {
				p.hnp = append(p.hnp, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 1, byte(i)}), 64))
			}
		}), status: 155, reason: wire.PrefixNotAuthorized, v4: 128, check: noSession},
		{name: "156 clock behind", request: func(r *rig) pbu {
			p := attach(mag1, h, mac1)
			ts := mobility.TimestampOf(r.now.Wall.Add(-302 * time.Millisecond))
			p.ts = &ts
			return p
		}, status: 156, reason: wire.TimestampMismatch, v4: 128, check: ownTime},
		{name: "156 clock ahead", request: func(r *rig) pbu {
			p := attach(mag1, h, mac1)
			ts := mobility.TimestampOf(r.now.Wall.Add(302 * time.Millisecond))
			p.ts = &ts
			return p
		}, status: 156, reason: wire.TimestampMismatch, v4: 128, check: ownTime},
		{name: "157 older than the last", before: registered, request: func(r *rig) pbu {
			p := attach(mag1, h, mac1)
			ts := mobility.TimestampOf(r.now.Wall.Add(-10 * time.Millisecond))
			p.ts = &ts
			return p
		}, status: 157, reason: wire.TimestampOld, v4: 128, check: ownTime},
		{name: "158 nothing to register", request: change(func(p *pbu) { p.hnp, p.v4 = nil, nil }), status: 158, reason: wire.MissingPrefix, v4: 128,
			check: func(t *testing.T, r *rig, a *mobility.BindingAck) {
				noSession(t, r, a)
				if got := prefixes(a); len(got) != 1 || got[0] != zeroHNP {
					t.Errorf("prefixes %v, want one ALL_ZERO", got)
				}
				if v, _ := a.Options.IPv4AddressAck(); !v.Addr.IsUnspecified() {
					t.Errorf("option 30 has %s, want 0.0.0.0", v.Addr)
				}
			}},
		{name: "159 not all prefixes of the session", before: func(r *rig) { r.ok(attach(mag1, "static@example.net", mac1)) },
			request: change(func(p *pbu) { p.id, p.hnp = "static@example.net", []netip.Prefix{pfx("2001:db8:1000:a::/64")} }),
			status:  159, reason: wire.PrefixMismatch, v4: 128},
		{name: "160 no identifier", request: change(func(p *pbu) { p.id = "" }), status: 160, reason: wire.MissingMNID, v4: 128,
			check: func(t *testing.T, _ *rig, a *mobility.BindingAck) {
				if id, ok := a.Options.MobileNodeID(); !ok || id.ID != "" {
					t.Errorf("identifier %q %v, want one of zero length", id.ID, ok)
				}
			}},
		{name: "161 no handoff indicator", request: change(func(p *pbu) { p.without = []mobility.OptionType{mobility.OptHandoffIndicator} }),
			status: 161, reason: wire.MissingHandoff, v4: 128, check: func(t *testing.T, _ *rig, a *mobility.BindingAck) {
				if v, ok := a.Options.HandoffIndicator(); !ok || v.Value != 0 {
					t.Error("no handoff indicator of value 0 in the answer")
				}
			}},
		{name: "162 no access technology", request: change(func(p *pbu) { p.without = []mobility.OptionType{mobility.OptAccessTechnology} }),
			status: 162, reason: wire.MissingATT, v4: 128, check: func(t *testing.T, _ *rig, a *mobility.BindingAck) {
				if v, ok := a.Options.AccessTechnology(); !ok || v.Value != 0 {
					t.Error("no access technology of value 0 in the answer")
				}
			}},
		{name: "170 no IPv4 service", request: change(func(p *pbu) { p.id = "v6@example.net" }), status: 170, reason: wire.IPv4Disabled, v4: 129, check: noSession},
		{name: "170 home network without IPv4", config: func(c *Config) { c.PMIP6.NoIPv4 = true }, request: change(func(*pbu) {}),
			status: 170, reason: wire.IPv4Disabled, v4: 129, check: noSession},
		{name: "171 address of another node", before: registered, request: change(func(p *pbu) {
			p.id, p.hnp, p.v4 = "h2@example.net", nil, []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: ip("10.20.0.8")}}
		}), status: 171, reason: wire.IPv4NotAuthorized, v4: 129, check: func(t *testing.T, _ *rig, a *mobility.BindingAck) {
			if v, _ := a.Options.IPv4HomeAddressReply(); v.Addr != ip("10.20.0.8") || v.PrefixLen != 16 {
				t.Errorf("option 37 has %s/%d, want what was asked for", v.Addr, v.PrefixLen)
			}
			if a.Options.Has(mobility.OptIPv4DefaultRouter) {
				t.Error("option 38 in a refusal (RFC 5844 3.1.2.6)")
			}
			if n := len(prefixes(a)); n != 0 {
				t.Errorf("%d prefix options, want none: none was in the request", n)
			}
		}},
		{name: "171 address not of this anchor", request: change(func(p *pbu) {
			p.v4 = []mobility.Value{mobility.IPv4HomeAddressRequest{Addr: ip("192.0.2.1")}}
		}), status: 171, reason: wire.IPv4NotAuthorized, v4: 129, check: noSession},
		{name: "172 no IPv6 service", request: change(func(p *pbu) { p.id = "v4@example.net" }), status: 172, reason: wire.IPv6Disabled, v4: 128, check: noSession},
		{name: "172 home network without IPv6", config: func(c *Config) { c.PMIP6.NoIPv6 = true }, request: change(func(*pbu) {}),
			status: 172, reason: wire.IPv6Disabled, v4: 128, check: noSession},
		{name: "173 two IPv4 addresses", request: change(func(p *pbu) { p.v4 = append(p.v4, zeroV4) }), status: 173, reason: wire.MultipleIPv4, v4: 128, check: noSession},
	}
	seen := map[mobility.Status]bool{}
	for _, row := range rows {
		t.Run("draft "+row.name, func(t *testing.T) { // the same with option 29: what the base says holds there too
			r := start(t, row.config)
			if row.before != nil {
				row.before(r)
			}
			r.pass(time.Millisecond)
			p := row.request(r)
			if len(p.v4) != 1 || p.v4[0] != mobility.Value(zeroV4) || row.reason == wire.UDPNotForced {
				return // about the option itself
			}
			p.v4 = draft29("0.0.0.0", 0)
			want := row.status
			if want == mobility.MissingHandoffIndicator || want == mobility.NotAuthorizedForIPv4Mobility {
				want = mobility.Accepted // the draft knows no handoff indicator, and gives what is left
			}
			a := r.sendNow(p)
			if a == nil || a.Status != want {
				t.Fatalf("%v, want status %d; events %v", a, want, r.tail())
			}
			if !a.Options.Has(mobility.OptIPv4AddressAck) || a.Options.Has(mobility.OptIPv4HomeAddressReply) {
				t.Error("not answered in kind")
			}
		})
		t.Run(row.name, func(t *testing.T) {
			r := start(t, row.config)
			if row.before != nil {
				row.before(r)
			}
			r.pass(time.Millisecond)
			n := len(r.emits)
			p := row.request(r)
			held := len(r.store)
			a := r.sendNow(p)
			if a == nil {
				t.Fatalf("no answer; events %v", r.tail())
			}
			if a.Status != row.status {
				t.Fatalf("status %d (%s), want %d; events %v", a.Status, a.Status, row.status, r.tail())
			}
			if a.Flags != mobility.BAProxy {
				t.Errorf("flags %v, want P alone", a.Flags)
			}
			if a.Lifetime != 0 {
				t.Errorf("lifetime %d in a refusal", a.Lifetime)
			}
			if row.status != mobility.SequenceOutOfWindow && a.Sequence != r.seq && a.Sequence != p.seq {
				t.Errorf("sequence %d is not the request's", a.Sequence)
			}
			if a.Options.Has(mobility.OptTimestamp) == p.noTS {
				t.Error("a Timestamp option must be in the answer iff in the request")
			}
			if len(r.emits) != n+1 || r.emits[n].Name != "refused" || r.emits[n].Why != string(row.reason) {
				t.Errorf("events %v, want one refusal, %s", r.emits[n:], row.reason)
			}
			if got := r.m.refused[row.reason]; got != 1 {
				t.Errorf("counter %s is %d, want 1", row.reason, got)
			}
			if len(r.store) != held {
				t.Error("a refusal changed the store")
			}
			if got, there := v4Status(a); there != (row.v4 != 0) || got != row.v4 {
				t.Errorf("IPv4 option with status %d (there: %v), want %d", got, there, row.v4)
			}
			if row.check != nil {
				row.check(t, r, a)
			}
			seen[row.status] = true
			r.leakless()
		})
	}
	want := []mobility.Status{128, 129, 130, 135, 152, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162, 170, 171, 172, 173}
	for _, s := range want {
		if !seen[s] {
			t.Errorf("status %d was not provoked", s)
		}
	}
}

// ownTime wants the anchor's time of day in the answer, RFC 5213 5.5 (8), (9).
func ownTime(t *testing.T, r *rig, a *mobility.BindingAck) {
	t.Helper()
	if ts, _ := a.Options.Timestamp(); ts != mobility.TimestampOf(r.now.Wall) {
		t.Errorf("timestamp %v, want the anchor's %v", ts.Time(), r.now.Wall)
	}
}

func v4Status(a *mobility.BindingAck) (mobility.AddressStatus, bool) {
	if v, ok := a.Options.IPv4HomeAddressReply(); ok {
		return v.Status, true
	}
	v, ok := a.Options.IPv4AddressAck()
	return v.Status, ok
}

// TestOrderOfChecks holds that the first failing check of RFC 5213 5.3.1 decides: everything is wrong, and is mended step
// by step.
func TestOrderOfChecks(t *testing.T) {
	r := start(t, func(c *Config) { c.Subscribers.Accept = false })
	p := pbu{from: mag3, flags: mobility.BUProxy, lifetime: 10, without: []mobility.OptionType{mobility.OptHandoffIndicator, mobility.OptAccessTechnology}}
	old := mobility.TimestampOf(day.Add(-time.Hour))
	p.ts = &old
	for _, step := range []struct {
		want mobility.Status
		mend func()
	}{
		{160, func() { p.id = "mag2only@example.net" }},
		{154, func() { p.from = mag1 }},
		{154, func() { p.from, p.id = mag2, "nobody@example.net" }},
		{153, func() { p.id = "host@example.net" }},
		{152, func() { p.id = "v6@example.net" }},
		{128, func() { p.flags |= mobility.BUAck }},
		{156, func() { p.ts = nil }},
		{158, func() { p.hnp, p.v4 = []netip.Prefix{pfx("2001:db8:ffff::/64")}, []mobility.Value{zeroV4, zeroV4} }},
		{161, func() { p.without = []mobility.OptionType{mobility.OptAccessTechnology} }},
		{162, func() { p.without = nil }},
		{173, func() { p.v4 = p.v4[:1] }},
		{170, func() { p.v4 = nil }},
		{155, func() { p.hnp = []netip.Prefix{zeroHNP} }},
		{0, func() {}},
	} {
		if a := r.send(p); a == nil || a.Status != step.want {
			t.Fatalf("got %v, want status %d; events %v", a, step.want, r.tail())
		}
		step.mend()
	}
}

// TestIgnored lists the requests that get no answer because the RFC says so, and messages that are none of the anchor's.
func TestIgnored(t *testing.T) {
	const h = "h1@example.net"
	dereg := func(from netip.Addr, id string) pbu { p := attach(from, id, mac1); p.lifetime = 0; return p }
	for _, row := range []struct {
		name    string
		before  func(*rig)
		request pbu
		reason  wire.Reason
	}{
		{"lifetime 0 for nothing", nil, dereg(mag1, h), wire.NothingToDeregister},
		{"lifetime 0 of another interface", func(r *rig) { r.ok(attach(mag1, h, mac2)); r.ok(attach(mag1, h, []byte{9, 9, 9, 9, 9, 9})) }, dereg(mag1, h), wire.NothingToDeregister},
		{"lifetime 0 from a gateway that does not serve the session", func(r *rig) { r.ok(attach(mag1, h, mac1)) }, dereg(mag2, h), wire.NotServingGateway},
		{"stranger", nil, attach(none, h, mac1), wire.UnknownPeer},
		{"P flag missing", nil, func() pbu { p := attach(mag1, h, mac1); p.flags = mobility.BUAck | mobility.BUHome; return p }(), wire.NotProxy},
		{"sent to another address of the host", nil, func() pbu { p := attach(mag1, h, mac1); p.to = ip("2001:db8:a::2"); return p }(), wire.BadDestination},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := start(t, func(c *Config) { c.Timers.MaxDelayBeforeNewBCEAssign = -1 })
			if row.before != nil {
				row.before(r)
			}
			before := r.bindings(h)
			r.silent(row.request)
			if got := r.m.refused[row.reason]; got != 1 {
				t.Errorf("counter %s is %d, want 1; all: %v", row.reason, got, r.m.refused)
			}
			if last := r.emits[len(r.emits)-1]; last.Why != string(row.reason) {
				t.Errorf("event %v, want %s", last, row.reason)
			}
			after := r.bindings(h)
			if !slices.EqualFunc(before, after, func(a, b core.Binding) bool {
				return a.Session == b.Session && a.State == b.State && a.ProxyCoA == b.ProxyCoA
			}) {
				t.Errorf("sessions changed: %v -> %v", before, after)
			}
			r.leakless()
		})
	}
}
