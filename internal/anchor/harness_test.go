package anchor

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire/mobility"
)

func init() {
	illegal = func(_ *Machine, from, to binding.State, why string) {
		panic(fmt.Sprintf("illegal transition %s -> %s (%s)", from, to, why))
	}
}

var (
	lmaa = netip.MustParseAddr("2001:db8:a::1")
	mag1 = netip.MustParseAddr("2001:db8:a::11")
	mag2 = netip.MustParseAddr("2001:db8:a::12")
	mag3 = netip.MustParseAddr("2001:db8:a::13") // a peer, but no gateway
	none = netip.MustParseAddr("2001:db8:bad::1")
	mac1 = []byte{2, 0, 0, 0, 0, 0x0a}
	mac2 = []byte{2, 0, 0, 0, 0, 0x0b}
	day  = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func testConfig() Config {
	return Config{
		Addresses: []netip.Addr{lmaa},
		Pools: []pool.Config{
			{Name: "hnp", Prefix: pfx("2001:db8:1000::/36")},
			{Name: "v4", Prefix: pfx("10.20.0.0/16"), Reserve: []netip.Prefix{pfx("10.20.0.0/29")}},
			{Name: "v4b", Prefix: pfx("10.30.0.0/24")},
		},
		Peers: []Peer{
			{Name: "mag1", Addresses: []netip.Prefix{pfx("2001:db8:a::11/128")}, Protection: "none"},
			{Name: "mag2", Addresses: []netip.Prefix{pfx("2001:db8:a::12/128")}, Protection: "none"},
			{Name: "ntp", Addresses: []netip.Prefix{pfx("2001:db8:a::13/128")}},
		},
		PMIP6: PMIP6{Gateways: []string{"mag1", "mag2"}},
		Subscribers: subscriber.Config{Accept: true, List: []subscriber.Profile{
			{ID: "static@example.net", V4: ip("10.20.0.10"), HNP: []netip.Prefix{pfx("2001:db8:1000:a::/64"), pfx("2001:db8:1000:b::/64")}},
			{ID: "static2@example.net", V4: ip("10.20.0.11"), V4Pools: []string{"v4", "v4b"}},
			{ID: "v4@example.net", Families: subscriber.V4},
			{ID: "v6@example.net", Families: subscriber.V6},
			{ID: "host@example.net", Services: subscriber.DSMIP6},
			{ID: "mag2only@example.net", Gateways: []string{"mag2"}},
			{ID: "three@example.net", HNPCount: 3},
		}},
		Heartbeat:  Heartbeat{Off: true}, // or every deadline would be a heartbeat's
		FirstStart: true,
	}
}

// rig drives a Machine as a loop does: it keeps the store, forwards, and reports what became of effects.
type rig struct {
	t      testing.TB
	m      *Machine
	cfg    Config
	now    core.Now
	seq    uint16
	store  map[string][]byte
	keys   map[netip.Prefix]core.SetKey
	shares map[netip.Prefix]map[core.ID]core.SetKey // all of a prefix
	tuns   map[core.ID]core.SetSession
	sent   []core.Send
	emits  []core.Emit // without those about clocks
	clocks []core.Emit
	host   []core.HostOp
	reply  core.Reply

	engine *mem.Engine // is given all forwarding too, if there is one

	failStore, failForward bool
	failOnce               bool // the next forwarding fails
	half                   bool // forwarding that fails was done all the same, as far as it got
	hold                   bool // results are kept in pending
	pending                []core.Event
	keepLazy               bool   // lazy records are not written
	after                  func() // is called after every event
}

func start(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	cfg := testConfig()
	for _, c := range change {
		if c != nil {
			c(&cfg)
		}
	}
	r := &rig{t: t, cfg: cfg, now: core.Now{Boot: time.Hour, Wall: day}, store: map[string][]byte{}}
	r.restart()
	return r
}

// restart makes a new machine from what is stored. Forwarding is made anew, as Sync does.
func (r *rig) restart() {
	r.t.Helper()
	m, err := New(r.cfg, bytes.NewReader(bytes.Repeat([]byte{7}, 1<<16)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.m, r.keys, r.tuns, r.host = m, map[netip.Prefix]core.SetKey{}, map[core.ID]core.SetSession{}, nil
	r.shares = map[netip.Prefix]map[core.ID]core.SetKey{}
	r.pending, r.hold = nil, false
	if r.engine != nil {
		r.withEngine()
	}
	keys := make([]string, 0, len(r.store))
	for k := range r.store {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		r.handle(core.Restored{Key: []byte(k), Val: r.store[k]})
	}
	r.handle(core.Restored{Last: true})
}

func (r *rig) handle(ev core.Event) {
	r.t.Helper()
	effects := r.m.Handle(r.now, ev, nil)
	var failed error
	for _, e := range effects {
		if p, ok := e.(core.Persist); ok && r.failStore && !p.Lazy {
			failed = errors.New("disk full")
		}
		if _, ok := e.(core.Forward); ok && (r.failForward || r.failOnce) {
			r.failOnce = false
			failed = &core.OpError{Err: errors.New("no forwarding")}
		}
	}
	var results []core.Event
	for _, e := range effects {
		switch e := e.(type) {
		case core.Persist:
			switch {
			case e.Lazy && r.keepLazy, !e.Lazy && r.failStore:
			case e.Val == nil:
				delete(r.store, string(e.Key))
			default:
				r.store[string(e.Key)] = e.Val
			}
		case core.Forward:
			if failed == nil || r.half {
				for _, op := range e.Ops {
					r.forward(op)
				}
				if r.engine != nil {
					if err := r.engine.Update(e.Ops); err != nil {
						r.t.Fatalf("the data plane refuses: %v", err)
					}
				}
			}
			if e.Ref != 0 {
				results = append(results, core.Done{Ref: e.Ref, Err: failed})
			}
		case core.Send:
			if failed == nil {
				r.sent = append(r.sent, e)
			}
			if e.Ref != 0 {
				results = append(results, core.Done{Ref: e.Ref, Err: failed})
			}
		case core.Change:
			r.host = append(r.host, e.Ops...)
		case core.Emit:
			if e.Name == "clock" {
				r.clocks = append(r.clocks, e)
				break
			}
			r.emits = append(r.emits, e)
		case core.Reply:
			r.reply = e
		}
	}
	if r.hold {
		r.pending = append(r.pending, results...)
		if r.after != nil {
			r.after()
		}
		return
	}
	for _, d := range results {
		r.handle(d)
	}
	if r.after != nil {
		r.after()
	}
}

// flush delivers the results that were held back, in their order as a loop does, and holds back no more.
func (r *rig) flush() {
	for r.hold = true; len(r.pending) > 0; {
		next := r.pending[0]
		r.pending = r.pending[1:]
		r.handle(next)
	}
	r.hold = false
}

func (r *rig) forward(op core.Op) {
	switch op := op.(type) {
	case core.SetSession:
		r.tuns[op.ID] = op
	case core.SetKey:
		if _, ok := r.tuns[op.ID]; !ok {
			panic(fmt.Sprintf("key %s of session %d that the data plane does not know", op.Match.Dst, op.ID)) // which rapid shrinks
		}
		of := r.shares[op.Match.Dst]
		if of == nil {
			of = map[core.ID]core.SetKey{}
			r.shares[op.Match.Dst] = of
		}
		if op.Down { // it takes the downward direction from others
			for id, o := range of {
				o.Down = false
				of[id] = o
			}
		}
		of[op.ID] = op
		r.choose(op.Match.Dst)
	case core.Drop:
		if op.ID == 0 {
			delete(r.shares, op.Match.Dst)
			delete(r.keys, op.Match.Dst)
			return
		}
		delete(r.tuns, op.ID)
		for k, of := range r.shares {
			delete(of, op.ID)
			r.choose(k)
		}
	}
}

// choose finds which of the keys of a prefix is delivered to: there are two where a host and a proxy registration share it.
func (r *rig) choose(k netip.Prefix) {
	delete(r.keys, k)
	for _, o := range r.shares[k] {
		if v, ok := r.keys[k]; !ok || o.Down || !v.Down && o.ID > v.ID {
			r.keys[k] = o
		}
	}
}

// pass moves time on, and ticks whenever the machine wants it, exactly then.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	end := r.now.Boot + d
	for n := 0; ; n++ {
		at, ok := r.m.Deadline()
		if !ok || at > end {
			break
		}
		if n > 1_000_000 {
			r.t.Fatal("deadlines do not end")
		}
		r.to(max(at, r.now.Boot))
		r.handle(core.Tick{})
	}
	r.to(end)
}

func (r *rig) to(boot time.Duration) {
	r.now.Wall = r.now.Wall.Add(boot - r.now.Boot)
	r.now.Boot = boot
}

// pbu is a Proxy Binding Update of a well-behaved gateway of RFC 5844; change it as needed.
type pbu struct {
	from, to netip.Addr
	id       string
	flags    mobility.BUFlags
	lifetime uint16
	seq      uint16
	hnp      []netip.Prefix
	v4       []mobility.Value // options 36 or 29
	ll       []byte
	hi, att  uint8
	ts       *mobility.Timestamp
	noTS     bool
	without  []mobility.OptionType
	more     []mobility.Value
}

var (
	zeroHNP = pfx("::/0")
	zeroV4  = mobility.IPv4HomeAddressRequest{Addr: ip("0.0.0.0")}
)

// attach is a first registration of both families.
func attach(from netip.Addr, id string, ll []byte) pbu {
	return pbu{from: from, id: id, lifetime: 75, hnp: []netip.Prefix{zeroHNP}, v4: []mobility.Value{zeroV4}, ll: ll, hi: mobility.HandoffUnknown, att: mobility.AccessEthernet}
}

func (r *rig) message(p pbu) core.Message {
	if p.flags == 0 {
		p.flags = mobility.BUAck | mobility.BUProxy
	}
	if p.seq == 0 {
		r.seq++
		p.seq = r.seq
	}
	if !p.to.IsValid() {
		p.to = lmaa
	}
	var vs []mobility.Value
	if p.id != "" {
		vs = append(vs, mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: p.id})
	}
	for _, h := range p.hnp {
		vs = append(vs, mobility.HomeNetworkPrefix{Prefix: h})
	}
	vs = append(vs, p.v4...)
	vs = append(vs, mobility.HandoffIndicator{Value: p.hi}, mobility.AccessTechnology{Value: p.att})
	if p.ll != nil {
		vs = append(vs, mobility.LinkLayerID{ID: p.ll})
	}
	if !p.noTS {
		ts := mobility.TimestampOf(r.now.Wall)
		if p.ts != nil {
			ts = *p.ts
		}
		vs = append(vs, ts)
	}
	vs = append(vs, p.more...)
	var o mobility.Options
	for _, v := range vs {
		if !slices.Contains(p.without, v.OptionType()) {
			o = o.Add(v)
		}
	}
	// Through the wire and back, so that the machine sees what a loop would show it.
	b, err := mobility.Append(nil, &mobility.BindingUpdate{Sequence: p.seq, Flags: p.flags, Lifetime: p.lifetime, Options: o}, p.from, p.to)
	if err != nil {
		r.t.Fatal(err)
	}
	msg, err := mobility.Parse(b, p.from, p.to)
	return core.Message{Path: path(p.to, p.from), Body: msg, Err: err, Raw: b}
}

func path(local, remote netip.Addr) core.Path {
	return core.Path{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0)}
}

// send gives the request to the machine and returns the answer, nil if there was none. Time moves by a millisecond first,
// so that timestamps grow.
func (r *rig) send(p pbu) *mobility.BindingAck {
	r.t.Helper()
	r.pass(time.Millisecond)
	return r.sendNow(p)
}

func (r *rig) sendNow(p pbu) *mobility.BindingAck {
	r.t.Helper()
	n := len(r.sent)
	r.handle(r.message(p))
	return r.answerTo(n, p.from)
}

func (r *rig) answerTo(n int, to netip.Addr) *mobility.BindingAck {
	r.t.Helper()
	var found *mobility.BindingAck
	for _, s := range r.sent[n:] {
		ack, ok := s.Body.(*mobility.BindingAck)
		if !ok || s.Path.Remote.Addr() != to {
			continue
		}
		if found != nil {
			r.t.Fatal("two answers")
		}
		b, err := mobility.Append(nil, ack, s.Path.Local.Addr(), to)
		if err != nil {
			r.t.Fatalf("the answer cannot be built: %v", err)
		}
		msg, err := mobility.Parse(b, s.Path.Local.Addr(), to)
		if err != nil {
			r.t.Fatalf("the answer cannot be read: %v", err)
		}
		found = msg.(*mobility.BindingAck)
	}
	return found
}

// ok wants status 0.
func (r *rig) ok(p pbu) *mobility.BindingAck {
	r.t.Helper()
	return r.answered(r.send(p), mobility.Accepted)
}

// is wants another status.
func (r *rig) is(p pbu, want mobility.Status) *mobility.BindingAck {
	r.t.Helper()
	return r.answered(r.send(p), want)
}

// answered wants an answer, with a status.
func (r *rig) answered(a *mobility.BindingAck, want mobility.Status) *mobility.BindingAck {
	r.t.Helper()
	if a == nil {
		r.t.Fatalf("no answer, want status %d; last events %v", want, r.tail())
	}
	if a.Status != want {
		r.t.Fatalf("status %d (%s), want %d; last events %v", a.Status, a.Status, want, r.tail())
	}
	return a
}

// silent wants no answer.
func (r *rig) silent(p pbu) {
	r.t.Helper()
	if a := r.send(p); a != nil {
		r.t.Fatalf("answered %d, want silence", a.Status)
	}
}

func (r *rig) tail() []core.Emit {
	return r.emits[max(0, len(r.emits)-3):]
}

// bindings are the sessions of a subscriber, oldest first.
func (r *rig) bindings(id string) []core.Binding {
	r.t.Helper()
	r.handle(core.Command{Ref: 9, Body: core.GetBindings{}})
	var out []core.Binding
	for _, b := range r.reply.Body.([]core.Binding) {
		if b.ID == id {
			out = append(out, b)
		}
	}
	return out
}

func (r *rig) one(id string) core.Binding {
	r.t.Helper()
	bs := r.bindings(id)
	if len(bs) != 1 {
		r.t.Fatalf("%d sessions of %s, want 1: %v", len(bs), id, bs)
	}
	return bs[0]
}

func prefixes(a *mobility.BindingAck) []netip.Prefix {
	return slices.Collect(a.Options.HomeNetworkPrefixes())
}

func v4of(t fataler, a *mobility.BindingAck) netip.Addr {
	t.Helper()
	if v, ok := a.Options.IPv4HomeAddressReply(); ok {
		return v.Addr
	}
	if v, ok := a.Options.IPv4AddressAck(); ok {
		return v.Addr
	}
	t.Fatal("no IPv4 option in the answer")
	return netip.Addr{}
}

// delivered says where the data plane sends a packet to the address: the gateway; unspecified = dropped silently; zero =
// not known.
func (r *rig) delivered(a netip.Addr) netip.Addr {
	for k, v := range r.keys {
		if !k.Contains(a) {
			continue
		}
		if !v.Down {
			return netip.IPv6Unspecified()
		}
		return r.tuns[v.ID].Chain.Layer[0].Remote.Addr()
	}
	return netip.Addr{}
}

// events are "from -> to why" of the sessions since n.
func (r *rig) events(n int) (out []string) {
	for _, e := range r.emits[n:] {
		if e.Name == "session" {
			out = append(out, e.From+" -> "+e.To+" "+e.Why)
		}
	}
	return out
}

// leakless advances past everything and wants that nothing is left anywhere.
func (r *rig) leakless() {
	r.t.Helper()
	for _, l := range r.leaks() {
		r.t.Error(l)
	}
}

func (r *rig) leaks() (out []string) {
	r.t.Helper()
	leak := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	r.pass(24 * time.Hour)
	if n := r.m.cache.Len(); n != 0 {
		leak("%d sessions are left", n)
	}
	if len(r.keys)+len(r.tuns) != 0 {
		leak("forwarding is left: %v %v", r.keys, r.tuns)
	}
	for k := range r.store {
		if k != metaKey {
			leak("record %x is left", k)
		}
	}
	if n := r.m.hosts.table.Len() + len(r.m.hosts.detect.byHome) + len(r.m.hosts.detect.byTarget) + len(r.m.hosts.detect.locals); n != 0 {
		leak("%d host registrations or detections of duplicates are left", n)
	}
	if r.m.count[binding.Pending] != 0 || r.m.count[binding.Active] != 0 || r.m.count[binding.Deprecated] != 0 {
		leak("by states there are %v", r.m.count)
	}
	if n := len(r.m.hosts.asked); n != 0 {
		leak("%d requests are remembered", n)
	}
	if n := len(r.m.flights.repairs) + len(r.m.flights.broken); n != 0 && !r.hold {
		leak("%d repairs never end", n)
	}
	if n := len(r.m.shared); n != 0 {
		leak("%d addresses are still shared", n)
	}
	for _, p := range r.m.pools.All() {
		if used, _ := p.Used(r.now); used != 0 {
			leak("pool %s: %d are still used", p.Name(), used)
		}
	}
	if n := len(r.m.waiting.byKey) + len(r.m.waiting.queue) + len(r.m.waiting.bySes); n != 0 {
		leak("%d requests still wait", n)
	}
	if n := r.m.revocations.Outstanding(); n != 0 {
		leak("%d revocations never end", n)
	}
	if n := len(r.m.gateways.byAddr); n != 0 {
		leak("%d gateways are left", n)
	}
	if !r.hold && len(r.m.flights.byID)+len(r.m.flights.byRef)+len(r.m.flights.endings)+len(r.m.flights.again) != 0 {
		leak("changes are still under way: %v", r.m.flights)
	}
	return out
}

// fataler is testing.TB or rapid.T.
type fataler interface {
	Helper()
	Fatal(...any)
}
