package mem

import (
	"hash/maphash"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Messages of return routability that a home agent may have to protect in its tunnel (RFC 6275 5.2.5, 10.4.6), and those of prefix
// discovery, which are signalling wherever they come (6.7, 6.8).
const (
	homeTestInit        = 1
	homeTest            = 3
	prefixSolicitation  = 146
	prefixAdvertisement = 147
)

// Groups of the limiter of signalling for those messages: who floods with them leaves the rest alone.
const (
	guardBudget = 1
	homeBudget  = 2
)

// testsPerHome is how many of those messages of one home address are protected a second. Each costs a sequence number of its node's
// association, which static keys have 2^32 of, and whoever forges sources has any number of those.
const testsPerHome = 200

// Guard makes an anchor leave the Home Test Init and Home Test messages of some home addresses to signalling, for which ESP protects
// them: f says for which. They leave as ToSignal, a Home Test that is on its way to its node with an Outer of N=0, a Home Test Init that
// came in the tunnel of data with that. f is called for every such message; nil = none.
func (e *Engine) Guard(f func(home netip.Addr) bool) { e.guards.Store(&f) }

// guard hands a message over that must not go in the clear, and reports whether it did, also if it was dropped. kind is that of
// the message, home its node's; it came in o, nil = natively, by tun, if a session knows that. The lock is held.
func (e *Engine) guard(now time.Duration, kind uint8, home netip.Addr, tun *tunnel, o *Outer, pkt []byte, u *ip.Upper, out *Out) bool {
	if u.Proto != ip.Mobility || u.FragOff != 0 || u.Off+3 > len(pkt) || pkt[u.Off+2] != kind {
		return false
	}
	f := e.guards.Load()
	if f == nil || *f == nil || !(*f)(home) {
		return false
	}
	src := [16]byte(pkt[8:24])
	if !e.signals.take(now, guardBudget, maphash.Comparable(e.seed, src), signalsPerSource) ||
		!e.signals.take(now, homeBudget, maphash.Comparable(e.seed, home), testsPerHome) {
		e.drops[rateLimit].Add(1)
		return true
	}
	p := Packet{To: dataplane.ToSignal, B: pkt}
	if o != nil {
		p.Outer = e.answer(tun, o)
	}
	out.Packets = append(out.Packets, p)
	return true
}

// Inject forwards a packet that came to an anchor from one of its nodes in a security association of signalling: as if it had come in
// the node's tunnel of data, whose ends within are. What that tunnel may not send is dropped here too: the association says who sent
// it, and the session whether that one is bound there now.
func (e *Engine) Inject(now time.Duration, within core.Chain, pkt []byte, out *Out) {
	h, err := ip.Parse(pkt)
	if err != nil {
		e.drops[malformed].Add(1)
		return
	}
	pkt = pkt[:h.Len]
	u, _ := ip.FindUpper(pkt, &h)
	e.mu.RLock()
	e.inject(now, e.tables.tunnels[tuple{within.Layer[0].Local, within.Layer[0].Remote}], pkt, &h, &u, out)
	e.mu.RUnlock()
	e.deliver(out)
}

// inject is Inject for what came in the ends of tun, nil if there is no such tunnel. The lock is held.
func (e *Engine) inject(now time.Duration, tun *tunnel, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) {
	switch {
	case tun == nil:
		e.drops[wrongTunnel].Add(1)
		return
	case scoped(pkt, h, u, false):
		e.drops[linkScope].Add(1)
		return
	case h.Src.Is4In6() || h.Dst.Is4In6():
		e.drops[mapped].Add(1)
		return
	}
	if from, _, _ := e.tables.up(tun.domain, tun, h.Src, now); from == nil {
		e.drops[wrongSource].Add(1)
		return
	}
	if e.own(h.Dst) {
		out.add(dataplane.ToNative, pkt)
		return
	}
	to, dark := e.tables.down(tun.domain, h.Dst)
	e.onward(now, to, dark, pkt, h, u, cause{domain: tun.domain}, out)
}
