package ebpf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
)

// bpffs mounts a BPF file system of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// stream sends numbered datagrams, one every interval, until stopped, and counts those that never arrive, or twice.
type stream struct {
	sent, lost, twice int
	stop              chan struct{}
	done              chan struct{}
}

func (w *world) stream(from string, to netip.Addr, at string, every time.Duration) *stream {
	w.Helper()
	s := &stream{stop: make(chan struct{}), done: make(chan struct{})}
	var l net.PacketConn
	var c net.Conn
	w.in(at, func() (err error) {
		l, err = net.ListenPacket("udp", netip.AddrPortFrom(to, 9000).String())
		return err
	})
	w.in(from, func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(to, 9000).String())
		return err
	})
	must(w, l.(*net.UDPConn).SetReadBuffer(8<<20))
	got := map[uint32]int{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 100)
		for {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			if n >= 4 {
				got[binary.BigEndian.Uint32(b)]++
			}
		}
	}()
	go func() {
		defer close(s.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for run := true; run; {
			select {
			case <-s.stop:
				run = false
			case <-tick.C:
				if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(s.sent))); err == nil {
					s.sent++
				}
			}
		}
		c.Close()
		_ = l.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		<-read
		l.Close()
		for i := range s.sent {
			switch n := got[uint32(i)]; {
			case n == 0:
				s.lost++
			case n > 1:
				s.twice++
			}
		}
	}()
	return s
}

func (s *stream) end() *stream {
	close(s.stop)
	<-s.done
	return s
}

// wait lets a stream flow.
func wait(d time.Duration) { <-time.After(d) }

// TestRestart: both daemons end and come back while packets flow both ways; none is lost, none comes twice, and what no longer is
// named goes.
func TestRestart(t *testing.T) {
	fs := bpffs(t)
	pin := func(c *Config) {
		c.Pin = filepath.Join(fs, map[dataplane.Role]string{dataplane.Anchor: "lma", dataplane.Gateway: "mag"}[c.Role])
	}
	p := newPath(t, false, pin)
	extra := []core.Op{
		core.SetSession{ID: 9, Chain: tunnelOf(conformance.LMAA, conformance.CoA2, 0)},
		core.SetKey{ID: 9, Match: core.Match{Dst: conformance.HNP3}, Up: true, Down: true},
	}
	must(t, p.anchor.Update(extra))
	if c := total(p.anchor, 1); c.PacketsIn == 0 {
		t.Fatal("nothing was counted")
	}
	up, down := p.stream("host", conformance.CN6, "cn", time.Millisecond), p.stream("cn", netip.MustParseAddr(host4), "host", time.Millisecond)
	wait(200 * time.Millisecond)
	was := total(p.anchor, 1)
	anchorOps := slices.DeleteFunc(p.anchor.Ops(), func(op core.Op) bool { // session 9 ended meanwhile
		s, ok := op.(core.SetSession)
		k, key := op.(core.SetKey)
		return ok && s.ID == 9 || key && k.ID == 9
	})
	gatewayOps := p.gateway.Ops()
	must(t, p.anchor.Close())
	must(t, p.gateway.Close())
	wait(200 * time.Millisecond)
	again := func(space string, c Config) (pl *Plane) {
		c.Sessions = 1024
		pin(&c)
		p.in(space, func() (err error) {
			pl, err = New(c)
			return err
		})
		t.Cleanup(func() { must(t, pl.Close()); must(t, Remove(c.Pin)) })
		return pl
	}
	p.anchor = again("lma", Config{Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}}})
	p.gateway = again("mag", Config{Core: []string{"core*"}, Config: user.Config{Role: dataplane.Gateway,
		Local:  []netip.Addr{conformance.CoA1, coaGateway4},
		Access: []dataplane.Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}}})
	if !p.anchor.Status().Adopted || !p.gateway.Status().Adopted {
		t.Error("the tables were not adopted")
	}
	wait(100 * time.Millisecond)
	must(t, p.anchor.Sync(slices.Values(anchorOps)))
	must(t, p.gateway.Sync(slices.Values(gatewayOps)))
	wait(200 * time.Millisecond)
	for name, s := range map[string]*stream{"up": up.end(), "down": down.end()} {
		if s.lost+s.twice != 0 || s.sent < 100 {
			t.Errorf("%s: of %d packets %d were lost, %d came twice; %s", name, s.sent, s.lost, s.twice, p.drops())
		}
	}
	if c := total(p.anchor, 1); c.PacketsIn <= was.PacketsIn {
		t.Errorf("the counters began anew: %+v, were %+v", c, was)
	}
	var w where
	k := keyOf(0, conformance.HNP3)
	if p.anchor.k.keys.Lookup(&k, &w) == nil {
		t.Error("the key of a session that ended is still there")
	}
	k = keyOf(0, conformance.HNP1)
	if err := p.anchor.k.keys.Lookup(&k, &w); err != nil {
		t.Errorf("the key of the session that stays: %v", err)
	}
	if n := p.anchor.k.control.n6; n != 1 {
		t.Errorf("%d prefix lengths of IPv6 are looked up, want 1", n)
	}
}

// TestDeadMan: the programs stop some time after their process did.
func TestDeadMan(t *testing.T) {
	fs := bpffs(t)
	p := newPath(t, false, func(c *Config) {
		c.Hold = 1500 * time.Millisecond
		if c.Role == dataplane.Anchor {
			c.Pin = filepath.Join(fs, "lma")
		}
	})
	must(t, p.anchor.Close())
	up := p.stream("host", conformance.CN6, "cn", 10*time.Millisecond)
	wait(700 * time.Millisecond)
	if up.end(); up.lost > 0 {
		t.Errorf("within the time, %d of %d packets were lost", up.lost, up.sent)
	}
	wait(time.Second)
	up = p.stream("host", conformance.CN6, "cn", 10*time.Millisecond)
	wait(300 * time.Millisecond)
	if up.end(); up.lost != up.sent {
		t.Errorf("after the time, %d of %d packets still got through", up.sent-up.lost, up.sent)
	}
	must(t, Remove(filepath.Join(fs, "lma")))
	if _, err := os.Stat(filepath.Join(fs, "lma")); !os.IsNotExist(err) {
		t.Errorf("what was removed is there: %v", err)
	}
}

// TestHandover: a node's session changes its framing to and fro, at each end by itself, while packets flow: none is lost.
func TestHandover(t *testing.T) {
	plain, udp := tunnelOf(coaGateway4, conformance.LMAA4, 0), tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP)
	p := newNode(t, plain)
	up, down := p.stream("host", conformance.CN6, "cn", 100*time.Microsecond), p.stream("cn", netip.MustParseAddr(host6), "host", 100*time.Microsecond)
	for i := range 100 {
		c := plain
		if i%2 == 0 {
			c = udp
		}
		l := c.Layer[0]
		must(t, p.gateway.Update([]core.Op{core.SetSession{ID: 1, Chain: c, Grace: 500 * time.Millisecond}}))
		wait(2 * time.Millisecond)
		must(t, p.anchor.Update([]core.Op{core.SetSession{ID: 1, Chain: core.Chain{N: 1, Layer: [2]core.Layer{{Local: l.Remote, Remote: l.Local}}}, Grace: 500 * time.Millisecond}}))
		wait(2 * time.Millisecond)
	}
	for name, s := range map[string]*stream{"up": up.end(), "down": down.end()} {
		if s.lost+s.twice != 0 || s.sent < 500 {
			t.Errorf("%s: of %d packets %d were lost, %d came twice; %s", name, s.sent, s.lost, s.twice, p.drops())
		}
	}
	if in, out := slow(p.anchor, 1); in+out > 10 {
		t.Errorf("%d packets went the slow way", in+out)
	}
}
