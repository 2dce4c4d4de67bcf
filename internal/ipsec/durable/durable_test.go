package durable

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/internal/store"
	"kedge/internal/store/bolt"
	"kedge/internal/store/mem"
)

func put(t *testing.T, c *Counters, name string, n ipsec.Numbers) error {
	t.Helper()
	done := make(chan error, 1)
	c.Store(name, n, func(err error) { done <- err })
	return <-done
}

func mustOpen(t *testing.T, s core.Store) *Counters {
	t.Helper()
	c, err := Open(t.Context(), s, Owner("ha1"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStoreAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kedge.db")
	for round := range uint64(3) {
		s, err := bolt.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		// The machines of the process own another name of the same store.
		lease, err := s.Own(t.Context(), "ha1")
		if err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, s)
		n, ok, err := c.Load("out/1")
		if want := (ipsec.Numbers{High: round * 65536, Slack: round}); err != nil || ok != (round > 0) || n != want {
			t.Fatalf("round %d: %v %v %v", round, n, ok, err)
		}
		if err := put(t, c, "out/1", ipsec.Numbers{High: (round + 1) * 65536, Slack: round + 1}); err != nil {
			t.Fatal(err)
		}
		if n, _, _ := c.Load("out/1"); n.Slack != round+1 {
			t.Errorf("%v", n)
		}
		if err := errors.Join(c.Close(), c.Close(), lease.Release(), s.Close()); err != nil {
			t.Fatal(err)
		}
		if err := put(t, c, "out/1", ipsec.Numbers{}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}

// TestBatches: what waits goes in one commit, in order, and each hears of the outcome.
func TestBatches(t *testing.T) {
	s := mem.New()
	hold, commits := make(chan struct{}), 0
	s.Fail = func(batch []core.Persist) (bool, error) {
		<-hold
		commits++
		return true, nil
	}
	c := mustOpen(t, s)
	const n = 1000
	done := make(chan error, n)
	for i := range n {
		c.Store("in/1", ipsec.Numbers{High: uint64(i)}, func(err error) { done <- err })
	}
	close(hold)
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if commits > 2 {
		t.Errorf("%d commits", commits)
	}
	if got, _, _ := c.Load("in/1"); got.High != n-1 {
		t.Errorf("%v: want the last call to count", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	s := mem.New()
	c := mustOpen(t, s)
	if _, err := Open(t.Context(), s, Owner("ha1")); !errors.Is(err, store.ErrOwned) {
		t.Errorf("a second daemon: %v", err)
	}
	full := errors.New("disk full")
	s.Fail = func([]core.Persist) (bool, error) { return false, full }
	if err := put(t, c, "out/1", ipsec.Numbers{High: 5}); !errors.Is(err, full) {
		t.Error(err)
	}
	if _, ok, _ := c.Load("out/1"); ok {
		t.Error("what was not written is loaded")
	}
	s.Fail = nil
	// Another process took over: this one writes nothing any more.
	next := s.Reopen()
	if err := put(t, c, "out/1", ipsec.Numbers{High: 5}); err == nil {
		t.Error("written without a lease")
	}
	_ = c.Close()
	l, err := next.Own(t.Context(), Owner("ha1"))
	if err != nil {
		t.Fatal(err)
	}
	for key, val := range map[string]string{"sa/x": "short", "other": strings.Repeat("x", size)} {
		if _, err := next.Commit(t.Context(), l.Token(), []core.Persist{{Key: []byte(key), Val: []byte(val)}}); err != nil {
			t.Fatal(err)
		}
		again := next.Reopen()
		if _, err := Open(t.Context(), again, Owner("ha1")); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("record %q: %v", key, err)
		}
		next = again.Reopen()
		if l, err = next.Own(t.Context(), Owner("ha1")); err != nil {
			t.Fatal(err)
		}
		if _, err := next.Commit(t.Context(), l.Token(), []core.Persist{{Key: []byte(key)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEngineKilled runs an engine over a file and ends it without Close: no number comes twice.
func TestEngineKilled(t *testing.T) {
	spec.Covers(t, "RFC4303-5")
	keys, err := ipsec.GenerateKeys("aes128-sha256", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	agent := netip.MustParseAddr("2001:db8::1")
	peer := ipsec.Peer{Name: "lma", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Protection: ipsec.ESP,
		SAs: []ipsec.SA{{SPIIn: 257, SPIOut: 258, Keys: keys}}}
	s := mem.New()
	var last uint32
	for range 4 {
		c, err := Open(context.Background(), s, Owner("mag"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := ipsec.New(ipsec.Config{Peers: []ipsec.Peer{peer}}, c)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			esp, _, _, err := e.Outbound(core.Now{}, ipsec.Traffic{Remote: agent, Proto: ipsec.ProtoMH, Type: 5}, make([]byte, 16), nil)
			if err != nil {
				t.Fatal(err)
			}
			n := binary.BigEndian.Uint32(esp[4:])
			if n <= last {
				t.Fatalf("%d after %d", n, last)
			}
			last = n
		}
		s = s.Reopen()
		_ = c.Close() // its lease is gone
	}
}
