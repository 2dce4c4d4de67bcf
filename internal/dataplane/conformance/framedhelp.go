package conformance

import (
	"fmt"
	"net/netip"

	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
)

const dropped = 0xff

// congestionTable is RFC 6040 figure 4.
var congestionTable = func() (t []struct{ inner, outer, result byte }) {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	for _, row := range [][3]byte{
		{notECT, notECT, notECT}, {notECT, ect0, notECT}, {notECT, ect1, notECT}, {notECT, ce, dropped},
		{ect0, notECT, ect0}, {ect0, ect0, ect0}, {ect0, ect1, ect1}, {ect0, ce, ce},
		{ect1, notECT, ect1}, {ect1, ect0, ect1}, {ect1, ect1, ect1}, {ect1, ce, ce},
		{ce, notECT, ce}, {ce, ect0, ce}, {ce, ect1, ce}, {ce, ce, ce},
	} {
		t = append(t, struct{ inner, outer, result byte }{row[0], row[1], row[2]})
	}
	return t
}()

// covers claims requirements that only one role and framing shows.
func (v view) covers(r dataplane.Role, framing string, ids ...string) {
	if v.role == r && v.f.name == framing {
		spec.Covers(v.bench, ids...)
	}
}

// down and up are source and destination of what leaves the tunnel.
func (v view) down(fam family) netip.Addr { _, a := v.ends(fam); return a }
func (v view) up(fam family) netip.Addr   { a, _ := v.ends(fam); return a }

func mapped(a netip.Addr) netip.Addr {
	if a.Is6() {
		a = CoA4
	}
	return netip.AddrFrom16(a.As16())
}

// together: are two framings of one pair of IPv4 addresses, so that what comes in either is taken?
func (v view) together(to framing) bool {
	return v.f == to || v.f.is4() && v.f.local.Addr() == to.local.Addr() && v.f.remote.Addr() == to.remote.Addr()
}

// mappedIn sends a packet with a mapped address into the native side. No kernel would hand it to an anchor.
func (v view) mappedIn(name string, p []byte) {
	v.Helper()
	if v.role == dataplane.Node {
		v.dropped(wire.MappedAddress, 1, func() { v.pass(name+", into the tunnel", v.native(p)) })
	}
}

// fragmentedIn wants a packet to enter the tunnel, and the outer packet in fragments that fit the path.
func (v view) fragmentedIn(name string, fam family, size, mtu int) {
	v.Helper()
	src, dst := v.ends(fam)
	var wants []want
	whole := v.f.wrap(udpPacket(src, dst, hdr{id: 3, hop: v.hop(64)}, size), hdr{})
	for _, p := range v.f.cutOuter(whole, mtu) {
		wants = append(wants, toCore(v.f.compared(p)))
	}
	if len(wants) < 2 {
		v.Fatalf("%s: %d octets are not fragmented: the case shows nothing", name, size)
	}
	v.pass(fmt.Sprintf("%s, %s", name, fam.name), v.native(udpPacket(src, dst, hdr{id: 3}, size)), wants...)
}

// other is an address like a that no session has, if a is a home address.
func (v view) other(a netip.Addr) netip.Addr {
	switch a {
	case H16:
		return Nobody
	case H14:
		return Nemo4
	}
	return a
}
