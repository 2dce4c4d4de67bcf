package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// What UMIP is on other systems, as far as packets go: messages on a raw socket of protocol 135, between home address and home agent. The kernel
// adds the headers of Mobile IPv6 and ESP as its policies say, and takes them off again, and makes and checks the checksum.

// answerWithin is for one answer to one message.
const answerWithin = 5 * time.Second

// mhSocket is a raw socket at an address.
func mhSocket(local netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(ip.Mobility))
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: local.As16()}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind to %v: %w", local, err)
	}
	return fd, nil
}

func sendMH(fd int, m mobility.Message, src, dst netip.Addr) error {
	b, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		return err
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: dst.As16()}); err != nil {
		return fmt.Errorf("send to %v: %w", dst, err)
	}
	return nil
}

// receiveMH gives the next message and who it is from, as the kernel sees him.
func receiveMH(fd int, local netip.Addr) (mobility.Message, netip.Addr, error) {
	_, m, from, err := receiveRaw(fd, local)
	return m, from, err
}

// receiveRaw gives it as it came, too.
func receiveRaw(fd int, local netip.Addr) ([]byte, mobility.Message, netip.Addr, error) {
	buf := make([]byte, 4096)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return nil, nil, netip.Addr{}, err
	}
	a, ok := from.(*unix.SockaddrInet6)
	if !ok {
		return nil, nil, netip.Addr{}, fmt.Errorf("a message from %T", from)
	}
	src := netip.AddrFrom16(a.Addr)
	m, err := mobility.Parse(buf[:n], src, local)
	return buf[:n], m, src, err
}

func addresses(args []string) (out []netip.Addr, err error) {
	for _, a := range args {
		ad, err := netip.ParseAddr(a)
		if err != nil {
			return nil, err
		}
		out = append(out, ad)
	}
	return out, nil
}

// update sends a Binding Update and says what the answer is; without one it fails.
func update(args []string) error {
	if len(args) != 5 {
		return errors.New("want home address, home agent, care-of address, sequence number and lifetime")
	}
	a, err := addresses(args[:3])
	if err != nil {
		return err
	}
	seq, err := strconv.ParseUint(args[3], 0, 16)
	if err != nil {
		return err
	}
	lifetime, err := time.ParseDuration(args[4])
	if err != nil {
		return err
	}
	home, agent, careOf := a[0], a[1], a[2]
	fd, err := waiting(home)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	bu := &mobility.BindingUpdate{Sequence: uint16(seq), Flags: mobility.BUAck | mobility.BUHome, Lifetime: uint16(lifetime / mobility.LifetimeUnit)}
	bu.Options = bu.Options.Add(mobility.AlternateCareOf{Addr: careOf})
	if err := sendMH(fd, bu, home, agent); err != nil {
		return err
	}
	m, from, err := receiveMH(fd, home)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	ack, ok := m.(*mobility.BindingAck)
	if !ok || from != agent {
		return fmt.Errorf("%T from %v", m, from)
	}
	fmt.Printf("status %d sequence %d lifetime %v\n", ack.Status, ack.Sequence, time.Duration(ack.Lifetime)*mobility.LifetimeUnit)
	return nil
}

// homeAgent accepts every Binding Update, and says what it accepts.
func homeAgent(args []string) error {
	a, err := addresses(args)
	if err != nil || len(a) != 1 {
		return errors.New("want the address of the home agent")
	}
	fd, err := mhSocket(a[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		m, from, err := receiveMH(fd, a[0])
		if err != nil {
			fmt.Printf("error %v\n", err)
			continue
		}
		bu, ok := m.(*mobility.BindingUpdate)
		if !ok {
			fmt.Printf("other %T\n", m)
			continue
		}
		careOf, _ := bu.Options.AlternateCareOf()
		fmt.Printf("update from %v careof %v acknowledge %v home %v sequence %d lifetime %v\n", from, careOf.Addr, bu.Flags&mobility.BUAck != 0, bu.Flags&mobility.BUHome != 0,
			bu.Sequence, time.Duration(bu.Lifetime)*mobility.LifetimeUnit)
		if err := sendMH(fd, &mobility.BindingAck{Sequence: bu.Sequence, Lifetime: bu.Lifetime}, a[0], from); err != nil {
			fmt.Printf("error %v\n", err)
		}
	}
}

// optimize is the mobile node's side of return routability and of correspondent registration (RFC 6275 5.2, 11.6): the home tests, the care-of
// tests, and a Binding Update with their proof. It says what is acknowledged.
func optimize(args []string) error {
	if len(args) != 5 {
		return errors.New("want home address, correspondent, care-of address, sequence number and lifetime")
	}
	a, err := addresses(args[:3])
	if err != nil {
		return err
	}
	seq, err := strconv.ParseUint(args[3], 0, 16)
	if err != nil {
		return err
	}
	lifetime, err := time.ParseDuration(args[4])
	if err != nil {
		return err
	}
	home, peer, careOf := a[0], a[1], a[2]
	fd, err := waiting(home)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	direct, err := waiting(careOf)
	if err != nil {
		return err
	}
	defer unix.Close(direct)
	homeTest, err := test(fd, home, peer, false)
	if err != nil {
		return fmt.Errorf("home test: %w", err)
	}
	careOfTest, err := test(direct, careOf, peer, true)
	if err != nil {
		return fmt.Errorf("care-of test: %w", err)
	}
	key, registered := mobility.BindingKey(homeTest.Token, careOfTest.Token), careOf
	if lifetime == 0 {
		key, registered = mobility.DeregistrationKey(homeTest.Token), home // RFC 6275 5.2.6, 6.2.7
	}
	bu := &mobility.BindingUpdate{Sequence: uint16(seq), Flags: mobility.BUAck, Lifetime: uint16(lifetime / mobility.LifetimeUnit)}
	bu.Options = bu.Options.Add(mobility.AlternateCareOf{Addr: careOf})
	proven := &mobility.Authorized{Message: bu, Nonces: &mobility.NonceIndices{Home: homeTest.NonceIndex, CareOf: careOfTest.NonceIndex}, Key: key, CareOf: registered, Peer: peer}
	if err := sendMH(fd, proven, home, peer); err != nil {
		return err
	}
	raw, m, from, err := receiveRaw(fd, home)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	ack, ok := m.(*mobility.BindingAck)
	if !ok || from != peer {
		return fmt.Errorf("%T from %v", m, from)
	}
	if err := mobility.VerifyAuthorization(raw, key, registered, peer); err != nil {
		return fmt.Errorf("the acknowledgement's proof: %w", err)
	}
	fmt.Printf("status %d sequence %d lifetime %v\n", ack.Status, ack.Sequence, time.Duration(ack.Lifetime)*mobility.LifetimeUnit)
	return nil
}

// waiting is a socket whose reads end.
func waiting(local netip.Addr) (int, error) {
	fd, err := mhSocket(local)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval(answerWithin.Nanoseconds())
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

// test is one of the two tests.
func test(fd int, own, peer netip.Addr, careOf bool) (*mobility.Test, error) {
	init := &mobility.TestInit{CareOf: careOf}
	if _, err := rand.Read(init.Cookie[:]); err != nil {
		return nil, err
	}
	if err := sendMH(fd, init, own, peer); err != nil {
		return nil, err
	}
	m, from, err := receiveMH(fd, own)
	if err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	t, ok := m.(*mobility.Test)
	if !ok || from != peer || t.CareOf != careOf || t.Cookie != init.Cookie {
		return nil, fmt.Errorf("%T from %v is no answer", m, from)
	}
	return t, nil
}
