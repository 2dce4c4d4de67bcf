package simnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor"
	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/wire/ip"
)

// stream is traffic of 1,000 packets a second each way and family between the correspondent and the node, numbered.
type stream struct {
	r    *roam
	on   bool
	last uint16            // number of the last packets
	got  [4]map[uint16]int // by flow: how often each number arrived
	// down is called with each packet that arrives at the node.
	down func(is4 bool, seq uint16)
}

// flows of a stream.
const (
	down6 = iota
	down4
	up6
	up4
)

var flowNames = [...]string{"down IPv6", "down IPv4", "up IPv6", "up IPv4"}

func newStream(r *roam) *stream {
	s := &stream{r: r}
	for i := range s.got {
		s.got[i] = map[uint16]int{}
	}
	r.mn.Native = func(pkt []byte) {
		seq, is4, ok := numbered(pkt)
		if !ok {
			return
		}
		f := down6
		if is4 {
			f = down4
		}
		s.got[f][seq]++
		if s.down != nil {
			s.down(is4, seq)
		}
	}
	return s
}

// numbered reads the number of a packet of a stream: an echo reply that nobody asked for.
func numbered(pkt []byte) (seq uint16, is4, ok bool) {
	h, err := ip.Parse(pkt)
	if err != nil {
		return 0, false, false
	}
	u, err := ip.FindUpper(pkt, &h)
	if err != nil || len(pkt) < u.Off+8 || u.Proto != ip.ICMPv4 && u.Proto != ip.ICMPv6 {
		return 0, false, false
	}
	return binary.BigEndian.Uint16(pkt[u.Off+6:]), h.Is4(), true
}

// start sends until stop.
func (s *stream) start() {
	s.on = true
	s.send()
}

func (s *stream) send() {
	if !s.on {
		return
	}
	s.last++
	r := s.r
	for _, a := range []netip.Addr{mn6, mn4} {
		r.cn.send(a, s.last, true)
	}
	for _, p := range [][2]netip.Addr{{mn6, cn6}, {mn4, cn4}} {
		b, err := (&access.Frame{SrcIP: p[0], DstIP: p[1], Body: echo(p[0], s.last, true)}).Append(nil)
		if err != nil {
			panic(err)
		}
		r.mn.FromNative(b[14:])
	}
	r.After(ms, s.send)
}

// stop ends the stream and lets what is on its way arrive.
func (s *stream) stop() {
	s.on = false
	s.r.Run(100 * ms)
	for _, rep := range s.r.cn.Replies {
		f := up6
		if rep.From.Is4() {
			f = up4
		}
		s.got[f][rep.Seq]++
	}
	s.r.cn.Replies = nil
}

// lost counts the packets that did not arrive, by flow.
func (s *stream) lost() (n [4]int) {
	for f := range s.got {
		for seq := uint16(1); seq <= s.last; seq++ {
			if s.got[f][seq] == 0 {
				n[f]++
			}
		}
	}
	return n
}

// TestMakeBeforeBreak: while the node moves from link to link with both up, and one goes that is not in use any more, of
// 1,000 packets a second both ways and of both families none is lost.
func TestMakeBeforeBreak(t *testing.T) {
	for i, c := range []struct {
		from, to string
		dialect  node.Dialect
	}{
		{"six", "six2", node.RFC5555},
		{"six", "four", node.RFC5555}, {"four", "six", node.RFC5555},
		{"six", "nat", node.RFC5555}, {"nat", "six", node.RFC5555},
		{"four", "nat", node.RFC5555}, {"nat", "four", node.RFC5555},
		{"dual", "six", node.RFC5555}, {"nat2", "dual", node.RFC5555},
		{"six", "four", node.Soliman}, {"four", "six2", node.Soliman},
	} {
		t.Run(fmt.Sprintf("%s %s %s", c.dialect, c.from, c.to), func(t *testing.T) {
			r := newRoam(t, roamOptions{seed: uint64(i), protection: protections[i%3], node: func(n *node.Config) { n.Anchor.Dialect = c.dialect }})
			wl, wwan := r.mn.Iface("wl0"), r.mn.Iface("wwan0")
			wwan.Attach(r.nets[c.from])
			r.bound(5 * sec)
			r.Run(2 * sec)
			s := newStream(r)
			s.start()
			r.Run(100 * ms)
			moves := 0
			r.mn.Emits = func(_ core.Now, e core.Emit) {
				if e.Name == "handover" {
					moves++
				}
			}
			wl.Attach(r.nets[c.to]) // the better link
			r.Run(1500 * ms)
			for _, link := range []string{"wwan0", "wl0"} {
				if _, err := r.mn.Command(core.Roam{Link: link}); err != nil {
					t.Fatal(err)
				}
				r.Run(500 * ms)
			}
			wwan.Attach(nil)
			r.Run(500 * ms)
			s.stop()
			if moves != 3 {
				t.Errorf("moved %d times, want 3", moves)
			}
			for f, n := range s.lost() {
				if n > 0 {
					t.Errorf("%s: %d of %d packets lost", flowNames[f], n, s.last)
				}
			}
		})
	}
}

// TestFirstPacket: from the moment at which a care-of address is usable one round trip, and at most 5 ms, pass until the first
// packet of each family comes down by it, whatever the families before and after. The link between has a round trip of 20 ms.
func TestFirstPacket(t *testing.T) {
	const spacing = ms // of the stream: so long may the next packet take to begin its way
	for _, d := range []node.Dialect{node.RFC5555, node.Soliman} {
		for _, p := range []ipsec.Protection{"", ipsec.ESP, ipsec.RFC4285} {
			t.Run(fmt.Sprintf("%s %s", d, p), func(t *testing.T) {
				r := newRoam(t, roamOptions{seed: 3, protection: p, node: func(n *node.Config) { n.Anchor.Dialect = d }})
				wl := r.mn.Iface("wl0")
				s := newStream(r)
				s.start()
				// In UDP alone a NAT is passed: document 004 knows none.
				tour := []string{"six", "six2", "four", "six", "four", "six2", "six"}
				if d == node.RFC5555 {
					tour = []string{"six", "six2", "four", "nat", "nat2", "dual", "nat", "six", "nat2", "four", "dual", "four", "six2"}
				}
				before := "boot"
				for _, name := range tour {
					wl.Attach(nil)
					r.Run(700 * ms)
					var first [2]time.Duration
					var since time.Duration
					s.down = func(is4 bool, _ uint16) {
						i := 0
						if is4 {
							i = 1
						}
						if first[i] == 0 {
							first[i] = r.Elapsed()
						}
					}
					r.mn.Emits = func(_ core.Now, e core.Emit) {
						if f, ok := e.Fields.(map[string]any); ok && e.Name == "handover" && since == 0 {
							usable, _ := f["usable_ms"].(float64)
							since = r.Elapsed() - time.Duration(usable*float64(ms))
						}
					}
					wl.Attach(r.nets[name])
					r.RunUntil(5*sec, func() bool { return first[0] > 0 && first[1] > 0 })
					if since == 0 || first[0] == 0 || first[1] == 0 {
						t.Fatalf("%s to %s: nothing came", before, name)
					}
					took6, took4 := first[0]-since, first[1]-since
					if worst := max(took6, took4); worst > wanted+spacing {
						t.Errorf("%s to %s: IPv6 after %v, IPv4 after %v; a round trip takes %v", before, name, took6, took4, wanted)
					}
					before = name
					r.Run(1300 * ms)
				}
			})
		}
	}
}

// TestTimestampsOfAnotherClock: a home agent that wants timestamps (RFC 4285 6) serves a node whose clock is an hour off; only the
// first registration takes longer for it.
func TestTimestampsOfAnotherClock(t *testing.T) {
	r := newRoam(t, roamOptions{seed: 5, protection: ipsec.RFC4285, anchor: func(c *anchor.Config) { c.DSMIP6.RequireMessageID = true }})
	r.mn.Offset = -time.Hour
	wl := r.mn.Iface("wl0")
	var usable []float64
	r.mn.Emits = func(_ core.Now, e core.Emit) {
		if f, ok := e.Fields.(map[string]any); ok && e.Name == "handover" {
			ms, _ := f["usable_ms"].(float64)
			usable = append(usable, ms)
		}
	}
	for _, name := range []string{"six", "four", "nat", "six2"} {
		wl.Attach(nil)
		r.Run(sec)
		wl.Attach(r.nets[name])
		r.bound(5 * sec)
		r.Run(sec)
	}
	if want := []float64{60, 20, 20, 20}; !slices.Equal(usable, want) {
		t.Errorf("registered %v ms after the care-of address was usable, want %v", usable, want)
	}
}
