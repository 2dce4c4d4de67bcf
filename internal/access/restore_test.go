package access

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// A grant of an earlier run is in use at once and nothing is said of it before the next periodic advertisement; the host is
// asked under the link-local address that it had.
func TestRestore(t *testing.T) {
	now := core.Now{Boot: time.Minute, Wall: time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)}
	mac := core.MAC{2, 0, 0, 0, 0, 0x0a}
	ll, hnp := netip.MustParseAddr("fe80::a"), netip.MustParsePrefix("2001:db8:1000::/64")
	l := NewHomeLink(LinkConfig{If: 3, LinkLocal: netip.MustParseAddr("fe80::1"), MAC: core.MAC{2, 1, 1, 1, 1, 1}, RAInterval: 40 * time.Second}, zeroReader{})
	if l.LinkLocal(mac).IsValid() {
		t.Error("a stranger's link-local address is known")
	}
	g := Grant{Prefixes: []netip.Prefix{hnp}, IPv4: netip.MustParsePrefix("10.20.0.10/16"), Router4: netip.MustParseAddr("10.20.0.1"), Valid: 90 * time.Second}
	if out := l.Restore(now, mac, g, ll, nil); len(out) > 0 {
		t.Errorf("did %+v", out)
	}
	if granted, strangers := l.Hosts(); granted != 1 || strangers != 0 || l.LinkLocal(mac) != ll {
		t.Errorf("%d granted, %d strangers, link-local %v", granted, strangers, l.LinkLocal(mac))
	}
	if d, ok := l.Deadline(); !ok || d != now.Boot+20*time.Second { // half an interval: no random numbers here
		t.Errorf("next at %v %v", d, ok)
	}
	solicited := false
	for _, a := range l.Probe(now, mac, nil) {
		if ns, ok := a.(Transmit).Frame.(*Frame).Body.(*nd.NeighborSolicitation); ok {
			solicited = ns.Target == ll
		}
	}
	if !solicited {
		t.Error("not asked under its link-local address")
	}
	now.Boot += 90 * time.Second
	out := l.Tick(now, nil)
	if _, ok := l.hosts[mac].lease(now); ok || l.hosts[mac].has6() || len(out) == 0 {
		t.Errorf("after its end: %+v, did %+v", l.hosts[mac].grant, out)
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }
