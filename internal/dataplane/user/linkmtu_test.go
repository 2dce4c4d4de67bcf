package user

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kedge/internal/dataplane/conformance"
)

// TestLinkMTUChanges: what an access link carries is what its interface does at the time, unless the config says it.
func TestLinkMTUChanges(t *testing.T) {
	mag := newNS(t)
	p := &path{t: t}
	p.sysctl(mag, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	var links []Link
	p.must(mag, func() error {
		for _, name := range []string{"acc1", "acc2"} {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1500}, PeerName: name + "h"}
			if err := netlink.LinkAdd(l); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			links = append(links, Link{Name: name, MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal})
		}
		return nil
	})
	links[1].MTU = 1400
	var plane *Plane
	p.must(mag, func() (err error) {
		plane, err = New(Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: links})
		return err
	})
	defer plane.Close()
	for _, want := range []int{1300, 1500} {
		p.must(mag, func() error {
			for _, l := range links {
				i, err := netlink.LinkByName(l.Name)
				if err != nil {
					return err
				}
				if err := netlink.LinkSetMTU(i, want); err != nil {
					return err
				}
			}
			return nil
		})
		for _, l := range plane.links {
			want := want
			if l.Name == "acc2" {
				want = 1400
			}
			for end := time.Now().Add(5 * time.Second); plane.LinkMTU(l.If) != want; <-time.After(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: %d octets after 5 s, want %d", l.Name, plane.LinkMTU(l.If), want)
				}
			}
		}
	}
}
