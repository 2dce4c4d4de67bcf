package mem

import (
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Correspondents: a node is told with whom its home addresses exchange packets through the tunnel, so that its machine may optimize
// the route (RFC 6275 11.7.2). At most once a second for each pair of addresses, and talksPerSecond for all in each direction,
// so that strangers who send do not hide whom the node itself sends to. With Correspondents off it costs one comparison.

// talksPerSecond is how many reports of correspondents there may be in each direction.
const talksPerSecond = 100

const (
	talkOut = iota // groups of their limiter
	talkIn
)

// talks notes a packet of a home address in the tunnel: own is the node's, other the correspondent's. The lock is held.
func (e *Engine) talks(now time.Duration, key *binding, own, other netip.Addr, group int, out *Out) {
	if out.hasNews {
		return
	}
	if r, ok := e.talk(now, key, own, other, group); ok {
		out.news, out.hasNews = r, true
	}
}

func (e *Engine) talk(now time.Duration, key *binding, own, other netip.Addr, group int) (core.Reported, bool) {
	r := core.Reported{Reason: core.ReportCorrespondent, Inner: core.Match{Domain: key.s.domain}}
	if !key.prefix.IsSingleIP() || !ip.Routable(own) || !ip.Routable(other) || slices.Contains(e.cfg.Anchors, other) || e.report.Load() == nil {
		return r, false // hosts of a mobile network, and home agents, have no route to optimize
	}
	if n := e.tables.pairs[pairKey{key.s.domain, own, other}]; n != nil {
		for _, b := range n.bindings {
			if group == talkIn && b.up && b.down {
				r.ID = b.s.id
			}
		}
		if r.ID == 0 {
			return r, false
		}
	}
	if !e.talking.take(now, group, maphash.Comparable(e.seed, [2]netip.Addr{own, other}), 1) {
		return r, false
	}
	r.Inner.Src, r.Inner.Dst = netip.PrefixFrom(own, own.BitLen()), netip.PrefixFrom(other, other.BitLen())
	return r, true
}

// Talk says that another way of forwarding carried a packet of a node's home address: what talks would have seen.
func (e *Engine) Talk(now time.Duration, own, other netip.Addr, in bool) {
	if e.talking == nil || e.cfg.Role != dataplane.Node {
		return
	}
	group := talkOut
	if in {
		group = talkIn
	}
	e.mu.RLock()
	var key *binding
	if n := e.tables.keys[prefixKey{e.cfg.Domain, netip.PrefixFrom(own, own.BitLen())}]; n != nil && len(n.bindings) != 0 {
		key = n.bindings[0]
	}
	r, ok := core.Reported{}, false
	if key != nil {
		r, ok = e.talk(now, key, own, other, group)
	}
	e.mu.RUnlock()
	if f := e.report.Load(); ok && f != nil && *f != nil {
		(*f)(r)
	}
}

// remindAt is when a flow that is remembered is looked at again, so that it is reported again.
func (e *Engine) remindAt(now time.Duration) time.Duration {
	if e.talking == nil {
		return math.MaxInt64
	}
	return now + time.Second
}
