package gateway

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	coa   = netip.MustParseAddr("2001:db8:a::11")
	lmaa  = netip.MustParseAddr("2001:db8:a::1")
	lmaa2 = netip.MustParseAddr("2001:db8:a::2")
	hnp   = netip.MustParsePrefix("2001:db8:1000::/64")
	hoa   = netip.MustParsePrefix("10.20.0.10/16")
	rtr4  = netip.MustParseAddr("10.20.0.1")
	macA  = core.MAC{2, 0, 0, 0, 0, 0x0a}
	macB  = core.MAC{2, 0, 0, 0, 0, 0x0b}
	wall  = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
)

const (
	idA = "02-00-00-00-00-0a@example.net"
	idB = "02-00-00-00-00-0b@example.net"
	ms  = time.Millisecond
	sec = time.Second
)

// zeros makes every random number 0, so that times are exact: a refresh comes at 0.9 * RefreshAt of the lifetime.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// testConfig is one anchor, two links (Ethernet and WLAN) and lifetimes of 40 s; heartbeats and NUD are off unless asked for.
func testConfig() Config {
	link := func(name string, index int, att uint8) Access {
		return Access{
			Link:       access.LinkConfig{Name: name, If: index, MTU: 1460, RAInterval: time.Hour},
			Technology: att, Identity: Identity{Realm: "example.net"}, DetachOn: []string{"link", "api"},
		}
	}
	return Config{
		Name: "mag1", Address: coa, Anchors: []Anchor{{Name: "lma1", Address: lmaa, Dialect: RFC5844, Protection: "none"}},
		Access:       []Access{link("acc0", 3, mobility.AccessEthernet), link("acc1", 4, mobility.AccessWLAN)},
		HeartbeatOff: true,
		Timers:       Timers{Lifetime: 40 * sec},
	}
}

// sent is one message to the core network.
type sent struct {
	at   time.Duration
	to   netip.Addr
	from netip.Addr
	body mobility.Message
}

// bench drives a gateway in virtual time and keeps what it does. Forwarding succeeds at once unless failForward is set.
type bench struct {
	t           testing.TB
	m           *Machine
	now         core.Now
	out         []sent
	frames      []*access.Frame
	frameIf     []int
	ops         []core.Op
	emits       []core.Emit
	replies     []core.Reply
	persisted   []core.Persist
	order       []string // kinds of effects, in order
	failForward error
	late        bool         // results of forwarding wait in held
	held        []core.Event // put in by the test
	taken       int
}

func newBench(t testing.TB, cfg Config) *bench {
	t.Helper()
	return newBenchRand(t, cfg, zeros{})
}

func newBenchRand(t testing.TB, cfg Config, r io.Reader) *bench {
	t.Helper()
	m, err := New(cfg, r)
	if err != nil {
		t.Fatal(err)
	}
	m.strict = true
	b := &bench{t: t, m: m, now: core.Now{Wall: wall}}
	b.do(core.Restored{Last: true})
	return b
}

// do handles one event and everything that follows from it at the same time.
func (b *bench) do(ev core.Event) {
	b.t.Helper()
	var results []core.Event
	for _, e := range b.m.Handle(b.now, ev, nil) {
		b.order = append(b.order, fmt.Sprintf("%T", e))
		switch e := e.(type) {
		case core.Send:
			switch body := e.Body.(type) {
			case mobility.Message:
				if e.Path.Home.IsValid() {
					b.t.Errorf("%T with a Home Address option or type 2 routing header", body)
				}
				b.out = append(b.out, sent{b.now.Boot, e.Path.Remote.Addr(), e.Path.Local.Addr(), b.wire(e.Path, body)})
			case *access.Frame:
				b.frames = append(b.frames, body)
				b.frameIf = append(b.frameIf, e.Path.If)
				if _, err := body.Append(nil); err != nil {
					b.t.Errorf("frame cannot be written: %v", err)
				}
			default:
				b.t.Fatalf("message of type %T", body)
			}
		case core.Forward:
			for _, op := range e.Ops {
				if _, drop := op.(core.Drop); drop || b.failForward == nil {
					b.ops = append(b.ops, op)
				}
			}
			switch done := (core.Done{Ref: e.Ref, Err: b.failForward}); {
			case e.Ref != 0 && b.late:
				b.held = append(b.held, done)
			case e.Ref != 0:
				results = append(results, done)
			}
		case core.Emit:
			b.emits = append(b.emits, e)
		case core.Reply:
			b.replies = append(b.replies, e)
		case core.Persist:
			b.persisted = append(b.persisted, e)
		}
	}
	for _, r := range results {
		b.do(r)
	}
}

// wire sends a message through the codec, so that every message of every test is one that can be on the wire.
func (b *bench) wire(p core.Path, m mobility.Message) mobility.Message {
	raw, err := mobility.Append(nil, m, p.Local.Addr(), p.Remote.Addr())
	if err != nil {
		b.t.Fatalf("message cannot be written: %v", err)
	}
	back, err := mobility.Parse(raw, p.Local.Addr(), p.Remote.Addr())
	if err != nil {
		b.t.Fatalf("message cannot be read: %v", err)
	}
	return back
}

// until runs all timers up to a boot time.
func (b *bench) until(at time.Duration) {
	b.t.Helper()
	for range 100_000 {
		d, ok := b.m.Deadline()
		if !ok || d > at {
			b.clock(at)
			return
		}
		b.clock(max(d, b.now.Boot))
		b.do(core.Tick{})
	}
	b.t.Fatal("the timers never come to rest")
}

func (b *bench) clock(at time.Duration) {
	b.now = core.Now{Boot: at, Wall: b.now.Wall.Add(at - b.now.Boot)}
}

// pbu takes the next Proxy Binding Update that was sent; there must be exactly one new message.
func (b *bench) pbu() update {
	b.t.Helper()
	us := b.pbus()
	if len(us) != 1 {
		b.t.Fatalf("at %v: %d updates, want 1: %+v", b.now.Boot, len(us), us)
	}
	return us[0]
}

// pbus takes all updates that were sent since the last call.
func (b *bench) pbus() (us []update) {
	for _, s := range b.out[b.taken:] {
		if u, ok := s.body.(*mobility.BindingUpdate); ok {
			us = append(us, update{s, u})
		}
	}
	b.taken = len(b.out)
	return us
}

func (b *bench) none() {
	b.t.Helper()
	if us := b.pbus(); len(us) != 0 {
		b.t.Fatalf("at %v: unexpected updates: %v", b.now.Boot, us)
	}
}

// update is a Proxy Binding Update as tests look at it.
type update struct {
	sent
	*mobility.BindingUpdate
}

func (u update) String() string {
	hi, _ := u.Options.HandoffIndicator()
	return fmt.Sprintf("seq %d lifetime %d hi %d hnp %v v4 %v", u.Sequence, u.Lifetime, hi.Value, u.hnps(), u.v4())
}

func (u update) hnps() []netip.Prefix { return slices.Collect(u.Options.HomeNetworkPrefixes()) }

// v4 is the value of the IPv4 option in either dialect; invalid = none.
func (u update) v4() netip.Prefix {
	if v, ok := u.Options.IPv4HomeAddressRequest(); ok {
		return netip.PrefixFrom(v.Addr, int(v.PrefixLen))
	}
	if v, ok := u.Options.IPv4HomeAddress(); ok {
		return netip.PrefixFrom(v.Addr, int(v.PrefixLen))
	}
	return netip.Prefix{}
}

func (u update) handoff() uint8 { v, _ := u.Options.HandoffIndicator(); return v.Value }

// reply is what an anchor answers; zero values echo the request and give hnp and hoa where they were asked for.
type reply struct {
	status   mobility.Status
	lifetime time.Duration // 0 = as asked; negative = 0
	hnp      []netip.Prefix
	no6, no4 bool
	v4       netip.Prefix
	v4status mobility.AddressStatus
	dialect  Dialect // "" = the request's
	seq      int     // added to the sequence number
	noP      bool
	id       string
	noID     bool
	hi, att  uint8
	ll       []byte
	stamp    uint64
	drop     bool // no echoed options at all
	relay    bool // no option 39, which means a DHCP relay
}

// ack builds the answer to an update.
func (r reply) ack(u update) *mobility.BindingAck {
	o := mobility.Options(nil)
	a := &mobility.BindingAck{Status: r.status, Sequence: u.Sequence + uint16(r.seq), Lifetime: u.Lifetime}
	if !r.noP {
		a.Flags = mobility.BAProxy
	}
	switch {
	case r.lifetime > 0:
		a.Lifetime = uint16(r.lifetime / mobility.LifetimeUnit)
	case r.lifetime < 0 || r.status >= 128:
		a.Lifetime = 0
	}
	id, _ := u.Options.MobileNodeID()
	if r.id != "" {
		id.ID = r.id
	}
	if !r.noID {
		o = o.Add(id)
	}
	if !r.drop {
		hi, _ := u.Options.HandoffIndicator()
		set(&r.hi, hi.Value)
		att, _ := u.Options.AccessTechnology()
		set(&r.att, att.Value)
		ll, _ := u.Options.LinkLayerID()
		if r.ll == nil {
			r.ll = ll.ID
		}
		o = o.Add(mobility.HandoffIndicator{Value: r.hi}, mobility.AccessTechnology{Value: r.att}, mobility.LinkLayerID{ID: r.ll})
	}
	if ts, ok := u.Options.Timestamp(); ok {
		set(&r.stamp, ts.Value)
		o = o.Add(mobility.Timestamp{Value: r.stamp})
	}
	hnps := r.hnp
	if hnps == nil && len(u.hnps()) > 0 && !r.no6 {
		hnps = u.hnps()
		if hnps[0].Bits() == 0 {
			hnps = []netip.Prefix{hnp}
		}
	}
	for _, p := range hnps {
		o = o.Add(mobility.HomeNetworkPrefix{Prefix: p})
	}
	_, draft := u.Options.IPv4HomeAddress()
	set(&r.dialect, map[bool]Dialect{false: RFC5844, true: Draft02}[draft])
	asked := u.v4()
	if !r.v4.IsValid() {
		r.v4 = hoa
		if asked.IsValid() && !asked.Addr().IsUnspecified() && asked != asked.Masked() {
			r.v4 = asked
		}
	}
	if asked.IsValid() && !r.no4 {
		if r.dialect == Draft02 {
			o = o.Add(mobility.IPv4AddressAck{Status: r.v4status, PrefixLen: uint8(r.v4.Bits()), Addr: r.v4.Addr()})
		} else {
			o = o.Add(mobility.IPv4HomeAddressReply{Status: r.v4status, PrefixLen: uint8(r.v4.Bits()), Addr: r.v4.Addr()})
			if r.v4status < 128 {
				o = o.Add(mobility.IPv4DefaultRouter{Addr: rtr4})
				if !r.relay {
					o = o.Add(mobility.IPv4DHCPSupportMode{Server: true})
				}
			}
		}
	}
	a.Options = o
	return a
}

// answer delivers an anchor's answer to an update.
func (b *bench) answer(u update, r reply) {
	b.t.Helper()
	b.receive(u.to, r.ack(u))
}

// receive delivers a message from an address of the core network, by way of the codec.
func (b *bench) receive(from netip.Addr, m mobility.Message) {
	b.t.Helper()
	p := core.Path{Local: netip.AddrPortFrom(coa, 0), Remote: netip.AddrPortFrom(from, 0)}
	b.do(core.Message{Path: p, Body: b.wire(core.Path{Local: p.Remote, Remote: p.Local}, m)})
}

// frame delivers a frame from a host.
func (b *bench) frame(index int, mac core.MAC, src, dst netip.Addr, body any) {
	b.t.Helper()
	b.do(core.Message{Path: core.Path{If: index}, Body: &access.Frame{Src: mac, Dst: core.MAC{0x33, 0x33}, SrcIP: src, DstIP: dst, Body: body}})
}

// linkLocalOf is a host's own address; any unique one will do.
func linkLocalOf(mac core.MAC) netip.Addr {
	a := netip.MustParseAddr("fe80::").As16()
	copy(a[10:], mac[:])
	return netip.AddrFrom16(a)
}

func (b *bench) rs(index int, mac core.MAC) {
	b.t.Helper()
	b.frame(index, mac, linkLocalOf(mac), netip.MustParseAddr("ff02::2"), &nd.RouterSolicitation{})
}

func (b *bench) mld(index int, mac core.MAC) {
	b.t.Helper()
	b.frame(index, mac, linkLocalOf(mac), netip.MustParseAddr("ff02::16"), &nd.MLDReport{Version: 2,
		Records: []nd.MLDRecord{{Type: nd.ChangeToExcludeMode, Group: netip.MustParseAddr("ff02::fb")}}})
}

func (b *bench) arp(index int, mac core.MAC, src netip.Addr) {
	b.t.Helper()
	b.frame(index, mac, src, rtr4, &ether.ARP{Op: ether.ARPRequest, SenderHW: mac, SenderIP: src, TargetIP: rtr4})
}

func (b *bench) data(index int, mac core.MAC, src netip.Addr) {
	b.t.Helper()
	b.do(core.Reported{Reason: string(wire.UnknownHost), Inner: core.Match{If: index, MAC: mac, Src: netip.PrefixFrom(src, src.BitLen())}})
}

func (b *bench) dhcp(index int, mac core.MAC, kind dhcpv4.MessageType, opts ...dhcpv4.Modifier) {
	b.t.Helper()
	opts = append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(net.HardwareAddr(mac[:])), dhcpv4.WithMessageType(kind)}, opts...)
	d, err := dhcpv4.New(opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	src := netip.IPv4Unspecified()
	if a, ok := netip.AddrFromSlice(d.ClientIPAddr.To4()); ok {
		src = a
	}
	b.frame(index, mac, src, netip.MustParseAddr("255.255.255.255"), d)
}

// bind attaches a host and has its registration accepted.
func (b *bench) bind(index int, mac core.MAC) *entry {
	b.t.Helper()
	b.mld(index, mac)
	b.answer(b.pbu(), reply{})
	e := b.m.hosts[mac]
	if e == nil || e.state != active {
		b.t.Fatalf("host %v is not bound", mac)
	}
	return e
}

func (b *bench) state(mac core.MAC, want state) {
	b.t.Helper()
	e := b.m.hosts[mac]
	switch {
	case e == nil && want == gone:
	case e == nil:
		b.t.Fatalf("at %v: %v is not in the list, want %v", b.now.Boot, mac, want)
	case e.state != want:
		b.t.Fatalf("at %v: %v is %v, want %v (%v)", b.now.Boot, mac, e.state, want, e.reason)
	}
}

// counted checks a counter.
func (b *bench) counted(r wire.Reason, want uint64) {
	b.t.Helper()
	if got := b.m.counts[string(r)]; got != want {
		b.t.Errorf("%s counted %d times, want %d", r, got, want)
	}
}

// keys are the home keys that forwarding has, by session, after all operations.
func (b *bench) keys() map[netip.Prefix]core.SetKey {
	keys := map[netip.Prefix]core.SetKey{}
	for _, op := range b.ops {
		switch op := op.(type) {
		case core.SetKey:
			keys[op.Match.Src] = op
		case core.Drop:
			for k, v := range keys {
				if op.ID != 0 && v.ID == op.ID || op.ID == 0 && op.Match == v.Match {
					delete(keys, k)
				}
			}
		}
	}
	return keys
}

// session is the newest SetSession of an id.
func (b *bench) session(id core.ID) (s core.SetSession, ok bool) {
	for _, op := range b.ops {
		if x, is := op.(core.SetSession); is && x.ID == id {
			s, ok = x, true
		}
	}
	return s, ok
}

// ras are the Router Advertisements sent since frame n: prefixes with their valid lifetimes.
func (b *bench) ras(n int) (all []map[netip.Prefix]uint32) {
	for _, f := range b.frames[n:] {
		ra, ok := f.Body.(*nd.RouterAdvertisement)
		if !ok {
			continue
		}
		ps := map[netip.Prefix]uint32{}
		for _, o := range ra.Options {
			if p, ok := o.(*nd.PrefixInformation); ok {
				ps[p.Prefix] = p.Valid
			}
		}
		all = append(all, ps)
	}
	return all
}

// dhcps are the DHCP messages sent since frame n.
func (b *bench) dhcps(n int) (all []*dhcpv4.DHCPv4) {
	for _, f := range b.frames[n:] {
		if d, ok := f.Body.(*dhcpv4.DHCPv4); ok {
			all = append(all, d)
		}
	}
	return all
}

func (b *bench) emitted(name string) (all []core.Emit) {
	for _, e := range b.emits {
		if e.Name == name {
			all = append(all, e)
		}
	}
	return all
}
