package access

import (
	"container/list"
	"math"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/rate"
	"kedge/wire/ether"
)

// never is the time of a timer that does not run.
const never = time.Duration(math.MaxInt64)

// A host has these timers; each is a boot time or never.
const (
	timerRA   = iota // next advertisement
	timerGone        // next repetition of a withdrawal
	timerHold        // the held DHCP message has waited long enough
	timerEnd         // the binding has run out
	timerIdle        // a stranger was silent for StrangerTime
	timers
)

// host is what the link knows of one MAC address.
type host struct {
	mac       core.MAC
	linkLocal netip.Addr // last link-local source seen; invalid = not known

	grant     Grant
	ends      time.Duration // of grant.Valid
	preferred time.Duration // end of grant.Preferred
	router4   netip.Addr    // of the last grant with IPv4, kept behind it: who we were for this host

	first    int            // initial advertisements still to come
	gone     []netip.Prefix // withdrawn, still repeated
	goneLeft int

	held       *Frame // DHCP message that waits for the grant
	arp        *ether.ARP
	arpAt      time.Duration
	released   bool // the host gave its address back: not usable before the next grant
	declined   netip.Addr
	declinedTo time.Duration

	frames rate.Bucket

	at       [timers]time.Duration
	due      time.Duration // earliest of at
	index    int           // in the heap
	stranger *list.Element // in the list of strangers, nil for a host with a grant
}

// has6 and has4 say whether the family is granted; an ended grant is empty.
func (h *host) has6() bool { return len(h.grant.Prefixes) > 0 }
func (h *host) has4() bool { return h.grant.IPv4.IsValid() }

// lease is the address that DHCP may give to the host now.
func (h *host) lease(now core.Now) (netip.Prefix, bool) {
	if !h.has4() || now.Boot >= h.ends || h.released || h.declined == h.grant.IPv4.Addr() && now.Boot < h.declinedTo {
		return netip.Prefix{}, false
	}
	return h.grant.IPv4, true
}

// agenda is a heap of hosts by due time (container/heap).
type agenda []*host

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due < a[j].due }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}
func (a *agenda) Push(x any) {
	h := x.(*host)
	h.index = len(*a)
	*a = append(*a, h)
}
func (a *agenda) Pop() any {
	last := len(*a) - 1
	h := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return h
}
