package conformance

import (
	"math/rand/v2"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// Fuzzed shows a back end the corpus, as it is and with octets changed, with a session in each encapsulation, and wants of it what the oracle
// does. top is where the repository is, seen from the test's folder.
func Fuzzed(t *testing.T, f, oracle Factory, exact bool, top string) {
	for _, o := range []Options{anchor, both(gateway), node} {
		t.Run([...]string{"anchor", "gateway", "node"}[o.Role], func(t *testing.T) {
			p := &pair{TB: t, r: f(t, o), oracle: oracle(t, o), exact: exact, ids: []core.ID{1, 2}, seen: map[string]int{}}
			native, tunnel := Corpus(t, o.Role, top)
			rnd := rand.New(rand.NewPCG(3, uint64(o.Role)))
			for _, e := range encapsOf(o.Role) {
				p.clear()
				p.update(func(r Router) []core.Op { return homesOf(o.Role, e.chain, r) })
				for range tries {
					for round := range 2 {
						var in []Packet
						if o.Role != dataplane.Anchor { // there, a kernel is between
							for _, b := range native {
								b = change(rnd, b, round*3)
								if len(b) >= 20 { // no kernel sends less
									in = append(in, site{role: o.Role}.native(b))
								}
							}
						}
						for _, b := range tunnel {
							b = change(rnd, b, round*3)
							if ours(b, o.Role) {
								in = append(in, fromCore(b))
							}
						}
						p.volley(in)
						if t.Failed() {
							return
						}
					}
				}
			}
			t.Logf("%v", p.seen)
		})
	}
}

// homesOf are the ops of a session of host 1.
func homesOf(role dataplane.Role, c core.Chain, r Router) (ops []core.Op) {
	set := core.SetSession{ID: sessionOne, Chain: c}
	if role == dataplane.Gateway {
		set.If, set.MAC = r.If(1), Host1
	}
	ops = append(ops, set)
	for _, f := range families {
		m := core.Match{Src: host(f.one), If: set.If, MAC: set.MAC}
		if role == dataplane.Anchor {
			m = core.Match{Dst: host(f.one)}
		}
		ops = append(ops, core.SetKey{ID: sessionOne, Match: m, Up: true, Down: true})
	}
	return ops
}

// change changes up to n octets of a packet.
func change(rnd *rand.Rand, b []byte, n int) []byte {
	b = slices.Clone(b)
	for range min(n, len(b)) {
		b[rnd.IntN(min(len(b), 110))] = byte(rnd.Uint32())
	}
	if len(b) >= 2 && rnd.IntN(2) == 0 {
		return mended(b, true)
	}
	return b
}

// ours: the outer header of a packet is one that a kernel hands to those who ask for tunnel packets to the router. What else there is, it
// answers or forwards in its own ways.
func ours(b []byte, role dataplane.Role) bool {
	head, proto := 40, byte(0)
	switch {
	case len(b) >= 20 && b[0] == 0x45 && plainSum(b[:20]) == 0 && b[6]&0xbf == 0 && b[7] == 0:
		n := int(b[2])<<8 | int(b[3])
		if n < 20 || n > len(b) {
			return false
		}
		head, proto, b = 20, b[9], b[:n]
	case len(b) >= 40 && b[0]>>4 == 6:
		n := 40 + int(b[4])<<8 + int(b[5])
		if n > len(b) {
			return false
		}
		proto, b = b[6], b[:n]
	default:
		return false
	}
	src, dst, _ := addresses(b)
	if !slices.ContainsFunc(encapsOf(role), func(e encap) bool { return e.outermost().Local.Addr() == dst }) ||
		!slices.ContainsFunc(endsOf(role), func(e encap) bool { return e.outermost().Remote.Addr() == src }) {
		return false // of strangers Compare shows more
	}
	switch proto {
	case 4, 41:
		return !forwardedOddly(b[head:], role)
	case 17:
		at := head + 8
		return len(b) >= at && int(b[head+4])<<8|int(b[head+5]) == len(b)-head && (int(b[head+2])<<8|int(b[head+3])) == port && pseudoSum(src, dst, 17, b[head:]) == 0 && !forwardedOddly(b[at:], role)
	}
	return false
}

// forwardedOddly: a packet for which an anchor's kernel has rules of its own.
func forwardedOddly(b []byte, role dataplane.Role) bool {
	if role != dataplane.Anchor || len(b) < 20 {
		return false
	}
	if b[0]>>4 == 4 {
		_, dst, _ := addresses(b)
		return b[0] != 0x45 || b[8] < 2 || dst != CN4 && dst != H24
	}
	if len(b) < 40 {
		return false
	}
	_, dst, _ := addresses(b)
	return b[6] == 0 || b[7] < 2 || dst != CN6 && dst != H26
}
