package signal

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestForms: a Binding Update and its acknowledgement through codecs and data planes of both sides, in every framing and under
// every protection. What the machines see is the same; what is on the wire is as the documents have it.
func TestForms(t *testing.T) {
	spec.Covers(t, "S004-2.2.1-01", "S004-2.2.1-11", "S004-2.2.2-01", "S004-2.2.2-02", "S004-2.2.2-03", "S004-2.2.2-04", "S004-2.2.2-12",
		"S004-3.3-05", "S004-3.3-06", "S004-3.3-07", "S004-3.3-08", "S004-3.3-09", "S004-3.3-13",
		"S004-3.4-16", "S004-3.4-17", "S004-3.4-18", "S004-3.4-19", "S004-3.4-20",
		"RFC3776-3.1", "RFC5555-4.1", "RFC6275-6.3", "RFC6275-6.4")
	for _, form := range []struct {
		name     string
		path     core.Path
		careOf   netip.Addr
		bu, ba   string // headers on the wire; X stands for what protects
		fromPort uint16 // what a NAT makes of the source port
	}{
		{"IPv6", byIPv6, coa6,
			"2001:db8:c::77>2001:db8:a::1|60[0xc9,2001:db8:2000::5]|X",
			"2001:db8:a::1>2001:db8:c::77|43[2,1,2001:db8:2000::5]|X", 0},
		{"UDP", byUDP, hoa,
			"192.0.2.77>198.51.100.1|17[4191>4191]|2001:db8:2000::5>2001:db8:a::1|X",
			"198.51.100.1>192.0.2.77|17[4191>4191]|2001:db8:a::1>2001:db8:2000::5|X", 0},
		{"protocol 41", by41, mapped,
			"192.0.2.77>198.51.100.1|41|::ffff:192.0.2.77>2001:db8:a::1|60[0xc9,2001:db8:2000::5]|X",
			"198.51.100.1>192.0.2.77|41|2001:db8:a::1>::ffff:192.0.2.77|43[2,1,2001:db8:2000::5]|X", 0},
		{"at home", atHome, hoa, "2001:db8:2000::5>2001:db8:a::1|X", "2001:db8:a::1>2001:db8:2000::5|X", 0},
	} {
		for _, protection := range []ipsec.Protection{ipsec.None, ipsec.ESP, ipsec.RFC4285} {
			t.Run(form.name+" "+string(protection), func(t *testing.T) {
				ha, mn, _ := pair(t, protection)
				net := newNetwork(t)
				proto := map[ipsec.Protection]string{ipsec.ESP: "50"}[protection]
				if proto == "" {
					proto = "135"
				}
				sent := packet(t, form.path, update(form.careOf))
				outer, inner, chain := net.carry(t, true, form.path.Outer, mustOut(t, mn, sent))
				if got, want := headers(t, outer), strings.Replace(form.bu, "X", proto, 1); got != want {
					t.Errorf("the Binding Update is\n %s, want\n %s", got, want)
				}
				came := core.Packet{If: 3, B: []byte("an old buffer")}
				if err := ha.In(now(), inner, chain, &came); err != nil {
					t.Fatal(err)
				}
				auth := core.Auth{Kind: string(protection), Peer: "mn1"}
				if protection != ipsec.None {
					auth.SPI = 0x1001
				}
				if came.If != 3 || came.Src != sent.Src || came.Dst != sent.Dst || came.SrcHome != sent.SrcHome || came.DstHome.IsValid() || came.Auth != auth {
					t.Errorf("the home agent sees %+v", came)
				}
				m := decoded(t, &came)
				bu := m.Body.(*mobility.BindingUpdate)
				if bu.Sequence != 7 {
					t.Errorf("it became %+v", bu)
				}
				if v4, ok := bu.Options.IPv4HomeAddress(); !ok || v4.Addr != hoa4 {
					t.Errorf("the IPv4 Home Address option became %+v, %v", v4, ok)
				}

				// The answer takes the request's path as it is.
				outer, inner, chain = net.carry(t, false, m.Path.Outer, mustOut(t, ha, packet(t, m.Path, ack)))
				if got, want := headers(t, outer), strings.Replace(form.ba, "X", proto, 1); got != want {
					t.Errorf("the acknowledgement is\n %s, want\n %s", got, want)
				}
				if err := mn.In(now(), inner, chain, &came); err != nil {
					t.Fatal(err)
				}
				auth.Peer = "ha1"
				if protection == ipsec.ESP {
					auth.SPI = 0x1002
				}
				if came.Auth != auth || came.DstHome != form.path.Own || came.SrcHome.IsValid() {
					t.Errorf("the node sees %+v", came)
				}
				m = decoded(t, &came)
				if ba := m.Body.(*mobility.BindingAck); ba.Sequence != 7 || m.Path.Own != form.path.Own || m.Path.Local != form.path.Local || m.Path.Remote != form.path.Remote {
					t.Errorf("it became %+v by %+v", ba, m.Path)
				}
				if len(drops(ha))+len(drops(mn)) != 0 {
					t.Errorf("drops %v, %v", drops(ha), drops(mn))
				}
			})
		}
	}
}

// TestMobilityAuthenticationOption: the option of RFC 4285 5 is the last, at 4n+1, and the header ends on eight octets.
func TestMobilityAuthenticationOption(t *testing.T) {
	spec.Covers(t, "RFC4285-5", "RFC4285-5.1")
	_, mn, _ := pair(t, ipsec.RFC4285)
	for _, vs := range [][]mobility.Value{
		nil,
		{mobility.AlternateCareOf{Addr: coa6}},
		{mobility.IPv4HomeAddress{Addr: hoa4}},
		{mobility.MobileNodeID{Subtype: 1, ID: "a@b"}}, {mobility.MobileNodeID{Subtype: 1, ID: "ab@b"}}, {mobility.MobileNodeID{Subtype: 1, ID: "abc@b"}}, {mobility.MobileNodeID{Subtype: 1, ID: "abcd@b"}},
		{mobility.IPv4HomeAddress{Addr: hoa4, Short: 1}},
		{mobility.IPv4HomeAddress{Addr: hoa4, Short: 4}},
	} {
		bu := &mobility.BindingUpdate{Sequence: 1, Flags: mobility.BUAck, Options: mobility.Options{}.Add(vs...)}
		b := mustOut(t, mn, packet(t, byIPv6, bu))[64:]
		at := bytes.LastIndex(b, []byte{9, 17, 1, 0, 0, 0x10, 1})
		if at < 0 || at%4 != 1 || len(b)%8 != 0 || len(b) != 8*(int(b[1])+1) || len(b)-at-19 > 7 {
			t.Errorf("%v: option at %d of %x", vs, at, b)
		}
		for _, o := range bytes.Split(b[at+19:], nil) {
			if o[0] > 4 {
				t.Errorf("%v: behind the option: %x", vs, b[at+19:])
			}
		}
		m, err := mobility.Parse(b, hoa, haV6)
		if err != nil {
			t.Fatalf("%v: %v", vs, err)
		}
		n := 0
		for o := range m.GetOptions().All() {
			if n++; n == len(vs)+1 && o.Type != mobility.OptAuthentication {
				t.Errorf("%v: the last option is %d", vs, o.Type)
			}
		}
		if n != len(vs)+1 {
			t.Errorf("%v: %d options", vs, n)
		}
	}
}
