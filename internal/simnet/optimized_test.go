package simnet

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/internal/node/optimize"
	"kedge/internal/peer"
	"kedge/internal/signal"
	"kedge/internal/spec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Route optimization among whole machines: node, home agent and correspondent, with codecs and data planes.

var (
	cnr     = netip.MustParseAddr("2001:db8:d::99")
	cn1Home = netip.MustParsePrefix("2001:db8:2000::/48")
)

const (
	directRTT  = 2 * (roamLatency + ms)               // node, access link, core
	throughRTT = 2 * (roamLatency + ms + roamLatency) // and once more the core, behind the home agent
)

// straight is a roam with a correspondent that knows Mobile IPv6.
type straight struct {
	*roam
	cn1   *Node
	way   []string                   // of echoes of the node that reached the correspondent: direct, through
	seen  map[uint16]bool            // echoes of the node that came back
	heard map[uint16]bool            // echoes of the correspondent that came back
	sent  map[uint16]bool            // by either
	kinds map[string][]time.Duration // when messages of signalling left
	phase []time.Duration            // how long set-up took, each time
	seq   uint16
}

func newStraight(t testing.TB, o roamOptions) *straight {
	t.Helper()
	s := &straight{seen: map[uint16]bool{}, heard: map[uint16]bool{}, sent: map[uint16]bool{}, kinds: map[string][]time.Duration{}}
	change := o.node
	o.node = func(c *node.Config) {
		c.Optimize = optimize.Config{Use: optimize.Traffic}
		if change != nil {
			change(c)
		}
	}
	s.roam = newRoam(t, o)
	s.mn.cfg.Correspondents = true
	s.restart(s.mn)
	s.cn1 = s.Node(NodeConfig{
		Name: "cn1", Role: dataplane.Anchor, Attach: []Attachment{{s.core, []netip.Addr{cnr}}}, Correspondent: true,
		New: func(rand io.Reader) (core.Machine, error) {
			return peer.New(peer.Config{Addresses: []netip.Addr{cnr}}, rand)
		},
		Codec: func() (Codec, error) { return signal.NewCodec(signal.Config{}), nil },
	})
	s.cn1.Kernel = func(pkt []byte) { s.arrives(pkt, "through") }
	s.cn1.Native = func(pkt []byte) { s.arrives(pkt, "direct") }
	if err := s.cn1.Start(); err != nil {
		t.Fatal(err)
	}
	s.core.Route(cn1Home, func(p *Packet) { s.ha.FromNative(p.B) })
	others := s.ha.Native
	s.ha.Native = func(pkt []byte) {
		if h, err := ip.Parse(pkt); err == nil && h.Dst == cnr {
			s.core.carry(&Packet{Kind: Tunnel, From: "ha1", Src: h.Src, Dst: h.Dst, B: pkt})
			return
		}
		others(pkt)
	}
	toNode := s.mn.Native
	s.mn.Native = func(pkt []byte) {
		if !s.atNode(pkt) {
			toNode(pkt)
		}
	}
	s.mn.Emits = func(_ core.Now, e core.Emit) {
		if f, ok := e.Fields.(map[string]any); ok && e.Name == "handover" && f["phase"] == "optimization" {
			s.phase = append(s.phase, time.Duration(f["took_ms"].(float64)*float64(ms)))
		}
	}
	s.Tap = func(p *Packet) {
		if p.From != "mn1" && p.From != "cn1" || p.Kind != Tunnel {
			return
		}
		if kind := signalOf(p.B); kind != "" {
			s.kinds[p.From+" "+kind] = append(s.kinds[p.From+" "+kind], s.Elapsed())
		}
	}
	return s
}

// restart starts a node anew, with what has changed of its config.
func (s *straight) restart(n *Node) {
	s.t.Helper()
	n.Kill()
	if err := n.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// signalOf names the message of signalling with the correspondent that a packet is, or holds in one tunnel; "" = none.
func signalOf(b []byte) string {
	sig, err := ip.ParseSignal(b)
	if err == nil && sig.Proto == ip.IPv6 {
		b = b[sig.Off:]
		sig, err = ip.ParseSignal(b)
	}
	if err != nil || sig.Proto != ip.Mobility || sig.Src != cnr && sig.Dst != cnr || sig.Off+3 > len(b) {
		return ""
	}
	return mobility.Type(b[sig.Off+2]).String()
}

func (s *straight) echo(src, dst netip.Addr, seq uint16, reply bool) []byte {
	s.t.Helper()
	b, err := (&access.Frame{SrcIP: src, DstIP: dst, Body: echo(src, seq, reply)}).Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return b[14:]
}

// ask sends an echo from the node, tell one from the correspondent.
func (s *straight) ask() {
	s.seq++
	s.sent[s.seq] = true
	s.mn.FromNative(s.echo(mn6, cnr, s.seq, false))
}

func (s *straight) tell() {
	s.seq++
	s.sent[s.seq] = true
	s.leave(s.echo(cnr, mn6, s.seq, false))
}

// leave is a packet of the correspondent's applications: its routes lead what is for a bound home address to the data plane.
func (s *straight) leave(pkt []byte) {
	if _, bound := s.cn1.Machine.(*peer.Machine).CareOf(cnr, mn6); bound {
		s.cn1.FromNative(pkt)
		return
	}
	h, _ := ip.Parse(pkt)
	s.core.carry(&Packet{Kind: Tunnel, From: "cn1", Src: h.Src, Dst: h.Dst, B: pkt})
}

// arrives is an echo at the correspondent.
func (s *straight) arrives(pkt []byte, way string) {
	seq, reply, ok := echoOf(pkt, cnr)
	switch {
	case !ok:
	case reply:
		s.heard[seq] = true
	default:
		s.way = append(s.way, way)
		s.leave(s.echo(cnr, mn6, seq, true))
	}
}

func (s *straight) atNode(pkt []byte) bool {
	seq, reply, ok := echoOf(pkt, mn6)
	h, _ := ip.Parse(pkt)
	switch {
	case !ok || h.Src != cnr:
		return false
	case reply:
		s.seen[seq] = true
	default:
		s.mn.FromNative(s.echo(mn6, cnr, seq, true))
	}
	return true
}

func echoOf(pkt []byte, own netip.Addr) (seq uint16, reply, ok bool) {
	h, err := ip.Parse(pkt)
	if err != nil || h.Dst != own || h.Proto != ip.ICMPv6 || h.Len < h.HdrLen+8 {
		return 0, false, false
	}
	m := pkt[h.HdrLen:]
	return uint16(m[6])<<8 | uint16(m[7]), m[0] == 129, m[0] == 128 || m[0] == 129
}

// talk has both ends ask each other every 5 ms for a while; it gives how many echoes were lost.
func (s *straight) talk(d time.Duration) (lost int) {
	s.t.Helper()
	s.seen, s.heard, s.sent, s.way = map[uint16]bool{}, map[uint16]bool{}, map[uint16]bool{}, nil
	for end := s.Elapsed() + d; s.Elapsed() < end; {
		s.ask()
		s.tell()
		s.Run(5 * ms)
	}
	s.Run(200 * ms)
	for seq := range s.sent {
		if !s.seen[seq] && !s.heard[seq] {
			lost++
		}
	}
	return lost
}

// last is the way that data took last.
func (s *straight) last() string {
	if len(s.way) == 0 {
		return ""
	}
	return s.way[len(s.way)-1]
}

func (s *straight) entry() core.Binding {
	s.t.Helper()
	v, err := s.mn.Command(core.GetBindings{Filter: cnr.String()})
	if err != nil {
		s.t.Fatal(err)
	}
	bs := v.([]core.Binding)
	if len(bs) != 1 {
		return core.Binding{}
	}
	return bs[0]
}

// TestRouteOptimization: in networks that give IPv6 addresses route optimization works as in Mobile IPv6: tests, registration, direct
// data both ways; no packet is lost at set-up, and the times are those of the round trips.
func TestRouteOptimization(t *testing.T) {
	spec.Covers(t, "S004-2.3-01")
	for _, p := range []ipsec.Protection{"", ipsec.ESP} {
		t.Run("protection="+string(p), func(t *testing.T) {
			s := newStraight(t, roamOptions{seed: 1, protection: p})
			wl := s.mn.Iface("wl0")
			wl.Attach(s.nets["six"])
			s.bound(5 * sec)
			if lost := s.talk(2 * sec); lost > 0 {
				t.Errorf("%d echoes lost at set-up", lost)
			}
			if s.last() != "direct" || s.way[0] != "through" {
				t.Errorf("data goes %q at first, %q in the end", s.way[0], s.last())
			}
			if got := s.phase; !slices.Equal(got, []time.Duration{throughRTT + directRTT}) {
				t.Errorf("set-up took %v, want a round trip by the home agent and a direct one, %v", got, throughRTT+directRTT)
			}
			for kind, n := range map[string]int{"mn1 Home Test Init": 1, "mn1 Care-of Test Init": 1, "mn1 Binding Update": 1, "cn1 Home Test": 1, "cn1 Care-of Test": 1, "cn1 Binding Acknowledgement": 1} {
				if got := len(s.kinds[kind]); got != n {
					t.Errorf("%s: %d, want %d; all: %v", kind, got, n, s.kinds)
				}
			}
			if b := s.entry(); b.State != "direct" || b.Anchor != cnr || !strings.HasPrefix(b.CareOf.String(), "2001:db8:f1:") {
				t.Errorf("row %+v", b)
			}

			// Another network, the old one gone: the care-of test goes beside the home registration, so what is left when that is done is
			// one direct round trip.
			s.phase, s.kinds = nil, map[string][]time.Duration{}
			wl.Attach(nil)
			s.Run(100 * ms)
			wl.Attach(s.nets["six2"])
			s.bound(5 * sec)
			s.talk(sec)
			if s.last() != "direct" || len(s.phase) != 1 || s.phase[0] != directRTT || len(s.kinds["mn1 Home Test Init"]) > 0 {
				t.Errorf("after a move: data goes %s, it took %v; %v", s.last(), s.phase, s.kinds)
			}
			if lost := s.talk(sec); lost > 0 || slices.Contains(s.way, "through") {
				t.Errorf("%d echoes lost, ways %v", lost, s.way)
			}
		})
	}
}

// optimized is a straight whose data goes directly.
func optimized(t testing.TB, o roamOptions) *straight {
	t.Helper()
	s := newStraight(t, o)
	s.mn.Iface("wl0").Attach(s.nets["six"])
	s.bound(5 * sec)
	if s.talk(sec); s.last() != "direct" {
		t.Fatal("data does not go directly")
	}
	return s
}

// TestOptimizedToIPv4Only: in an IPv4-only network there is no route optimization, and all goes by the home agent: at once.
func TestOptimizedToIPv4Only(t *testing.T) {
	for _, name := range []string{"four", "nat"} {
		s := optimized(t, roamOptions{seed: 2})
		wl := s.mn.Iface("wl0")
		wl.Attach(nil)
		wl.Attach(s.nets[name])
		s.bound(5 * sec)
		s.Run(200 * ms) // the binding is deleted by then
		s.kinds = map[string][]time.Duration{}
		if lost := s.talk(20 * sec); lost > 0 || slices.Contains(s.way, "direct") {
			t.Errorf("%s: %d echoes lost, ways %v", name, lost, s.way)
		}
		if len(s.kinds) > 0 {
			t.Errorf("%s: signalling with the correspondent: %v", name, s.kinds)
		}
		// Begun there, the same.
		s = newStraight(t, roamOptions{seed: 2})
		s.mn.Iface("wl0").Attach(s.nets[name])
		s.bound(5 * sec)
		if lost := s.talk(5 * sec); lost > 0 || slices.Contains(s.way, "direct") || len(s.kinds) > 0 {
			t.Errorf("%s: %d echoes lost, ways %v, signalling %v", name, lost, s.way, s.kinds)
		}
	}
}

// TestOptimizedPeerRestart: a correspondent that has lost its bindings says so with a Binding Error; one packet of each stream in flight
// pays for it, and data is direct again two round trips later.
func TestOptimizedPeerRestart(t *testing.T) {
	s := optimized(t, roamOptions{seed: 3})
	s.phase = nil
	s.restart(s.cn1)
	lost := s.talk(sec)
	if s.last() != "direct" || s.entry().State != "direct" {
		t.Errorf("data goes %s; row %+v", s.last(), s.entry())
	}
	// Its data through the home agent may be noticed first, and the error that comes then is what begins the tests.
	if len(s.phase) != 1 || s.phase[0] > throughRTT+directRTT+5*ms {
		t.Errorf("set-up took %v", s.phase)
	}
	// What left before the error came back: a direct round trip of echoes every 5 ms, and what the correspondent could not answer.
	if most := int(directRTT/(5*ms)) + 1; lost > most {
		t.Errorf("%d echoes lost, of at most %d that were on their way", lost, most)
	}
	if lost := s.talk(sec); lost > 0 {
		t.Errorf("%d lost afterwards", lost)
	}
}

// TestOptimizedNodeRestart: the node is killed and started again under traffic. What the correspondent has is known to the store, so
// data that comes directly is let in at once, and no longer than the restart itself takes is anything lost.
func TestOptimizedNodeRestart(t *testing.T) {
	s := optimized(t, roamOptions{seed: 4})
	s.Run(2 * sec) // records are written behind
	s.restart(s.mn)
	s.bound(5 * sec)
	if lost := s.talk(sec); lost > 0 || s.last() != "direct" {
		t.Errorf("%d lost, data goes %s", lost, s.last())
	}
}

// TestOptimizedFallBack: the direct path dies without a word. Data goes by the home agent within seconds, and nothing is lost from then
// on; when the path works again, the next test finds it.
func TestOptimizedFallBack(t *testing.T) {
	s := optimized(t, roamOptions{seed: 5})
	heal := s.core.Fault(If(func(p *Packet) bool {
		return p.From == "cn1" && !strings.HasPrefix(p.Dst.String(), "2001:db8:2000:") || p.Dst == cnr && p.From != "ha1"
	}, Lose))
	s.talk(30 * sec)
	if s.last() != "through" {
		t.Fatalf("data goes %s; row %+v", s.last(), s.entry())
	}
	from := 0
	for i, w := range s.way {
		if w == "through" {
			from = i
			break
		}
	}
	if got := len(s.way) - from; got < int(15*sec/(5*ms)) {
		t.Errorf("only %d echoes arrived by the home agent in 30 s", got)
	}
	heal()
	s.talk(45 * sec)
	if s.last() != "direct" {
		t.Errorf("data goes %s; row %+v", s.last(), s.entry())
	}
}

// TestOptimizedLossyPath: whatever is lost of signalling, data is not: here no packet of data is lost by the network.
func TestOptimizedLossyPath(t *testing.T) {
	for seed := range uint64(3) {
		s := newStraight(t, roamOptions{seed: seed, quiet: true})
		rng := s.entropy("losses", int(seed))
		s.core.Fault(func(p *Packet) Verdict {
			var b [1]byte
			if signalOf(p.B) == "" {
				return Verdict{}
			}
			if _, err := rng.Read(b[:]); err != nil {
				t.Fatal(err)
			}
			return Verdict{Drop: b[0] < 40}
		})
		wl, other := s.mn.Iface("wl0"), s.mn.Iface("wwan0")
		wl.Attach(s.nets["six"])
		s.bound(5 * sec)
		if lost := s.talk(20 * sec); lost > 0 || s.last() != "direct" {
			t.Errorf("seed %d: %d lost at set-up, data goes %s", seed, lost, s.last())
		}
		// A second link comes, and is worse than the first; then the first goes.
		other.Attach(s.nets["six2"])
		if lost := s.talk(5 * sec); lost > 0 {
			t.Errorf("seed %d: %d lost with another link", seed, lost)
		}
	}
}

// TestOptimizedEnds: without traffic the entry ends with its binding, and begins anew.
func TestOptimizedEnds(t *testing.T) {
	s := optimized(t, roamOptions{seed: 6})
	s.Run(2 * time.Minute) // without a packet
	if b := s.entry(); b.State != "direct" {
		t.Errorf("row %+v", b)
	}
	s.Run(6 * time.Minute)
	if b := s.entry(); b.State != "" {
		t.Errorf("an entry without traffic lives on: %+v", b)
	}
	if _, bound := s.cn1.Machine.(*peer.Machine).CareOf(cnr, mn6); bound {
		t.Error("the correspondent has a binding")
	}
	if lost := s.talk(sec); lost > 0 || s.last() != "direct" {
		t.Errorf("%d lost, data goes %s", lost, s.last())
	}
}
