package system

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/rate"
)

const (
	// problemsPerSecond to all senders and at once, problemEvery to one (RFC 4443 2.4 (f)).
	problemsPerSecond = 10
	problemEvery      = time.Second
	problemSlots      = 256 // senders that are remembered; more share a slot and wait for each other

	// problemQuote is how much of the message fits into an error of 1,280 octets (RFC 4443 2.4 (c)).
	problemQuote = 1280 - 40 - 8 - 40
)

var problemLimit = rate.PerSecond(problemsPerSecond, problemsPerSecond)

// problems sends ICMPv6 Parameter Problems about Mobility Headers.
type problems struct {
	d       *descriptor
	limited atomic.Uint64
	seed    maphash.Seed

	mu     sync.Mutex // guards what follows
	all    rate.Bucket
	source [problemSlots]time.Duration // boot time from which on one may be sent again
}

// openProblems opens a socket that only sends; the kernel fills in the checksum.
func openProblems() (*problems, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, &hinted{fmt.Errorf("raw socket for ICMPv6: %w", err), "run with CAP_NET_RAW"}
	}
	f := unix.ICMPv6Filter{}
	for i := range f.Data {
		f.Data[i] = ^uint32(0) // a set bit blocks: nothing is received
	}
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ICMPv6 filter: %w", err)
	}
	return &problems{d: newDescriptor(fd, "icmpv6"), seed: maphash.MakeSeed()}, nil
}

// take asks for one error to a sender.
func (p *problems) take(now time.Duration, to netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := &p.source[maphash.Comparable(p.seed, to.As16())%problemSlots]
	if now < *slot || !p.all.Take(now, problemLimit) {
		return false
	}
	*slot = now + problemEvery
	return true
}

// send tells the sender of a Mobility Header that its octet off is wrong. What is quoted is its packet as far as the kernel gives
// it: without extension headers before the Mobility Header, and Pointer counts accordingly.
func (p *problems) send(now time.Duration, pkt *core.Packet, off int) error {
	src, dst := pkt.Src.Addr(), pkt.Dst.Addr()
	if !src.Is6() || !dst.Is6() {
		return nil
	}
	return p.tell(now, src, dst, pkt.If, quote(src, dst, pkt.B), quoteHead+off)
}

// quoteHead is the IPv6 header of a quotation.
const quoteHead = 40

// quote is the beginning of a packet that holds a Mobility Header. Its hop limit is not known.
func quote(src, dst netip.Addr, mh []byte) []byte {
	b := make([]byte, 0, quoteHead+problemQuote)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(mh)))
	b = append(b, protoMH, 0)
	s, d := src.As16(), dst.As16()
	b = append(append(b, s[:]...), d[:]...)
	return append(b, mh[:min(len(mh), problemQuote)]...)
}

// problem is the ICMPv6 message about octet off of a packet, with a checksum of zero.
func problem(pkt []byte, off int) []byte {
	pkt = pkt[:min(len(pkt), quoteHead+problemQuote)]
	b := append(make([]byte, 0, 8+len(pkt)), 4, 0, 0, 0) // Parameter Problem, erroneous header field
	return append(binary.BigEndian.AppendUint32(b, uint32(off)), pkt...)
}

// tell sends a Parameter Problem about octet off of pkt, which came from src to dst by link ifi.
func (p *problems) tell(now time.Duration, src, dst netip.Addr, ifi int, pkt []byte, off int) error {
	// RFC 4443 2.4 (e): one node is asked and one node answers. Signalling is never an ICMPv6 error itself.
	if src.Is4In6() || src.IsUnspecified() || src.IsMulticast() || src.IsLoopback() || dst.IsMulticast() {
		return nil
	}
	if !p.take(now, src) {
		p.limited.Add(1)
		return nil
	}
	to := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: src.As16()}
	info := unix.Inet6Pktinfo{Addr: dst.As16()}
	if src.IsLinkLocalUnicast() {
		to.Scope_id, info.Ifindex = uint32(ifi), uint32(ifi)
	}
	ctrl := make([]byte, unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	c := (*unix.Cmsghdr)(unsafe.Pointer(&ctrl[0]))
	c.Level, c.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	c.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	*(*unix.Inet6Pktinfo)(unsafe.Pointer(&ctrl[unix.CmsgLen(0)])) = info
	var err error
	cerr := p.d.control(func(fd int) {
		err = unix.Sendmsg(fd, problem(pkt, off), ctrl, &unix.SockaddrInet6{Addr: to.Addr, ZoneId: to.Scope_id}, unix.MSG_DONTWAIT)
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("parameter problem from %s to %s: %w", dst, src, err)
	}
	return nil
}
