package user

import (
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/internal/system/netns"
	"kedge/wire/ip"
)

// BenchmarkKernel is what the kernel takes to send a segment in a tunnel and to receive it, over veth and one processor, with nothing
// around it: in protocol 41 by raw sockets, a segment a message, and in UDP, many in one. No plane of this package can be faster.
func BenchmarkKernel(b *testing.B) {
	const size, batch = 1400, 44
	from, err := netns.Anonymous()
	must(b, err)
	defer from.Close()
	to, err := netns.Anonymous()
	must(b, err)
	defer to.Close()
	a6, b6, a4, b4 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, n := range []*netns.NS{from, to} {
		must(b, n.Sysctl("net.ipv6.conf.default.accept_dad", "0"))
	}
	must(b, netns.Veth(netns.End{NS: from, Name: "a", MTU: 1600, Addrs: []netip.Prefix{netip.PrefixFrom(a6, 64), netip.PrefixFrom(a4, 24)}},
		netns.End{NS: to, Name: "b", MTU: 1600, Addrs: []netip.Prefix{netip.PrefixFrom(b6, 64), netip.PrefixFrom(b4, 24)}}))
	outer := map[string][]byte{}
	for name, h := range map[string]ip.Header{"IPv6": {Src: a6, Dst: b6, Proto: ip.IPv6, TTL: 64}, "IPv4": {Src: a4, Dst: b4, Proto: ip.IPv6, TTL: 64, DF: true}} {
		head, err := h.Append(nil, size)
		must(b, err)
		outer[name] = append(head, make([]byte, size)...)
	}
	open := func(n *netns.NS, domain, kind, proto int, options ...[3]int) (fd int) {
		must(b, n.Do(func() (err error) {
			fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
			return err
		}))
		b.Cleanup(func() { unix.Close(fd) })
		must(b, opts(fd, options...))
		return fd
	}
	run := func(name string, fd int, send func() error, each func(n int) int) {
		b.Run(name, func(b *testing.B) {
			s := &socket{bufs: make([]byte, batch*2048)}
			for i := range batch {
				s.iovs[i].Base = &s.bufs[i*2048]
				s.iovs[i].SetLen(2048)
				s.hdrs[i].hdr.Iov, s.hdrs[i].hdr.Iovlen = &s.iovs[i], 1
			}
			if name == "UDP" {
				s.iovs[0].SetLen(len(s.bufs))
			}
			take := func() (got int) {
				for {
					n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.hdrs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
					if errno != 0 {
						return got
					}
					for i := range int(n) {
						got += each(int(s.hdrs[i].n))
					}
				}
			}
			for range 100 { // the neighbour has to be found
				must(b, send())
				if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50); n > 0 {
					break
				}
			}
			take()
			b.SetBytes(size)
			sent, got := 0, 0
			for b.ResetTimer(); sent < b.N; sent += batch {
				must(b, send())
				got += take()
			}
			if got < sent-sent/100 {
				b.Errorf("%d of %d segments arrived", got, sent)
			}
		})
	}
	for _, f := range []struct {
		name   string
		domain int
	}{{"IPv6", unix.AF_INET6}, {"IPv4", unix.AF_INET}} {
		in := open(to, f.domain, unix.SOCK_RAW, ip.IPv6, [3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer})
		out := open(from, f.domain, unix.SOCK_RAW, unix.IPPROTO_RAW, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer})
		pkts := make([]mem.Packet, batch)
		for i := range pkts {
			pkts[i].B = outer[f.name]
		}
		sb := new(sendBatch)
		run("protocol 41 in "+f.name, in, func() error {
			if f.name == "IPv4" {
				sb.outer4(pkts, true)
			} else {
				sb.outer6(pkts, true)
			}
			if n, err := sb.send(out, 0, batch); err != nil || n != batch {
				return fmt.Errorf("%d sent: %w", n, err)
			}
			return nil
		}, func(int) int { return 1 })
	}
	in := open(to, unix.AF_INET, unix.SOCK_DGRAM, 0, [3]int{unix.SOL_UDP, unix.UDP_GRO, 1}, [3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer})
	must(b, unix.Bind(in, &unix.SockaddrInet4{Port: 4191}))
	out := open(from, unix.AF_INET, unix.SOCK_DGRAM, 0, [3]int{unix.SOL_UDP, unix.UDP_SEGMENT, size}, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer})
	must(b, unix.Connect(out, &unix.SockaddrInet4{Port: 4191, Addr: b4.As4()}))
	super := make([]byte, size*batch)
	run("UDP", in, func() error {
		_, err := unix.Write(out, super)
		return err
	}, func(n int) int { return n / size })
}
