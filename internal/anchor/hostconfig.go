package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/core"
	"kedge/internal/subscriber"
)

// DSMIPDialect is a format of DSMIPv6 signalling.
type DSMIPDialect = homeagent.Dialect

const (
	RFC5555   = homeagent.RFC5555
	Soliman00 = homeagent.Soliman00
)

// DSMIP6 is the service of RFC 6275 10 and RFC 5555: the anchor as home agent of nodes that register by themselves.
// Subscribers with a home address (subscriber.Profile.HoA) have it. Zero durations mean the defaults named beside them.
type DSMIP6 struct {
	// On: without it a Binding Update without the P flag is dropped as no proxy registration.
	On bool
	// HomeAgents are those of Config.Addresses that nodes register with; registrations that come to another one get status
	// 131. Empty = all IPv6 ones.
	HomeAgents []netip.Addr
	Dialects   []DSMIPDialect // that are answered; empty = rfc5555 only
	// NoIPv4: nobody gets an IPv4 home address (status 129 of its option).
	NoIPv4 bool
	// NoForcedUDP refuses the F flag with status 144; ForceUDP tells nodes to use UDP without a NAT too.
	NoForcedUDP, ForceUDP bool
	// PrivateCareOf accepts care-of addresses of RFC 1918 in protocol 41: for laboratories.
	PrivateCareOf bool
	// NATRefresh is told to nodes behind a NAT, 110 s (NATKATIMEOUT, RFC 5555 6).
	NATRefresh time.Duration
	// RefreshAdvice asks nodes to renew their registration after this time (RFC 6275 6.2.4); 0 = it does not, as it must be
	// where the store outlives the process (10.3.1).
	RefreshAdvice time.Duration
	// RefreshRequest is how long before the end of a lifetime a Binding Refresh Request is sent (9.5.5); 0 = none is.
	RefreshRequest time.Duration
	// MessageIDWindow is how far the clock of a node that uses the option of RFC 4285 6 may be off, 7 s.
	MessageIDWindow time.Duration
	// RequireMessageID refuses requests that RFC 4285 protects and that lack the option (status 145).
	RequireMessageID bool
}

// HomePort is what frames on the home link need. Without If no duplicate address detection is done and nothing is
// announced: the kernel's proxy entries are all the defence.
type HomePort struct {
	If        int
	MAC       core.MAC
	LinkLocal netip.Addr // of that interface: the source of Neighbor Advertisements
	// Prefixes are on-link there. Pools that lie in one are routed to the Device address by address, for nodes that are away,
	// and not as a whole.
	Prefixes []netip.Prefix
	// DADTransmits is DupAddrDetectTransmits (RFC 4862 5.1), 1; negative = none. RetransTimer is RFC 4861 10's, 1 s.
	DADTransmits int
	RetransTimer time.Duration
}

// natRefresh is NATKATIMEOUT, RFC 5555 6.
const natRefresh = 110 * time.Second

// messageIDWindow is the default of RFC 4285 6.
const messageIDWindow = 7 * time.Second

// checkHosts fills in defaults of what concerns host registrations and says what is wrong.
func (c *Config) checkHosts() error {
	d := &c.DSMIP6
	for _, a := range d.HomeAgents {
		if !a.Is6() || !slices.Contains(c.Addresses, a) {
			return fmt.Errorf("home agent address %s is no IPv6 address of the anchor", a)
		}
	}
	if len(d.HomeAgents) == 0 {
		for _, a := range c.Addresses {
			if a.Is6() {
				d.HomeAgents = append(d.HomeAgents, a)
			}
		}
	}
	for _, v := range d.Dialects {
		if v != RFC5555 && v != Soliman00 {
			return fmt.Errorf("dialect %d is none of a home agent's", v)
		}
	}
	if d.NoForcedUDP && d.ForceUDP {
		return fmt.Errorf("UDP cannot be forced on nodes and refused to them")
	}
	def(&d.NATRefresh, natRefresh)
	def(&d.MessageIDWindow, messageIDWindow)
	if d.NATRefresh < time.Second || d.RefreshAdvice < 0 || d.RefreshRequest < 0 || d.MessageIDWindow < 0 {
		return fmt.Errorf("a time of the home agent is negative or too short")
	}
	p := &c.HomePort
	def(&p.DADTransmits, 1)
	def(&p.RetransTimer, time.Second)
	if p.If != 0 && c.HomeLink != "" && (p.MAC == (core.MAC{}) || !p.LinkLocal.IsLinkLocalUnicast() || !p.LinkLocal.Is6()) {
		return fmt.Errorf("home link %s: frames there need a MAC and an IPv6 link-local address", c.HomeLink)
	}
	return nil
}

// isNode says whether a peer speaks for a subscriber: he may be anywhere.
func (c *Config) isNode(peer string) bool {
	return slices.ContainsFunc(c.Subscribers.List, func(p subscriber.Profile) bool { return p.Peer == peer })
}
