package mem

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// sendError tells the source of pkt about a problem: on the access link it came from, into the tunnel of the session it belongs
// to, or by plain routing. At most errorsPerSource a second to one source.
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
		limit := e.cfg.EncapsulationLimit
		if e.encapsulate(to.s, msg, &eh, e.pathMTU(to.s, now), limit, limit != 0, out) {
			to.s.count.pOut.Add(1)
			to.s.count.oOut.Add(uint64(len(msg)))
		}
	default:
		out.add(dataplane.ToSelf, msg)
	}
}

// errorSource: to a host on a link the router's address there (RFC 4443 2.2), else an address of the router.
func (e *Engine) errorSource(is4 bool, host hostKey) netip.Addr {
	if is4 {
		return e.icmp4
	}
	if l := e.links[host.ifi].LinkLocal; host != (hostKey{}) && l.IsValid() {
		return l.WithZone("")
	}
	return e.icmp6
}

// TunnelError takes an ICMPv6 error, from its type on, that somebody sent about an outer packet. Packet Too Big lowers the path
// MTU; what the inner source should know is relayed to it (RFC 2473 8). The quoted packet must be one that this router can have
// sent: of a known tunnel, of a session in it, and as long as the inner packet asks. Whoever only knows the two addresses of a
// tunnel changes nothing. Of a packet that was fragmented outside only the first fragment, the longest, says so much.
func (e *Engine) TunnelError(now time.Duration, msg []byte, out *Out) {
	if len(msg) < 8 {
		e.drops[malformed].Add(1)
		return
	}
	quoted := msg[8:]
	h, err := ip.ParseQuoted(quoted)
	if err != nil || h.Is4() {
		e.drops[unsolicited].Add(1)
		return
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	tun := e.tables.tunnels[tuple{h.Src, h.Dst}]
	if tun == nil {
		e.drops[unsolicited].Add(1)
		return
	}
	e.drops[tunnelError].Add(1)
	u, err := ip.FindUpper(quoted, &h)
	info := binary.BigEndian.Uint32(msg[4:])
	if err != nil || u.FragOff != 0 || u.Proto != ip.IPv4 && u.Proto != ip.IPv6 {
		return // of the inner packet nothing is left to tell about
	}
	inner := quoted[u.Off:]
	ih, err := ip.ParseQuoted(inner)
	if err != nil {
		return
	}
	s := e.sender(tun, &ih, now)
	if s == nil || !u.Fragment && u.Off+ih.Len != h.Len {
		e.drops[unsolicited].Add(1)
		return
	}
	if msg[0] == 2 && !tun.tooBig(now, info, &h) {
		return
	}
	p, value := ip.Unreachable, uint32(0)
	switch msg[0] {
	case 1, 3: // RFC 2473 8.1: any of these is "unreachable" to the inner source
	case 2:
		if ih.Is4() && !ih.DF || !ih.Is4() && ih.Len <= ip.MinMTU6 {
			return // from now on fragmented outside
		}
		p, value = ip.TooBig, tunnelMTU(&ih, e.pathMTU(s, now)-u.Off)
	case 4: // only about the encapsulation limit that was put in
		if msg[1] != 0 || u.Limit == 0 || info != uint32(u.Limit) {
			return
		}
	default:
		return
	}
	e.sendError(now, p, value, inner, &ih, cause{domain: tun.domain}, out)
}

// tooBig notes a smaller path MTU; false if the message cannot be true: below the least MTU of IPv6, or not smaller than the
// packet that was too big (RFC 8201 4).
func (t *tunnel) tooBig(now time.Duration, mtu uint32, h *ip.Header) bool {
	if mtu < ip.MinMTU6 || int64(mtu) >= int64(h.Len) {
		return false
	}
	old := t.learned.Load()
	expires := uint64((now + mtuLifetime) / time.Second)
	if uint64(now/time.Second) < old>>16 && old&0xffff < uint64(mtu) {
		return true
	}
	t.learned.Store(expires<<16 | uint64(mtu))
	return true
}

// sender finds the session that sent an inner packet into tun: at an anchor the one that delivers to its destination, at a
// gateway the one whose key its source is.
func (e *Engine) sender(tun *tunnel, h *ip.Header, now time.Duration) *session {
	if e.cfg.Role == dataplane.Anchor {
		if to, _ := e.tables.down(tun.domain, h.Dst); to != nil && to.s.accepts(tun, now) {
			return to.s
		}
		return nil
	}
	if from, _, _ := e.tables.up(tun, h.Src, now); from != nil {
		return from.s
	}
	return nil
}

// suspect names what a report is limited by.
type suspect struct {
	r     reason
	ifi   int
	mac   core.MAC
	other [16]byte
}

func (e *Engine) tell(now time.Duration, group int, s suspect, out *Out, r core.Reported) {
	if out.hasNews || e.report.Load() == nil || !e.reports.take(now, group, maphash.Comparable(e.seed, s), reportsPerMAC) {
		return
	}
	r.Reason = string(reasons[s.r])
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

// tellTunnel reports what came out of a tunnel that should not.
func (e *Engine) tellTunnel(now time.Duration, r reason, o Outer, h *ip.Header, tun *tunnel, out *Out) {
	m := core.Match{Src: netip.PrefixFrom(h.Src, h.Src.BitLen()), Dst: netip.PrefixFrom(h.Dst, h.Dst.BitLen())}
	if tun != nil {
		m.Domain = tun.domain
	}
	e.tell(now, 0, suspect{r: r, other: o.Remote.As16()}, out, core.Reported{
		Outer: core.Layer{Local: netip.AddrPortFrom(o.Local, 0), Remote: netip.AddrPortFrom(o.Remote, 0)}, Inner: m,
	})
}
