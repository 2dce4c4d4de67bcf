package binding

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func collect(c *Cache, node string) (ids []core.ID) {
	for i := range c.ByNode(node) {
		ids = append(ids, c.At(i).ID)
	}
	return ids
}

func TestAddFindRemove(t *testing.T) {
	c := New()
	a := c.Add(Entry{ID: 1}, "h@x", []byte{1, 2})
	b := c.Add(Entry{ID: 2}, "h@x", nil)
	o := c.Add(Entry{ID: 3}, "other@x", nil)
	homes := Homes{Prefixes: []netip.Prefix{pfx("2001:db8::/64"), pfx("2001:db8:0:1::/64")}, V4: pfx("10.0.0.5/24")}
	if err := c.SetHomes(a, homes); err != nil {
		t.Fatal(err)
	}
	if got := c.Homes(a); !got.Equal(homes) {
		t.Errorf("homes %v", got)
	}
	for _, k := range homes.Keys() {
		if i, ok := c.ByHome(0, k); !ok || i != a {
			t.Errorf("%v is %d's", k, i)
		}
		if _, ok := c.ByHome(1, k); ok {
			t.Errorf("%v is found in another domain", k)
		}
		if err := c.SetHomes(o, Homes{Prefixes: []netip.Prefix{pfx("2001:db8:0:2::/64"), k}}); !errors.Is(err, ErrOwned) {
			t.Errorf("%v can be taken: %v", k, err)
		}
	}
	if got := c.Homes(o); !got.Empty() {
		t.Errorf("a failed change left %v", got)
	}
	if _, ok := c.ByHome(0, pfx("10.0.0.0/24")); ok {
		t.Error("the home network is found as a home key")
	}
	if err := c.SetHomes(a, Homes{V4: pfx("10.0.0.5/24")}); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.ByHome(0, pfx("2001:db8::/64")); ok {
		t.Error("a prefix that was taken away is found")
	}
	if got := collect(c, "h@x"); !slices.Equal(got, []core.ID{2, 1}) {
		t.Errorf("sessions %v", got)
	}
	c.Remove(b)
	if got := collect(c, "h@x"); !slices.Equal(got, []core.ID{1}) {
		t.Errorf("sessions %v", got)
	}
	if c.Node(a) != "h@x" || !c.IsNode(a, "h@x") || c.IsNode(a, "h@y") || !slices.Equal(c.LinkLayer(a), []byte{1, 2}) {
		t.Error("texts")
	}
	c.SetLinkLayer(a, []byte(strings.Repeat("x", 40)))
	if string(c.LinkLayer(a)) != strings.Repeat("x", 40) || c.Node(a) != "h@x" {
		t.Error("texts after a change")
	}
	c.Remove(a)
	if _, ok := c.ByID(1); ok || c.Len() != 1 || len(collect(c, "h@x")) != 0 {
		t.Error("removed session is found")
	}
	if _, ok := c.ByHome(0, pfx("10.0.0.5/32")); ok {
		t.Error("its address is found")
	}
	tooMany := Homes{}
	for i := range byte(MaxPrefixes + 1) {
		tooMany.Prefixes = append(tooMany.Prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, i}), 64))
	}
	if c.SetHomes(o, tooMany) == nil || c.SetHomes(o, Homes{Prefixes: []netip.Prefix{pfx("2001:db8::/64"), pfx("2001:db8::/64")}}) == nil {
		t.Error("too many prefixes, or one twice")
	}
}

// TestMappedAddress keeps IPv4 and the IPv6 address that maps it apart.
func TestMappedAddress(t *testing.T) {
	c := New()
	a, b := c.Add(Entry{ID: 1}, "a", nil), c.Add(Entry{ID: 2}, "b", nil)
	if err := c.SetHomes(a, Homes{V4: pfx("0.0.0.1/8")}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetHomes(b, Homes{Prefixes: []netip.Prefix{pfx("2001:db8::1/128")}}); err != nil {
		t.Fatal(err)
	}
	if i, ok := c.ByHome(0, pfx("0.0.0.1/32")); !ok || i != a {
		t.Error("IPv4 address")
	}
}

func TestTimers(t *testing.T) {
	c := New()
	if _, _, ok := c.Next(); ok {
		t.Error("a deadline of nothing")
	}
	var is []Index
	for i := range 100 {
		x := c.Add(Entry{ID: core.ID(i + 1), Expires: time.Duration((i * 37) % 100)}, fmt.Sprint(i), nil)
		c.Schedule(x)
		is = append(is, x)
	}
	c.At(is[3]).Expires = 1000 // later: a refresh
	c.Schedule(is[3])
	c.At(is[4]).Expires = -5 // earlier: a deregistration
	c.Schedule(is[4])
	c.Unschedule(is[5])
	c.Unschedule(is[5])
	last, n := time.Duration(-10), 0
	for {
		i, at, ok := c.Next()
		if !ok {
			break
		}
		if at < last || at != c.At(i).Expires {
			t.Fatalf("deadline %d after %d", at, last)
		}
		if n == 0 && i != is[4] {
			t.Errorf("first is %d", i)
		}
		last = at
		n++
		c.Remove(i)
	}
	if n != 99 || last != 1000 {
		t.Errorf("%d deadlines, last %d", n, last)
	}
}

func TestStates(t *testing.T) {
	for s, want := range map[State]string{None: "none", Pending: "pending", Active: "active", Deprecated: "deprecated", 9: "invalid"} {
		if s.String() != want {
			t.Errorf("%d is %q", s, s)
		}
	}
}

// TestAgainstMaps runs random changes against plain maps.
func TestAgainstMaps(t *testing.T) {
	type session struct {
		node, ll string
		homes    Homes
		expires  time.Duration
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := New()
		want := map[core.ID]*session{}
		at := map[core.ID]Index{}
		next := core.ID(1)
		any := func(rt *rapid.T) core.ID {
			ids := make([]core.ID, 0, len(want))
			for id := range want {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			if len(ids) == 0 {
				return 0
			}
			return ids[rapid.IntRange(0, len(ids)-1).Draw(rt, "which")]
		}
		homes := func(rt *rapid.T) (h Homes) {
			for range rapid.IntRange(0, 3).Draw(rt, "prefixes") {
				p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, byte(rapid.IntRange(0, 9).Draw(rt, "prefix"))}), 64)
				if !slices.Contains(h.Prefixes, p) {
					h.Prefixes = append(h.Prefixes, p)
				}
			}
			if rapid.Bool().Draw(rt, "v4") {
				h.V4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 9).Draw(rt, "addr"))}), 24)
			}
			return h
		}
		text := func(rt *rapid.T, name string) string {
			return strings.Repeat(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, name), rapid.SampledFrom([]int{1, 14, 15, 16, 255}).Draw(rt, "length"))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				s := &session{node: text(rt, "node"), ll: text(rt, "ll"), expires: time.Duration(rapid.IntRange(0, 50).Draw(rt, "at"))}
				i := c.Add(Entry{ID: next, Expires: s.expires}, s.node, []byte(s.ll))
				c.Schedule(i)
				want[next], at[next] = s, i
				next++
			},
			"homes": func(rt *rapid.T) {
				id := any(rt)
				if id == 0 {
					return
				}
				h := homes(rt)
				free := true
				for o, s := range want {
					for _, k := range h.Keys() {
						free = free && (o == id || !slices.Contains(s.homes.Keys(), k))
					}
				}
				if err := c.SetHomes(at[id], h); (err == nil) != free {
					rt.Fatalf("set %v: %v, want success %v", h, err, free)
				}
				if free {
					want[id].homes = h
				}
			},
			"remove": func(rt *rapid.T) {
				if id := any(rt); id != 0 {
					c.Remove(at[id])
					delete(want, id)
				}
			},
			"move": func(rt *rapid.T) {
				if id := any(rt); id != 0 {
					s := want[id]
					s.expires = time.Duration(rapid.IntRange(0, 50).Draw(rt, "at"))
					s.ll = text(rt, "ll")
					c.At(at[id]).Expires = s.expires
					c.Schedule(at[id])
					c.SetLinkLayer(at[id], []byte(s.ll))
				}
			},
			"": func(rt *rapid.T) {
				if c.Len() != len(want) {
					rt.Fatalf("%d sessions, want %d", c.Len(), len(want))
				}
				nodes, keys := map[string]int{}, 0
				first := time.Duration(-1)
				for id, s := range want {
					i := at[id]
					if c.Node(i) != s.node || string(c.LinkLayer(i)) != s.ll || !c.Homes(i).Equal(s.homes) {
						rt.Fatalf("session %d is %q %q %v, want %+v", id, c.Node(i), c.LinkLayer(i), c.Homes(i), s)
					}
					for _, k := range s.homes.Keys() {
						keys++
						if j, ok := c.ByHome(0, k); !ok || j != i {
							rt.Fatalf("%v is %d's", k, j)
						}
					}
					nodes[s.node]++
					if first < 0 || s.expires < first {
						first = s.expires
					}
				}
				for node, n := range nodes {
					if got := len(collect(c, node)); got != n {
						rt.Fatalf("%d sessions of %q, want %d", got, node, n)
					}
				}
				if len(c.byHome) != keys {
					rt.Fatalf("%d home keys, want %d", len(c.byHome), keys)
				}
				if _, d, ok := c.Next(); ok != (len(want) > 0) || ok && d != first {
					rt.Fatalf("first deadline %v %v, want %v", d, ok, first)
				}
				all := 0
				for range c.All() {
					all++
				}
				if all != len(want) {
					rt.Fatalf("%d in all", all)
				}
			},
		})
	})
}

// TestLookupsDoNotAllocate: they are on the way of every request.
func TestLookupsDoNotAllocate(t *testing.T) {
	c := New()
	i := c.Add(Entry{ID: 1, Expires: 5}, "h@example.net", []byte{1})
	if err := c.SetHomes(i, Homes{Prefixes: []netip.Prefix{pfx("2001:db8::/64")}, V4: pfx("10.0.0.5/24")}); err != nil {
		t.Fatal(err)
	}
	c.Schedule(i)
	p, k := make([]netip.Prefix, 0, 8), pfx("10.0.0.5/32")
	n := testing.AllocsPerRun(100, func() {
		c.ByHome(0, k)
		c.ByID(1)
		for j := range c.ByNode("h@example.net") {
			c.IsNode(j, "h@example.net")
			c.LinkLayer(j)
			p = c.AppendPrefixes(p[:0], j)
		}
		c.At(i).Expires++
		c.Schedule(i)
		c.Next()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
