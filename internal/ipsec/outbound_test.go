package ipsec

import (
	"bytes"
	"net/netip"
	"testing"

	"kedge/wire"
	"kedge/wire/ip"
)

// TestOutboundRefused: what the policy does not let out, or not this way, leaves in no form.
func TestOutboundRefused(t *testing.T) {
	ha, mn := pair(t, "aes128-sha256")
	if err := mn.UpdateEndpoint("ha1", home1, careOf, agent); err != nil {
		t.Fatal(err)
	}
	packet := func(src, dst netip.Addr, body []byte) []byte {
		b, err := (&ip.Header{Src: src, Dst: dst, Proto: ProtoMH, TTL: 64}).Append(nil, len(body))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, body...)
	}
	before := []byte("before")
	for name, tr := range map[string]Traffic{
		"a Binding Update from the care-of address without Home Address option": {Local: careOf, Remote: agent, Proto: ProtoMH, Type: 5},
		"a Home Test Init in transport mode":                                    {Local: home1, Remote: cn, Proto: ProtoMH, Type: 1},
	} {
		if out, _, auth, err := mn.Outbound(at(0), tr, mh(tr.Type), before); reasonOf(err) != wire.WrongAssociation || auth.Kind != "" || !bytes.Equal(out, before) {
			t.Errorf("%s: %q %v %v", name, out, auth, err)
		}
	}
	for name, body := range map[string][]byte{"for transport mode": mh(5), "for nothing": mh(6)} {
		src := home1
		if body[2] == 6 {
			src = careOf
		}
		b := packet(src, agent, body)
		tr, err := InnerTraffic(b, true)
		if err != nil {
			t.Fatal(err)
		}
		if out, _, err := mn.Tunnel(at(0), tr, b, before); reasonOf(err) != wire.WrongAssociation || !bytes.Equal(out, before) {
			t.Errorf("tunnel %s: %q %v", name, out, err)
		}
	}
	hoti := Traffic{Local: home1, Remote: cn, Proto: ProtoMH, Type: 1}
	if out, _, err := mn.Tunnel(at(0), hoti, []byte("no packet"), before); err == nil || !bytes.Equal(out, before) {
		t.Errorf("%q %v", out, err)
	}
	// More than an outer header can say the length of.
	if out, _, err := mn.Tunnel(at(0), hoti, packet(home1, cn, append(mh(1), make([]byte, 65500)...)), before); reasonOf(err) != wire.TooLong || !bytes.Equal(out, before) {
		t.Errorf("%d octets, %v", len(out), err)
	}
	for _, b := range [][]byte{nil, packet(home1, cn, nil), packet(home1, cn, mh(1))[:45]} {
		if tr, err := InnerTraffic(b, true); err == nil {
			t.Errorf("%x: %v", b, tr)
		}
	}
	if n := mn.Drops()[wire.WrongAssociation]; n != 4 {
		t.Errorf("%d counted", n)
	}
	// What no association can protect is not sent in the clear instead.
	ha.peers["mn1"].out[Signalling].Store(nil)
	if out, _, _, err := ha.Outbound(at(0), Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: ProtoMH, Type: 6}, mh(6), nil); reasonOf(err) != wire.WrongAssociation || len(out) > 0 {
		t.Errorf("%x %v", out, err)
	}
}

// TestTunnelOverIPv4 carries the home address's packets between IPv4 care-of and home agent addresses.
func TestTunnelOverIPv4(t *testing.T) {
	ha, mn := pair(t, "aes128-sha256")
	a4, c4 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.7")
	if err := mn.UpdateEndpoint("ha1", home1, c4, a4); err != nil {
		t.Fatal(err)
	}
	if err := ha.UpdateEndpoint("mn1", home1, a4, c4); err != nil {
		t.Fatal(err)
	}
	inner, _ := (&ip.Header{Src: home1, Dst: cn, Proto: ProtoMH, TTL: 64}).Append(nil, 16)
	inner = append(inner, mh(1)...)
	tr, _ := InnerTraffic(inner, true)
	b, _, err := mn.Tunnel(at(0), tr, inner, nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ip.Parse(b)
	if err != nil || h.Src != c4 || h.Dst != a4 || h.Proto != ProtoESP || h.Len != len(b) {
		t.Fatal(h, err)
	}
	if got, _, _, err := ha.Inbound(at(0), Traffic{Local: h.Dst, Remote: h.Src}, b[h.HdrLen:], nil); err != nil || !bytes.Equal(got, inner) {
		t.Errorf("%x %v", got, err)
	}
}
