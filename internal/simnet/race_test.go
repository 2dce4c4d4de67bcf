package simnet

import (
	"bytes"
	"testing"

	"kedge/wire/ip"
)

// TestSpoiledCopies: somebody next to the node sees each Binding Update first and sends a spoiled copy that overtakes it. The
// home agent must say that authentication failed (RFC 4285 5.3); the node must not take that for the answer to its own.
func TestSpoiledCopies(t *testing.T) {
	for _, p := range secured {
		t.Run(string(p), func(t *testing.T) {
			a := attack(t, roamOptions{seed: 14, protection: p}, "six")
			spoiled := 0
			for _, v := range a.nets {
				v.Fault(func(p *Packet) Verdict {
					h, err := ip.Parse(p.B)
					if p.Kind != Tunnel || p.From != "mn1" || err != nil || !signals(p.B) || h.Dst != ha6 {
						return Verdict{}
					}
					b := bytes.Clone(p.B)
					b[len(b)-1-4] ^= 1
					spoiled++
					a.core.carry(&Packet{Kind: Tunnel, From: "mallory", Src: h.Src, Dst: h.Dst, B: b})
					return Verdict{}
				})
			}
			for _, name := range []string{"six2", "six", "dual"} {
				a.mn.Iface("wl0").Attach(a.nets[name])
				t.Logf("%s: reachable after %v", name, a.bound(3*sec))
			}
			if spoiled < 3 {
				t.Errorf("%d copies", spoiled)
			}
		})
	}
}

// TestCrashAmidHandovers: a home agent, or a node, that dies just after several registrations in a second refuses old sequence
// numbers of ESP when it is back, but not the next ones.
func TestCrashAmidHandovers(t *testing.T) {
	for _, p := range secured {
		for _, crash := range []string{"ha1", "mn1"} {
			t.Run(string(p)+" "+crash, func(t *testing.T) {
				r := newRoam(t, roamOptions{seed: 15, protection: p})
				wl := r.mn.Iface("wl0")
				wl.Attach(r.nets["six"])
				r.bound(5 * sec)
				r.Run(10 * sec)
				for _, name := range []string{"six2", "nat", "dual", "six", "four", "six2"} {
					wl.Attach(r.nets[name])
					r.Run(300 * ms)
				}
				n := r.ha
				if crash == "mn1" {
					n = r.mn
				}
				n.Kill()
				r.Run(100 * ms)
				r.start(n)
				wl.Attach(r.nets["nat"])
				t.Logf("reachable after %v", r.bound(sec))
			})
		}
	}
}
