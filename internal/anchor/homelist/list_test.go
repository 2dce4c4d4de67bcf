package homelist

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire/nd"
)

// TestList is RFC 6275 10.5.1 step by step, with exact times.
func TestList(t *testing.T) {
	spec.Covers(t, "RFC6275-10.5.1", "RFC6275-7.4")
	r := newRig(t, constant(0))
	want(t, "a router without the H flag", r.heard(agentA, &nd.RouterAdvertisement{RouterLifetime: 1800}), nil)
	want(t, "new", r.heard(agentA, agent(addrA, 100, 5)), []string{"new"})
	want(t, "again", r.heard(agentA, agent(addrA, 100, 5)), nil)
	want(t, "another preference", r.heard(agentA, agent(addrA, 100, 6)), []string{"changed"})
	if l := r.m.Agents(); len(l) != 1 || l[0].Preference != 6 || l[0].Expires != r.now.Boot+100*time.Second || l[0].Addresses[0].Addr != addrA {
		t.Errorf("%+v", l)
	}
	r.pass(100*time.Second - 1)
	want(t, "just before its time", r.taken(), nil)
	r.pass(1)
	want(t, "its time is over", r.taken(), []string{"expired"})
	if len(r.m.Agents()) != 0 {
		t.Error("still listed")
	}
	// Without the option: preference 0, and the router's lifetime.
	ra := agent(addrA, 0, 0)
	ra.Options = slices.Delete(ra.Options, 1, 2)
	want(t, "without the option", r.heard(agentA, ra), []string{"new"})
	if l := r.m.Agents(); l[0].Preference != 0 || l[0].Expires != r.now.Boot+1800*time.Second {
		t.Errorf("%+v", l)
	}
	want(t, "a lifetime of 0", r.heard(agentA, agent(addrA, 0, 0)), []string{"left"})
	want(t, "once more", r.heard(agentA, agent(addrA, 0, 0)), nil)
	want(t, "back", r.heard(agentA, agent(addrA, 9, 0)), []string{"new"})
	want(t, "the H flag is gone", r.heard(agentA, &nd.RouterAdvertisement{RouterLifetime: 1800}), []string{"left"})
}

// TestListAddresses: addresses live as long as their prefix, and only global ones of others count.
func TestListAddresses(t *testing.T) {
	spec.Covers(t, "RFC6275-7.2")
	r := newRig(t, constant(0))
	ra := agent(addrA, 1000, 0)
	add := func(a string, valid uint32, flag bool) {
		ra.Options = append(ra.Options, &nd.PrefixInformation{Prefix: netip.PrefixFrom(netip.MustParseAddr(a), 64), RouterAddr: flag, Valid: valid, Preferred: 1})
	}
	add("2001:db8:2::a", 50, true)
	add("2001:db8:3::a", 1000, false) // no R flag
	add("fe80::a", 1000, true)
	add("ff02::1", 1000, true)
	add(own.String(), 1000, true) // ours
	add("2001:db8:4::a", 0, true)
	r.heard(agentA, ra)
	have := func() (out []string) {
		for _, x := range r.m.Agents()[0].Addresses {
			out = append(out, x.Addr.String())
		}
		return out
	}
	want(t, "addresses", have(), []string{addrA.String(), "2001:db8:2::a"})
	r.pass(50*time.Second - 1)
	want(t, "before the prefix ends", have(), []string{addrA.String(), "2001:db8:2::a"})
	r.pass(1)
	want(t, "the prefix has ended", have(), []string{addrA.String()})
	gone := agent(addrA, 1000, 0)
	gone.Options[2].(*nd.PrefixInformation).Valid = 0
	gone.Options[2].(*nd.PrefixInformation).Preferred = 0
	r.heard(agentA, gone)
	want(t, "withdrawn", have(), nil)
}

// TestListIsBounded: strangers on the link cannot fill the memory, nor drive out who is there.
func TestListIsBounded(t *testing.T) {
	r := newRig(t, constant(0))
	r.heard(agentA, agent(addrA, 1000, 7))
	refused := 0
	for i := range 10 * MaxAgents {
		ra := &nd.RouterAdvertisement{HomeAgent: true, RouterLifetime: 1800}
		for n := range 60 {
			p := netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x:%x::1/64", 0x100+i, n))
			ra.Options = append(ra.Options, &nd.PrefixInformation{Prefix: p, OnLink: true, RouterAddr: true, Valid: 1000, Preferred: 1})
		}
		news := r.heard(netip.MustParseAddr(fmt.Sprintf("fe80::1:%x", i)), ra)
		if slices.Contains(news, "refused") {
			refused++
		}
	}
	all := r.m.Agents()
	if len(all) != MaxAgents || refused != 9*MaxAgents+1 || all[0].LinkLocal != agentA {
		t.Errorf("%d agents, %d refused", len(all), refused)
	}
	for _, a := range all {
		if len(a.Addresses) > MaxAddresses {
			t.Errorf("%d addresses", len(a.Addresses))
		}
	}
	if n := len(r.m.prefixes.known); n != MaxPrefixes {
		t.Errorf("%d prefixes", n)
	}
	if n := len(r.m.prefixes.flags); n > MaxAgents {
		t.Errorf("flags of %d routers", n)
	}
	if a := r.m.Advertisement(r.now, netip.PrefixFrom(home, 64), 1); len(a.Options) != MaxAdvertised {
		t.Errorf("%d prefixes advertised", len(a.Options))
	}
	if out, _ := r.m.Candidates(false, false); len(out) != nd.HomeAgentsInMinimumMTU || out[0] != addrA {
		t.Errorf("%d candidates, the first %v", len(out), out[0])
	}
}

// TestForgedAsUs: advertisements with our own addresses change nothing.
func TestForgedAsUs(t *testing.T) {
	r := newRig(t, constant(0))
	want(t, "our link-local address", r.heard(local, agent(addrA, 100, 9)), nil)
	if len(r.m.Agents()) != 0 {
		t.Errorf("%+v", r.m.Agents())
	}
}
