package system

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
)

var homeAgents = pfx("2001:db8::fdff:ffff:ffff:fffe/128")

// TestAnycast: two hosts of one link have one anycast address, each answers for it, and it is given back.
func TestAnycast(t *testing.T) {
	spec.Covers(t, "RFC6275-8.4", "RFC2526-3")
	a, b := pair(t)
	ha, hb := newHost(t, a), newHost(t, b)
	op := core.HostOp{Kind: "anycast", Prefix: homeAgents, Name: "d0"}
	other := core.HostOp{Kind: "anycast", Prefix: homeAgents, Name: "d1"}
	forward := core.HostOp{Kind: "sysctl", Name: "net.ipv6.conf.all.forwarding", Value: "1"}
	must(t, ha.Apply([]core.HostOp{forward, op, op}))
	must(t, hb.Apply([]core.HostOp{forward, other}))
	if out := ip(t, a, "-6", "route", "show", "table", "local", "type", "anycast"); strings.Count(out, homeAgents.Addr().String()) != 1 {
		t.Fatalf("not joined once:\n%s", out)
	}
	for _, l := range []*localSet{{h: ha, given: nil}, {h: ha, given: map[netip.Addr]bool{}}} {
		if !l.wants(homeAgents.Addr()) {
			t.Error("a packet to the anycast address is not taken")
		}
	}
	del := other
	del.Del = true
	must(t, hb.Apply([]core.HostOp{del, del}))
	if out := ip(t, b, "-6", "route", "show", "table", "local", "type", "anycast"); strings.Contains(out, homeAgents.Addr().String()) {
		t.Errorf("not left:\n%s", out)
	}
	// The other one still has it, and answers who solicits it.
	if out, err := b.Run(t.Context(), "ping", "-6", "-c1", "-W3", homeAgents.Addr().String()); err != nil {
		t.Errorf("nobody answers: %v\n%s", err, out)
	}
	must(t, ha.Close())
	if out := ip(t, a, "-6", "route", "show", "table", "local", "type", "anycast"); strings.Contains(out, homeAgents.Addr().String()) {
		t.Errorf("it outlives its host:\n%s", out)
	}
}

// TestAnycastComesBack: the kernel forgets the route of the address when the link goes down; Keep joins anew.
func TestAnycastComesBack(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	must(t, h.Apply([]core.HostOp{
		{Kind: "sysctl", Name: "net.ipv6.conf.all.forwarding", Value: "1"}, {Kind: "anycast", Prefix: homeAgents, Name: "d0"},
	}))
	k := startKeep(t, h, a)
	ip(t, a, "link", "set", "d0", "down")
	ip(t, a, "link", "set", "d0", "up")
	joined := func() bool {
		return strings.Contains(ip(t, a, "-6", "route", "show", "table", "local", "type", "anycast"), homeAgents.Addr().String())
	}
	var said bool
	for deadline := time.After(5 * time.Second); !joined() || !said; {
		select {
		case e := <-k.ch:
			said = said || e.Name == "restored" && fmt.Sprint(e.Fields) == "map[anycast:1]"
		case <-deadline:
			t.Fatalf("joined %v, said %v", joined(), said)
		}
	}
}

func TestAnycastRefused(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	for _, c := range []struct {
		op   core.HostOp
		want string
	}{
		{core.HostOp{Kind: "anycast", Prefix: pfx("2001:db8::/64"), Name: "d0"}, "not a single address"},
		{core.HostOp{Kind: "anycast", Prefix: pfx("10.0.0.1/32"), Name: "d0"}, "no IPv6 address"},
		{core.HostOp{Kind: "anycast", Prefix: homeAgents, Name: "nope"}, "no such interface"},
		{core.HostOp{Kind: "anycast", Prefix: pfx("2001:db8:ffff::1/128"), Name: "d0"}, "forwarding=1"}, // a host joins on-link only
	} {
		if err := h.Apply([]core.HostOp{c.op}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.op, err, c.want)
		}
	}
}
