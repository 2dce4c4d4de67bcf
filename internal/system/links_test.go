package system

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/system/netns"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// linksPort opens a "links" port on the names that match.
func linksPort(t *testing.T, ns *netns.NS, patterns ...string) *AccessPort {
	t.Helper()
	p, err := newHost(t, ns).Open("links", patterns...)
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p.(*AccessPort)
}

// hear reads until a frame of a kind comes.
func hear(t *testing.T, p *AccessPort, kind string) (core.Packet, *access.Frame) {
	t.Helper()
	for {
		for _, pkt := range read(t, p, 1) {
			f, err := access.Decode(pkt.B)
			if err != nil {
				t.Fatalf("%x: %v", pkt.B, err)
			}
			if f.Kind() == kind {
				return pkt, f
			}
		}
	}
}

func frame(t *testing.T, f *access.Frame) []byte {
	t.Helper()
	b, err := f.Append(nil)
	must(t, err)
	return b
}

// TestLinksPort: a node hears its links and speaks on them, and the kernel goes on with its own.
func TestLinksPort(t *testing.T) {
	a, b := pair(t)
	pa, pb := linksPort(t, a, "d*"), linksPort(t, b, "d1")
	router, mac := addr("fe80::1"), core.MAC{2, 0, 0, 0, 0, 9}
	all := core.MAC{0x33, 0x33, 0, 0, 0, 1}
	ra := &nd.RouterAdvertisement{RouterLifetime: 1800, Managed: true, Options: nd.Options{
		&nd.PrefixInformation{Prefix: pfx("2001:db8:7::/64"), OnLink: true, Autonomous: true, Valid: 3600, Preferred: 1800},
	}}
	frames := []struct {
		kind string
		f    *access.Frame
	}{
		{"ra", &access.Frame{Dst: all, Src: mac, SrcIP: router, DstIP: nd.AllNodes, Body: ra}},
		{"rs", &access.Frame{Dst: all, Src: mac, SrcIP: router, DstIP: nd.AllRouters, Body: &nd.RouterSolicitation{}}},
		{"ns", &access.Frame{Dst: core.MAC{0x33, 0x33, 0xff, 0, 0, 1}, Src: mac, SrcIP: netip.IPv6Unspecified(), DstIP: nd.SolicitedNode(right), Body: &nd.NeighborSolicitation{Target: right}}},
		{"na", &access.Frame{Dst: all, Src: mac, SrcIP: router, DstIP: nd.AllNodes, Body: &nd.NeighborAdvertisement{Override: true, Target: router}}},
		{"arp", &access.Frame{Dst: core.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Src: mac,
			Body: &ether.ARP{Op: 1, SenderHW: mac, SenderIP: addr("192.0.2.77"), TargetIP: addr("192.0.2.77")}}},
	}
	for _, c := range frames {
		if n, err := pb.Write([]core.Packet{{If: b.Index("d1"), B: frame(t, c.f)}}); n != 1 {
			t.Fatalf("%s: %v", c.kind, err)
		}
		for {
			pkt, f := hear(t, pa, c.kind)
			if f.Src != mac { // the kernel's own
				continue
			}
			if pkt.If != a.Index("d0") || pkt.MAC != mac {
				t.Errorf("%s: %+v", c.kind, pkt)
			}
			if got, ok := f.Body.(*nd.RouterAdvertisement); ok && (got.RouterLifetime != 1800 || !got.Managed || len(got.Options) != 1) {
				t.Errorf("the advertisement became %+v", got)
			}
			break
		}
	}
	// The kernel is not deaf there: it answers for its address.
	if out, err := b.Run(context.Background(), "ping", "-c1", "-W2", "2001:db8::1"); err != nil {
		t.Errorf("%s: %v", out, err)
	}
	if out, err := b.Run(context.Background(), "ping", "-c1", "-W2", "192.0.2.1"); err != nil {
		t.Errorf("%s: %v", out, err)
	}
	if got := ip(t, a, "link", "show", "d0"); strings.Contains(got, "PROMISC") {
		t.Errorf("the link listens to what is others': %s", got)
	}
}

// TestLinksPortDataDoesNotWake: a node's traffic stays with the kernel.
func TestLinksPortDataDoesNotWake(t *testing.T) {
	a, b := pair(t)
	_, err := b.Run(context.Background(), "ping", "-c1", "-W2", "2001:db8::1") // neighbours are known now
	must(t, err)
	pa := linksPort(t, a, "d0")
	for range 3 {
		_, err := b.Run(context.Background(), "ping", "-c3", "-i0.01", "-W2", "2001:db8::1")
		must(t, err)
	}
	pb := linksPort(t, b, "d1")
	mac := core.MAC{2, 0, 0, 0, 0, 9}
	last := &access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: mac, SrcIP: addr("fe80::1"), DstIP: nd.AllNodes, Body: &nd.RouterAdvertisement{}}
	if _, err := pb.Write([]core.Packet{{If: b.Index("d1"), B: frame(t, last)}}); err != nil {
		t.Fatal(err)
	}
	for {
		for _, pkt := range read(t, pa, 1) {
			f, err := access.Decode(pkt.B)
			must(t, err)
			switch f.Kind() {
			case "ra":
				return
			case "data", "echo":
				t.Errorf("it woke for %x", pkt.B)
			}
		}
	}
}

// TestLinksComeAndGo: by pattern, under new names, with new indices.
func TestLinksComeAndGo(t *testing.T) {
	a, b := pair(t)
	p := linksPort(t, a, "wl*", "usb[0-9]")
	names := func() string {
		var s []string
		for _, l := range p.Links() {
			if l.If != 0 {
				s = append(s, l.Name)
			}
		}
		return strings.Join(s, " ")
	}
	if got := names(); got != "" {
		t.Fatalf("links %q before there is one", got)
	}
	ra := func(from string) []core.Packet {
		mac := core.MAC{2, 0, 0, 0, 0, 9}
		f := &access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: mac, SrcIP: addr("fe80::1"), DstIP: nd.AllNodes, Body: &nd.RouterAdvertisement{}}
		return []core.Packet{{If: b.Index(from), B: frame(t, f)}}
	}
	netns.TestVeth(t, netns.End{NS: a, Name: "wlan0"}, netns.End{NS: b, Name: "ap0"})
	netns.TestVeth(t, netns.End{NS: a, Name: "usb5"}, netns.End{NS: b, Name: "ap1"})
	waitFor(t, "wlan0 and usb5", func() bool { return names() == "wlan0 usb5" })
	pb := linksPort(t, b, "ap*")
	if _, err := pb.Write(ra("ap0")); err != nil {
		t.Fatal(err)
	}
	if pkt, _ := hear(t, p, "ra"); pkt.If != a.Index("wlan0") {
		t.Errorf("it came by %d", pkt.If)
	}

	ip(t, a, "link", "set", "usb5", "down")
	ip(t, a, "link", "set", "usb5", "name", "eth7")
	waitFor(t, "usb5 to be another's", func() bool { return names() == "wlan0" })
	if n, err := p.Write([]core.Packet{{If: a.Index("eth7"), B: make([]byte, 60)}}); n != 0 || err == nil {
		t.Errorf("wrote to a link that is not ours: %v", err)
	}
	ip(t, a, "link", "set", "d0", "down")
	ip(t, a, "link", "set", "d0", "name", "wlfirst")
	ip(t, a, "link", "set", "wlfirst", "up")
	waitFor(t, "a link that was renamed", func() bool { return names() == "wlan0 wlfirst" })
	must(t, a.DeleteLink("wlan0"))
	waitFor(t, "wlan0 to go", func() bool { return names() == "wlfirst" })
	netns.TestVeth(t, netns.End{NS: a, Name: "wlan0"}, netns.End{NS: b, Name: "ap0"})
	waitFor(t, "wlan0 to be there again", func() bool { return names() == "wlfirst wlan0" })
	waitFor(t, "ap0 to be there again", func() bool { return len(pb.Links()) == 2 })
	if _, err := pb.Write(ra("ap0")); err != nil {
		t.Fatal(err)
	}
	if pkt, _ := hear(t, p, "ra"); pkt.If != a.Index("wlan0") {
		t.Errorf("it came by %d, want %d", pkt.If, a.Index("wlan0"))
	}
	// A link that goes down and up again goes on.
	ip(t, a, "link", "set", "wlan0", "down")
	ip(t, a, "link", "set", "wlan0", "up")
	must(t, b.WaitUp(t.Context(), "ap0"))
	must(t, a.WaitUp(t.Context(), "wlan0"))
	if _, err := pb.Write(ra("ap0")); err != nil {
		t.Fatal(err)
	}
	hear(t, p, "ra")
}

// TestLinksPortLimit: a pattern that matches everything opens no more sockets than MaxLinks.
func TestLinksPortLimit(t *testing.T) {
	a := netns.Test(t, "a")
	for i := range MaxLinks/2 + 3 {
		name := "x" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		ip(t, a, "link", "add", name+"0", "type", "veth", "peer", "name", name+"1")
	}
	if n := len(linksPort(t, a, "*").Links()); n != MaxLinks {
		t.Errorf("%d links", n)
	}
}
