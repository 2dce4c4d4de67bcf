package gateway

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// rapidTB lets a bench run under rapid: what it does not have is never called.
type rapidTB struct {
	testing.TB
	r *rapid.T
}

func (t rapidTB) Helper()                   {}
func (t rapidTB) Errorf(f string, a ...any) { t.r.Errorf(f, a...) }
func (t rapidTB) Fatalf(f string, a ...any) { t.r.Fatalf(f, a...) }
func (t rapidTB) Fatal(a ...any)            { t.r.Fatal(a...) }

// Random events in random order. After each: the counts are right, forwarding has exactly the keys of bound sessions, no
// key belongs to two, timers lie ahead, nothing is pending without a timer. After everybody left: nothing is left behind.
func TestRandomEvents(t *testing.T) {
	macs := []core.MAC{macA, macB, {2, 0, 0, 0, 0, 0xc}}
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig()
		cfg.HeartbeatOff = rapid.Bool().Draw(r, "no heartbeats")
		cfg.Heartbeat = heartbeat.Config{Interval: 10 * sec, MaxMissing: 2}
		cfg.IPv4OnDHCP = rapid.Bool().Draw(r, "ipv4-on dhcp")
		cfg.Anchors[0].Dialect = rapid.SampledFrom([]Dialect{Auto, RFC5844, Draft02}).Draw(r, "dialect")
		cfg.SequenceOrdering = rapid.Bool().Draw(r, "sequence")
		cfg.Limits = Limits{HostsPerAccess: 2, Pending: 2}
		for i := range cfg.Access {
			cfg.Access[i].DetachOn = nil
			// Two of the MACs are interfaces of one host.
			cfg.Access[i].Identity.Table = map[core.MAC]string{macA: "alice", macB: "alice"}
		}
		seed := counting{n: rapid.Uint32().Draw(r, "seed")}
		b := newBenchRand(rapidTB{t, r}, cfg, &seed)
		var out []update
		for range rapid.IntRange(1, 80).Draw(r, "events") {
			mac := rapid.SampledFrom(macs).Draw(r, "mac")
			link := rapid.IntRange(3, 4).Draw(r, "link")
			name := []string{"acc0", "acc1"}[link-3]
			switch rapid.IntRange(0, 18).Draw(r, "what") {
			case 0:
				b.mld(link, mac)
			case 1:
				b.rs(link, mac)
			case 2:
				b.arp(link, mac, hoa.Addr())
			case 3:
				b.dhcp(link, mac, dhcpv4.MessageTypeDiscover)
			case 4:
				b.dhcp(link, mac, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
			case 5:
				b.dhcp(link, mac, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
			case 6:
				b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: link}, Up: rapid.Bool().Draw(r, "up")})
			case 7:
				b.do(core.Command{Body: core.Attach{If: name, MAC: mac, ID: rapid.SampledFrom([]string{"", "alice", "bob"}).Draw(r, "id")}})
			case 8:
				b.do(core.Command{Body: core.Detach{If: name, MAC: mac}})
			case 9:
				hb := heartbeat.New(heartbeat.Config{}, rapid.Uint32Range(1, 3).Draw(r, "restart"), zeros{}).Announcement()
				b.receive(lmaa, hb)
			case 10:
				b.failForward = nil
				if rapid.IntRange(0, 9).Draw(r, "fail") == 0 {
					b.failForward = net.ErrClosed
				}
			case 11, 12:
				b.until(b.now.Boot + time.Duration(rapid.IntRange(0, 30_000).Draw(r, "ms"))*ms)
			case 13, 14:
				x := bri{trigger: uint8(rapid.IntRange(1, 8).Draw(r, "trigger")), id: rapid.SampledFrom([]string{"alice", "bob"}).Draw(r, "of"),
					seq: uint16(rapid.IntRange(1, 3).Draw(r, "bri")), v: rapid.IntRange(0, 3).Draw(r, "v") == 0, hnp: []netip.Prefix{}}
				if out = append(out, b.pbus()...); len(out) > 0 && rapid.Bool().Draw(r, "stamped") {
					x.stamp = stampOf(rapid.SampledFrom(out).Draw(r, "stamp"))
				}
				if rapid.Bool().Draw(r, "ll") {
					x.ll = mac[:]
				}
				if x.v {
					x.more = []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: netip.AddrFrom4([4]byte{10, 20, 0, mac[5]})}}
				}
				b.receive(lmaa, x.message())
			case 15:
				had := b.m
				b.failForward = nil
				b = b.restart(cfg, &seed, b.stored(), time.Duration(rapid.IntRange(0, 30_000).Draw(r, "down ms"))*ms)
				out = nil
				b.sameSessions(r, had)
			default:
				out = append(out, b.pbus()...)
				if len(out) == 0 {
					continue
				}
				i := rapid.IntRange(max(0, len(out)-4), len(out)-1).Draw(r, "answer")
				rep := reply{hnp: nil, status: rapid.SampledFrom([]mobility.Status{0, 0, 0, 0, 0, 128, 129, 130, 135, 152, 155, 156, 157, 158, 170, 171, 172, 173}).Draw(r, "status"),
					v4status: rapid.SampledFrom([]mobility.AddressStatus{0, 0, 0, 0, 129, 132}).Draw(r, "v4"),
					no4:      rapid.IntRange(0, 5).Draw(r, "no4") == 0, no6: rapid.IntRange(0, 5).Draw(r, "no6") == 0,
					seq: rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(r, "seq")}
				ll, _ := out[i].Options.LinkLayerID()
				rep.v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 0, ll.ID[5]}), 16)
				if hs := out[i].hnps(); len(hs) > 0 && hs[0].Bits() == 0 && !rep.no6 {
					rep.hnp = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 0, ll.ID[5]}), 64)}
				}
				b.answer(out[i], rep)
			}
			b.check(r)
		}
		b.failForward = nil
		for _, mac := range macs {
			for _, name := range []string{"acc0", "acc1"} {
				b.do(core.Command{Body: core.Detach{If: name, MAC: mac}})
			}
		}
		b.until(b.now.Boot + 2*time.Minute)
		b.check(r)
		if len(b.m.owners) != 0 || len(b.m.hosts) != 0 || len(b.m.byID) != 0 || len(b.m.due) != 0 || b.m.pending != 0 || len(b.keys()) != 0 || b.m.anchors[0].sessions != 0 {
			r.Fatalf("left behind: hosts %d ids %d timers %d pending %d keys %v sessions %d", len(b.m.hosts), len(b.m.byID), len(b.m.due),
				b.m.pending, b.keys(), b.m.anchors[0].sessions)
		}
	})
}

// sameSessions holds that a restart brings all sessions back, with the forwarding of those that had not ended.
func (b *bench) sameSessions(r *rapid.T, had *Machine) {
	for mac, old := range had.hosts {
		e := b.m.hosts[mac]
		if !old.state.bound() || old.expires <= b.now.Boot {
			if e != nil && e.state.bound() {
				r.Fatalf("%v was %v until %v and is %v at %v", mac, old.state, old.expires, e.state, b.now.Boot)
			}
			continue
		}
		if e == nil || !e.state.bound() || e.id != old.id || !slices.Equal(e.forwarded, old.forwarded) || e.expires != old.expires || e.lost != old.lost {
			r.Fatalf("%v was %+v and is %+v", mac, old, e)
		}
	}
	if b.m.counts[string(wire.StoreFailed)] > 0 {
		r.Fatalf("records are refused: %+v", b.emitted("failed"))
	}
}

// check holds what must be true after every event.
func (b *bench) check(r *rapid.T) {
	m := b.m
	keys := b.keys()
	want, pending, bound := 0, 0, 0
	var perLink [2]int
	var states [gone]int
	for mac, e := range m.hosts {
		states[e.state]++
		perLink[e.link.Link.If-3]++
		if e.mac != mac || e.index < 0 && e.next != never || e.state == gone {
			r.Fatalf("entry %+v is inconsistent", e)
		}
		if e.req != nil {
			pending++
			if e.at[tSend] == never {
				r.Fatalf("%v: a request is out but no timer runs", e.state)
			}
		}
		if e.state == registering && e.req == nil && e.at[tRetry] == never && !e.link.down {
			r.Fatalf("%v waits for nothing: %v", mac, m.past_.of(e.mn))
		}
		if e.state.bound() {
			bound++
			if len(e.keys()) == 0 || e.at[tExpire] == never {
				r.Fatalf("bound without addresses or end: %+v", e)
			}
		}
		if (e.state == idle || e.state == refused || e.state == registering) && len(e.forwarded) > 0 && b.failForward == nil {
			r.Fatalf("%v is %v and forwards %v: %v", mac, e.state, e.forwarded, m.past_.of(e.mn))
		}
		for _, k := range e.forwarded {
			got, ok := keys[k]
			if b.failForward == nil && (!ok || got.ID != e.id || got.Match.MAC != e.mac || got.Match.If != e.link.Link.If) {
				r.Fatalf("key %v of %v: forwarding has %+v", k, mac, got)
			}
			want++
		}
	}
	if b.failForward == nil && len(keys) != want {
		r.Fatalf("forwarding has %v, want %d keys", keys, want)
	}
	if pending != m.pending || states != m.states || bound != m.anchors[0].sessions {
		r.Fatalf("pending %d counted %d, states %v counted %v, bound %d counted %d", pending, m.pending, states, m.states, bound, m.anchors[0].sessions)
	}
	for k, val := range b.stored() {
		if !strings.HasPrefix(k, sessionPrefix) {
			continue
		}
		bound--
		rec, err := decode([]byte(k), val)
		if err != nil {
			r.Fatalf("record %x: %v", val, err)
		}
		e := m.hosts[rec.mac]
		if e == nil || e.id != rec.id || !slices.Equal(e.prefixes, rec.prefixes) || e.ipv4 != rec.ipv4 || e.link.Link.Name != rec.link || e.mn != rec.mn {
			r.Fatalf("record %+v of entry %+v", rec, e)
		}
		if leaving := rec.flags&fLeaving != 0; leaving != (e.state == deregistering) || !leaving && !e.state.bound() {
			r.Fatalf("record %+v of a session that is %v", rec, e.state)
		} else if leaving {
			bound++
		}
	}
	if bound != 0 {
		r.Fatalf("%d bound sessions have no record", bound)
	}
	for i, n := range perLink {
		if n != m.links[i].hosts || n > m.cfg.Limits.HostsPerAccess {
			r.Fatalf("link %d has %d hosts, counted %d", i, n, m.links[i].hosts)
		}
	}
	if d, ok := m.Deadline(); ok && len(m.due) > 0 && m.due[0].next < b.now.Boot-time.Minute {
		r.Fatalf("a timer was left behind: %v at %v", d, b.now.Boot)
	}
}
