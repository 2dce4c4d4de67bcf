package impair

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"kedge/internal/system/netns"
)

// pair is two namespaces joined by a link, with a UDP socket in each.
type pair struct {
	link       *Link
	a, b       net.PacketConn
	addrB      net.Addr
	nsA, nsB   *netns.NS
	seen       [][]byte
	seenMu     sync.Mutex
	wantFrames bool
}

func join(t *testing.T, set Settings) *pair {
	t.Helper()
	p := &pair{nsA: netns.Test(t, "a"), nsB: netns.Test(t, "b")}
	mid := netns.Test(t, "mid")
	netns.TestVeth(t, netns.End{NS: p.nsA, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}, netns.End{NS: mid, Name: "p0"})
	netns.TestVeth(t, netns.End{NS: p.nsB, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}}, netns.End{NS: mid, Name: "p1"})
	p.link = New(set, 1, func(_ int, _ time.Time, f []byte) {
		p.seenMu.Lock()
		defer p.seenMu.Unlock()
		if p.wantFrames {
			p.seen = append(p.seen, slices.Clone(f))
		}
	})
	t.Cleanup(func() { p.link.Close() })
	netns.Must(t, mid.Do(func() error {
		for _, n := range []string{"p0", "p1"} {
			if _, err := p.link.Add(n); err != nil {
				return err
			}
		}
		return nil
	}))
	listen := func(ns *netns.NS) (c net.PacketConn) {
		netns.Must(t, ns.Do(func() (err error) { c, err = net.ListenPacket("udp4", "0.0.0.0:7"); return }))
		t.Cleanup(func() { c.Close() })
		return c
	}
	p.a, p.b = listen(p.nsA), listen(p.nsB)
	p.addrB = &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7}
	p.warm(t)
	return p
}

// warm sends until one arrives, so that ARP is over before anything is measured.
func (p *pair) warm(t *testing.T) {
	t.Helper()
	set := p.link.set
	p.link.Set(Settings{})
	defer p.link.Set(set)
	deadline := time.Now().Add(5 * time.Second)
	buf := make([]byte, 100)
	for time.Now().Before(deadline) {
		p.send(math.MaxUint32)
		p.b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, _, err := p.b.ReadFrom(buf); err == nil {
			return
		}
	}
	t.Fatal("nothing passes the link")
}

func (p *pair) send(seq uint32) {
	var b [64]byte
	binary.BigEndian.PutUint32(b[:], seq)
	binary.BigEndian.PutUint64(b[4:], uint64(time.Now().UnixNano()))
	_, _ = p.a.WriteTo(b[:], p.addrB)
}

type got struct {
	seq   uint32
	delay time.Duration
}

// stream sends n packets spaced by gap and gives what arrives until nothing came for half a second after the last.
func (p *pair) stream(n int, gap time.Duration) []got {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		tick := time.NewTicker(gap)
		defer tick.Stop()
		for i := range n {
			p.send(uint32(i))
			<-tick.C
		}
	}()
	var out []got
	buf := make([]byte, 100)
	for {
		p.b.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		k, _, err := p.b.ReadFrom(buf)
		if err != nil {
			select {
			case <-sent:
				return out
			default:
				continue // the sender is slow: a busy machine
			}
		}
		seq := binary.BigEndian.Uint32(buf)
		if k < 12 || seq == math.MaxUint32 {
			continue
		}
		out = append(out, got{seq, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(buf[4:]))))})
	}
}

func p50(g []got) time.Duration {
	var d []time.Duration
	for _, x := range g {
		d = append(d, x.delay)
	}
	slices.Sort(d)
	return d[len(d)/2]
}

func TestDelay(t *testing.T) {
	p := join(t, Settings{})
	base := p50(p.stream(200, 2*time.Millisecond))
	for _, want := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		p.link.Set(Settings{Delay: want})
		g := p.stream(200, 2*time.Millisecond)
		if len(g) != 200 {
			t.Fatalf("delay %v: %d of 200 packets arrived", want, len(g))
		}
		if off := p50(g) - base - want; off < -time.Millisecond || off > time.Millisecond {
			t.Errorf("delay %v: p50 is off by %v over the base line %v, want within 1 ms", want, off, base)
		}
	}
}

func TestLossAndDuplicates(t *testing.T) {
	const n = 4000
	p := join(t, Settings{})
	for _, prob := range []float64{0.01, 0.1, 0.5} {
		before := p.link.Counters()
		p.link.Set(Settings{Loss: prob})
		lost := n - len(p.stream(n, 100*time.Microsecond))
		p.link.Set(Settings{Duplicate: prob})
		dup := len(p.stream(n, 100*time.Microsecond)) - n
		// What the link says it did must be what happened; a few frames are ARP and IPv6 housekeeping.
		after := p.link.Counters()
		if l, d := after.Lost-before.Lost, after.Duplicated-before.Duplicated; int(l) < lost || int(l) > lost+10 || int(d) < dup || int(d) > dup+10 {
			t.Errorf("probability %g: counters say %d lost and %d duplicated, found %d and %d", prob, l, d, lost, dup)
		}
		// Four standard deviations of the binomial distribution: a correct link fails one run in 15,000.
		mean, dev := n*prob, 4*math.Sqrt(n*prob*(1-prob))
		for what, v := range map[string]int{"lost": lost, "duplicated": dup} {
			if math.Abs(float64(v)-mean) > dev {
				t.Errorf("probability %g: %d of %d %s, want %.0f +- %.0f", prob, v, n, what, mean, dev)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	p := join(t, Settings{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond})
	inversions := func(g []got) (n int) {
		for i := 1; i < len(g); i++ {
			if g[i].seq < g[i-1].seq {
				n++
			}
		}
		return n
	}
	g := p.stream(500, time.Millisecond)
	if n := inversions(g); n != 0 || len(g) != 500 {
		t.Errorf("jitter alone: %d inversions, %d of 500 arrived; it must keep the order", n, len(g))
	}
	lo, hi := time.Hour, time.Duration(0)
	for _, x := range g {
		lo, hi = min(lo, x.delay), max(hi, x.delay)
	}
	if lo < 5*time.Millisecond || hi-lo < 4*time.Millisecond {
		t.Errorf("delays %v..%v, want them spread over 5..15 ms", lo, hi)
	}
	p.link.Set(Settings{Delay: 10 * time.Millisecond, Reorder: 0.1})
	g = p.stream(1000, time.Millisecond)
	if n := inversions(g); len(g) != 1000 || n < 60 || n > 140 {
		t.Errorf("reorder 10%%: %d inversions, %d of 1000 arrived, want 100 +- 40 and all", n, len(g))
	}
}

func TestRate(t *testing.T) {
	p := join(t, Settings{Rate: 1_000_000})
	// 64 octets of payload are 106 on the wire: 848 us each at 1 Mbit/s, sent at once.
	const n = 100
	start := time.Now()
	for i := range n {
		p.send(uint32(i))
	}
	buf := make([]byte, 100)
	p.b.SetReadDeadline(start.Add(2 * time.Second))
	for i := range n {
		if _, _, err := p.b.ReadFrom(buf); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if d := time.Since(start); d < 80*time.Millisecond || d > 110*time.Millisecond {
		t.Errorf("%d packets took %v at 1 Mbit/s, want 84.8 ms", n, d)
	}
}

func TestMTUDropCutAndTap(t *testing.T) {
	p := join(t, Settings{MTU: 1000})
	recv := func() bool {
		p.b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := p.b.ReadFrom(make([]byte, 2000))
		return err == nil
	}
	_, _ = p.a.WriteTo(make([]byte, 1000-28), p.addrB)
	if !recv() {
		t.Error("a packet of exactly the MTU was lost")
	}
	_, _ = p.a.WriteTo(make([]byte, 1000-27), p.addrB)
	if recv() || p.link.Counters().TooBig != 1 {
		t.Errorf("a packet over the MTU passed: %+v", p.link.Counters())
	}
	udp := func(f []byte) bool { return f[12] == 8 && f[13] == 0 && f[23] == 17 }
	stop := p.link.Drop(1, udp)
	p.send(1)
	if recv() {
		t.Error("the matching frame was not dropped")
	}
	p.send(2)
	if !recv() {
		t.Error("a second frame was dropped, only one was asked for")
	}
	stop()
	p.link.Cut(0, true)
	p.send(3)
	if recv() {
		t.Error("a frame passed a cut port")
	}
	p.link.Cut(0, false)
	p.seenMu.Lock()
	p.wantFrames = true
	p.seenMu.Unlock()
	p.send(4)
	if !recv() {
		t.Error("nothing passes after the cut")
	}
	p.seenMu.Lock()
	defer p.seenMu.Unlock()
	if !slices.ContainsFunc(p.seen, udp) {
		t.Errorf("the tap saw %d frames, none of them UDP", len(p.seen))
	}
}

// TestOffload: large segmentation-offload frames pass whole and arrive intact.
func TestOffload(t *testing.T) {
	p := join(t, Settings{MTU: 1500, Delay: time.Millisecond})
	var l net.Listener
	netns.Must(t, p.nsB.Do(func() (err error) { l, err = net.Listen("tcp4", "192.0.2.2:9"); return }))
	defer l.Close()
	const total = 8 << 20
	sum := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			sum <- -1
			return
		}
		defer c.Close()
		n, bad := 0, 0
		buf := make([]byte, 1<<16)
		for {
			k, err := c.Read(buf)
			for i := range k {
				if buf[i] != byte((n+i)>>10) {
					bad++
				}
			}
			n += k
			if err != nil {
				break
			}
		}
		if bad > 0 {
			n = -bad
		}
		sum <- n
	}()
	var c net.Conn
	netns.Must(t, p.nsA.Do(func() (err error) { c, err = net.Dial("tcp4", "192.0.2.2:9"); return }))
	data := make([]byte, total)
	for i := range data {
		data[i] = byte(i >> 10)
	}
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := <-sum; n != total {
		t.Errorf("%d octets arrived, want %d", n, total)
	}
	if f := p.link.Counters().Frames; f > total/1448 {
		t.Errorf("%d frames for %d octets: offload did not pass", f, total)
	}
}
