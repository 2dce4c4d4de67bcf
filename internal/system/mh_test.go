package system

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

func at(s string) netip.AddrPort { return netip.AddrPortFrom(addr(s), 0) }

// mhPorts opens one port on each of two connected namespaces; the first has two addresses.
func mhPorts(t *testing.T) (pa, pb *MHPort, a, b *netns.NS) {
	t.Helper()
	a, b = netns.Test(t, "a"), netns.Test(t, "b")
	netns.TestVeth(t,
		netns.End{NS: a, Name: "d0", Addrs: []netip.Prefix{pfx("2001:db8::1/64"), pfx("2001:db8::11/64"), pfx("2001:db8::99/64")}},
		netns.End{NS: b, Name: "d1", Addrs: []netip.Prefix{pfx("2001:db8::2/64")}})
	open := func(ns *netns.NS, local ...netip.Addr) *MHPort {
		p, err := newHost(t, ns, func(o *Options) { o.Local = local }).Open("mh")
		must(t, err)
		t.Cleanup(func() { p.Close() })
		return p.(*MHPort)
	}
	return open(a, addr("2001:db8::1"), addr("2001:db8::11")), open(b, addr("2001:db8::2")), a, b
}

// read gets n packets or fails after five seconds.
func read(t *testing.T, p core.Port, n int) []core.Packet {
	t.Helper()
	out := make(chan []core.Packet, 1)
	go func() {
		var all []core.Packet
		for len(all) < n {
			pkts := make([]core.Packet, 16)
			k, err := p.Read(pkts)
			if err != nil {
				break
			}
			all = append(all, pkts[:k]...)
		}
		out <- all
	}()
	select {
	case all := <-out:
		if len(all) < n {
			t.Fatalf("the port closed after %d of %d packets", len(all), n)
		}
		return all
	case <-time.After(5 * time.Second):
		p.Close()
		t.Fatalf("%d of %d packets came in 5 s", len(<-out), n)
	}
	return nil
}

// mh is a Mobility Header of 8 octets and some data, with a checksum that is wrong on purpose.
func mh(data string) []byte {
	b := append([]byte{59, 0, 8, 0, 0xde, 0xad, 0, 0}, data...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b)/8 - 1)
	return b
}

func TestMHDeliversWrongChecksumsUntouched(t *testing.T) {
	pa, pb, _, b := mhPorts(t)
	n, err := pa.Write([]core.Packet{
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: mh("one")},
		{Src: at("2001:db8::11"), Dst: at("2001:db8::2"), B: mh("two")},
	})
	if n != 2 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	got := read(t, pb, 2)
	for i, want := range []core.Packet{
		{Src: at("2001:db8::1"), B: mh("one")}, {Src: at("2001:db8::11"), B: mh("two")},
	} {
		g := got[i]
		if g.Src != want.Src || g.Dst != at("2001:db8::2") || g.If != b.Index("d1") || !bytes.Equal(g.B, want.B) {
			t.Errorf("packet %d is %+v, want %x from %s", i, g, want.B, want.Src)
		}
	}
	// Back the way it came, to the second address.
	if n, err := pb.Write([]core.Packet{{Src: got[1].Dst, Dst: got[1].Src, If: got[1].If, B: mh("three")}}); n != 1 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if g := read(t, pa, 1)[0]; g.Dst != at("2001:db8::11") || !bytes.Equal(g.B, mh("three")) {
		t.Errorf("answer is %+v", g)
	}
}

func TestMHLeavesOtherAddressesOut(t *testing.T) {
	pa, pb, _, _ := mhPorts(t)
	if n, err := pb.Write([]core.Packet{
		{Src: at("2001:db8::2"), Dst: at("2001:db8::99"), B: mh("not an anchor address")},
		{Src: at("2001:db8::2"), Dst: at("2001:db8::1"), B: mh("ours")},
	}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if g := read(t, pa, 1); len(g) != 1 || !bytes.Equal(g[0].B, mh("ours")) {
		t.Errorf("got %+v", g)
	}
	if s := pa.Stats(); s.Foreign != 1 || s.Overrun != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestMHLongestAndTooLong(t *testing.T) {
	pa, pb, a, _ := mhPorts(t)
	must(t, a.SetMTU("d0", 1280)) // leaves in fragments
	long := make([]byte, 2040)
	for i := range long {
		long[i] = byte(i)
	}
	longer := make([]byte, 4000)
	if _, err := pa.Write([]core.Packet{
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: long},
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: longer},
	}); err != nil {
		t.Fatal(err)
	}
	got := read(t, pb, 2)
	if !bytes.Equal(got[0].B, long) {
		t.Errorf("a message of %d octets arrived with %d", len(long), len(got[0].B))
	}
	if len(got[1].B) <= 2048 { // more than any header can say, so that the parser refuses it
		t.Errorf("a message of %d octets arrived with %d", len(longer), len(got[1].B))
	}
}

func TestMHOneBadPacketDoesNotHoldTheOthers(t *testing.T) {
	pa, pb, _, _ := mhPorts(t)
	pkts := []core.Packet{
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: mh("1")},
		{Src: at("2001:db8::55"), Dst: at("2001:db8::2"), B: mh("not our address")},
		{Src: at("2001:db8::1"), Dst: at("2001:db8:ffff::1"), B: mh("no route")},
		{Src: at("192.0.2.1"), Dst: at("192.0.2.2"), B: mh("not IPv6")},
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), Outer: core.Chain{N: 1}, B: mh("in a tunnel")},
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2")},
		{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: mh("2")},
	}
	for range 200 { // more than one system call
		pkts = append(pkts, core.Packet{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: mh("more")})
	}
	n, err := pa.Write(pkts)
	if n != len(pkts)-5 || err == nil {
		t.Fatalf("Write = %d of %d, %v", n, len(pkts), err)
	}
	for _, want := range []string{"2001:db8::55 must be an address of this host", "2001:db8:ffff::1", "no route", "192.0.2.2", "unsupported", "0 octets"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("causes are lost: %v", err)
	}
	if got := read(t, pb, n); len(got) != n || !bytes.Equal(got[1].B, mh("2")) {
		t.Errorf("%d came", len(got))
	}
}

func TestMHReadReusesBuffers(t *testing.T) {
	pa, pb, _, _ := mhPorts(t)
	into := []core.Packet{{B: make([]byte, 0, 4096)}}
	mine := &into[0].B[:1][0]
	if _, err := pa.Write([]core.Packet{{Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: mh("x")}}); err != nil {
		t.Fatal(err)
	}
	if n, err := pb.Read(into); n != 1 || err != nil || &into[0].B[0] != mine {
		t.Errorf("Read = %d, %v; buffer reused: %v", n, err, n == 1 && &into[0].B[0] == mine)
	}
}

func TestPortsCloseWhileReading(t *testing.T) {
	pa, _, a, _ := mhPorts(t)
	acc, err := newHost(t, a, func(o *Options) { o.KeepAccess = true }).Open("access", "d0")
	must(t, err)
	for _, p := range []core.Port{pa, acc} {
		done := make(chan error)
		go func() {
			for {
				if _, err := p.Read(make([]core.Packet, 4)); err != nil {
					done <- err
					return
				}
			}
		}()
		must(t, p.Close())
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%T: Read = %v, want net.ErrClosed", p, err)
		}
		if _, err := p.Read(make([]core.Packet, 4)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%T: Read after Close = %v", p, err)
		}
		pkt := core.Packet{If: a.Index("d0"), Src: at("2001:db8::1"), Dst: at("2001:db8::2"), B: make([]byte, 64)}
		if n, err := p.Write([]core.Packet{pkt}); n != 0 || err == nil {
			t.Errorf("%T: Write after Close = %d, %v", p, n, err)
		}
		must(t, p.Close())
	}
}

func TestOpenErrors(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	for _, c := range []struct {
		kind string
		ifs  []string
		want string
	}{
		{"mh", nil, "needs the addresses"},
		{"access", nil, "needs the access links' names"},
		{"access", []string{"nosuch"}, "nosuch"},
		{"access", []string{"d0", "d0"}, "twice"},
		{"access", []string{"d0"}, "it has the address 192.0.2.1/24: remove it"},
		{"telepathy", nil, "telepathy"},
	} {
		p, err := h.Open(c.kind, c.ifs...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%s, %v) = %v, %v, want %q", c.kind, c.ifs, p, err, c.want)
		}
	}
}
