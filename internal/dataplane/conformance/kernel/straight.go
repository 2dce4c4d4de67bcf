package kernel

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/wire/ip"
)

// markHome is the home address of the marker of route optimization, between the router and markGW.
var markHome = markAddr(32, true)

// straightMarkers are the session of that marker.
func (r *router) straightMarkers() []core.Op {
	if !r.o.Optimized {
		return nil
	}
	six, _ := r.ends()
	c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(six, 0), Remote: netip.AddrPortFrom(markGW, 0)}}}
	m := core.Match{Src: netip.PrefixFrom(markHome, 128), Dst: netip.PrefixFrom(markGW, 128)}
	if r.o.Role == dataplane.Anchor {
		m = core.Match{Src: netip.PrefixFrom(six, 128), Dst: netip.PrefixFrom(markHome, 128)}
	}
	id := Markers + 32
	return []core.Op{core.SetSession{ID: id, Chain: c}, core.SetKey{ID: id, Match: m, Up: true, Down: true}}
}

// straightMark is the marker on its way in.
func (r *router) straightMark(mark func(src, dst netip.Addr) []byte) []byte {
	six, _ := r.ends()
	src, dst, ext := markGW, markHome, ip.AppendRouting2(nil, ip.UDP, markHome)
	kind, at, on := uint8(ip.Routing), 24, six
	if r.o.Role == dataplane.Anchor {
		src, dst, ext = markHome, six, ip.AppendHomeAddress(nil, ip.UDP, markHome)
		kind, at, on = ip.DstOpts, 8, markGW
	}
	b := mark(src, dst)
	b = append(b[:ip.IPv6Len:ip.IPv6Len], append(ext, b[ip.IPv6Len:]...)...)
	b[5], b[6] = byte(len(b)-ip.IPv6Len), kind
	copy(b[at:], on.AsSlice())
	return b
}

// correspondent has what comes out of an anchor's tunnel device for itself, and its errors to itself, seen, and then lost: the test is
// the application that gets them.
func (r *router) correspondent(t *testing.T) {
	t.Helper()
	rules := "table ip6 harness { chain in { type filter hook input priority 0; iifname " + r.Device() + " ip6 daddr " + conformance.LMAA.String() + " drop; " +
		"iifname lo ip6 daddr " + conformance.LMAA.String() + " drop; }; }"
	if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	l, err := netlink.LinkByName(r.Device())
	must(t, err)
	mtu := l.Attrs().MTU
	tun := device(t, r.Device())
	must(t, netlink.LinkSetMTU(l, mtu))
	lo := device(t, "lo")
	lo.tun = false // it has Ethernet headers
	r.native = append(r.native, tun, lo)
}
