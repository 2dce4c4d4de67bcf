package movement

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/nd"
)

// TestStable: the identifier is always the same for the same prefix, interface, counter and secret, and differs as soon as
// one of them does (RFC 7217 5).
func TestStable(t *testing.T) {
	spec.Covers(t, "RFC7217-5")
	secret, p, mac := []byte("0123456789abcdef"), netip.MustParsePrefix(netA), core.MAC{2, 0, 0, 0, 0, 2}
	a := stable(secret, p, mac, 0)
	if want := "2001:db8:a:0:fc25:f406:43d5:7af7"; a.String() != want {
		t.Errorf("%s, want %s: after an update, nodes would change their addresses", a, want)
	}
	if !p.Contains(a) {
		t.Errorf("%s is not in %s", a, p)
	}
	seen := map[[8]byte]string{}
	for name, b := range map[string]netip.Addr{
		"itself": a, "another prefix": stable(secret, netip.MustParsePrefix(netB), mac, 0), "another interface": stable(secret, p, core.MAC{2, 0, 0, 0, 0, 3}, 0),
		"another counter": stable(secret, p, mac, 1), "another secret": stable([]byte("0123456789abcdeF"), p, mac, 0),
	} {
		x := b.As16()
		if other := seen[[8]byte(x[8:])]; other != "" {
			t.Errorf("%s has the identifier of %s", name, other)
		}
		seen[[8]byte(x[8:])] = name
	}
}

func TestReserved(t *testing.T) {
	spec.Covers(t, "RFC7217-5")
	for s, want := range map[string]bool{
		"::": true, "::1": false, "::fdff:ffff:ffff:ff7f": false, "::fdff:ffff:ffff:ff80": true, "::fdff:ffff:ffff:ffff": true,
		"::200:5eff:fe00:5212": true, "::200:5efe:fe00:5212": false,
	} {
		a := netip.MustParseAddr(s).As16()
		if reserved([8]byte(a[8:])) != want {
			t.Errorf("%s: want %v", s, want)
		}
	}
}

// TestDuplicate: the kernel finds a duplicate; the next identifier is taken, four in all. Then the prefix is unusable, with
// its reason, and is tried again a minute later.
func TestDuplicate(t *testing.T) {
	spec.Covers(t, "RFC7217-6")
	r := newRig(t, Config{})
	r.check = r.invariants
	var tried []netip.Addr
	free := false
	r.kernel.taken = func(a netip.Addr) bool {
		tried = append(tried, a)
		return !free
	}
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, netA))
	r.run(2 * wireDelay)
	first := r.m.CareOfs()[0].Addr
	r.run(time.Second)
	r.want("eth0 2001:db8:a::/64 optimistic")
	if r.m.CareOfs()[0].Addr == first {
		t.Fatal("the duplicate is still offered")
	}
	r.run(3 * time.Second)
	r.want("")
	if len(tried) != 1+idgenRetries || r.m.Counters()["duplicate-address"] != 4 {
		t.Errorf("tried %v, counted %v", tried, r.m.Counters())
	}
	for _, x := range r.kernel.links[2].addrs {
		if x.ours {
			t.Errorf("a duplicate is left: %+v", x)
		}
	}
	if got := r.emitted("refused"); len(got) != 4 {
		t.Errorf("told %v", got)
	}
	free = true
	r.run(afterDuplicates - 100*time.Millisecond)
	r.want("")
	r.run(200 * time.Millisecond)
	r.want("eth0 2001:db8:a::/64 optimistic")
	if r.m.CareOfs()[0].Addr != first {
		t.Errorf("begins with %s, not with the first identifier again", r.m.CareOfs()[0].Addr)
	}
}

// TestDuplicateElsewhere: another attachment tries at once.
func TestDuplicateElsewhere(t *testing.T) {
	r := newRig(t, Config{})
	r.kernel.taken = func(netip.Addr) bool { return true }
	n := newNet(1, netA)
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(10 * time.Second)
	r.want("")
	r.kernel.taken = nil
	r.carrier(2, nil)
	r.run(time.Second)
	r.carrier(2, n)
	r.run(3 * wireDelay)
	r.want("eth0 2001:db8:a::/64 optimistic")
}

// TestOwnDetection: without optimistic addresses in the kernel the machine tests by itself (RFC 4862 5.4): one solicitation
// from the unspecified address, usable after RetransTimer; an advertisement, or another's test, makes it a duplicate.
func TestOwnDetection(t *testing.T) {
	spec.Covers(t, "RFC4862-5.4.2", "RFC4862-5.4.3", "RFC4862-5.4.4")
	r := newRig(t, Config{NoOptimistic: true})
	n := newNet(1, netA)
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(2 * wireDelay)
	r.want("eth0 2001:db8:a::/64 optimistic")
	a := r.m.CareOfs()[0].Addr
	at := slices.IndexFunc(r.sent, func(s sentFrame) bool {
		ns, ok := s.f.Body.(*nd.NeighborSolicitation)
		return ok && ns.Target == a
	})
	if at < 0 || !r.sent[at].f.SrcIP.IsUnspecified() || r.sent[at].f.DstIP != nd.SolicitedNode(a) || r.sent[at].f.Dst != multicastMAC(nd.SolicitedNode(a)) {
		t.Fatalf("sent %v", r.sent)
	}
	if len(r.sent[at].f.Body.(*nd.NeighborSolicitation).Options) > 0 {
		t.Error("a source link-layer address without a source (RFC 4861 7.1.1)")
	}
	r.run(time.Second - 1)
	r.want("eth0 2001:db8:a::/64 optimistic")
	r.run(1)
	r.want("eth0 2001:db8:a::/64")
	if r.kernel.sysctl["net/ipv6/conf/eth0/optimistic_dad"] != "" {
		t.Error("sets a sysctl that the kernel does not have")
	}

	for _, by := range []string{"advertisement", "test"} {
		r := newRig(t, Config{NoOptimistic: true})
		n := newNet(1, netA)
		if by == "advertisement" {
			n.others = []netip.Addr{a}
		}
		r.add(2, "eth0", false)
		r.carrier(2, n)
		r.run(2 * wireDelay)
		if by == "test" {
			n.send(r, 2, &access.Frame{Dst: multicastMAC(nd.SolicitedNode(a)), Src: core.MAC{2, 0, 0, 0, 7, 7}, SrcIP: netip.IPv6Unspecified(), DstIP: nd.SolicitedNode(a),
				Body: &nd.NeighborSolicitation{Target: a}})
		}
		r.run(2 * wireDelay)
		r.want("eth0 2001:db8:a::/64 optimistic")
		if got := r.m.CareOfs()[0].Addr; got == a {
			t.Errorf("%s: still %s", by, got)
		}
		r.run(2 * time.Second)
		r.want("eth0 2001:db8:a::/64")
		// Later claims are counted, and give nothing up (RFC 4862 5.4.4).
		was := r.m.CareOfs()[0].Addr
		n.send(r, 2, &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: core.MAC{2, 0, 0, 0, 7, 7}, SrcIP: was, DstIP: nd.AllNodes,
			Body: &nd.NeighborAdvertisement{Override: true, Target: was, Options: nd.Options{nd.TargetLinkLayer{2, 0, 0, 0, 7, 7}}}})
		r.run(time.Second)
		if r.m.CareOfs()[0].Addr != was || r.m.Counters()["duplicate-address"] != 2 {
			t.Errorf("%s: %q, counted %v", by, r.list(), r.m.Counters())
		}
	}
}

// TestOptimisticNeedsMAC: an address is optimistic only if the router tells its link-layer address (RFC 4429 3.3).
func TestOptimisticNeedsMAC(t *testing.T) {
	spec.Covers(t, "RFC4429-3.3")
	r := newRig(t, Config{})
	n := newNet(1, netA)
	n.routers[0].ra.Options = n.routers[0].ra.Options[1:]
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(900 * time.Millisecond)
	r.want("")
	r.run(200 * time.Millisecond)
	r.want("eth0 2001:db8:a::/64")
}

// TestOptimisticLinkLocal: from an optimistic link-local address the machine asks without its link-layer address, and from
// none it does not ask at all (RFC 4429 3.2).
func TestOptimisticLinkLocal(t *testing.T) {
	spec.Covers(t, "RFC4429-3.2")
	for _, value := range []string{"optimistic", "tentative"} {
		r := newRig(t, Config{})
		n := newNet(1, netA)
		r.add(2, "eth0", false)
		ll := core.HostChanged{Op: core.HostOp{Kind: "address", If: 2, Name: "eth0", Prefix: netip.MustParsePrefix("fe80::a2/64"), Value: value}, Up: true}
		r.handle(ll)
		r.carrier(2, n)
		r.run(5*time.Second + 17*time.Millisecond)
		for _, s := range r.sent {
			var options nd.Options
			switch b := s.f.Body.(type) {
			case *nd.RouterSolicitation:
				options = b.Options
			case *nd.NeighborSolicitation:
				options = b.Options
				if value == "tentative" {
					t.Errorf("asked from a tentative address: %+v", s.f)
				}
			}
			if len(options) > 0 || value == "tentative" && !s.f.SrcIP.IsUnspecified() {
				t.Errorf("%s: sent %+v %+v", value, s.f, s.f.Body)
			}
		}
		r.want("eth0 2001:db8:a::/64")
		if value == "tentative" { // now it can ask
			ll.Op.Value = ""
			r.handle(ll)
			r.run(2 * wireDelay)
			if len(r.frames("ns")) != 1 {
				t.Errorf("asked at %v", r.frames("ns"))
			}
		}
	}
}

// TestKernelLosesAddress: somebody removes it; it is not offered until the host has put it back, which is the host's to do: two that
// did would not know how often somebody removes it.
func TestKernelLosesAddress(t *testing.T) {
	r, _ := attached(t, Config{})
	a := r.m.CareOfs()[0].Addr
	l := r.kernel.links[2]
	was := l.addrs[a]
	r.told = nil
	r.kernel.lose(l, a)
	r.run(time.Second)
	r.want("")
	if len(r.told) != 0 {
		t.Errorf("the host was told %v", r.told)
	}
	l.addrs[a] = was
	r.kernel.begin(l, was, was.flags)
	r.run(wireDelay)
	r.want("eth0 2001:db8:a::/64 optimistic")
	if r.m.CareOfs()[0].Addr != a {
		t.Errorf("another one: %v", r.m.CareOfs())
	}
	// The link is set down, and up. What was told is taken back, so that nobody puts it back at a time that is not ours to know.
	r.told = nil
	r.setDown(2)
	r.want("")
	r.run(time.Second)
	gone := slices.DeleteFunc(r.told, func(op core.HostOp) bool { return !op.Del || op.Kind == "rule" })
	if len(gone) != 4 {
		t.Errorf("taken back: %v, want an address and three routes", gone)
	}
	r.setUp(2)
	r.run(2 * time.Second)
	r.want("eth0 2001:db8:a::/64")
	r.wantWay(r.m.CareOfs()[0])
}

// TestKernelLosesRoute: somebody removes a route of ours; the host puts it back.
func TestKernelLosesRoute(t *testing.T) {
	r, _ := attached(t, Config{})
	for k, op := range r.kernel.routes {
		delete(r.kernel.routes, k)
		r.kernel.tell(core.HostChanged{Op: op, Gone: true})
	}
	if r.m.CareOfs()[0].Table != DefaultTable {
		t.Fatal("not the first table")
	}
	r.told = nil
	r.run(time.Second)
	r.want("eth0 2001:db8:a::/64")
	if len(r.told) != 0 {
		t.Errorf("the host was told %v", r.told)
	}
}

// TestRefused: the kernel refuses an address; it is tried again, and the settings of the link do not wait for it.
func TestRefused(t *testing.T) {
	r := newRig(t, Config{})
	no := true
	r.refuse = func(op core.HostOp) error {
		if no && op.Kind == "address" {
			return errors.New("no")
		}
		return nil
	}
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, netA))
	r.run(10 * time.Second)
	r.want("")
	if len(r.kernel.sysctl) != 5 {
		t.Errorf("sysctls %v", r.kernel.sysctl)
	}
	if n := len(r.emitted("failed")); n < 3 || n > 5 {
		t.Errorf("told %d times", n)
	}
	no = false
	r.run(retryMax)
	r.want("eth0 2001:db8:a::/64")
	r.wantWay(r.m.CareOfs()[0])
	// The next refusal is tried again after a second, not after what the last one had come to.
	no = true
	r.setDown(2)
	r.setUp(2)
	r.run(900 * time.Millisecond)
	r.want("")
	no = false
	r.run(200 * time.Millisecond)
	r.want("eth0 2001:db8:a::/64 optimistic")
	// An error that does not say which operation failed is one of all of them.
	r.handle(core.Done{Ref: r.m.host.ref, Err: errors.New("no")})
	r.run(2 * time.Second)
	r.want("eth0 2001:db8:a::/64")
}

// TestAdopt: after a crash the kernel still has the address; the restarted machine, with the same secret, offers it without
// another test as soon as the router is known, and sets the same again.
func TestAdopt(t *testing.T) {
	r, n := attached(t, Config{})
	was := r.m.CareOfs()[0]
	again := newRig(t, Config{})
	again.now, again.kernel.routes, again.kernel.rules = r.now, r.kernel.routes, r.kernel.rules
	again.add(2, "eth0", true)
	again.kernel.links[2].addrs = r.kernel.links[2].addrs
	again.handle(core.HostChanged{Op: core.HostOp{Kind: "address", If: 2, Name: "eth0", Prefix: netip.PrefixFrom(was.Addr, 64)}, Up: true})
	again.nets[2] = n
	n.routers[0].advertise(again, n, 2, nil)
	again.run(wireDelay)
	again.want("eth0 2001:db8:a::/64")
	is := again.m.CareOfs()[0]
	if is.Addr != was.Addr || is.Network != was.Network {
		t.Errorf("was %+v, is %+v", was, is)
	}
	again.wantWay(is)
}

// TestOwnAddress: a machine without a secret draws one; rand that fails makes no machine.
func TestSecret(t *testing.T) {
	a, err := New(Config{Links: []Pattern{{Match: "*"}}}, seeded(1))
	b, _ := New(Config{Links: []Pattern{{Match: "*"}}}, seeded(2))
	if err != nil || len(a.secret) != 32 || slices.Equal(a.secret, b.secret) {
		t.Errorf("%v, %x, %x", err, a.secret, b.secret)
	}
	if _, err := New(Config{Links: []Pattern{{Match: "*"}}}, strings.NewReader("short")); err == nil {
		t.Error("a secret of five octets")
	}
}

// TestTwoFamilies: a link may have both kinds of address at a time, and both are offered.
func TestTwoFamilies(t *testing.T) {
	r, n := attached(t, Config{})
	n.routers[0].v4 = netip.MustParseAddr("192.0.2.1")
	r.dhcp(2, "192.0.2.7/24", "192.0.2.1")
	r.want("eth0 2001:db8:a::/64, eth0 192.0.2.0/24")
	for _, c := range r.m.CareOfs() {
		r.wantWay(c)
	}
	spec.Covers(t, "S004-2-01")
}
