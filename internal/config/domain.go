package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// CheckDomain compares files that belong together. Gateways that register with the same anchor form a domain: hosts move
// between their links and must not notice, so the router's link-local address and MAC and everything that DHCP tells must
// be equal (RFC 5213 6.9.3, RFC 5844 3.4.1, S001-3.1-15). An anchor among the files is compared with its gateways and
// mobile nodes.
func CheckDomain(cfgs []*Config) (Errors, []Warning) {
	k := &domainCheck{}
	for i, c := range cfgs {
		for _, o := range cfgs[:i] {
			if o.Name == c.Name {
				k.fail(c, "name", fmt.Sprintf("%q is the name of %s too", c.Name, o.File), "give each daemon a name of its own")
			}
		}
	}
	links := k.links(cfgs)
	for i := range links {
		// Compared with the first one of its domain only: each difference is told once.
		for j := range links[:i] {
			if sameDomain(links[i].cfg.Gateway, links[j].cfg.Gateway) {
				k.compare(&links[j], &links[i])
				break
			}
		}
	}
	k.gateways(cfgs)
	for _, a := range cfgs {
		if a.Anchor == nil {
			continue
		}
		for _, g := range cfgs {
			if g.Gateway != nil {
				k.anchorGateway(a, g)
			}
			if g.Node != nil {
				k.anchorNode(a, g)
			}
		}
	}
	return k.errs, k.warnings
}

type domainCheck struct {
	errs     Errors
	warnings []Warning
}

// accessOf is one access link of one file.
type accessOf struct {
	cfg  *Config
	a    *Access
	path string
}

func (k *domainCheck) links(cfgs []*Config) []accessOf {
	var out []accessOf
	for _, c := range cfgs {
		if c.Gateway == nil {
			continue
		}
		for i := range c.Gateway.Access {
			out = append(out, accessOf{c, &c.Gateway.Access[i], fmt.Sprintf("gateway.access[%d]", i)})
		}
	}
	return out
}

func sameDomain(a, b *Gateway) bool {
	return a == b || slices.ContainsFunc(a.Anchors, func(x AnchorRef) bool {
		return slices.ContainsFunc(b.Anchors, func(y AnchorRef) bool { return x.Address == y.Address })
	})
}

// where is the position of a value, or of the section that it would stand in.
func (c *Config) where(path string) position {
	for {
		if p, ok := c.at[path]; ok {
			return p
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return position{Line: 1, Col: 1, Len: 1}
		}
		path = path[:i]
	}
}

// Wrong is an error about a value that only whoever uses it can find, such as a key file that is not there. path is as in
// Error.Key.
func (c *Config) Wrong(path, problem, want string) *Error {
	p := c.where(path)
	return &Error{File: c.File, Line: p.Line, Col: p.Col, Len: p.Len, Key: path, Problem: problem, Want: want, Source: c.src.line(p.Line)}
}

func (k *domainCheck) fail(c *Config, path, problem, want string) {
	k.errs = append(k.errs, c.Wrong(path, problem, want))
}

func (k *domainCheck) warn(c *Config, path string, kind Kind, format string, args ...any) {
	k.warnings = append(k.warnings, Warning{File: c.File, Line: c.where(path).Line, Key: path, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// compare refuses what hosts would see change.
func (k *domainCheck) compare(first, other *accessOf) {
	differ := func(key, mine, theirs, why string) {
		if mine == theirs {
			return
		}
		path := other.path + "." + key
		from := fmt.Sprintf("%s:%d", first.cfg.File, first.cfg.where(first.path+"."+key).Line)
		k.fail(other.cfg, path, fmt.Sprintf("is %s, but %s on %s", theirs, mine, from), "write the same on every gateway of a domain: "+why)
	}
	a, b := first.a, other.a
	differ("router.link-local", a.LinkLocal.String(), b.LinkLocal.String(), "hosts keep their default router when they move (RFC 5213 6.9.3)")
	differ("router.mac", a.MAC.String(), b.MAC.String(), "a host that moves silently keeps the router's MAC address in its cache")
	differ("mtu", auto(a.MTU), auto(b.MTU), "hosts keep their MTU when they move")
	differ("dns", list1(a.DNS), list1(b.DNS), "hosts keep their name servers when they move (RFC 5844 3.4.1)")
	differ("search", list1(a.Search), list1(b.Search), "hosts keep their search domains when they move (RFC 5844 3.4.1)")
	x, y := &a.DHCP4, &b.DHCP4
	if x.Off || y.Off {
		return // hosts of such a link configure themselves
	}
	differ("dhcp4.server-id", idMode(x), idMode(y), "hosts must find their server when they renew")
	if !x.OwnID && !y.OwnID {
		differ("dhcp4.address", addrOr(x.Address), addrOr(y.Address), "a fixed server identifier is one for the domain")
	}
	if x.OwnID && y.OwnID && first.cfg != other.cfg && x.Address == y.Address {
		k.fail(other.cfg, other.path+".dhcp4.address", fmt.Sprintf("%s is the server identifier of %s too", y.Address, first.cfg.File), "own means a different one on each gateway")
	}
	differ("dhcp4.lease", short(x.Lease), short(y.Lease), "leases must not depend on where a host is")
	for _, n := range slices.Sorted(maps.Keys(merge(x.Options, y.Options))) {
		differ(fmt.Sprintf("dhcp4.options.%d", n), octets(x.Options, n), octets(y.Options, n), "hosts keep their options when they move (RFC 5844 3.4.1)")
	}
}

func merge(a, b map[uint8][]byte) map[uint8][]byte {
	out := maps.Clone(a)
	if out == nil {
		out = map[uint8][]byte{}
	}
	maps.Copy(out, b)
	return out
}

func octets(m map[uint8][]byte, n uint8) string {
	b, ok := m[n]
	if !ok {
		return "not set"
	}
	return fmt.Sprintf("%x", b)
}

func auto(n int) string {
	if n == 0 {
		return "not set"
	}
	return fmt.Sprint(n)
}

func list1[T any](l []T) string {
	if len(l) == 0 {
		return "not set"
	}
	return fmt.Sprint(l)
}

func idMode(d *DHCP4) string {
	if d.OwnID {
		return "own"
	}
	return "fixed"
}

func addrOr(a netip.Addr) string {
	if !a.IsValid() {
		return "not set"
	}
	return a.String()
}

// gateways must differ where they are told apart.
func (k *domainCheck) gateways(cfgs []*Config) {
	for i, c := range cfgs {
		if c.Gateway == nil {
			continue
		}
		for _, o := range cfgs[:i] {
			if o.Gateway == nil || !sameDomain(o.Gateway, c.Gateway) {
				continue
			}
			if o.Gateway.Address == c.Gateway.Address {
				k.fail(c, "gateway.address", fmt.Sprintf("%s is the address of %s too", c.Gateway.Address, o.File), "each gateway needs its own Proxy-CoA")
			}
			if o.Gateway.SequenceOrdering != c.Gateway.SequenceOrdering {
				k.fail(c, "gateway.ordering", "differs from "+o.File, "TimestampBasedApproachInUse is one for the domain (RFC 5213 9.3)")
			}
			break
		}
	}
}

// anchorGateway compares the two ends of signalling.
func (k *domainCheck) anchorGateway(a, g *Config) {
	for i, ref := range g.Gateway.Anchors {
		if !slices.Contains(a.Anchor.Addresses, ref.Address) {
			continue
		}
		peer, known := a.PeerOf(g.Gateway.Address)
		if !known || !slices.Contains(a.Anchor.PMIP6.Gateways, peer.Name) {
			k.warn(g, "gateway.address", NotAuthorized, "%s may not register hosts with %s: add it to security.peers and services.pmip6.gateways there", g.Gateway.Address, a.Name)
		} else if ours, ok := g.peer(ref.Name); ok {
			k.keys(a, g, peer, ours)
		}
		if ref.Dialect != DialectAuto && !slices.Contains(a.Anchor.PMIP6.Dialects, ref.Dialect) {
			k.warn(g, fmt.Sprintf("gateway.anchors[%d].dialect", i), NotAuthorized, "%s does not answer the dialect %s", a.Name, ref.Dialect)
		}
		if g.Gateway.Timers.Lifetime > a.Anchor.Timers.LifetimeMax {
			k.warn(g, "gateway.timers.lifetime", UnusedSetting, "%s grants at most %s", a.Name, short(a.Anchor.Timers.LifetimeMax))
		}
		k.profiles(a, g)
	}
}

// profiles warns of hosts whose static addresses the anchor will refuse.
func (k *domainCheck) profiles(a, g *Config) {
	for i, link := range g.Gateway.Access {
		for j, h := range link.Hosts {
			path := fmt.Sprintf("gateway.access[%d].hosts[%d]", i, j)
			n := slices.IndexFunc(a.Anchor.Subscribers.List, func(s Subscriber) bool { return s.ID == h.ID })
			if n < 0 {
				if !a.Anchor.Subscribers.Accept {
					k.warn(g, path, NotAuthorized, "%s does not know %s", a.Name, h.ID)
				}
				continue
			}
			s := a.Anchor.Subscribers.List[n]
			if h.V4.IsValid() && s.V4.IsValid() && s.V4 != h.V4.Addr() {
				k.warn(g, path+".v4", NotAuthorized, "%s has %s for %s", a.Name, s.V4, h.ID)
			}
			if h.V4.IsValid() {
				pool, ok := poolOf(a.Anchor, s.Domain, netip.PrefixFrom(h.V4.Addr(), 32))
				switch {
				case !ok:
					k.warn(g, path+".v4", NotAuthorized, "%s is in no pool of %s", h.V4.Addr(), a.Name)
				case pool.Prefix.Bits() != h.V4.Bits():
					k.warn(g, path+".v4", NotAuthorized, "%s has the home network %s", a.Name, pool.Prefix)
				}
			}
		}
	}
}
