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

func (h *Host) route(op core.HostOp) error {
	kind, ok := routeTypes[op.Value]
	if !ok {
		return fmt.Errorf("value %q is none of unreachable, blackhole, prohibit", op.Value)
	}
	if !op.Prefix.IsValid() {
		return errors.New("no prefix given")
	}
	op.Prefix = op.Prefix.Masked()
	r := &netlink.Route{
		Dst: ipnet(op.Prefix), Protocol: netlink.RouteProtocol(h.opt.Tag), Type: kind, Table: op.Table, MTU: op.MTU,
		Family: family(op.Prefix.Addr()),
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
	err := h.nl.RouteAdd(r)
	if errors.Is(err, unix.EEXIST) {
		if err = h.ownRoute(r, op); err == nil {
			err = h.nl.RouteReplace(r)
		}
	}
	if err == nil {
		h.mark(op, 0)
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
		if o.Protocol != r.Protocol && prefixOf(o.Dst, r.Family) == op.Prefix && (o.Priority == r.Priority || r.Family == netlink.FAMILY_V6) {
			return foreign("a route to "+op.Prefix.String(), int(o.Protocol))
		}
	}
	return nil
}

func (h *Host) rule(op core.HostOp) error {
	r := netlink.NewRule()
	r.Protocol, r.Priority, r.Table, r.IifName, r.Family = h.opt.Tag, RulePriority, op.Table, op.Name, netlink.FAMILY_V6
	if op.Table == 0 {
		return &hinted{errors.New("a rule needs a table"), "give one between 1 and 4294967295"}
	}
	to := false
	words := strings.Fields(op.Value)
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "to":
			to = true
		case w == "from":
		case w == "priority" && i+1 < len(words):
			n, err := strconv.ParseUint(words[i+1], 10, 31)
			if err != nil {
				return fmt.Errorf("priority %q: %w", words[i+1], err)
			}
			r.Priority = int(n)
			i++
		default:
			return fmt.Errorf("value %q: want from, to, priority N", op.Value)
		}
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
		return errors.New("a rule needs a prefix or an interface")
	}
	var err error
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
