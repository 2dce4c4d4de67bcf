package access

import (
	"container/heap"
	"container/list"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// HomeLink emulates the home link of every host on one access link, each as if it were alone on a point-to-point link
// (RFC 5213 6.5): what it sends to one host is unicast on the link layer and never reaches another (RFC 6085). It is a
// sub-machine: its gateway calls it in its own goroutine and carries out the Actions that it appends.
type HomeLink struct {
	cfg       LinkConfig
	rand      io.Reader
	hosts     map[core.MAC]*host
	owners    map[netip.Addr]*host // by granted IPv4 home address
	agenda    agenda
	strangers list.List // hosts without a grant, the one seen last in front
}

// NewHomeLink makes a link without hosts. rand spreads the periodic Router Advertisements.
func NewHomeLink(cfg LinkConfig, rand io.Reader) *HomeLink {
	if cfg.RAInterval <= 0 {
		cfg.RAInterval = DefaultRAInterval
	}
	if cfg.RouterLifetime <= 0 {
		cfg.RouterLifetime = 3 * cfg.RAInterval
	}
	cfg.RouterLifetime = min(cfg.RouterLifetime, maxRouterLifetime)
	if cfg.DHCP.Lease <= 0 {
		cfg.DHCP.Lease = DefaultLease
	}
	if cfg.DHCP.HoldTime <= 0 {
		cfg.DHCP.HoldTime = DefaultHoldTime
	}
	return &HomeLink{cfg: cfg, rand: rand, hosts: map[core.MAC]*host{}, owners: map[netip.Addr]*host{}}
}

// Hosts counts the hosts that the link remembers: with a grant, and strangers.
func (l *HomeLink) Hosts() (granted, strangers int) {
	return len(l.hosts) - l.strangers.Len(), l.strangers.Len()
}

// Handle takes one frame that arrived on the link. Every host's frame is reported as Attached first, then answered or
// refused; a frame of no use here (data) is reported only and leaves nothing behind.
func (l *HomeLink) Handle(now core.Now, f *Frame, out []Action) []Action {
	switch {
	case f == nil:
		return out
	case f.Src == l.cfg.MAC:
		return refuse(out, f.Src, wire.RouterImpersonate, "frame from the router's MAC address")
	case ether.IsGroup(f.Src) || f.Src == core.MAC{}:
		return refuse(out, f.Src, wire.WrongMAC, "source is no unicast MAC address")
	case f.Body == nil || l.passing(f):
		return append(out, Attached{MAC: f.Src, By: "data", Addr: f.SrcIP})
	}
	h := l.host(now, f.Src)
	if !h.frames.Take(now.Boot, frameLimit) {
		l.settle(h)
		return refuse(out, h.mac, wire.RateLimit, f.Kind())
	}
	// What a switch floods to us but is for another station still shows the host; it is not ours to answer.
	mine := f.Dst == l.cfg.MAC || ether.IsGroup(f.Dst)
	switch m := f.Body.(type) {
	case *ether.ARP:
		out = l.handleARP(now, h, f, m, mine, out)
	case *nd.Echo:
		out = l.handleEcho(h, f, m, mine, out)
	case *Echo4:
		out = l.handleEcho4(now, h, f, m, mine, out)
	case *dhcpv4.DHCPv4:
		out = l.handleDHCP(now, h, f, m, mine, out)
	case nd.Message:
		out = l.handleND(now, h, f, m, mine, out)
	}
	l.settle(h)
	return out
}

// passing says whether it is a ping of somebody else, which is data: it must not use up the host's rate here.
func (l *HomeLink) passing(f *Frame) bool {
	switch m := f.Body.(type) {
	case *nd.Echo:
		return m.Reply || f.DstIP != l.cfg.LinkLocal
	case *Echo4:
		h := l.hosts[f.Src]
		return m.Reply || h == nil || !l.isRouter4(h, f.DstIP)
	}
	return false
}

// Grant says what a host may use, after a Proxy Binding Acknowledgement; each refresh is a Grant too. It sends a Router
// Advertisement, the IPv4 router's MAC address, answers what was held, and withdraws the prefixes that are not in g any more.
func (l *HomeLink) Grant(now core.Now, mac core.MAC, g Grant, out []Action) []Action {
	if g.Valid <= 0 {
		g = Grant{}
	}
	if ether.IsGroup(mac) || mac == l.cfg.MAC {
		return refuse(out, mac, wire.WrongMAC, "no host has this MAC address")
	}
	h := l.hosts[mac]
	empty := len(g.Prefixes) == 0 && !g.IPv4.IsValid()
	if h == nil && empty {
		return out
	}
	if !empty && (h == nil || h.stranger != nil) && len(l.hosts)-l.strangers.Len() >= MaxHosts {
		return refuse(out, mac, wire.HostLimit, "too many hosts on the link")
	}
	if h == nil {
		h = l.host(now, mac)
	}
	out = l.apply(now, h, g, out)
	if h.has6() || len(h.gone) > 0 {
		out = l.advertise(now, h, out)
	}
	out = l.answerHeldARP(now, h, out)
	out = l.announceRouter(h, out)
	out = l.answerHeldDHCP(now, h, out)
	l.settle(h)
	return out
}

// Deny says that the registration of the families f was refused, and why. What of them was granted is withdrawn; a held
// DHCPREQUEST is answered by DHCPNAK (RFC 5844 3.4.1), unless nobody answered at all: then the host keeps what it has and
// asks again.
func (l *HomeLink) Deny(now core.Now, mac core.MAC, f Families, reason string, out []Action) []Action {
	h := l.hosts[mac]
	if h == nil {
		return out
	}
	g := h.grant
	if f&V4 != 0 {
		out = l.denyDHCP(now, h, reason, out)
		g.IPv4 = netip.Prefix{}
	}
	if f&V6 != 0 {
		g.Prefixes = nil
	}
	if f&V4 != 0 && h.has4() || f&V6 != 0 && h.has6() {
		g.Valid, g.Preferred = h.ends-now.Boot, max(h.preferred-now.Boot, 1)
		out = l.apply(now, h, g, out)
		if len(h.gone) > 0 {
			out = l.advertise(now, h, out)
		}
	}
	l.settle(h)
	return out
}

// Forget drops all state of a host that left. It sends nothing, since nobody is there to hear it: for a host that stays
// on the link, Grant nothing first.
func (l *HomeLink) Forget(_ core.Now, mac core.MAC, out []Action) []Action {
	if h := l.hosts[mac]; h != nil {
		l.drop(h)
	}
	return out
}

// Tick does what is due at now.
func (l *HomeLink) Tick(now core.Now, out []Action) []Action {
	for len(l.agenda) > 0 && l.agenda[0].due <= now.Boot {
		h := l.agenda[0]
		due := func(t int) bool {
			if h.at[t] > now.Boot {
				return false
			}
			h.at[t] = never
			return true
		}
		if due(timerIdle) && h.stranger != nil {
			l.drop(h)
			continue
		}
		if due(timerHold) && h.held != nil {
			h.held = nil
			out = refuse(out, h.mac, wire.NoAnswer, "registration took longer than the DHCP message could wait")
		}
		if due(timerEnd) {
			if out = l.apply(now, h, Grant{}, out); len(h.gone) > 0 {
				out = l.advertise(now, h, out)
			}
		}
		if due(timerGone) && h.goneLeft > 0 || due(timerRA) && h.has6() {
			out = l.advertise(now, h, out)
		}
		l.settle(h)
	}
	return out
}

// Deadline is the earliest wish for a Tick, in boot time.
func (l *HomeLink) Deadline() (time.Duration, bool) {
	if len(l.agenda) == 0 || l.agenda[0].due == never {
		return 0, false
	}
	return l.agenda[0].due, true
}

// host finds or makes the state of a MAC address.
func (l *HomeLink) host(now core.Now, mac core.MAC) *host {
	h := l.hosts[mac]
	if h == nil {
		if l.strangers.Len() >= MaxStrangers {
			l.drop(l.strangers.Back().Value.(*host))
		}
		h = &host{mac: mac}
		for t := range h.at {
			h.at[t] = never
		}
		h.due = never
		l.hosts[mac] = h
		heap.Push(&l.agenda, h)
		h.stranger = l.strangers.PushFront(h)
	}
	if h.stranger != nil {
		l.strangers.MoveToFront(h.stranger)
		h.at[timerIdle] = now.Boot + StrangerTime
	}
	return h
}

func (l *HomeLink) drop(h *host) {
	l.disown(h)
	if h.stranger != nil {
		l.strangers.Remove(h.stranger)
	}
	heap.Remove(&l.agenda, h.index)
	delete(l.hosts, h.mac)
}

func (l *HomeLink) disown(h *host) {
	if a := h.grant.IPv4; a.IsValid() && l.owners[a.Addr()] == h {
		delete(l.owners, a.Addr())
	}
}

// settle puts the host where its earliest timer belongs.
func (l *HomeLink) settle(h *host) {
	if l.hosts[h.mac] != h {
		return
	}
	h.due = slices.Min(h.at[:])
	heap.Fix(&l.agenda, h.index)
}

// apply replaces the host's grant as a whole and keeps account of what is gone. It sends nothing.
func (l *HomeLink) apply(now core.Now, h *host, g Grant, out []Action) []Action {
	if len(g.Prefixes) > MaxPrefixes {
		out = refuse(out, h.mac, wire.BadValue, "more home network prefixes than one advertisement carries")
	}
	prefixes := make([]netip.Prefix, 0, min(len(g.Prefixes), MaxPrefixes))
	for _, p := range g.Prefixes[:min(len(g.Prefixes), MaxPrefixes)] {
		prefixes = append(prefixes, p.Masked())
	}
	g.Prefixes = prefixes
	had6 := h.has6()
	var gone []netip.Prefix
	for _, p := range h.gone {
		if !slices.Contains(prefixes, p) {
			gone = append(gone, p)
		}
	}
	for _, p := range h.grant.Prefixes {
		if !slices.Contains(prefixes, p) && !slices.Contains(gone, p) {
			gone = append(gone, p)
			h.goneLeft = finalAdvertisements
		}
	}
	// What was withdrawn first has been said most often.
	h.gone = gone[max(0, len(gone)-MaxPrefixes):]

	l.disown(h)
	h.grant = g
	if g.IPv4.IsValid() {
		if other := l.owners[g.IPv4.Addr()]; other != nil {
			// A host that changed its interface: the address is where it was granted last.
			other.grant.IPv4 = netip.Prefix{}
			l.keep(now, other)
			l.settle(other)
		}
		l.owners[g.IPv4.Addr()] = h
		h.router4, h.released = g.Router4, false
	}
	h.ends, h.preferred = now.Boot+g.Valid, now.Boot+g.Valid
	if g.Preferred > 0 && g.Preferred < g.Valid {
		h.preferred = now.Boot + g.Preferred
	}
	if h.has6() && !had6 {
		h.first = initialAdvertisements - 1
	}
	l.keep(now, h)
	return out
}

// keep counts the host among strangers or not, as its grant says.
func (l *HomeLink) keep(now core.Now, h *host) {
	h.at[timerEnd] = never
	switch {
	case h.has4() || h.has6():
		h.at[timerEnd] = h.ends
		if h.stranger != nil {
			l.strangers.Remove(h.stranger)
			h.stranger, h.at[timerIdle] = nil, never
		}
	case h.stranger == nil:
		h.stranger = l.strangers.PushFront(h)
		h.at[timerIdle] = now.Boot + StrangerTime
	}
}

// jitter spreads d evenly over half of it to one and a half.
func (l *HomeLink) jitter(d time.Duration) time.Duration {
	var b [4]byte
	if _, err := io.ReadFull(l.rand, b[:]); err != nil {
		return d
	}
	return d/2 + time.Duration(float64(d)*float64(binary.BigEndian.Uint32(b[:]))/(1<<32))
}

func refuse(out []Action, mac core.MAC, r wire.Reason, detail string) []Action {
	return append(out, Refused{MAC: mac, Reason: string(r), Detail: detail})
}

func transmit(out []Action, f *Frame) []Action { return append(out, Transmit{Frame: f}) }
