// Package movement watches the links of a mobile node: which care-of addresses it could use, and whether it is at home
// (RFC 6275 11.5.1 to 11.5.5). It forms IPv6 care-of addresses from Router Advertisements (RFC 4861, RFC 4862, RFC 7217,
// optimistic: RFC 4429), takes IPv4 ones as the machine's DHCP client sets them, verifies that routers are reachable
// (RFC 4861 7.3, RFC 4436, RFC 6059), and keeps a routing table with a source rule for each address, so that what is sent
// from a care-of address leaves by its link and router.
//
// A Machine is a sub-machine of package node: without I/O, clock or lock. Its parent hands it HostChanged, Messages of the
// "links" port (Body *access.Frame), Tick, and those Done whose Ref is one of ours (Ours). Effects are core.Send of frames,
// core.Change and core.Emit.
//
// What is known hangs together so: a link has routers (of both families), and prefixes that its routers advertise; an
// address belongs to a link, has at any time one of its routers or none, and is offered as CareOf while its link has
// carrier, the kernel holds it, its lifetime lasts, and its router is there as far as is known. What the kernel should hold
// follows from that after each event and is compared with what it was told (hostops.go), so that nothing is left behind.
//
// It writes no route of the main table, where the kernel has what is on the links: the node decides what bypasses its tunnel,
// and finds the way in CareOf.Table.
package movement

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
)

// CareOf is an address that the node could be reached at, on one of its links.
type CareOf struct {
	If         int
	Link       string     // name of the interface
	Addr       netip.Addr // IPv6 or IPv4; usable, or optimistic (RFC 4429)
	Prefix     netip.Prefix
	Router     netip.Addr // next hop; invalid on a link without one
	MTU        int        // of the link or as advertised, octets
	Prefer     int        // rank of the link in the config; less is better
	Home       bool       // the link is the home link: Addr is no care-of address, the node is at home there
	Optimistic bool       // duplicate address detection is not over
	Deprecated bool       // its preferred lifetime is over: no new binding should start from it (RFC 4862 5.5.4)
	Suspect    bool       // its router has been asked for a sign of life, and did not answer the first question in time
	Table      int        // the routing table with the default route of this address
	Since      time.Duration
	Network    string // names the network, not the attachment: what was learned of it holds when the node comes back; "" = not known yet
}

// Machine is the sub-machine. Use New.
type Machine struct {
	cfg    Config
	rand   io.Reader
	secret []byte

	links  map[int]*link // by index; all links of the host, managed or not
	order  []int         // indices of managed links, ascending
	tables [MaxTables]bool
	freed  bool // an address went that another link may have been waiting for
	home   homeState
	host   hostState

	now    core.Now
	out    []core.Effect
	last   time.Duration // of the previous Handle
	wanted time.Duration // the Deadline that was given then

	settled time.Duration // when the head of the list gives way
	list    []CareOf
	changed bool
	closed  bool
	counts  map[string]uint64
}

// New makes a machine that knows of no link. rand is read for the secret if there is none, and for jitter. Errors wrap
// ErrConfig, or are rand's.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	cfg.Links, cfg.Home = slices.Clone(cfg.Links), slices.Clone(cfg.Home)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, rand: rand, secret: slices.Clone(cfg.Secret), links: make(map[int]*link), wanted: never, settled: never, home: homeState{next: never}, counts: make(map[string]uint64)}
	m.host.init()
	if len(m.secret) == 0 {
		m.secret = make([]byte, 32)
		if _, err := io.ReadFull(rand, m.secret); err != nil {
			return nil, fmt.Errorf("movement: secret of interface identifiers: %w", err)
		}
	}
	return m, nil
}

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// late is how long after its deadline a machine concludes that the host slept (suspend, SIGSTOP): what it knew of its
// links may be long gone.
const late = 2 * time.Second

// Handle takes core.HostChanged, core.Message, core.Tick and core.Done; others are ignored.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	m.begin(now, out)
	slept := m.wanted != never && now.Boot-m.wanted > late
	switch ev := ev.(type) {
	case core.HostChanged:
		m.hostChanged(&ev)
	case core.Message:
		// Most of what is heard on a link is between others, and must cost next to nothing.
		if !m.message(&ev) && now.Boot < m.wanted {
			out, m.out = m.out, nil
			return out
		}
	case core.Done:
		m.done(ev)
	}
	if slept {
		m.awake()
	}
	return m.end()
}

// begin and end bracket everything that comes from outside.
func (m *Machine) begin(now core.Now, out []core.Effect) {
	m.now, m.out = now, out
}

// end does what is due, brings the kernel to what should be, and lists the care-of addresses anew.
func (m *Machine) end() []core.Effect {
	if !m.closed {
		m.serve()
		m.reconcile()
		m.note()
	}
	if list := m.compile(); !slices.Equal(list, m.list) {
		m.list, m.changed = list, true
	}
	m.wanted, m.last = m.deadline(), m.now.Boot
	out := m.out
	m.out = nil
	return out
}

// Deadline is when the machine wants a Tick.
func (m *Machine) Deadline() (boot time.Duration, ok bool) { return m.wanted, m.wanted != never }

// Changed says whether CareOfs may answer otherwise than when Changed was last called.
func (m *Machine) Changed() bool {
	c := m.changed
	m.changed = false
	return c
}

// Ours says whether a Done with this Ref belongs to the machine. The parent hands those to Handle, or no address is ever
// offered: one is when the host has its table and rule. It must not use such numbers itself.
func Ours(r core.Ref) bool { return r >= refBase }

// refBase is the first Ref of ours.
const refBase core.Ref = 1 << 63

// message takes a frame of a managed link, and says whether it may have changed anything.
func (m *Machine) message(msg *core.Message) bool {
	l := m.links[msg.Path.If]
	if l == nil || l.pat == nil || !l.carrier {
		return false
	}
	f, ok := msg.Body.(*access.Frame)
	if !ok || f == nil {
		f = &access.Frame{}
	}
	if msg.Err != nil {
		m.ignored(l, f, wire.ReasonOf(msg.Err), msg.Err.Error())
		return false
	}
	return m.frame(l, f)
}

// awake treats all that is known as hearsay, after the host slept.
func (m *Machine) awake() {
	for _, ifi := range m.order {
		l := m.links[ifi]
		if !l.carrier {
			continue
		}
		for _, r := range l.routers {
			m.doubt(r, "the host slept", fastProbes)
		}
		m.solicit(l)
	}
}

// Confirm tells that packets go out from a and answers come back (RFC 4861 7.3.1): its router is reachable.
func (m *Machine) Confirm(now core.Now, a netip.Addr) {
	m.now = now
	for _, ifi := range m.order {
		l := m.links[ifi]
		for _, x := range l.addrs {
			if x.a != a || x.router == nil || !l.carrier || !x.router.offered() {
				continue
			}
			r := x.router
			r.heard, r.proven, r.next = now.Boot, true, never
			r.state = reachable // told to nobody: it is the ordinary course
		}
	}
	m.refresh()
}

// refresh lists anew outside of Handle.
func (m *Machine) refresh() {
	if list := m.compile(); !slices.Equal(list, m.list) {
		m.list, m.changed = list, true
	}
	m.wanted = m.deadline()
}

// Suspect tells that nothing comes back to a any more: its router is asked at once, and routers are solicited.
func (m *Machine) Suspect(now core.Now, a netip.Addr, out []core.Effect) []core.Effect {
	m.begin(now, out)
	for _, ifi := range m.order {
		l := m.links[ifi]
		for _, x := range l.addrs {
			if x.a != a || !l.carrier {
				continue
			}
			if x.router != nil {
				m.doubt(x.router, "nothing comes back to "+a.String(), fastProbes)
			}
			m.solicit(l)
		}
	}
	return m.end()
}

// Close removes everything that the machine has set, and offers nothing any more. Only a stop does that; what a crash left
// behind a restarted machine adopts.
func (m *Machine) Close(now core.Now, out []core.Effect) []core.Effect {
	m.begin(now, out)
	m.closed = true
	m.removeAll()
	return m.end()
}

// Counters are the drops so far by the text of their wire.Reason.
func (m *Machine) Counters() map[string]uint64 {
	c := make(map[string]uint64, len(m.counts))
	for k, v := range m.counts {
		c[k] = v
	}
	return c
}

func (m *Machine) emit(e core.Emit) { m.out = append(m.out, e) }

// ignored counts a frame, or a part of it, that changes nothing.
func (m *Machine) ignored(l *link, f *access.Frame, r wire.Reason, detail string) {
	m.counts[string(r)]++
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: map[string]any{
		"if": l.name, "mac": f.Src.String(), "type": f.Kind(), "err": detail, "layer": "links"}})
}

// random gives 16 bits; a source that fails gives zeros, which costs the spread of timers and nothing else.
func (m *Machine) random() uint16 {
	var b [2]byte
	_, _ = io.ReadFull(m.rand, b[:])
	return uint16(b[0])<<8 | uint16(b[1])
}

// jitter spreads d by up to a tenth in both directions (RFC 7559 2.2, RAND).
func (m *Machine) jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(m.random())*(d/5)/math.MaxUint16
}
