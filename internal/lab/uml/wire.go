package uml

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"kedge/internal/lab/tap"
	"kedge/internal/system/netns"
)

func tapName(i int) string { return fmt.Sprintf("tap%d", i) }
func bridge(i int) string  { return fmt.Sprintf("br%d", i) }

// wire makes tap devices, each on a bridge.
func (g *Guest) wire() error {
	// Nothing of this namespace takes part in what it carries.
	if err := g.Wire.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	nl, err := g.Wire.Handle()
	if err != nil {
		return err
	}
	for i := range g.taps {
		// Devices are made by a thread inside: /dev/net/tun looks where its opener is.
		err := g.Wire.Do(func() error {
			return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: tapName(i)}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR})
		})
		if err != nil {
			return fmt.Errorf("tap device: %w", err)
		}
		l, err := nl.LinkByName(tapName(i))
		if err != nil {
			return err
		}
		if err := errors.Join(nl.LinkSetUp(l), g.Wire.Bridge(bridge(i), tapName(i))); err != nil {
			return err
		}
	}
	return nil
}

// Connect makes a link in another namespace that is on the wire of the guest's i-th interface, up, with checksums and segments
// complete, as on a real wire. Its peer is a port of bridge br<i> in Wire; the name of that is returned.
func (g *Guest) Connect(i int, ns *netns.NS, name string, mtu int) (port string, err error) {
	port = fmt.Sprintf("port%d", g.ports)
	g.ports++
	if err := netns.Veth(netns.End{NS: g.Wire, Name: port, MTU: mtu}, netns.End{NS: ns, Name: name, MTU: mtu}); err != nil {
		return "", err
	}
	if err := ns.Whole(name); err != nil {
		return "", err
	}
	return port, g.Wire.Attach(port, bridge(i))
}

// beat is how often each interface of the guest gets a frame that nobody wants.
const beat = 50 * time.Millisecond

// hearts wake the guest's network driver, which once in a while sleeps on a frame that came while it was at work, until the next one
// comes: a real wire is never that silent. Their protocol is for local experiments (IEEE 802), so the guest drops them unseen.
func (g *Guest) hearts() error {
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0x77, 0, 0x88, 0xb5})
	var all []*tap.Socket
	for i := range g.taps {
		err := g.Wire.Do(func() error {
			s, err := tap.Open(tapName(i), tap.Options{})
			if err == nil {
				all = append(all, s)
			}
			return err
		})
		if err != nil {
			for _, s := range all {
				s.Close()
			}
			return err
		}
	}
	g.beating.Add(1)
	go func() {
		defer g.beating.Done()
		t := time.NewTicker(beat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				for _, s := range all {
					_ = s.Write(frame) // an interface that is down needs none
				}
			case <-g.ended:
				for _, s := range all {
					s.Close()
				}
				return
			}
		}
	}()
	return nil
}
