package homelist

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/nd"
)

// FuzzFrames gives a machine whatever frames: each is a length octet, frame, and seconds that pass. Nothing panics, all tables keep
// their limits, and in the end, when nobody says anything more, nothing is left of it.
func FuzzFrames(f *testing.F) {
	frame := func(src netip.Addr, ra nd.Message) []byte {
		b, err := (&access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: core.MAC{2, 0, 0, 0, 9, 9}, SrcIP: src, DstIP: nd.AllNodes, Body: ra}).Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		return append(append([]byte{byte(len(b))}, b...), 100)
	}
	a, b := frame(agentA, agent(addrA, 100, 5)), frame(agentB, agent(addrB, 60000, 9))
	f.Add(append(append([]byte{}, a...), b...), false)
	f.Add(append(frame(agentA, agent(addrA, 100, 5)), frame(agentA, agent(addrA, 0, 0))...), true)
	f.Add(append(frame(agentA, telling(second, 90000, 9000)), frame(agentA, telling(second, 0, 0))...), false)
	f.Add(frame(agentA, &nd.RouterSolicitation{}), true)
	f.Fuzz(func(t *testing.T, in []byte, advertise bool) {
		r := newRig(t, &stream{}, func(c *Config) { c.Advertise = advertise })
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			b, rest := in[1:1+n], in[1+n:]
			if f, err := access.Decode(b); err == nil && f != nil && f.Body != nil {
				r.m.Frame(r.now, f)
			}
			if in = rest; len(in) > 0 {
				r.pass(time.Duration(in[0]) * time.Second)
				in = in[1:]
			}
			r.sent()
			if len(r.m.list.agents) > MaxAgents || len(r.m.prefixes.known) > MaxPrefixes || len(r.m.prefixes.flags) > MaxAgents {
				t.Fatal("a limit is passed")
			}
			if out, _ := r.m.Candidates(true, false); len(out) == 0 || len(out) > nd.HomeAgentsInMinimumMTU {
				t.Fatalf("%d candidates", len(out))
			}
			if _, err := nd.Append(nil, r.m.Advertisement(r.now, netip.PrefixFrom(home, 64), 1), own, home); err != nil {
				t.Fatal(err)
			}
		}
		r.m.cfg.Advertise, r.m.adv.on = false, false
		r.pass(200000 * time.Second) // longer than any lifetime of a home agent
		if len(r.m.Agents()) != 0 || len(r.m.prefixes.flags) != 0 {
			t.Fatal("somebody is still listed")
		}
	})
}
