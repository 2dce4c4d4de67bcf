package simnet

import (
	"testing"
	"time"

	"kedge/internal/gateway"
)

// A gateway that is killed in the middle of traffic and started again carries every packet that comes after its start, though no
// host shows itself first.
func TestGatewayRestart(t *testing.T) {
	for _, down := range []time.Duration{0, 500 * ms, 5 * sec} {
		t.Run(down.String(), func(t *testing.T) {
			o := options{seed: 31}
			short(&o)
			d := newDomain(t, o)
			h := d.host(1, quiet)
			h.Move(d.airs[0])
			d.Run(10 * sec)
			if err := d.reachable(h, 0); err != nil {
				t.Fatal(err)
			}
			was, events := d.bindings(d.mags[0], h)[0], len(h.Events)
			h.Ping(cn4, 1) // on its way
			d.mags[0].Kill()
			d.Run(down)
			d.start(d.mags[0])
			if is := d.bindings(d.mags[0], h); len(is) != 1 || is[0].Session != was.Session || is[0].State != "active" {
				t.Fatalf("at once the gateway has %+v, had %+v", is, was)
			}
			// The first packets come from the network: nothing of the host has been seen.
			back, there := len(d.cn.Replies), len(h.Replies)
			d.cn.Ping(h.Addr4.Addr(), 2)
			d.cn.Ping(h.Addr6(), 2)
			h.Ping(cn6, 3)
			d.Run(100 * ms)
			if a, b := len(d.cn.Replies)-back, len(h.Replies)-there; a != 2 || b < 1 {
				t.Errorf("%d of 2 and %d of 1 pings were answered", a, b)
			}
			d.Run(3 * sec)
			if is := d.bindings(d.mags[0], h); len(is) != 1 || is[0].Session != was.Session || is[0].Expires.Sub(was.Expires) < down {
				t.Errorf("after the refresh the gateway has %+v, had %+v", is, was)
			}
			if err := d.reachable(h, 0); err != nil {
				t.Error(err)
			}
			if len(h.Events) != events {
				t.Errorf("the host noticed: %v", h.Events[events:])
			}
		})
	}
}

// A host that left while its gateway was down is deregistered; one that went to another gateway keeps its session there.
func TestGatewayRestartWithoutHost(t *testing.T) {
	o := options{seed: 32}
	short(&o)
	d := newDomain(t, o)
	left := d.host(1, quiet)
	moved := d.host(2, quiet)
	left.Move(d.airs[0])
	moved.Move(d.airs[0])
	d.Run(10 * sec)
	d.mags[0].Kill()
	left.Move(nil)
	moved.Move(d.airs[1])
	d.Run(2 * sec)
	d.start(d.mags[0])
	d.Run(6 * sec)
	if err := d.reachable(moved, 1); err != nil {
		t.Error(err)
	}
	for _, n := range d.Nodes() {
		if bs := d.bindings(n, left); len(bs) != 0 && bs[0].State != "deprecated" {
			t.Errorf("%s still has %+v", n.Name, bs)
		}
	}
	if bs := d.bindings(d.mags[0], moved); len(bs) != 0 {
		t.Errorf("mag1 still has %+v", bs)
	}
}

// Without its store a gateway begins with nothing, and each host comes back with its first packet.
func TestGatewayLosesStore(t *testing.T) {
	o := options{seed: 33}
	short(&o)
	restart := uint32(1)
	with := o.gateway
	o.gateway = func(i int, c *gateway.Config) {
		with(i, c)
		c.Restart = restart
	}
	d := newDomain(t, o)
	h := d.host(1, quiet)
	h.Move(d.airs[0])
	d.Run(10 * sec)
	restart = 99 // the wall clock
	d.mags[0].Kill()
	d.mags[0].LoseStore()
	d.start(d.mags[0])
	d.Run(sec)
	if bs := d.bindings(d.mags[0], h); len(bs) != 0 {
		t.Errorf("the gateway has %+v", bs)
	}
	h.Ping(cn4, 9)
	d.Run(sec)
	if err := d.reachable(h, 0); err != nil {
		t.Error(err)
	}
}

func quiet(c *HostConfig) { c.Quiet = true }
