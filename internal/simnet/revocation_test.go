package simnet

import (
	"testing"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/gateway"
	"kedge/internal/spec"
)

const rtt = 2 * oneWay

// settled lets a host live on the first link until nothing is fresh any more.
func settled(t testing.TB, o options, change ...func(*HostConfig)) (*domain, *Host) {
	d := newDomain(t, o)
	h := d.host(10, change...)
	h.Move(d.airs[0])
	d.Run(10 * sec)
	d.at(h, 0)
	return d, h
}

// serves says whether the anchor and a gateway both have the host there, and the anchor's packets reach it.
func (d *domain) serves(h *Host, i int) bool {
	bs, gs := d.bindings(d.lma, h), d.bindings(d.mags[i], h)
	return len(bs) == 1 && bs[0].State == "active" && bs[0].ProxyCoA == magAddr(i) && len(gs) == 1 && (gs[0].State == "active" || gs[0].State == "refreshing")
}

// chatter has the host send a packet now and every 20 ms, as a host with a connection does.
func (d *domain) chatter(h *Host, end time.Duration) {
	h.Ping(cn6, 9)
	if d.Elapsed() < end {
		d.After(20*ms, func() { d.chatter(h, end) })
	}
}

// TestReturnWithin100ms: gateway 1, 2 and back to 1, with every stay at 2 of up to 100 ms, silently and with carrier. The
// path is right two round trips after the return, and most often after one: what the host left behind is never waited for.
func TestReturnWithin100ms(t *testing.T) {
	spec.Covers(t, "RFC5846-3.4.1", "RFC5846-9.1")
	go1 := map[string]func(h *Host, a *Air){
		"silent": func(h *Host, a *Air) { h.Slide(a); h.Ping(cn6, 1) },
		"flap":   func(h *Host, a *Air) { h.Move(a) },
	}
	for how, move := range go1 {
		worst, slow := time.Duration(0), 0
		for stay := time.Duration(0); stay <= 100*ms; stay += ms {
			d, h := settled(t, options{seed: uint64(stay), quiet: true}, func(c *HostConfig) { c.Quiet = true })
			v4, v6, events := h.Addr4, h.Addr6(), len(h.Events)
			move(h, d.airs[1])
			d.Run(stay)
			move(h, d.airs[0])
			back := d.Elapsed()
			d.chatter(h, back+200*ms)
			d.Run(12 * ms) // what was under way from gateway 2 has arrived: now the anchor's mind is its last
			if !d.RunUntil(200*ms, func() bool { return d.serves(h, 0) && !d.serves(h, 1) }) {
				t.Fatalf("%s, stay of %v: never right\n%s", how, stay, d.Trace)
			}
			took := d.Elapsed() - back
			if worst = max(worst, took); took > rtt+3*ms {
				slow++
			}
			if took > 2*rtt+2*ms {
				t.Errorf("%s, stay of %v: right after %v\n%s", how, stay, took, d.Trace)
			}
			d.Run(sec)
			d.pings(h)
			d.Run(30 * sec)
			d.at(h, 0)
			if h.Addr4 != v4 || h.Addr6() != v6 || len(h.Events) != events {
				t.Errorf("%s, stay of %v: the host noticed: %v", how, stay, h.Events)
			}
		}
		t.Logf("%s: worst %v; more than one round trip in %d of 101", how, worst, slow)
	}
}

// TestReturnWithFaults: the same with revocations lost, doubled, late by anything, and with the new registration overtaken.
// In the end the host is where it is, and within what the faults allow.
func TestReturnWithFaults(t *testing.T) {
	spec.Covers(t, "RFC5846-6.3", "RFC5846-9.1")
	for name, c := range map[string]struct {
		fault func(d *domain)
		bound time.Duration // from the return
	}{
		"none":                     {func(*domain) {}, 2*rtt + 2*ms},
		"BRI lost":                 {func(d *domain) { d.core.Fault(Nth(1, All(BRI, To("mag1")), Lose)) }, sec + 2*rtt},
		"every BRI lost":           {func(d *domain) { d.core.Fault(If(BRI, Lose)) }, 4 * sec},
		"BRI doubled":              {func(d *domain) { d.core.Fault(If(BRI, Twice(0))) }, 2*rtt + 2*ms},
		"BRI doubled, 30 ms later": {func(d *domain) { d.core.Fault(If(BRI, Twice(30*ms))) }, 2*rtt + 2*ms},
		"BRI doubled, 5 s later":   {func(d *domain) { d.core.Fault(If(BRI, Twice(5*sec))) }, 2*rtt + 2*ms},
		"BRI doubled, 60 s later":  {func(d *domain) { d.core.Fault(If(BRI, Twice(60*sec))) }, 2*rtt + 2*ms},
		"BRI late by 20 ms":        {func(d *domain) { d.core.Fault(Nth(1, BRI, Late(20*ms))) }, 100 * ms},
		"BRI late by 70 ms":        {func(d *domain) { d.core.Fault(Nth(1, BRI, Late(70*ms))) }, 150 * ms},
		"BRI late by 5 s":          {func(d *domain) { d.core.Fault(Nth(1, BRI, Late(5*sec))) }, sec + 2*rtt},
		"BRA lost":                 {func(d *domain) { d.core.Fault(Nth(1, BRA, Lose)) }, 2*rtt + 2*ms},
		"BRA doubled, 1 s later":   {func(d *domain) { d.core.Fault(If(BRA, Twice(sec))) }, 2*rtt + 2*ms},
		"PBU behind the BRI":       {func(d *domain) { d.core.Fault(If(All(PBU, From("mag1")), Late(15*ms))) }, 3*rtt + 20*ms},
		"PBA to the second lost":   {func(d *domain) { d.core.Fault(Nth(1, All(PBA, To("mag2")), Lose)) }, 3 * sec},
		"gateway does not revoke":  {func(*domain) {}, 4 * sec},
		"anchor does not revoke":   {func(*domain) {}, 4 * sec},
	} {
		t.Run(name, func(t *testing.T) {
			for _, stay := range []time.Duration{ms, 6 * ms, 11 * ms, 16 * ms, 40 * ms, 100 * ms} {
				o := options{seed: uint64(stay), quiet: true}
				switch name {
				case "gateway does not revoke":
					o.gateway = func(_ int, c *gateway.Config) { c.NoRevocation = true }
				case "anchor does not revoke":
					o.anchor = func(c *anchor.Config) { c.PMIP6.NoRevocation = true }
				}
				d, h := settled(t, o)
				c.fault(d)
				h.Slide(d.airs[1])
				h.Ping(cn6, 1)
				d.Run(stay)
				h.Slide(d.airs[0])
				back := d.Elapsed()
				d.chatter(h, back+30*sec)
				d.Run(12 * ms)
				if !d.RunUntil(10*sec, func() bool { return d.serves(h, 0) }) {
					t.Fatalf("stay of %v: never right\n%s", stay, d.Trace)
				}
				if took := d.Elapsed() - back; took > c.bound {
					t.Errorf("stay of %v: right after %v, want %v\n%s", stay, took, c.bound, d.Trace)
				}
				d.Run(100 * sec)
				d.at(h, 0)
				d.pings(h)
				if bs := d.bindings(d.mags[1], h); len(bs) != 0 {
					t.Errorf("stay of %v: gateway 2 still has %+v", stay, bs)
				}
				if len(h.Events) != 2 {
					t.Errorf("stay of %v: the host noticed: %v", stay, h.Events)
				}
			}
		})
	}
}

// TestQuietReturn: a host that comes back before its gateway is told, and says nothing: the gateway asks it once.
func TestQuietReturn(t *testing.T) {
	d, h := settled(t, options{})
	h.Slide(d.airs[1])
	h.Ping(cn6, 1)
	d.Run(7 * ms) // gateway 1 is told at 10 ms
	h.Slide(d.airs[0])
	d.Run(40 * ms)
	d.at(h, 0)
	d.pings(h)
}

// TestRevocationOfOneHost: other hosts of the former gateway do not notice.
func TestRevocationOfOneHost(t *testing.T) {
	d := newDomain(t, options{})
	var hs []*Host
	for n := range 5 {
		h := d.host(10 + n)
		h.Move(d.airs[0])
		hs = append(hs, h)
	}
	d.Run(10 * sec)
	hs[2].Move(d.airs[1])
	d.Run(sec)
	for n, h := range hs {
		i := 0
		if n == 2 {
			i = 1
		}
		d.at(h, i)
		d.pings(h)
		if bs := d.bindings(d.mags[1-i], h); len(bs) != 0 {
			t.Errorf("host %d: the other gateway has %+v", n, bs)
		}
	}
	if n := d.status(d.mags[0]).Counters["revocations"]; n != 1 {
		t.Errorf("%d revocations, want one", n)
	}
}

// TestSupposedHandover: another interface of a host attaches, and nobody can know whether the first is still there. Its
// gateway is asked, and asks it: the answer, either way, comes long before MaxDelayBeforeNewBCEAssign.
func TestSupposedHandover(t *testing.T) {
	spec.Covers(t, "RFC5846-8.1", "RFC5846-9.1")
	for _, stays := range []bool{true, false} {
		d := quietDomain(t, alice)
		one, two := d.host(10, func(c *HostConfig) { c.No4 = true }), d.host(11, func(c *HostConfig) { c.No4 = true })
		one.Move(d.airs[0])
		d.Run(10 * sec)
		first := one.Addrs6[0].Prefix
		if !stays {
			one.Move(nil)
		}
		two.Move(d.airs[1])
		d.Run(sec)
		want := 2
		if !stays {
			want = 1
		}
		if bs := d.bindings(d.lma, nil); len(bs) != want || len(two.Addrs6) != 1 || (two.Addrs6[0].Prefix == first) == stays {
			t.Errorf("stays %v: the second interface has %v; %+v", stays, two.Addrs6, bs)
		}
		d.pings(two)
		if stays {
			d.pings(one)
		}
	}
}
