package signal

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/internal/loop"
	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var cnV6 = netip.MustParseAddr("2001:db8:d::99")

// uses gives the associations of a node for all that ESP protects, from the home agent's side. Those of sas(spi+2) protect return
// routability, those of sas(spi+4) prefix discovery.
func uses(spi uint32) (all []ipsec.SA) {
	for i, u := range []ipsec.Use{ipsec.Signalling, ipsec.ReturnRoutability, ipsec.PrefixDiscovery} {
		sa := sas(spi + 2*uint32(i))
		sa.Use = u
		all = append(all, sa)
	}
	return all
}

// ways is a home agent, a node that is bound there, and a correspondent node: their codecs, and the data planes around them.
type ways struct {
	ha, mn, cn *Codec
	haEngine   *ipsec.Engine
	mnEngine   *ipsec.Engine
	net        network
	frames     [][]byte // all that was on a wire
}

// newWays binds the node at a care-of address. keys: of all uses, else of signalling alone.
func newWays(t testing.TB, keys bool, careOf netip.Addr) *ways {
	t.Helper()
	peers := func(name string, home netip.Addr, spi uint32) (a, m ipsec.Peer) {
		a, m = peers(ipsec.ESP, name, home, spi)
		if keys {
			a.SAs = uses(spi)
		}
		m.SAs = nil
		for _, sa := range a.SAs {
			m.SAs = append(m.SAs, swap(sa))
		}
		a.Own = []netip.Addr{haV6}
		return a, m
	}
	a1, m1 := peers("mn1", hoa, 0x1001)
	a2, _ := peers("mn2", otherHoA, 0x2001)
	w := &ways{haEngine: engine(t, a1, a2), mnEngine: engine(t, m1), net: newNetwork(t)}
	w.ha = NewCodec(Config{IPsec: w.haEngine, Local: []netip.Addr{haV6}})
	w.mn = NewCodec(Config{IPsec: w.mnEngine, Homes: []netip.Addr{hoa}})
	w.cn = NewCodec(Config{})
	w.net.ha.Guard(w.ha.Guards)
	w.bind(t, careOf)
	return w
}

// bind moves the binding, as both machines do: the sessions of data, and the tunnels of the associations.
func (w *ways) bind(t testing.TB, careOf netip.Addr) {
	t.Helper()
	agent := haV6
	if careOf.Is4() {
		agent = haV4
	}
	down, up := tunnel(port(agent), port(careOf)), tunnel(port(careOf), port(agent))
	for _, err := range []error{
		w.net.ha.Update([]core.Op{core.SetSession{ID: 1, Chain: down}, core.SetKey{ID: 1, Match: core.Match{Dst: netip.PrefixFrom(hoa, 128)}, Up: true, Down: true}}),
		w.net.mn.Update([]core.Op{core.SetSession{ID: 1, Chain: up}, core.SetKey{ID: 1, Match: core.Match{Src: netip.PrefixFrom(hoa, 128)}, Up: true, Down: true}}),
		w.ha.UpdateEndpoint("mn1", hoa, agent, careOf),
		w.mn.UpdateEndpoint("ha1", hoa, careOf, agent),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// record keeps a packet of the wire for tshark.
func (w *ways) record(b []byte) []byte {
	ethertype := []byte{0x86, 0xdd}
	if b[0]>>4 == 4 {
		ethertype = []byte{8, 0}
	}
	w.frames = append(w.frames, slices.Concat([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, ethertype, b))
	return bytes.Clone(b)
}

// encode is what the loop makes of a message and its path.
func encode(t testing.TB, p core.Path, body any) core.Packet {
	t.Helper()
	if m, ok := body.(mobility.Message); ok {
		return packet(t, p, m)
	}
	src, dst := p.Local.Addr(), p.Remote.Addr()
	if p.Own.IsValid() {
		src = p.Own
	}
	if p.Home.IsValid() {
		dst = p.Home
	}
	b, err := nd.Append(nil, body.(nd.Message), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	return core.Packet{If: p.If, Src: p.Local, Dst: p.Remote, SrcHome: p.Own, DstHome: p.Home, Proto: ip.ICMPv6, Outer: p.Outer, Auth: p.Auth, B: b}
}

// send gives what a codec and the data plane beside it put on the wire for a message.
func (w *ways) send(t testing.TB, c *Codec, plane *mem.Engine, path core.Path, body any) []byte {
	t.Helper()
	p := encode(t, path, body)
	b, err := c.Out(now(), &p, nil)
	if err != nil {
		t.Fatalf("%T: %v", body, err)
	}
	if p.Outer.N == 0 {
		return w.record(b)
	}
	var out mem.Out
	if err := plane.Encapsulate(time.Hour, p.Outer, b, &out); err != nil || len(out.Packets) != 1 {
		t.Fatalf("%T: %d packets, %v", body, len(out.Packets), err)
	}
	return w.record(out.Packets[0].B)
}

// arrival is what becomes of a packet of the wire: a message, a packet that goes on, or an error.
type arrival struct {
	msg  core.Message
	on   []byte // natively, to somebody else
	err  error
	pkts int
}

// arrive gives a packet of the wire to a host, as its sockets do: signalling natively, tunnels to the data plane.
func (w *ways) arrive(c *Codec, plane *mem.Engine, wirePkt []byte) (a arrival) {
	into := core.Packet{}
	s, err := ip.ParseSignal(wirePkt)
	if err != nil || s.Proto != ip.ESP && s.Proto != ip.Mobility && s.Proto != ip.ICMPv6 {
		var out mem.Out
		plane.Tunnel(time.Hour, bytes.Clone(wirePkt), &out)
		return w.from(c, plane, &out)
	}
	if a.err = c.In(now(), bytes.Clone(wirePkt), core.Chain{}, &into); a.err != nil {
		return a
	}
	return w.came(c, plane, &into)
}

// routed gives a packet to the home agent that routes lead to it for a home address.
func (w *ways) routed(pkt []byte) arrival {
	var out mem.Out
	w.net.ha.Native(time.Hour, mem.Native{B: bytes.Clone(pkt)}, &out)
	return w.from(w.ha, w.net.ha, &out)
}

// from is what becomes of what a data plane gives.
func (w *ways) from(c *Codec, plane *mem.Engine, out *mem.Out) (a arrival) {
	a.pkts = len(out.Packets)
	for _, p := range out.Packets {
		switch {
		case p.To != dataplane.ToSignal:
			a.on = bytes.Clone(p.B)
		case p.Outer.N == 0:
			if a.on, a.err = c.Protect(now(), p.B, nil); a.err != nil {
				a.on = nil
			}
		default:
			into := core.Packet{}
			if a.err = c.In(now(), bytes.Clone(p.B), p.Outer, &into); a.err == nil {
				return w.came(c, plane, &into)
			}
		}
	}
	return a
}

func (w *ways) came(c *Codec, plane *mem.Engine, p *core.Packet) (a arrival) {
	if p.Proto == ip.IPv6 {
		var out mem.Out
		plane.Inject(time.Hour, p.Outer, p.B, &out)
		return w.from(c, plane, &out)
	}
	m, ok := loop.Decode("mh", p).(core.Message)
	if !ok || m.Err != nil {
		return arrival{err: m.Err}
	}
	return arrival{msg: m}
}

// Paths of a bound node's messages (see the package's agreement with the machines): what is in the tunnel has its chain.
var (
	inTunnel = tunnel(port(coa6), port(haV6))
	hotiPath = core.Path{Local: port(hoa), Remote: port(cnV6), Outer: inTunnel}
	homeTest = &mobility.Test{NonceIndex: 7, Cookie: [8]byte{1, 2, 3}, Token: [8]byte{4, 5, 6}}
	hoti     = &mobility.TestInit{Cookie: [8]byte{1, 2, 3}}
)

// TestReturnRoutabilityTravels: Home Test Init and Home Test, from the node to the correspondent and back, plainly in the tunnel and in
// ESP; both ends see the same either way.
func TestReturnRoutabilityTravels(t *testing.T) {
	spec.Covers(t, "RFC3776-3.2", "RFC4877-6.2")
	for _, keys := range []bool{false, true} {
		w := newWays(t, keys, coa6)
		out := w.send(t, w.mn, w.net.mn, hotiPath, hoti)
		want := "2001:db8:c::77>2001:db8:a::1|41|2001:db8:2000::5>2001:db8:d::99|135"
		if keys {
			want = "2001:db8:c::77>2001:db8:a::1|50"
		}
		if got := headers(t, out); got != want {
			t.Errorf("keys %v: HoTI as %s, want %s", keys, got, want)
		}
		at := w.arrive(w.ha, w.net.ha, out)
		if at.err != nil || at.on == nil || headers(t, at.on) != "2001:db8:2000::5>2001:db8:d::99|135" {
			t.Fatalf("keys %v: at the home agent: %+v", keys, at)
		}
		got := w.arrive(w.cn, nil, w.record(at.on))
		if d := cmp.Diff(core.Path{Local: port(cnV6), Remote: port(hoa), Auth: core.Auth{Kind: "none"}}, got.msg.Path, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || got.err != nil {
			t.Errorf("keys %v: at the correspondent: %v %s", keys, got.err, d)
		}
		if m, ok := got.msg.Body.(*mobility.TestInit); !ok || m.Cookie != hoti.Cookie {
			t.Errorf("%#v", got.msg.Body)
		}

		back := w.routed(w.send(t, w.cn, nil, core.Path{Local: port(cnV6), Remote: port(hoa)}, homeTest))
		want = "2001:db8:a::1>2001:db8:c::77|41|2001:db8:d::99>2001:db8:2000::5|135"
		if keys {
			want = "2001:db8:a::1>2001:db8:c::77|50"
		}
		if back.err != nil || back.on == nil || headers(t, back.on) != want {
			t.Fatalf("keys %v: HoT at the home agent: %+v", keys, back)
		}
		got = w.arrive(w.mn, w.net.mn, w.record(back.on))
		m, ok := got.msg.Body.(*mobility.Test)
		if !ok || m.Token != homeTest.Token {
			t.Fatalf("keys %v: at the node: %+v", keys, got)
		}
		wantAuth := core.Auth{Kind: "none"}
		if keys {
			wantAuth = core.Auth{Kind: "esp", SPI: 0x1004, Peer: "ha1"}
		}
		if p := got.msg.Path; p.Local != port(hoa) || p.Remote != port(cnV6) || p.Outer != inTunnel || p.Auth != wantAuth || p.Own.IsValid() {
			t.Errorf("keys %v: %+v", keys, p)
		}
		if len(drops(w.ha))+len(drops(w.mn)) != 0 {
			t.Errorf("keys %v: drops %v %v", keys, drops(w.ha), drops(w.mn))
		}
	}
}

// TestMessagesWithCorrespondents: what goes natively between a care-of address and a correspondent, each way.
func TestMessagesWithCorrespondents(t *testing.T) {
	spec.Covers(t, "RFC6275-6.3", "RFC6275-6.4")
	w := newWays(t, true, coa6)
	direct := core.Path{If: 4, Local: port(coa6), Remote: port(cnV6)}
	with := direct
	with.Own = hoa
	mirror := func(p core.Path) core.Path {
		return core.Path{Local: p.Remote, Remote: p.Local, Home: p.Own, Auth: core.Auth{Kind: "none"}}
	}
	for _, c := range []struct {
		name     string
		up       bool
		path     core.Path // at the sender
		body     mobility.Message
		protocol string
	}{
		{"CoTI", true, direct, &mobility.TestInit{CareOf: true, Cookie: [8]byte{9}}, "2001:db8:c::77>2001:db8:d::99|135"},
		{"CoT", false, core.Path{Local: port(cnV6), Remote: port(coa6)}, &mobility.Test{CareOf: true, NonceIndex: 3, Cookie: [8]byte{9}}, "2001:db8:d::99>2001:db8:c::77|135"},
		{"BU", true, with, &mobility.BindingUpdate{Sequence: 5, Lifetime: 100, Flags: mobility.BUAck}, "2001:db8:c::77>2001:db8:d::99|60[0xc9,2001:db8:2000::5]|135"},
		{"BA", false, core.Path{Local: port(cnV6), Remote: port(coa6), Home: hoa}, &mobility.BindingAck{Sequence: 5, Lifetime: 100}, "2001:db8:d::99>2001:db8:c::77|43[2,1,2001:db8:2000::5]|135"},
		{"BRR", false, core.Path{Local: port(cnV6), Remote: port(coa6), Home: hoa}, &mobility.BindingRefreshRequest{}, "2001:db8:d::99>2001:db8:c::77|43[2,1,2001:db8:2000::5]|135"},
		{"BE", false, core.Path{Local: port(cnV6), Remote: port(coa6)}, &mobility.BindingError{Status: mobility.UnknownBinding, Home: hoa}, "2001:db8:d::99>2001:db8:c::77|135"},
	} {
		from, to := w.mn, w.cn
		if !c.up {
			from, to = to, from
		}
		b := w.send(t, from, nil, c.path, c.body)
		if got := headers(t, b); got != c.protocol {
			t.Errorf("%s: %s, want %s", c.name, got, c.protocol)
		}
		a := w.arrive(to, nil, b)
		want := mirror(c.path)
		if !c.up { // the node's home address is its own
			want.Own, want.Home = c.path.Home, netip.Addr{}
		}
		if a.err != nil || a.msg.Path.Local != want.Local || a.msg.Path.Remote != want.Remote || a.msg.Path.Own != want.Own || a.msg.Path.Home != want.Home || a.msg.Path.Auth.Kind != "none" {
			t.Errorf("%s: %v %+v, want %+v", c.name, a.err, a.msg.Path, want)
		}
		if m, ok := a.msg.Body.(mobility.Message); !ok || m.Type() != c.body.Type() {
			t.Errorf("%s: %#v", c.name, a.msg.Body)
		}
	}
}

// Paths of prefix discovery, from the node's side.
var (
	mpsIPv6 = core.Path{Local: port(coa6), Remote: port(haV6), Own: hoa}
	mpsIPv4 = core.Path{Local: port(hoa), Remote: port(haV6), Outer: tunnel(port(coa4), port(haV4))}
	mpsUDP  = core.Path{Local: port(hoa), Remote: port(haV6), Outer: tunnel(netip.AddrPortFrom(coa4, 4191), netip.AddrPortFrom(haV4, 4191))}
	mpsHome = core.Path{If: 3, Local: port(hoa), Remote: port(haV6)}
	mps     = &nd.MobilePrefixSolicitation{ID: 0x1234}
	mpa     = &nd.MobilePrefixAdvertisement{ID: 0x1234, Options: nd.Options{&nd.PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:2000::/64"), OnLink: true, Autonomous: true, Valid: 600, Preferred: 300}}}
)

// TestPrefixDiscoveryTravels: in ESP, natively with the headers that name the home address and in IPv4 without; and its answers.
func TestPrefixDiscoveryTravels(t *testing.T) {
	spec.Covers(t, "RFC3776-3.3", "RFC4877-6.3", "S004-2.1-02")
	for _, keys := range []bool{false, true} {
		for _, c := range []struct {
			name     string
			path     core.Path
			up, down string
		}{
			{"IPv6", mpsIPv6, "2001:db8:c::77>2001:db8:a::1|60[0xc9,2001:db8:2000::5]|50", "2001:db8:a::1>2001:db8:c::77|43[2,1,2001:db8:2000::5]|50"},
			{"IPv4", mpsIPv4, "192.0.2.77>198.51.100.1|41|2001:db8:2000::5>2001:db8:a::1|50", "198.51.100.1>192.0.2.77|41|2001:db8:a::1>2001:db8:2000::5|50"},
			{"UDP", mpsUDP, "192.0.2.77>198.51.100.1|17[4191>4191]|2001:db8:2000::5>2001:db8:a::1|50", "198.51.100.1>192.0.2.77|17[4191>4191]|2001:db8:a::1>2001:db8:2000::5|50"},
			{"home", mpsHome, "2001:db8:2000::5>2001:db8:a::1|50", "2001:db8:a::1>2001:db8:2000::5|50"},
		} {
			w := newWays(t, keys, coa6)
			out := w.send(t, w.mn, w.net.mn, c.path, mps)
			if got := headers(t, out); got != c.up {
				t.Errorf("%s, keys %v: %s, want %s", c.name, keys, got, c.up)
			}
			at := w.arrive(w.ha, w.net.ha, out)
			m, ok := at.msg.Body.(*nd.MobilePrefixSolicitation)
			if !ok || m.ID != mps.ID || at.msg.Path.Auth.Kind != "esp" || at.msg.Path.Auth.Peer != "mn1" {
				t.Fatalf("%s, keys %v: %+v", c.name, keys, at)
			}
			if spi := uint32(0x1001); keys != (at.msg.Path.Auth.SPI != spi) {
				t.Errorf("%s, keys %v: SPI %#x", c.name, keys, at.msg.Path.Auth.SPI)
			}
			back := w.send(t, w.ha, w.net.ha, at.msg.Path, mpa)
			if got := headers(t, back); got != c.down {
				t.Errorf("%s, keys %v: %s, want %s", c.name, keys, got, c.down)
			}
			got := w.arrive(w.mn, w.net.mn, back)
			a, ok := got.msg.Body.(*nd.MobilePrefixAdvertisement)
			if !ok || a.ID != mps.ID || len(a.Options) != 1 || got.msg.Path.Auth.Peer != "ha1" {
				t.Errorf("%s, keys %v: %+v", c.name, keys, got)
			}
		}
	}
}

// TestHomeAgentDiscoveryTravels: in the clear, to an anycast address, between a care-of address and whoever answers.
func TestHomeAgentDiscoveryTravels(t *testing.T) {
	w := newWays(t, true, coa6)
	anycast := nd.HomeAgentsAnycast(netip.MustParsePrefix("2001:db8:2000::/64"))
	at := w.arrive(w.ha, nil, w.send(t, w.mn, nil, core.Path{Local: port(coa6), Remote: port(anycast)}, &nd.HomeAgentAddressDiscoveryRequest{ID: 9}))
	if m, ok := at.msg.Body.(*nd.HomeAgentAddressDiscoveryRequest); !ok || m.ID != 9 || at.msg.Path.Local != port(anycast) || at.msg.Path.Auth.Kind != "none" {
		t.Fatalf("%+v", at)
	}
	got := w.arrive(w.mn, nil, w.send(t, w.ha, nil, core.Path{Local: port(haV6), Remote: port(coa6)}, &nd.HomeAgentAddressDiscoveryReply{ID: 9, Addresses: []netip.Addr{haV6}}))
	if m, ok := got.msg.Body.(*nd.HomeAgentAddressDiscoveryReply); !ok || m.ID != 9 || len(m.Addresses) != 1 {
		t.Fatalf("%+v", got)
	}
}

// TestTsharkReadsTheWays: a judge that is not ours opens the ESP and finds the messages in it.
func TestTsharkReadsTheWays(t *testing.T) {
	spec.Covers(t, "RFC3776-3.2", "RFC3776-3.3", "RFC4877-6.2", "S004-2.1-02")
	w := newWays(t, true, coa6)
	at := w.arrive(w.ha, w.net.ha, w.send(t, w.mn, w.net.mn, hotiPath, hoti))
	w.record(at.on)
	w.record(w.routed(w.send(t, w.cn, nil, core.Path{Local: port(cnV6), Remote: port(hoa)}, homeTest)).on)
	for _, p := range []core.Path{mpsIPv6, mpsIPv4, mpsUDP} {
		at := w.arrive(w.ha, w.net.ha, w.send(t, w.mn, w.net.mn, p, mps))
		w.send(t, w.ha, w.net.ha, at.msg.Path, mpa)
	}
	w.send(t, w.mn, nil, core.Path{Local: port(coa6), Remote: port(cnV6), Own: hoa}, &mobility.BindingUpdate{Sequence: 5, Lifetime: 100, Flags: mobility.BUAck})
	want := []string{
		"eth:ethertype:ipv6:esp:ipv6:mipv6|1|",
		"eth:ethertype:ipv6:mipv6|1|",
		"eth:ethertype:ipv6:mipv6|3|",
		"eth:ethertype:ipv6:esp:ipv6:mipv6|3|",
		"eth:ethertype:ipv6:ipv6.dstopts:esp:icmpv6||146",
		"eth:ethertype:ipv6:ipv6.routing:esp:icmpv6||147",
		"eth:ethertype:ip:ipv6:esp:icmpv6||146",
		"eth:ethertype:ip:ipv6:esp:icmpv6||147",
		"eth:ethertype:ip:udp:ipv6:esp:icmpv6||146",
		"eth:ethertype:ip:udp:ipv6:esp:icmpv6||147",
		"eth:ethertype:ipv6:ipv6.dstopts:mipv6|5|",
	}
	file := filepath.Join(t.TempDir(), "ways.pcap")
	testpcap.Write(t, file, w.frames)
	if got := tshark(t, file, "", "frame.protocols", "mip6.mhtype", "icmpv6.type"); !cmp.Equal(got, want) {
		t.Errorf("protocols|type (-want +tshark):\n%s", cmp.Diff(want, got))
	}
	clean(t, file)
	if got := tshark(t, file, "esp", "esp.icv_good", "esp.icv_bad"); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "False|") || strings.HasSuffix(s, "True") }) {
		t.Errorf("integrity: %v", got)
	}
}
