//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/ethtool"
)

// End is one end of a veth pair.
type End struct {
	NS    *NS
	Name  string
	MAC   core.MAC // zero: the kernel chooses
	MTU   int      // 0: 1500
	Addrs []netip.Prefix
	Down  bool // leave it down
}

// Handle is the netlink handle of the namespace, opened on first use and closed by Close.
func (n *NS) Handle() (*netlink.Handle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nl == nil {
		h, err := netlink.NewHandleAt(n.fd, unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("namespace %s: netlink: %w", n.Name, err)
		}
		n.nl = h
	}
	return n.nl, nil
}

// Link finds a link by name.
func (n *NS) Link(name string) (netlink.Link, error) {
	h, err := n.Handle()
	if err != nil {
		return nil, err
	}
	l, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: link %s: %w", n.Name, name, err)
	}
	return l, nil
}

// onLink finds a link and does something to it, with both named in the error.
func (n *NS) onLink(name, what string, f func(*netlink.Handle, netlink.Link) error) error {
	l, err := n.Link(name)
	if err != nil {
		return err
	}
	h, err := n.Handle()
	if err != nil {
		return err
	}
	if err := f(h, l); err != nil {
		return fmt.Errorf("namespace %s: link %s: %s: %w", n.Name, name, what, err)
	}
	return nil
}

// Veth makes a veth pair between two namespaces (or two ends in one) with addresses, both ends up. IPv6 addresses are set
// without duplicate address detection, so they are usable when it returns.
func Veth(a, b End) error {
	h, err := a.NS.Handle()
	if err != nil {
		return err
	}
	v := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Name, MTU: a.MTU, HardwareAddr: hardware(a.MAC)},
		PeerName:      b.Name,
		PeerMTU:       uint32(b.MTU),
		PeerNamespace: netlink.NsFd(int(b.NS.fd)),
	}
	if b.MAC != (core.MAC{}) {
		v.PeerHardwareAddr = hardware(b.MAC)
	}
	if err := h.LinkAdd(v); err != nil {
		return fmt.Errorf("veth %s:%s - %s:%s: %w", a.NS.Name, a.Name, b.NS.Name, b.Name, err)
	}
	for _, e := range []End{a, b} {
		for _, p := range e.Addrs {
			if err := e.NS.AddAddr(e.Name, p); err != nil {
				return err
			}
		}
		if e.Down {
			continue
		}
		if err := e.NS.Up(e.Name); err != nil {
			return err
		}
	}
	return nil
}

func hardware(m core.MAC) net.HardwareAddr {
	if m == (core.MAC{}) {
		return nil
	}
	return net.HardwareAddr(m[:])
}

// Whole lets an interface send frames with checksums and of one segment only, as a tap on a real wire would see them.
func (n *NS) Whole(link string) error {
	return n.Do(func() error {
		return ethtool.Set(link, false, slices.Concat(ethtool.Checksums, ethtool.Segmentation)...)
	})
}

// Bridge makes a bridge, up, without spanning tree and multicast snooping, and puts the ports on it.
func (n *NS) Bridge(name string, ports ...string) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	off := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &off}
	if err := h.LinkAdd(br); err != nil {
		return fmt.Errorf("namespace %s: bridge %s: %w", n.Name, name, err)
	}
	for _, p := range ports {
		if err := n.Attach(p, name); err != nil {
			return err
		}
	}
	return n.Up(name)
}

// Attach puts a link on a bridge, taking it from another one if need be: a host's silent move.
func (n *NS) Attach(port, bridge string) error {
	br, err := n.Link(bridge)
	if err != nil {
		return err
	}
	return n.onLink(port, "attach to "+bridge, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetMasterByIndex(l, br.Attrs().Index)
	})
}

// Detach takes a link from its bridge.
func (n *NS) Detach(port string) error {
	return n.onLink(port, "detach", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetNoMaster(l) })
}

// Up sets a link up.
func (n *NS) Up(link string) error {
	return n.onLink(link, "set up", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetUp(l) })
}

// Down sets a link down. The other end of a veth pair loses its carrier.
func (n *NS) Down(link string) error {
	return n.onLink(link, "set down", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) })
}

// DeleteLink removes a link, and with it the other end of a veth pair. A link that does not exist is no error.
func (n *NS) DeleteLink(link string) error {
	err := n.onLink(link, "delete", func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) })
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	return err
}

// Rename renames a link; it must be down on old kernels.
func (n *NS) Rename(link, to string) error {
	return n.onLink(link, "rename to "+to, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetName(l, to) })
}

// Move moves a link into another namespace; it arrives down and without addresses.
func (n *NS) Move(link string, to *NS) error {
	return n.onLink(link, "move to "+to.Name, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetNsFd(l, int(to.fd))
	})
}

// SetMAC sets a link's MAC address.
func (n *NS) SetMAC(link string, mac core.MAC) error {
	return n.onLink(link, "set MAC", func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetHardwareAddr(l, hardware(mac))
	})
}

// SetMTU sets a link's MTU in octets.
func (n *NS) SetMTU(link string, mtu int) error {
	return n.onLink(link, "set MTU", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, mtu) })
}

// Index is a link's interface index, 0 if there is none.
func (n *NS) Index(link string) int {
	l, err := n.Link(link)
	if err != nil {
		return 0
	}
	return l.Attrs().Index
}

// AddAddr adds an address with the length of its network, without duplicate address detection.
func (n *NS) AddAddr(link string, p netip.Prefix) error {
	return n.onLink(link, "address "+p.String(), func(h *netlink.Handle, l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipnet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return h.AddrReplace(l, a)
	})
}

// DelAddr removes an address.
func (n *NS) DelAddr(link string, p netip.Prefix) error {
	return n.onLink(link, "remove address "+p.String(), func(h *netlink.Handle, l netlink.Link) error {
		return h.AddrDel(l, &netlink.Addr{IPNet: ipnet(p)})
	})
}

// Addrs lists the addresses of a link, the kernel's own link-local ones included.
func (n *NS) Addrs(link string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	err := n.onLink(link, "list addresses", func(h *netlink.Handle, l netlink.Link) error {
		as, err := h.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range as {
			addr, _ := netip.AddrFromSlice(a.IP)
			ones, _ := a.Mask.Size()
			out = append(out, netip.PrefixFrom(addr.Unmap(), ones))
		}
		return err
	})
	return out, err
}

// Route routes a prefix by a gateway, to a link, or both; an invalid via or an empty link leaves that out.
func (n *NS) Route(dst netip.Prefix, via netip.Addr, link string) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: ipnet(dst)}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if link != "" {
		l, err := n.Link(link)
		if err != nil {
			return err
		}
		r.LinkIndex = l.Attrs().Index
	}
	if err := h.RouteReplace(r); err != nil {
		return fmt.Errorf("namespace %s: route %s via %s dev %s: %w", n.Name, dst, via, link, err)
	}
	return nil
}

// RouteTo names the link by which packets to an address leave, as the routes of the namespace are now.
func (n *NS) RouteTo(dst netip.Addr) (link string, err error) {
	h, err := n.Handle()
	if err != nil {
		return "", err
	}
	rs, err := h.RouteGet(dst.AsSlice())
	if err != nil {
		return "", fmt.Errorf("namespace %s: route to %s: %w", n.Name, dst, err)
	}
	if len(rs) == 0 {
		return "", fmt.Errorf("namespace %s: no route to %s", n.Name, dst)
	}
	l, err := h.LinkByIndex(rs[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("namespace %s: route to %s: %w", n.Name, dst, err)
	}
	return l.Attrs().Name, nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// WaitUp waits until the link is up with carrier: veth ends come up asynchronously.
func (n *NS) WaitUp(ctx context.Context, link string) error {
	for {
		l, err := n.Link(link)
		if err != nil {
			return err
		}
		if a := l.Attrs(); a.OperState == netlink.OperUp || a.Flags&net.FlagLoopback != 0 || a.RawFlags&unix.IFF_LOWER_UP != 0 && a.OperState == netlink.OperUnknown {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespace %s: link %s is not up: %w", n.Name, link, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}
