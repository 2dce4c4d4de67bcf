package mem

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// TestAgain: an engine that remembers what became of the packet before does with each what one does that forgets, while sessions
// move, go and come, and graces end.
func TestAgain(t *testing.T) {
	coa2 := netip.MustParseAddr("2001:db8:b::2")
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
		r := rand.New(rand.NewPCG(7, uint64(role)))
		near, far, far2 := lmaa, coa, coa2
		if role != dataplane.Anchor {
			near, far = coa, lmaa
		}
		cfg := Config{Forwarded: true, MTU: 1400, Home: []netip.Addr{home6}}
		session := func(remote netip.Addr, port uint16) core.Op {
			op := core.SetSession{ID: 1, Grace: 5 * time.Second, Chain: core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(near, port), Remote: netip.AddrPortFrom(remote, port)}}}}
			if role == dataplane.Gateway {
				op.If, op.MAC = 1, hostA
			}
			return op
		}
		key := func(up, down bool) core.Op {
			m := core.Match{Dst: netip.PrefixFrom(home6, 64).Masked()}
			if role == dataplane.Gateway {
				m = core.Match{Src: m.Dst, If: 1, MAC: hostA}
			} else if role == dataplane.Node {
				m = core.Match{Src: m.Dst}
			}
			return core.SetKey{ID: 1, Match: m, Up: up, Down: down}
		}
		var engines [2]*Engine
		for i := range engines {
			if role != dataplane.Node {
				engines[i] = newEngine(t, role, cfg)
				continue
			}
			cfg.Role = role
			n, err := New(cfg)
			if err == nil {
				err = n.Update([]core.Op{session(far, 0), key(true, true)})
			}
			if err != nil {
				t.Fatal(err)
			}
			engines[i] = n
		}
		e, f := engines[0], engines[1]
		now, like, passed, remembered := time.Hour, 0, 0, 0
		clock := func() time.Duration { return now }
		e.cfg.Now, f.cfg.Now = clock, clock
		var kept Out
		var o Outer
		var pkt []byte
		for range 60000 {
			if r.IntN(40) == 0 {
				ops := [][]core.Op{
					{session(far, 0)}, {session(far, 4191)}, {session(far2, 0)}, {core.Drop{ID: 1}}, {key(false, true)}, {key(true, false)}, {key(true, true)},
					{session(far, 0), key(true, true)},
				}[r.IntN(8)]
				a, b := e.Update(ops), f.Update(ops)
				if (a == nil) != (b == nil) {
					t.Fatal(a, b)
				}
			}
			if r.IntN(10) == 0 {
				now += time.Duration(r.IntN(3000)) * time.Millisecond
			}
			if like--; like < 0 || pkt == nil {
				like = r.IntN(12)
				src, dst := cn6, home6
				if r.IntN(3) == 0 {
					src, dst = cn4, home4
				}
				if role == dataplane.Anchor {
					src, dst = dst, src
				}
				remote, port := far, uint16(0)
				if r.IntN(5) == 0 {
					remote = far2
				}
				o = Outer{TOS: uint8(r.IntN(4)), Proto: inner(src), Offload: r.IntN(2) == 0}
				if r.IntN(3) == 0 {
					o.Proto, port = ip.UDP, 4191
				}
				o.Local, o.Remote = netip.AddrPortFrom(near, port), netip.AddrPortFrom(remote, port)
				pkt = superPacket(t, src, dst, []uint8{ip.TCP, ip.UDP, ip.ICMPv6}[r.IntN(3)], r.IntN(1500), r.IntN(2) == 0)
				if r.IntN(2) == 0 { // as a device leaves it
					h, err := ip.Parse(pkt)
					if err != nil {
						t.Fatal(err)
					}
					if off := map[uint8]int{ip.TCP: 16, ip.UDP: 6}[h.Proto]; off != 0 {
						sum := ip.PartialChecksum(src, dst, h.Proto, h.Len-h.HdrLen)
						pkt[h.HdrLen+off], pkt[h.HdrLen+off+1] = byte(sum>>8), byte(sum)
					}
				}
			}
			this := bytes.Clone(pkt)
			switch r.IntN(8) {
			case 0: // one octet of the headers, often one that does not matter
				this[r.IntN(28)] ^= 1 << r.IntN(8)
			case 1:
				this = this[:r.IntN(len(this)+1)]
			case 2:
				ip.SetTOS(this, uint8(r.IntN(4)))
			}
			same := bytes.Clone(this)
			kept.Reset()
			if kept.fate.e != nil && kept.fate.o == o {
				remembered++
			}
			e.Decapsulate(now, o, this, &kept)
			var fresh Out
			f.Decapsulate(now, o, same, &fresh)
			if d := cmp.Diff(joined(&fresh), joined(&kept)); d != "" {
				t.Fatalf("role %d: %+v\n%s", role, o, d)
			}
			passed += len(fresh.Packets)
		}
		for i := range e.drops {
			if e.drops[i].Load() != f.drops[i].Load() {
				t.Errorf("role %d, %s: %d, want %d", role, reasons[i], e.drops[i].Load(), f.drops[i].Load())
			}
		}
		a, b := e.tables.sessions[1], f.tables.sessions[1]
		if (a == nil) != (b == nil) || a != nil && (a.count.pIn.Load() != b.count.pIn.Load() || a.count.oIn.Load() != b.count.oIn.Load()) {
			t.Errorf("role %d: counters differ", role)
		}
		if passed < 3000 || remembered < 3000 {
			t.Errorf("role %d: %d packets passed, %d met a memory: too few", role, passed, remembered)
		}
	}
}
