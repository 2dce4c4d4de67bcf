package gateway

import (
	"encoding/binary"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// stored is what the store has after all writes.
func (b *bench) stored() map[string][]byte {
	recs := map[string][]byte{}
	for _, p := range b.persisted {
		if recs[string(p.Key)] = p.Val; p.Val == nil {
			delete(recs, string(p.Key))
		}
	}
	return recs
}

func (b *bench) storedSessions() (n int) {
	for k := range b.stored() {
		if strings.HasPrefix(k, sessionPrefix) {
			n++
		}
	}
	return n
}

// restart starts a gateway on the records of another one, down for some time; boot time goes on, also when the clock is set back.
func (b *bench) restart(cfg Config, r io.Reader, recs map[string][]byte, down time.Duration) *bench {
	b.t.Helper()
	m, err := New(cfg, r)
	if err != nil {
		b.t.Fatal(err)
	}
	m.strict = true
	n := &bench{t: b.t, m: m, now: core.Now{Boot: b.now.Boot + max(down, 0), Wall: b.now.Wall.Add(down)}}
	for k, v := range recs {
		n.persisted = append(n.persisted, core.Persist{Key: []byte(k), Val: v})
	}
	for _, k := range slices.Sorted(maps.Keys(recs)) {
		n.do(core.Restored{Key: []byte(k), Val: recs[k]})
	}
	n.do(core.Restored{Last: true})
	return n
}

// A gateway that comes back forwards what it forwarded, by equal operations and before anything is sent; nothing is told to
// hosts, which have it all. A refresh (handoff indicator 5) follows with what is registered, and then everything runs as
// if there had been no restart.
func TestRestart(t *testing.T) {
	b := newBench(t, testConfig())
	e := b.bind(3, macA)
	before := b.ops
	b.until(3 * sec)
	n := b.restart(testConfig(), zeros{}, b.stored(), 2*sec)
	if len(before) != 3 || !slices.Equal(n.ops, before) {
		t.Errorf("forwarding has %+v, want %+v", n.ops, before)
	}
	if len(n.frames) > 0 || len(n.out) > 0 {
		t.Errorf("sent %v %v", n.frames, n.out)
	}
	x := n.m.hosts[macA]
	n.state(macA, active)
	if x.id != e.id || x.mn != idA || x.anchor.Name != "lma1" || x.dialect != RFC5844 || x.lifetime != 40*sec || x.expires != 40*sec || x.wants != e.wants {
		t.Errorf("restored %+v", x)
	}
	if d, ok := n.m.Deadline(); !ok || d != 5*sec {
		t.Errorf("next at %v, want the refresh at once: no random numbers here", d)
	}
	n.until(5 * sec)
	u := n.pbu()
	if u.handoff() != mobility.HandoffReRegistration || u.Lifetime != 10 || len(u.hnps()) != 1 || u.hnps()[0] != e.prefixes[0] || u.v4().Addr() != e.ipv4.Addr() {
		t.Errorf("refresh %v", u)
	}
	if s, _ := u.Options.Timestamp(); s.Value <= e.stamp {
		t.Errorf("Timestamp %x, the last run had %x", s.Value, e.stamp)
	}
	n.answer(u, reply{})
	n.until(5*sec + 17*sec)
	n.none()
	n.until(5*sec + 18*sec) // 0.9 * 0.5 * 40 s
	n.answer(n.pbu(), reply{})
	if !slices.Equal(n.ops, before) {
		t.Errorf("later forwarding changes by %+v", n.ops[len(before):])
	}
}

// A refresh that gets no answer changes nothing before the end that the binding always had.
func TestRestartWithoutAnchor(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	n := b.restart(testConfig(), zeros{}, b.stored(), 30*sec)
	n.until(40*sec - ms)
	n.state(macA, refreshing)
	n.until(40 * sec)
	n.state(macA, registering)
	if len(n.keys()) > 0 || n.storedSessions() != 0 {
		t.Errorf("after the end: keys %v, %d records", n.keys(), n.storedSessions())
	}
}

// What becomes of a session at a restart: gone says why it is dropped, leaves why it is deregistered.
func TestRestartTable(t *testing.T) {
	other := netip.MustParseAddr("2001:db8:a::2")
	damage := func(f func(v []byte) []byte) func(map[string][]byte) {
		return func(recs map[string][]byte) {
			for k, v := range recs {
				if strings.HasPrefix(k, sessionPrefix) {
					recs[k] = f(slices.Clone(v))
				}
			}
		}
	}
	for _, tc := range []struct {
		name    string
		down    time.Duration
		cfg     func(*Config)
		recs    func(map[string][]byte)
		gone    string
		leaves  string
		bad     uint64
		handoff uint8 // of the refresh, 0 = 5
	}{
		{name: "just before its end", down: 40*sec - 1},
		{name: "at its end", down: 40 * sec, gone: "binding expired while the gateway was down"},
		{name: "the clock was set back", down: -time.Hour},
		{name: "its anchor is gone", cfg: func(c *Config) { c.Anchors[0].Address = other }, gone: "its anchor 2001:db8:a::1 is not in the config any more"},
		{name: "its link is gone", cfg: func(c *Config) { c.Access = c.Access[1:] }, leaves: "its access link is not in the config any more"},
		{name: "its link has another index", cfg: func(c *Config) { c.Access[0].Link.If = 9 }},
		{name: "its host has another anchor", cfg: func(c *Config) {
			c.Anchors = append(c.Anchors, Anchor{Name: "lma2", Address: other})
			c.Profiles = []Profile{{ID: idA, Anchor: "lma2"}}
		}, leaves: "the config gives the host to another anchor"},
		{name: "its host has another name", cfg: func(c *Config) { c.Access[0].Identity.Table = map[core.MAC]string{macA: "alice"} },
			leaves: "the config names the host differently"},
		{name: "its host is unknown", cfg: func(c *Config) { c.Access[0].Identity.TableOnly = true }, leaves: "the config names the host differently"},
		{name: "a family is not allowed", cfg: func(c *Config) { c.Access[0].Families = access.V6 },
			leaves: "the config does not allow one of its address families any more"},
		{name: "another static address", cfg: func(c *Config) {
			c.Profiles = []Profile{{ID: idA, IPv4: netip.MustParsePrefix("10.20.9.9/16")}}
		}, leaves: "the config gives the host other addresses"},
		{name: "other static prefixes", cfg: func(c *Config) {
			c.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:77::/64")}}}
		}, leaves: "the config gives the host other addresses"},
		{name: "another care-of address", cfg: func(c *Config) { c.Address = netip.MustParseAddr("2001:db8:a::77") }, handoff: mobility.HandoffGateways},
		{name: "another technology", cfg: func(c *Config) { c.Access[0].Technology = mobility.AccessWLAN }, handoff: mobility.HandoffInterfaces},
		{name: "another version", recs: damage(func(v []byte) []byte { v[0]++; return v }), bad: 1},
		{name: "cut off", recs: damage(func(v []byte) []byte { return v[:len(v)-1] }), bad: 1},
		{name: "empty", recs: damage(func(v []byte) []byte { return nil }), bad: 1},
		{name: "too long", recs: damage(func(v []byte) []byte { return append(v, 0) }), bad: 1},
		{name: "no MAC address", recs: damage(func(v []byte) []byte { v[softEnd+4] |= 1; return v }), bad: 1},
		{name: "no dialect", recs: damage(func(v []byte) []byte { v[softEnd+2] = 7; return v }), bad: 1},
		{name: "no lifetime", recs: damage(func(v []byte) []byte { clear(v[softEnd-18 : softEnd-16]); return v }), bad: 1},
		{name: "no key", recs: func(recs map[string][]byte) { recs[sessionPrefix+"x"] = []byte{1} }, bad: 1},
		{name: "the same host twice", recs: func(recs map[string][]byte) {
			for k, v := range maps.Clone(recs) {
				if id := binary.BigEndian.Uint64([]byte(k[len(k)-8:])); strings.HasPrefix(k, sessionPrefix) {
					recs[string(sessionKey(core.ID(id+1)))] = v
				}
			}
		}, bad: 1},
		{name: "the store is lost", recs: func(recs map[string][]byte) { clear(recs) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := testConfig()
			b := newBench(t, cfg)
			e := b.bind(3, macA)
			recs := b.stored()
			if tc.recs != nil {
				tc.recs(recs)
			}
			if tc.cfg != nil {
				tc.cfg(&cfg)
			}
			records := len(recs)
			n := b.restart(cfg, zeros{}, recs, tc.down)
			bare := strings.HasPrefix(tc.name, "the store") || tc.bad > 0 && !strings.HasPrefix(tc.name, "the same") && tc.name != "no key"
			n.counted(wire.StoreFailed, tc.bad)
			if got := n.emitted("failed"); uint64(len(got)) != tc.bad {
				t.Errorf("told of %v", got)
			}
			n.until(n.now.Boot)
			us := n.pbus()
			told := n.emitted("session")
			switch {
			case bare || tc.gone != "":
				if len(n.ops) > 0 || len(us) > 0 || n.m.hosts[macA] != nil {
					t.Fatalf("forwarding %+v, updates %v", n.ops, us)
				}
				if tc.gone != "" && (len(told) != 1 || told[0].Why != tc.gone || told[0].To != "gone" || told[0].ID != e.id) {
					t.Errorf("told %+v", told)
				}
			case tc.leaves != "":
				if len(us) != 1 || us[0].Lifetime != 0 || us[0].to != lmaa || us[0].handoff() != mobility.HandoffUnknown || len(us[0].hnps()) != 1 || len(n.ops) > 0 {
					t.Fatalf("forwarding %+v, updates %v", n.ops, us)
				}
				if len(told) != 1 || told[0].Why != tc.leaves || told[0].To != "deregistering" {
					t.Errorf("told %+v", told)
				}
				n.answer(us[0], reply{})
				n.state(macA, gone)
			default:
				if len(n.ops) != 3 || len(us) != 1 || us[0].Lifetime == 0 || us[0].from != cfg.Address {
					t.Fatalf("forwarding %+v, updates %v", n.ops, us)
				}
				want := tc.handoff
				if want == 0 {
					want = mobility.HandoffReRegistration
				}
				if us[0].handoff() != want {
					t.Errorf("handoff indicator %d, want %d", us[0].handoff(), want)
				}
				n.state(macA, refreshing)
				if x := n.m.hosts[macA]; x.expires > n.now.Boot+40*sec {
					t.Errorf("ends at %v, now is %v", x.expires, n.now.Boot)
				}
			}
			if left := n.storedSessions(); bare || tc.gone != "" || tc.leaves != "" {
				if left != 0 {
					t.Errorf("%d records are left", left)
				}
			} else if left != 1 {
				t.Errorf("%d records, of %d in all, want the session's", left, records)
			}
			if e := n.m.hosts[macA]; e == nil { // the host shows itself, and is served as any other
				if l := cfg.Access[0].Link; l.Name == "acc0" {
					n.mld(l.If, macA)
					if got := n.m.hosts[macA]; got == nil && !cfg.Access[0].Identity.TableOnly || got != nil && got.state != registering {
						t.Errorf("after a sign of life: %+v", got)
					}
				}
			}
		})
	}
}

// RFC 5847 3.2: the counter is kept over restarts, grows when sessions were lost and stays when they were not. Losses are
// announced, after the counter is durable. Session ids are never used again.
func TestOwnRestart(t *testing.T) {
	spec.Covers(t, "RFC5847-3.2")
	first := newBench(t, heartbeatConfig())
	if len(first.heartbeats(0)) != 0 {
		t.Error("a first start is no restart")
	}
	first.bind(3, macA)
	for _, tc := range []struct {
		name    string
		recs    func(map[string][]byte)
		counter uint32
		tells   bool
		run     core.ID
	}{
		{"nothing is lost", func(map[string][]byte) {}, 1, false, 2},
		{"a session is lost", func(r map[string][]byte) { r[sessionPrefix+"12345678"] = []byte("nonsense") }, 2, true, 2},
		{"written by a version that kept no sessions", func(r map[string][]byte) {
			clear(r)
			r[restartKey] = []byte{1, 0, 0, 0, 7}
		}, 8, true, 8},
		{"the record is damaged", func(r map[string][]byte) { r[restartKey] = []byte("nonsense") }, 1, false, 2},
		{"the store is lost", func(r map[string][]byte) { clear(r) }, 1, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			recs := first.stored()
			tc.recs(recs)
			b := first.restart(heartbeatConfig(), zeros{}, recs, sec)
			hbs := b.heartbeats(0)
			if tc.tells != (len(hbs) == 1) || tc.tells && (!hbs[0].Unsolicited || !hbs[0].Response) {
				t.Fatalf("announcements %+v", hbs)
			}
			if tc.tells {
				if c, _ := hbs[0].Options.RestartCounter(); c.Value != tc.counter {
					t.Errorf("counter %d, want %d", c.Value, tc.counter)
				}
				i := slices.IndexFunc(b.persisted[len(recs):], func(p core.Persist) bool { return string(p.Key) == restartKey })
				if i < 0 || b.persisted[len(recs)+i].Lazy {
					t.Error("the counter is told before it is durable")
				}
			}
			n := len(b.out)
			b.receive(lmaa2, &mobility.Heartbeat{Sequence: 9})
			if hbs = b.heartbeats(n); len(hbs) != 1 || hbs[0].Sequence != 9 || !hbs[0].Response {
				t.Fatalf("reply %+v", hbs)
			}
			if c, _ := hbs[0].Options.RestartCounter(); c.Value != tc.counter {
				t.Errorf("counter %d in the reply, want %d", c.Value, tc.counter)
			}
			b.mld(3, macB)
			if e := b.m.hosts[macB]; e.id>>32 != tc.run {
				t.Errorf("session id %x could be one of the last run, want %d", e.id, tc.run)
			}
			again := b.restart(heartbeatConfig(), zeros{}, b.stored(), sec)
			if len(again.heartbeats(0)) > 0 || again.m.restart != tc.counter {
				t.Errorf("the loss is told twice: counter %d", again.m.restart)
			}
		})
	}
}

// The refreshes of many sessions are spread over a second, or a millisecond each if that is more.
func TestRestartSpreads(t *testing.T) {
	b := newBench(t, testConfig())
	for i := range 20 {
		b.mld(3, strangerMAC(i))
		b.answer(b.pbu(), reply{hnp: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 0, byte(i)}), 64)},
			v4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 1, byte(i + 1)}), 16)})
	}
	n := b.restart(testConfig(), &counting{}, b.stored(), 0)
	if len(n.keys()) != 40 {
		t.Errorf("%d keys at once, want 40", len(n.keys()))
	}
	n.until(sec)
	times := map[time.Duration]bool{}
	for _, u := range n.pbus() {
		times[u.at] = true
	}
	if len(times) < 15 {
		t.Errorf("refreshes at %d different times", len(times))
	}
	if got := n.emitted("store"); len(got) != 1 || got[0].From != "restored" {
		t.Errorf("told %+v", got)
	}
}

// Whether a host is still there is asked before its session is refreshed: under the link-local address that it had, without
// which only a query would be left. One that left is deregistered; one that answers is refreshed.
func TestRestartProbes(t *testing.T) {
	for _, there := range []bool{true, false} {
		cfg := nudConfig()
		b := newBench(t, cfg)
		b.rs(3, macA)
		b.answer(b.pbu(), reply{})
		n := b.restart(cfg, zeros{}, b.stored(), sec)
		n.until(n.now.Boot)
		n.none()
		if asked := n.probes(0); asked != 2 {
			t.Fatalf("%d probes, want a solicitation and an ARP Request", asked)
		}
		ns := 0
		for _, f := range n.frames {
			if s, ok := f.Body.(*nd.NeighborSolicitation); ok && s.Target == linkLocalOf(macA) {
				ns++
			}
		}
		if ns != 1 {
			t.Error("not asked under its link-local address")
		}
		if there {
			n.answers(macA)
			if u := n.pbu(); u.Lifetime == 0 || u.handoff() != mobility.HandoffReRegistration {
				t.Errorf("update %v", u)
			}
			continue
		}
		n.until(n.now.Boot + time.Duration(n.m.cfg.Timers.NUDProbes)*n.m.cfg.Timers.NUDRetransmit - ms)
		n.none()
		if len(n.keys()) == 0 {
			t.Error("forwarding ended before the host was known to have left")
		}
		n.until(n.now.Boot + ms)
		if u := n.pbu(); u.Lifetime != 0 {
			t.Errorf("update %v", u)
		}
	}
}

// A DHCP renewal is answered from what was restored.
func TestRestartRenewal(t *testing.T) {
	b := newBench(t, testConfig())
	e := b.bind(3, macA)
	n := b.restart(testConfig(), zeros{}, b.stored(), sec)
	n.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(e.ipv4.Addr().AsSlice()))
	acks := n.dhcps(0)
	if len(acks) != 1 || acks[0].MessageType() != dhcpv4.MessageTypeAck || acks[0].YourIPAddr.String() != e.ipv4.Addr().String() {
		t.Fatalf("answers %v", acks)
	}
}

// An address that was given back is not asked for after a restart; a host that left is deregistered once more.
func TestRestartLeft(t *testing.T) {
	b := newBench(t, testConfig())
	e := b.bind(3, macA)
	b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(e.ipv4.Addr().AsSlice()))
	b.pbus()
	n := b.restart(testConfig(), zeros{}, b.stored(), sec)
	if len(n.keys()) != 1 {
		t.Errorf("keys %v, want the prefix", n.keys())
	}
	n.until(n.now.Boot)
	if u := n.pbu(); u.v4().IsValid() || len(u.hnps()) != 1 {
		t.Errorf("refresh %v", u)
	}

	b = newBench(t, testConfig())
	b.bind(3, macA)
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	n = b.restart(testConfig(), zeros{}, b.stored(), sec)
	if u := n.pbu(); u.Lifetime != 0 || len(n.ops) > 0 {
		t.Errorf("update %v, forwarding %v", u, n.ops)
	}
	n.until(n.now.Boot + 2*sec)
	n.state(macA, gone)
	if n.storedSessions() != 0 {
		t.Error("the record stays")
	}
}

// A session in the old dialect stays in it, and what the anchor was found to speak is known.
func TestRestartDialect(t *testing.T) {
	cfg := autoConfig(access.V4 | access.V6)
	b := newBench(t, cfg)
	b.m.anchors[0].dialect = Draft02
	b.bind(3, macA)
	n := b.restart(cfg, zeros{}, b.stored(), sec)
	n.until(n.now.Boot)
	if u := n.pbu(); !draft(u) {
		t.Errorf("refresh %v", u)
	}
	if a := n.m.anchors[0]; !a.proven || a.dialect != Draft02 {
		t.Errorf("anchor %+v", a)
	}
}

// Sequence numbers go on beyond what refreshes that were not written yet can have used.
func TestRestartSequence(t *testing.T) {
	cfg := testConfig()
	cfg.SequenceOrdering = true
	b := newBench(t, cfg)
	b.bind(3, macA)
	recs := b.stored()
	last := b.m.hosts[macA].seq
	b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(b.m.hosts[macA].ipv4.Addr().AsSlice()))
	b.answer(b.pbu(), reply{}) // behind the records
	n := b.restart(cfg, zeros{}, recs, sec)
	n.until(n.now.Boot)
	if u := n.pbu(); u.Sequence != last+seqMargin+1 {
		t.Errorf("sequence number %d, was %d", u.Sequence, last)
	}
}

// What changes a session is written at once, a refresh behind; what changes nothing is not written.
func TestWhatIsWritten(t *testing.T) {
	b := newBench(t, testConfig())
	written := func(what string, n int, prompt bool) {
		t.Helper()
		var ps []core.Persist
		for _, p := range b.persisted {
			if strings.HasPrefix(string(p.Key), sessionPrefix) {
				ps = append(ps, p)
			}
		}
		if b.persisted = nil; len(ps) != n || n > 0 && (!ps[n-1].Lazy || ps[n-1].Prompt != prompt) {
			t.Errorf("%s: wrote %+v, want %d, at once: %v", what, ps, n, prompt)
		}
	}
	b.mld(3, macA)
	written("asked for", 0, false)
	b.answer(b.pbu(), reply{})
	written("accepted", 1, true)
	b.mld(3, macA)
	b.data(3, macA, hoa.Addr())
	written("signs of life", 0, false)
	b.until(18 * sec)
	u := b.pbu()
	b.persisted = nil
	b.answer(u, reply{})
	written("refreshed", 1, false)
	b.mld(4, macA)
	written("moved to another link", 1, true)
	b.pbus()
	b.do(core.Command{Body: core.Detach{If: "acc1", MAC: macA}})
	written("leaves", 1, true)
	b.answer(b.pbu(), reply{})
	written("left", 1, true)
	if b.m.hosts[macA] != nil {
		t.Error("still there")
	}
}

// The anchor that a restarted gateway hears of for the first time says nothing of a restart of its own; one that did
// restart finds the sessions registered anew.
func TestRestartOfBoth(t *testing.T) {
	b := newBench(t, heartbeatConfig())
	b.bind(3, macA)
	n := b.restart(heartbeatConfig(), zeros{}, b.stored(), sec)
	n.until(n.now.Boot)
	n.answer(n.pbu(), reply{})
	n.receive(lmaa, response(n.heartbeats(0)[0].Sequence, 5))
	n.until(n.now.Boot + 2*sec)
	n.none()
	n.receive(lmaa, heartbeat.New(heartbeat.Config{}, 6, zeros{}).Announcement())
	// Killed before it could register again: the next run does it, as with an anchor that begins anew.
	last := n.restart(heartbeatConfig(), zeros{}, n.stored(), sec)
	last.until(last.now.Boot)
	if u := last.pbu(); u.handoff() != mobility.HandoffUnknown {
		t.Errorf("update %v", u)
	}
}

// FuzzRecord: no record makes the gateway panic, and what is accepted is written as it was read.
func FuzzRecord(f *testing.F) {
	for _, v6 := range []bool{true, false} {
		cfg := testConfig()
		if !v6 {
			cfg.Access[0].Families = access.V4
		}
		b := newBench(f, cfg)
		b.mld(3, macA)
		b.answer(b.pbu(), reply{})
		for k, v := range b.stored() {
			f.Add([]byte(k), v)
		}
	}
	f.Fuzz(func(t *testing.T, key, val []byte) {
		b := newBench(t, testConfig())
		n := b.restart(testConfig(), zeros{}, map[string][]byte{string(key): val}, 0)
		n.until(n.now.Boot + time.Minute)
		if r, err := decode(key, val); err == nil && !slices.Equal(r.encode(), val) {
			t.Error("two encodings of one content")
		}
	})
}
