package system

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// keeps are the kinds of things that Keep looks after. Neighbours and proxies are not: there may be a million, and nobody flushes
// entries that are permanent.
var keeps = map[string]bool{"route": true, "rule": true, "address": true, "sysctl": true}

// Times of Keep.
const (
	// keepSettle is how long a removal waits for more: `ip rule flush` is one message a rule. Not longer, because meanwhile packets may
	// take another way.
	keepSettle = 2 * time.Millisecond
	// keepFirst is how long a thing that was put back is left alone when it vanishes again (`ip addr flush` looks twice); doubled each
	// time up to keepMost, so that two programs which want different things do not keep a processor busy.
	keepFirst = 25 * time.Millisecond
	keepMost  = time.Minute
	// keepLook is how often sysctls are read: nobody tells when one is written.
	keepLook = 30 * time.Second
)

// Keep puts back what Apply has set and another program removes or replaces (`ip rule flush`, a network manager that tidies up),
// until ctx ends, which is no error: routes, rules, addresses, and sysctls of a link that is made anew. What is on a link waits while
// the link is away or down. What Apply removes stays away: Keep acts between two calls of Apply, never during one. tell is called,
// from the caller's goroutine, with an Emit "restored" for what was put back together, with counts by kind and hold_ms, how long the
// most contended of it is left alone now; and with "failed" for what could not be.
func (h *Host) Keep(ctx context.Context, tell func(core.Emit)) error {
	k := &keeper{h: h, tell: tell, fights: make(map[object]*fight), up: make(map[int]bool), w: watch{downs: make(map[int]uint32), names: make(map[int]string)}}
	var fd int
	err := h.inside(func() (err error) {
		fd, err = subscribe(h.watchBuffer, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping the host's settings: %w", err)
	}
	sock := newDescriptor(fd, "netlink")
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.Close() })
	defer stop()

	lost := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- k.listen(sock, lost) }()
	timer := time.NewTimer(keepSettle)
	defer timer.Stop()
	k.lost = true // since when is not known
	for settling := true; ; {
		select {
		case <-ctx.Done():
			<-ended
			return nil
		case err := <-ended:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("keeping the host's settings: %w", err)
		case <-lost:
			if !settling {
				settling = true
				k.lost = true
				timer.Reset(keepSettle)
			}
		case <-timer.C:
			settling = false
			timer.Reset(k.look())
		}
	}
}

// keeper is what one Keep knows.
type keeper struct {
	h    *Host
	tell func(core.Emit)
	// fights are the things that were put back of late. Never more than are applied.
	fights map[object]*fight
	lost   bool         // something may be missing, or waits for its time
	up     map[int]bool // links that listen has seen up
	w      watch        // reads messages for listen
}

// fight is a thing that vanished although it was wanted.
type fight struct {
	at   time.Time     // when it was put back, or tried
	hold time.Duration // how long it is left alone from then on
}

// listen reads what the kernel tells and says when something of ours may have gone.
func (k *keeper) listen(sock *descriptor, lost chan<- struct{}) error {
	buf := make([]byte, nl.RECEIVE_BUFFER_SIZE)
	for {
		n, err := receive(sock, buf)
		suspicious := false
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		msgs, perr := syscall.ParseNetlinkMessage(buf[:max(n, 0)])
		if err != nil || perr != nil {
			suspicious = true // what was missed may have been anything
		}
		for _, m := range msgs {
			suspicious = k.concerns(m.Header.Type, m.Data) || suspicious
		}
		if suspicious {
			select {
			case lost <- struct{}{}:
			default:
			}
		}
	}
}

// concerns says whether a message may be of a thing that is wanted and is not there any more. It is asked for every change of
// the host and must cost little; what is really missing is looked up later.
func (k *keeper) concerns(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_DELRULE:
		return true
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		c, ok := k.w.link(data)
		if !ok {
			return false
		}
		was := k.up[c.Op.If]
		if k.up[c.Op.If] = c.Op.Value == "up"; kind == unix.RTM_DELLINK {
			delete(k.up, c.Op.If)
			return true
		}
		return !was && c.Op.Value == "up"
	case unix.RTM_DELADDR:
		a, ok := parseAddress(data)
		return ok && k.wanted(object{kind: "address", ifi: a.ifi, prefix: a.prefix}, a.prefix.Addr().Is4())
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c, ok := k.w.route(data)
		if !ok || kind == unix.RTM_NEWROUTE && c.Op.Proto == k.h.opt.Tag {
			return false
		}
		return k.wanted(keyOf(c.Op, 0), false) // also of somebody else that has taken the place of ours
	}
	return false
}

// wanted says whether an object is, or, with routes4, whether an IPv4 route may have gone with it: the kernel does not tell of those.
func (k *keeper) wanted(o object, routes4 bool) bool {
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	if _, ok := k.h.kept[o]; ok || !routes4 {
		return ok
	}
	for o := range k.h.kept {
		if o.kind == "route" && o.prefix.Addr().Is4() {
			return true
		}
	}
	return false
}

// look puts back what is missing, as far as its time has come, and says when to look again.
func (k *keeper) look() time.Duration {
	h := k.h
	h.mu.Lock()
	defer h.mu.Unlock()
	missing, err := h.missing(k.lost)
	if err != nil {
		k.tell(core.Emit{Name: "failed", Why: "what others removed cannot be found out", Fields: map[string]any{"err": err.Error()}})
		return keepMost
	}
	now, next := time.Now(), keepLook
	if k.lost {
		if n, err := h.rejoin(); err != nil {
			k.tell(core.Emit{Name: "failed", Why: "anycast addresses cannot be joined again", Fields: map[string]any{"err": err.Error()}})
		} else if n > 0 {
			k.tell(core.Emit{Name: "restored", Why: "the link was down", Fields: map[string]any{"anycast": n}})
		}
	}
	k.lost = false
	back := make(map[string]int)
	var longest time.Duration
	var failed []error
	for _, o := range missing {
		f := k.fights[o]
		if f == nil {
			f = &fight{hold: keepFirst}
			k.fights[o] = f
		} else if wait := f.at.Add(f.hold).Sub(now); wait > 0 {
			next, k.lost = min(next, wait), true
			continue
		} else if now.Sub(f.at) < max(keepMost, 4*f.hold) {
			f.hold = min(2*f.hold, keepMost)
		} else {
			f.hold = keepFirst
		}
		f.at = now
		op := h.kept[o]
		h.forget(o) // its link may have another index now
		if err := h.apply(op); err != nil {
			h.applied[o], h.kept[o] = true, op
			failed = append(failed, explain(op, err))
			next, k.lost = min(next, f.hold), true
			continue
		}
		if op.Kind == "sysctl" && !h.readsAs(o.name, op.Value) {
			delete(h.kept, o) // the kernel says it in other words
		}
		back[op.Kind]++
		longest = max(longest, f.hold)
	}
	maps.DeleteFunc(k.fights, func(o object, f *fight) bool { _, ok := h.kept[o]; return !ok || now.Sub(f.at) > keepMost+4*f.hold })
	if len(back) > 0 {
		fields := map[string]any{"hold_ms": float64(longest.Milliseconds())}
		for kind, n := range back {
			fields[plural[kind]] = n
		}
		k.tell(core.Emit{Name: "restored", Why: "another program removed it", Fields: fields})
	}
	if len(failed) > 0 {
		k.tell(core.Emit{Name: "failed", Why: "what another program removed cannot be put back",
			Fields: map[string]any{"count": len(failed), "err": failed[0].Error()}})
	}
	return max(next, keepSettle)
}

var plural = map[string]string{"route": "routes", "rule": "rules", "address": "addresses", "sysctl": "sysctls"}
