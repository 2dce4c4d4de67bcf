package anchor

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestHostCareOf: what is no care-of address, and headers that contradict each other, are discarded silently and counted
// (RFC 6275 6.1.7, 9.5.1; notes 22 to 24).
func TestHostCareOf(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	alt := func(a netip.Addr) func(*bu) {
		return func(b *bu) { b.more = []mobility.Value{mobility.AlternateCareOf{Addr: a}} }
	}
	from := func(a netip.Addr) func(*bu) { return func(b *bu) { b.src = a } }
	also := func(v mobility.Value) func(*bu) { return func(b *bu) { b.more = append(b.more, v) } }
	allow := func(c *Config) { c.DSMIP6.PrivateCareOf = true }
	for _, c := range []struct {
		name   string
		change func(*Config)
		bu     bu
		reason wire.Reason // "" = accepted
	}{
		{"unique local", nil, native(hoa1, ip("fd00::1")), ""},
		{"alternate care-of address besides another source", nil, native(hoa1, coa1).with(alt(coa2)), ""},
		{"multicast", nil, native(hoa1, coa1).with(alt(ip("ff0e::1"))), wire.BadCareOf},
		{"loopback", nil, native(hoa1, coa1).with(alt(ip("::1"))), wire.BadCareOf},
		{"unspecified", nil, native(hoa1, coa1).with(alt(ip("::"))), wire.BadCareOf},
		{"link-local", nil, native(hoa1, coa1).with(alt(ip("fe80::1"))), wire.BadCareOf},
		{"link-local source", nil, native(hoa1, ip("fe80::1")), wire.BadCareOf},
		{"mapped", nil, native(hoa1, coa1).with(alt(ip("::ffff:192.0.2.77"))), wire.BadCareOf},
		{"mapped source natively", nil, native(hoa1, ip("::ffff:192.0.2.77")), wire.MappedMismatch},
		{"multicast source", nil, native(hoa1, coa1).with(from(ip("ff02::1"))), wire.BadSource},
		{"unspecified source", nil, native(hoa1, coa1).with(from(ip("::"))), wire.BadSource},
		{"home address is no unicast address", nil, native(ip("ff0e::1"), coa1).with(func(b *bu) { b.auth = peerOf(hoa1) }), wire.BadHomeAddress},
		{"home address is mapped", nil, native(ip("::ffff:10.20.0.21"), coa1).with(func(b *bu) { b.auth = peerOf(hoa1) }), wire.BadHomeAddress},
		{"no Home Address option", nil, native(hoa1, coa1).with(func(b *bu) { b.src, b.hao = hoa1, netip.Addr{} }), wire.MissingHome},
		{"in UDP", nil, udp(hoa1, v4coa, seen), ""},
		{"in UDP, alternate care-of address agrees", nil, udp(hoa1, v4coa, seen).with(also(mobility.AlternateCareOf{Addr: ip("::ffff:192.0.2.77")})), ""},
		{"in UDP, alternate care-of address disagrees", nil, udp(hoa1, v4coa, seen).with(also(mobility.AlternateCareOf{Addr: coa1})), wire.CareOfMismatch},
		{"in UDP, no IPv4 care-of address", nil, udp(hoa1, v4coa, seen).with(func(b *bu) { b.more = nil }), wire.MissingCareOf},
		{"in UDP, multicast", nil, udp(hoa1, ip("224.0.0.1"), seen), wire.BadCareOf},
		{"in UDP, loopback", nil, udp(hoa1, ip("127.0.0.1"), seen), wire.BadCareOf},
		{"in UDP, unspecified", nil, udp(hoa1, ip("0.0.0.0"), seen), wire.BadCareOf},
		{"in UDP, broadcast", nil, udp(hoa1, ip("255.255.255.255"), seen), wire.BadCareOf},
		{"in UDP, seen from multicast", nil, udp(hoa1, v4coa, netip.MustParseAddrPort("224.0.0.1:4191")), wire.BadCareOf},
		{"in UDP, seen from loopback", nil, udp(hoa1, v4coa, netip.MustParseAddrPort("127.0.0.1:4191")), wire.BadCareOf},
		{"in UDP, seen from nowhere", nil, udp(hoa1, v4coa, netip.MustParseAddrPort("0.0.0.0:4191")), wire.BadCareOf},
		{"in UDP, seen from port 0", nil, udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, 0)), wire.BadSource},
		{"in UDP, seen from a link-local address", nil, udp(hoa1, v4coa, netip.MustParseAddrPort("169.254.1.1:4191")), wire.BadCareOf},
		{"in UDP, mapped source", nil, udp(hoa1, v4coa, seen).with(from(ip("::ffff:192.0.2.77"))), wire.MappedInUDP},
		{"in UDP, Home Address option", nil, udp(hoa1, v4coa, seen).with(func(b *bu) { b.src, b.hao = coa1, hoa1 }), wire.HomeInUDP},
		{"in UDP over IPv6", nil, udp(hoa1, v4coa, netip.AddrPortFrom(coa1, 4191)), wire.NotSignalling},
		{"in protocol 41", nil, in41(hoa1, v4coa), ""},
		{"in protocol 41, no alternate care-of address", nil, in41(hoa1, v4coa).with(func(b *bu) { b.more = nil }), ""},
		{"in protocol 41, outer source disagrees", nil, in41(hoa1, v4coa).with(func(b *bu) { b.seen = netip.MustParseAddrPort("203.0.113.5:0") }), wire.MappedMismatch},
		{"in protocol 41, alternate care-of address disagrees", nil, in41(hoa1, v4coa).with(alt(ip("::ffff:203.0.113.5"))), wire.CareOfMismatch},
		{"in protocol 41, alternate care-of address is of IPv6", nil, in41(hoa1, v4coa).with(alt(coa1)), wire.CareOfMismatch},
		{"in protocol 41, home address as source", nil, in41(hoa1, v4coa).with(func(b *bu) { b.src, b.hao = hoa1, netip.Addr{} }), wire.UpdateInTunnel},
		{"in protocol 41, care-of address as source", nil, in41(hoa1, v4coa).with(from(coa1)), wire.UpdateInTunnel},
		{"in protocol 41, no Home Address option", nil, in41(hoa1, v4coa).with(func(b *bu) { b.hao = netip.Addr{} }), wire.MissingHome},
		{"in protocol 41, multicast", nil, in41(hoa1, ip("224.0.0.1")), wire.BadSource},
		{"in protocol 41, loopback", nil, in41(hoa1, ip("127.0.0.1")), wire.BadSource},
		{"in protocol 41, RFC 1918", nil, in41(hoa1, ip("10.0.0.7")), wire.BadCareOf},
		{"in protocol 41, RFC 1918 in a laboratory", allow, in41(hoa1, ip("10.0.0.7")), ""},
		{"in protocol 41 over IPv6", nil, native(hoa1, coa1).with(func(b *bu) {
			b.seen, b.local = netip.AddrPortFrom(coa1, 0), netip.AddrPortFrom(lmaa, 0)
		}), wire.NotSignalling},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startHosts(t, c.change)
			if c.reason == "" {
				r.status(c.bu, mobility.Accepted)
				return
			}
			if c.bu.home != hoa1 {
				// Nobody has it.
			} else if a := r.status(native(hoa1, coa2), mobility.Accepted); a == nil {
				return
			}
			keys := len(r.keys)
			msg := r.hostMessage(c.bu)
			n := len(r.sent)
			r.handle(msg)
			if len(r.sent) != n || len(r.keys) != keys {
				t.Errorf("sent %v, keys %v", r.sent[n:], r.keys)
			}
			refused := r.m.refused
			// Where the headers do not say who it is about, nobody can vouch for it either.
			if refused[c.reason] != 1 && refused[wire.UnknownPeer]+refused[wire.WrongAssociation] != 1 {
				t.Errorf("refused %v, want %s", refused, c.reason)
			}
			if c.bu.home == hoa1 {
				r.reaches(hoa1, layer6(coa2))
			}
			r.leakless()
		})
	}
}

// TestHostProtocol41: the older dialect over IPv4: both home addresses to the IPv4 care-of address, data in plain protocols 4
// and 41, the answer by the mapped address with the home address in a routing header.
func TestHostProtocol41(t *testing.T) {
	spec.Covers(t, "S004-2.2.2-06", "S004-2.2.2-07", "S004-2.2.2-08", "S004-2.2.2-10", "S004-2.2.2-11", "S004-3.4-14", "S004-3.4-16")
	r := startHosts(t)
	b := in41(hoa1, v4coa, short("10.20.0.21", 1))
	a := r.status(b, mobility.Accepted)
	if got := acks(a); len(got) != 1 || got[0] != (mobility.IPv4AddressAck{Addr: ip("10.20.0.21"), Short: 1}) || a.Options.Has(mobility.OptNATDetection) {
		t.Errorf("acknowledged %+v", got)
	}
	r.reaches(hoa1, layer4(v4coa))
	r.reaches(ip("10.20.0.21"), layer4(v4coa))
	if len(r.keys) != 2 {
		t.Errorf("keys %v", r.keys)
	}
	p := r.sent[len(r.sent)-1].Path
	if p.Remote.Addr() != ip("::ffff:192.0.2.77") || p.Home != hoa1 || p.Outer.N != 1 || p.Outer.Layer[0] != (core.Layer{Local: netip.AddrPortFrom(ha4, 0), Remote: netip.AddrPortFrom(v4coa, 0)}) {
		t.Errorf("the answer goes by %+v", p)
	}
	// Without the option, the IPv6 home address only.
	r.status(in41(hoa1, v4coa), mobility.Accepted)
	r.unreached(ip("10.20.0.21"))
	r.reaches(hoa1, layer4(v4coa))
	r.leakless()
}

// TestHostCareOfCovered: natively ESP covers the care-of address in its option alone, which a node must write (RFC 4877 4.3);
// the authentication of RFC 4285 covers the source too, and a deregistration has none.
func TestHostCareOfCovered(t *testing.T) {
	bare := func(b *bu) { b.more = nil }
	r := startHosts(t)
	r.status(native(hoa1, coa1), mobility.Accepted)
	r.status(native(hoa1, coa2).with(bare), mobility.InvalidCareOf)
	r.reaches(hoa1, layer6(coa1))
	if r.m.refused[wire.CareOfUncovered] != 1 {
		t.Errorf("refused %v", r.m.refused)
	}
	r.status(native(hoa1, coa2).with(bare).with(func(b *bu) { b.auth.Kind = "rfc4285" }), mobility.Accepted)
	r.reaches(hoa1, layer6(coa2))
	r.status(native(hoa6, coa1).with(bare), mobility.Accepted) // unprotected, as is written
	r.status(native(hoa1, coa1).with(bare).with(func(b *bu) { b.lifetime = 0 }), mobility.Accepted)
	r.status(native(hoa3, coa1), mobility.Accepted)
	r.status(native(hoa3, hoa3).with(bare).with(func(b *bu) { b.lifetime, b.hao = 0, netip.Addr{} }), mobility.Accepted)
	r.leakless()
}
