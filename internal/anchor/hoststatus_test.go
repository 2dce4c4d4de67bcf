package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// by4285 makes RFC 4285 protect a request, with the timestamp of so long after now.
func by4285(r *rig, after time.Duration) func(*bu) {
	return func(b *bu) {
		b.auth.Kind = "rfc4285"
		b.more = append(slices.Clone(b.more), mobility.MessageID{Timestamp: rfc4285.NTP(r.now.Wall.Add(after))})
	}
}

func flag(f mobility.BUFlags) func(*bu) { return func(b *bu) { b.flags |= f } }
func noFlag(f mobility.BUFlags) func(*bu) {
	return func(b *bu) { b.flags &^= f }
}

// TestHostStatuses: each status of a Binding Acknowledgement with the request that provokes it, answered with the A flag set
// and clear.
func TestHostStatuses(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	lifetime0 := func(b *bu) { b.lifetime = 0 }
	refuseUDP := func(c *Config) { c.DSMIP6.NoForcedUDP = true }
	for _, c := range []struct {
		name   string
		change func(*Config)
		first  func(*rig) // what comes before
		bu     func(*rig) bu
		want   mobility.Status
		reason wire.Reason
	}{
		{"0 accepted", nil, nil, func(*rig) bu { return native(hoa1, coa1) }, mobility.Accepted, ""},
		{"128 forwarding is refused", nil, func(r *rig) { r.failOnce = true }, func(*rig) bu { return native(hoa1, coa1) }, mobility.ReasonUnspecified, wire.ForwardingFailed},
		{"129 no host registrations for the subscriber", nil, nil, func(*rig) bu { return native(hoa5, coa1) }, mobility.AdministrativelyProhibited, wire.ServiceDisabled},
		{"129 forced UDP refused to who would take 144 for its clock", refuseUDP, nil,
			func(r *rig) bu {
				return udp(hoa1, ip("10.0.0.7"), seen).with(flag(mobility.BUForceUDP)).with(by4285(r, 0))
			}, mobility.AdministrativelyProhibited, wire.UDPNotForced},
		{"130 no room", func(c *Config) { c.Limits.Sessions = 1 }, func(r *rig) { r.status(native(hoa2, coa2), 0) }, func(*rig) bu { return native(hoa1, coa1) }, mobility.InsufficientResources, wire.SessionLimit},
		{"130 no room beside proxy registrations", func(c *Config) { c.Limits.Sessions = 1 }, func(r *rig) { r.ok(attach(mag1, "x@example.net", mac1)) }, func(*rig) bu { return native(hoa1, coa1) }, mobility.InsufficientResources, wire.SessionLimit},
		{"131 not a home agent's address", nil, nil, func(*rig) bu {
			return native(hoa1, coa1).with(func(b *bu) { b.to = ip("2001:db8:a::2") })
		}, mobility.HomeRegistrationNotSupported, wire.NotHomeAgentAddress},
		{"132 not of a home subnet", nil, nil, func(*rig) bu {
			return native(ip("2001:db8:2000::10"), coa1).with(func(b *bu) { b.auth = peerOf(hoa1) })
		}, mobility.NotHomeSubnet, wire.NotHomeSubnet},
		{"133 nobody's home address", nil, nil, func(*rig) bu {
			return native(ip("2001:db8:1000:10::99"), coa1).with(func(b *bu) { b.auth = peerOf(hoa1) })
		}, mobility.NotHomeAgent, wire.UnknownSubscriber},
		{"133 nothing to deregister", nil, nil, func(*rig) bu { return atHome(hoa1) }, mobility.NotHomeAgent, wire.NothingToDeregister},
		{"133 nothing to deregister, away", nil, nil, func(*rig) bu { return native(hoa1, coa1).with(lifetime0) }, mobility.NotHomeAgent, wire.NothingToDeregister},
		{"135 old", nil, func(r *rig) { r.status(native(hoa1, coa1).numbered(9), 0) }, func(*rig) bu { return native(hoa1, coa2).numbered(9) }, mobility.SequenceOutOfWindow, wire.SequenceOld},
		{"135 old deregistration", nil, func(r *rig) { r.status(native(hoa1, coa1).numbered(9), 0) }, func(*rig) bu { return atHome(hoa1).numbered(8) }, mobility.SequenceOutOfWindow, wire.SequenceOld},
		{"144 forced UDP refused", refuseUDP, nil, func(*rig) bu { return udp(hoa1, ip("10.0.0.7"), seen).with(flag(mobility.BUForceUDP)) }, mobility.IDMismatch, wire.UDPNotForced},
		{"144 forced UDP in an IPv6 network", nil, nil, func(*rig) bu { return native(hoa1, coa1).with(flag(mobility.BUForceUDP)) }, mobility.IDMismatch, wire.UDPNotForced},
		{"144 forced UDP in protocol 41", nil, nil, func(*rig) bu { return in41(hoa1, v4coa).with(flag(mobility.BUForceUDP)) }, mobility.IDMismatch, wire.UDPNotForced},
		{"144 message-id too old", nil, nil, func(r *rig) bu { return native(hoa1, coa1).with(by4285(r, -8*time.Second)) }, mobility.IDMismatch, wire.TimestampMismatch},
		{"144 message-id of the future", nil, nil, func(r *rig) bu { return native(hoa1, coa1).with(by4285(r, 8*time.Second)) }, mobility.IDMismatch, wire.TimestampMismatch},
		{"144 message-id repeated", nil, func(r *rig) { r.status(native(hoa1, coa1).with(by4285(r, 0)), 0) }, func(r *rig) bu { return native(hoa1, coa2).with(by4285(r, 0)) }, mobility.IDMismatch, wire.TimestampOld},
		{"145 message-id required", func(c *Config) { c.DSMIP6.RequireMessageID = true }, nil, func(*rig) bu {
			return native(hoa1, coa1).with(func(b *bu) { b.auth.Kind = "rfc4285" })
		}, mobility.MIPv6MsgIDRequired, wire.MessageIDRequired},
		{"174 care-of address is the anchor's", nil, nil, func(*rig) bu { return native(hoa1, lmaa) }, mobility.InvalidCareOf, wire.CareOfLocal},
		{"174 IPv4 care-of address is the anchor's", nil, nil, func(*rig) bu { return udp(hoa1, ha4, netip.AddrPortFrom(ha4, port4191)) }, mobility.InvalidCareOf, wire.CareOfLocal},
		{"174 care-of address is another home address", nil, nil, func(*rig) bu { return native(hoa1, hoa2) }, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 care-of address is another home address, bound", nil, func(r *rig) { r.status(native(hoa2, coa1), 0) }, func(*rig) bu { return native(hoa1, hoa2) }, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 IPv4 care-of address is the own home address", nil, nil, func(*rig) bu {
			return udp(hoa1, ip("10.20.0.21"), netip.MustParseAddrPort("10.20.0.21:4191"))
		}, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 IPv4 care-of address is another's static home address", nil, nil, func(*rig) bu {
			return udp(hoa1, ip("10.0.0.7"), netip.MustParseAddrPort("10.20.0.10:4191"))
		}, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 IPv4 care-of address is a dynamic home address", nil, func(r *rig) { r.status(native(hoa2, coa1, dynamic29), 0) }, func(*rig) bu {
			return udp(hoa1, ip("10.0.0.7"), netip.MustParseAddrPort("10.30.0.2:4191"))
		}, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 IPv4 care-of address is a proxy's home address", nil, func(r *rig) { r.ok(attach(mag1, "x@example.net", mac1)) }, func(*rig) bu {
			return udp(hoa1, ip("10.0.0.7"), netip.MustParseAddrPort("10.20.0.8:4191"))
		}, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 in protocol 41", func(c *Config) { c.DSMIP6.PrivateCareOf = true }, nil, func(*rig) bu { return in41(hoa1, ip("10.20.0.21")) }, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 care-of address in the own mobile network", nil, nil, func(*rig) bu { return native(hoa4, ip("2001:db8:99::1")) }, mobility.InvalidCareOf, wire.CareOfHome},
		{"174 IPv4 care-of address in the own mobile network", nil, nil, func(*rig) bu {
			return udp(hoa4, ip("10.99.0.3"), netip.MustParseAddrPort("10.99.0.3:4191"))
		}, mobility.InvalidCareOf, wire.CareOfHome},
	} {
		for _, ack := range []string{"A", ""} {
			t.Run(c.name+" "+ack, func(t *testing.T) {
				r := startHosts(t, c.change)
				if c.first != nil {
					c.first(r)
				}
				b := c.bu(r)
				if ack == "" {
					b = b.with(noFlag(mobility.BUAck))
				}
				keys, refused := len(r.keys), r.m.refused[c.reason]
				a := r.status(b, c.want)
				if c.want == 0 {
					return
				}
				if r.m.refused[c.reason] != refused+1 {
					t.Errorf("refusals %v, want one more for %s", r.m.refused, c.reason)
				}
				if len(r.keys) != keys || a.Lifetime != 0 || a.Options.Has(mobility.OptIPv4AddressAck) {
					t.Errorf("answer %+v, keys %v", a, r.keys)
				}
				if _, nat := a.Options.NATDetection(); nat != (b.seen.Port() != 0) {
					t.Errorf("NAT detection %v", nat)
				}
				r.leakless()
			})
		}
	}
}

// TestHostTypes: what is no home registration is answered where the RFCs say so, to who asked for an answer.
func TestHostTypes(t *testing.T) {
	noHome := noFlag(mobility.BUHome)
	r := startHosts(t)
	r.ignored(native(hoa1, coa1).with(noHome)) // no nonce indices, no authorization: RFC 6275 9.5.1
	r.ignored(native(hoa1, coa1).with(func(b *bu) { b.more = append(b.more, mobility.NonceIndices{Home: 1, CareOf: 1}) }))
	r.status(native(hoa4, coa1).with(noHome).with(flag(mobility.BURouter)), mobility.MobileRouterNotPermitted) // RFC 3963 6.2
	r.status(native(hoa1, coa1), mobility.Accepted)
	r.status(native(hoa1, coa2).with(noHome), mobility.TypeChangeDisallowed)
	r.status(native(hoa1, coa2).with(noHome).with(noFlag(mobility.BUAck)), mobility.TypeChangeDisallowed) // "MUST send back", 9.5.1
	r.ignored(native(hoa4, coa1).with(noHome).with(noFlag(mobility.BUAck)))
	r.reaches(hoa1, layer6(coa1))
	r.status(atHome(hoa1), mobility.Accepted)
	r.ignored(native(hoa1, coa2).with(noHome)) // there is no binding any more whose type could change
	if r.m.refused[wire.NotHomeRegistration] != 3 || r.m.refused[wire.NonceIndices] != 1 || r.m.refused[wire.TypeChange] != 2 {
		t.Errorf("refused %v", r.m.refused)
	}
	r.leakless()
}

// TestHostMessageID: RFC 4285 6: the timestamp orders, the sequence number does not, and the answer has the option.
func TestHostMessageID(t *testing.T) {
	r := startHosts(t)
	id := func(a *mobility.BindingAck) uint64 {
		v, ok := a.Options.MessageID()
		if !ok {
			t.Fatal("no message-id in the answer")
		}
		return v.Timestamp
	}
	now := rfc4285.NTP(r.now.Wall)
	if got := id(r.status(native(hoa1, coa1).numbered(100).with(by4285(r, 0)), mobility.Accepted)); got != now {
		t.Errorf("%x, want the request's %x", got, now)
	}
	r.pass(time.Second)
	r.status(native(hoa1, coa2).numbered(7).with(by4285(r, 0)), mobility.Accepted)
	r.reaches(hoa1, layer6(coa2))
	r.pass(10 * time.Second)
	late := r.now.Wall.Add(-9 * time.Second)
	a := r.status(native(hoa1, coa1).numbered(101).with(by4285(r, -9*time.Second)), mobility.IDMismatch)
	if got, want := id(a), rfc4285.NTP(r.now.Wall)&^0xffffffff|rfc4285.NTP(late)&0xffffffff; got != want {
		t.Errorf("%x, want %x: our seconds, their fraction", got, want)
	}
	// What was accepted stays accepted over a restart, and is not accepted again.
	r.pass(10 * time.Second)
	stamp := by4285(r, 0)
	r.keepLazy = true
	r.status(native(hoa1, coa2).with(stamp), mobility.Accepted)
	r.restart()
	r.status(native(hoa1, coa2).with(stamp), mobility.IDMismatch)
	r.pass(time.Second)
	r.status(native(hoa1, coa2).with(by4285(r, 0)), mobility.Accepted)
	r.leakless()
}

// TestHostNotConfigured: without the service a Binding Update of a node is what it was before there was one.
func TestHostNotConfigured(t *testing.T) {
	r := startHosts(t, func(c *Config) { c.DSMIP6 = DSMIP6{} })
	r.ignored(native(hoa1, coa1))
	if r.m.refused[wire.UnknownPeer] != 1 {
		t.Errorf("refused %v", r.m.refused)
	}
	n := len(r.sent)
	b := native(hoa1, mag1)
	r.handle(r.hostMessage(b))
	if len(r.sent) != n || r.m.refused[wire.NotProxy] != 1 {
		t.Errorf("sent %v, refused %v", r.sent[n:], r.m.refused)
	}
}

// TestHostBadMessages: what cannot be read is counted, what is for nobody here too, and neither makes state.
func TestHostBadMessages(t *testing.T) {
	r := startHosts(t)
	msg := r.hostMessage(native(hoa1, coa1))
	msg.Body, msg.Err = nil, &wire.Error{Msg: "Binding Update", Reason: wire.BadChecksum}
	r.handle(msg)
	r.ignored(native(hoa1, coa1).with(func(b *bu) { b.to = ip("2001:db8:a::3") }))
	if r.m.refused[wire.BadChecksum] != 1 || r.m.refused[wire.BadDestination] != 1 {
		t.Errorf("refused %v", r.m.refused)
	}
	// A Binding Error tells the home address and goes to the source on the wire, without a routing header (RFC 6275 9.3.3).
	n := len(r.sent)
	p := core.Path{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(coa1, 0), Home: hoa1}
	r.handle(core.Message{Path: p, Body: &mobility.Raw{MHType: 99}, Err: &wire.Error{Reason: wire.UnknownType}, Raw: make([]byte, bindingErrorSize)})
	if len(r.sent) != n+1 {
		t.Fatalf("sent %v", r.sent[n:])
	}
	be := r.sent[n].Body.(*mobility.BindingError)
	p.Home = netip.Addr{}
	if be.Home != hoa1 || be.Status != mobility.UnrecognizedMHType || r.sent[n].Path != p {
		t.Errorf("sent %+v by %+v", be, r.sent[n].Path)
	}
	r.leakless()
}

// TestHostAuthorization: who vouches must be the one who may speak for the home address; nobody else makes state or gets an
// answer.
func TestHostAuthorization(t *testing.T) {
	spec.Covers(t, "S004-4-02")
	auth := func(kind, peer string) func(*bu) { return func(b *bu) { b.auth = core.Auth{Kind: kind, Peer: peer} } }
	for _, c := range []struct {
		name   string
		bu     bu
		reason wire.Reason // "" = accepted
	}{
		{"own", native(hoa1, coa1), ""},
		{"own, by RFC 4285", native(hoa1, coa1).with(auth("rfc4285", "mn1")), ""},
		{"own, in UDP: by the IPv6 home address", udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, port4191), opt29("10.20.0.21", 32)), ""},
		{"unprotected where that is written", native(hoa6, coa1), ""},
		{"unprotected where that is written, with a name", native(hoa6, coa1).with(auth("none", "mn6")), ""},
		{"right ESP for another home address", native(hoa1, coa1).with(auth("esp", "mn2")), wire.WrongAssociation},
		{"right ESP for another home address, to end it", atHome(hoa1).with(auth("esp", "mn2")), wire.WrongAssociation},
		{"a gateway", native(hoa1, coa1).with(auth("esp", "mag1")), wire.WrongAssociation},
		{"protected for who needs no protection", native(hoa6, coa1).with(auth("esp", "mn1")), wire.WrongAssociation},
		{"unprotected", native(hoa1, coa1).with(auth("none", "")), wire.Unprotected},
		{"unprotected, with the right name", native(hoa1, coa1).with(auth("none", "mn1")), wire.Unprotected},
		{"nothing said", native(hoa1, coa1).with(auth("", "")), wire.Unprotected},
		{"unprotected, from the address of a gateway", native(hoa1, mag1).with(auth("none", "")), wire.Unprotected},
		{"another kind", native(hoa1, coa1).with(auth("mipv4", "mn1")), wire.Unprotected},
		{"a peer that is not there", native(hoa1, coa1).with(auth("esp", "mn99")), wire.UnknownPeer},
		{"unprotected, nobody's address", native(ip("2001:db8:1000:10::99"), coa1).with(auth("none", "")), wire.UnknownPeer},
		{"unprotected, deregistration", atHome(hoa1).with(auth("none", "")), wire.Unprotected},
		{"unprotected, in UDP", udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, port4191)).with(auth("none", "")), wire.Unprotected},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startHosts(t)
			if c.reason == "" {
				r.status(c.bu, mobility.Accepted)
				return
			}
			r.ignored(c.bu)
			r.status(native(hoa1, coa1), mobility.Accepted)
			r.ignored(c.bu.numbered(99))
			r.reaches(hoa1, layer6(coa1))
			if r.m.refused[c.reason] != 2 || len(r.keys) != 1 {
				t.Errorf("refused %v, keys %v", r.m.refused, r.keys)
			}
			r.leakless()
		})
	}
}

// TestHostStrangers: at any rate strangers make no state and get nothing, and do not slow down who is known.
func TestHostStrangers(t *testing.T) {
	r := startHosts(t)
	for n := range 10_000 {
		b := native(hoa1, coa1).numbered(uint16(n))
		b.auth = core.Auth{Kind: "none"}
		if n%2 == 0 {
			b.home, b.hao = ip("2001:db8:1000:10::99"), ip("2001:db8:1000:10::99")
		}
		r.handle(r.hostMessage(b))
	}
	if len(r.sent) != 0 || r.m.hosts.table.Len() != 0 || len(r.store) != 1 {
		t.Errorf("%d sent, %d registrations, store %v", len(r.sent), r.m.hosts.table.Len(), r.store)
	}
	if n := len(r.m.past.ring); n > 0 {
		t.Errorf("strangers wrote %d lines of history", n)
	}
	if n := len(r.emits); n > 2*strangerRate {
		t.Errorf("%d events", n)
	}
	r.status(native(hoa1, coa1), mobility.Accepted)
	// A node has a rate too, and other nodes do not suffer from it.
	n := r.m.refused[wire.RateLimit]
	for i := range 3000 {
		r.handle(r.hostMessage(native(hoa1, coa1).numbered(uint16(i + 10))))
	}
	if got := r.m.refused[wire.RateLimit] - n; got != 1001 {
		t.Errorf("%d dropped", got)
	}
	r.status(native(hoa2, coa2), mobility.Accepted)
	r.leakless()
}

// TestHostMessageIDClock: a clock that was ahead and is set back locks nobody out, and lets nothing be accepted twice.
func TestHostMessageIDClock(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		r := startHosts(t)
		right := r.now.Wall
		r.now.Wall = right.Add(time.Hour)
		r.status(native(hoa1, coa1).with(by4285(r, 0)), mobility.Accepted)
		r.now.Wall = right
		if restarted {
			r.restart()
			r.pass(time.Second)
			r.status(native(hoa1, coa2).with(by4285(r, -time.Second)), mobility.IDMismatch) // it may have been accepted, and not written
		}
		first := by4285(r, 0)
		r.status(native(hoa1, coa2).with(first), mobility.Accepted)
		r.status(native(hoa1, coa1).with(first), mobility.IDMismatch)
		r.status(native(hoa1, coa1).with(by4285(r, -time.Second)), mobility.IDMismatch)
		r.reaches(hoa1, layer6(coa2))
		// As far ahead as the window lets a node be, it counts.
		r.pass(time.Second)
		r.status(native(hoa1, coa1).with(by4285(r, 7*time.Second)), mobility.Accepted)
		r.status(native(hoa1, coa2).with(by4285(r, 6*time.Second)), mobility.IDMismatch)
		r.leakless()
	}
}

// TestHostBindingErrorSize: a stranger gets no more octets than it sent, and nobody gets a Binding Error at an address that is
// no node's (RFC 6275 9.3.3).
func TestHostBindingErrorSize(t *testing.T) {
	for _, c := range []struct {
		name  string
		from  netip.Addr
		to    netip.Addr
		size  int
		wants bool
	}{
		{"as long", coa1, lmaa, bindingErrorSize, true},
		{"shorter", coa1, lmaa, bindingErrorSize - 1, false},
		{"shorter, from a gateway", mag1, lmaa, 8, true},
		{"from everybody", ip("ff02::1"), lmaa, bindingErrorSize, false},
		{"from nobody", ip("::"), lmaa, bindingErrorSize, false},
		{"to another", coa1, ip("2001:db8:a::99"), bindingErrorSize, false},
	} {
		r := startHosts(t)
		n := len(r.sent)
		p := core.Path{Local: netip.AddrPortFrom(c.to, 0), Remote: netip.AddrPortFrom(c.from, 0)}
		r.handle(core.Message{Path: p, Body: &mobility.Raw{MHType: 99}, Err: &wire.Error{Reason: wire.UnknownType}, Raw: make([]byte, c.size)})
		if got := len(r.sent) > n; got != c.wants {
			t.Errorf("%s: sent %v", c.name, r.sent[n:])
		}
		if c.wants && r.sent[n].Body.(*mobility.BindingError).Home != netip.IPv6Unspecified() {
			t.Errorf("%s: %+v", c.name, r.sent[n].Body)
		}
	}
}
