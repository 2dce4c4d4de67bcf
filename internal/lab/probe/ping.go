package probe

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"kedge/wire/ip"
)

var pingID atomic.Uint32

// startPing sends echo requests by a raw socket (RFC 792, RFC 4443), so that each answer is matched to its request.
func startPing(s Spec) (*Probe, error) {
	network, any := "ip4:icmp", "0.0.0.0"
	request, reply := byte(8), byte(0)
	if s.Dst.Is6() {
		network, any, request, reply = "ip6:ipv6-icmp", "::", 128, 129
	}
	if s.Src.IsValid() {
		any = s.Src.String()
	}
	var c net.PacketConn
	if err := s.From.Do(func() (err error) { c, err = net.ListenPacket(network, any); return }); err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	id := uint16(pingID.Add(1)) | 0x8000
	q := &series{}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 9000)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return // closed by stop
			}
			if b := buf[:n]; n >= 12 && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == id {
				q.arrive(binary.BigEndian.Uint32(b[8:]), time.Now())
			}
		}
	})
	send := make(chan struct{})
	wg.Go(func() {
		defer close(send)
		dst := &net.IPAddr{IP: s.Dst.AsSlice()}
		b := make([]byte, 8+max(s.Size, 4))
		every(s.Every, done, func() {
			seq := q.send(time.Now())
			b[0], b[1], b[2], b[3] = request, 0, 0, 0
			binary.BigEndian.PutUint16(b[4:], id)
			binary.BigEndian.PutUint16(b[6:], uint16(seq))
			binary.BigEndian.PutUint32(b[8:], seq) // 16 bits wrap after a minute at 1,000/s
			if request == 8 {
				binary.BigEndian.PutUint16(b[2:], ip.Checksum(b))
			}
			_, _ = c.WriteTo(b, dst) // no route: lost, and counted so
		})
	})
	return &Probe{Spec: s, stats: q.stats, stop: func() {
		close(done)
		<-send
		linger(q)
		q.end()
		c.Close()
		wg.Wait()
	}}, nil
}

// every calls f at once and then at each tick until done.
func every(d time.Duration, done <-chan struct{}, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		f()
		select {
		case <-done:
			return
		case <-t.C:
		}
	}
}

// linger waits until everything arrived, at most InFlight.
func linger(q *series) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(InFlight); time.Now().Before(end); <-t.C {
		q.mu.Lock()
		all := q.recv == len(q.sent)
		q.mu.Unlock()
		if all {
			return
		}
	}
}
