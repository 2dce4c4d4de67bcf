package signal

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/loop"
	"kedge/internal/spec"
	"kedge/internal/system"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// nativePort is an "ip" port of a host that can refuse.
type nativePort struct {
	*system.FakePort
	refused []core.Packet
	at      []int
}

func (p *nativePort) Refuse(pkt *core.Packet, off int) error {
	c := *pkt
	c.B = bytes.Clone(pkt.B)
	p.refused, p.at = append(p.refused, c), append(p.at, off)
	return nil
}

// ports gives a Port over a host's port and a data plane's, whose other ends are the test's.
func ports(t *testing.T, c *Codec) (p *Port, host *nativePort, data *system.FakePort) {
	t.Helper()
	f := system.NewFake(now())
	host, data = &nativePort{FakePort: f.Port("ip")}, f.Port("data")
	p = NewPort(c, f.Now, host, data)
	t.Cleanup(func() { p.Close() })
	return p, host, data
}

var _ loop.Refuser = (*Port)(nil)

func TestPortJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ha, mn, _ := pair(t, ipsec.ESP)
		p, host, data := ports(t, ha)
		host.Inject(
			core.Packet{If: 4, MAC: core.MAC{2}, B: mustOut(t, mn, packet(t, byIPv6, update(coa6)))},
			core.Packet{If: 4, B: []byte("garbage")},
			core.Packet{If: 5, B: mustOut(t, mn, packet(t, byIPv6, update(coa6)))})
		chain := tunnel(netip.AddrPortFrom(haV4, 4191), netip.AddrPortFrom(coa4, 5000))
		data.Inject(core.Packet{Outer: chain, B: mustOut(t, mn, packet(t, byUDP, update(hoa)))})
		var got []core.Packet
		into := make([]core.Packet, 1) // less than comes
		for len(got) < 3 {
			n, err := p.Read(into)
			if err != nil || n != 1 {
				t.Fatal(n, err)
			}
			k := into[0]
			k.B = bytes.Clone(k.B)
			got = append(got, k)
		}
		native, tunnelled := 0, 0
		for i := range got {
			if bu, ok := decoded(t, &got[i]).Body.(*mobility.BindingUpdate); !ok || bu.Sequence != 7 || got[i].Auth.Peer != "mn1" {
				t.Errorf("%+v", got[i])
			}
			if got[i].Outer.N == 0 && got[i].If != 0 && got[i].SrcHome == hoa {
				native++
			}
			if got[i].Outer == chain && got[i].Src == port(hoa) {
				tunnelled++
			}
		}
		if native != 2 || tunnelled != 1 || drops(ha)[wire.UnknownType]+drops(ha)[wire.Truncated] != 1 {
			t.Errorf("%d native, %d in a tunnel, drops %v", native, tunnelled, drops(ha))
		}

		// Answers go out by the way that the requests came.
		home := core.Packet{Src: port(haV6), Dst: port(coa6), DstHome: hoa, If: 4, B: mhOf(t, ack, haV6, hoa)}
		udp := core.Packet{Src: port(haV6), Dst: port(hoa), Outer: chain, B: mhOf(t, ack, haV6, hoa)}
		bad := core.Packet{Src: port(haV6), Dst: port(coa6), DstHome: hoa, Outer: chain, B: mhOf(t, ack, haV6, hoa)}
		n, err := p.Write([]core.Packet{home, bad, udp, home})
		if n != 3 || !errors.Is(err, wire.HomeInUDP) {
			t.Errorf("wrote %d: %v", n, err)
		}
		if out := host.Sent(); len(out) != 2 || out[0].If != 4 || out[0].B[6] != ip.Routing || out[0].Outer.N != 0 {
			t.Errorf("natively: %+v", out)
		}
		if out := data.Sent(); len(out) != 1 || out[0].Outer != chain || out[0].B[6] != ip.ESP {
			t.Errorf("in the tunnel: %+v", out)
		}
	})
}

func TestPortCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, host, data := ports(t, NewCodec(Config{}))
		done := make(chan error)
		go func() {
			_, err := p.Read(make([]core.Packet, 1))
			done <- err
		}()
		synctest.Wait()
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		if _, err := p.Read(make([]core.Packet, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		one := core.Packet{Src: port(haV6), Dst: port(coa6), B: mhOf(t, ack, haV6, coa6)}
		if n, err := p.Write([]core.Packet{one}); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %d, %v", n, err)
		}
		if _, err := host.Read(make([]core.Packet, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the host's port: %v", err)
		}
		if _, err := data.Read(make([]core.Packet, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the data plane's port: %v", err)
		}
	})
}

// failing gives packets and an error with them.
type failing struct {
	*system.FakePort
	pkts []core.Packet
	err  error
}

func (p *failing) Read(into []core.Packet) (int, error) {
	n := copy(into, p.pkts)
	p.pkts = nil
	return n, p.err
}

// TestPortFails: an error of a port below reaches the loop, after the packets that came before it.
func TestPortFails(t *testing.T) {
	broken := errors.New("broken")
	pkt := core.Packet{B: raw(t, ip.Signal{Src: coa6, Dst: haV6, Proto: ip.Mobility}, mhOf(t, ack, coa6, haV6))}
	p := NewPort(NewCodec(Config{}), now, &failing{FakePort: system.NewFake(now()).Port("ip"), pkts: []core.Packet{pkt}, err: broken}, nil)
	defer p.Close()
	into := make([]core.Packet, 4)
	if n, err := p.Read(into); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := p.Read(into); n != 0 || !errors.Is(err, broken) {
		t.Errorf("%d, %v", n, err)
	}
}

// TestPortWithoutSecurity: Proxy Mobile IPv6 as by the raw "mh" port: messages go in and out as they are, wrong checksums are the
// parser's, and what cannot be read is refused at the octet that is wrong.
func TestPortWithoutSecurity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, host, _ := ports(t, NewCodec(Config{}))
		mag, lma := netip.MustParseAddr("2001:db8:a::11"), haV6
		pbu := mhOf(t, &mobility.BindingUpdate{Sequence: 1, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: 10}, mag, lma)
		wrong := bytes.Clone(pbu)
		wrong[4] ^= 1
		proto := bytes.Clone(pbu)
		proto[0] = 6
		if err := mobility.SetChecksum(proto, mag, lma); err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{pbu, wrong, proto} {
			host.Inject(core.Packet{If: 2, B: raw(t, ip.Signal{Src: mag, Dst: lma, Proto: ip.Mobility}, b)})
		}
		synctest.Wait()
		into := make([]core.Packet, 8)
		n, err := p.Read(into)
		if err != nil {
			t.Fatal(err)
		}
		for n < 3 {
			k, err := p.Read(into[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
		for i, b := range [][]byte{pbu, wrong, proto} {
			want := core.Packet{If: 2, Src: port(mag), Dst: port(lma), Auth: core.Auth{Kind: "none"}, B: b}
			if got := into[i]; got.If != 2 || got.Src != want.Src || got.Dst != want.Dst || got.Auth != want.Auth || !bytes.Equal(got.B, b) || got.SrcHome.IsValid() || got.Proto != 0 {
				t.Errorf("%d became %+v", i, got)
			}
		}
		m := loop.Decode("mh", &into[2]).(core.Message)
		var bad *wire.Error
		if !errors.As(m.Err, &bad) || !bad.ParameterProblem {
			t.Fatal(m.Err)
		}
		if err := p.Refuse(&into[2], bad.Off); err != nil {
			t.Fatal(err)
		}
		if len(host.refused) != 1 || host.at[0] != 40+bad.Off || !bytes.Equal(host.refused[0].B[40:], proto) || host.refused[0].If != 2 {
			t.Errorf("refused %+v at %v", host.refused, host.at)
		}
		if k, err := p.Write([]core.Packet{{Src: port(lma), Dst: port(mag), If: 2, B: pbu}}); k != 1 || err != nil {
			t.Fatal(k, err)
		}
		if out := host.Sent(); len(out) != 1 || !bytes.Equal(out[0].B, raw(t, ip.Signal{Src: lma, Dst: mag, Proto: ip.Mobility}, pbu)) || out[0].If != 2 {
			t.Errorf("sent %+v", out)
		}
		// A zone chooses the link, and is not in the packet.
		ll := netip.MustParseAddr("fe80::1%7")
		if k, err := p.Write([]core.Packet{{Src: port(ll), Dst: port(ll), B: pbu}}); k != 1 || err != nil {
			t.Fatal(k, err)
		}
		if out := host.Sent(); out[0].Dst.Addr().Zone() != "7" {
			t.Errorf("sent %+v", out[0])
		}
	})
}

// TestRefuse: the octet is told as it lies in the packet with its home address; contents of ESP and of tunnels are not told.
func TestRefuse(t *testing.T) {
	p, host, _ := ports(t, NewCodec(Config{}))
	b := mhOf(t, update(coa6), hoa, haV6)
	if err := p.Refuse(&core.Packet{Src: port(coa6), Dst: port(haV6), SrcHome: hoa, B: b}, 1); err != nil {
		t.Fatal(err)
	}
	if len(host.at) != 1 || host.at[0] != 65 || host.refused[0].B[65] != b[1] {
		t.Fatalf("refused %+v at %v", host.refused, host.at)
	}
	for _, quiet := range []core.Packet{
		{Src: port(coa6), Dst: port(haV6), SrcHome: hoa, B: b, Auth: core.Auth{Kind: "esp"}},
		{Src: port(hoa), Dst: port(haV6), B: b, Outer: byUDP.Outer},
		{Src: port(hoa), Dst: port(haV6), B: b, Proto: ip.ICMPv6},
	} {
		if err := p.Refuse(&quiet, 1); err != nil || len(host.at) != 1 {
			t.Errorf("%+v was refused: %v", quiet, err)
		}
	}
	plain := NewPort(NewCodec(Config{}), now, system.NewFake(now()).Port("ip"), nil)
	defer plain.Close()
	if err := plain.Refuse(&core.Packet{Src: port(coa6), Dst: port(haV6), B: b}, 1); err != nil {
		t.Errorf("a host that cannot: %v", err)
	}
}

// TestAnswers: what is dropped but wants an answer gets it, no longer than its cause and not too often.
func TestAnswers(t *testing.T) {
	spec.Covers(t, "RFC6275-9.3.1", "RFC6275-9.3.3", "RFC4285-5.3", "RFC8200-4.4")
	synctest.Test(t, func(t *testing.T) {
		ha, mn, _ := pair(t, ipsec.RFC4285)
		p, host, data := ports(t, ha)
		go func() {
			for {
				if _, err := p.Read(make([]core.Packet, 8)); err != nil {
					return
				}
			}
		}()
		// A home address that cannot be one.
		bad := raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.Mobility}, mhOf(t, update(coa6), hoa, haV6))
		m := netip.MustParseAddr("ff02::5").As16()
		copy(bad[48:64], m[:])
		host.Inject(core.Packet{If: 4, B: bad})
		synctest.Wait()
		out := host.Sent()
		if len(out) != 1 || len(out[0].B) > len(bad) || out[0].If != 4 {
			t.Fatalf("answered %+v", out)
		}
		s, err := ip.ParseSignal(out[0].B)
		if err != nil || s.Src != haV6 || s.Dst != coa6 || s.DstHome.IsValid() {
			t.Errorf("answered by %+v, %v", s, err)
		}
		msg, err := mobility.Parse(out[0].B[s.Off:], s.Src, s.Dst)
		if be, ok := msg.(*mobility.BindingError); err != nil || !ok || be.Status != 1 || be.Home != netip.AddrFrom16(m) {
			t.Errorf("answered %+v, %v", msg, err)
		}
		// ... but not to a source that is no single node.
		ll := netip.MustParseAddr("fe80::1").As16()
		copy(bad[8:24], ll[:])
		host.Inject(core.Packet{B: bad})
		synctest.Wait()
		if out := host.Sent(); len(out) != 0 {
			t.Errorf("answered %+v", out)
		}

		// A wrong authenticator, natively and in UDP.
		for _, form := range []struct {
			path   core.Path
			careOf netip.Addr
			port   *system.FakePort
			chain  core.Chain
		}{
			{byIPv6, coa6, host.FakePort, core.Chain{}},
			{byUDP, hoa, data, tunnel(netip.AddrPortFrom(haV4, 4191), netip.AddrPortFrom(coa4, 4191))},
		} {
			forged := mustOut(t, mn, packet(t, form.path, update(form.careOf)))
			forged[len(forged)-8] ^= 1
			form.port.Inject(core.Packet{Outer: form.chain, B: forged})
			synctest.Wait()
			out := form.port.Sent()
			if len(out) != 1 || len(out[0].B) > len(forged) || out[0].Outer != form.chain {
				t.Fatalf("answered %+v", out)
			}
			var came core.Packet
			if err := mn.In(now(), out[0].B, form.path.Outer, &came); err != nil || came.Auth.Kind != "rfc4285" {
				t.Fatalf("the node finds %+v, %v", came.Auth, err)
			}
			ba, ok := decoded(t, &came).Body.(*mobility.BindingAck)
			if !ok || ba.Status != mobility.MIPv6AuthFail || ba.Sequence != 7 {
				t.Errorf("answered %+v", ba)
			}
		}
		// The shortest request that can be forged gets no more octets than it has.
		short := mustOut(t, mn, packet(t, core.Path{Local: port(hoa), Remote: port(haV6)}, &mobility.BindingUpdate{Sequence: 7}))
		short[len(short)-8] ^= 1
		host.Inject(core.Packet{B: short})
		synctest.Wait()
		if out := host.Sent(); len(out) != 1 || len(out[0].B) > len(short) {
			t.Errorf("answered %d octets with %+v", len(short), out)
		}

		// Another routing header: the host tells where.
		route := raw(t, ip.Signal{Src: coa6, Dst: haV6, DstHome: hoa, Proto: ip.Mobility}, mhOf(t, ack, coa6, haV6))
		route[42] = 0
		host.Inject(core.Packet{B: route})
		synctest.Wait()
		if len(host.at) != 1 || host.at[0] != 42 {
			t.Errorf("refused %+v at %v", host.refused, host.at)
		}

		// A flood is answered ten times a second.
		copy(bad[8:24], coa6.AsSlice())
		for range 100 {
			host.Inject(core.Packet{B: bad})
		}
		synctest.Wait()
		if out := host.Sent(); len(out) > answerBurst {
			t.Errorf("%d answers at once", len(out))
		}
	})
	var l limiter
	n := 0
	for i := range 1000 {
		if l.take(time.Duration(i) * 10 * time.Millisecond) {
			n++
		}
	}
	if n < 10*answersPerSecond || n > 10*answersPerSecond+answerBurst {
		t.Errorf("%d answers in 10 s", n)
	}
}

// TestHost: the loop's "mh" port is a Port, others are the host's.
func TestHost(t *testing.T) {
	f := system.NewFake(now())
	var asked []string
	f.OpenError = func(kind string, _ []string) error {
		asked = append(asked, kind)
		if kind == "telepathy" {
			return errors.New("no")
		}
		return nil
	}
	data := f.Port("data")
	for _, d := range []func() core.Port{nil, func() core.Port { return nil }, func() core.Port { return data }} {
		h := NewHost(f, NewCodec(Config{}), d)
		p, err := h.Open("mh")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.(*Port); !ok {
			t.Errorf("mh is %T", p)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	h := NewHost(f, NewCodec(Config{}), nil)
	if _, err := h.Open("telepathy"); err == nil {
		t.Error("an error was lost")
	}
	if p, err := h.Open("access", "acc0"); err != nil || p != core.Port(f.Port("access")) {
		t.Errorf("access is %T, %v", p, err)
	}
	if want := []string{"ip", "ip", "ip", "telepathy", "access"}; !slices.Equal(asked, want) {
		t.Errorf("opened %v, want %v", asked, want)
	}
	f.OpenError = func(string, []string) error { return errors.New("no") }
	if _, err := h.Open("mh"); err == nil {
		t.Error("an error was lost")
	}
}
