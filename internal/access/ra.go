package access

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// advertise sends the host its Router Advertisement (RFC 5213 6.7): exactly its own prefixes, with what is left of the
// binding as lifetime; withdrawn prefixes with lifetime 0 beside them. A host without any prefix is told with router
// lifetime 0 that it has no router here (RFC 4861 6.2.5). It arms the timers of the next one.
//
// RFC 4862 5.5.3 e) makes hosts keep the addresses of a withdrawn prefix for up to two hours, but deprecated at once: new
// connections do not use them.
func (l *HomeLink) advertise(now core.Now, h *host, out []Action) []Action {
	valid := time.Duration(0)
	if h.has6() {
		valid = max(0, h.ends-now.Boot)
	}
	preferred := min(valid, max(0, h.preferred-now.Boot))
	ra := &nd.RouterAdvertisement{CurHopLimit: 64, RouterLifetime: uint16(seconds(min(valid, l.cfg.RouterLifetime)))}
	ra.Options = append(ra.Options, nd.SourceLinkLayer(l.cfg.MAC))
	if l.cfg.MTU > 0 {
		// Below 1,280 an MTU option is invalid; what is longer than the tunnel takes is fragmented outside (RFC 2473 7.1).
		ra.Options = append(ra.Options, nd.MTU(max(l.cfg.MTU, 1280)))
	}
	for _, p := range h.grant.Prefixes {
		ra.Options = append(ra.Options, prefixOption(p, seconds(valid), seconds(preferred)))
	}
	for _, p := range h.gone[:min(len(h.gone), MaxPrefixes-len(h.grant.Prefixes))] {
		ra.Options = append(ra.Options, prefixOption(p, 0, 0))
	}
	if servers := dns6(l.cfg.DNS); len(servers) > 0 {
		ra.Options = append(ra.Options, &nd.RDNSS{Lifetime: seconds(valid), Servers: servers})
	}
	if len(l.cfg.Search) > 0 {
		ra.Options = append(ra.Options, &nd.DNSSL{Lifetime: seconds(valid), Domains: l.cfg.Search})
	}
	l.schedule(now, h)

	to := nd.AllNodes
	if h.linkLocal.IsValid() {
		to = h.linkLocal
	}
	return transmit(out, &Frame{Dst: h.mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: to, Body: ra})
}

// schedule sets when the host's next advertisement is due, after one was sent now.
func (l *HomeLink) schedule(now core.Now, h *host) {
	h.at[timerRA], h.at[timerGone] = never, never
	if h.has6() {
		wait := l.jitter(l.cfg.RAInterval)
		if h.first > 0 {
			h.first--
			wait = min(wait, initialInterval)
		}
		h.at[timerRA] = now.Boot + wait
	}
	if len(h.gone) > 0 {
		if h.goneLeft--; h.goneLeft > 0 {
			h.at[timerGone] = now.Boot + finalInterval
		} else {
			h.gone = nil
		}
	}
}

// prefixOption says that p is on the link and good for autoconfiguration, as far as its length allows it (RFC 2464 4).
func prefixOption(p netip.Prefix, valid, preferred uint32) *nd.PrefixInformation {
	return &nd.PrefixInformation{Prefix: p, OnLink: true, Autonomous: p.Bits() == 64, Valid: valid, Preferred: preferred}
}

// seconds rounds up: a lifetime of 0 means withdrawn.
func seconds(d time.Duration) uint32 {
	return uint32(min(int64((d+time.Second-1)/time.Second), math.MaxUint32-1))
}

func dns6(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !a.Is6() || a.Is4In6() })
}
