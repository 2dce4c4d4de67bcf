package user

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

// routes keeps the engine told what the routes to the remotes carry.
type routes struct {
	engine *mem.Engine
	nl     *netlink.Handle
	again  chan struct{}
	stop   chan struct{}
	once   sync.Once

	mu    sync.Mutex // guards the handle and known
	known map[[2]netip.AddrPort]bool
	gone  uint64 // tunnels that the engine had forgotten when known was right
}

const (
	lookEvery = time.Minute
	// lookMost is how many routes are looked up again at once. Of more tunnels, others have their turn each time.
	lookMost = 4096
)

func openRoutes(e *mem.Engine) (*routes, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("data plane: netlink: %w", err)
	}
	return &routes{engine: e, nl: nl, again: make(chan struct{}, 1), stop: make(chan struct{}), known: map[[2]netip.AddrPort]bool{}}, nil
}

// look asks for the tunnels of ops that are new. A nil routes is that of a fixed MTU.
func (r *routes) look(ops []core.Op) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.engine.Parted(); n != r.gone {
		clear(r.known) // one of these may be new again
		r.gone = n
	}
	for _, op := range ops {
		if s, ok := op.(core.SetSession); ok && (s.Chain.N == 1 || s.Chain.RO != 0) {
			l := &s.Chain.Layer[0]
			if s.Chain.N == 1 && s.Chain.RO != 0 {
				l = &s.Chain.Layer[1]
			}
			t := [2]netip.AddrPort{l.Local, l.Remote}
			if t[0].Port() == 0 { // no UDP, whatever the remote port says
				t[1] = netip.AddrPortFrom(t[1].Addr(), 0)
			}
			if !r.known[t] {
				r.ask(t)
				r.known[t] = true
			}
		}
	}
}

// ask looks one route up: what its interface carries, and what the route itself says. Not what the kernel learned from ICMP
// errors: it believes what the engine verifies.
func (r *routes) ask(t [2]netip.AddrPort) {
	local, remote := t[0].Addr(), t[1].Addr()
	if !local.IsValid() || !remote.IsValid() || local.Is4() != remote.Is4() {
		return
	}
	found, err := r.nl.RouteGetWithOptions(remote.AsSlice(), &netlink.RouteGetOptions{SrcAddr: local.AsSlice(), FIBMatch: true})
	if err != nil || len(found) == 0 {
		return // no route now: the next look may find one
	}
	mtu, index := found[0].MTU, found[0].LinkIndex
	if len(found[0].MultiPath) > 0 {
		index = found[0].MultiPath[0].LinkIndex
	}
	if l, err := r.nl.LinkByIndex(index); err == nil && (mtu == 0 || l.Attrs().MTU < mtu) {
		mtu = l.Attrs().MTU
	}
	r.engine.SetPathMTU(t[0], t[1], min(mtu, ip.MaxPacket))
}

// lookAgain makes run look at all tunnels soon.
func (r *routes) lookAgain() {
	if r == nil {
		return
	}
	select {
	case r.again <- struct{}{}:
	default:
	}
}

func (r *routes) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		case <-r.again:
		}
		r.mu.Lock()
		clear(r.known)
		tunnels := r.engine.Tunnels() // in no order
		for _, t := range tunnels[:min(len(tunnels), lookMost)] {
			r.ask(t)
			r.known[t] = true
		}
		r.mu.Unlock()
	}
}

func (r *routes) close() {
	if r != nil {
		r.once.Do(func() { close(r.stop) })
		r.mu.Lock()
		r.nl.Close()
		r.mu.Unlock()
	}
}
