package system

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/nftmatch"
	wireip "kedge/wire/ip"
	"kedge/wire/nd"
)

// tap takes IPv6 packets that the kernel refuses although they are addressed to it: those with a Home Address option before a
// Mobility Header, ESP or a Mobile Prefix Solicitation, and those with a type 2 routing header. A packet socket copies them before the kernel looks at them; an
// nftables table (see tap.rules) drops the same packets where the kernel would go on, in its input hook, so that nobody hears of an
// unknown option or routing type and packets that are only forwarded are not touched. Fragments of such packets are put together
// here, because the kernel will not have them.
type tap struct {
	h     *Host
	d     *descriptor
	local *localSet
	table *nftmatch.Table
	frags *wireip.Reassembler
	rx    *ring

	solicited bool // it takes Mobile Prefix Solicitations: they are for who answers them alone
	closed    atomic.Bool

	foreign, truncated, refused atomic.Uint64
}

// tapFragments bounds what strangers can leave behind in fragments.
var tapFragments = wireip.Limits{Packets: 256, Octets: 1 << 20}

func (h *Host) openTap(local *localSet) (*tap, error) {
	t := &tap{h: h, local: local, frags: wireip.NewReassembler(tapFragments), rx: newRing(maxFrame),
		solicited: slices.Contains(h.opt.ICMPv6, nd.TypeMobilePrefixSolicitation)}
	// Protocol 0 until the filter is in place, so that nothing unfiltered is queued.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, &hinted{fmt.Errorf("packet socket: %w", err), "run with CAP_NET_RAW"}
	}
	t.d = newDescriptor(fd, "tap")
	prog, err := tapFilter()
	if err == nil {
		err = attach(fd, prog)
	}
	if err == nil {
		// Of one protocol, such a socket sees what comes in behind bridges, bonds and tunnels, once, and nothing that goes out.
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IPV6)})
	}
	if err == nil {
		if t.table, err = nftmatch.Open(tapName(h.opt.Tag), t.rules(h.opt.Local)); err != nil {
			err = &hinted{err, nftmatch.Lacking}
		}
	}
	if err != nil {
		t.d.Close()
		return nil, err
	}
	h.taps.Add(1)
	return t, nil
}

// attach sets a socket's filter.
func attach(fd int, raw []bpf.RawInstruction) error {
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// drain reads what the tap has.
func (t *tap) drain(into []core.Packet) (n int) {
	var got int
	var rerr error
	if err := t.d.control(func(fd int) { got, rerr = t.rx.recv(fd, len(into)) }); err != nil || rerr != nil {
		return 0
	}
	for i := range got {
		from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&t.rx.name[i]))
		if from.Pkttype != unix.PACKET_HOST { // to another host's MAC, or to several
			continue
		}
		if t.rx.msgs[i].hdr.Flags&unix.MSG_TRUNC != 0 {
			t.truncated.Add(1)
			continue
		}
		if b := t.take(t.rx.bufs[i][:t.rx.msgs[i].n]); b != nil {
			out := &into[n]
			*out = core.Packet{If: int(from.Ifindex), B: append(out.B[:0], b...)}
			out.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
			out.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
			n++
		}
	}
	return n
}

// take gives the packet, whole, if it is one that the table keeps from the kernel.
func (t *tap) take(b []byte) []byte {
	h, err := wireip.Parse(b)
	if err != nil || h.Is4() {
		return nil // the kernel drops it, too
	}
	b = b[:h.Len]
	kept, later := tapped(b, t.solicited)
	if !kept && !later {
		return nil
	}
	if !t.local.has(h.Dst) {
		if kept {
			t.foreign.Add(1)
		}
		return nil
	}
	whole, err := t.frags.Add(now().Boot, b)
	if err != nil && whole == nil {
		t.refused.Add(1)
	}
	t.refused.Add(uint64(t.frags.Evicted()))
	return whole
}

// Close gives the packets back to the kernel. It may be called more than once.
func (t *tap) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	err := t.table.Close()
	t.h.taps.Add(-1)
	t.d.Close()
	return err
}

// tapped says whether a packet that the table's rules match may be signalling: behind a type 2 routing header comes data as well, which
// the data plane takes for itself while it has sessions for that. later, that it is a further fragment of one whose first part they may have
// matched: its extension headers are in there. Both look at the first header of each kind, as the kernel's expression does.
// solicited: with the rules for Mobile Prefix Solicitations.
func tapped(b []byte, solicited bool) (kept, later bool) {
	if at, ok := findHeader(b, wireip.Routing); ok && at+2 < len(b) && b[at+2] == wireip.RoutingType2 {
		switch proto, _ := upperProto(b); proto {
		case protoMH, wireip.ESP, wireip.ICMPv6, wireip.DstOpts, wireip.Routing: // the last two of fragments
			return true, false
		}
		return false, false
	}
	at, ok := findHeader(b, wireip.DstOpts)
	if ok && at+7 <= len(b) && homeFirst([5]byte(b[at+2:])) {
		proto, _ := upperProto(b)
		return proto == protoMH || proto == wireip.ESP || solicited && solicitation(b), false
	}
	if ok {
		return false, false
	}
	proto, behind := upperProto(b)
	return false, behind && (proto == wireip.DstOpts || proto == wireip.Routing)
}

// solicitation finds a Mobile Prefix Solicitation behind what Home Address options come in (RFC 6275 6.7).
func solicitation(b []byte) bool {
	h, err := wireip.Parse(b)
	if err != nil {
		return false
	}
	u, err := wireip.FindUpper(b, &h)
	return err == nil && u.Proto == wireip.ICMPv6 && u.FragOff == 0 && u.Off < len(b) && b[u.Off] == nd.TypeMobilePrefixSolicitation
}

// homeFirst looks for the Home Address option in the first five octets of options: at once, or behind the padding of four octets
// that its alignment wants.
func homeFirst(o [5]byte) bool {
	switch {
	case o[0] == wireip.OptHomeAddress:
		return true
	case o[4] != wireip.OptHomeAddress:
		return false
	}
	return o[0] == 1 && o[1] == 2 || [4]byte(o[:]) == [4]byte{}
}

// findHeader is where the first extension header of a kind is. In a fragment that is not the first, only headers before the
// Fragment header are there.
func findHeader(b []byte, kind uint8) (at int, ok bool) {
	next, at := b[6], wireip.IPv6Len
	for {
		if next == kind {
			return at, at+8 <= len(b)
		}
		size, more := extension(b, next, at)
		if !more || next == wireip.Fragment && fragOff(b, at) != 0 {
			return 0, false
		}
		next, at = b[at], at+size
	}
}

// upperProto is the upper-layer protocol; AH counts as one. behind: what a fragment that is not the first names as its next header.
func upperProto(b []byte) (proto uint8, behind bool) {
	next, at := b[6], wireip.IPv6Len
	for {
		size, more := extension(b, next, at)
		if !more || next == wireip.AH {
			return next, false
		}
		if next == wireip.Fragment && fragOff(b, at) != 0 {
			return b[at], true
		}
		next, at = b[at], at+size
	}
}

func fragOff(b []byte, at int) uint16 { return binary.BigEndian.Uint16(b[at+2:]) &^ 7 }

// extension is the size of an extension header, if there is one and it begins in b.
func extension(b []byte, kind uint8, at int) (size int, ok bool) {
	switch kind {
	case wireip.Fragment:
		return 8, at+8 <= len(b)
	case wireip.HopByHop, wireip.Routing, wireip.DstOpts:
		if at+8 > len(b) {
			return 0, false
		}
		return 8 + 8*int(b[at+1]), true
	case wireip.AH:
		if at+8 > len(b) {
			return 0, false
		}
		return 8 + 4*int(b[at+1]), true
	}
	return 0, false
}

// tapFilter keeps everything out that cannot be for the tap: what has no extension headers, and of what has, most. Offsets count
// from the IPv6 header.
func tapFilter() ([]bpf.RawInstruction, error) {
	const next, dst, ext = 6, 24, 40
	is := func(v uint32) bpf.Instruction { return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v} }
	abs := func(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 1} }
	return assemble([]step{
		{ins: abs(dst)},
		{ins: is(0xff), yes: "drop"}, // multicast
		{ins: abs(next)},
		{ins: is(wireip.HopByHop), yes: "pass"},
		{ins: is(wireip.Routing), yes: "routing"},
		{ins: is(wireip.DstOpts), yes: "options"},
		{ins: is(wireip.Fragment), yes: "behind"},
		{ins: is(wireip.AH), yes: "behind", no: "drop"},

		{label: "routing", ins: abs(ext + 2)},
		{ins: is(wireip.RoutingType2), yes: "pass", no: "behind"},

		{label: "options", ins: abs(ext + 2)},
		{ins: is(wireip.OptHomeAddress), yes: "pass"},
		{ins: abs(ext + 6)},
		{ins: is(wireip.OptHomeAddress), yes: "pass"},

		{label: "behind", ins: abs(ext)}, // the header behind the first
		{ins: is(wireip.Routing), yes: "pass"},
		{ins: is(wireip.DstOpts), yes: "pass"},
		{ins: is(wireip.Fragment), yes: "pass"},
		{ins: is(wireip.AH), yes: "pass", no: "drop"},

		{label: "pass", ins: bpf.RetConstant{Val: 1 << 18}},
		{label: "drop", ins: bpf.RetConstant{Val: 0}},
	})
}
