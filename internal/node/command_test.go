package node

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"kedge/internal/core"
)

func TestBindingUpdateList(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ID = "n1@example.net" })
	if l := r.list(); len(l) != 0 {
		t.Errorf("before the first Binding Update: %+v", l)
	}
	n := r.net(1, "192.0.2.7")
	n.nat = 1
	r.show(n)
	if l := r.list(); len(l) != 1 || l[0].State != "registering" || l[0].CareOf != n.care.Addr {
		t.Errorf("while registering: %+v", l)
	}
	r.run(20 * ms)
	l := r.list()
	if len(l) != 2 {
		t.Fatalf("%+v", l)
	}
	for i, b := range l {
		if b.ID != "n1@example.net" || b.State != "active" || b.CareOf != n.care.Addr || b.Framing != "udp" || !b.NAT || b.Anchor != ha6 || b.Kind != "host" ||
			b.Interface != "if1" || b.Lifetime != 600*sec || !b.Expires.Equal(wall.Add(600*sec)) || b.Sequence != r.m.seq || b.Session != 1 {
			t.Errorf("entry %d: %+v", i, b)
		}
	}
	for filter, want := range map[string]int{"": 2, "n1@": 2, "10.20": 1, "2001:db8:2000": 1, "nobody": 0} {
		b, err := r.command(core.GetBindings{Filter: filter})
		if err != nil || len(b.([]core.Binding)) != want {
			t.Errorf("filter %q: %v, %v", filter, b, err)
		}
	}
}

func TestStatusAndExplain(t *testing.T) {
	r, n := v6rig(t, func(c *Config) { c.Anchor.Protection = "none" })
	r.links.dropped = map[string]uint64{"router-limit": 3, "rate-limit": 2}
	r.m.counts["rate-limit"]++
	s, err := r.command(core.GetStatus{})
	if err != nil {
		t.Fatal(err)
	}
	st := s.(core.Status)
	if st.Role != "node" || st.Sessions["active"] != 1 || len(st.Peers) != 1 || !st.Peers[0].Alive || st.Peers[0].Name != "ha1" || st.Peers[0].Sessions != 2 ||
		!strings.Contains(strings.Join(st.Notes, "\n"), "signalling with ha1 is not protected") {
		t.Errorf("status %+v", st)
	}
	if c := st.Counters; c["router-limit"] != 3 || c["rate-limit"] != 3 {
		t.Errorf("what came on links and what came from the home agent are counted %v", c)
	}
	for _, id := range []string{"", "2001:db8:2000::5", "10.20.0.5"} {
		x, err := r.command(core.Explain{ID: id})
		if err != nil || len(x.(core.Explanation).Bindings) != 2 || len(x.(core.Explanation).History) < 3 {
			t.Errorf("explain %q: %+v, %v", id, x, err)
		}
	}
	if _, err := r.command(core.Explain{ID: "10.20.0.6"}); err == nil {
		t.Error("explained somebody else")
	}
	if _, err := r.command(core.Attach{}); err == nil {
		t.Error("a node took a gateway's command")
	}
	n.down = true
	r.run(4 * sec)
	s, _ = r.command(core.GetStatus{})
	if s.(core.Status).Peers[0].Alive {
		t.Error("the home agent is said to be alive")
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(baseConfig(), iotest.ErrReader(errors.New("no randomness"))); err == nil {
		t.Error("without randomness")
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Anchor.V6 = ha4 }, "IPv6 address of the home agent"},
		{func(c *Config) { c.Anchor.V6 = netip.MustParseAddr("::ffff:1.2.3.4") }, "IPv6 address of the home agent"},
		{func(c *Config) { c.Anchor.V4 = ha6 }, "unicast IPv4"},
		{func(c *Config) { c.Anchor.Dialect = "x" }, "dialect"},
		{func(c *Config) { c.Home.V6 = netip.Prefix{} }, "home: v6"},
		{func(c *Config) { c.Home.V6 = netip.PrefixFrom(ha6, 64) }, "home: v6"},
		{func(c *Config) { c.Home.V4 = netip.Prefix{} }, "home: v4"},
		{func(c *Config) { c.Home.V4 = netip.PrefixFrom(ha4, 32) }, "home agent's"},
		{func(c *Config) { c.Home.IPv4 = IPv4Dynamic }, "not used"},
		{func(c *Config) { c.Links = nil }, "no link"},
		{func(c *Config) { c.Links[0].Match = "[" }, "pattern"},
		{func(c *Config) { c.Exclude = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "no prefix"},
		{func(c *Config) { c.DNS = "x" }, "dns"},
		{func(c *Config) { c.Unreachable = "x" }, "unreachable"},
		{func(c *Config) { c.ID = strings.Repeat("x", 255) }, "254"},
		{func(c *Config) { c.Device = "longer-than-it-may" }, "15 octets"},
		{func(c *Config) { c.Timers.Lifetime = 6 * sec }, "multiple"},
		{func(c *Config) { c.Timers.Lifetime = 100 * time.Hour }, "multiple"},
		{func(c *Config) { c.Timers.RefreshAt = 1 }, "refresh-at"},
		{func(c *Config) { c.Timers.DeadPath = ms }, "dead-path"},
		{func(c *Config) { c.Timers.RetransmitMax = ms }, "retransmit"},
		{func(c *Config) { c.Timers.NATRefresh = -1 }, "above zero"},
	} {
		cfg := baseConfig()
		c.change(&cfg)
		if _, err := New(cfg, rand.NewChaCha8([32]byte{})); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}

// TestStatusOfSilence: who waits for a first registration is told after a while what may be wrong.
func TestStatusOfSilence(t *testing.T) {
	r := newRig(t, nil)
	r.agent.down = true
	r.show(r.net(1, "2001:db8:1::7"))
	told := func() bool {
		st, err := r.command(core.GetStatus{})
		return err == nil && strings.Contains(strings.Join(st.(core.Status).Notes, "\n"), "no answer from ha1 for")
	}
	r.run(silentAfter - ms)
	if told() {
		t.Error("too soon")
	}
	r.run(2 * ms)
	if !told() {
		t.Error("not told")
	}
	r.agent.down = false
	r.run(60 * sec)
	if told() || !r.ok() {
		t.Errorf("told though it is bound; %s", r.story())
	}
}
