package simnet

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/internal/spec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// layers of a packet: its headers from the outside in, and what they carry.
type layers struct {
	outer, inner ip.Header // inner is outer if there is one only
	udp          bool
	dstPort      uint16
	s            ip.Signal // of inner, if that is IPv6
	body         []byte    // of inner, behind its extension headers
}

func peel(t *testing.T, b []byte) (l layers) {
	t.Helper()
	h, err := ip.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	l.outer = h
	u, _ := ip.FindUpper(b, &h)
	switch u.Proto {
	case ip.UDP:
		l.udp, l.dstPort = true, uint16(b[u.Off+2])<<8|uint16(b[u.Off+3])
		if l.dstPort != 4191 && u.Off+ip.UDPLen <= len(b) {
			break
		}
		b = b[u.Off+ip.UDPLen:]
	case ip.IPv4, ip.IPv6:
		b = b[u.Off:]
	}
	if h, err = ip.Parse(b); err != nil {
		t.Fatal(err)
	}
	l.inner = h
	if h.Is4() {
		l.s = ip.Signal{Src: h.Src, Dst: h.Dst, Proto: h.Proto}
		l.body = b[h.HdrLen:]
		return l
	}
	if l.s, err = ip.ParseSignal(b); err != nil {
		t.Fatal(err)
	}
	l.body = b[l.s.Off:]
	return l
}

// updateIn reads the Binding Update of a packet, nil if it has none in the clear.
func (l *layers) updateIn() *mobility.BindingUpdate {
	if l.s.Proto != ip.Mobility {
		return nil
	}
	src, dst := l.s.Ends()
	m, err := mobility.Parse(l.body, src, dst)
	bu, ok := m.(*mobility.BindingUpdate)
	if err != nil || !ok {
		return nil
	}
	return bu
}

func soliman(c *node.Config) { c.Anchor.Dialect = node.Soliman }

// watched makes a world whose core is watched. look sees each packet once.
func watched(t *testing.T, o roamOptions, look func(l layers)) *roam {
	t.Helper()
	r := newRoam(t, o)
	r.Tap = func(p *Packet) {
		if p.Link == "core" {
			look(peel(t, bytes.Clone(p.B)))
		}
	}
	return r
}

// TestOnlyMobileIPv6: on its way through networks of both families a node says nothing but Mobility Headers and goes on with
// what it had, in the draft's profile without UDP, and with nobody but the home agent.
func TestOnlyMobileIPv6(t *testing.T) {
	spec.Covers(t, "S004-1-02", "S004-1.1-01", "S004-2.3-02", "S004-2.3-03", "S004-3.5-01")
	for _, d := range []node.Dialect{node.RFC5555, node.Soliman} {
		protos := map[uint8]int{}
		r := watched(t, roamOptions{seed: 21, protection: ipsec.RFC4285, node: func(c *node.Config) { c.Anchor.Dialect = d }}, func(l layers) {
			protos[l.s.Proto]++
			switch {
			case d == node.Soliman && l.udp:
				t.Errorf("%s: UDP from %s to %s", d, l.outer.Src, l.outer.Dst)
			case l.udp && l.dstPort == 434:
				t.Errorf("%s: Mobile IPv4 from %s", d, l.outer.Src)
			case l.s.Proto == ip.Mobility:
				if typ := mobility.Type(l.body[2]); typ != mobility.TypeBindingUpdate && typ != mobility.TypeBindingAck {
					t.Errorf("%s: a message of type %d", d, typ)
				}
			case l.s.Proto != ip.ICMPv4 && l.s.Proto != ip.ICMPv6:
				t.Errorf("%s: protocol %d from %s", d, l.s.Proto, l.inner.Src)
			}
			// Whatever is said goes to the home agent or comes from it: also what is for correspondents.
			agent := func(a netip.Addr) bool { return a == ha4 || a == ha6 }
			if !agent(l.outer.Src) && !agent(l.outer.Dst) {
				t.Errorf("%s: from %s to %s, past the home agent", d, l.outer.Src, l.outer.Dst)
			}
		})
		for _, name := range []string{"six", "four", "dual", "four", "six2"} {
			r.mn.Iface("wl0").Attach(r.nets[name])
			r.bound(5 * sec)
			r.Run(2 * sec)
		}
		if len(r.cn.Replies) < 10 || protos[ip.Mobility] < 10 {
			t.Errorf("%s: %d replies, protocols %v", d, len(r.cn.Replies), protos)
		}
	}
}

// TestPrivateIPv4WithIPv6: behind a NAT the draft's node uses the IPv6 that the network has besides.
func TestPrivateIPv4WithIPv6(t *testing.T) {
	spec.Covers(t, "S004-2.2-06")
	updates := 0
	r := watched(t, roamOptions{seed: 22, protection: ipsec.RFC4285, node: soliman}, func(l layers) {
		if bu := l.updateIn(); bu != nil {
			updates++
			if l.outer != l.inner || !v6Net(3).Contains(l.s.Src) || l.s.SrcHome != mn6 {
				t.Errorf("a Binding Update from %s, with home address %s", l.s.Src, l.s.SrcHome)
			}
		}
	})
	r.mn.Iface("wl0").Attach(r.nets["dual"])
	r.bound(5 * sec)
	if updates == 0 {
		t.Error("no Binding Update was seen")
	}
}

// TestUpdateWithIPv4: natively a Binding Update with an IPv4 home address differs from one without by that option alone.
func TestUpdateWithIPv4(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-05")
	for _, d := range []node.Dialect{node.RFC5555, node.Soliman} {
		var plain, with *mobility.BindingUpdate
		var headers [2]ip.Signal
		for i, into := range []**mobility.BindingUpdate{&plain, &with} {
			r := watched(t, roamOptions{seed: 23, node: func(c *node.Config) {
				c.Anchor.Dialect = d
				if i == 0 {
					c.Home.IPv4, c.Home.V4 = node.IPv4None, netip.Prefix{}
				}
			}}, func(l layers) {
				if bu := l.updateIn(); bu != nil && *into == nil {
					c := *bu
					c.Options = bytes.Clone(bu.Options)
					*into, headers[i] = &c, l.s
				}
			})
			r.mn.Iface("wl0").Attach(r.nets["six"])
			r.Run(2 * sec)
		}
		a, b := headers[0], headers[1]
		a.Len, b.Len = 0, 0
		if a != b || plain.Sequence != with.Sequence || plain.Flags != with.Flags || plain.Lifetime != with.Lifetime {
			t.Errorf("%s: %+v %+v\n%+v %+v", d, a, plain, b, with)
		}
		if len(kinds(with)) != 2 || !slices.Equal(kinds(plain), kinds(with)[:1]) || kinds(with)[1] != mobility.OptIPv4HomeAddress {
			t.Errorf("%s: options %v and %v", d, kinds(plain), kinds(with))
		}
	}
}

// kinds names the types of the options of a Binding Update but padding.
func kinds(bu *mobility.BindingUpdate) (types []mobility.OptionType) {
	for o := range bu.Options.All() {
		types = append(types, o.Type)
	}
	return types
}

// TestOptionLengths: the IPv4 Home Address option with length 1, 4 and 6 says the same address, here one of RFC 1918, and 0.0.0.0
// asks for it.
func TestOptionLengths(t *testing.T) {
	spec.Covers(t, "S004-3.1.1-03", "S004-3.1.1-04", "S004-3.1.1-05", "S004-3.4-10")
	for want, change := range map[byte]func(*node.Config){
		1: soliman, 4: func(c *node.Config) { soliman(c); c.Anchor.ShortOctet = true }, 6: func(*node.Config) {},
	} {
		for _, dynamic := range []bool{false, true} {
			asked := netip.Addr{}
			r := watched(t, roamOptions{seed: 24, node: func(c *node.Config) {
				change(c)
				if dynamic {
					c.Home.IPv4, c.Home.V4 = node.IPv4Dynamic, netip.Prefix{}
				}
			}}, func(l layers) {
				bu := l.updateIn()
				if bu == nil || asked.IsValid() {
					return
				}
				at := bytes.IndexByte(bu.Options, byte(mobility.OptIPv4HomeAddress))
				if at < 0 || bu.Options[at+1] != want {
					t.Errorf("options %x, want length %d", bu.Options, want)
				}
				for v := range bu.Options.IPv4HomeAddresses() {
					asked = v.Addr
				}
			})
			r.mn.Iface("wl0").Attach(r.nets["six"])
			r.bound(5 * sec)
			ask := mn4
			if dynamic {
				ask = netip.IPv4Unspecified()
			}
			all, err := r.ha.Command(core.GetBindings{Filter: mn4.String()})
			if err != nil || len(all.([]core.Binding)) != 1 || all.([]core.Binding)[0].IPv4.Addr() != mn4 || !mn4.IsPrivate() || asked != ask {
				t.Errorf("length %d: asked for %s, bound %+v, %v", want, asked, all, err)
			}
		}
	}
}

// TestAddressStatus: of the statuses of an IPv4 Address Acknowledgement those below 128 mean success, also ones that nobody has
// defined, and the others failure.
func TestAddressStatus(t *testing.T) {
	spec.Covers(t, "S004-3.2.1-04")
	for status, bound := range map[mobility.AddressStatus]bool{0: true, 5: true, 127: true, 128: false, 130: false, 200: false, 255: false} {
		r := newRoam(t, roamOptions{seed: 25})
		r.core.Fault(func(p *Packet) Verdict {
			s, err := ip.ParseSignal(p.B)
			if p.From != "ha1" || err != nil || s.Proto != ip.Mobility {
				return Verdict{}
			}
			at := s.Off + 12 + bytes.Index(p.B[s.Off+12:], []byte{byte(mobility.OptIPv4AddressAck), 6})
			p.B[at+2] = byte(status)
			src, dst := s.Ends()
			copy(p.B, mhSum(p.B, s.Off, src, dst))
			return Verdict{}
		})
		r.mn.Iface("wl0").Attach(r.nets["six"])
		r.Run(3 * sec)
		var homes []netip.Addr
		for _, b := range r.mn.list() {
			homes = append(homes, b.Home[0].Addr())
		}
		want := []netip.Addr{mn6}
		if bound {
			want = append(want, mapped(mn4))
		}
		if !slices.Equal(homes, want) {
			t.Errorf("status %d: the Binding Update List has %v, want %v", status, homes, want)
		}
	}
}

// list is a node's Binding Update List.
func (n *Node) list() []core.Binding {
	all, err := n.Command(core.GetBindings{})
	if err != nil {
		return nil
	}
	return all.([]core.Binding)
}
