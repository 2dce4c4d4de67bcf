package system

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// Sweep removes what carries our tag and was not applied by this Host, and puts back the journal's old values that this
// Host does not want changed; a TUN device that an earlier run set up and nobody has open goes. Called first, it undoes an earlier run; called when a restarted machine has applied its
// state, it removes only what that state no longer holds, and no packet is lost meanwhile. It gives what it removed, and
// goes on after errors.
func (h *Host) Sweep() ([]core.HostOp, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var gone []core.HostOp
	var errs []error
	remove := func(op core.HostOp, err error) {
		if err != nil {
			errs = append(errs, explain(op, err))
			return
		}
		gone = append(gone, op)
	}
	h.sweepRoutes(remove)
	h.sweepRules(remove)
	h.sweepNeighbours(remove)
	h.sweepAddresses(remove)
	h.sweepJournal(remove)
	h.sweepTap(remove)
	return gone, errors.Join(errs...)
}

func (h *Host) sweepRoutes(remove func(core.HostOp, error)) {
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// Table 0 with the filter means all tables.
		rs, err := h.nl.RouteListFiltered(fam, &netlink.Route{Protocol: netlink.RouteProtocol(h.opt.Tag), Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			remove(core.HostOp{Kind: "route", Del: true}, fmt.Errorf("list: %w", err))
		}
		for _, r := range rs {
			op := core.HostOp{Kind: "route", Del: true, If: r.LinkIndex, Prefix: prefixOf(r.Dst, fam), Table: r.Table, MTU: r.MTU, Metric: r.Priority}
			if h.applied[keyOf(op, 0)] {
				continue
			}
			remove(op, h.nl.RouteDel(&r))
		}
	}
}

func (h *Host) sweepRules(remove func(core.HostOp, error)) {
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rs, err := h.nl.RuleList(fam)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			remove(core.HostOp{Kind: "rule", Del: true}, fmt.Errorf("list: %w", err))
		}
		for _, r := range rs {
			if r.Protocol != h.opt.Tag {
				continue
			}
			op := core.HostOp{Kind: "rule", Del: true, Table: r.Table, Name: r.IifName}
			if h.wantsRule(r, fam) {
				continue
			}
			if r.Src != nil {
				op.Prefix = prefixOf(r.Src, fam)
			} else if r.Dst != nil {
				op.Prefix, op.Value = prefixOf(r.Dst, fam), "to"
			}
			remove(op, h.nl.RuleDel(&r))
		}
	}
}

// wantsRule compares by meaning: one rule can be written in several ways.
func (h *Host) wantsRule(r netlink.Rule, fam int) bool {
	for o := range h.applied {
		if o.kind != "rule" || o.prefix.IsValid() && family(o.prefix.Addr()) != fam {
			continue
		}
		name, value, _ := strings.Cut(o.name, " ")
		want, err := h.newRule(core.HostOp{Kind: "rule", Prefix: o.prefix, Table: o.table, Name: name, Value: value})
		if err == nil && sameRule(&r, want, fam) {
			return true
		}
	}
	return false
}

func (h *Host) sweepNeighbours(remove func(core.HostOp, error)) {
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		for _, proxy := range []bool{false, true} {
			kind := map[bool]string{false: "neighbour", true: "proxy"}[proxy]
			ns, err := h.neighbours(fam, proxy)
			if err != nil {
				remove(core.HostOp{Kind: kind, Del: true}, fmt.Errorf("list: %w", err))
			}
			for _, n := range ns {
				op := core.HostOp{Kind: kind, Del: true, If: n.ifi, Prefix: netip.PrefixFrom(n.addr, n.addr.BitLen()), MAC: n.mac}
				if n.proto != h.opt.Tag || h.applied[keyOf(op, n.ifi)] {
					continue
				}
				remove(op, h.setNeighbour(op, n.ifi, proxy, 0))
			}
		}
	}
}

func (h *Host) sweepAddresses(remove func(core.HostOp, error)) {
	as, err := h.addresses(0)
	if err != nil {
		remove(core.HostOp{Kind: "address", Del: true}, fmt.Errorf("list: %w", err))
	}
	for _, a := range as {
		op := core.HostOp{Kind: "address", Del: true, If: a.ifi, Prefix: a.prefix}
		if a.proto != h.opt.Tag || h.applied[keyOf(op, a.ifi)] {
			continue
		}
		remove(op, h.address(op))
	}
}

// sweepJournal puts old values back, newest first.
func (h *Host) sweepJournal(remove func(core.HostOp, error)) {
	undone := make(map[core.HostOp]bool)
	for _, e := range slices.Backward(h.journal.entries) {
		op := e.Undo
		if (op.Kind == "link" || op.Kind == "address") && !h.applied[object{kind: "link", name: op.Name}] && h.abandoned(op.Name) {
			remove(core.HostOp{Kind: "link", Del: true, Name: op.Name}, h.removeLink(op.Name))
		}
		ifi := 0
		if op.Kind == "address" {
			var err error
			if ifi, err = h.index(op); err != nil { // gone with its link
				undone[op] = true
				continue
			}
		}
		if h.applied[keyOf(op, ifi)] {
			continue
		}
		err := h.putBack(op)
		if err == nil {
			undone[op] = true
		}
		if op.Kind != "address" || err != nil {
			remove(op, err)
		}
	}
	if err := h.journal.drop(func(op core.HostOp) bool { return undone[op] }); err != nil {
		remove(core.HostOp{Kind: "sysctl", Del: true}, err)
	}
}

// TunAlias marks the TUN devices that Kedge makes.
const TunAlias = "kedge"

// abandoned says whether a link that an earlier run has set up is a persistent TUN device of ours which nobody has open any more: the
// config names another one now, or none.
func (h *Host) abandoned(name string) bool {
	l, err := h.nl.LinkByName(name)
	if err != nil || l.Type() != "tuntap" && l.Type() != "tun" {
		return false
	}
	a := l.Attrs()
	return a.Alias == TunAlias && a.RawFlags&(unix.IFF_UP|unix.IFF_RUNNING) != unix.IFF_UP|unix.IFF_RUNNING
}

func (h *Host) removeLink(name string) error {
	l, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkDel(l)
	}
	if vanished(core.HostOp{Del: true}, err) {
		return nil
	}
	return err
}

// putBack applies an undo without writing it down again; that its link is gone is no error.
func (h *Host) putBack(op core.HostOp) error {
	live := h.journal
	h.journal = &journal{ns: live.ns, known: make(map[string]bool)}
	if op.Kind == "address" { // known to be ours by its entry, also without the kernel's tag
		h.journal.known[undoKeys(op)[0]] = true
	}
	defer func() { h.journal = live }()
	err := h.apply(op)
	h.forget(keyOf(op, 0))
	gone := op
	gone.Del = true
	if vanished(gone, err) || op.Kind == "sysctl" && errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
