package system

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
)

// resolveTimeout bounds all tries of one question.
const resolveTimeout = 20 * time.Second

// Resolve answers core.Resolve by the name servers of /etc/resolv.conf, with A and AAAA records. A name of a family that has none is
// no error as long as the other has. Errors are *net.DNSError, or those of sockets.
func Resolve(ctx context.Context, q core.Resolve) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, server string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: from(network, server, q.From)}
		return d.DialContext(ctx, network, server)
	}}
	// With the last dot it is the name of the config, and not one in a domain that some visited network wants searched.
	return r.LookupNetIP(ctx, "ip", strings.TrimSuffix(q.Host, ".")+".")
}

// from is the address to ask a name server from: the first of its family. One of this machine, or of a link, has its own.
func from(network, server string, of []netip.Addr) net.Addr {
	to, err := netip.ParseAddrPort(server)
	if err != nil || to.Addr().IsLoopback() || to.Addr().IsLinkLocalUnicast() {
		return nil
	}
	i := slices.IndexFunc(of, func(a netip.Addr) bool { return a.Is4() == to.Addr().Unmap().Is4() })
	switch {
	case i < 0:
		return nil
	case strings.HasPrefix(network, "tcp"):
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(of[i], 0))
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(of[i], 0))
}
