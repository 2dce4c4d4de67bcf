package anchor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	linkMAC  = core.MAC{2, 0, 0, 0, 0xff, 1}
	otherMAC = core.MAC{2, 0, 0, 0, 0xff, 2}
	linkLL   = netip.MustParseAddr("fe80::ff:fe00:ff01")
	local1   = netip.MustParseAddr("fe80::10") // of hoa1
)

// homeLink is an anchor with a real home link.
func homeLink(c *Config) {
	c.HomeLink = "home0"
	c.HomePort = HomePort{If: 7, MAC: linkMAC, LinkLocal: linkLL, Prefixes: []netip.Prefix{pfx("2001:db8:1000:10::/64"), pfx("10.20.0.0/16")}}
}

// frames takes the frames that were sent since the last time, through the wire and back.
func (r *rig) frames() (out []*access.Frame) {
	r.t.Helper()
	rest := r.sent[:0]
	for _, s := range r.sent {
		f, ok := s.Body.(*access.Frame)
		if !ok {
			rest = append(rest, s)
			continue
		}
		if s.Path.If != 7 {
			r.t.Fatalf("frame on link %d", s.Path.If)
		}
		b, err := f.Append(nil)
		if err != nil {
			r.t.Fatal(err)
		}
		back, err := access.Decode(b)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, back)
	}
	r.sent = rest
	return out
}

func (r *rig) overhear(f access.Frame) {
	r.t.Helper()
	r.handle(core.Message{Path: core.Path{If: 7}, Body: &f})
}

func probe(a netip.Addr) *access.Frame {
	g := nd.SolicitedNode(a)
	b := g.As16()
	return &access.Frame{Dst: core.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}, Src: linkMAC, SrcIP: netip.IPv6Unspecified(), DstIP: g,
		Body: &nd.NeighborSolicitation{Target: a}}
}

func announcement(a netip.Addr) *access.Frame {
	if a.Is4() {
		return &access.Frame{Dst: ether.Broadcast, Src: linkMAC, SrcIP: a, DstIP: a,
			Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: linkMAC, SenderIP: a, TargetIP: a}}
	}
	return &access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: linkMAC, SrcIP: linkLL, DstIP: netip.MustParseAddr("ff02::1"),
		Body: &nd.NeighborAdvertisement{Override: true, Target: a, Options: nd.Options{nd.TargetLinkLayer(linkMAC)}}}
}

func (r *rig) wantFrames(when string, want ...*access.Frame) {
	r.t.Helper()
	got := r.frames()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		r.t.Fatalf("%s: frames (-want +got):\n%s", when, d)
	}
}

// proxies are the addresses that the kernel answers for, routes those that lead to the device.
func (r *rig) proxies(kind string) (out []string) {
	on := map[netip.Prefix]bool{}
	for _, op := range r.host {
		if op.Kind == kind && op.Prefix.IsSingleIP() {
			on[op.Prefix] = !op.Del
		}
	}
	for p, yes := range on {
		if yes {
			out = append(out, p.Addr().String())
		}
	}
	slices.Sort(out)
	return out
}

// TestHostDetection: a new registration waits for duplicate address detection, exactly RetransTimer times
// DupAddrDetectTransmits; then its addresses are taken over on the link, and given back when it ends (RFC 6275 10.3.1, 10.4.1).
func TestHostDetection(t *testing.T) {
	r := startHosts(t, homeLink)
	b := native(hoa1, coa1, opt29("10.20.0.21", 32))
	if a := r.bu(b); a != nil {
		t.Fatalf("answered %+v before the address is known to be unique", a)
	}
	r.wantFrames("at once", probe(hoa1))
	if p := r.one(mn1); p.State != "pending" || p.CareOf != coa1 {
		t.Errorf("%+v", p)
	}
	r.pass(time.Second - 1)
	if len(r.sent) != 0 || len(r.keys) != 0 || len(r.proxies("proxy")) != 0 {
		t.Fatalf("sent %v, keys %v, host %v before its time", r.sent, r.keys, r.host)
	}
	r.pass(1)
	frames := []*access.Frame{announcement(hoa1), announcement(ip("10.20.0.21"))}
	r.wantFrames("unique", frames...)
	if a := r.hostAnswer(0, b.path()); a == nil || a.Status != 0 || len(acks(a)) != 1 {
		t.Fatalf("answered %+v", a)
	}
	r.reaches(hoa1, layer6(coa1))
	r.reaches(ip("10.20.0.21"), layer6(coa1))
	both := []string{"10.20.0.21", "2001:db8:1000:10::10"}
	if got := r.proxies("proxy"); !slices.Equal(got, both) {
		t.Errorf("proxies %v", got)
	}
	if got := r.proxies("route"); !slices.Equal(got, both) {
		t.Errorf("routes %v: what is on the link must lead to the device", got)
	}
	for _, when := range []string{"second round", "third round"} {
		r.pass(time.Second - 1)
		r.wantFrames("before the " + when)
		r.pass(1)
		r.wantFrames(when, announcement(ip("10.20.0.21")), announcement(hoa1))
	}
	r.pass(10 * time.Second)
	r.wantFrames("after three rounds")
	// The home agent has a binding: no detection any more.
	r.status(native(hoa1, coa2), mobility.Accepted)
	r.wantFrames("a move")
	if got := r.proxies("proxy"); !slices.Equal(got, both[1:]) {
		t.Errorf("proxies %v", got)
	}
	r.status(atHome(hoa1), mobility.Accepted)
	if got := append(r.proxies("proxy"), r.proxies("route")...); len(got) != 0 {
		t.Errorf("still defended: %v", got)
	}
	// The link takes its packets again: the data plane knows nothing of the address.
	if len(r.keys) != 0 || len(r.tuns) != 0 {
		t.Errorf("keys %v", r.keys)
	}
	r.wantFrames("at home")
	// Away again, it is detected anew.
	if a := r.bu(native(hoa1, coa1)); a != nil {
		t.Fatalf("answered %+v", a)
	}
	r.pass(time.Second)
	if r.one(mn1).State != "active" {
		t.Error("not active again")
	}
	r.leakless()
}

// TestHostDetectionRounds: several transmits, and none.
func TestHostDetectionRounds(t *testing.T) {
	r := startHosts(t, homeLink, func(c *Config) { c.HomePort.DADTransmits, c.HomePort.RetransTimer = 3, 200*time.Millisecond })
	b := native(hoa1, coa1)
	r.handle(r.hostMessage(b))
	r.wantFrames("first", probe(hoa1))
	for range 2 {
		r.pass(199 * time.Millisecond)
		r.wantFrames("in between")
		r.pass(time.Millisecond)
		r.wantFrames("next", probe(hoa1))
	}
	r.pass(199 * time.Millisecond)
	r.wantFrames("the last wait")
	r.pass(time.Millisecond)
	if a := r.hostAnswer(0, b.path()); a == nil || a.Status != 0 {
		t.Fatalf("%+v", a)
	}
	r = startHosts(t, homeLink, func(c *Config) { c.HomePort.DADTransmits = -1 })
	r.status(b, mobility.Accepted)
	r.wantFrames("none", announcement(hoa1))
	r = startHosts(t, homeLink, func(c *Config) { c.HomePort = HomePort{} })
	r.status(b, mobility.Accepted)
	r.wantFrames("no port")
	if got := r.proxies("proxy"); len(got) != 1 {
		t.Errorf("proxies %v", got)
	}
}

// TestHostDuplicate: somebody on the link has the address, or tests it too: status 134, and nothing is left.
func TestHostDuplicate(t *testing.T) {
	advert := func(a netip.Addr) access.Frame {
		return access.Frame{Src: otherMAC, SrcIP: a, DstIP: ip("ff02::1"), Body: &nd.NeighborAdvertisement{Override: true, Target: a}}
	}
	test := func(a netip.Addr) access.Frame {
		return access.Frame{Src: otherMAC, SrcIP: ip("::"), DstIP: nd.SolicitedNode(a), Body: &nd.NeighborSolicitation{Target: a}}
	}
	resolve := func(a netip.Addr) access.Frame {
		return access.Frame{Src: otherMAC, SrcIP: ip("fe80::99"), DstIP: nd.SolicitedNode(a), Body: &nd.NeighborSolicitation{Target: a}}
	}
	own := test(hoa1)
	own.Src = linkMAC
	withL := native(hoa1, coa1).with(flag(mobility.BULinkLocal))
	for _, c := range []struct {
		name   string
		bu     bu
		frame  access.Frame
		refuse bool
	}{
		{"advertised", native(hoa1, coa1), advert(hoa1), true},
		{"tested by another", native(hoa1, coa1), test(hoa1), true},
		{"link-local advertised", withL, advert(local1), true},
		{"link-local tested by another", withL, test(local1), true},
		{"resolved by another", native(hoa1, coa1), resolve(hoa1), false},
		{"own probe looped back", native(hoa1, coa1), own, false},
		{"another address", native(hoa1, coa1), advert(hoa2), false},
		{"link-local without flag L", native(hoa1, coa1), advert(local1), false},
		{"data", native(hoa1, coa1), access.Frame{Src: otherMAC, SrcIP: hoa1}, false},
		{"ARP", native(hoa1, coa1), access.Frame{Src: otherMAC, Body: &ether.ARP{Op: ether.ARPReply, SenderIP: ip("10.20.0.21"), TargetIP: ip("10.20.0.21")}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startHosts(t, homeLink)
			r.handle(r.hostMessage(c.bu))
			r.frames()
			r.pass(500 * time.Millisecond)
			r.overhear(c.frame)
			a := r.hostAnswer(0, c.bu.path())
			if !c.refuse {
				if a != nil {
					t.Fatalf("answered %+v", a)
				}
				r.pass(500 * time.Millisecond)
				if b := r.one(mn1); b.State != "active" {
					t.Errorf("state %s", b.State)
				}
				return
			}
			if a == nil || a.Status != mobility.DADFailed {
				t.Fatalf("answered %+v, want 134; %v", a, r.tail())
			}
			r.pass(time.Minute)
			if len(r.bindings(mn1)) != 0 || len(r.proxies("proxy")) != 0 || len(r.sent) != 1 {
				t.Errorf("left %v, %v, sent %v", r.bindings(mn1), r.host, r.sent)
			}
			if r.m.refused[wire.DuplicateAddress] != 2 { // the frame and the request
				t.Errorf("refused %v", r.m.refused)
			}
			r.leakless()
		})
	}
}

// TestHostDetectionRepeated: copies of the request do not restart the detection; a newer one takes its place, and is the one
// that is answered; a deregistration ends it.
func TestHostDetectionRepeated(t *testing.T) {
	r := startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).numbered(10)))
	r.pass(400 * time.Millisecond)
	r.ignored(native(hoa1, coa1).numbered(10))
	r.ignored(native(hoa1, coa1).numbered(9))
	newer := native(hoa1, coa2).numbered(11)
	if a := r.bu(newer); a != nil {
		t.Fatalf("answered %+v", a)
	}
	r.wantFrames("one detection", probe(hoa1))
	r.pass(600*time.Millisecond - 1)
	if len(r.sent) != 0 {
		t.Fatal("too early")
	}
	r.pass(1)
	r.frames()
	if len(r.sent) != 1 {
		t.Fatalf("sent %v", r.sent)
	}
	if a := r.hostAnswer(0, newer.path()); a == nil || a.Sequence != 11 {
		t.Fatalf("answered %+v", a)
	}
	r.reaches(hoa1, layer6(coa2))

	r = startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).numbered(10)))
	r.frames()
	r.status(atHome(hoa1).numbered(11), mobility.NotHomeAgent)
	r.pass(time.Minute)
	if len(r.bindings(mn1)) != 0 || len(r.sent) != 1 {
		t.Errorf("left %v, sent %v", r.bindings(mn1), r.sent)
	}
	r.leakless()

	// A newer request that wants the link-local address too waits for that one as well.
	r = startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).numbered(10)))
	r.pass(900 * time.Millisecond)
	r.handle(r.hostMessage(native(hoa1, coa1).with(flag(mobility.BULinkLocal)).numbered(11)))
	r.pass(999 * time.Millisecond)
	if r.one(mn1).State != "pending" {
		t.Error("not tested")
	}
	r.pass(time.Millisecond)
	if r.one(mn1).State != "active" {
		t.Error("not active")
	}
	r.leakless()
}

// TestHostLinkLocal: flag L defends the link-local address with the same interface identifier too (RFC 6275 10.3.1).
func TestHostLinkLocal(t *testing.T) {
	r := startHosts(t, homeLink)
	b := native(hoa1, coa1).with(flag(mobility.BULinkLocal))
	r.handle(r.hostMessage(b))
	r.wantFrames("both", probe(hoa1), probe(local1))
	r.pass(time.Second)
	r.wantFrames("both", announcement(hoa1), announcement(local1))
	if got := r.proxies("proxy"); !slices.Equal(got, []string{"2001:db8:1000:10::10", "fe80::10"}) {
		t.Errorf("proxies %v", got)
	}
	if got := r.proxies("route"); len(got) != 1 {
		t.Errorf("routes %v", got)
	}
	// Another node with the same identifier elsewhere cannot have it: the link-local address is one.
	a := r.status(native(hoa4, coa2).with(flag(mobility.BULinkLocal)), mobility.DADFailed)
	if a.Lifetime != 0 {
		t.Errorf("%+v", a)
	}
	r.frames()
	// Without the flag it is given up, and is free.
	r.status(native(hoa1, coa1), mobility.Accepted)
	if got := r.proxies("proxy"); len(got) != 1 {
		t.Errorf("proxies %v", got)
	}
	r.handle(r.hostMessage(native(hoa4, coa2).with(flag(mobility.BULinkLocal))))
	r.pass(time.Second)
	if r.one(mn4).State != "active" {
		t.Error("not active")
	}
	// Who is registered without the flag cannot take it over by asking for it either; who has it may ask again.
	r.status(native(hoa1, coa1).with(flag(mobility.BULinkLocal)), mobility.DADFailed)
	r.status(native(hoa4, coa2).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	r.status(native(hoa4, coa1).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	if got := r.proxies("proxy"); !slices.Contains(got, "fe80::10") {
		t.Errorf("proxies %v", got)
	}
	r.leakless()

	// Nor is there a race: of two that are tested at once, the first has it.
	r = startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).with(flag(mobility.BULinkLocal))))
	r.handle(r.hostMessage(native(hoa4, coa2).with(flag(mobility.BULinkLocal))))
	r.frames()
	r.pass(time.Second)
	if r.one(mn1).State != "active" || len(r.bindings(mn4)) != 0 || r.m.refused[wire.DuplicateAddress] != 1 {
		t.Errorf("%v, refused %v", r.bindings(""), r.m.refused)
	}
	r.leakless()
	// The same without frames, where the kernel's entries are all the defence.
	r = startHosts(t, homeLink, func(c *Config) { c.HomePort = HomePort{} })
	r.status(native(hoa1, coa1).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	r.status(native(hoa4, coa2).with(flag(mobility.BULinkLocal)), mobility.DADFailed)
	// And where there is no home link, nobody defends a link-local address.
	r = startHosts(t)
	r.status(native(hoa1, coa1).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	r.status(native(hoa4, coa2).with(flag(mobility.BULinkLocal)), mobility.Accepted)
	r.leakless()
}

// TestHostDetectionLate: what is older than the request that waits does not end it, whatever it asks for; and how long the
// detection takes is not held against the request's timestamp.
func TestHostDetectionLate(t *testing.T) {
	r := startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).numbered(10)))
	r.frames()
	r.ignored(atHome(hoa1).numbered(9))
	r.ignored(atHome(hoa1).numbered(10))
	r.pass(time.Second)
	r.reaches(hoa1, layer6(coa1))
	// The same where ordering state is left of a registration before.
	r.status(atHome(hoa1).numbered(11), mobility.Accepted)
	r.handle(r.hostMessage(native(hoa1, coa2).numbered(13)))
	r.frames()
	r.ignored(atHome(hoa1).numbered(12))
	r.pass(time.Second)
	r.reaches(hoa1, layer6(coa2))
	r.leakless()

	r = startHosts(t, homeLink, func(c *Config) { c.HomePort.DADTransmits = 3 })
	b := native(hoa1, coa1).with(by4285(r, -5*time.Second))
	r.handle(r.hostMessage(b))
	r.frames()
	r.ignored(atHome(hoa1).with(by4285(r, -6*time.Second)))
	r.pass(3 * time.Second)
	r.frames()
	if a := r.hostAnswer(0, b.path()); a == nil || a.Status != 0 {
		t.Errorf("answered %+v", a)
	}
	r.leakless()
}

// TestHostDetectionRestart: what waited for the detection when the anchor ended left nothing; its node asks again.
func TestHostDetectionRestart(t *testing.T) {
	r := startHosts(t, homeLink)
	b := native(hoa2, coa1, dynamic29)
	r.handle(r.hostMessage(b))
	r.pass(500 * time.Millisecond)
	r.restart()
	r.frames()
	if len(r.bindings(mn2)) != 0 || len(r.proxies("proxy")) != 0 {
		t.Errorf("left %v, %v", r.bindings(mn2), r.host)
	}
	r.handle(r.hostMessage(b))
	r.wantFrames("again", probe(hoa2))
	r.pass(time.Second)
	if r.one(mn2).State != "active" {
		t.Error("not active")
	}
	r.leakless()
}

// TestHostDefence: who claims a defended address is answered by an announcement, once in ten seconds, and told.
func TestHostDefence(t *testing.T) {
	r := startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1, opt29("10.20.0.21", 32))))
	r.pass(time.Minute)
	r.frames()
	claims := []access.Frame{
		{Src: otherMAC, SrcIP: hoa1, DstIP: ip("ff02::1"), Body: &nd.NeighborAdvertisement{Override: true, Target: hoa1}},
		{Src: otherMAC, SrcIP: ip("10.20.0.21"), Body: &ether.ARP{Op: ether.ARPRequest, SenderIP: ip("10.20.0.21"), TargetIP: ip("10.20.0.21")}},
	}
	n := len(r.emits)
	for _, c := range claims {
		r.overhear(c)
		r.overhear(c)
	}
	r.wantFrames("claimed", announcement(hoa1), announcement(ip("10.20.0.21")))
	r.pass(10*time.Second - 1)
	r.overhear(claims[0])
	r.wantFrames("too soon")
	r.pass(1)
	r.overhear(claims[0])
	r.wantFrames("claimed again", announcement(hoa1))
	told := 0
	for _, e := range r.emits[n:] {
		if e.Name == "conflict" && strings.Contains(e.Fields.(Fields).Detail, otherMAC.String()) {
			told++
		}
	}
	if told != 3 {
		t.Errorf("told %d times: %v", told, r.emits[n:])
	}
	// A test of the address is answered by the kernel's proxy entry; other links' frames are nobody's.
	r.pass(10 * time.Second)
	r.overhear(access.Frame{Src: otherMAC, SrcIP: ip("::"), Body: &nd.NeighborSolicitation{Target: hoa1}})
	r.handle(core.Message{Path: core.Path{If: 8}, Body: &claims[0]})
	r.handle(core.Message{Path: core.Path{If: 7}, Err: &wire.Error{Reason: wire.Truncated}})
	r.wantFrames("nothing")
	r.leakless()
}

// TestHostDetectionLimit: requests that wait are limited for each peer.
func TestHostDetectionLimit(t *testing.T) {
	r := startHosts(t, homeLink, func(c *Config) {
		c.Limits.PendingPerPeer = 1
		for n := range c.Subscribers.List {
			if c.Subscribers.List[n].ID == mn2 {
				c.Subscribers.List[n].Peer = "mn1"
			}
		}
		c.Peers = slices.DeleteFunc(c.Peers, func(p Peer) bool { return p.Name == "mn2" })
	})
	r.handle(r.hostMessage(native(hoa1, coa1)))
	r.frames()
	b := native(hoa2, coa1).with(func(b *bu) { b.auth = peerOf(hoa1) })
	r.status(b, mobility.InsufficientResources)
	r.pass(time.Second)
	r.handle(r.hostMessage(b))
	r.pass(time.Second)
	if r.one(mn2).State != "active" {
		t.Error("not active")
	}
	r.leakless()
}

// TestHostDefenceAfterRestart: what was defended is defended again, at once.
func TestHostDefenceAfterRestart(t *testing.T) {
	r := startHosts(t, homeLink)
	r.handle(r.hostMessage(native(hoa1, coa1).with(flag(mobility.BULinkLocal))))
	r.pass(time.Minute)
	r.handle(r.hostMessage(native(hoa4, coa1))) // waits: nobody was answered, nothing is stored
	r.sent = nil
	r.restart()
	r.wantFrames("restart", announcement(hoa1), announcement(local1))
	if got := r.proxies("proxy"); len(got) != 2 {
		t.Errorf("proxies %v", got)
	}
	if len(r.bindings(mn4)) != 0 {
		t.Error("a request that waited came back")
	}
	r.leakless()
}

// TestHostElsewhereAfterRestart: while the home agent was away its node came home, or went to another one, which answers for the home
// address now and says so when this one announces it. A registration of an earlier run gives way, and one that was renewed does not.
func TestHostElsewhereAfterRestart(t *testing.T) {
	spec.Covers(t, "RFC6275-10.4.1")
	claim := access.Frame{Src: otherMAC, SrcIP: hoa1, DstIP: ip("ff02::1"), Body: &nd.NeighborAdvertisement{Override: true, Target: hoa1}}
	for _, renewed := range []bool{false, true} {
		r := startHosts(t, homeLink)
		q := native(hoa1, coa1)
		r.handle(r.hostMessage(q))
		r.pass(time.Minute)
		r.restart()
		r.pass(10 * time.Second)
		r.frames()
		if renewed {
			q.seq += 1000
			r.handle(r.hostMessage(q))
		}
		r.overhear(claim)
		if renewed {
			r.wantFrames("renewed", announcement(hoa1))
			if len(r.bindings(mn1)) != 1 {
				t.Error("a registration that was renewed is gone")
			}
			continue
		}
		r.wantFrames("claimed")
		if b := r.bindings(mn1); len(b) > 0 && b[0].State == "active" || len(r.proxies("proxy")) > 0 {
			t.Errorf("%+v, answers for %v", b, r.proxies("proxy"))
		}
		r.leakless()
	}
}

// TestHostHomeLinkAnswers: a node on the home link is answered there, although its home address still leads to the device; who
// comes by another link is answered as routes lead.
func TestHostHomeLinkAnswers(t *testing.T) {
	r := startHosts(t, homeLink, func(c *Config) { c.HomePort.DADTransmits = -1 })
	from := func(b bu, link int) int {
		t.Helper()
		msg := r.hostMessage(b)
		msg.Path.If = link
		r.frames()
		n := len(r.sent)
		r.handle(msg)
		r.frames()
		if len(r.sent) != n+1 {
			t.Fatalf("sent %v", r.sent[n:])
		}
		return r.sent[n].Path.If
	}
	if got := from(native(hoa1, coa1).numbered(9), 3); got != 0 {
		t.Errorf("by link %d", got)
	}
	if got := from(atHome(hoa1).numbered(9), 7); got != 7 { // 135
		t.Errorf("by link %d, want the home link", got)
	}
	if got := from(atHome(hoa1).numbered(10), 7); got != 7 {
		t.Errorf("by link %d, want the home link", got)
	}
}

// TestHostHomeLinkPools: a pool inside what is on-link is routed address by address, a wider one as a whole.
func TestHostHomeLinkPools(t *testing.T) {
	r := startHosts(t, homeLink)
	for p, want := range map[string]bool{"10.20.0.0/16": false, "10.30.0.0/24": true, "2001:db8:1000::/36": true} {
		if got := slices.Contains(r.host, core.HostOp{Kind: "route", Prefix: pfx(p), Name: "kedge0"}); got != want {
			t.Errorf("route to %s: %v", p, got)
		}
	}
}
