package homelist

import (
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/nd"
)

// advertiser is the schedule of RFC 4861 6.2.4 and 6.2.6 with the times of RFC 6275 7.5.
type advertiser struct {
	on   bool
	at   time.Duration // of the next one
	last time.Duration // of the last one
	sent int
}

func (a *advertiser) next() (time.Duration, bool) { return a.at, a.on }

func (m *Machine) start(now core.Now) {
	if !m.cfg.Advertise || m.adv.on {
		return
	}
	m.adv.on, m.adv.at = true, now.Boot
	m.advertiseDue(now)
}

// advertiseDue sends an advertisement if it is time.
func (m *Machine) advertiseDue(now core.Now) {
	a := &m.adv
	if !a.on || a.at > now.Boot {
		return
	}
	a.sent, a.last = min(a.sent+1, initialCount), now.Boot
	wait := m.cfg.MinInterval + uniform(m.rand, m.cfg.MaxInterval-m.cfg.MinInterval)
	if a.sent < initialCount {
		wait = min(wait, initialInterval)
	}
	a.at = now.Boot + wait
	m.multicast(m.advertisement(now))
}

// solicited answers by a multicast advertisement, after a random delay and no sooner than the least time after the last one.
// One that is due earlier will do.
func (m *Machine) solicited(now core.Now) {
	a := &m.adv
	if !a.on {
		return
	}
	at := now.Boot + uniform(m.rand, maxRADelay)
	if a.sent > 0 && now.Boot-a.last < m.cfg.MinDelay {
		at += m.cfg.MinDelay - (now.Boot - a.last)
	}
	a.at = min(a.at, at)
}

// soon lets hosts know of a change as soon as that is allowed.
func (m *Machine) soon(now core.Now) {
	if a := &m.adv; a.on {
		a.sent = 0 // changed information is advertised as at the start (RFC 4861 6.2.4)
		a.at = min(a.at, max(now.Boot, a.last+m.cfg.MinDelay))
	}
}

// End says on the home link that the anchor is no router and no home agent any more (RFC 4861 6.2.5), and is the last that it says. Of
// the times that this may be said, once is enough: who misses it sees the lifetimes end.
func (m *Machine) End(now core.Now) {
	if !m.adv.on {
		return
	}
	m.adv.on, m.retired, m.cfg.RouterLifetime = false, true, 0
	m.multicast(m.advertisement(now))
}

// multicast sends an advertisement to all on the link.
func (m *Machine) multicast(ra *nd.RouterAdvertisement) {
	m.frames = append(m.frames, &access.Frame{
		Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: m.cfg.MAC, SrcIP: m.cfg.LinkLocal, DstIP: nd.AllNodes, Body: ra,
	})
}

// advertisement is RFC 4861 4.2 with RFC 6275 7.
func (m *Machine) advertisement(now core.Now) *nd.RouterAdvertisement {
	c := &m.cfg
	ra := &nd.RouterAdvertisement{CurHopLimit: 64, Managed: c.Managed, Other: c.Other, HomeAgent: !m.retired,
		RouterLifetime: uint16(c.RouterLifetime / time.Second)}
	interval := c.MaxInterval
	if interval < intervalPadBelow {
		interval += intervalPad
	}
	ra.Options = append(ra.Options, nd.SourceLinkLayer(c.MAC), nd.AdvertisementInterval(interval/time.Millisecond))
	info := nd.HomeAgentInformation{Mobile: c.Mobile, Preference: c.Preference, Lifetime: uint16(max(c.Lifetime/time.Second, 1))}
	// With nothing but defaults it should not be there, and without the H flag it must not (RFC 6275 7.4).
	if !m.retired && (info.Mobile || info.Preference != 0 || info.Lifetime != ra.RouterLifetime) {
		ra.Options = append(ra.Options, info)
	}
	ra.Options = append(ra.Options, m.prefixOptions(now)...)
	return ra
}

// prefixOptions are those of the prefixes that the config and the interface have. Every own address is told by the R flag: in
// the option of its prefix, or in one that says nothing else where the prefix is not of this link.
func (m *Machine) prefixOptions(now core.Now) (out nd.Options) {
	left := m.cfg.Addresses
	for _, p := range m.cfg.Prefixes {
		o := &nd.PrefixInformation{Prefix: p.Prefix, OnLink: p.OnLink, Autonomous: p.Autonomous, Valid: wireSeconds(p.Valid), Preferred: wireSeconds(p.Preferred)}
		var rest []netip.Addr
		for _, a := range left {
			if o.RouterAddr || !p.Prefix.Contains(a) || p.Valid == 0 {
				rest = append(rest, a)
				continue
			}
			o.RouterAddr, o.Prefix = true, netip.PrefixFrom(a, p.Prefix.Bits())
		}
		left = rest
		if len(out) < MaxAdvertised {
			out = append(out, o)
		}
	}
	for _, a := range left {
		if len(out) == MaxAdvertised {
			break
		}
		out = append(out, &nd.PrefixInformation{Prefix: netip.PrefixFrom(a, 64), RouterAddr: true, Valid: wireSeconds(DefaultValid), Preferred: wireSeconds(DefaultPreferred)})
	}
	return out
}
