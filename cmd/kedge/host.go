package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"kedge/internal/config"
)

// hostAbilities says what this machine can do, and what of the files does not fit it. What a file names and the machine
// lacks is no error: files are often checked elsewhere than where they run.
func hostAbilities(cfgs []*config.Config) []ability {
	var out []ability
	for _, c := range cfgs {
		out = append(out, fits(c)...)
	}
	return out
}

// fits compares a file with the interfaces and addresses that are there.
func fits(c *config.Config) (out []ability) {
	var ifs, addrs []string
	add := func(list *[]string, what string) {
		if what != "" && !slices.Contains(*list, what) {
			*list = append(*list, what)
		}
	}
	for _, n := range c.Dataplane.Core {
		add(&ifs, n)
	}
	if a := c.Anchor; a != nil {
		add(&ifs, a.HomeLink)
		for _, x := range a.Addresses {
			add(&addrs, x.String())
		}
	}
	if g := c.Gateway; g != nil {
		add(&addrs, g.Address.String())
		for _, x := range g.Access {
			add(&ifs, x.Interface)
		}
	}
	for _, n := range ifs {
		a := ability{Name: c.Name + " interface " + n, OK: true, Detail: "is there"}
		if l, err := net.InterfaceByName(n); err != nil {
			a.OK, a.Detail = false, "is not there; \"ip link\" lists what is"
		} else {
			a.Detail = fmt.Sprintf("is there, %s, MTU %d", l.HardwareAddr, l.MTU)
		}
		out = append(out, a)
	}
	local := localAddresses()
	for _, x := range addrs {
		a := ability{Name: c.Name + " address " + x, OK: slices.Contains(local, netip.MustParseAddr(x)), Detail: "is configured"}
		if !a.OK {
			a.Detail = "is not configured here: \"ip -6 address add\" it before the daemon starts"
		}
		out = append(out, a)
	}
	return out
}

func localAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
