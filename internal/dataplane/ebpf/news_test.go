package ebpf

import (
	"strings"
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
	once := func() (mac core.MAC) {
		t.Helper()
		out := make([]byte, len(frame)+256)
		var ctx [12]uint32
		ctx[10] = uint32(o.index[0])
		opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: &ctx}
		done := make(chan error)
		o.do <- func() {
			_, err := o.p.k.programs["core"].Run(&opts)
			done <- err
		}
		must(t, <-done)
		return core.MAC(opts.DataOut)
	}
	// The first packet after a change leaves by the kernel's neighbour code, which is not run here: its frame stays as it was.
	to := func() core.MAC {
		t.Helper()
		once()
		return once()
	}
	until(t, "a link that carries", func() bool { return to() == core.MAC{2, 0, 0, 0, 0, 0x99} })
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

// TestStaleNeighbours: a neighbour that got another MAC without a word, while packets flow to it only, is found again, as it is by plain
// routing: behind a tunnel, and at its other end.
func TestStaleNeighbours(t *testing.T) {
	for _, c := range []struct{ name, at, link, address, space string }{
		{"behind the tunnel", "lma", "net0", conformance.CN6.String(), "cn"},
		{"at the other end", "mag", "core0", conformance.LMAA.String(), "lma"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPath(t, false, nil)
			p.sh(c.at, "sysctl -qw net.ipv6.neigh."+c.link+".delay_first_probe_time=1", "sysctl -qw net.ipv6.neigh."+c.link+".retrans_time_ms=100",
				"ip neigh replace "+c.address+" lladdr 02:00:00:00:00:77 dev "+c.link+" nud stale")
			until(t, "the neighbour's own address", func() (found bool) {
				p.in("host", func() error {
					_, _ = command("ping", "-6", "-c", "1", "-W", "0.05", conformance.CN6.String()) // lost until then
					return nil
				})
				p.in(c.at, func() error {
					out, err := command("ip", "neigh", "show", c.address, "dev", c.link)
					found = strings.Contains(out, "lladdr") && !strings.Contains(out, "02:00:00:00:00:77")
					return err
				})
				return found
			})
			p.fast("after", "host", conformance.CN6, "cn")
		})
	}
}
