package user

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
)

// TestSignalPort: what the contract of a port says, and what is done when its reader does not come.
func TestSignalPort(t *testing.T) {
	defer goleak.VerifyNone(t)
	namespaces(t)
	p, err := New(Config{Role: Node, Device: "mn0"})
	must(t, err)
	if l := len(p.Signal().(*signalPort).waiting); l != 0 {
		t.Fatalf("%d packets wait", l)
	}
	chain := layer(coa4, conformance.LMAA4, 4191, 4191)
	pkt := message(conformance.LMAA, home6, 135, []byte{59, 1, 6, 0, 0, 0, 0, 0, 0, 1, 0, 9, 1, 2, 0, 0})
	for i := range signalQueue + 10 {
		pkt[7] = byte(i)
		p.signals.take(&mem.Packet{Outer: chain, B: pkt})
	}
	if n := p.Dropped(wire.RateLimit); n != 10 {
		t.Errorf("%d were dropped when the queue was full, want 10", n)
	}
	into := make([]core.Packet, 100)
	read := 0
	for read < signalQueue {
		n, err := p.Signal().Read(into)
		must(t, err)
		for i := range into[:n] {
			if got := into[i]; got.Outer != chain || len(got.B) != len(pkt) || got.B[7] != byte(read+i) {
				t.Fatalf("packet %d: %+v", read+i, got)
			}
		}
		read += n
	}
	if n, err := p.Signal().Read(nil); n != 0 || err != nil {
		t.Errorf("into nothing: %d, %v", n, err)
	}
	// The care-of address is not this host's: each failure is told, and the others go on.
	bad := core.Packet{Outer: chain, B: pkt}
	if n, err := p.Signal().Write([]core.Packet{bad, bad}); n != 0 || err == nil {
		t.Errorf("from an address that is not ours: %d sent, %v", n, err)
	}
	if n := p.Dropped(wire.SendFailed); n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
	failed := make(chan error)
	go func() {
		_, err := p.Signal().Read(into)
		failed <- err
	}()
	must(t, p.Signal().Close())
	must(t, p.Signal().Close())
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a reader that waits: %v", err)
	}
	if _, err := p.Signal().Write([]core.Packet{bad}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a writer: %v", err)
	}
	must(t, p.Close())
}

// TestNodeDevice: without Persist the device goes with the plane, also one that persisted before.
func TestNodeDevice(t *testing.T) {
	defer goleak.VerifyNone(t)
	namespaces(t)
	there := func() bool {
		_, err := net.InterfaceByName("mn0")
		return err == nil
	}
	for _, persist := range []bool{true, true, false} {
		p, err := New(Config{Role: Node, Device: "mn0", Persist: persist, Home: []netip.Addr{home6}, Now: func() time.Duration { return time.Hour }})
		must(t, err)
		i, err := net.InterfaceByName("mn0")
		must(t, err)
		if i.MTU != 1280 || i.Flags&net.FlagUp == 0 {
			t.Errorf("%+v, want MTU 1280 and up", i)
		}
		must(t, p.Close())
		if there() != persist {
			t.Errorf("persist %v: the device is there: %v", persist, there())
		}
	}
	if _, err := New(Config{Role: Node, Device: "a-name-that-is-too-long"}); err == nil {
		t.Error("a name that is too long was accepted")
	}
}

// TestNodeDeviceHasIPv6: also where IPv6 is switched off for all links, as some do against broken networks, and where the device of
// an earlier run was switched off since.
func TestNodeDeviceHasIPv6(t *testing.T) {
	defer goleak.VerifyNone(t)
	namespaces(t)
	for range 2 {
		sysctl(t, "ipv6/conf/all/disable_ipv6", "1")
		sysctl(t, "ipv6/conf/default/disable_ipv6", "1")
		p, err := New(Config{Role: Node, Device: "mn0", Persist: true, Home: []netip.Addr{home6}, Now: func() time.Duration { return time.Hour }})
		must(t, err)
		l, err := netlink.LinkByName("mn0")
		must(t, err)
		must(t, netlink.AddrReplace(l, &netlink.Addr{IPNet: &net.IPNet{IP: home6.AsSlice(), Mask: net.CIDRMask(128, 128)}}))
		must(t, p.Close())
	}
	must(t, RemoveDevice("mn0"))
}

// TestSendBatchAllocatesNothing: control messages for the source address as well as everything else.
func TestSendBatchAllocatesNothing(t *testing.T) {
	b := new(sendBatch)
	six := []mem.Packet{{B: message(conformance.LMAA, home6, 135, make([]byte, 16))}}
	four := []mem.Packet{{B: append([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 4, 0, 0}, append(coa4.AsSlice(), conformance.LMAA4.AsSlice()...)...)}}
	if n := testing.AllocsPerRun(100, func() { b.outer6(six, true); b.outer4(four, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
