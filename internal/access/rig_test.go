package access

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

const clients = "../../testdata/vectors/access-clients.pcap"

var (
	routerMAC = core.MAC{0, 0, 0x5e, 0, 0x52, 0x13} // RFC 6543
	routerLL  = addr("fe80::200:5eff:fe00:5213")
	macA      = core.MAC{2, 0, 0, 0, 0, 0xa}
	macB      = core.MAC{2, 0, 0, 0, 0, 0xb}
	llA       = addr("fe80::a")
	prefixA   = netip.MustParsePrefix("2001:db8:1000::/64")
	prefixB   = netip.MustParsePrefix("2001:db8:1000:1::/64")
	homeA     = netip.MustParsePrefix("10.20.0.10/24")
	homeB     = netip.MustParsePrefix("10.20.0.11/24")
	router4   = addr("10.20.0.1")
	all4      = addr("255.255.255.255")
	none4     = netip.IPv4Unspecified()
	none6     = netip.IPv6Unspecified()
	broadcast = core.MAC(ether.Broadcast)
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// dualStack is the usual grant of host A.
func dualStack() Grant {
	return Grant{Prefixes: []netip.Prefix{prefixA}, IPv4: homeA, Router4: router4, Valid: 300 * time.Second}
}

func config() LinkConfig {
	return LinkConfig{
		Name: "acc0", If: 3, LinkLocal: routerLL, MAC: routerMAC, MTU: 1460,
		DNS:        []netip.Addr{addr("10.20.0.53"), addr("2001:db8:53::53")},
		Search:     []string{"example.net", "lab.example.net"},
		RAInterval: 100 * time.Second, RouterLifetime: 1800 * time.Second,
		DHCP: DHCPConfig{Lease: time.Hour, HoldTime: 5 * time.Second},
	}
}

// middle gives random numbers of one half: jitter then leaves intervals as they are.
type middle struct{}

func (middle) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0
	}
	b[0] = 0x80
	return len(b), nil
}

// rig drives one link. Everything that goes in and out passes the wire format.
type rig struct {
	t   testing.TB
	l   *HomeLink
	now core.Now

	sent [][]byte // every frame that the link sent
}

func newRig(t testing.TB, cfg LinkConfig) *rig {
	return &rig{t: t, l: NewHomeLink(cfg, middle{}), now: core.Now{Boot: 1000 * time.Second}}
}

// in gives the link a frame as its bytes say.
func (r *rig) in(f *Frame) result {
	r.t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		r.t.Fatalf("frame cannot be built: %v", err)
	}
	got, err := Decode(b)
	if err != nil {
		r.t.Fatalf("frame cannot be read: %v", err)
	}
	out := r.l.Handle(r.now, got, nil)
	for i := range b {
		b[i] = 0xee // the link must keep no reference to the buffer
	}
	return r.result(out)
}

func (r *rig) grant(mac core.MAC, g Grant) result {
	r.t.Helper()
	return r.result(r.l.Grant(r.now, mac, g, nil))
}

func (r *rig) deny(mac core.MAC, f Families, reason string) result {
	r.t.Helper()
	return r.result(r.l.Deny(r.now, mac, f, reason, nil))
}

// after lets time pass without a tick.
func (r *rig) after(d time.Duration) { r.now.Boot += d }

// next goes to the deadline, which must be d away, and ticks.
func (r *rig) next(d time.Duration) result {
	r.t.Helper()
	at, ok := r.l.Deadline()
	if !ok || at-r.now.Boot != d {
		r.t.Fatalf("deadline in %v (%v), want %v", at-r.now.Boot, ok, d)
	}
	r.now.Boot = at
	return r.result(r.l.Tick(r.now, nil))
}

// result is what the link did: frames as the other side reads them, and news.
type result struct {
	t      testing.TB
	frames []*Frame
	news   []Action
	order  []string // every action by kind, in order
}

func (r *rig) result(out []Action) result {
	r.t.Helper()
	res := result{t: r.t}
	for _, a := range out {
		tx, ok := a.(Transmit)
		if !ok {
			res.news = append(res.news, a)
			res.order = append(res.order, strings.TrimPrefix(fmt.Sprintf("%T", a), "access."))
			continue
		}
		b, err := tx.Frame.Append(nil)
		if err != nil {
			r.t.Fatalf("%+v cannot be written: %v", tx.Frame, err)
		}
		r.sent = append(r.sent, b)
		f, err := Decode(b)
		if err != nil {
			r.t.Fatalf("our own frame cannot be read: %v", err)
		}
		if f.Src != routerMAC || ether.IsGroup(f.Dst) {
			r.t.Errorf("frame from %v to %v: want unicast from the router's address", f.Src, f.Dst)
		}
		res.frames = append(res.frames, f)
		res.order = append(res.order, f.Kind())
	}
	return res
}

// silent wants no frame.
func (r result) silent() result {
	r.t.Helper()
	if len(r.frames) > 0 {
		r.t.Errorf("sent %v, want silence", r.order)
	}
	return r
}

// did wants these actions in order.
func (r result) did(want ...string) result {
	r.t.Helper()
	if got := strings.Join(r.order, " "); got != strings.Join(want, " ") {
		r.t.Errorf("did %q, want %q (news %+v)", got, strings.Join(want, " "), r.news)
	}
	return r
}

// refused wants a Refused for this reason.
func (r result) refused(want error) result {
	r.t.Helper()
	for _, n := range r.news {
		if x, ok := n.(Refused); ok && x.Reason == want.Error() {
			return r
		}
	}
	r.t.Errorf("not refused for %v: %+v", want, r.news)
	return r
}

// toldRouter wants one frame: an ARP reply with the router's MAC address for the host that has the address me.
func (r result) toldRouter(me, router netip.Addr) {
	r.t.Helper()
	want := ether.ARP{Op: ether.ARPReply, SenderHW: routerMAC, SenderIP: router, TargetIP: me}
	f := r.did("arp").only()
	if want.TargetHW = f.Dst; *f.Body.(*ether.ARP) != want {
		r.t.Errorf("%+v, want %+v", f.Body, want)
	}
}

// attached gives the Attached.
func (r result) attached() Attached {
	r.t.Helper()
	for _, n := range r.news {
		if a, ok := n.(Attached); ok {
			return a
		}
	}
	r.t.Errorf("no Attached in %+v", r.news)
	return Attached{}
}

// only gives the one frame that was sent.
func (r result) only() *Frame {
	r.t.Helper()
	if len(r.frames) != 1 {
		r.t.Fatalf("sent %d frames (%v), want 1", len(r.frames), r.order)
	}
	return r.frames[0]
}

func (r result) ra() *nd.RouterAdvertisement {
	r.t.Helper()
	for _, f := range r.frames {
		if m, ok := f.Body.(*nd.RouterAdvertisement); ok {
			return m
		}
	}
	r.t.Fatalf("no Router Advertisement: %v", r.order)
	return nil
}

func (r result) dhcp(want dhcpv4.MessageType) (*Frame, *dhcpv4.DHCPv4) {
	r.t.Helper()
	for _, f := range r.frames {
		if m, ok := f.Body.(*dhcpv4.DHCPv4); ok {
			if m.MessageType() != want {
				r.t.Fatalf("DHCP %v, want %v", m.MessageType(), want)
			}
			return f, m
		}
	}
	r.t.Fatalf("no DHCP message: %v %+v", r.order, r.news)
	return nil, nil
}

// Frames of hosts.

func rs(mac core.MAC, src netip.Addr) *Frame {
	m := &nd.RouterSolicitation{}
	if !src.IsUnspecified() {
		m.Options = nd.Options{nd.SourceLinkLayer(mac)}
	}
	return &Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 2}, Src: mac, SrcIP: src, DstIP: nd.AllRouters, Body: m}
}

func ns(mac core.MAC, src, target netip.Addr) *Frame {
	m := &nd.NeighborSolicitation{Target: target}
	if !src.IsUnspecified() {
		m.Options = nd.Options{nd.SourceLinkLayer(mac)}
	}
	return &Frame{Dst: core.MAC{0x33, 0x33, 0xff, 0, 0x52, 0x13}, Src: mac, SrcIP: src, DstIP: nd.SolicitedNode(target), Body: m}
}

func na(mac core.MAC, target netip.Addr) *Frame {
	return &Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: mac, SrcIP: target, DstIP: nd.AllNodes, Body: &nd.NeighborAdvertisement{
		Override: true, Target: target, Options: nd.Options{nd.TargetLinkLayer(mac)},
	}}
}

func mld(mac core.MAC, src netip.Addr) *Frame {
	return &Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 0x16}, Src: mac, SrcIP: src, DstIP: nd.AllMLDv2, Body: &nd.MLDReport{
		Version: 2, Records: []nd.MLDRecord{{Type: nd.ChangeToExcludeMode, Group: addr("ff02::1:ff00:a")}},
	}}
}

func arp(mac core.MAC, src, target netip.Addr) *Frame {
	return &Frame{Dst: broadcast, Src: mac, SrcIP: src, DstIP: target, Body: &ether.ARP{
		Op: ether.ARPRequest, SenderHW: mac, SenderIP: src, TargetIP: target,
	}}
}

// dhcpOf is a message of a client; options by code. src and dst are the IP addresses.
func dhcpOf(mac core.MAC, kind dhcpv4.MessageType, src, dst, ciaddr netip.Addr, options map[uint8][]byte) *Frame {
	zero := []byte{0, 0, 0, 0}
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, TransactionID: dhcpv4.TransactionID{1, 2, 3, mac[5]},
		ClientHWAddr: mac[:], ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		Options: dhcpv4.Options{53: {byte(kind)}},
	}
	if ciaddr.IsValid() {
		m.ClientIPAddr = ciaddr.AsSlice()
	}
	for code, v := range options {
		m.Options[code] = bytes.Clone(v)
	}
	to := broadcast
	if dst != all4 {
		to = routerMAC
	}
	return &Frame{Dst: to, Src: mac, SrcIP: src, DstIP: dst, Body: m}
}

func discover(mac core.MAC) *Frame {
	return dhcpOf(mac, dhcpv4.MessageTypeDiscover, none4, all4, netip.Addr{}, map[uint8][]byte{55: {1, 3, 6, 15, 26, 51, 54, 58, 59}})
}

func selecting(mac core.MAC, server, want netip.Addr) *Frame {
	return dhcpOf(mac, dhcpv4.MessageTypeRequest, none4, all4, netip.Addr{}, map[uint8][]byte{50: want.AsSlice(), 54: server.AsSlice()})
}

func initReboot(mac core.MAC, want netip.Addr) *Frame {
	return dhcpOf(mac, dhcpv4.MessageTypeRequest, none4, all4, netip.Addr{}, map[uint8][]byte{50: want.AsSlice()})
}

func renewing(mac core.MAC, server, have netip.Addr) *Frame {
	return dhcpOf(mac, dhcpv4.MessageTypeRequest, have, server, have, nil)
}

func rebinding(mac core.MAC, have netip.Addr) *Frame {
	return dhcpOf(mac, dhcpv4.MessageTypeRequest, have, all4, have, nil)
}

func option4(m *dhcpv4.DHCPv4, code uint8) netip.Addr { return addr4(m.Options[code]) }
