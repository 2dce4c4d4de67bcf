package simnet

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/internal/spec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// shout sends a frame to all nodes of a network, as anybody on its access link can.
func (v *Visited) shout(f *access.Frame) {
	b, err := f.Append(nil)
	if err != nil {
		panic("simnet: " + err.Error())
	}
	for _, i := range v.here {
		i.m.heard(i, b)
	}
}

// whisper sends a packet to a node of a network, from its access link.
func (v *Visited) whisper(b []byte) {
	h, err := ip.Parse(b)
	if err != nil {
		panic("simnet: " + err.Error())
	}
	for _, i := range v.here {
		if i.has(h.Dst) {
			i.m.receive(Tunnel, h.Src, h.Dst, b)
		}
	}
}

// toNode sends packets to the node from its own access link: no NAT keeps them away.
func toNode(pkts func(a *mallory, careOf netip.Addr) [][]byte) func(*mallory) [][]byte {
	return func(a *mallory) [][]byte {
		on := a.mn.Iface("wl0").On()
		for _, b := range pkts(a, a.mn.addressOf()) {
			for n := range 10 {
				a.After(time.Duration(20*n)*ms, func() { on.whisper(bytes.Clone(b)) })
			}
		}
		return nil
	}
}

// addressOf is the node's own address in the network that it is bound from.
func (n *Node) addressOf() netip.Addr {
	bs, _ := n.Command(core.GetBindings{})
	return bs.([]core.Binding)[0].CareOf
}

// TestForgedAnswers: messages to the node in the home agent's name, and others, which change nothing.
func TestForgedAnswers(t *testing.T) {
	spec.Covers(t, "S004-3.3-19")
	to := func(m mobility.Message) func(*mallory, netip.Addr) [][]byte { // natively, as the home agent would
		return func(_ *mallory, careOf netip.Addr) [][]byte {
			return [][]byte{bare(ip.Signal{Src: ha6, Dst: careOf, DstHome: mn6}, m)}
		}
	}
	udp := func(from netip.Addr, m mobility.Message) func(*mallory, netip.Addr) [][]byte {
		return func(_ *mallory, careOf netip.Addr) [][]byte {
			return [][]byte{inUDP(netip.AddrPortFrom(from, 4191), netip.AddrPortFrom(careOf, 4191), bare(ip.Signal{Src: ha6, Dst: mn6}, m))}
		}
	}
	last := func(a *mallory) uint16 { return a.bindings(a.mn)[0].Sequence }
	ack := func(seq uint16, s mobility.Status) *mobility.BindingAck {
		return &mobility.BindingAck{Status: s, Sequence: seq, Lifetime: 10}
	}
	v4 := &mobility.BindingAck{Sequence: 5, Lifetime: 10, Options: mobility.Options{}.Add(mobility.IPv4AddressAck{PrefixLen: 32, Addr: netip.MustParseAddr("10.66.0.1")})}
	forged := func(name string, m mobility.Message, clear string) (six, four []hostile) {
		want := []string{"mn codec unprotected"}
		if clear != "" {
			want = []string{clear}
		}
		six = []hostile{{name: name, pkts: toNode(to(m)), want: want}}
		four = []hostile{
			{name: name + ", in UDP", pkts: toNode(udp(ha4, m)), want: want},
			{name: name + ", in UDP of a stranger", pkts: toNode(udp(bad4, m)), want: want},
		}
		return six, four
	}
	for _, p := range []ipsec.Protection{ipsec.ESP, ipsec.RFC4285, ""} {
		unsolicited := ""
		if p == "" { // nothing but its sequence number says that an acknowledgement is wrong
			unsolicited = "mn machine unsolicited"
		}
		var six, four []hostile
		for name, m := range map[string]mobility.Message{
			"acknowledgement that nobody asked for": ack(1, 0), "refusal that nobody asked for": ack(1, mobility.NotHomeAgent),
			"sequence number out of window": ack(1, mobility.SequenceOutOfWindow), "another IPv4 home address": v4,
		} {
			a, b := forged(name, m, unsolicited)
			six, four = append(six, a...), append(four, b...)
		}
		if p == ipsec.ESP { // the others protect none of these
			for name, m := range map[string]mobility.Message{
				"refresh request": &mobility.BindingRefreshRequest{}, "Binding Error": &mobility.BindingError{Status: 1, Home: mn6},
				"unknown type": &mobility.Raw{MHType: 77, Data: make([]byte, 2)},
			} {
				a, b := forged(name, m, "")
				six, four = append(six, a...), append(four, b...)
			}
		}
		same := []hostile{
			{name: "of who is not the home agent", want: []string{"mn machine unknown-peer"}, pkts: toNode(func(_ *mallory, careOf netip.Addr) [][]byte {
				return [][]byte{bare(ip.Signal{Src: bad6, Dst: careOf, DstHome: mn6}, ack(1, 0))}
			})},
			{name: "for another's home address", want: []string{"mn codec not-our-home-address"}, pkts: toNode(func(_ *mallory, careOf netip.Addr) [][]byte {
				return [][]byte{bare(ip.Signal{Src: ha6, Dst: careOf, DstHome: rogue6}, ack(1, 0))}
			})},
			{name: "ESP of nobody", want: []string{"mn codec unknown-spi"}, pkts: toNode(func(_ *mallory, careOf netip.Addr) [][]byte {
				return [][]byte{bareOctets(ip.Signal{Src: ha6, Dst: careOf, DstHome: mn6, Proto: ip.ESP}, make([]byte, 80))}
			})},
			{name: "a probe's answer that nobody asked for", want: []string{"mn machine unsolicited"}, pkts: toNode(func(_ *mallory, careOf netip.Addr) [][]byte {
				e := ip.Echo{Reply: true, ID: node.DefaultProbeID, Seq: 9, Data: make([]byte, 8)}
				return [][]byte{outer(ha6, careOf, ip.IPv6, outer(ha6, mn6, ip.ICMPv6, e.Append(nil, ha6, mn6)))}
			})},
			{name: "a Binding Update for the node", pkts: toNode(func(_ *mallory, careOf netip.Addr) [][]byte {
				return [][]byte{bare(ip.Signal{Src: bad6, Dst: careOf, SrcHome: nobody}, update(3))}
			}), want: []string{"mn machine unknown-peer"}},
		}
		t.Run("protection="+string(p), func(t *testing.T) {
			a := attack(t, roamOptions{seed: 6, protection: p}, "six")
			a.withstand(t, append(six, same...))
			if p == "" {
				a.withstand(t, []hostile{{name: "acknowledgement once more", want: []string{"mn machine sequence-out-of-window"},
					pkts: toNode(func(a *mallory, careOf netip.Addr) [][]byte { return to(ack(last(a), 0))(a, careOf) })}})
			}
			for _, at := range []string{"four", "nat"} {
				a = attack(t, roamOptions{seed: 6, protection: p}, at)
				a.withstand(t, four)
			}
		})
	}
}

// TestWrongSequence: while a Binding Update is without an answer, forged ones with other numbers, or from elsewhere, are none.
func TestWrongSequence(t *testing.T) {
	spec.Covers(t, "S004-3.3-19")
	a := attack(t, roamOptions{seed: 7}, "six")
	last := a.bindings(a.mn)[0].Sequence
	silent := a.core.Fault(If(From("ha1"), Lose))
	a.mn.Iface("wl0").Attach(a.nets["six2"])
	var careOf netip.Addr
	if !a.RunUntil(10*sec, func() bool {
		careOf = a.mn.candidate(v6Net(2))
		return careOf.IsValid() && a.bindings(a.mn)[0].State == "updating"
	}) {
		t.Fatal("the node does not try its new care-of address")
	}
	a.Run(300 * ms)
	before := a.counters()
	on := a.mn.Iface("wl0").On()
	for _, m := range []*mobility.BindingAck{
		{Sequence: last + 1000, Lifetime: 10}, {Sequence: last - 1, Lifetime: 10}, {Sequence: last + 2000, Status: mobility.NotHomeAgent},
		{Sequence: last - 10, Status: mobility.SequenceOutOfWindow},
	} {
		on.whisper(bare(ip.Signal{Src: ha6, Dst: careOf, DstHome: mn6}, m))
	}
	a.Run(10 * ms)
	moved := a.moved(before)
	if want := []string{"mn machine sequence-mismatch", "mn machine sequence-out-of-window"}; !slices.Equal(moved, want) {
		t.Errorf("moved %q", moved)
	}
	if b := a.bindings(a.mn)[0]; b.CareOf == careOf || b.State != "updating" {
		t.Errorf("it is %s at %s", b.State, b.CareOf)
	}
	silent()
	if !a.RunUntil(5*sec, func() bool { b := a.bindings(a.mn)[0]; return b.CareOf == careOf && b.State == "active" }) {
		t.Errorf("in the end it is %s at %s", a.bindings(a.mn)[0].State, a.bindings(a.mn)[0].CareOf)
	}
	a.bound(sec)
}

func v6Net(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("2001:db8:f%d::/64", n)) }

// candidate is an address of the node within a prefix.
func (n *Node) candidate(p netip.Prefix) netip.Addr {
	for _, i := range n.ifaces {
		for _, a := range i.addrs {
			if p.Contains(a.Addr()) {
				return a.Addr()
			}
		}
	}
	return netip.Addr{}
}

// TestAdvertisementStorm: a thousand prefixes from one forged router, from many, and in the true one's name.
func TestAdvertisementStorm(t *testing.T) {
	const perRA, prefixes = 25, 1000
	storm := func(src func(n int) netip.Addr, mac func(n int) core.MAC) func(*mallory) [][]byte {
		return func(a *mallory) [][]byte {
			on := a.mn.Iface("wl0").On()
			for n := range prefixes / perRA {
				ra := &nd.RouterAdvertisement{CurHopLimit: 64, RouterLifetime: 1800, Options: nd.Options{nd.SourceLinkLayer(mac(n))}}
				for k := range perRA {
					ra.Options = append(ra.Options, &nd.PrefixInformation{
						Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:bad:%x::/64", n*perRA+k)), OnLink: true, Autonomous: true, Valid: 7200, Preferred: 3600,
					})
				}
				for again := range 5 {
					a.After(time.Duration(5*n+200*again)*ms, func() {
						on.shout(&access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: mac(n), SrcIP: src(n), DstIP: nd.AllNodes, Body: ra})
					})
				}
			}
			return nil
		}
	}
	forged := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fe80::bad:%x", n+1)) }
	mac := func(n int) core.MAC { return core.MAC{2, 0xba, 0xd0, 0, byte(n >> 8), byte(n)} }
	a := attack(t, roamOptions{seed: 8, protection: ipsec.ESP}, "six")
	v := a.nets["six"]
	a.bindingsOnly = true // addresses may be formed, up to a limit
	a.withstand(t, []hostile{
		{name: "one router", want: []string{"mn machine prefix-limit"}, pkts: storm(func(int) netip.Addr { return forged(0) }, func(int) core.MAC { return mac(0) })},
		{name: "many routers", want: []string{"mn machine prefix-limit", "mn machine rate-limit"}, pkts: storm(forged, mac)},
		{name: "in the router's name", want: []string{"mn machine prefix-limit"}, pkts: storm(func(int) netip.Addr { return v.linkLocal() }, func(int) core.MAC { return v.mac })},
		{name: "too many options", want: []string{"mn machine too-many-options"}, pkts: func(a *mallory) [][]byte {
			ra := &nd.RouterAdvertisement{RouterLifetime: 1800}
			for k := range 40 {
				ra.Options = append(ra.Options, &nd.PrefixInformation{Prefix: v6Net(k), OnLink: true, Valid: 1}, nd.MTU(1500))
			}
			v.shout(&access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: mac(0), SrcIP: forged(0), DstIP: nd.AllNodes, Body: ra})
			return nil
		}},
	})
	if n := len(a.mn.Iface("wl0").addrs); n > 8 {
		t.Errorf("%d addresses", n)
	}
	a.mn.Iface("wl0").Attach(nil)
	a.Run(sec)
	a.mn.Iface("wl0").Attach(a.nets["nat"])
	a.bound(5 * sec)
}
