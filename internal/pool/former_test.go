package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func own(t *testing.T, p *Pool, owner string) netip.Prefix {
	t.Helper()
	u, err := p.Allocate(at(0), p.Range(), owner)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestFormerUnit: who comes back gets what he had, and others do not, as long as there is something else.
func TestFormerUnit(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/29")}) // five units
	a, b := own(t, p, "a"), own(t, p, "b")
	p.Release(at(0), a, "a", 10*time.Second)
	p.Release(at(0), b, "b", 10*time.Second)
	if _, free := p.Used(at(20 * time.Second)); free != 5 {
		t.Errorf("%d are free: what is remembered is", free)
	}
	for i := range 3 {
		if u, err := p.Allocate(at(20*time.Second), p.Range(), fmt.Sprint(i)); err != nil || u == a || u == b {
			t.Errorf("another got %v, %v", u, err)
		}
	}
	if u, err := p.Allocate(at(20*time.Second), p.Range(), "b"); err != nil || u != b {
		t.Errorf("b got %v, %v", u, err)
	}
	// Nothing else is left: what has been free for longest goes.
	if u, err := p.Allocate(at(20*time.Second), p.Range(), "c"); err != nil || u != a {
		t.Errorf("c got %v, %v", u, err)
	}
	if _, err := p.Allocate(at(20*time.Second), p.Range(), "a"); !errors.Is(err, ErrExhausted) {
		t.Error(err)
	}
	p.Release(at(20*time.Second), a, "c", 0)
	if u, err := p.Allocate(at(20*time.Second), p.Range(), "a"); err != nil || u != a {
		t.Errorf("a got %v, %v", u, err)
	}
}

// TestFreeForLongest: the order is that of becoming free, also inside a range.
func TestFreeForLongest(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/28")})
	var all []netip.Prefix
	for i := range 13 {
		all = append(all, own(t, p, fmt.Sprint(i)))
	}
	for _, i := range []int{7, 2, 9, 0} {
		p.Release(at(0), all[i], fmt.Sprint(i), 0)
	}
	p.Release(at(0), all[2], "2", 0) // once more changes nothing
	if u, err := p.Allocate(at(0), netip.PrefixFrom(all[0].Addr(), 30), "x"); err != nil || u != all[0] {
		t.Errorf("%v, %v", u, err)
	}
	for _, i := range []int{7, 2, 9} {
		if u := own(t, p, "x"); u != all[i] {
			t.Errorf("%v, want %v", u, all[i])
		}
	}
}

// TestTakeFormer: a free unit is anybody's who asks for it by name; Reclaim gives it to its last owner only.
func TestTakeFormer(t *testing.T) {
	p := must(t, Config{Prefix: pfx("10.0.0.0/28")})
	a := own(t, p, "a")
	p.Release(at(0), a, "a", 0)
	if err := p.Reclaim(at(0), a, "b"); !errors.Is(err, ErrFree) {
		t.Error(err)
	}
	if err := p.Take(at(0), a, "b"); err != nil {
		t.Error(err)
	}
	if err := p.Reclaim(at(0), a, "a"); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	if u := own(t, p, "a"); u == a {
		t.Error("two have one unit")
	}
	// What a former run knew.
	c := pfx("10.0.0.9/32")
	p.Remember(c, "c")
	p.Remember(a, "c") // is taken
	if u := own(t, p, "c"); u != c {
		t.Errorf("%v", u)
	}
	// A range that is excluded later is nobody's former one.
	p.Release(at(0), c, "c", 0)
	if err := p.Exclude(pfx("10.0.0.8/30")); err != nil {
		t.Fatal(err)
	}
	if u := own(t, p, "c"); pfx("10.0.0.8/30").Contains(u.Addr()) {
		t.Errorf("%v is excluded", u)
	}
}

// TestFormersAreBounded: what is remembered has a limit, and so has the memory for units that lie far apart and for who comes and
// goes all the time.
func TestFormersAreBounded(t *testing.T) {
	p := must(t, Config{Prefix: pfx("2001:d00::/24")})
	var units []netip.Prefix
	for i := range maxFormer + 100 {
		units = append(units, own(t, p, fmt.Sprint(i)))
	}
	for i, u := range units {
		p.Release(at(0), u, fmt.Sprint(i), 0)
	}
	if n := len(p.former.units); n != maxFormer || len(p.former.byOwner) != n || p.taken.n != maxFormer {
		t.Errorf("%d remembered, %d owners, %d taken", n, len(p.former.byOwner), p.taken.n)
	}
	if u := own(t, p, "100"); u != units[100] {
		t.Errorf("the oldest that is remembered came back as %v", u)
	}
	for i := range 1000 {
		u := own(t, p, "busy")
		p.Release(at(0), u, "busy", 0)
		if n := len(p.former.queue); n > 2*maxFormer+2*crowd {
			t.Fatalf("after %d rounds %d entries", i, n)
		}
	}
	q := must(t, Config{Prefix: pfx("2001:d00::/24")})
	for i := range 4 * fewFormer {
		u := q.unit(uint64(i) << pageShift)
		if err := q.Take(at(0), u, "a"); err != nil {
			t.Fatal(err)
		}
		q.Release(at(0), u, "a", 0)
		for range 20 {
			q.Release(at(0), own(t, q, "b"), "b", 0)
		}
	}
	if n := len(q.taken.pages); n > fewFormer+1 || len(q.former.queue) > 2*fewFormer+2*crowd {
		t.Errorf("%d pages, %d entries for units of nobody", n, len(q.former.queue))
	}
}
