package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// listen opens a UDP socket in a namespace.
func (p *path) listen(f flow, port uint16) (c *net.UDPConn) {
	p.Helper()
	p.in(f.at, func() error {
		l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.to, port)))
		c = l
		return err
	})
	must(p, c.SetReadBuffer(4<<20))
	return c
}

func (p *path) dial(f flow, network string, port uint16) (c net.Conn) {
	p.Helper()
	p.in(f.from, func() (err error) {
		c, err = (&net.Dialer{Timeout: patience}).DialContext(context.Background(), network, netip.AddrPortFrom(f.to, port).String())
		return err
	})
	return c
}

// reach sends datagrams until one arrives: for a moment after a link came up the kernel drops what is sent on it.
func (p *path) reach(f flow) {
	p.Helper()
	l := p.listen(f, 7)
	defer l.Close()
	c := p.dial(f, "udp", 7)
	defer c.Close()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = c.Write([]byte("hello"))
		must(p, l.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := l.Read(make([]byte, 16)); err == nil {
			return
		}
	}
	p.Fatalf("%s: nothing comes through", f.name)
}

// stream sends size octets over TCP, and the sum of them must be the same on both sides.
func (p *path) stream(name string, f flow, size int) {
	p.Helper()
	var l net.Listener
	p.in(f.at, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(f.to, 5201).String())
		return err
	})
	defer l.Close()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	type result struct {
		n   int64
		sum [32]byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		h := sha256.New()
		n, err := io.Copy(h, c)
		got <- result{n, [32]byte(h.Sum(nil)), err}
	}()
	start := time.Now()
	c := p.dial(f, "tcp", 5201)
	must(p, c.SetDeadline(start.Add(patience)))
	_, err := c.Write(data)
	c.Close()
	is := <-got
	if err != nil || is.err != nil || is.n != int64(size) || is.sum != sha256.Sum256(data) {
		p.Errorf("TCP %s: %d of %d octets arrived, sent: %v, received: %v, as they were sent: %v", name, is.n, size, err, is.err, is.sum == sha256.Sum256(data))
		return
	}
	p.Logf("TCP %s: %.2f Gbit/s", name, float64(size)*8/time.Since(start).Seconds()/1e9)
}

// segments sends many datagrams in each system call, as QUIC does, and wants each to arrive as it was, in order.
func (p *path) segments(name string, f flow, gro bool) {
	p.Helper()
	l := p.listen(f, 4433)
	defer l.Close()
	c := p.dial(f, "udp", 4433)
	defer c.Close()
	if gro {
		must(p, control(l, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) }))
	}
	serial, long := 0, p.most-48
	for _, s := range []struct{ size, n, last int }{{1200, 20, 77}, {1200, 1, 1200}, {1200, 40, 0}, {100, 60, 1}, {long, 43, long - 1}, {9, 3, 4}} {
		must(p, control(c.(*net.UDPConn), func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, s.size) }))
		for range 4 {
			var all []byte
			var want [][]byte
			for i := range s.n + 1 {
				n := s.size
				if i == s.n {
					n = s.last
				}
				if n == 0 {
					continue
				}
				serial++
				d := bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(serial)), n/4+1)[:n]
				want, all = append(want, d), append(all, d...)
			}
			if _, err := c.Write(all); err != nil {
				p.Fatalf("UDP %s: segments of %d: %v", name, s.size, err)
			}
			if err := arrive(l, want); err != nil {
				p.Errorf("UDP %s: %d segments of %d and one of %d: %v", name, s.n, s.size, s.last, err)
				return
			}
		}
	}
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

// arrive reads until all of want have come, alone or several at once.
func arrive(l *net.UDPConn, want [][]byte) error {
	buf, oob := make([]byte, 65536), make([]byte, 256)
	for len(want) > 0 {
		if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		n, m, _, _, err := l.ReadMsgUDP(buf, oob)
		if err != nil {
			return fmt.Errorf("%d are missing: %w", len(want), err)
		}
		each := n
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			return err
		}
		for _, msg := range msgs {
			if msg.Header.Level == unix.IPPROTO_UDP && msg.Header.Type == unix.UDP_GRO {
				each = int(binary.NativeEndian.Uint32(msg.Data))
			}
		}
		for b := buf[:n]; len(b) > 0; {
			d := b[:min(each, len(b))]
			b = b[len(d):]
			if len(want) == 0 {
				return fmt.Errorf("one more than was sent, of %d octets", len(d))
			}
			if !bytes.Equal(d, want[0]) {
				return fmt.Errorf("%d octets came that begin with %x, want %d with %x, and %d more", len(d), d[:min(8, len(d))], len(want[0]), want[0][:min(8, len(want[0]))], len(want)-1)
			}
			want = want[1:]
		}
	}
	return nil
}
