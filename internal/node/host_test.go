package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
)

// hostText is what the host has, a line each, sorted.
func (r *rig) hostText() []string {
	var ls []string
	for _, op := range r.host {
		var b strings.Builder
		b.WriteString(op.Kind)
		add := func(ok bool, format string, v any) {
			if ok {
				fmt.Fprintf(&b, " "+format, v)
			}
		}
		add(op.Prefix.IsValid(), "%v", op.Prefix)
		add(op.Via.IsValid(), "via %v", op.Via)
		add(op.Name != "", "dev %s", op.Name)
		add(op.Src.IsValid(), "src %v", op.Src)
		add(op.MTU != 0, "mtu %d", op.MTU)
		add(op.Table != 0, "table %d", op.Table)
		add(op.Value != "", "%s", op.Value)
		ls = append(ls, b.String())
	}
	slices.Sort(ls)
	return ls
}

func (r *rig) wantHost(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	got := r.hostText()
	for _, l := range got {
		if !slices.Contains(want, l) {
			r.t.Errorf("%v: the host has %q", r.elapsed(), l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			r.t.Errorf("%v: the host does not have %q", r.elapsed(), l)
		}
	}
}

// Lines of hosts.
var (
	persistent = []string{
		"address 10.20.0.5/32 dev kedge0", "address 2001:db8:2000::5/128 dev kedge0 nodad",
		"rule 10.20.0.5/32 table 10700 priority 10690", "rule 2001:db8:2000::5/128 table 10700 priority 10690",
	}
	preferred = []string{
		"rule 0.0.0.0/0 table 254 suppress 0 priority 10720", "rule ::/0 table 254 suppress 0 priority 10720",
		"rule 0.0.0.0/0 table 10700 priority 10730", "rule ::/0 table 10700 priority 10730",
	}
	over6 = []string{
		"link dev kedge0 mtu 1460 up",
		"route 0.0.0.0/0 dev kedge0 src 10.20.0.5 mtu 1460 table 10700", "route ::/0 dev kedge0 src 2001:db8:2000::5 mtu 1460 table 10700",
	}
	// What is on the link by IPv6 is found in the table of the address there.
	direct6 = []string{"rule 2001:db8:a::1/128 table 11011 to priority 10710", "rule 2001:db8:1::/64 table 11011 to priority 10720"}
)

func lines(parts ...[]string) []string { return slices.Concat(parts...) }

func TestHostAway(t *testing.T) {
	r := newRig(t, nil)
	r.wantHost(lines(persistent, preferred, over6)...) // blocked from the start: nothing leaves but through the tunnel
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(sec)
	r.wantHost(lines(persistent, preferred, over6, direct6)...)

	// The framing and the link say what fits.
	v4 := r.net(2, "192.0.2.7")
	v4.care.MTU = 1400
	r.show(v4)
	r.run(sec)
	r.wantHost(lines(persistent, preferred, []string{
		"link dev kedge0 mtu 1380 up", "rule 198.51.100.1/32 table 11020 to priority 10710",
		"route 0.0.0.0/0 dev kedge0 src 10.20.0.5 mtu 1380 table 10700", "route ::/0 dev kedge0 src 2001:db8:2000::5 mtu 1380 table 10700"})...)

	// Never less than IPv6 needs: longer packets are fragmented outside. IPv4 is told what fits, and so is TCP over IPv6.
	v4.care.MTU, v4.nat = 1280, 1
	r.show()
	r.show(v4)
	r.run(sec)
	r.wantHost(lines(persistent, preferred, []string{
		"link dev kedge0 mtu 1280 up", "rule 198.51.100.1/32 table 11020 to priority 10710",
		"route 0.0.0.0/0 dev kedge0 src 10.20.0.5 mtu 1252 table 10700", "route ::/0 dev kedge0 src 2001:db8:2000::5 mtu 1280 table 10700 advmss 1192"})...)
}

func TestHostAtHome(t *testing.T) {
	r, _, at := homeRig(t)
	r.show(at)
	r.run(sec)
	// The default routes of the home table are those of package movement.
	r.wantHost(lines(persistent, preferred, []string{
		"link dev kedge0 mtu 1460 up", "rule 2001:db8:a::1/128 table 11041 to priority 10710",
		"route 2001:db8:a::1/128 via fe80::1 dev if4 table 10700"})...)
}

func TestExcludedAndNameServers(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Exclude = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("2001:db8:eeee::/48")}
		c.DNS = DNSDirect
	})
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	r.show(v6, v4)
	r.run(sec)
	r.wantHost(lines(persistent, preferred, over6, direct6, []string{
		"rule 2001:db8:eeee::/48 table 11011 to priority 10710", "rule ::/0 table 11011 dport 53 priority 10710",
		"rule 198.51.100.1/32 table 11010 to priority 10710",
		"rule 192.168.0.0/16 table 11010 to priority 10710", "rule 0.0.0.0/0 table 11010 dport 53 priority 10710"})...)

	// They follow the node to another link.
	other := r.net(3, "192.0.2.99")
	r.show(other)
	r.run(sec)
	got := r.hostText()
	for _, want := range []string{"rule 192.168.0.0/16 table 11030 to priority 10710", "rule 0.0.0.0/0 table 11030 dport 53 priority 10710"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	for _, l := range got {
		if strings.Contains(l, "table 1101") {
			t.Errorf("left behind: %s", l)
		}
	}
}

// TestPass: by choice, what would go through the tunnel passes outside while the home agent cannot be reached.
func TestPass(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Unreachable = Pass })
	r.wantHost(lines(persistent, over6)...)
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(15 * ms)
	r.wantHost(lines(persistent, over6)...)
	r.run(sec)
	r.wantHost(lines(persistent, preferred, over6, direct6)...)

	// A dead path is not yet an unreachable home agent; after as long again it is.
	n.down = true
	r.until(4*sec, func() bool { return r.m.path.dead })
	r.run(2900 * ms)
	r.wantHost(lines(persistent, preferred, over6, direct6)...)
	r.run(200 * ms)
	r.wantHost(lines(persistent, over6)...)
	n.down = false
	r.until(33*sec, r.ok)
	r.wantHost(lines(persistent, preferred, over6, direct6)...)
}

// TestBlockWithoutAddress: while the dynamic IPv4 home address is not known, nothing of IPv4 passes outside.
func TestBlockWithoutAddress(t *testing.T) {
	r := newRig(t, dynamic)
	if !slices.Contains(r.hostText(), "route 0.0.0.0/0 table 10700 unreachable") {
		t.Errorf("%q", r.hostText())
	}
	r.agent.lease = hoa4
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(sec)
	r.wantHost(lines(persistent, preferred, over6, direct6)...)
}

// TestWithoutIPv4Service: a home agent that serves no IPv4 leaves IPv4 to the visited network.
func TestWithoutIPv4Service(t *testing.T) {
	r := newRig(t, dynamic)
	r.show(r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7"))
	r.run(sec)
	for _, l := range r.hostText() {
		if strings.Contains(l, "0.0.0.0/0") {
			t.Errorf("the host has %q", l)
		}
	}
}

// TestHostFails: what cannot be set is told once, and tried again.
func TestHostFails(t *testing.T) {
	r := newRig(t, nil)
	tries := 0
	r.fail = func(op core.HostOp) error {
		if op.Kind == "link" && op.MTU == 1480 {
			tries++
			if tries < 4 {
				return errors.New("not now")
			}
		}
		return nil
	}
	r.show(r.net(1, "192.0.2.7"))
	r.run(20 * sec)
	if tries != 4 || !slices.Contains(r.hostText(), "link dev kedge0 mtu 1480 up") {
		t.Errorf("%d tries: %q", tries, r.hostText())
	}
	told := 0
	for _, e := range r.emits {
		if e.Name == "failed" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	if !r.ok() {
		t.Error("what failed kept the rest back")
	}
}

// TestForwardingFails: the data plane is told again.
func TestForwardingFails(t *testing.T) {
	r := newRig(t, nil)
	tries := 0
	r.data = func([]core.Op) error {
		if tries++; tries < 3 {
			return &core.OpError{Err: errors.New("no room")}
		}
		return nil
	}
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(5 * sec)
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
	last := r.ops[len(r.ops)-3:]
	if _, ok := last[0].(core.SetSession); !ok || len(last) != 3 {
		t.Errorf("told again: %+v", last)
	}
}

// TestLinkMTUChanges: a router advertises less; the tunnel follows without a Binding Update.
func TestLinkMTUChanges(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(sec)
	r.forget()
	n.care.MTU = 1400
	r.show(n)
	if !slices.Contains(r.hostText(), "link dev kedge0 mtu 1360 up") || r.m.session.chain.MTU != 0 {
		t.Errorf("%q, tunnel %+v", r.hostText(), r.m.session.chain)
	}
	if us, _ := r.updates(); len(us) != 0 {
		t.Error("a Binding Update was sent")
	}
	r.run(time.Second)
	r.wantState(active)
}
