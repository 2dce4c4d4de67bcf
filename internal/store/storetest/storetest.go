// Package storetest is the one suite that every back end of core.Store must pass.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/store"
)

// Reopener makes one store and gives a function that closes the last handle and opens the next, on the same data.
type Reopener func(t testing.TB) (open func() core.Store)

const lma = "lma1"

func put(k, v string) core.Persist { return core.Persist{Key: []byte(k), Val: []byte(v)} }
func del(k string) core.Persist    { return core.Persist{Key: []byte(k)} }

// records reads everything of an anchor.
func records(t rapid.TB, s core.Store, anchor string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var last []byte
	for p, err := range s.Load(context.Background(), anchor) {
		if err != nil {
			t.Fatalf("Load: %v", err)
		}
		if last != nil && bytes.Compare(last, p.Key) >= 0 {
			t.Fatalf("Load gives %q after %q", p.Key, last)
		}
		last = p.Key
		out[string(p.Key)] = string(p.Val)
	}
	return out
}

func want(t rapid.TB, s core.Store, anchor string, w map[string]string) {
	t.Helper()
	if diff := cmp.Diff(w, records(t, s, anchor)); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
}

func own(t rapid.TB, s core.Store, anchor string) core.Lease {
	t.Helper()
	l, err := s.Own(context.Background(), anchor)
	if err != nil {
		t.Fatalf("Own: %v", err)
	}
	return l
}

func commit(t rapid.TB, s core.Store, l core.Lease, batch ...core.Persist) uint64 {
	t.Helper()
	rev, err := s.Commit(context.Background(), l.Token(), batch)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return rev
}

// Run runs the suite.
func Run(t *testing.T, make Reopener) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Reopener)
	}{
		{"Records", testRecords}, {"AllOrNothing", testAllOrNothing}, {"Limits", testLimits}, {"Anchors", testAnchors},
		{"Ownership", testOwnership}, {"Reopen", testReopen}, {"Closed", testClosed}, {"Buffers", testBuffers},
		{"LoadWhileCommitting", testLoadWhileCommitting}, {"Watch", testWatch}, {"WatchTooFarBehind", testWatchTooFarBehind},
		{"Concurrent", testConcurrent}, {"Cancelled", testCancelled}, {"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, make) })
	}
}

func testRecords(t *testing.T, make Reopener) {
	s := make(t)()
	want(t, s, lma, map[string]string{})
	l := own(t, s, lma)
	r1 := commit(t, s, l, put("b", "2"), put("a", "1"), put("\x00\xff", "\x00"), put("empty", ""))
	want(t, s, lma, map[string]string{"a": "1", "b": "2", "\x00\xff": "\x00", "empty": ""})
	r2 := commit(t, s, l, put("a", "new"), del("b"), del("never there"))
	want(t, s, lma, map[string]string{"a": "new", "\x00\xff": "\x00", "empty": ""})
	// Later records of a batch win.
	r3 := commit(t, s, l, put("x", "1"), del("x"), put("y", "1"), put("y", "2"), del("a"), put("a", "last"))
	want(t, s, lma, map[string]string{"a": "last", "y": "2", "\x00\xff": "\x00", "empty": ""})
	r4 := commit(t, s, l)
	if !(r1 < r2 && r2 < r3 && r3 <= r4) {
		t.Errorf("revisions %d, %d, %d, %d do not rise", r1, r2, r3, r4)
	}
}

func testAllOrNothing(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	before := commit(t, s, l, put("a", "1"))
	for _, bad := range []core.Persist{{Val: []byte("no key")}, {Key: bytes.Repeat([]byte("k"), store.MaxKey+1), Val: []byte{1}}, {Key: []byte("k"), Val: bytes.Repeat([]byte{1}, store.MaxVal+1)}} {
		_, err := s.Commit(t.Context(), l.Token(), []core.Persist{put("a", "2"), put("b", "2"), bad, put("c", "2")})
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("Commit = %v, want ErrInvalid", err)
		}
		want(t, s, lma, map[string]string{"a": "1"})
	}
	if after := commit(t, s, l, put("a", "3")); after <= before {
		t.Errorf("revision %d after %d", after, before)
	}
}

func testLimits(t *testing.T, make Reopener) {
	open := make(t)
	s := open()
	l := own(t, s, lma)
	k, v := string(bytes.Repeat([]byte("k"), store.MaxKey)), string(bytes.Repeat([]byte("v"), store.MaxVal))
	commit(t, s, l, put(k, v))
	s = open()
	want(t, s, lma, map[string]string{k: v})
	for _, name := range []string{"", string(bytes.Repeat([]byte("n"), store.MaxAnchor+1))} {
		if _, err := s.Own(t.Context(), name); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("Own of a name of %d octets = %v", len(name), err)
		}
		for _, err := range s.Load(t.Context(), name) {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("Load of a name of %d octets = %v", len(name), err)
			}
		}
	}
	own(t, s, string(bytes.Repeat([]byte("n"), store.MaxAnchor)))
}

func testAnchors(t *testing.T, make Reopener) {
	open := make(t)
	s := open()
	a, b := own(t, s, "a"), own(t, s, "a/b")
	commit(t, s, a, put("k", "of a"))
	commit(t, s, b, put("k", "of b"), put("only b", ""))
	for range 2 {
		want(t, s, "a", map[string]string{"k": "of a"})
		want(t, s, "a/b", map[string]string{"k": "of b", "only b": ""})
		want(t, s, "a/", map[string]string{})
		s = open()
	}
}

func testOwnership(t *testing.T, make Reopener) {
	open := make(t)
	s := open()
	l := own(t, s, lma)
	if _, err := s.Own(t.Context(), lma); !errors.Is(err, store.ErrOwned) {
		t.Fatalf("second owner: %v, want ErrOwned", err)
	}
	commit(t, s, l, put("a", "1"))
	other := own(t, s, "another")
	for _, token := range []uint64{0, 1 << 60, l.Token() + 1000} {
		if _, err := s.Commit(t.Context(), token, []core.Persist{put("a", "forged")}); !errors.Is(err, store.ErrFenced) {
			t.Errorf("token %d: %v, want ErrFenced", token, err)
		}
	}
	select {
	case <-l.Lost():
		t.Error("the lease is lost without a reason")
	default:
	}
	if err := errors.Join(l.Release(), l.Release()); err != nil {
		t.Fatal(err)
	}
	<-l.Lost()
	if _, err := s.Commit(t.Context(), l.Token(), []core.Persist{put("a", "late")}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("after Release: %v, want ErrFenced", err)
	}
	next := own(t, s, lma)
	if next.Token() <= l.Token() || next.Token() == other.Token() {
		t.Errorf("tokens %d, %d, %d: want new and larger ones", l.Token(), other.Token(), next.Token())
	}
	_ = l.Release() // of the old lease takes nothing from the new one
	commit(t, s, next, put("b", "1"))
	if _, err := s.Commit(t.Context(), l.Token(), []core.Persist{put("a", "late")}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("with a new owner: %v, want ErrFenced", err)
	}
	want(t, s, lma, map[string]string{"a": "1", "b": "1"})

	old := s
	s = open()
	<-next.Lost()
	again := own(t, s, lma) // a crash leaves no owner behind
	if again.Token() <= next.Token() {
		t.Errorf("token %d after %d over a restart", again.Token(), next.Token())
	}
	for _, st := range []core.Store{old, s} {
		if _, err := st.Commit(t.Context(), next.Token(), []core.Persist{put("a", "late")}); err == nil {
			t.Error("a token of before the restart still writes")
		}
	}
	want(t, s, lma, map[string]string{"a": "1", "b": "1"})
}

func testReopen(t *testing.T, make Reopener) {
	open := make(t)
	model := map[string]string{}
	var last uint64
	for round := range 5 {
		s := open()
		want(t, s, lma, model)
		l := own(t, s, lma)
		for i := range 50 {
			k := fmt.Sprintf("k%02d", (round*7+i)%60)
			if i%3 == 0 {
				delete(model, k)
				last = max(last, commit(t, s, l, del(k)))
				continue
			}
			model[k] = fmt.Sprint(round, i)
			rev := commit(t, s, l, put(k, model[k]))
			if rev <= last {
				t.Fatalf("revision %d after %d", rev, last)
			}
			last = rev
		}
	}
	want(t, open(), lma, model)
}

func testClosed(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	commit(t, s, l, put("a", "1"))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	<-l.Lost()
	_, e1 := s.Commit(t.Context(), l.Token(), []core.Persist{put("a", "2")})
	_, e2 := s.Own(t.Context(), lma)
	errs := []error{e1, e2}
	for _, err := range s.Load(t.Context(), lma) {
		errs = append(errs, err)
	}
	for _, err := range s.Watch(t.Context(), lma, 0) {
		errs = append(errs, err)
	}
	if len(errs) != 4 {
		t.Fatalf("%d errors of 4", len(errs))
	}
	for i, err := range errs {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("error %d is %v, want ErrClosed", i, err)
		}
	}
	_ = l.Release()
}

func testBuffers(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	k, v := []byte("key"), []byte("val")
	commit(t, s, l, core.Persist{Key: k, Val: v})
	copy(k, "xxx")
	copy(v, "xxx")
	var kept []core.Persist
	for p, err := range s.Load(t.Context(), lma) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, p)
	}
	commit(t, s, l, put("key", "new"), put("more", "m"))
	if len(kept) != 1 || string(kept[0].Key) != "key" || string(kept[0].Val) != "val" {
		t.Errorf("%d records were kept, and they changed", len(kept))
		return
	}
	kept[0].Val = append(kept[0].Val[:0], "zzz"...)
	want(t, s, lma, map[string]string{"key": "new", "more": "m"})
}

func testLoadWhileCommitting(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	var batch []core.Persist
	for i := range 5000 { // more than one chunk of any back end
		batch = append(batch, put(fmt.Sprintf("k%05d", i), "old"))
	}
	commit(t, s, l, batch...)
	n := 0
	for p, err := range s.Load(t.Context(), lma) {
		if err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 { // a restored machine may write at once; the value makes the file grow
			commit(t, s, l, put(string(p.Key), string(bytes.Repeat([]byte("x"), 1<<20))))
		}
		n++
	}
	if n != 5000 {
		t.Errorf("%d of 5000 records", n)
	}
	for range s.Load(t.Context(), lma) {
		break // may be left early
	}
	commit(t, s, l, del("k00000"))
}

// watched runs a watch and gives what it tells.
func watched(ctx context.Context, s core.Store, anchor string, from uint64) <-chan string {
	ch := make(chan string, 100)
	go func() {
		defer close(ch)
		for p, err := range s.Watch(ctx, anchor, from) {
			switch {
			case err != nil:
				ch <- "error: " + err.Error()
			case p.Val == nil:
				ch <- "del " + string(p.Key)
			default:
				ch <- string(p.Key) + "=" + string(p.Val)
			}
		}
		ch <- "end"
	}()
	return ch
}

func expect(t *testing.T, ch <-chan string, lines ...string) {
	t.Helper()
	for _, w := range lines {
		select {
		case got := <-ch:
			if got != w {
				t.Fatalf("the watch says %q, want %q", got, w)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the watch never says %q", w)
		}
	}
}

func testWatch(t *testing.T, make Reopener) {
	s := make(t)()
	l, other := own(t, s, lma), own(t, s, "other")
	r1 := commit(t, s, l, put("a", "1"), put("b", "1"))
	r2 := commit(t, s, l, put("a", "2"))
	ctx, cancel := context.WithCancel(t.Context())
	all, since1, since2 := watched(ctx, s, lma, 0), watched(ctx, s, lma, r1), watched(ctx, s, lma, r2)
	expect(t, all, "a=2", "b=1")
	expect(t, since1, "a=2")
	commit(t, s, other, put("a", "of another anchor"))
	commit(t, s, l, del("b"), put("c", ""))
	for _, ch := range []<-chan string{all, since1, since2} {
		expect(t, ch, "del b", "c=")
	}
	cancel()
	for _, ch := range []<-chan string{all, since1, since2} {
		expect(t, ch, "end")
	}
	for range s.Watch(t.Context(), lma, 0) {
		break // may be left early
	}
	closing := watched(t.Context(), s, lma, 0)
	expect(t, closing, "a=2", "c=")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, closing, "error: "+store.ErrClosed.Error(), "end")
}

func testWatchTooFarBehind(t *testing.T, make Reopener) {
	open := make(t)
	s := open()
	l := own(t, s, lma)
	first := commit(t, s, l, put("a", "1"))
	var batch []core.Persist
	for i := range 2*store.History + 2 {
		batch = append(batch, put(fmt.Sprint("k", i%10), fmt.Sprint(i)))
	}
	second := commit(t, s, l, batch...)
	commit(t, s, l, put("a", "2"))
	expect(t, watched(t.Context(), s, lma, first), "error: "+store.ErrCompacted.Error(), "end")
	s = open() // a restart forgets what was before it
	expect(t, watched(t.Context(), s, lma, second), "error: "+store.ErrCompacted.Error(), "end")
}

func testConcurrent(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	var wg sync.WaitGroup
	var mu sync.Mutex
	revs := map[uint64]bool{}
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				rev, err := s.Commit(context.Background(), l.Token(), []core.Persist{put(fmt.Sprintf("g%d-%d", g, i), "v"), put("shared", fmt.Sprint(g, i))})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				if revs[rev] {
					t.Errorf("revision %d twice", rev)
				}
				revs[rev] = true
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			for p, err := range s.Load(context.Background(), lma) {
				if err != nil || len(p.Key) == 0 {
					t.Errorf("Load: %v", err)
				}
			}
		}
	})
	wg.Wait()
	if n := len(records(t, s, lma)); n != 101 {
		t.Errorf("%d records of 101", n)
	}
}

func testCancelled(t *testing.T, make Reopener) {
	s := make(t)()
	l := own(t, s, lma)
	commit(t, s, l, put("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Commit(ctx, l.Token(), []core.Persist{put("a", "2")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit = %v", err)
	}
	if _, err := s.Own(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Own = %v", err)
	}
	for _, err := range s.Load(ctx, lma) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Load = %v", err)
		}
	}
	want(t, s, lma, map[string]string{"a": "1"})
}

// testModel compares with a map under random operations and reopenings.
func testModel(t *testing.T, make Reopener) {
	rapid.Check(t, func(rt *rapid.T) {
		open := make(t)
		s := open()
		l := own(rt, s, lma)
		model := map[string]string{}
		key := rapid.SampledFrom([]string{"a", "b", "c", "\x00", "a\x00", "\xff"})
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.IntRange(0, 5).Draw(rt, "what") == 0 {
				s = open()
				l = own(rt, s, lma)
			}
			next := maps.Clone(model)
			var batch []core.Persist
			for range rapid.IntRange(0, 6).Draw(rt, "size") {
				k, v := key.Draw(rt, "key"), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "val")
				if rapid.Bool().Draw(rt, "delete") {
					delete(next, k)
					batch = append(batch, del(k))
				} else {
					next[k] = string(v)
					batch = append(batch, core.Persist{Key: []byte(k), Val: slices.Concat([]byte{}, v)})
					if batch[len(batch)-1].Val == nil {
						batch[len(batch)-1].Val = []byte{}
					}
				}
			}
			if rapid.IntRange(0, 4).Draw(rt, "spoil") == 0 {
				if _, err := s.Commit(context.Background(), l.Token(), append(batch, put("", "x"))); err == nil {
					rt.Fatal("an empty key was taken")
				}
			} else {
				commit(rt, s, l, batch...)
				model = next
			}
			want(rt, s, lma, model)
		}
	})
}
