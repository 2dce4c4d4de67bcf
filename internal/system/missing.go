package system

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// missing lists what is wanted and could be there but is not, in the order of setting. What was on a link that is gone for good is
// forgotten. Not all: only sysctls, which cost little to look up.
func (h *Host) missing(all bool) (out []object, err error) {
	there, err := h.inventory(all)
	if err != nil {
		return nil, err
	}
	for o, op := range h.kept {
		if !all && o.kind != "sysctl" {
			continue
		}
		l, ready := there.link(&op)
		if !ready {
			if op.If != 0 && op.Name == "" && l.ifi == 0 && o.kind != "sysctl" {
				h.forget(o) // an index does not come back
			}
			continue
		}
		if !there.has(h, o, &op, l) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, compareObjects)
	return out, nil
}

// compareObjects orders what is to be set: an address before the routes that name it, what leads to a next hop before what uses it.
func compareObjects(a, b object) int {
	rank := func(o object) int { return slices.Index([]string{"sysctl", "address", "route", "rule"}, o.kind) }
	return cmp.Or(rank(a)-rank(b), b.prefix.Bits()-a.prefix.Bits(), a.table-b.table, a.prefix.Addr().Compare(b.prefix.Addr()), strings.Compare(a.name, b.name))
}

// inventory is what the kernel has now.
type inventory struct {
	links     map[string]linkState // by name
	byIndex   map[int]linkState
	addresses map[object]bool
	routes    map[object]netlink.Route // ours
	rules     map[int][]netlink.Rule   // ours, by family
}

type linkState struct {
	ifi int // 0 = there is none
	up  bool
}

func (h *Host) inventory(all bool) (*inventory, error) {
	v := &inventory{links: map[string]linkState{}, byIndex: map[int]linkState{}, addresses: map[object]bool{}, routes: map[object]netlink.Route{}, rules: map[int][]netlink.Rule{}}
	if !all {
		return v, nil
	}
	need := make(map[string]bool)
	for o := range h.kept {
		need[o.kind] = true
	}
	again := func(err error) bool { return err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) }
	ls, err := h.nl.LinkList()
	if again(err) {
		return nil, err
	}
	for _, l := range ls {
		a := l.Attrs()
		s := linkState{a.Index, a.RawFlags&unix.IFF_UP != 0}
		v.links[a.Name], v.byIndex[a.Index] = s, s
	}
	if need["address"] {
		as, err := h.addresses(0)
		if err != nil {
			return nil, err
		}
		for _, a := range as {
			v.addresses[object{kind: "address", ifi: a.ifi, prefix: a.prefix}] = true
		}
	}
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if need["route"] {
			rs, err := h.nl.RouteListFiltered(fam, &netlink.Route{Protocol: netlink.RouteProtocol(h.opt.Tag), Table: unix.RT_TABLE_UNSPEC},
				netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
			if again(err) {
				return nil, err
			}
			for _, r := range rs {
				v.routes[keyOf(core.HostOp{Kind: "route", Prefix: prefixOf(r.Dst, fam), Table: r.Table, Metric: r.Priority}, 0)] = r
			}
		}
		if need["rule"] {
			rs, err := h.nl.RuleList(fam)
			if again(err) {
				return nil, err
			}
			v.rules[fam] = slices.DeleteFunc(rs, func(r netlink.Rule) bool { return r.Protocol != h.opt.Tag })
		}
	}
	return v, nil
}

// link is where an operation belongs, and whether the kernel would take it now.
func (v *inventory) link(op *core.HostOp) (l linkState, ready bool) {
	switch {
	case op.Kind == "rule" || op.Kind == "sysctl":
		return l, true
	case op.Name != "":
		l = v.links[op.Name]
	case op.If != 0:
		l = v.byIndex[op.If]
	default:
		return l, true // a route to nowhere, or by its next hop alone
	}
	return l, l.up || l.ifi != 0 && op.Kind == "address" && op.Prefix.Addr().Is4()
}

// has says whether an object is there.
func (v *inventory) has(h *Host, o object, op *core.HostOp, l linkState) bool {
	switch o.kind {
	case "address":
		o.ifi = l.ifi
		return v.addresses[o]
	case "route":
		r, ok := v.routes[o]
		// A route whose preferred source was taken away for a moment has lost it for good, without a word (IPv6).
		src, _ := netip.AddrFromSlice(r.Src)
		return ok && (!op.Src.IsValid() || src.Unmap() == op.Src)
	case "rule":
		want, err := h.newRule(*op)
		return err != nil || slices.ContainsFunc(v.rules[want.Family], func(r netlink.Rule) bool { return sameRule(&r, want, want.Family) })
	case "sysctl":
		return h.readsAs(o.name, op.Value)
	}
	return true
}

// readsAs says whether a setting has a value; one that is not there has any, because its link is away.
func (h *Host) readsAs(key, value string) (yes bool) {
	_ = h.inside(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		yes = err != nil || strings.TrimSpace(string(b)) == strings.TrimSpace(value)
		return nil
	})
	return yes
}
