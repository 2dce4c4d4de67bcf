package probe

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"
)

// startUDP sends numbered packets one way; the receiver is in To.
func startUDP(s Spec) (*Probe, error) {
	var rx, tx *net.UDPConn
	err := s.To.Do(func() (err error) {
		rx, err = net.ListenUDP("udp", &net.UDPAddr{IP: s.Dst.AsSlice()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("udp: %w", err)
	}
	err = s.From.Do(func() (err error) {
		var l *net.UDPAddr
		if s.Src.IsValid() {
			l = &net.UDPAddr{IP: s.Src.AsSlice()}
		}
		tx, err = net.DialUDP("udp", l, rx.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		rx.Close()
		return nil, fmt.Errorf("udp: %w", err)
	}
	_ = rx.SetReadBuffer(4 << 20)
	q := &series{}
	done := make(chan struct{})
	sent := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 9000)
		for {
			n, err := rx.Read(buf)
			if err != nil {
				return // closed by stop
			}
			if n >= 4 {
				q.arrive(binary.BigEndian.Uint32(buf), time.Now())
			}
		}
	})
	wg.Go(func() {
		defer close(sent)
		b := make([]byte, max(s.Size, 4))
		every(s.Every, done, func() {
			binary.BigEndian.PutUint32(b, q.send(time.Now()))
			_, _ = tx.Write(b) // ECONNREFUSED and no route are losses, and counted so
		})
	})
	return &Probe{Spec: s, stats: q.stats, stop: func() {
		close(done)
		<-sent
		linger(q)
		q.end()
		rx.Close()
		tx.Close()
		wg.Wait()
	}}, nil
}
