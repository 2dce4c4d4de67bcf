package lab

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/internal/lab/scenario"
	"kedge/internal/lab/tap"
	"kedge/internal/system/netns"
	"kedge/wire/ether"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// send puts forged frames on a wire from a node's first interface, past its own stack.
func (r *Run) send(s *scenario.Send) error {
	n := r.node(s.From)
	if n == nil {
		return fmt.Errorf("%s is a crowd: frames are forged by one node", s.From)
	}
	frame, err := r.forge(n, s)
	if err != nil {
		return err
	}
	var sock *tap.Socket
	err = n.ns.Do(func() (err error) { sock, err = tap.Open(n.wires[0].ifname, tap.Options{}); return })
	if err != nil {
		return err
	}
	defer sock.Close()
	r.note("%s sends %d forged frames", n.name, s.Count)
	for range s.Count {
		if err := sock.Write(frame); err != nil {
			return fmt.Errorf("%s: send: %w", n.name, err)
		}
	}
	return nil
}

func (r *Run) forge(n *node, s *scenario.Send) ([]byte, error) {
	if s.Replay != "" {
		return r.replayed(n, s)
	}
	if s.Hex != "" {
		b, err := hex.DecodeString(strings.Join(strings.Fields(s.Hex), ""))
		if err != nil || len(b) < 14 {
			return nil, fmt.Errorf("hex: want a whole frame of at least 14 octets in hexadecimal")
		}
		return b, nil
	}
	src, err := r.address(s.Src)
	if err != nil {
		return nil, err
	}
	dst, err := r.address(s.Dst)
	if err != nil {
		return nil, err
	}
	var pkt []byte
	switch {
	case s.PBU != nil:
		pkt, err = forgedPBU(src, dst, s.PBU)
	case s.BU != nil:
		pkt, err = r.forgedBU(src, dst, s.BU)
	default:
		pkt, err = udp(src, dst, s.Port, s.Size)
	}
	if err != nil {
		return nil, err
	}
	to := dst
	if s.OuterSrc != "" {
		from, err := r.address(s.OuterSrc)
		if err != nil {
			return nil, err
		}
		if to, err = r.address(s.OuterDst); err != nil {
			return nil, err
		}
		proto := uint8(41)
		if src.Is4() {
			proto = 4
		}
		h := ip.Header{Src: from, Dst: to, Proto: proto, TTL: 64}
		b, err := h.Append(nil, len(pkt))
		if err != nil {
			return nil, err
		}
		pkt = append(b, pkt...)
	}
	eth := ether.Header{Type: 0x0800}
	if pkt[0]>>4 == 6 {
		eth.Type = 0x86dd
	}
	own, err := ifMAC(n.ns, n.wires[0].ifname)
	if err != nil {
		return nil, err
	}
	eth.Src = own
	if s.MAC != "" {
		if eth.Src, err = r.macOf(s.MAC); err != nil {
			return nil, err
		}
	}
	if s.Via != "" {
		eth.Dst, err = r.macOf(s.Via)
	} else {
		eth.Dst, err = r.nextHop(n, to)
	}
	if err != nil {
		return nil, err
	}
	return append(eth.Append(nil), pkt...), nil
}

// replayed is the newest frame of a kind that was seen on the node's first link.
func (r *Run) replayed(n *node, s *scenario.Send) ([]byte, error) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	b := slices.Clone(r.newest[n.wires[0].link+" "+s.Replay])
	if b == nil {
		return nil, fmt.Errorf("no frame of kind %s was seen on %s", s.Replay, n.wires[0].link)
	}
	own, err := ifMAC(n.ns, n.wires[0].ifname)
	if err != nil {
		return nil, err
	}
	copy(b[6:12], own[:]) // or the bridge would look for the first sender here from now on
	if s.Corrupt {
		b[len(b)-1] ^= 1 // the integrity check value, or what it stands for
		for spi := range r.sas {
			// A sequence number that is new: the integrity check alone refuses it.
			if i := bytes.Index(b, binary.BigEndian.AppendUint32(nil, spi)); i >= 0 && i+8 <= len(b) {
				b[i+5]++
			}
		}
	}
	return b, nil
}

func ifMAC(ns *netns.NS, ifname string) (core.MAC, error) {
	l, err := ns.Link(ifname)
	if err != nil {
		return core.MAC{}, err
	}
	return core.MAC(l.Attrs().HardwareAddr), nil
}

// nextHop is the MAC that a frame to an address goes to: the node that has it on the same link; on access links the
// router's, as the host knows it.
func (r *Run) nextHop(n *node, to netip.Addr) (core.MAC, error) {
	if !n.spec.OnAccess() {
		for _, x := range r.nodes {
			for i, p := range x.spec.On {
				for _, a := range p.Addrs {
					if a == to {
						return ifMAC(x.ns, x.wires[i].ifname)
					}
				}
			}
		}
		return core.MAC{}, fmt.Errorf("no node on the link has %s", to)
	}
	h, err := n.ns.Handle()
	if err != nil {
		return core.MAC{}, err
	}
	for _, family := range []int{2, 10} {
		neighs, err := h.NeighList(n.ns.Index(n.wires[0].ifname), family)
		if err != nil {
			return core.MAC{}, err
		}
		for _, x := range neighs {
			if len(x.HardwareAddr) == 6 && x.HardwareAddr[0]&1 == 0 && core.MAC(x.HardwareAddr) != (core.MAC{}) {
				return core.MAC(x.HardwareAddr), nil // hosts are isolated, so every neighbour is the router
			}
		}
	}
	return core.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, nil
}

func (r *Run) macOf(s string) (core.MAC, error) {
	if n := r.node(s); n != nil {
		return ifMAC(n.ns, n.wires[0].ifname)
	}
	return core.ParseMAC(s)
}

// address resolves NODE, NODE.v4, NODE.v6 or a literal address.
func (r *Run) address(s string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a, nil
	}
	name, fam, ok := strings.Cut(s, ".")
	if !ok {
		fam = "v6"
	}
	n := r.node(name)
	if n == nil {
		return netip.Addr{}, fmt.Errorf("%s: no such node", s)
	}
	a := r.addrNow(n, fam)
	if !a.IsValid() {
		return a, fmt.Errorf("%s has no %s address now", name, fam)
	}
	return a, nil
}

// udp is a datagram of zeros from and to a port.
func udp(src, dst netip.Addr, port, size int) ([]byte, error) {
	u, err := ip.AppendUDP(nil, netip.AddrPortFrom(src, uint16(port)), netip.AddrPortFrom(dst, uint16(port)), make([]byte, size))
	if err != nil {
		return nil, err
	}
	h := ip.Header{Src: src, Dst: dst, Proto: 17, TTL: 64}
	b, err := h.Append(nil, len(u))
	return append(b, u...), err
}

func forgedPBU(src, dst netip.Addr, f *scenario.ForgedPBU) ([]byte, error) {
	m := &mobility.BindingUpdate{Sequence: 1, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: uint16(f.Lifetime / mobility.LifetimeUnit)}
	m.Options = m.Options.Add(
		mobility.MobileNodeID{Subtype: 1, ID: f.ID},
		mobility.HandoffIndicator{Value: mobility.HandoffUnknown},
		mobility.AccessTechnology{Value: mobility.AccessEthernet},
		mobility.TimestampOf(time.Now()),
	)
	if f.MAC != (core.MAC{}) {
		m.Options = m.Options.Add(mobility.LinkLayerID{ID: f.MAC[:]})
	}
	v4 := netip.IPv4Unspecified()
	if f.V4 != "" {
		v4 = netip.MustParseAddr(f.V4)
	}
	m.Options = m.Options.Add(
		mobility.HomeNetworkPrefix{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
		mobility.IPv4HomeAddressRequest{Addr: v4},
	)
	body, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		return nil, err
	}
	h := ip.Header{Src: src, Dst: dst, Proto: 135, TTL: 64}
	b, err := h.Append(nil, len(body))
	return append(b, body...), err
}

// forgedBU is a Binding Update as a node sends it in an IPv6 network, less the ESP.
func (r *Run) forgedBU(src, dst netip.Addr, f *scenario.ForgedBU) ([]byte, error) {
	home, err := r.address(f.Home)
	if err != nil {
		return nil, err
	}
	m := &mobility.BindingUpdate{Sequence: 60000, Flags: mobility.BUAck | mobility.BUHome, Lifetime: uint16(f.Lifetime / mobility.LifetimeUnit)}
	m.Options = m.Options.Add(mobility.AlternateCareOf{Addr: src})
	body, err := mobility.Append(nil, m, home, dst)
	if err != nil {
		return nil, err
	}
	b, err := ip.AppendSignal(nil, &ip.Signal{Src: src, Dst: dst, SrcHome: home, Proto: 135}, 64, len(body))
	return append(b, body...), err
}
