// Package system is the operating system: the only OS calls besides those of the data plane. Host implements core.Host for
// one Linux network namespace over netlink, /proc/sys, raw sockets for the Mobility Header (RFC 6275 6.1, protocol 135) and
// ESP, packet sockets for access links, for a node's links and for what the kernel itself would refuse (see IPPort); Fake
// beside it is its double for tests. Check tells what is missing before a daemon starts.
//
// Everything that Apply sets is tagged with a protocol number of our own (Protocol; `ip route show proto 107` lists it):
// routes, rules, addresses, neighbours and proxies. Sysctls and link settings cannot be tagged; their old values are kept
// in a journal. So Sweep removes what an earlier run left behind, and nothing that somebody else has set.
//
// Goroutines: every method may be called from several. A port has one reader at a time and any number of writers.
package system

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// Protocol is the number (rtm_protocol, FRA_PROTOCOL, IFA_PROTO, NDA_PROTOCOL) that tags what Kedge sets. It is unassigned
// in iproute2's rt_protos; `107 kedge` in /etc/iproute2/rt_protos.d/kedge.conf gives it a name.
const Protocol = 107

// Options of a Host. The zero value is the current namespace with the default tag and no journal.
type Options struct {
	// NS is the namespace to work in; nil is the one of the thread that calls NewHost.
	NS *netns.NS
	// Local are the addresses that "mh" and "ip" ports receive on; messages for others are not ours and are left out. An "ip" port
	// without any receives on every address that the host has at the time.
	Local []netip.Addr
	// SendByIf makes an "ip" port send by the link that a packet's If names, as a node with several links needs. Otherwise the
	// routing table decides, because the link that a request came by may not be the way back.
	SendByIf bool
	// ICMPv6 are the types of home agent discovery and prefix discovery (RFC 6275 6.5 to 6.8) that an "ip" port gives beside Mobility
	// Headers and ESP: those of a request or those of an answer. None: no such messages.
	ICMPv6 []uint8
	// Tag replaces Protocol: two daemons in one namespace need different ones.
	Tag uint8
	// Journal is a file for the old values of sysctls and links, best under /run. "": they are not put back after a crash.
	Journal string
	// KeepAccess leaves the kernel's settings of access links alone when they are opened (see PrepareAccess).
	KeepAccess bool
}

// Host is the operating system. Use NewHost, and Close at the end, which leaves in place whatever was applied.
type Host struct {
	opt Options
	nl  *netlink.Handle
	raw map[int]*nl.SocketHandle // for requests whose attributes the netlink package does not know

	here  *netns.NS // where NewHost was called; nil with Options.NS
	space uint64    // tells it

	taps atomic.Int32 // "ip" ports that are open

	mu      sync.Mutex             // serializes Apply, Sweep and Keep; protects the three below
	applied map[object]bool        // what this run wants
	kept    map[object]core.HostOp // of that, what Keep looks after, and how it was set
	journal *journal

	anycast anycasts

	watchBuffer int // octets of the receive buffers of Watch and Keep; tests make it small
}

// object names one thing that can be set, however it is set.
type object struct {
	kind   string
	ifi    int
	prefix netip.Prefix
	table  int
	metric int
	name   string
}

// NewHost opens the netlink sockets. It needs no privilege by itself; Apply and Open do.
func NewHost(opt Options) (*Host, error) {
	if opt.Tag == 0 {
		opt.Tag = Protocol
	}
	h := &Host{opt: opt, applied: make(map[object]bool), kept: make(map[object]core.HostOp), watchBuffer: 8 << 20}
	if opt.NS == nil {
		// The goroutines of Keep and Watch may run on threads that are elsewhere.
		here, err := netns.Current()
		if err != nil {
			return nil, fmt.Errorf("host: %w", err)
		}
		h.here, h.space = here, space()
		runtime.AddCleanup(h, func(n *netns.NS) { n.Close() }, here) // ports outlive Close
	}
	err := h.inside(func() error {
		var err error
		if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		s, err := nl.GetNetlinkSocketAt(vns.None(), vns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		h.raw = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
		return nil
	})
	if err == nil {
		h.journal, err = openJournal(opt.Journal, h.identity())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("host: %w", err), h.Close())
	}
	return h, nil
}

// Close releases the sockets. Ports and watches live on their own.
func (h *Host) Close() error {
	h.leaveAnycast()
	if h.nl != nil {
		h.nl.Close()
	}
	for _, s := range h.raw {
		s.Close()
	}
	h.raw = nil
	return nil
}

// space tells the calling thread's namespace from others.
func space() uint64 {
	var st unix.Stat_t
	_ = unix.Stat("/proc/thread-self/ns/net", &st) // 0 is none
	return st.Ino
}

// inside runs f in the host's namespace.
func (h *Host) inside(f func() error) error {
	switch {
	case h.opt.NS != nil:
		return h.opt.NS.Do(f)
	case space() != h.space:
		return h.here.Do(f)
	}
	return f() // without CAP_SYS_ADMIN, which no daemon needs

}

// identity tells namespaces of one boot apart, for the journal.
func (h *Host) identity() (id string) {
	_ = h.inside(func() error {
		var st unix.Stat_t
		err := unix.Stat("/proc/thread-self/ns/net", &st)
		id = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		return err
	})
	return id
}

// Now reads CLOCK_BOOTTIME and the wall clock.
func (h *Host) Now() core.Now { return now() }

func now() core.Now {
	var ts unix.Timespec
	// It cannot fail on any kernel since 2.6.39: the clock is compiled in.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return core.Now{Boot: time.Duration(ts.Nano()), Wall: time.Now()}
}

// request starts a netlink request on the host's own socket.
func (h *Host) request(kind, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = h.raw
	return r
}

var _ core.Host = (*Host)(nil)
