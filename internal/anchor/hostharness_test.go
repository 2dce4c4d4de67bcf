package anchor

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire/mobility"
)

var (
	ha4   = netip.MustParseAddr("198.51.100.1")
	hoa1  = netip.MustParseAddr("2001:db8:1000:10::10") // static IPv4 10.20.0.21
	hoa2  = netip.MustParseAddr("2001:db8:1000:10::11") // dynamic IPv4
	hoa3  = netip.MustParseAddr("2001:db8:1000:10::12") // no IPv4
	hoa4  = netip.MustParseAddr("2001:db8:1000:11::10") // mobile networks
	hoa5  = netip.MustParseAddr("2001:db8:1000:12::10") // no host registrations
	hoa6  = netip.MustParseAddr("2001:db8:1000:13::10") // unprotected
	coa1  = netip.MustParseAddr("2001:db8:f::1")
	coa2  = netip.MustParseAddr("2001:db8:f::2")
	v4coa = netip.MustParseAddr("192.0.2.77")
	mn1   = "mn1@example.net"
	mn2   = "mn2@example.net"
	mn4   = "mn4@example.net"
)

// hosts is an anchor that is a home agent too.
func startHosts(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	return start(t, append([]func(*Config){func(c *Config) {
		c.Addresses = append(c.Addresses, ip("2001:db8:a::2"), ha4)
		c.Pools = append(c.Pools, pool.Config{Name: "lease", Prefix: pfx("10.40.0.0/24")})
		c.DSMIP6 = DSMIP6{On: true, HomeAgents: []netip.Addr{lmaa}, Dialects: []DSMIPDialect{RFC5555, Soliman00}}
		for _, n := range []string{"mn1", "mn2", "mn3", "mn4", "mn5"} {
			c.Peers = append(c.Peers, Peer{Name: n, Protection: "esp"})
		}
		c.Peers = append(c.Peers, Peer{Name: "mn6", Protection: "none"})
		home := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 64) }
		c.Subscribers.List = append(c.Subscribers.List,
			subscriber.Profile{ID: mn1, HoA: home(hoa1), Peer: "mn1", V4: ip("10.20.0.21"), HNP: []netip.Prefix{pfx("2001:db8:1000:e::/64")}},
			subscriber.Profile{ID: mn2, HoA: home(hoa2), Peer: "mn2", V4Pools: []string{"v4b"}},
			subscriber.Profile{ID: "mn3@example.net", HoA: home(hoa3), Peer: "mn3", Families: subscriber.V6},
			subscriber.Profile{ID: mn4, HoA: home(hoa4), Peer: "mn4", V4Pools: []string{"lease"}, Networks: []netip.Prefix{pfx("10.99.0.0/28"), pfx("10.99.1.0/24"), pfx("2001:db8:99::/48")}},
			subscriber.Profile{ID: "mn5@example.net", HoA: home(hoa5), Peer: "mn5", Services: subscriber.PMIP6},
			subscriber.Profile{ID: "mn6@example.net", HoA: home(hoa6), Peer: "mn6"},
		)
	}}, change...)...)
}

// bu is a Binding Update of a well-behaved node; change it as needed.
type bu struct {
	home     netip.Addr
	src, hao netip.Addr // inner source and Home Address option
	to       netip.Addr
	seen     netip.AddrPort // outer source, if there is one
	local    netip.AddrPort // outer destination
	flags    mobility.BUFlags
	lifetime uint16
	seq      uint16
	exact    bool // seq, even if it is 0
	auth     core.Auth
	v4       []mobility.Value
	more     []mobility.Value
}

const port4191 = 4191

// peerOf is who may speak for a home address.
func peerOf(home netip.Addr) core.Auth {
	for h, n := range map[netip.Addr]string{hoa1: "mn1", hoa2: "mn2", hoa3: "mn3", hoa4: "mn4", hoa5: "mn5"} {
		if h == home {
			return core.Auth{Kind: "esp", SPI: 0x101, Peer: n}
		}
	}
	return core.Auth{Kind: "none"}
}

func blank(home netip.Addr) bu {
	return bu{home: home, to: lmaa, flags: mobility.BUAck | mobility.BUHome, lifetime: 75, auth: peerOf(home)}
}

// native is a registration from an IPv6 network.
func native(home, coa netip.Addr, v4 ...mobility.Value) bu {
	b := blank(home)
	b.src, b.hao, b.v4 = coa, home, v4
	b.more = []mobility.Value{mobility.AlternateCareOf{Addr: coa}}
	return b
}

// atHome is a deregistration from the home link.
func atHome(home netip.Addr) bu {
	b := blank(home)
	b.src, b.lifetime = home, 0
	b.more = []mobility.Value{mobility.AlternateCareOf{Addr: home}}
	return b
}

// udp is a registration from an IPv4 network, in UDP; own is the address that the node has there, seen what comes out of it.
func udp(home, own netip.Addr, seen netip.AddrPort, v4 ...mobility.Value) bu {
	b := blank(home)
	b.src, b.seen, b.local, b.v4 = home, seen, netip.AddrPortFrom(ha4, port4191), v4
	b.more = []mobility.Value{mobility.IPv4CareOf{Addr: own}}
	return b
}

// in41 is one of the older dialect, in protocol 41.
func in41(home, coa netip.Addr, v4 ...mobility.Value) bu {
	b := blank(home)
	b.src, b.hao, b.v4 = netip.AddrFrom16(coa.As16()), home, v4
	b.seen, b.local = netip.AddrPortFrom(coa, 0), netip.AddrPortFrom(ha4, 0)
	b.more = []mobility.Value{mobility.AlternateCareOf{Addr: b.src}}
	return b
}

func (b bu) with(change func(*bu)) bu {
	change(&b)
	return b
}

// numbered gives it a sequence number.
func (b bu) numbered(seq uint16) bu {
	b.seq, b.exact = seq, true
	return b
}

func opt29(s string, bits uint8) mobility.Value {
	return mobility.IPv4HomeAddress{Addr: ip(s), PrefixLen: bits}
}

func opt29p(s string, bits uint8) mobility.Value {
	return mobility.IPv4HomeAddress{Addr: ip(s), PrefixLen: bits, P: true}
}

var dynamic29 = opt29("0.0.0.0", 32)

func (b bu) path() core.Path {
	p := core.Path{Local: netip.AddrPortFrom(b.to, 0), Remote: netip.AddrPortFrom(b.src, 0), Home: b.hao, Auth: b.auth}
	if b.seen.IsValid() {
		p.Outer.N = 1
		p.Outer.Layer[0] = core.Layer{Local: b.local, Remote: b.seen}
	}
	return p
}

// hostMessage builds the request, through the wire and back.
func (r *rig) hostMessage(b bu) core.Message {
	r.t.Helper()
	if b.seq == 0 && !b.exact {
		r.seq++
		b.seq = r.seq
	}
	src := b.src
	if b.hao.IsValid() {
		src = b.hao
	}
	o := mobility.Options(nil).Add(b.more...).Add(b.v4...)
	raw, err := mobility.Append(nil, &mobility.BindingUpdate{Sequence: b.seq, Flags: b.flags, Lifetime: b.lifetime, Options: o}, src, b.to)
	if err != nil {
		r.t.Fatal(err)
	}
	msg, err := mobility.Parse(raw, src, b.to)
	return core.Message{Path: b.path(), Body: msg, Err: err, Raw: raw}
}

// bu gives the request to the machine and returns the answer, nil if there was none. It must take the way that the request
// came.
func (r *rig) bu(b bu) *mobility.BindingAck {
	r.t.Helper()
	n := len(r.sent)
	r.handle(r.hostMessage(b))
	return r.hostAnswer(n, b.path())
}

func (r *rig) hostAnswer(n int, want core.Path) (ack *mobility.BindingAck) {
	r.t.Helper()
	for _, s := range r.sent[n:] {
		a, ok := s.Body.(*mobility.BindingAck)
		if !ok {
			continue
		}
		if ack != nil {
			r.t.Fatal("two answers")
		}
		if s.Path != want {
			r.t.Fatalf("the answer goes by %+v, the request came by %+v", s.Path, want)
		}
		dst := want.Remote.Addr()
		if want.Home.IsValid() {
			dst = want.Home
		}
		raw, err := mobility.Append(nil, a, want.Local.Addr(), dst)
		if err != nil {
			r.t.Fatalf("the answer cannot be built: %v", err)
		}
		msg, err := mobility.Parse(raw, want.Local.Addr(), dst)
		if err != nil {
			r.t.Fatalf("the answer cannot be read: %v", err)
		}
		ack = msg.(*mobility.BindingAck)
	}
	return ack
}

// status wants an answer with a status.
func (r *rig) status(b bu, want mobility.Status) *mobility.BindingAck {
	r.t.Helper()
	return r.answered(r.bu(b), want)
}

// ignored wants no answer, no state and no effect but an event.
func (r *rig) ignored(b bu) {
	r.t.Helper()
	n, stored := len(r.sent), len(r.store)
	if a := r.bu(b); a != nil || len(r.sent) != n || len(r.store) != stored {
		r.t.Fatalf("answered %+v, sent %v, want silence", a, r.sent[n:])
	}
}

func acks(a *mobility.BindingAck) (out []mobility.IPv4AddressAck) {
	for v := range a.Options.IPv4AddressAcks() {
		out = append(out, v)
	}
	return out
}

// chain says how the data plane reaches an address, and whether it delivers there.
func (r *rig) chain(a netip.Addr) (core.Layer, bool) {
	best := netip.Prefix{}
	for k := range r.keys {
		if k.Contains(a) && (!best.IsValid() || k.Bits() > best.Bits()) {
			best = k
		}
	}
	k, ok := r.keys[best]
	if !ok || !k.Down {
		return core.Layer{}, false
	}
	return r.tuns[k.ID].Chain.Layer[0], true
}

func (r *rig) reaches(a netip.Addr, want core.Layer) {
	r.t.Helper()
	got, ok := r.chain(a)
	if !ok || got != want {
		r.t.Fatalf("%v is tunnelled by %+v (%v), want %+v", a, got, ok, want)
	}
}

func (r *rig) unreached(a netip.Addr) {
	r.t.Helper()
	if got, ok := r.chain(a); ok {
		r.t.Fatalf("%v is tunnelled by %+v, want nothing", a, got)
	}
}

func layer6(coa netip.Addr) core.Layer {
	return core.Layer{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(coa, 0)}
}

func layer4(coa netip.Addr) core.Layer {
	return core.Layer{Local: netip.AddrPortFrom(ha4, 0), Remote: netip.AddrPortFrom(coa, 0)}
}

func layerUDP(seen netip.AddrPort) core.Layer {
	return core.Layer{Local: netip.AddrPortFrom(ha4, port4191), Remote: seen}
}

type profile = subscriber.Profile
