package config

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"kedge/internal/core"
)

// technologies are the Access Technology Types of RFC 5213 8.5.
var technologies = map[string]uint8{"virtual": 1, "ppp": 2, "ethernet": 3, "wlan": 4, "wimax": 5}

func (v *validator) gateway(c *Config, r *rawGateway) *Gateway {
	g := &Gateway{Address: r.Address.v, LocalRouting: r.LocalRouting.v, FirstHandoffIndicator: uint8(r.FirstHI.v),
		IPv4OnDHCP: r.IPv4On.v == "dhcp", SequenceOrdering: r.Ordering.v == "sequence", Revoke: r.Revoke.v}
	v.global(&r.Address)
	v.anchorRefs(g, r)
	seen := map[string]int{}
	for i := range r.Access.items {
		q := &r.Access.items[i]
		a := v.access(g, q)
		switch line, dup := seen[a.Interface]; {
		case a.Interface == "":
		case dup:
			v.fail(&q.Interface, fmt.Sprintf("interface %q is there twice", a.Interface), fmt.Sprintf("write one entry for each; the first is on line %d", line))
		case c.Dataplane.IsCore(a.Interface):
			v.fail(&q.Interface, fmt.Sprintf("%q is an interface towards the core (dataplane.core)", a.Interface), "an access link must be another interface")
		case c.Anchor != nil && c.Anchor.HomeLink == a.Interface:
			v.fail(&q.Interface, fmt.Sprintf("%q is the anchor's home link", a.Interface), "an access link must be another interface")
		}
		seen[a.Interface] = q.Interface.pos.Line
		g.Access = append(g.Access, a)
	}
	empty(v, &r.Access, "is empty", "write the interfaces where hosts attach, as in [ { interface: acc0 } ]")
	g.Heartbeat = v.heartbeat(&r.Heartbeat)
	l := &r.Limits
	g.Limits = GatewayLimits{Hosts: l.Hosts.v, HostsPerAccess: l.HostsPerAccess.v, Pending: l.Pending.v,
		NewHosts: float64(l.NewHosts.v), Triggers: float64(l.Triggers.v)}
	v.gatewayTimers(g, &r.Timers)
	return g
}

func (v *validator) gatewayTimers(g *Gateway, t *rawGatewayTimers) {
	g.Timers = GatewayTimers{Lifetime: v.lifetime(&t.Lifetime), RefreshAt: t.RefreshAt.v,
		RetransmitFirst: t.Retransmit.First.v, RetransmitMax: t.Retransmit.Max.v,
		LinkGrace: t.LinkGrace.v, RetryFirst: t.Retry.First.v, RetryMax: t.Retry.Max.v, IdleHold: t.IdleHold.v, Reregister: t.Reregister.v,
		NUDReachable: t.NUD.Reachable.v, NUDRetransmit: t.NUD.Retransmit.v, NUDProbes: t.NUD.Probes.v}
	if f, m := &t.Retransmit.First, &t.Retransmit.Max; m.v != 0 && f.v > m.v {
		v.fail(pick(m.set, m, f), fmt.Sprintf("max %s is shorter than first %s", short(m.v), short(f.v)), "write a max of at least first")
	}
	if f, m := &t.Retry.First, &t.Retry.Max; m.v != 0 && f.v > m.v {
		v.fail(pick(m.set, m, f), fmt.Sprintf("max %s is shorter than first %s", short(m.v), short(f.v)), "write a max of at least first")
	}
	if f := &t.Retransmit.First; f.set && f.v != 0 && f.v < initialBindack {
		v.warn(f, BeyondRFC, "INITIAL_BINDACK_TIMEOUT is %s (RFC 6275 12)", short(initialBindack))
	}
}

// pick gives the one of two values to blame.
func pick[T any](first bool, a, b *leaf[T]) located {
	if first {
		return a
	}
	return b
}

// initialBindack is INITIAL_BINDACK_TIMEOUT, RFC 6275 12.
const initialBindack = 1e9

func (v *validator) anchorRefs(g *Gateway, r *rawGateway) {
	names := map[string]bool{}
	for i := range r.Anchors.items {
		q := &r.Anchors.items[i]
		ref := AnchorRef{Name: q.Name.v, Address: q.Address.v, Dialect: q.Dialect.v}
		peer, ok := v.known(&q.Name)
		if ok {
			v.speaks(&q.Name, peer)
		}
		if good := v.global(&q.Address); good && ok {
			inside := slices.ContainsFunc(peer.Addresses, func(x netip.Prefix) bool { return x.Contains(ref.Address) })
			if !inside && len(peer.Addresses) > 0 {
				v.fail(&q.Address, fmt.Sprintf("%s is no address of peer %q", ref.Address, ref.Name), "write one of its addresses in security.peers: "+prefixes(peer.Addresses))
			}
			if ref.Address == g.Address {
				v.fail(&q.Address, fmt.Sprintf("%s is the gateway's own address", ref.Address), "write the anchor's")
			}
		}
		if names[ref.Name] && ref.Name != "" {
			v.fail(&q.Name, fmt.Sprintf("anchor %q is there twice", ref.Name), "keep one")
		}
		names[ref.Name] = true
		g.Anchors = append(g.Anchors, ref)
	}
	empty(v, &r.Anchors, "is empty: a gateway without anchor can serve nobody", `write one as in [ { name: lma1, address: "2001:db8:a::1" } ]`)
}

func prefixes(xs []netip.Prefix) string {
	var out []string
	for _, x := range xs {
		out = append(out, bare(x))
	}
	return join(first(out, 5), "or")
}

func words(l *list[leaf[string]]) []string {
	var out []string
	for _, i := range l.items {
		out = append(out, i.v)
	}
	return out
}

// linkLocal wants a link-local address.
func (v *validator) linkLocal(l *leaf[netip.Addr]) {
	if l.v.IsValid() && !l.v.IsLinkLocalUnicast() {
		v.fail(l, l.v.String()+" is no link-local address", `write one as in "fe80::1", the same on every gateway`)
	}
}

func (v *validator) access(g *Gateway, q *rawAccess) Access {
	a := Access{Interface: v.iface(&q.Interface), LinkLocal: q.Router.LinkLocal.v, MAC: q.Router.MAC.v,
		Technology: technologies[q.Technology.v], AttachOn: words(&q.AttachOn), DetachOn: words(&q.DetachOn),
		Families: v.families(&q.Families), MTU: q.MTU.v, RAInterval: q.RA.Interval.v, RouterLifetime: q.RA.Lifetime.v}
	v.unique("sign", q.AttachOn.items)
	v.unique("sign", q.DetachOn.items)
	empty(v, &q.AttachOn, "is empty: no host could ever attach", "write signs of a host, or leave it out for all")
	v.linkLocal(&q.Router.LinkLocal)
	if l := &q.Router.MAC; l.set && (l.v == core.MAC{} || l.v[0]&1 != 0) && !v.blamed(q.Router.path, "mac") {
		v.fail(l, l.v.String()+" is no unicast MAC address", `write one as in "02:00:5e:00:00:01", the same on every gateway`)
	}
	if l := &q.RA.Lifetime; l.v != 0 && l.v < q.RA.Interval.v {
		v.fail(pick(l.set, l, &q.RA.Interval), fmt.Sprintf("router-lifetime %s is shorter than interval %s", short(l.v), short(q.RA.Interval.v)),
			"hosts would lose their router between two advertisements: write at least 3 intervals (RFC 4861 6.2.1)")
	}
	v.identity(&a, &q.Identity)
	v.hosts(g, &a, &q.Hosts)
	seen := map[netip.Addr]bool{}
	for i := range q.DNS.items {
		l := &q.DNS.items[i]
		switch {
		case !l.v.IsValid():
		case l.v.IsUnspecified() || l.v.IsMulticast():
			v.fail(l, l.v.String()+" is no unicast address", "write the address of a name server")
		case seen[l.v]:
			v.fail(l, l.v.String()+" stands twice", "keep one")
		default:
			a.DNS = append(a.DNS, l.v)
		}
		seen[l.v] = true
	}
	for i := range q.Search.items {
		l := &q.Search.items[i]
		if l.v != "" && (!hostForm.MatchString(l.v) || len(l.v) > 253) {
			v.fail(l, fmt.Sprintf("%q is no domain name", l.v), "write one as in example.net")
		}
		a.Search = append(a.Search, l.v)
	}
	v.unique("domain", q.Search.items)
	v.dhcp4(&a, &q.DHCP4)
	return a
}

func (v *validator) identity(a *Access, r *rawIdentity) {
	a.Identity = Identity{TableOnly: r.From.v == "table", Realm: r.Realm.v}
	if r.Realm.v != "" && !hostForm.MatchString(r.Realm.v) {
		v.fail(&r.Realm, fmt.Sprintf("%q is no realm", r.Realm.v), "write one as in example.net, without @")
	}
	switch {
	case r.From.v == "mac" && !r.Realm.set && !v.blamed(r.path, "realm"):
		v.fail(r, "identifiers made from MAC addresses need a realm", "add identity: { from: mac, realm: example.net }, or write from: table")
	case r.From.v == "table" && len(r.Table.items) == 0:
		v.fail(r, "has no table: no host could be identified", `add table: { "02:00:00:00:00:0a": alice@example.net }`)
	}
	owner := map[core.MAC]bool{}
	for i := range r.Table.items {
		e := &r.Table.items[i]
		mac, err := core.ParseMAC(e.key.v)
		switch {
		case err != nil:
			v.fail(&e.key, fmt.Sprintf("%q is no MAC address", e.key.v), `write six octets in quotes as in "02:00:00:00:00:0a"`)
			continue
		case owner[mac]:
			v.fail(&e.key, mac.String()+" is there twice", "keep one")
		}
		owner[mac] = true
		if a.Identity.Table == nil {
			a.Identity.Table = map[core.MAC]string{}
		}
		a.Identity.Table[mac] = v.identifier(&e.val)
	}
}

func (v *validator) hosts(g *Gateway, a *Access, r *list[rawHost]) {
	seen := map[string]int{}
	for i := range r.items {
		q := &r.items[i]
		h := Host{ID: v.identifier(&q.ID), Anchor: q.Anchor.v, Families: a.Families}
		if q.Families.set {
			h.Families = v.families(&q.Families)
		}
		if line, dup := seen[h.ID]; dup && h.ID != "" {
			v.fail(&q.ID, fmt.Sprintf("host %q is there twice", h.ID), fmt.Sprintf("keep one; the first is on line %d", line))
		}
		seen[h.ID] = q.ID.pos.Line
		if h.Anchor != "" && !v.faulty("gateway.anchors") && !slices.ContainsFunc(g.Anchors, func(x AnchorRef) bool { return x.Name == h.Anchor }) {
			var names []string
			for _, x := range g.Anchors {
				names = append(names, x.Name)
			}
			v.fail(&q.Anchor, fmt.Sprintf("no anchor is called %q", h.Anchor), "write one of gateway.anchors: "+join(first(names, 5), "or"))
		}
		if l := &q.V4; l.v != "" {
			x, err := netip.ParsePrefix(l.v)
			switch {
			case err != nil || !x.Addr().Is4():
				v.fail(l, fmt.Sprintf("%q is no IPv4 address with the length of its network", l.v), "write one as in 10.20.0.10/16")
			case !h.Families.V4:
				v.fail(l, "is an IPv4 address, but families has no v4", "add v4 to families, or leave the address out")
			case x.Addr().IsMulticast() || x.Addr().IsLoopback() || x.Addr().IsUnspecified() || x.Bits() == 0:
				v.fail(l, l.v+" cannot be given to a host", "write one as in 10.20.0.10/16")
			default:
				h.V4 = x
			}
		}
		for j := range q.HNP.items {
			l := &q.HNP.items[j]
			if l.v.IsValid() && !h.Families.V6 {
				v.fail(l, "is an IPv6 prefix, but families has no v6", "add v6 to families, or leave the prefix out")
			}
			h.HNP = append(h.HNP, l.v)
		}
		a.Hosts = append(a.Hosts, h)
	}
}

// ownOptions are the DHCP options that the server sets itself (RFC 2131, RFC 2132), with the key that does it.
var ownOptions = map[int]string{
	0: "", 255: "", 1: "", 3: "", 6: "dns", 15: "search", 26: "mtu", 28: "", 50: "", 51: "dhcp4.lease", 52: "", 53: "", 54: "dhcp4.server-id",
	55: "", 56: "", 57: "", 58: "", 59: "", 61: "", 82: "",
}

func (v *validator) dhcp4(a *Access, r *rawDHCP4) {
	a.DHCP4 = DHCP4{Off: r.Mode.v == "off", OwnID: r.ServerID.v == "own", Address: r.Address.v, Lease: r.Lease.v, Hold: r.Hold.v}
	if r.ServerID.v == "own" && !r.Address.set {
		v.fail(&r.ServerID, "own needs an address", "add address: with this gateway's own IPv4 address, different on each gateway")
	}
	if l := &r.Address; l.v.IsValid() && (l.v.IsUnspecified() || l.v.IsMulticast() || l.v.IsLoopback()) {
		v.fail(l, l.v.String()+" is no unicast address", "write one as in 10.20.0.2")
	}
	seen := map[int]bool{}
	for i := range r.Options.items {
		e := &r.Options.items[i]
		n, err := strconv.Atoi(e.key.v)
		if err != nil || n < 0 || n > 255 {
			v.fail(&e.key, fmt.Sprintf("%q is no DHCP option number", e.key.v), "write 1 to 254 (RFC 2132)")
			continue
		}
		if key, own := ownOptions[n]; own {
			want := "leave it out"
			if key != "" {
				want += ", it comes from " + key
			}
			v.fail(&e.key, fmt.Sprintf("option %d is set by the server itself", n), want)
			continue
		}
		if seen[n] {
			v.fail(&e.key, fmt.Sprintf("option %d is there twice", n), "keep one")
		}
		seen[n] = true
		if b, ok := v.optionValue(&e.val); ok {
			if a.DHCP4.Options == nil {
				a.DHCP4.Options = map[uint8][]byte{}
			}
			a.DHCP4.Options[uint8(n)] = b
		}
	}
}

// optionValue reads an address, a list of them, hex:..., or a text.
func (v *validator) optionValue(e *dictValue) ([]byte, bool) {
	var out []byte
	for i := range e.items {
		l := &e.items[i]
		addr, err := netip.ParseAddr(l.v)
		h, isHex := strings.CutPrefix(l.v, "hex:")
		switch {
		case l.v == "":
			return nil, false // refused before
		case err == nil && addr.Is4():
			out = append(out, addr.AsSlice()...)
		case err == nil || e.isList:
			v.fail(l, fmt.Sprintf("%q is no IPv4 address", l.v), "write one as in 10.20.0.5")
			return nil, false
		case isHex:
			b, herr := hex.DecodeString(h)
			if herr != nil {
				v.fail(l, fmt.Sprintf("%q is no hexadecimal text", l.v), "write two digits an octet as in hex:0a0b")
				return nil, false
			}
			out = append(out, b...)
		default:
			out = append(out, l.v...)
		}
	}
	if len(out) == 0 || len(out) > 255 {
		v.fail(e, fmt.Sprintf("has %d octets", len(out)), "a DHCP option has 1 to 255 (RFC 2132 2)")
		return nil, false
	}
	return out, true
}
