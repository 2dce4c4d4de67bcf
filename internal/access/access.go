// Package access is everything that happens on one access link: it reads the hosts' frames and emulates their home link
// (RFC 5213 6.5-6.9, RFC 5844 3.2-3.4) towards each of them. A HomeLink is a sub-machine of the gateway: no I/O, no clock.
//
// The border: the gateway owns sessions, signalling and forwarding; the link owns RA, ND, ARP, DHCPv4 and the memory of
// what each host asked for. The gateway hands it frames and grants; it answers with frames to send and news about hosts.
package access

import (
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Families is a set of address families.
type Families uint8

const (
	V4 Families = 1 << iota
	V6
)

// LinkConfig is what an access link is. All gateways of a domain have equal LinkLocal and MAC.
type LinkConfig struct {
	Name      string
	If        int
	LinkLocal netip.Addr // router's link-local address; RFC 6543 by default
	MAC       core.MAC   // router's MAC; RFC 6543 by default
	MTU       uint32     // advertised by RA and DHCP option 26: what fits the tunnel; 0 = not advertised

	DNS    []netip.Addr // both families; RDNSS and option 6
	Search []string     // DNSSL (RFC 8106), option 15 takes the first

	RAInterval     time.Duration // between periodic unicast RAs of a host, mean; 0 = DefaultRAInterval
	RouterLifetime time.Duration // 0 = three RAInterval; never longer than the binding, nor than 9,000 s (RFC 4861 6.2.1)

	DHCP DHCPConfig
}

// DHCPConfig is the DHCPv4 server of a link.
type DHCPConfig struct {
	Off      bool
	OwnID    bool             // server-id: own; foreign REQUESTs are silently discarded (document 001). Else fixed
	Own      netip.Addr       // this gateway's address for OwnID
	Fixed    netip.Addr       // server identifier of all gateways; unset = the home network's default router
	Lease    time.Duration    // option 51; 0 = DefaultLease. Option 58 is half of it, option 59 seven eighths (RFC 2131 4.4.5)
	Extra    map[uint8][]byte // further options, the same in all gateways (S001-3.1-15). What the link decides itself (1, 3, 26, 50-61, 82) is left out
	HoldTime time.Duration    // how long a request waits for the registration; 0 = DefaultHoldTime
}

// Grant is what a host may use on this link, from the anchor's answer. A zero Grant takes everything away.
type Grant struct {
	Prefixes  []netip.Prefix // home network prefixes; at most MaxPrefixes are advertised
	IPv4      netip.Prefix   // IPv4 home address with the length of its home network; invalid = no IPv4
	Router4   netip.Addr     // default router of the IPv4 home network
	Valid     time.Duration  // what is left of the binding's lifetime; 0 or less grants nothing. When it has run out without another Grant, the link withdraws by itself
	Preferred time.Duration  // of the prefixes; 0 = Valid
}

// Action is what a HomeLink wants from its gateway: Transmit, Attached, Renewed, Released, Declined, Refused.
type Action interface{ action() }

type (
	// Transmit sends a frame on the link.
	Transmit struct{ Frame core.Appender }
	// Attached: a host showed itself. By as in core.Seen. Wants: the families that this frame asks for (RS: V6;
	// DHCP: V4; others: 0 = whatever its profile says). Addr is its source address, Hint an address it asks for.
	// Arriving: it is what hosts send when their carrier comes up, and hardly at other times: RS, an MLD report of a
	// change, DAD, an unsolicited NA, an ARP Probe or Announcement, DHCPDISCOVER, INIT-REBOOT. Answer: it is what hosts
	// send when they are asked: a solicited NA, an ARP Reply, an MLD report of a state.
	Attached struct {
		MAC      core.MAC
		By       string
		Addr     netip.Addr
		Hint     netip.Addr
		Wants    Families
		Arriving bool
		Answer   bool
	}
	// Renewed: the host renewed its lease (RENEWING or REBINDING); the gateway SHOULD send a PBU (S001-3.2.2-52).
	Renewed struct{ MAC core.MAC }
	// Released: DHCPRELEASE; the gateway deregisters IPv4 only.
	Released struct{ MAC core.MAC }
	// Declined: DHCPDECLINE; the address is in use by somebody else. To be counted as wire.AddressDeclined.
	Declined struct {
		MAC  core.MAC
		Addr netip.Addr
	}
	// Refused: a frame was discarded; Reason is the text of a wire.Reason. Counted.
	Refused struct {
		MAC    core.MAC
		Reason string
		Detail string
	}
)

func (Transmit) action() {}
func (Attached) action() {}
func (Renewed) action()  {}
func (Released) action() {}
func (Declined) action() {}
func (Refused) action()  {}
