package system

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// RulePriority of policy rules that name none: before the main table (32766), after the local one (0).
const RulePriority = 10700

// routeTypes are the values of a route operation.
var routeTypes = map[string]int{"": unix.RTN_UNICAST, "unreachable": unix.RTN_UNREACHABLE, "blackhole": unix.RTN_BLACKHOLE, "prohibit": unix.RTN_PROHIBIT}

func family(p netip.Addr) int {
	if p.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet, fam int) netip.Prefix {
	if n == nil { // the netlink package leaves a default route's destination out
		if fam == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	if fam == netlink.FAMILY_V4 {
		a = a.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}

// parseRoute reads the words of a route operation's value.
func parseRoute(value string) (kind, advmss int, err error) {
	kind = unix.RTN_UNICAST
	words := strings.Fields(value)
	for i := 0; i < len(words); i++ {
		w := words[i]
		if k, ok := routeTypes[w]; ok {
			kind = k
			continue
		}
		if w != "advmss" || i+1 == len(words) {
			return 0, 0, fmt.Errorf("value %q: want unreachable, blackhole, prohibit or advmss N", value)
		}
		i++
		n, err := strconv.ParseUint(words[i], 10, 16)
		if err != nil {
			return 0, 0, fmt.Errorf("advmss %q: %w", words[i], err)
		}
		advmss = int(n)
	}
	return kind, advmss, nil
}

// metric of a route: what IPv6 takes for none given (IP6_RT_PRIO_USER).
func metric(m, fam int) int {
	if m == 0 && fam == netlink.FAMILY_V6 {
		return 1024
	}
	return m
}

func (h *Host) route(op core.HostOp) error {
	kind, advmss, err := parseRoute(op.Value)
	if err != nil {
		return err
	}
	if !op.Prefix.IsValid() {
		return errors.New("no prefix given")
	}
	op.Prefix = op.Prefix.Masked()
	r := &netlink.Route{
		Dst: ipnet(op.Prefix), Protocol: netlink.RouteProtocol(h.opt.Tag), Type: kind, Table: op.Table, MTU: op.MTU, AdvMSS: advmss,
		Family: family(op.Prefix.Addr()), Priority: op.Metric,
	}
	if op.Src.IsValid() {
		if family(op.Src) != r.Family {
			return fmt.Errorf("source %s is of another family than %s", op.Src, op.Prefix)
		}
		r.Src = op.Src.AsSlice()
	}
	if r.Table == 0 {
		r.Table = unix.RT_TABLE_MAIN
	}
	if op.Via.IsValid() {
		if family(op.Via) == r.Family {
			r.Gw = op.Via.AsSlice()
		} else {
			r.Via = &netlink.Via{AddrFamily: family(op.Via), Addr: op.Via.AsSlice()} // RFC 5549: IPv4 by an IPv6 gateway
		}
	}
	if kind == unix.RTN_UNICAST && (op.Name != "" || op.If != 0 || !op.Via.IsValid()) && (!op.Del || op.Name != "" || op.If != 0) {
		ifi, err := h.index(op)
		if vanished(op, err) {
			h.mark(op, 0)
			return nil
		}
		if err != nil {
			return err
		}
		r.LinkIndex = ifi
		if r.Family == netlink.FAMILY_V4 && r.Gw == nil && r.Via == nil {
			r.Scope = unix.RT_SCOPE_LINK
		}
	}
	if op.Del {
		// The kernel compares the protocol, so that only a route of ours goes.
		if r.LinkIndex == 0 {
			r.Scope = unix.RT_SCOPE_NOWHERE // any
		}
		err := h.nl.RouteDel(r)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || vanished(op, err) {
			err = nil
		}
		if err == nil {
			h.mark(op, 0)
		}
		return err
	}
	err = h.addRoute(r, op)
	if (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)) && r.LinkIndex != 0 && op.Via.IsValid() {
		// No route leads to the next hop: the operation says on which link it is (a router outside its clients' prefix).
		r.Flags |= int(netlink.FLAG_ONLINK)
		err = h.addRoute(r, op)
	}
	if err == nil {
		h.mark(op, 0)
	}
	return err
}

func (h *Host) addRoute(r *netlink.Route, op core.HostOp) error {
	err := h.nl.RouteAdd(r)
	if errors.Is(err, unix.EEXIST) {
		if err = h.ownRoute(r, op); err == nil {
			err = h.nl.RouteReplace(r)
		}
	}
	return err
}

// ownRoute fails if the route that is in the way is not ours.
func (h *Host) ownRoute(r *netlink.Route, op core.HostOp) error {
	there, err := h.nl.RouteListFiltered(r.Family, &netlink.Route{Dst: r.Dst, Table: r.Table}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, o := range there {
		if o.Protocol != r.Protocol && prefixOf(o.Dst, r.Family) == op.Prefix && metric(o.Priority, r.Family) == metric(r.Priority, r.Family) {
			return foreign("a route to "+op.Prefix.String(), int(o.Protocol))
		}
	}
	return nil
}

// newRule reads a rule operation.
func (h *Host) newRule(op core.HostOp) (*netlink.Rule, error) {
	r := netlink.NewRule()
	r.Protocol, r.Priority, r.Table, r.IifName, r.Family = h.opt.Tag, RulePriority, op.Table, op.Name, netlink.FAMILY_V6
	to := false
	words := strings.Fields(op.Value)
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "to" || w == "from" {
			to = w == "to"
			continue
		}
		var size int
		switch w {
		case "priority", "suppress", "goto":
			size = 31
		case "dport":
			size = 16
		}
		if size == 0 || i+1 == len(words) {
			return nil, fmt.Errorf("value %q: want from, to, priority N, suppress N, dport N, goto N", op.Value)
		}
		i++
		n, err := strconv.ParseUint(words[i], 10, size)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", w, words[i], err)
		}
		switch w {
		case "priority":
			r.Priority = int(n)
		case "suppress":
			r.SuppressPrefixlen = int(n)
		case "goto":
			r.Goto = int(n)
		case "dport":
			r.Dport = netlink.NewRulePortRange(uint16(n), uint16(n))
		}
	}
	if op.Table == 0 && r.Goto < 0 {
		return nil, &hinted{errors.New("a rule needs a table"), "give one between 1 and 4294967295, or goto N"}
	}
	if op.Prefix.IsValid() {
		r.Family = family(op.Prefix.Addr())
		n := ipnet(op.Prefix.Masked())
		if to {
			r.Dst = n
		} else {
			r.Src = n
		}
	} else if op.Name == "" {
		return nil, errors.New("a rule needs a prefix or an interface")
	}
	return r, nil
}

func (h *Host) rule(op core.HostOp) error {
	r, err := h.newRule(op)
	if err != nil {
		return err
	}
	if op.Del {
		err = h.nl.RuleDel(r)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil
		}
	} else if err = h.nl.RuleAdd(r); errors.Is(err, unix.EEXIST) {
		err = nil
	}
	if err == nil {
		h.mark(op, 0)
	}
	return err
}

// sameRule compares what the kernel lists with what was asked for: everything but how it is written. A selector of all addresses
// is listed as none.
func sameRule(a, b *netlink.Rule, fam int) bool {
	sel := func(n *net.IPNet) netip.Prefix {
		if p := prefixOf(n, fam); p.Bits() > 0 {
			return p
		}
		return netip.Prefix{}
	}
	port := func(p *netlink.RulePortRange) netlink.RulePortRange {
		if p == nil {
			return netlink.RulePortRange{}
		}
		return *p
	}
	return a.Table == b.Table && a.Priority == b.Priority && a.IifName == b.IifName && sel(a.Src) == sel(b.Src) && sel(a.Dst) == sel(b.Dst) &&
		port(a.Dport) == port(b.Dport) && a.SuppressPrefixlen == b.SuppressPrefixlen && max(a.Goto, -1) == max(b.Goto, -1)
}
