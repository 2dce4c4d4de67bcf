package system

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/system/netns"
	wireip "kedge/wire/ip"
)

// icmpListener gives the ICMPv6 messages of a type that come to a namespace. The kernel drops those with a wrong checksum.
func icmpListener(t *testing.T, ns *netns.NS, typ byte) func(patience time.Duration) (msg []byte, from netip.Addr) {
	t.Helper()
	var c net.PacketConn
	must(t, ns.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return func(patience time.Duration) ([]byte, netip.Addr) {
		buf := make([]byte, 2000)
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return nil, netip.Addr{}
			}
			if buf[0] == typ {
				a, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
				return bytes.Clone(buf[:n]), a
			}
		}
	}
}

// TestParameterProblem: the sender of a bad Mobility Header is told the octet (RFC 6275 9.2), once a second.
func TestParameterProblem(t *testing.T) {
	pa, pb, _, b := mhPorts(t)
	listen := icmpListener(t, b, 4)
	if n, err := pb.Write([]core.Packet{{Src: at("2001:db8::2"), Dst: at("2001:db8::11"), B: mh("bad")}}); n != 1 {
		t.Fatal(err)
	}
	got := read(t, pa, 1)[0]
	must(t, pa.Refuse(&got, 1))
	msg, from := listen(5 * time.Second)
	if msg == nil {
		t.Fatal("nothing came")
	}
	if from != addr("2001:db8::11") {
		t.Errorf("it comes from %s, want the address that was written to", from)
	}
	if msg[1] != 0 || !bytes.Equal(msg[4:8], []byte{0, 0, 0, 41}) {
		t.Errorf("code %d, pointer %d; want 0 and the octet Header Len of the packet, 41", msg[1], msg[4:8])
	}
	h, err := wireip.Parse(msg[8:])
	if err != nil || h.Src != addr("2001:db8::2") || h.Dst != addr("2001:db8::11") || h.Proto != 135 || !bytes.Equal(msg[48:], mh("bad")) {
		t.Errorf("it quotes %x (%v)", msg[8:], err)
	}
	must(t, pa.Refuse(&got, 1))
	if s := pa.Stats(); s.RateLimited != 1 {
		t.Errorf("stats %+v: want the second one within a second left out", s)
	}
}

// TestParameterProblemForNobody: what RFC 4443 2.4 (e) and (c) and a flood ask.
func TestParameterProblemForNobody(t *testing.T) {
	must(t, netns.Test(t, "a").Do(func() error {
		p, err := openProblems()
		must(t, err)
		defer p.d.Close()
		for _, c := range [][2]string{
			{"::", "2001:db8::1"}, {"ff02::1", "2001:db8::1"}, {"::1", "2001:db8::1"}, {"2001:db8::2", "ff02::1"}, {"192.0.2.1", "2001:db8::1"},
			{"::ffff:192.0.2.1", "2001:db8::1"},
		} {
			pkt := core.Packet{Src: at(c[0]), Dst: at(c[1]), B: mh("x")}
			if err := p.send(0, &pkt, 0); err != nil || p.all != 0 {
				t.Errorf("%s to %s: was answered: %v", c[0], c[1], err)
			}
		}
		return nil
	}))
	if b := problem(quote(addr("2001:db8::2"), addr("2001:db8::1"), make([]byte, 2048)), 40); len(b) != 1280-40 {
		t.Errorf("a long message makes an error of %d octets, want 1240", len(b))
	}
	p := &problems{}
	next := addr("2001:db8::1")
	var sent int
	for range 10_000 { // one packet each of many in one second
		if p.take(5*time.Second, next) {
			sent++
		}
		next = next.Next()
	}
	if sent > problemsPerSecond {
		t.Errorf("%d to a flood of senders, want at most %d", sent, problemsPerSecond)
	}
	one := addr("2001:db8:ffff::1")
	sent = 0
	for i := range 100 {
		if p.take(100*time.Second+time.Duration(i)*50*time.Millisecond, one) {
			sent++
		}
	}
	if sent != 5 {
		t.Errorf("%d to one sender in 5 s, want 5", sent)
	}
}
