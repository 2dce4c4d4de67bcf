package core

import "net/netip"

// Resolve is the body of an Ask for the addresses of a host name, of both families; the Answer's Body is a []netip.Addr. Name servers are
// asked from the addresses in From, of the server's own family, and so by the way that leads from there; those of this machine are
// asked as any program does.
type Resolve struct {
	Host string
	From []netip.Addr
}
