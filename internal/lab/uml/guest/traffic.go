package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for one step of an exchange, not for all of it.
const patience = 20 * time.Second

func endpoint(addr, port string) (netip.AddrPort, error) {
	return netip.ParseAddrPort(net.JoinHostPort(addr, port))
}

// from takes "@ADDRESS" from the front of arguments: the own address of what follows.
func from(args []string) (local netip.Addr, rest []string, err error) {
	if len(args) > 0 && strings.HasPrefix(args[0], "@") {
		local, err = netip.ParseAddr(args[0][1:])
		return local, args[1:], err
	}
	return netip.IPv6Unspecified(), args, nil
}

// family is the socket option level of an address and the options for the traffic class of what comes and goes.
func family(a netip.Addr) (level, receive, send int) {
	if a.Is4() {
		return unix.IPPROTO_IP, unix.IP_RECVTOS, unix.IP_TOS
	}
	return unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, unix.IPV6_TCLASS
}

// option sets an integer socket option.
func option(c *net.UDPConn, level, name, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), level, name, value) }), inner)
}

// class finds the traffic class in control messages.
func class(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) >= 1:
			return int(m.Data[0]), nil
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS && len(m.Data) >= 4:
			return int(binary.NativeEndian.Uint32(m.Data)), nil
		}
	}
	return 0, errors.New("the kernel said no traffic class")
}

func echo(args []string) error {
	if len(args) != 2 {
		return errors.New("want an address and a port")
	}
	at, err := endpoint(args[0], args[1])
	if err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	level, receive, _ := family(at.Addr())
	if err := option(u, level, receive, 1); err != nil {
		return err
	}
	go func() {
		buf, oob := make([]byte, 65536), make([]byte, 256)
		for {
			n, m, _, from, err := u.ReadMsgUDPAddrPort(buf[1:], oob)
			if err != nil {
				continue // an ICMP error about an answer
			}
			c, err := class(oob[:m])
			if err != nil {
				continue
			}
			buf[0] = byte(c)
			_, _ = u.WriteToUDPAddrPort(buf[:1+n], from)
		}
	}()
	fmt.Println("ready")
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
			_ = c.CloseWrite()
		}()
	}
}

func stream(args []string) error {
	local, args, err := from(args)
	if err != nil {
		return err
	}
	if len(args) != 3 {
		return errors.New("want an address, a port and a number of octets")
	}
	to, err := endpoint(args[0], args[1])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	start := time.Now()
	d := net.Dialer{Timeout: patience}
	if !local.IsUnspecified() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	conn, err := d.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	h, n, buf := sha256.New(), 0, make([]byte, 65536)
	for {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		k, err := c.Read(buf)
		n += k
		h.Write(buf[:k])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d of %d octets: %w", n, size, err)
		}
	}
	if err := <-sent; err != nil {
		return err
	}
	if n != size || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
		return fmt.Errorf("%d octets came back of %d, or not as they were sent", n, size)
	}
	fmt.Printf("%d octets there and back in %v\n", size, time.Since(start).Round(time.Millisecond))
	return nil
}

func datagrams(args []string) error {
	local, args, err := from(args)
	if err != nil {
		return err
	}
	if len(args) < 5 {
		return errors.New("want an address, a port, a traffic class, that wanted, and lengths")
	}
	to, err := endpoint(args[0], args[1])
	if err != nil {
		return err
	}
	sent, err := strconv.ParseUint(args[2], 0, 8)
	if err != nil {
		return err
	}
	lost := args[3] == "lost"
	want, err := strconv.ParseUint(args[3], 0, 8)
	if err != nil && !lost {
		return err
	}
	var bound *net.UDPAddr
	if !local.IsUnspecified() {
		bound = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	c, err := net.DialUDP("udp", bound, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	level, _, send := family(to.Addr())
	if err := option(c, level, send, int(sent)); err != nil {
		return err
	}
	for i, a := range args[4:] {
		size, err := strconv.Atoi(a)
		if err != nil || size < 1 {
			return fmt.Errorf("%q is no length", a)
		}
		data := bytes.Repeat([]byte{byte(i + 1), byte(size)}, size)[:size]
		if !lost {
			err = exchange(c, data, byte(want), tries)
		} else if err = exchange(c, data, 0, 2); errors.Is(err, errNothing) {
			err = nil
		} else {
			err = fmt.Errorf("not lost: %w", errors.Join(errors.New("something came back"), err))
		}
		if err != nil {
			return fmt.Errorf("%d octets: %w", size, err)
		}
	}
	return nil
}

// tries of one datagram, and the time for each: the first may only find out the path MTU, or whose link-layer address it is.
const (
	tries   = 30
	tryTime = 200 * time.Millisecond
)

var errNothing = errors.New("nothing came back")

// exchange sends a datagram until it comes back.
func exchange(c *net.UDPConn, data []byte, want byte, tries int) (err error) {
	buf := make([]byte, 65536)
	for range tries {
		if _, err = c.Write(data); err != nil {
			continue
		}
		if err := c.SetReadDeadline(time.Now().Add(tryTime)); err != nil {
			return err
		}
		for {
			n := 0
			if n, err = c.Read(buf); err != nil {
				break
			}
			switch {
			case n != 1+len(data): // a late one, of an earlier try
				continue
			case !bytes.Equal(buf[1:n], data):
				return errors.New("they did not come back as they were sent")
			case buf[0] != want:
				return fmt.Errorf("the traffic class that arrived is %#x, want %#x", buf[0], want)
			}
			return nil
		}
	}
	return fmt.Errorf("%w of %d tries: %w", errNothing, tries, err)
}
