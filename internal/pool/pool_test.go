package pool

import (
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func at(d time.Duration) core.Now { return core.Now{Boot: d} }

func must(t testing.TB, c Config) *Pool {
	t.Helper()
	if c.Name == "" {
		c.Name = "p"
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFirstAddresses says which units exist: network, broadcast, router and reserve are never handed out.
func TestFirstAddresses(t *testing.T) {
	for _, row := range []struct {
		cfg  Config
		want string // all that Allocate gives
	}{
		{Config{Prefix: pfx("10.0.0.0/29")}, "10.0.0.2/32 10.0.0.3/32 10.0.0.4/32 10.0.0.5/32 10.0.0.6/32"},
		{Config{Prefix: pfx("10.0.0.0/29"), Router: netip.MustParseAddr("10.0.0.6"), Reserve: []netip.Prefix{pfx("10.0.0.2/31")}}, "10.0.0.1/32 10.0.0.4/32 10.0.0.5/32"},
		{Config{Prefix: pfx("10.0.0.0/30")}, "10.0.0.2/32"},
		{Config{Prefix: pfx("10.0.0.0/31")}, "10.0.0.1/32"},
		{Config{Prefix: pfx("10.0.0.0/32")}, ""},
		{Config{Prefix: pfx("2001:db8::/62")}, "2001:db8::/64 2001:db8:0:1::/64 2001:db8:0:2::/64 2001:db8:0:3::/64"},
		{Config{Prefix: pfx("2001:db8::/64")}, "2001:db8::/64"},
		{Config{Prefix: pfx("2001:db8::/126"), Delegate: 128, Reserve: []netip.Prefix{pfx("2001:db8::1/128")}}, "2001:db8::/128 2001:db8::2/128 2001:db8::3/128"},
		{Config{Prefix: pfx("2001:db8:0:fff0::/60"), Delegate: 62}, "2001:db8:0:fff0::/62 2001:db8:0:fff4::/62 2001:db8:0:fff8::/62 2001:db8:0:fffc::/62"},
	} {
		p := must(t, row.cfg)
		_, free := p.Used(at(0))
		var got []string
		for {
			u, err := p.Allocate(at(0), p.Range(), "z")
			if errors.Is(err, ErrExhausted) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, u.String())
		}
		if s := strings.Join(got, " "); s != row.want || free != uint64(len(got)) {
			t.Errorf("%v: %s (free %d), want %s", row.cfg.Prefix, s, free, row.want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for want, c := range map[string]Config{
		"has no name":             {Prefix: pfx("10.0.0.0/8")},
		"has no prefix":           {Name: "p"},
		"write 10.0.0.0/8":        {Name: "p", Prefix: pfx("10.0.0.1/8")},
		"not unicast":             {Name: "p", Prefix: pfx("ff00::/8")},
		"reserve 192.0.2.0/24":    {Name: "p", Prefix: pfx("10.0.0.0/8"), Reserve: []netip.Prefix{pfx("192.0.2.0/24")}},
		"reserve 10.0.0.0/7":      {Name: "p", Prefix: pfx("10.0.0.0/8"), Reserve: []netip.Prefix{pfx("10.0.0.0/7")}},
		"delegate is for IPv6":    {Name: "p", Prefix: pfx("10.0.0.0/8"), Delegate: 24},
		"router 192.0.2.1":        {Name: "p", Prefix: pfx("10.0.0.0/8"), Router: netip.MustParseAddr("192.0.2.1")},
		"router is for IPv4":      {Name: "p", Prefix: pfx("2001:db8::/36"), Router: netip.MustParseAddr("2001:db8::1")},
		"delegate 32 is not":      {Name: "p", Prefix: pfx("2001:db8::/36"), Delegate: 32},
		"delegate 129 is not":     {Name: "p", Prefix: pfx("2001:db8::/36"), Delegate: 129},
		"more than 2^62 prefixes": {Name: "p", Prefix: pfx("2001:db8::/36"), Delegate: 128},
		"more than 2^28 prefixes": {Name: "p", Prefix: pfx("2001:db8::/32"), Reserve: []netip.Prefix{pfx("2001:db8::/33")}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", c, err, want)
		}
	}
}

// TestLargePool: a /36 of /64 is 2^28 prefixes; it costs what is used of it.
func TestLargePool(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := must(t, Config{Prefix: pfx("2001:db8:1000::/36"), Reserve: []netip.Prefix{pfx("2001:db8:1000::/48")}})
	for range 100_000 {
		if _, err := p.Allocate(at(0), p.Range(), "z"); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Take(at(0), pfx("2001:db8:1fff:ffff::/64"), "x"); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := after.HeapAlloc - before.HeapAlloc; used > 1<<20 {
		t.Errorf("%d octets for 100,000 prefixes", used)
	}
	used, free := p.Used(at(0))
	if used != 100_001 || free != 1<<28-1<<16-100_001 {
		t.Errorf("used %d free %d", used, free)
	}
	runtime.KeepAlive(p)
}

// TestTakenFromRest: a unit that its last owner takes and gives back at once rests on until its time; kept, it is his
// beyond it; given back to rest, it rests anew.
func TestTakenFromRest(t *testing.T) {
	one := pfx("10.0.0.2/32")
	p := must(t, Config{Prefix: pfx("10.0.0.0/30")})
	take := func(s time.Duration, who string, want error) {
		t.Helper()
		if err := p.Take(at(s*time.Second), one, who); !errors.Is(err, want) {
			t.Errorf("%d s, %s: %v, want %v", s, who, err, want)
		}
	}
	take(0, "a", nil)
	p.Release(at(0), one, "a", 10*time.Second)
	take(1, "a", nil)
	take(1, "a", ErrTaken)
	p.Release(at(time.Second), one, "a", 0)
	take(2, "b", ErrTaken)
	take(3, "a", nil)
	take(11, "b", ErrTaken) // the time is over, but he has it
	p.Release(at(12*time.Second), one, "a", 10*time.Second)
	take(21, "b", ErrTaken)
	take(21, "a", nil)
	p.Release(at(22*time.Second), one, "a", 10*time.Second)
	take(23, "b", ErrTaken) // the end of the former rest is not that of the new one
	take(32, "b", nil)
}

func TestReserveAndTake(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/29")})
	two, three := pfx("10.0.0.2/32"), pfx("10.0.0.3/32")
	want := func(err, is error) {
		t.Helper()
		if !errors.Is(err, is) {
			t.Errorf("error %v, want %v", err, is)
		}
	}
	want(p.Reserve(two, "a"), nil)
	want(p.Reserve(two, "b"), ErrTaken)
	want(p.Reserve(pfx("10.0.0.1/32"), "a"), ErrTaken) // router
	want(p.Reserve(pfx("192.0.2.1/32"), "a"), ErrOutside)
	want(p.Take(at(0), two, "b"), ErrReserved)
	want(p.Take(at(0), two, "a"), nil)
	want(p.Take(at(0), two, "a"), ErrTaken)
	p.Release(at(0), two, "a", time.Minute)
	want(p.Take(at(0), two, "a"), nil)
	want(p.Take(at(0), three, "b"), nil)
	want(p.Take(at(0), three, "b"), ErrTaken)
	want(p.Take(at(0), pfx("10.0.0.0/29"), "b"), ErrOutside) // no unit
	if used, free := p.Used(at(0)); used != 2 || free != 3 {
		t.Errorf("used %d free %d", used, free)
	}
	p.Release(at(0), pfx("10.0.0.5/32"), "x", time.Minute) // never taken
	if used, free := p.Used(at(0)); used != 2 || free != 3 {
		t.Errorf("used %d free %d", used, free)
	}
}

// TestInside allocates from a part of the pool.
func TestInside(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/16")})
	for _, row := range []struct {
		in   string
		want string
		err  error
	}{
		{"10.0.7.0/24", "10.0.7.0/32", nil}, {"10.0.7.0/24", "10.0.7.1/32", nil}, {"10.0.9.9/32", "10.0.9.9/32", nil},
		{"10.0.9.9/32", "", ErrExhausted}, {"0.0.0.0/0", "10.0.0.2/32", nil}, {"192.0.2.0/24", "", ErrOutside}, {"::/0", "", ErrOutside},
	} {
		got, err := p.Allocate(at(0), pfx(row.in), "z")
		if !errors.Is(err, row.err) || err == nil && got.String() != row.want {
			t.Errorf("in %s: %v %v, want %s %v", row.in, got, err, row.want, row.err)
		}
	}
}

// TestQuarantine keeps a released unit from everybody but its last owner, to the instant.
func TestQuarantine(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/30")})
	u, _ := p.Allocate(at(0), p.Range(), "z")
	p.Release(at(time.Second), u, "a", 10*time.Second)
	if err := p.Take(at(2*time.Second), u, "b"); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	if err := p.Take(at(3*time.Second), u, "a"); err != nil {
		t.Error(err)
	}
	p.Release(at(4*time.Second), u, "a", 10*time.Second) // the first look at 11 s must not free it
	if _, err := p.Allocate(at(14*time.Second-1), p.Range(), "z"); !errors.Is(err, ErrExhausted) {
		t.Error(err)
	}
	if got, err := p.Allocate(at(14*time.Second), p.Range(), "z"); err != nil || got != u {
		t.Error(got, err)
	}
}

// TestNextFit: what was given back is not the next to be given.
func TestNextFit(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/28")})
	a, _ := p.Allocate(at(0), p.Range(), "z")
	p.Release(at(0), a, "a", 0)
	if b, _ := p.Allocate(at(0), p.Range(), "z"); a == b {
		t.Errorf("%v came back at once", a)
	}
}

// TestSet finds pools and refuses overlap, per domain.
func TestSet(t *testing.T) {
	a := Config{Name: "a", Prefix: pfx("10.0.0.0/16")}
	b := Config{Name: "b", Prefix: pfx("10.0.128.0/17")}
	if _, err := NewSet([]Config{a, b}); err == nil || !strings.Contains(err.Error(), `overlaps 10.0.0.0/16 of pool "a"`) {
		t.Error(err)
	}
	b.Domain = 1
	s, err := NewSet([]Config{a, b, {Name: "c", Prefix: pfx("2001:db8::/36")}})
	if err != nil {
		t.Fatal(err)
	}
	if p := s.Around(0, netip.MustParseAddr("10.0.200.1")); p == nil || p.Name() != "a" {
		t.Error(p)
	}
	if p := s.Around(1, netip.MustParseAddr("10.0.200.1")); p == nil || p.Name() != "b" {
		t.Error(p)
	}
	if s.Around(2, netip.MustParseAddr("10.0.200.1")) != nil || s.Around(0, netip.Addr{}) != nil || s.Around(0, netip.MustParseAddr("192.0.2.1")) != nil {
		t.Error("a pool around nothing")
	}
	names := func(d core.Domain, v4 bool, n ...string) (out []string) {
		s.Choose(d, n, v4, func(p *Pool) bool { out = append(out, p.Name()); return true })
		return out
	}
	for _, row := range []struct{ got, want []string }{
		{names(0, true), []string{"a"}}, {names(0, false), []string{"c"}}, {names(1, true), []string{"b"}},
		{names(0, true, "b", "x", "c", "a"), []string{"a"}},
	} {
		if !slices.Equal(row.got, row.want) {
			t.Errorf("%v, want %v", row.got, row.want)
		}
	}
}

// TestAgainstNaive runs random calls against a map.
func TestAgainstNaive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, err := New(Config{Name: "p", Prefix: pfx("10.0.0.0/27"), Reserve: []netip.Prefix{pfx("10.0.0.8/30")}})
		if err != nil {
			rt.Fatal(err)
		}
		type state struct {
			owner string
			rests time.Duration // until; 0 = in use
		}
		now := time.Duration(0)
		held := map[netip.Prefix]state{}
		last := map[string]netip.Prefix{} // the newest that each had
		var queue []netip.Prefix          // that rest, oldest first
		var never []netip.Prefix
		for _, s := range []string{"0", "1", "8", "9", "10", "11", "31"} {
			never = append(never, pfx("10.0.0."+s+"/32"))
		}
		free := func(u netip.Prefix) bool {
			s, ok := held[u]
			return !slices.Contains(never, u) && (!ok || s.rests != 0 && s.rests <= now)
		}
		unit := func(rt *rapid.T) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 31).Draw(rt, "unit"))}), 32)
		}
		owner := func(rt *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "owner") }
		rt.Repeat(map[string]func(*rapid.T){
			"allocate": func(rt *rapid.T) {
				o := owner(rt)
				his, had := last[o]
				had = had && free(his) && held[his].owner == o
				var longest netip.Prefix // of those that are remembered
				virgin := false
				for i := range 32 {
					u := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)
					s, known := held[u]
					switch {
					case !free(u):
					case !known:
						virgin = true
					case !longest.IsValid() || s.rests < held[longest].rests:
						longest = u
					}
				}
				u, err := p.Allocate(at(now), p.Range(), o)
				if err == nil {
					_, known := held[u]
					switch {
					case !free(u):
						rt.Fatalf("%v is not free", u)
					case had && u != his:
						rt.Fatalf("%s got %v, want what he had: %v", o, u, his)
					case !had && known && (virgin || held[u].rests != held[longest].rests):
						rt.Fatalf("%s got %v of %s, want another one first", o, u, held[u].owner)
					}
					held[u] = state{owner: o}
					return
				}
				for i := range 32 {
					if u := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32); free(u) {
						rt.Fatalf("exhausted, but %v is free", u)
					}
				}
			},
			"take": func(rt *rapid.T) {
				u, o := unit(rt), owner(rt)
				s, ok := held[u]
				want := free(u) || ok && s.rests > now && s.owner == o
				if err := p.Take(at(now), u, o); (err == nil) != want {
					rt.Fatalf("take %v by %s: %v, want success %v", u, o, err, want)
				}
				if want {
					held[u] = state{owner: o}
				}
			},
			"release": func(rt *rapid.T) {
				u := unit(rt)
				if s, ok := held[u]; ok && s.rests == 0 {
					p.Release(at(now), u, s.owner, 10*time.Second)
					held[u] = state{s.owner, now + 10*time.Second}
					queue = append(queue, u)
				}
			},
			"time": func(rt *rapid.T) {
				now += time.Duration(rapid.IntRange(1, 8).Draw(rt, "s")) * time.Second
				p.Used(at(now))
				queue = slices.DeleteFunc(queue, func(u netip.Prefix) bool { // rests no more
					s := held[u]
					over := s.rests == 0 || s.rests <= now
					if over && s.rests != 0 {
						last[s.owner] = u
					}
					return over
				})
			},
			"": func(rt *rapid.T) {
				n := 0
				for i := range 32 {
					if free(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)) {
						n++
					}
				}
				if _, f := p.Used(at(now)); f != uint64(n) {
					rt.Fatalf("free %d, want %d", f, n)
				}
			},
		})
	})
}

// TestIndexes maps units to numbers and back over all shapes.
func TestIndexes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bits := rapid.IntRange(8, 128).Draw(rt, "bits")
		delegate := rapid.IntRange(bits, min(128, bits+maxUnitBits)).Draw(rt, "delegate")
		raw := [16]byte{0x20, 1, 0xd, 0xb8}
		for i := 4; i < 16; i++ {
			raw[i] = byte(rapid.IntRange(0, 255).Draw(rt, "octet"))
		}
		base := netip.PrefixFrom(netip.AddrFrom16(raw), bits).Masked()
		p, err := New(Config{Name: "p", Prefix: base, Delegate: delegate})
		if err != nil {
			rt.Fatal(err)
		}
		u := rapid.Uint64Range(0, p.units-1).Draw(rt, "unit")
		unit := p.unit(u)
		if unit != unit.Masked() || !base.Contains(unit.Addr()) || p.index(unit.Addr()) != u {
			rt.Fatalf("unit %d of %v in /%d is %v, number %d", u, base, delegate, unit, p.index(unit.Addr()))
		}
	})
}
