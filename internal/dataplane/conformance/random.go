package conformance

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"

	"pgregory.net/rapid"
)

// tries is how often a hundred random states are tried.
var tries = func() int {
	if os.Getenv("KEDGE_LONG") != "" {
		return 30
	}
	return 1
}()

// Compare gives a back end and the oracle random sessions and random packets, whole and broken ones, and wants the same of both: what comes
// out, what is counted, what is dropped. exact: for the same reason also.
func Compare(t *testing.T, f, oracle Factory, exact bool) {
	for _, o := range []Options{anchor, both(gateway), node} {
		t.Run([...]string{"anchor", "gateway", "node"}[o.Role], func(t *testing.T) {
			p := &pair{TB: t, r: f(t, o), oracle: oracle(t, o), exact: exact, ids: []core.ID{1, 2, 3, 4}, seen: map[string]int{}}
			try := func(t *rapid.T) {
				p := *p
				p.TB = rapidTB{p.TB, t}
				p.clear()
				var now []encap // where sessions go
				for range rapid.IntRange(1, 4).Draw(t, "rounds") {
					for range rapid.IntRange(4, 16).Draw(t, "ops") {
						op := drawOp(t, o.Role)
						if set, ok := op(p.oracle)[0].(core.SetSession); ok {
							now = append(now, encap{chain: set.Chain})
						}
						p.update(op)
					}
					var in []Packet
					for range rapid.IntRange(1, 24).Draw(t, "packets") {
						in = append(in, drawPacket(t, o.Role, now))
					}
					p.volley(in)
					after := time.Duration(rapid.SampledFrom([]int{0, 1, 499, 500}).Draw(t, "ms")) * time.Millisecond
					p.r.Advance(after)
					p.oracle.Advance(after)
				}
			}
			for range tries {
				rapid.Check(t, try)
			}
			t.Logf("%v", p.seen)
			for _, what := range []string{"native", "tunnel", "errors", "dropped"} {
				if p.seen[what] < 50 {
					t.Errorf("too little was tried: %v", p.seen)
				}
			}
		})
	}
}

// rapidTB fails a try, which is then made smaller.
type rapidTB struct {
	testing.TB
	t *rapid.T
}

func (r rapidTB) Errorf(f string, a ...any) { r.t.Errorf(f, a...) }
func (r rapidTB) Fatalf(f string, a ...any) { r.t.Fatalf(f, a...) }
func (r rapidTB) Fatal(a ...any)            { r.t.Fatal(a...) }
func (r rapidTB) Failed() bool              { return r.t.Failed() }

// both gives a gateway addresses of both families.
func both(o Options) Options { o.IPv4 = true; return o }

// ends are the encapsulations of a role, and as many to another end.
func endsOf(r dataplane.Role) (out []encap) {
	for _, e := range encapsOf(r) {
		out = append(out, e)
		for i := range e.chain.Layer[:e.chain.N] {
			l := &e.chain.Layer[i]
			switch l.Remote.Addr() {
			case CoA1:
				l.Remote = ap(CoA2, l.Remote.Port())
			case CoA4:
				l.Remote = ap(NAT4, l.Remote.Port())
			case NAT4:
				l.Remote = ap(NAT4, l.Remote.Port()+1)
			case LMAA:
				l.Remote = ap(LMAA.Next(), l.Remote.Port())
			case LMAA4:
				l.Remote = ap(NAT4, l.Remote.Port())
			}
		}
		out = append(out, e)
	}
	return out
}

var (
	drawnKeys  = []netip.Prefix{HNP1, host(H16), host(H14), HNP2, host(H24), netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("2001:db8:1000::/60")}
	drawnHomes = []netip.Addr{H16, H16, HNP1.Addr().Next(), H26, H36, H14, H14, H24, H34, Nobody, Nemo4}
)

// drawOp is one op, for the interface indices of any router.
func drawOp(t *rapid.T, role dataplane.Role) func(r Router) []core.Op {
	id := core.ID(rapid.IntRange(1, 4).Draw(t, "id"))
	link := rapid.IntRange(1, 2).Draw(t, "link")
	mac := map[int]core.MAC{1: Host1, 2: Host2}[link]
	key := rapid.SampledFrom(drawnKeys).Draw(t, "key")
	match := func(r Router) core.Match {
		switch role {
		case dataplane.Anchor:
			return core.Match{Dst: key}
		case dataplane.Gateway:
			return core.Match{Src: key, If: r.If(link), MAC: mac}
		}
		return core.Match{Src: key}
	}
	switch kind := rapid.IntRange(0, 9).Draw(t, "op"); {
	case kind < 4:
		set := core.SetSession{ID: id, Chain: rapid.SampledFrom(endsOf(role)).Draw(t, "end").chain, Grace: time.Duration(rapid.SampledFrom([]int{0, 3000}).Draw(t, "grace")) * time.Millisecond}
		set.Chain.MTU = rapid.SampledFrom([]uint16{0, 0, 1400}).Draw(t, "mtu")
		if rapid.Bool().Draw(t, "with a key") {
			return func(r Router) []core.Op {
				set := set
				if role == dataplane.Gateway {
					set.If, set.MAC = r.If(link), mac
				}
				return []core.Op{set, core.SetKey{ID: id, Match: match(r), Up: true, Down: true}}
			}
		}
		return func(r Router) []core.Op {
			set := set
			if role == dataplane.Gateway {
				set.If, set.MAC = r.If(link), mac
			}
			return []core.Op{set}
		}
	case kind < 8:
		up, down := rapid.Bool().Draw(t, "up"), rapid.Bool().Draw(t, "down")
		if rapid.Bool().Draw(t, "both") {
			up, down = true, true
		}
		return func(r Router) []core.Op {
			return []core.Op{core.SetKey{ID: id, Match: match(r), Up: up, Down: down}}
		}
	case kind == 8:
		return func(r Router) []core.Op { return []core.Op{core.Drop{Match: match(r)}} }
	}
	return func(Router) []core.Op { return []core.Op{core.Drop{ID: id}} }
}

// drawPacket is one for either side.
func drawPacket(t *rapid.T, role dataplane.Role, now []encap) Packet {
	home := rapid.SampledFrom(drawnHomes).Draw(t, "home")
	other := CN6
	if home.Is4() {
		other = CN4
	}
	if rapid.IntRange(0, 3).Draw(t, "to a home") == 0 {
		if o := rapid.SampledFrom(drawnHomes).Draw(t, "other home"); o.Is4() == home.Is4() {
			other = o
		}
	}
	native := rapid.Bool().Draw(t, "native")
	src, dst := home, other
	if native == (role == dataplane.Anchor) {
		src, dst = other, home
	}
	s := &sheet{serial: rapid.IntRange(1, 1<<12).Draw(t, "serial")}
	k := rapid.SampledFrom([]kind{kindUDP, kindUDP, kindTCP, kindTCP, kindEcho, kindOther, kindSCTP, kindIPIP, kindESP, kindGRE}).Draw(t, "kind")
	least := headerLen(src) + k.least
	n := least + rapid.SampledFrom([]int{0, 1, 2, 99, 1000, 1240, 1331, 1372}).Draw(t, "payload")
	h := hdr{id: uint16(s.serial), df: rapid.Bool().Draw(t, "df"), tos: rapid.Byte().Draw(t, "tos"), hop: rapid.SampledFrom([]int{64, 64, 2, 255}).Draw(t, "hop")}
	if role != dataplane.Anchor {
		h.hop = rapid.SampledFrom([]int{64, 64, 1, 2, 255}).Draw(t, "hop")
	}
	if native {
		b := s.of(k, src, dst, h, min(n, 1500))
		// Between a correspondent node and an anchor's data plane is a kernel, which wants whole packets.
		if role != dataplane.Anchor {
			b = broken(t, b)
		}
		p := Packet{Side: Native, B: b}
		if role == dataplane.Gateway {
			p.Link = rapid.IntRange(1, 2).Draw(t, "from link")
			p.MAC = rapid.SampledFrom([]core.MAC{Host1, Host1, Host2, Host2, Stranger}).Draw(t, "mac")
		}
		return p
	}
	if len(now) == 0 || rapid.IntRange(0, 3).Draw(t, "any tunnel") == 0 {
		now = endsOf(role)
	}
	e := rapid.SampledFrom(now).Draw(t, "tunnel")
	b := broken(t, s.of(k, src, dst, h, min(n, pathMTU-e.head())))
	if role == dataplane.Anchor {
		b = routed(b, dst)
	}
	b = b[:min(len(b), pathMTU-e.head())]
	if rapid.IntRange(0, 5).Draw(t, "alien") == 0 {
		for i := range e.chain.Layer[:e.chain.N] {
			l := &e.chain.Layer[i]
			l.Remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[l.Remote.Addr().Is4()], l.Remote.Port())
		}
	}
	tos := rapid.Byte().Draw(t, "outer tos")
	return fromCore(e.wrap(b, hdr{id: 7, tos: tos}, true, role == dataplane.Anchor))
}

// broken changes a packet, or not: a few octets in it, its length fields, its end, or it becomes the innermost of a few.
func broken(t *rapid.T, b []byte) []byte {
	b = slices.Clone(b)
	switch rapid.IntRange(0, 12).Draw(t, "broken") {
	case 0:
		return b[:rapid.IntRange(2, len(b)).Draw(t, "cut")]
	case 1:
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			b[rapid.IntRange(0, min(len(b), 70)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "octet")
		}
		return mended(b, rapid.Bool().Draw(t, "mended"))
	case 2:
		at := 4
		if b[0]>>4 == 4 {
			at = 2
		}
		b[at], b[at+1] = byte(rapid.IntRange(0, 7).Draw(t, "length")), rapid.Byte().Draw(t, "length")
		return mended(b, true)
	case 3:
		for range rapid.IntRange(1, 3).Draw(t, "depth") {
			b = v6(H16, CN6, map[bool]byte{true: 4, false: 41}[b[0]>>4 == 4], hdr{}, b)
			if len(b) > 1400 {
				break
			}
		}
		return b
	case 4: // padding
		return append(b, make([]byte, rapid.IntRange(1, 40).Draw(t, "padding"))...)
	}
	return b
}

// routed is a packet that a kernel which forwards it has nothing to say about: neither its destination nor its options.
func routed(b []byte, dst netip.Addr) []byte {
	switch {
	case b[0]>>4 == 4 && len(b) >= 20:
		b[0] = 0x45
		if b[8] < 2 {
			b[8] = 64
		}
		copy(b[16:], dst.AsSlice()[:4])
		return mended(b, plainSum(b[:20]) != 0)
	case b[0]>>4 == 6 && len(b) >= 40:
		if b[6] == 0 {
			b[6] = 59
		}
		b[7] = max(b[7], 2)
		if dst.Is6() {
			copy(b[24:], dst.AsSlice())
		}
	}
	return b
}

// mended puts the checksum of an IPv4 header right, so that what else is wrong is seen.
func mended(b []byte, do bool) []byte {
	if n := int(b[0]&15) * 4; do && len(b) > 0 && b[0]>>4 == 4 && n >= 20 && n <= len(b) {
		b[10], b[11] = 0, 0
		s := plainSum(b[:n])
		b[10], b[11] = byte(s>>8), byte(s)
	}
	return b
}
