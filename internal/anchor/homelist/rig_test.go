package homelist

import (
	"bytes"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/nd"
)

var (
	own    = netip.MustParseAddr("2001:db8:1::1")
	own2   = netip.MustParseAddr("2001:db8:a::1") // not of the link
	home   = netip.MustParseAddr("2001:db8:1::10")
	link   = netip.MustParsePrefix("2001:db8:1::/64")
	second = netip.MustParsePrefix("2001:db8:2::/64")
	mac    = core.MAC{2, 0, 0, 0, 0, 1}
	local  = netip.MustParseAddr("fe80::1")
	agentA = netip.MustParseAddr("fe80::a")
	agentB = netip.MustParseAddr("fe80::b")
	addrA  = netip.MustParseAddr("2001:db8:1::a")
	addrB  = netip.MustParseAddr("2001:db8:1::b")
	careOf = netip.MustParseAddr("2001:db8:f::7")
)

// rig drives a Machine.
type rig struct {
	t    *testing.T
	m    *Machine
	now  core.Now
	news []News
}

// constant is randomness that is always the same number.
func constant(b byte) io.Reader { return bytes.NewReader(bytes.Repeat([]byte{b}, 1<<20)) }

func newRig(t *testing.T, rand io.Reader, change ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{Addresses: []netip.Addr{own}, MAC: mac, LinkLocal: local,
		Prefixes: []Prefix{{Prefix: link, OnLink: true, Autonomous: true, Valid: DefaultValid, Preferred: DefaultPreferred}}}
	for _, c := range change {
		c(&cfg)
	}
	r := &rig{t: t, m: New(cfg, rand), now: core.Now{Boot: time.Hour}}
	r.m.Start(r.now)
	return r
}

// pass lets time go by, with a Tick at each deadline and not before.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	end := r.now.Boot + d
	for range 100000 {
		at, ok := r.m.Deadline()
		if !ok || at > end {
			r.now.Boot = end
			return
		}
		r.now.Boot = max(at, r.now.Boot)
		r.news = append(r.news, r.m.Tick(r.now)...)
	}
	r.t.Fatal("it never rests")
}

// heard gives an advertisement to the machine, through the wire and back.
func (r *rig) heard(from netip.Addr, ra *nd.RouterAdvertisement) []string {
	r.t.Helper()
	f := &access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: core.MAC{2, 0, 0, 0, 9, 9}, SrcIP: from, DstIP: nd.AllNodes, Body: ra}
	b, err := f.Append(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if f, err = access.Decode(b); err != nil {
		r.t.Fatal(err)
	}
	return kinds(r.m.Frame(r.now, f))
}

func kinds(news []News) (out []string) {
	for _, n := range news {
		out = append(out, n.Kind)
	}
	return out
}

// taken gives the kinds of news of Ticks since the last time.
func (r *rig) taken() []string {
	n := kinds(r.news)
	r.news = nil
	return n
}

// agent is the advertisement of a home agent with its address in the prefix of the link.
func agent(addr netip.Addr, lifetime, preference uint16) *nd.RouterAdvertisement {
	return &nd.RouterAdvertisement{HomeAgent: true, RouterLifetime: 1800, Options: nd.Options{
		nd.SourceLinkLayer{2, 0, 0, 0, 9, 9},
		nd.HomeAgentInformation{Preference: preference, Lifetime: lifetime},
		&nd.PrefixInformation{Prefix: netip.PrefixFrom(addr, 64), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 2592000, Preferred: 604800},
	}}
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// sent gives the advertisements that were sent since the last time, through the wire and back.
func (r *rig) sent() (out []*nd.RouterAdvertisement) {
	r.t.Helper()
	for _, f := range r.m.Frames() {
		b, err := f.Append(nil)
		if err != nil {
			r.t.Fatal(err)
		}
		back, err := access.Decode(b)
		if err != nil {
			r.t.Fatal(err)
		}
		if back.Src != mac || back.SrcIP != local || back.DstIP != nd.AllNodes || back.Dst != (core.MAC{0x33, 0x33, 0, 0, 0, 1}) {
			r.t.Fatalf("sent %+v", back)
		}
		out = append(out, back.Body.(*nd.RouterAdvertisement))
	}
	return out
}
