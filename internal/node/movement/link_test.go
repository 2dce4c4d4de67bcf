package movement

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

func TestConfig(t *testing.T) {
	links := []Pattern{{Match: "eth*"}}
	for _, c := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"least", Config{Links: links}, true},
		{"no links", Config{}, false},
		{"bad pattern", Config{Links: []Pattern{{Match: "["}}}, false},
		{"empty pattern", Config{Links: []Pattern{{}}}, false},
		{"home prefix of the wrong family", Config{Links: links, HomePrefix6: netip.MustParsePrefix("10.0.0.0/8")}, false},
		{"home prefix of everything", Config{Links: links, HomePrefix6: netip.MustParsePrefix("::/0")}, false},
		{"IPv4 home network of the wrong family", Config{Links: links, HomePrefix4: netip.MustParsePrefix("2001:db8::/64")}, false},
		{"short secret", Config{Links: links, Secret: make([]byte, 15)}, false},
		{"secret", Config{Links: links, Secret: make([]byte, 16)}, true},
		{"tables of the kernel", Config{Links: links, Table: 200}, false},
		{"home table within", Config{Links: links, Table: 1000, HomeTable: 1255}, false},
		{"home table behind", Config{Links: links, Table: 1000, HomeTable: 1256}, true},
		{"verify", Config{Links: links, Verify: time.Millisecond}, false},
	} {
		_, err := New(c.cfg, zeroRand{})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestPatterns: the first pattern that matches gives rank and families.
func TestPatterns(t *testing.T) {
	r := newRig(t, Config{Links: []Pattern{{Match: "eth0", Prefer: 1, V6: true}, {Match: "eth*", Prefer: 2, V4: true}}})
	for ifi, name := range map[int]string{2: "eth0", 3: "eth1", 4: "br0"} {
		r.add(ifi, name, false)
		n := newNet(ifi, fmt.Sprintf("2001:db8:%d::/64", ifi))
		n.routers[0].v4 = netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", ifi))
		r.carrier(ifi, n)
		r.dhcp(ifi, fmt.Sprintf("10.0.%d.7/24", ifi), fmt.Sprintf("10.0.%d.1", ifi))
	}
	r.run(3 * time.Second)
	r.want("eth0 2001:db8:2::/64, eth1 10.0.3.0/24")
	if a, b := r.m.CareOfs()[0].Prefer, r.m.CareOfs()[1].Prefer; a != 1 || b != 2 {
		t.Errorf("ranks %d, %d", a, b)
	}
}

// TestRename: a link comes into a pattern, and leaves it, with everything that was known of its addresses.
func TestRename(t *testing.T) {
	r := newRig(t, Config{})
	n := newNet(1, netA)
	n.routers[0].v4 = netip.MustParseAddr("192.0.2.1")
	r.add(2, "usb0", false)
	r.carrier(2, n)
	r.dhcp(2, "192.0.2.7/24", "192.0.2.1")
	r.run(time.Second)
	r.want("")
	rename := func(name string) {
		l := r.kernel.links[2]
		for k, v := range r.kernel.sysctl { // the kernel renames them with the link
			delete(r.kernel.sysctl, k)
			_ = v
		}
		l.op.Name = name
		r.handle(core.HostChanged{Op: l.op, Up: l.up})
		r.run(2 * time.Second)
	}
	rename("eth7")
	r.want("eth7 2001:db8:a::/64, eth7 192.0.2.0/24")
	rename("eth8")
	r.want("eth8 2001:db8:a::/64, eth8 192.0.2.0/24")
	if r.kernel.sysctl["net/ipv6/conf/eth8/accept_ra"] != "0" {
		t.Errorf("sysctls %v", r.kernel.sysctl)
	}
	rename("usb0")
	r.want("")
	r.clean()
}

// TestLinkLimit: no more links than the limit, and one that goes makes room.
func TestLinkLimit(t *testing.T) {
	r := newRig(t, Config{})
	for i := range MaxLinks + 1 {
		r.add(10+i, fmt.Sprintf("eth%d", i), false)
		r.carrier(10+i, newNet(1, fmt.Sprintf("2001:db8:%x::/64", i+1)))
	}
	r.run(3 * time.Second)
	if n := len(r.m.CareOfs()); n != MaxLinks || len(r.emitted("warning")) != 1 {
		t.Errorf("%d links, told %v", n, r.emitted("warning"))
	}
	r.remove(10)
	r.run(time.Second)
	if n := len(r.m.CareOfs()); n != MaxLinks-1 {
		t.Errorf("%d links", n)
	}
}

// TestTwoLinks: the better link takes the head of the list when it has been there for a second, and gives it up at once when
// it goes; one that flaps never gets it.
func TestTwoLinks(t *testing.T) {
	r := newRig(t, Config{})
	r.check = r.invariants
	r.add(2, "eth0", false)
	r.add(4, "wwan0", false)
	r.carrier(4, net4(1, "192.0.2.1"))
	r.dhcp(4, "10.64.3.2/30", "")
	r.run(5 * time.Second)
	r.want("wwan0 10.64.3.0/30")
	n := newNet(1, netA)
	r.carrier(2, n)
	r.run(2 * wireDelay)
	r.want("wwan0 10.64.3.0/30, eth0 2001:db8:a::/64 optimistic")
	r.m.Changed()
	r.run(settle - 1)
	r.want("wwan0 10.64.3.0/30, eth0 2001:db8:a::/64 optimistic")
	r.run(1)
	if !r.m.Changed() {
		t.Error("the head of the list changed without a word")
	}
	r.want("eth0 2001:db8:a::/64, wwan0 10.64.3.0/30")
	r.carrier(2, nil)
	r.want("wwan0 10.64.3.0/30")
	for range 50 {
		r.carrier(2, n)
		r.run(100 * time.Millisecond)
		if r.m.CareOfs()[0].Link != "wwan0" {
			t.Fatalf("the link that flaps is first: %q", r.list())
		}
		r.carrier(2, nil)
		r.run(5 * time.Millisecond)
	}
	// The head is in doubt: then the other is taken at once.
	r.carrier(2, n)
	r.run(100 * time.Millisecond)
	r.carrier(4, nil)
	r.want("eth0 2001:db8:a::/64")
}

// TestUnknownIndex: events of links that nobody told of, and things that are no affair of ours.
func TestUnknownIndex(t *testing.T) {
	r := newRig(t, Config{})
	for _, ev := range []core.Event{
		core.HostChanged{Op: core.HostOp{Kind: "link", If: 9}, Gone: true},
		core.HostChanged{Op: core.HostOp{Kind: "address", If: 9, Prefix: netip.MustParsePrefix("2001:db8::1/64")}, Gone: true},
		core.HostChanged{Op: core.HostOp{Kind: "route", If: 9, Prefix: netip.MustParsePrefix("::/0")}, Up: true},
		core.HostChanged{Op: core.HostOp{Kind: "neighbour", If: 9}},
		core.HostChanged{Synced: true},
		core.Message{Path: core.Path{If: 9}}, core.Done{Ref: refBase + 7}, core.Seen{If: 9}, core.Tick{},
		// The address before its link.
		core.HostChanged{Op: core.HostOp{Kind: "address", If: 2, Prefix: netip.MustParsePrefix("192.0.2.7/24")}, Up: true},
	} {
		r.handle(ev)
	}
	r.effects(r.m.Suspect(r.clock(), netip.MustParseAddr("2001:db8::1"), nil))
	r.m.Confirm(r.clock(), netip.MustParseAddr("2001:db8::1"))
	r.effects(r.m.ClaimHome(r.clock(), 9, homeAddrs, nil))
	r.effects(r.m.ReleaseHome(r.clock(), nil))
	r.want("")
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.0.2.1"))
	r.handle(core.HostChanged{Op: defaultRoute(r.kernel.links[2].op, netip.MustParseAddr("192.0.2.7"), "192.0.2.1"), Up: true})
	r.run(0)
	r.want("eth0 192.0.2.0/24")
	if len(r.m.Links()) != 1 || !r.m.Links()[0].Up || !r.m.Links()[0].Addresses[0].Offered {
		t.Errorf("%+v", r.m.Links())
	}
}

// TestBusyLink: what others say to each other costs no memory, and next to no time.
func TestBusyLink(t *testing.T) {
	r, _ := attached(t, homeConfig)
	x, y := core.MAC{2, 0, 0, 0, 6, 1}, core.MAC{2, 0, 0, 0, 6, 2}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var evs []core.Event
	for _, f := range []*access.Frame{
		{Src: x, Dst: ether.Broadcast, Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: x, SenderIP: a, TargetIP: b}},
		{Src: y, Dst: x, Body: &ether.ARP{Op: ether.ARPReply, SenderHW: y, SenderIP: b, TargetHW: x, TargetIP: a}},
		{Src: x, Body: &nd.NeighborSolicitation{Target: netip.MustParseAddr("2001:db8:a::77")}},
		{Src: y, Body: &nd.NeighborAdvertisement{Target: netip.MustParseAddr("2001:db8:a::77")}},
		{Src: y, Body: &nd.RouterSolicitation{}},
		{Src: y},
	} {
		evs = append(evs, core.Message{Path: core.Path{If: 2}, Body: f})
	}
	now := r.clock()
	if n := testing.AllocsPerRun(100, func() {
		for _, ev := range evs {
			if out := r.m.Handle(now, ev, nil); len(out) > 0 {
				t.Fatalf("%+v: %v", ev, out)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// One that is due all the same is served by the next frame.
	at, _ := r.m.Deadline()
	r.now = at
	if out := r.m.Handle(r.clock(), evs[0], nil); len(out) == 0 {
		t.Error("what was due has to wait for a tick")
	}
}
