package ebpf

import (
	"testing"

	"github.com/cilium/ebpf"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// TestWays: the programs remember the way to a tunnel's other end, and forget it when the neighbour, the route or the link changes:
// here time stands still, so that nothing is forgotten by age.
func TestWays(t *testing.T) {
	o := newOracle(t, dataplane.Anchor)
	frame := append(append(append([]byte{}, o.mac[0][:]...), 2, 0, 0, 0, 0, 0x99, 0x86, 0xdd), udp6(conformance.CN6, conformance.H16)...)
	to := func() (mac core.MAC) {
		t.Helper()
		out := make([]byte, len(frame)+256)
		var ctx [12]uint32
		ctx[10] = uint32(o.index[0])
		opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: &ctx}
		done := make(chan error)
		o.do <- func() {
			_, err := o.p.k.core.Run(&opts)
			done <- err
		}
		must(t, <-done)
		return core.MAC(opts.DataOut)
	}
	if got := to(); got != (core.MAC{2, 0, 0, 0, 0, 0x99}) {
		t.Fatalf("to %v", got)
	}
	for _, c := range []struct {
		name, change string
		want         core.MAC
	}{
		{"neighbour", "ip neigh replace fe80::99 lladdr 02:00:00:00:00:98 dev core0 nud permanent", core.MAC{2, 0, 0, 0, 0, 0x98}},
		{"another neighbour", "ip neigh replace fe80::66 lladdr 02:00:00:00:00:66 dev acc1 nud permanent", core.MAC{2, 0, 0, 0, 0, 0x98}},
		{"route", "ip route add 2001:db8:a::/64 via fe80::66 dev acc1", core.MAC{2, 0, 0, 0, 0, 0x66}},
		{"rule", "ip -6 rule add to 2001:db8:a::/64 prohibit pref 10", o.mac[0]}, // not sent at all: the frame stays as it was
		{"rule gone", "ip -6 rule del pref 10", core.MAC{2, 0, 0, 0, 0, 0x66}},
		{"link gone", "ip link del acc1", core.MAC{2, 0, 0, 0, 0, 0x98}},
	} {
		o.sh("r", c.change)
		until(t, c.name, func() bool { return to() == c.want })
	}
}
