package access

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/nd"
)

func macOf(i int) core.MAC {
	m := core.MAC{2, 1}
	binary.BigEndian.PutUint32(m[2:], uint32(i))
	return m
}

// A flood of forged MAC addresses takes room from strangers only, and leaves nothing behind.
func TestStrangersAreBounded(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	for i := range 20 * MaxStrangers {
		r.l.Handle(r.now, discover(macOf(i)), nil)
	}
	if g, s := r.l.Hosts(); g != 1 || s != MaxStrangers {
		t.Errorf("%d hosts, %d strangers", g, s)
	}
	// The ones seen last are there; the served host never suffers; one that was pushed out is served as before.
	if r.l.hosts[macOf(20*MaxStrangers-1)] == nil || r.l.hosts[macOf(0)] != nil {
		t.Error("the wrong strangers are remembered")
	}
	r.in(rs(macA, llA)).did("Attached", "ra")
	r.grant(macOf(0), Grant{Prefixes: []netip.Prefix{prefixB}, Valid: time.Minute}).did("ra")
	r.after(StrangerTime)
	r.l.Tick(r.now, nil)
	if g, s := r.l.Hosts(); g != 1 || s != 1 { // macOf(0) had its minute, and its withdrawal is still said
		t.Errorf("%d hosts, %d strangers after the flood", g, s)
	}
}

func TestHostLimit(t *testing.T) {
	r := newRig(t, config())
	g := Grant{IPv4: homeA, Router4: router4, Valid: time.Hour}
	for i := range MaxHosts {
		g.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)}), 16)
		r.l.Grant(r.now, macOf(i), g, nil)
	}
	r.grant(macA, dualStack()).did("Refused").refused(wire.HostLimit)
	r.grant(macOf(7), g) // a refresh is no new host
	r.l.Forget(r.now, macOf(9), nil)
	r.grant(macA, dualStack()).did("ra", "arp")
}

// What is for one host never goes to a group.
func TestNoGrantForGroups(t *testing.T) {
	r := newRig(t, config())
	for _, mac := range []core.MAC{broadcast, {0x33, 0x33, 0, 0, 0, 1}, routerMAC} {
		r.grant(mac, dualStack()).did("Refused").refused(wire.WrongMAC)
		r.result(r.l.Probe(r.now, mac, nil)).did("Refused").refused(wire.WrongMAC)
	}
}

func TestFrameRate(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	for range FrameBurst {
		r.in(ns(macA, llA, routerLL)).did("Attached", "na")
	}
	r.in(ns(macA, llA, routerLL)).did("Refused").refused(wire.RateLimit)
	r.in(ns(macB, llA, routerLL)).did("Attached", "na") // another host's rate is its own
	r.after(time.Second / FrameRate)
	r.in(ns(macA, llA, routerLL)).did("Attached", "na")
	r.in(ns(macA, llA, routerLL)).did("Refused")
	// Pings of others are data: they cost nothing here.
	ping := echo4(macA, homeA.Addr())
	ping.DstIP = addr("192.0.2.1")
	ping6 := echo6(macA, addr("2001:db8:1000::a"))
	ping6.DstIP = addr("2001:db8::1")
	for range FrameBurst {
		r.in(ping).did("Attached")
		r.in(ping6).did("Attached")
	}
	r.after(time.Hour)
	r.l.Tick(r.now, nil)
	for range FrameBurst {
		r.in(ns(macA, llA, routerLL)).did("Attached", "na")
	}
	r.in(ns(macA, llA, routerLL)).did("Refused")
}

// Whatever happens in whatever order: a host hears only of what is granted to it, and each timer ends.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, config())
		macs := []core.MAC{macA, macB}
		homes := []netip.Prefix{homeA, homeB}
		prefixes := []netip.Prefix{prefixA, prefixB}
		grants := map[core.MAC]Grant{}
		ends := map[core.MAC]time.Duration{}
		check := func(out []Action) {
			for _, f := range r.result(out).frames {
				g, valid := grants[f.Dst], ends[f.Dst] > r.now.Boot
				switch m := f.Body.(type) {
				case *dhcpv4.DHCPv4:
					if m.MessageType() != nak && (!valid || addr4(m.YourIPAddr).IsValid() && addr4(m.YourIPAddr) != g.IPv4.Addr()) {
						rt.Fatalf("%v of %v to %v, which has %v", m.MessageType(), m.YourIPAddr, f.Dst, g.IPv4)
					}
				case *nd.RouterAdvertisement:
					for _, p := range prefixesOf(m) {
						if p.Valid > 0 && (!valid || len(g.Prefixes) == 0 || p.Prefix != g.Prefixes[0]) {
							rt.Fatalf("%v advertised to %v, which has %v", p.Prefix, f.Dst, g.Prefixes)
						}
						if left := ends[f.Dst] - r.now.Boot; time.Duration(p.Valid)*time.Second >= left+time.Second && p.Valid > 0 {
							rt.Fatalf("lifetime %d s, but the binding has %v", p.Valid, left)
						}
					}
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			who := rapid.IntRange(0, 1).Draw(rt, "host")
			mac := macs[who]
			home := homes[rapid.IntRange(0, 1).Draw(rt, "address")].Addr()
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0, 1:
				frames := []*Frame{
					rs(mac, llA), ns(mac, llA, routerLL), mld(mac, none6), arp(mac, home, router4), arp(mac, none4, home),
					discover(mac), selecting(mac, router4, home), initReboot(mac, home), renewing(mac, router4, home), rebinding(mac, home),
					dhcpOf(mac, dhcpv4.MessageTypeRelease, home, router4, home, nil),
					dhcpOf(mac, dhcpv4.MessageTypeDecline, none4, all4, netip.Addr{}, map[uint8][]byte{50: home.AsSlice()}),
					dhcpOf(mac, dhcpv4.MessageTypeInform, home, all4, home, nil),
				}
				check(r.l.Handle(r.now, frames[rapid.IntRange(0, len(frames)-1).Draw(rt, "frame")], nil))
			case 2:
				g := Grant{Valid: time.Duration(rapid.IntRange(0, 30).Draw(rt, "valid")) * time.Second, Router4: router4}
				if rapid.Bool().Draw(rt, "v4") {
					g.IPv4 = homes[who]
				}
				if rapid.Bool().Draw(rt, "v6") {
					g.Prefixes = prefixes[who : who+1]
				}
				grants[mac], ends[mac] = g, r.now.Boot+g.Valid
				check(r.l.Grant(r.now, mac, g, nil))
			case 3:
				f := Families(rapid.IntRange(1, 3).Draw(rt, "families"))
				check(r.l.Deny(r.now, mac, f, "not-authorized", nil))
				g := grants[mac]
				if f&V4 != 0 {
					g.IPv4 = netip.Prefix{}
				}
				if f&V6 != 0 {
					g.Prefixes = nil
				}
				grants[mac] = g
			case 4:
				check(r.l.Forget(r.now, mac, nil))
				delete(grants, mac)
				delete(ends, mac)
			default:
				r.after(time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond)
				check(r.l.Tick(r.now, nil))
				if at, ok := r.l.Deadline(); ok && at <= r.now.Boot {
					rt.Fatalf("deadline %v is not behind %v", at, r.now.Boot)
				}
			}
		}
		// Left alone, everything is forgotten.
		for range 1000 {
			at, ok := r.l.Deadline()
			if !ok {
				break
			}
			r.now.Boot = at
			check(r.l.Tick(r.now, nil))
		}
		if g, s := r.l.Hosts(); g+s != 0 || len(r.l.owners) != 0 {
			rt.Fatalf("%d hosts, %d strangers and %d addresses are left", g, s, len(r.l.owners))
		}
	})
}
