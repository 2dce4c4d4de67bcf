package system

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

type neighbour struct {
	ifi   int
	addr  netip.Addr
	mac   core.MAC
	state uint16
	proxy bool
	proto uint8
}

func parseNeighbour(b []byte) (neighbour, bool) {
	if len(b) < sizeofNdmsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return neighbour{}, false // AF_BRIDGE: forwarding table of a bridge
	}
	n := neighbour{
		ifi: int(native32(b[4:8])), state: native16(b[8:10]), proxy: b[10]&netlink.NTF_PROXY != 0,
	}
	attrs, err := nl.ParseRouteAttr(b[sizeofNdmsg:])
	if err != nil {
		return n, false
	}
	for _, at := range attrs {
		switch at.Attr.Type {
		case netlink.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(at.Value)
		case netlink.NDA_LLADDR:
			if len(at.Value) == len(n.mac) {
				copy(n.mac[:], at.Value)
			}
		case netlink.NDA_PROTOCOL:
			n.proto = native8(at.Value)
		}
	}
	return n, n.addr.IsValid()
}

const sizeofNdmsg = 12

// neighbours lists the neighbours, or the proxies, of all links.
func (h *Host) neighbours(fam int, proxy bool) ([]neighbour, error) {
	req := h.request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	msg := &netlink.Ndmsg{Family: uint8(fam)}
	if proxy {
		msg.Flags = netlink.NTF_PROXY
	}
	req.AddData(msg)
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, err
	}
	var out []neighbour
	for _, m := range msgs {
		if n, ok := parseNeighbour(m); ok && n.proxy == proxy {
			out = append(out, n)
		}
	}
	return out, nil
}

// findNeighbour looks one up without reading the whole table.
func (h *Host) findNeighbour(ifi int, a netip.Addr, proxy bool) (n neighbour, there bool, err error) {
	req := h.request(unix.RTM_GETNEIGH, 0)
	msg := &netlink.Ndmsg{Family: uint8(family(a)), Index: uint32(ifi)}
	if proxy {
		msg.Flags = netlink.NTF_PROXY
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return n, false, nil
	}
	if err != nil || len(msgs) == 0 {
		return n, false, err
	}
	n, there = parseNeighbour(msgs[0])
	return n, there, nil
}

func (h *Host) neighbour(op core.HostOp) error {
	proxy := op.Kind == "proxy"
	if err := single(op.Prefix); err != nil {
		return err
	}
	ifi, err := h.index(op)
	if vanished(op, err) {
		h.mark(op, 0)
		return nil
	}
	if err != nil {
		return err
	}
	if proxy && !op.Del && op.Prefix.Addr().Is6() {
		if err := h.proxyND(op, ifi); err != nil {
			return err
		}
	}
	err = h.setNeighbour(op, ifi, proxy, unix.NLM_F_EXCL)
	// An entry that the kernel learned gives way, one that somebody has set does not.
	if errors.Is(err, unix.EEXIST) {
		n, there, lerr := h.findNeighbour(ifi, op.Prefix.Addr(), false)
		if lerr != nil {
			return lerr
		}
		if there && n.state&unix.NUD_PERMANENT != 0 && n.proto != h.opt.Tag {
			return foreign("a permanent neighbour "+op.Prefix.Addr().String(), int(n.proto))
		}
		err = h.setNeighbour(op, ifi, proxy, unix.NLM_F_REPLACE)
	}
	if op.Del && (errors.Is(err, unix.ENOENT) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || vanished(op, err)) {
		err = nil
	}
	if err == nil {
		h.mark(op, ifi)
	}
	return err
}

func (h *Host) setNeighbour(op core.HostOp, ifi int, proxy bool, mode int) error {
	key := keyOf(op, ifi)
	kind, flags := unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|mode|unix.NLM_F_ACK
	// What this run has set is ours without asking; else the tag decides.
	if (op.Del || proxy) && !h.applied[key] {
		n, there, err := h.findNeighbour(ifi, op.Prefix.Addr(), proxy)
		switch {
		case err != nil:
			return err
		case op.Del && (!there || n.proto != h.opt.Tag):
			return nil
		case !op.Del && there && n.proto != h.opt.Tag:
			return foreign("a proxy entry for "+op.Prefix.Addr().String(), int(n.proto))
		}
	}
	msg := &netlink.Ndmsg{Family: uint8(family(op.Prefix.Addr())), Index: uint32(ifi), State: unix.NUD_PERMANENT}
	if op.Del {
		kind, flags = unix.RTM_DELNEIGH, unix.NLM_F_ACK
	}
	if proxy {
		msg.Flags = netlink.NTF_PROXY
		if op.Value == "router" {
			msg.Flags |= netlink.NTF_ROUTER
		}
	}
	req := h.request(kind, flags)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, op.Prefix.Addr().AsSlice()))
	if !proxy && !op.Del {
		if op.MAC == (core.MAC{}) {
			return errors.New("no MAC address given")
		}
		req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, net.HardwareAddr(hardware(op.MAC))))
	}
	if !op.Del {
		req.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, nl.Uint8Attr(h.opt.Tag)))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// proxyND lets the kernel answer for proxies of a link at all.
func (h *Host) proxyND(op core.HostOp, ifi int) error {
	name := op.Name
	if name == "" {
		l, err := h.nl.LinkByIndex(ifi)
		if err != nil {
			return err
		}
		name = l.Attrs().Name
	}
	return h.sysctl(core.HostOp{Kind: "sysctl", Name: "net/ipv6/conf/" + name + "/proxy_ndp", Value: "1"})
}

func native8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func native16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return nl.NativeEndian().Uint16(b)
}

func native32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(b)
}
