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

// registration is a Binding Update on its way to a home agent or correspondent.
type registration struct {
	home, peer, careOf netip.Addr
	*mobility.BindingUpdate
	fd int // at the home address; its reads end
}

// newRegistration reads what both kinds of Binding Update say, and to whom.
func newRegistration(args []string, flags mobility.BUFlags) (*registration, error) {
	if len(args) != 5 {
		return nil, errors.New("want home address, home agent or correspondent, care-of address, sequence number and lifetime")
	}
	var r registration
	var err error
	for i, a := range []*netip.Addr{&r.home, &r.peer, &r.careOf} {
		if *a, err = netip.ParseAddr(args[i]); err != nil {
			return nil, err
		}
	}
	seq, err := strconv.ParseUint(args[3], 0, 16)
	if err != nil {
		return nil, err
	}
	lifetime, err := time.ParseDuration(args[4])
	if err != nil {
		return nil, err
	}
	r.BindingUpdate = &mobility.BindingUpdate{Sequence: uint16(seq), Flags: flags, Lifetime: uint16(lifetime / mobility.LifetimeUnit)}
	r.Options = r.Options.Add(mobility.AlternateCareOf{Addr: r.careOf})
	r.fd, err = waiting(r.home)
	return &r, err
}

// send sends it in a message and says what the answer is; without one, or one that check refuses, it fails.
func (r *registration) send(m mobility.Message, check func(answer []byte) error) error {
	if err := sendMH(r.fd, m, r.home, r.peer); err != nil {
		return err
	}
	raw, m, from, err := receiveRaw(r.fd, r.home)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	ack, ok := m.(*mobility.BindingAck)
	if !ok || from != r.peer {
		return fmt.Errorf("%T from %v", m, from)
	}
	if err := check(raw); err != nil {
		return fmt.Errorf("the acknowledgement's proof: %w", err)
	}
	fmt.Printf("status %d sequence %d lifetime %v\n", ack.Status, ack.Sequence, time.Duration(ack.Lifetime)*mobility.LifetimeUnit)
	return nil
}

// update sends a home registration.
func update(args []string) error {
	r, err := newRegistration(args, mobility.BUAck|mobility.BUHome)
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	return r.send(r.BindingUpdate, func([]byte) error { return nil }) // ESP proves it
}

// homeAgent accepts every Binding Update, and says what it accepts.
func homeAgent(args []string) error {
	if len(args) != 1 {
		return errors.New("want the address of the home agent")
	}
	own, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	fd, err := mhSocket(own)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		m, from, err := receiveMH(fd, own)
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
		if err := sendMH(fd, &mobility.BindingAck{Sequence: bu.Sequence, Lifetime: bu.Lifetime}, own, from); err != nil {
			fmt.Printf("error %v\n", err)
		}
	}
}

// optimize is the mobile node's side of return routability and of correspondent registration (RFC 6275 5.2, 11.6): the home tests, the care-of
// tests, and a Binding Update with their proof.
func optimize(args []string) error {
	r, err := newRegistration(args, mobility.BUAck)
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	direct, err := waiting(r.careOf)
	if err != nil {
		return err
	}
	defer unix.Close(direct)
	homeTest, err := test(r.fd, r.home, r.peer, false)
	if err != nil {
		return fmt.Errorf("home test: %w", err)
	}
	careOfTest, err := test(direct, r.careOf, r.peer, true)
	if err != nil {
		return fmt.Errorf("care-of test: %w", err)
	}
	key, registered := mobility.BindingKey(homeTest.Token, careOfTest.Token), r.careOf
	if r.Lifetime == 0 {
		key, registered = mobility.DeregistrationKey(homeTest.Token), r.home // RFC 6275 5.2.6, 6.2.7
	}
	nonces := &mobility.NonceIndices{Home: homeTest.NonceIndex, CareOf: careOfTest.NonceIndex}
	return r.send(&mobility.Authorized{Message: r.BindingUpdate, Nonces: nonces, Key: key, CareOf: registered, Peer: r.peer},
		func(answer []byte) error { return mobility.VerifyAuthorization(answer, key, registered, r.peer) })
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
