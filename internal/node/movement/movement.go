// Package movement watches the links of a mobile node: which care-of addresses it could use, and whether it is at home
// (RFC 6275 11.5.1 to 11.5.5). It forms IPv6 care-of addresses from Router Advertisements (RFC 4861, RFC 4862, RFC 7217,
// optimistic: RFC 4429), takes IPv4 ones as the machine's DHCP client sets them, verifies that routers are reachable
// (RFC 4861 7.3, RFC 4436, RFC 6059), and keeps a routing table with a source rule for each address, so that what is sent
// from a care-of address leaves by its link and router.
//
// A Machine is a sub-machine of package node: without I/O, clock or lock. Its parent hands it HostChanged, Messages of the
// "links" port (Body *access.Frame), Tick, and those Done whose Ref is one of ours (Ours). Effects are core.Send of frames,
// core.Change and core.Emit.
package movement

import (
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// CareOf is an address that the node could be reached at, on one of its links.
type CareOf struct {
	If         int
	Link       string     // name of the interface
	Addr       netip.Addr // IPv6 or IPv4; usable, or optimistic (RFC 4429)
	Prefix     netip.Prefix
	Router     netip.Addr // next hop; invalid on a link without one
	MTU        int        // of the link or as advertised, octets
	Prefer     int        // rank of the link in the config; less is better
	Home       bool       // the link is the home link: Addr is no care-of address, the node is at home there
	Optimistic bool       // duplicate address detection is not over
	Deprecated bool       // its preferred lifetime is over: no new binding should start from it (RFC 4862 5.5.4)
	Suspect    bool       // its router has been asked for a sign of life and has not answered yet
	Table      int        // the routing table with the default route of this address
	Since      time.Duration
	Network    string // names the network, not the attachment: what was learned of it holds when the node comes back; "" = not known yet
}

// Machine is the sub-machine. Use New.
type Machine struct {
	cfg  Config
	rand io.Reader
	out  []core.Effect
}

// New makes a machine that knows of no link. rand is read for the secret if there is none, and for jitter. Errors wrap
// ErrConfig, or are rand's.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Machine{cfg: cfg, rand: rand}, nil
}

// Handle takes core.HostChanged, core.Message, core.Tick and core.Done; others are ignored.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect { return out }

// Deadline is when the machine wants a Tick.
func (m *Machine) Deadline() (boot time.Duration, ok bool) { return 0, false }

// CareOfs are what could be used now, best first: IPv4 and IPv6 in one list. The order is stable: by usable router (not
// Suspect), preferred before deprecated, rank of the link, usable before optimistic, then the older before the newer, so
// that a second equal address never displaces the first. Addresses of the home link have Home and stand in their place.
func (m *Machine) CareOfs() []CareOf { return nil }

// Changed says whether CareOfs may answer otherwise than when Changed was last called.
func (m *Machine) Changed() bool { return false }

// AtHome gives the address of the home link that packets of the node itself can use before and after deregistration, and
// whether there is one.
func (m *Machine) AtHome() (CareOf, bool) { return CareOf{}, false }

// Ours says whether a Done with this Ref belongs to the machine. The parent must not use such numbers itself.
func Ours(r core.Ref) bool { return r >= refBase }

// refBase is the first Ref of ours.
const refBase core.Ref = 1 << 63

// Confirm tells that packets go out from a and answers come back (RFC 4861 7.3.1): its router is reachable.
func (m *Machine) Confirm(now core.Now, a netip.Addr) {}

// Suspect tells that nothing comes back to a any more: its router is asked at once, and routers are solicited.
func (m *Machine) Suspect(now core.Now, a netip.Addr, out []core.Effect) []core.Effect { return out }

// ExpectHome prepares for coming home on a link, when the parent sends its deregistration: Neighbor Solicitations for addrs
// are answered by unicast from now on (RFC 6275 11.5.5), because the kernel does not hold the addresses there yet.
func (m *Machine) ExpectHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect {
	return out
}

// ClaimHome takes the home addresses to the home link, after the home agent has acknowledged: it sets them there without
// duplicate address detection, sets the default routes of Config.HomeTable by the link's routers, and tells the neighbours
// three times, by unsolicited Neighbor Advertisements that override, and by ARP announcements.
func (m *Machine) ClaimHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect {
	return out
}

// ReleaseHome undoes ExpectHome and ClaimHome. The default routes of Config.HomeTable stay: the parent sets its own in their
// place, before or after.
func (m *Machine) ReleaseHome(now core.Now, out []core.Effect) []core.Effect { return out }

// Close removes everything that the machine has set. Only a stop does that; a restarted machine adopts it.
func (m *Machine) Close(now core.Now, out []core.Effect) []core.Effect { return out }
