package system

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// accessSysctls make the kernel deaf and mute on an access link, where Kedge speaks for the network.
var accessSysctls = []struct{ name, value string }{
	{"net/ipv6/conf/%s/disable_ipv6", "1"}, // no ND, no MLD, no RA, no forwarding; drops the link-local address
	{"net/ipv4/conf/%s/arp_ignore", "8"},   // answers ARP for no local address
	{"net/ipv4/conf/%s/arp_accept", "0"},
	{"net/ipv4/conf/%s/proxy_arp", "0"},
	{"net/ipv4/conf/%s/rp_filter", "1"}, // the kernel has no route to the hosts by this link, so it drops their IPv4 packets
	{"net/ipv4/conf/%s/forwarding", "0"},
}

// PrepareAccess takes a link away from the kernel's IP: it neither answers nor forwards there, and the link is up. The link
// must have no IPv4 address. undo puts everything back; after a crash Sweep does it from the journal.
func (h *Host) PrepareAccess(name string) (undo func() error, err error) {
	fail := func(err error) (func() error, error) {
		return nil, explain(core.HostOp{Kind: "access link", Name: name}, err)
	}
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return fail(err)
	}
	h.mu.Lock()
	as, err := h.addresses(l.Attrs().Index)
	h.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	for _, a := range as {
		if a.prefix.Addr().Is4() {
			return fail(&hinted{fmt.Errorf("it has the address %s", a.prefix), "remove it: on an access link Kedge answers, not the kernel"})
		}
	}
	var back, ops []core.HostOp
	for _, s := range accessSysctls {
		op := core.HostOp{Kind: "sysctl", Name: fmt.Sprintf(s.name, name), Value: s.value}
		ops = append(ops, op)
		op.Del = true
		back = append(back, op)
	}
	ops = append(ops, core.HostOp{Kind: "link", Name: name, Value: "up"})
	wasDown := l.Attrs().RawFlags&unix.IFF_UP == 0
	if wasDown {
		back = append([]core.HostOp{{Kind: "link", Name: name, Value: "down"}}, back...)
	}
	undo = func() error {
		err := h.Apply(back)
		if vanished(core.HostOp{Del: true}, err) {
			err = nil
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.applied, object{kind: "link", name: name})
		if !wasDown || err != nil {
			return err
		}
		return h.journal.drop(func(u core.HostOp) bool { return slices.Contains(undoKeys(u), "link "+name+" state") })
	}
	if err := h.Apply(ops); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}
