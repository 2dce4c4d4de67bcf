//go:build linux

package netns

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// TB is what Test needs of a testing.TB; the package does not import testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

var serial atomic.Uint64

// Test makes a namespace for one test, named kt<pid>-<n>-<role>, and deletes it at the end. Without the right to do so the
// test fails: a test that skips would pass for the wrong reason.
func Test(t TB, role string) *NS {
	t.Helper()
	n, err := New(fmt.Sprintf("kt%d-%d-%s", os.Getpid(), serial.Add(1), role))
	if err != nil {
		t.Fatalf("%v: run this test as root", err)
	}
	t.Cleanup(func() {
		if err := n.Delete(); err != nil {
			t.Fatalf("clean up: %v", err)
		}
	})
	return n
}

// Must fails the test on an error.
func Must(t TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// TestVeth makes a veth pair for a test and waits until both ends have carrier.
func TestVeth(t TB, a, b End) {
	t.Helper()
	Must(t, Veth(a, b))
	if a.Down || b.Down {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	Must(t, a.NS.WaitUp(ctx, a.Name))
	Must(t, b.NS.WaitUp(ctx, b.Name))
}
