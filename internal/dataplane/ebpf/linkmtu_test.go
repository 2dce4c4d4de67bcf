package ebpf

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/conformance"
)

// TestLinkMTUChanges: when the MTU of an access link is lowered while planes run, the correspondent node hears "too big" with it, in
// both families; what fits still goes the fast way.
func TestLinkMTUChanges(t *testing.T) {
	p := newPath(t, false, nil)
	p.sh("mag", "ip link set acc1 mtu 1300", "ip route add 2001:db8:c::/64 via 2001:db8:a::1", "ip route add 203.0.113.0/24 via 198.51.100.1")
	p.sh("host", "ip link set eth0 mtu 1300")
	for to, opt := range map[string][5]int{
		host4: {unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IPPROTO_IP, unix.IP_MTU},
		host6: {unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPPROTO_IPV6, unix.IPV6_MTU},
	} {
		var c net.Conn
		p.in("cn", func() (err error) {
			c, err = net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(to), 9).String())
			return err
		})
		raw, err := c.(*net.UDPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), opt[0], opt[1], opt[2]) }))
		must(t, err)
		until(t, to+": the new MTU", func() bool {
			_, _ = c.Write(make([]byte, 1372)) // fails once it is known, or the port is closed
			mtu := 0
			must(t, raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), opt[3], opt[4]) }))
			return err == nil && mtu == 1300
		})
		c.Close()
	}
	p.fast("after", "host", conformance.CN6, "cn")
	p.fast("after, down", "cn", netip.MustParseAddr(host6), "host")
}
