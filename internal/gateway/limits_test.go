package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

func strangerMAC(i int) core.MAC {
	return core.MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

// A flood of invented hosts ends at the rate and at the number of a link; the hosts that have a session keep it.
func TestHostLimits(t *testing.T) {
	cfg := testConfig()
	cfg.Limits = Limits{HostsPerAccess: 50, NewHosts: 20, Pending: 30}
	b := newBench(t, cfg)
	b.bind(3, macA)
	for i := range 10_000 {
		b.do(core.Seen{If: 3, MAC: strangerMAC(i), By: "fdb"})
	}
	if n := len(b.m.hosts); n > 50 {
		t.Errorf("%d hosts at once", n)
	}
	for i := range 10_000 {
		b.clock(b.now.Boot + 10*ms)
		b.do(core.Seen{If: 3, MAC: strangerMAC(20_000 + i%500), By: "fdb"})
	}
	if n := b.m.links[0].hosts; n != 50 {
		t.Errorf("%d hosts, want the limit of 50", n)
	}
	b.until(b.now.Boot + sec)
	if b.m.pending > 30 {
		t.Errorf("%d requests pending", b.m.pending)
	}
	if b.m.counts[string(wire.HostLimit)] == 0 || b.m.counts[string(wire.RateLimit)] == 0 || b.m.counts[string(wire.PendingLimit)] == 0 {
		t.Errorf("counters %v", b.m.counts)
	}
	if b.m.hosts[macA] == nil {
		t.Error("a host with a session was driven out")
	}
	// The other link is not affected.
	b.pbus()
	b.do(core.Seen{If: 4, MAC: macB, By: "fdb"})
	if b.m.hosts[macB] == nil {
		t.Error("a host of another link was refused")
	}
}

// One stranger that talks a lot does not use up what its link allows.
func TestStrangerRate(t *testing.T) {
	cfg := testConfig()
	cfg.Access[0].Identity = Identity{TableOnly: true, Table: map[core.MAC]string{macA: "alice"}}
	cfg.Limits.NewHosts = 20
	b := newBench(t, cfg)
	for range 1000 {
		b.mld(3, macB)
		b.clock(b.now.Boot + ms)
	}
	if n := b.m.counts[string(wire.RateLimit)]; n < 500 {
		t.Errorf("rate limit hit %d times only", n)
	}
	b.mld(3, macA)
	b.pbu()
}

// A host that swings between links or families cannot make the gateway send more than the rate.
func TestUpdateRate(t *testing.T) {
	cfg := testConfig()
	b := newBench(t, cfg)
	e := b.bind(3, macA)
	var at []time.Duration
	for i := range 2400 {
		b.clock(b.now.Boot + 5*ms)
		if i < 2000 { // then the last one that was held back goes
			b.mld(3+i%2, macA)
		}
		b.do(core.Tick{})
		for _, u := range b.pbus() {
			at = append(at, b.now.Boot)
			b.answer(u, reply{})
		}
	}
	if n := len(at); n < 25 {
		t.Errorf("%d updates in 10 s: the test has nothing to hold back", n)
	}
	for i := MaxUpdateRate; i < len(at); i++ {
		if at[i]-at[i-MaxUpdateRate] < sec {
			t.Errorf("%d updates between %v and %v", MaxUpdateRate+1, at[i-MaxUpdateRate], at[i])
		}
	}
	b.state(macA, active)
	b.mld(7-e.link.Link.If, macA)
	b.pbu()
	b.state(macA, refreshing)
}

// Hosts without a session are forgotten after a while, those in refusal too, if they are silent.
func TestForgotten(t *testing.T) {
	cfg := testConfig()
	cfg.Access[0].DetachOn = []string{}
	b := newBench(t, cfg)
	b.mld(3, macA)
	b.answer(b.pbu(), reply{status: mobility.ProxyRegNotEnabled})
	b.until(5 * time.Minute)
	b.mld(3, macA)
	b.until(14 * time.Minute)
	b.state(macA, refused)
	b.until(15 * time.Minute)
	b.state(macA, gone)
}

func TestHistoryIsBounded(t *testing.T) {
	b := newBench(t, testConfig())
	for i := range historyIDs + 100 {
		for j := range historyDepth + 10 {
			b.m.past(fmt.Sprint(i), fmt.Sprint(j), "", "")
		}
	}
	if len(b.m.past_.byID) != historyIDs || len(b.m.past_.order) != historyIDs {
		t.Errorf("%d identifiers", len(b.m.past_.byID))
	}
	h := b.m.past_.of(fmt.Sprint(historyIDs + 99))
	if len(h) != historyDepth || h[len(h)-1].What != fmt.Sprint(historyDepth+9) || h[0].What != "10" {
		t.Errorf("history %v", h)
	}
	k := newMemory(10, func(string) {})
	for i := range 100 {
		k.set(fmt.Sprint(i), hoa)
	}
	if len(k.hosts) != 10 || len(k.order) != 10 || !k.ipv4("99").IsValid() || k.ipv4("89").IsValid() {
		t.Errorf("memory %v", k.order)
	}
}

func TestCommands(t *testing.T) {
	b := newBench(t, testConfig())
	ask := func(c any) core.Reply {
		t.Helper()
		n := len(b.replies)
		b.do(core.Command{Ref: 7, Body: c})
		if len(b.replies) != n+1 || b.replies[n].Ref != 7 {
			t.Fatalf("%T: replies %+v", c, b.replies[n:])
		}
		return b.replies[n]
	}
	for _, tc := range []struct {
		c    any
		want error
	}{
		{core.Attach{If: "acc9", MAC: macA}, wire.InterfaceUnsupported},
		{core.Attach{If: "acc0", MAC: macA, ID: strings.Repeat("x", 255)}, wire.TooLong},
		{core.Detach{If: "acc9", MAC: macA}, wire.InterfaceUnsupported},
		{core.Detach{If: "acc0", MAC: macA}, wire.UnknownHost},
		{core.Explain{ID: "nobody"}, wire.UnknownHost},
	} {
		if r := ask(tc.c); !errors.Is(r.Err, tc.want) {
			t.Errorf("%+v: %v, want %v", tc.c, r.Err, tc.want)
		}
	}
	if r := ask(core.Attach{If: "acc0", MAC: macA, Previous: "nonsense"}); r.Err == nil {
		t.Error("a previous gateway that is no address was accepted")
	}
	if r := ask(struct{}{}); r.Err == nil {
		t.Error("an unknown command was accepted")
	}
	if r := ask(core.Attach{If: "acc0", MAC: macA}); r.Err != nil {
		t.Error(r.Err)
	}
	b.answer(b.pbu(), reply{})
	s := ask(core.GetStatus{}).Body.(core.Status)
	if s.Role != "gateway" || s.Sessions["active"] != 1 || s.Peers[0].Sessions != 1 || s.Peers[0].Protection != "none" || len(s.Notes) != 1 {
		t.Errorf("status %+v", s)
	}
	for filter, want := range map[string]int{"": 1, "00-0a": 1, "10.20": 1, "2001:db8:1000": 1, "zzz": 0} {
		if got := ask(core.GetBindings{Filter: filter}).Body.([]core.Binding); len(got) != want {
			t.Errorf("filter %q: %d bindings, want %d", filter, len(got), want)
		}
	}
	x := ask(core.Explain{ID: idA}).Body.(core.Explanation)
	if len(x.Bindings) != 1 || len(x.History) == 0 || x.Profile != "access link" {
		t.Errorf("explanation %+v", x)
	}
	for _, v := range []any{s, x} {
		if _, err := json.Marshal(v); err != nil {
			t.Error(err)
		}
	}
	// Another identity at the same interface is another subscriber.
	if r := ask(core.Attach{If: "acc0", MAC: macA, ID: "bob@example.org"}); r.Err != nil {
		t.Error(r.Err)
	}
	us := b.pbus()
	id0, _ := us[0].Options.MobileNodeID()
	id1, _ := us[len(us)-1].Options.MobileNodeID()
	if len(us) != 2 || us[0].Lifetime != 0 || id0.ID != idA || id1.ID != "bob@example.org" || us[1].v4() != anyIPv4 {
		t.Errorf("updates %v of %q and %q", us, id0.ID, id1.ID)
	}
	if len(b.keys()) != 0 {
		t.Errorf("the new subscriber has the old one's addresses: %v", b.keys())
	}
	if r := ask(core.Detach{If: "acc1", MAC: macA}); !errors.Is(r.Err, wire.UnknownHost) {
		t.Errorf("detached from a link where it is not: %v", r.Err)
	}

	cfg := testConfig()
	cfg.Access[0].AttachOn, cfg.Access[0].DetachOn = []string{"mld"}, []string{"nud"}
	b = newBench(t, cfg)
	b.bind(3, macA)
	for _, c := range []any{core.Attach{If: "acc0", MAC: macB}, core.Detach{If: "acc0", MAC: macA}} {
		if r := ask(c); !errors.Is(r.Err, wire.NotAuthorized) {
			t.Errorf("%+v: %v", c, r.Err)
		}
	}
}

// The phases of a handover, each with its time.
func TestHandoverPhases(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	u := b.pbu()
	b.clock(30 * ms)
	b.answer(u, reply{})
	got := map[string]float64{}
	for _, e := range b.emitted("handover") {
		f := e.Fields.(map[string]any)
		got[f["phase"].(string)] = f["took_ms"].(float64)
	}
	want := map[string]float64{"trigger": 0, "pba": 30, "forwarding": 0, "total": 30}
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Errorf("phase %s took %v ms, want %v", k, g, v)
		}
	}
	b.until(18 * sec)
	b.answer(b.pbu(), reply{})
	if n := len(b.emitted("handover")); n != 4 {
		t.Errorf("a refresh was told as a handover: %d events", n)
	}
}

func TestConfigErrors(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-36")
	for name, change := range map[string]func(*Config){
		"no address":     func(c *Config) { c.Address = netip.Addr{} },
		"IPv4 address":   func(c *Config) { c.Address = netip.MustParseAddr("192.0.2.1") },
		"link-local":     func(c *Config) { c.Address = netip.MustParseAddr("fe80::1") },
		"no anchor":      func(c *Config) { c.Anchors = nil },
		"anchor IPv4":    func(c *Config) { c.Anchors[0].Address = netip.MustParseAddr("192.0.2.1") },
		"dialect":        func(c *Config) { c.Anchors[0].Dialect = "latin" },
		"two equal":      func(c *Config) { c.Anchors = append(c.Anchors, c.Anchors[0]) },
		"unnamed link":   func(c *Config) { c.Access[0].Link.Name = "" },
		"equal links":    func(c *Config) { c.Access[1].Link.If = 3 },
		"attach word":    func(c *Config) { c.Access[0].AttachOn = []string{"telepathy"} },
		"detach word":    func(c *Config) { c.Access[0].DetachOn = []string{"rs"} },
		"no realm":       func(c *Config) { c.Access[0].Identity = Identity{} },
		"long realm":     func(c *Config) { c.Access[0].Identity.Realm = strings.Repeat("x", 250) },
		"empty identity": func(c *Config) { c.Access[0].Identity.Table = map[core.MAC]string{macA: ""} },
		"router address": func(c *Config) { c.Access[0].Link.LinkLocal = netip.MustParseAddr("2001:db8::1") },
		"handoff":        func(c *Config) { c.FirstHandoff = 3 },
		"lifetime":       func(c *Config) { c.Timers.Lifetime = 5 * sec },
		"long lifetime":  func(c *Config) { c.Timers.Lifetime = 100 * time.Hour },
		"refresh":        func(c *Config) { c.Timers.RefreshAt = 1 },
		"retransmit":     func(c *Config) { c.Timers.RetransmitFirst, c.Timers.RetransmitMax = 2*sec, sec },
		"negative":       func(c *Config) { c.Timers.LinkGrace = -1 },
		"profile anchor": func(c *Config) { c.Profiles = []Profile{{ID: idA, Anchor: "nobody"}} },
		"profile id":     func(c *Config) { c.Profiles = []Profile{{}} },
		"profile IPv4":   func(c *Config) { c.Profiles = []Profile{{ID: idA, IPv4: hnp}} },
		"profile prefix": func(c *Config) { c.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{hoa}}} },
		"negative nud":   func(c *Config) { c.Timers.NUDProbes = -1 },
		"unmasked prefix": func(c *Config) {
			c.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}}
		},
		"long prefix": func(c *Config) {
			c.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/96")}}}
		},
		"link-local HNP": func(c *Config) {
			c.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{netip.MustParsePrefix("fe80::/64")}}}
		},
		"identity too big": func(c *Config) { c.Access[0].Identity.Table = map[core.MAC]string{macA: strings.Repeat("x", 255)} },
	} {
		cfg := testConfig()
		change(&cfg)
		if _, err := New(cfg, zeros{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A config is not changed by filling in its defaults.
	cfg := testConfig()
	newBench(t, cfg)
	if cfg.Access[0].AttachOn != nil || cfg.Access[0].Families != 0 {
		t.Error("the caller's config was changed")
	}
	m, err := New(cfg, zeros{})
	if err != nil || m.cfg.Access[0].Families != access.V4|access.V6 || m.cfg.Timers.RetransmitMax != 32*sec || m.cfg.Access[0].Link.MAC != FixedMAC {
		t.Errorf("defaults %+v %v", m.cfg, err)
	}
}
