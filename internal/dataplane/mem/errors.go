package mem

import (
	"hash/maphash"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// sendError tells the source of pkt about a problem: on the access link it came from, into the tunnel of the session it belongs
// to, out of a node's device, or by plain routing. At most errorsPerSource a second to one source.
func (e *Engine) sendError(now time.Duration, p ip.Problem, info uint32, pkt []byte, h *ip.Header, c cause, out *Out) {
	if !ip.MayAnswer(pkt, p) {
		return
	}
	if !e.errors.take(now, 0, maphash.Comparable(e.seed, h.Src.As16()), errorsPerSource) {
		e.drops[rateLimit].Add(1)
		return
	}
	to, _ := e.tables.down(c.domain, h.Src)
	host := c.host
	if e.cfg.Role == dataplane.Gateway && host == (hostKey{}) && to != nil {
		host = to.at
	}
	start := len(out.buf)
	b, err := ip.AppendError(out.buf, e.errorSource(h.Is4(), host), p, info, pkt)
	if err != nil {
		return
	}
	out.buf = b
	msg := b[start:]
	switch {
	case host != (hostKey{}):
		out.Packets = append(out.Packets, Packet{To: dataplane.ToNative, If: host.ifi, MAC: host.mac, B: msg})
	case e.cfg.Role == dataplane.Anchor && to != nil:
		eh, err := ip.Parse(msg)
		if err != nil {
			return
		}
		// Made here, not forwarded: its hop limit stays. It is at most 1,280 octets and has no DF, so it always passes.
		if to.s.stack != nil {
			e.answerStack(now, to.s, msg, &eh, out)
			return
		}
		limit := e.cfg.EncapsulationLimit
		w := wrapping{mtu: e.pathMTU(to.s, now), limit: limit, limited: limit != 0 && !to.s.tun.is4()}
		if e.encapsulate(to.s.tun, msg, nil, &eh, w, out) {
			to.s.sent(msg)
		}
	case e.cfg.Role == dataplane.Node: // to itself, or to its mobile network
		out.add(dataplane.ToNative, msg)
	default:
		out.add(dataplane.ToSelf, msg)
	}
}

// errorSource: to a host on a link the router's address there (RFC 4443 2.2), else an address of the router.
func (e *Engine) errorSource(is4 bool, host hostKey) netip.Addr {
	if is4 {
		return e.icmp4
	}
	if l := e.links[host.ifi]; l != nil && l.LinkLocal.IsValid() {
		return l.LinkLocal.WithZone("")
	}
	return e.icmp6
}

// suspect names what a report is limited by.
type suspect struct {
	r     reason
	ifi   int
	mac   core.MAC
	other [16]byte
	port  uint16
}

func (e *Engine) tell(now time.Duration, group int, s suspect, out *Out, r core.Reported) {
	if out.hasNews || e.report.Load() == nil || !e.reports.take(now, group, maphash.Comparable(e.seed, s), reportsPerMAC) {
		return
	}
	if r.Reason == "" {
		r.Reason = string(reasons[s.r])
	}
	out.news, out.hasNews = r, true
}

// tellHost reports what a MAC on an access link did, once a second for each reason.
func (e *Engine) tellHost(now time.Duration, r reason, in Native, h *ip.Header, out *Out) {
	m := core.Match{If: in.If, MAC: in.MAC}
	if !h.Src.IsUnspecified() && !h.Src.IsMulticast() {
		m.Src = netip.PrefixFrom(h.Src, h.Src.BitLen())
	}
	e.tell(now, 1+in.If, suspect{r: r, ifi: in.If, mac: in.MAC}, out, core.Reported{Inner: m})
}

// tellInner reports a packet to a home address that nobody has.
func (e *Engine) tellInner(now time.Duration, r reason, in Native, h *ip.Header, out *Out) {
	e.tell(now, 0, suspect{r: r, other: h.Src.As16()}, out, core.Reported{Inner: core.Match{
		Domain: e.cfg.Domain, If: in.If, MAC: in.MAC,
		Src: netip.PrefixFrom(h.Src, h.Src.BitLen()), Dst: netip.PrefixFrom(h.Dst, h.Dst.BitLen()),
	}})
}

// tellTunnel reports what came out of a tunnel that should not; of names the session that it claims to be of, if any.
func (e *Engine) tellTunnel(now time.Duration, r reason, o Outer, h *ip.Header, of *binding, d core.Domain, out *Out) {
	e.tell(now, 0, suspect{r: r, other: o.Remote.Addr().As16(), port: o.Remote.Port()}, out, e.about(&o, h, of, d))
}

// tellStraight reports what came without a tunnel, or inside one between other addresses than it says. option: it says so in a Home
// Address option.
func (e *Engine) tellStraight(now time.Duration, o Outer, h *ip.Header, option bool, of *binding, d core.Domain, out *Out) {
	rep := e.about(&o, h, of, d)
	rep.HomeAddress = option
	e.tell(now, 0, suspect{r: wrongTunnel, other: o.Remote.Addr().As16()}, out, rep)
}

// tellReason reports what is no drop.
func (e *Engine) tellReason(now time.Duration, why string, o Outer, h *ip.Header, of *binding, d core.Domain, out *Out) {
	rep := e.about(&o, h, of, d)
	rep.Reason = why
	e.tell(now, 0, suspect{r: nReasons, other: o.Remote.Addr().As16()}, out, rep)
}

func (e *Engine) about(o *Outer, h *ip.Header, of *binding, d core.Domain) core.Reported {
	rep := core.Reported{
		Outer: e.layer(&frame{tuple{o.Local, o.Remote}, o.kind, o.key, o.within}, o.tlv),
		Inner: core.Match{Domain: d, Src: netip.PrefixFrom(h.Src, h.Src.BitLen()), Dst: netip.PrefixFrom(h.Dst, h.Dst.BitLen())},
	}
	if of != nil {
		rep.ID = of.s.id
	}
	return rep
}
