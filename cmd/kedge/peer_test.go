package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/lab/daemontest"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
	"kedge/internal/testpcap"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

var (
	peerMAC   = core.MAC{2, 0, 0, 0, 0, 0x99}
	routerMAC = core.MAC{2, 0, 0, 0, 0, 0x01}

	peerAddr  = netip.MustParseAddr("2001:db8:d::99")
	peerOther = netip.MustParseAddr("2001:db8:d::98")
	peerHome  = netip.MustParseAddr("2001:db8:2000::5")
	peerCoA   = netip.MustParseAddr("2001:db8:b::5")
	peerCoA2  = netip.MustParseAddr("2001:db8:c::5")
)

// ether is the other end of a correspondent's link: router, home agent and mobile node in one, frame by frame.
type ether struct {
	t  *testing.T
	fd int

	mu     sync.Mutex // guards frames
	frames [][]byte   // whatever the correspondent sent
	read   int
}

func openEther(t *testing.T, ns *netns.NS, name string) *ether {
	t.Helper()
	e := &ether{t: t}
	netns.Must(t, ns.Do(func() error {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: link.Index}) // ETH_P_IPV6 in network order
	}))
	stop, stopped := make(chan struct{}), make(chan struct{})
	netns.Must(t, unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	go func() {
		defer close(stopped)
		buf := make([]byte, 4096)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, err := unix.Read(e.fd, buf)
			if err != nil || n < 14+ip.IPv6Len || !bytes.Equal(buf[6:12], peerMAC[:]) {
				continue // nothing yet, or what was sent from here
			}
			e.mu.Lock()
			e.frames = append(e.frames, bytes.Clone(buf[:n]))
			e.mu.Unlock()
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped; unix.Close(e.fd) })
	return e
}

// send puts a packet of a mobile node on the link.
func (e *ether) send(s ip.Signal, upper []byte) {
	e.t.Helper()
	b := append(append([]byte{}, peerMAC[:]...), routerMAC[:]...)
	b, err := ip.AppendSignal(append(b, 0x86, 0xdd), &s, 64, len(upper))
	netns.Must(e.t, err)
	_, err = unix.Write(e.fd, append(b, upper...))
	netns.Must(e.t, err)
}

// await gives the next packet that is as wanted; others are passed over, but no ICMPv6 error is.
func (e *ether) await(what string, want func(s ip.Signal, upper []byte) bool) (got ip.Signal) {
	e.t.Helper()
	daemontest.Until(e.t, 5*time.Second, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		for e.read < len(e.frames) {
			pkt := e.frames[e.read][14:]
			e.read++
			s, err := ip.ParseSignal(pkt)
			if err == nil && want(s, pkt[s.Off:s.Len]) {
				got = s
				return nil
			}
		}
		return errors.New(what)
	})
	return got
}

// message sends a Mobility Header and gives the one that comes back, with its addresses.
func (e *ether) message(m mobility.Message, s ip.Signal) (mobility.Message, ip.Signal, []byte) {
	e.t.Helper()
	s.Proto = ip.Mobility
	src, dst := s.Ends()
	b, err := mobility.Append(nil, m, src, dst)
	netns.Must(e.t, err)
	e.send(s, b)
	return e.answer("no answer to " + m.Type().String())
}

func (e *ether) answer(what string) (found mobility.Message, s ip.Signal, raw []byte) {
	e.t.Helper()
	s = e.await(what, func(s ip.Signal, upper []byte) bool {
		if s.Proto != ip.Mobility {
			return false
		}
		src, dst := s.Ends()
		m, err := mobility.Parse(upper, src, dst)
		if err != nil {
			e.t.Error(err)
		}
		found, raw = m, bytes.Clone(upper)
		return true
	})
	return found, s, raw
}

// quiet fails if the correspondent's kernel has said anything about the packets that it was sent.
func (e *ether) quiet() {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.frames {
		s, err := ip.ParseSignal(f[14:])
		if err == nil && s.Proto == ip.ICMPv6 && s.Off < s.Len && f[14+s.Off] < 128 {
			e.t.Errorf("an ICMPv6 error of type %d, code %d to %v", f[14+s.Off], f[14+s.Off+1], s.Dst)
		}
	}
}

// bind registers with the correspondent.
func (e *ether) bind(careOf netip.Addr, seq uint16) {
	e.t.Helper()
	m, s, _ := e.message(&mobility.TestInit{Cookie: [8]byte{1}}, ip.Signal{Src: peerHome, Dst: peerAddr})
	hot, ok := m.(*mobility.Test)
	if !ok || hot.CareOf || hot.Cookie != [8]byte{1} || s.Src != peerAddr || s.Dst != peerHome || s.DstHome.IsValid() {
		e.t.Fatalf("%+v from %+v", m, s)
	}
	m, s, _ = e.message(&mobility.TestInit{CareOf: true, Cookie: [8]byte{2}}, ip.Signal{Src: careOf, Dst: peerAddr})
	cot, ok := m.(*mobility.Test)
	if !ok || !cot.CareOf || cot.Cookie != [8]byte{2} || s.Src != peerAddr || s.Dst != careOf || s.DstHome.IsValid() {
		e.t.Fatalf("%+v from %+v", m, s)
	}
	key := mobility.BindingKey(hot.Token, cot.Token)
	m, s, raw := e.message(&mobility.Authorized{Message: &mobility.BindingUpdate{Sequence: seq, Flags: mobility.BUAck, Lifetime: 50},
		Nonces: &mobility.NonceIndices{Home: hot.NonceIndex, CareOf: cot.NonceIndex}, Key: key, CareOf: careOf, Peer: peerAddr},
		ip.Signal{Src: careOf, Dst: peerAddr, SrcHome: peerHome})
	ba, ok := m.(*mobility.BindingAck)
	if !ok || ba.Status != mobility.Accepted || ba.Sequence != seq || ba.Lifetime != 50 || s.Dst != careOf || s.DstHome != peerHome {
		e.t.Fatalf("%+v from %+v", m, s)
	}
	netns.Must(e.t, mobility.VerifyAuthorization(raw, key, careOf, peerAddr))
}

// ping sends an echo request with a Home Address option.
func (e *ether) ping(careOf netip.Addr, seq uint16) {
	e.t.Helper()
	e.send(ip.Signal{Src: careOf, Dst: peerAddr, SrcHome: peerHome, Proto: ip.ICMPv6}, (&ip.Echo{ID: 77, Seq: seq, Data: []byte("straight")}).Append(nil, peerHome, peerAddr))
}

// TestPeer: a server with `peer: {}` answers return routability, exchanges packets with a mobile node directly, tells it when it has
// forgotten it, and is a host like before when it ends. Its kernel says nothing of all that.
func TestPeer(t *testing.T) {
	server, world := netns.Test(t, "server"), netns.Test(t, "world")
	px := netip.MustParsePrefix
	netns.TestVeth(t,
		netns.End{NS: server, Name: "eth0", MAC: peerMAC, Addrs: []netip.Prefix{px("2001:db8:d::99/64"), px("2001:db8:d::98/64")}},
		netns.End{NS: world, Name: "eth0", MAC: routerMAC})
	output(t, world, "sysctl", "-q", "net.ipv6.conf.eth0.disable_ipv6=1")
	output(t, server, "ip", "-6", "neigh", "add", "2001:db8:d::1", "lladdr", routerMAC.String(), "dev", "eth0")
	output(t, server, "ip", "-6", "route", "add", "default", "via", "2001:db8:d::1")
	state := func() string {
		return hostState(t, server) + output(t, server, "ip", "-6", "route", "show", "table", "all", "type", "unicast")
	}
	before := state()
	e := openEther(t, world, "eth0")
	dir := t.TempDir()
	p := daemonIn(t, server, dir, "server1", "peer: {}\n")
	daemontest.Until(t, 10*time.Second, func() error { _, err := p.Bindings(t.Context(), "", 0); return err })

	// Data without a binding is told so, also by a correspondent that has none at all.
	unknown := func(careOf netip.Addr, seq uint16) {
		t.Helper()
		e.ping(careOf, seq)
		m, s, _ := e.answer("no Binding Error")
		if be, ok := m.(*mobility.BindingError); !ok || be.Status != mobility.UnknownBinding || be.Home != peerHome || s.Dst != careOf || s.DstHome.IsValid() {
			t.Fatalf("%+v from %+v", m, s)
		}
	}
	unknown(peerCoA2, 1)

	e.bind(peerCoA, 100)
	b := p.Bound("active", peerCoA)
	if b.Kind != "host" || len(b.Home) != 1 || b.Home[0].Addr() != peerHome || b.Lifetime != 200*time.Second {
		t.Errorf("%+v", b)
	}
	reply := func(careOf netip.Addr, seq uint16) {
		t.Helper()
		e.await(fmt.Sprintf("no reply %d behind a type 2 routing header to %v", seq, careOf), func(s ip.Signal, upper []byte) bool {
			if s.Proto != ip.ICMPv6 || s.Dst != careOf || s.DstHome != peerHome || s.Src != peerAddr {
				return false
			}
			echo, err := ip.ParseEcho(upper, peerAddr, peerHome)
			return err == nil && echo.Reply && echo.Seq == seq && string(echo.Data) == "straight"
		})
	}
	e.ping(peerCoA, 2)
	reply(peerCoA, 2)
	// What a socket without an address sends goes straight as well; what has another address goes by the home agent, as ever.
	for from, dev := range map[string]string{"": "kedge0", peerAddr.String(): "kedge0", peerOther.String(): "eth0"} {
		args := []string{"ip", "-6", "route", "get", peerHome.String()}
		if from != "" {
			args = append(args, "from", from)
		}
		if got := output(t, server, args...); !strings.Contains(got, "dev "+dev+" ") || from == "" && !strings.Contains(got, "src "+peerAddr.String()) {
			t.Errorf("from %q: %s, want %s", from, got, dev)
		}
	}

	// It moves. The tests go to the home address by the home agent, although there is a binding.
	e.bind(peerCoA2, 101)
	p.Bound("active", peerCoA2)
	e.ping(peerCoA2, 3)
	reply(peerCoA2, 3)

	// The process dies, and the next one knows nothing.
	p.Kill()
	p = daemonIn(t, server, dir, "server1", "peer: {}\n")
	daemontest.Until(t, 10*time.Second, func() error { _, err := p.Bindings(t.Context(), "", 0); return err })
	unknown(peerCoA2, 4)
	e.bind(peerCoA2, 5) // any number
	e.ping(peerCoA2, 5)
	reply(peerCoA2, 5)
	e.quiet()

	// Its address goes: what is for the home address has another one now, and goes by the home agent. It comes back, and all is as before.
	output(t, server, "ip", "-6", "addr", "del", peerAddr.String()+"/64", "dev", "eth0")
	leads := func(to netip.Addr, want string) {
		t.Helper()
		daemontest.Until(t, 10*time.Second, func() error {
			if got := output(t, server, "ip", "-6", "route", "get", to.String()); !strings.Contains(got, want) {
				return errors.New(got)
			}
			return nil
		})
	}
	leads(peerHome, "dev eth0 ")
	output(t, server, "ip", "-6", "addr", "add", peerAddr.String()+"/64", "dev", "eth0", "nodad")
	leads(peerAddr, "local ")
	unknown(peerCoA, 6) // of one source, data is reported once a second
	e.bind(peerCoA2, 6)
	e.ping(peerCoA2, 7)
	reply(peerCoA2, 7)

	var out bytes.Buffer
	for _, args := range [][]string{{"status"}, {"bindings"}} {
		if code := cli(t.Context(), append(args, "-s", filepath.Join(dir, "server1.sock")), &out, &out); code != 0 {
			t.Errorf("%v: %d %s", args, code, &out)
		}
	}
	for _, want := range []string{"peer", "1 active", peerHome.String(), peerCoA2.String(), "return-routability"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status and bindings have no %q:\n%s", want, &out)
		}
	}
	if err := p.End(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if after := state(); after != before {
		t.Errorf("left behind: before\n%s\nafter\n%s", before, after)
	}
	e.judge(filepath.Join(dir, "server.pcap"))
	spec.Covers(t, "RFC6275-9.3.1", "RFC6275-9.3.2")
}

// judge has tshark read all that the correspondent sent.
func (e *ether) judge(file string) {
	e.t.Helper()
	e.mu.Lock()
	testpcap.Write(e.t, file, e.frames)
	e.mu.Unlock()
	fields := []string{"-T", "fields", "-e", "mip6.mhtype", "-e", "mip6.ba.status", "-e", "mip6.bad.auth", "-e", "mip6.csum", "-e", "ipv6.routing.type"}
	out, err := exec.Command("tshark", append([]string{"-r", file, "-Y", "mipv6"}, fields...)...).Output()
	netns.Must(e.t, err)
	acks := 0
	for _, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") { // fields at the end may be empty
		f := strings.Split(line, "\t")
		if len(f) < 5 {
			e.t.Fatalf("tshark says %q", line)
		}
		if f[0] == "6" {
			if acks++; len(f[2]) != 2*mobility.AuthenticatorLen || f[4] != "2" || f[1] != "0" {
				e.t.Errorf("an acknowledgement is %q to tshark", line)
			}
		}
	}
	if acks != 4 {
		e.t.Errorf("tshark sees %d acknowledgements:\n%s", acks, out)
	}
	bad, err := exec.Command("tshark", "-r", file, "-Y", "mipv6 && (_ws.malformed || _ws.expert.severity >= 0x600000)").Output()
	netns.Must(e.t, err)
	if len(bad) > 0 {
		e.t.Errorf("tshark finds fault with\n%s", bad)
	}
}
