package probe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// startTCP opens a connection from From to To and sends Size octets every Every; the other end echoes them. In a download, To
// sends instead and From reads. One connection for the whole life of the probe: it counts as dead when it is reset or ends.
func startTCP(s Spec) (*Probe, error) {
	c, peer, err := connect(s)
	if err != nil {
		return nil, err
	}
	t := &stream{last: time.Now()}
	done := make(chan struct{})
	var wg sync.WaitGroup
	sender := c
	if s.Kind == "download" {
		sender = peer
	} else {
		wg.Go(func() { _, err := io.Copy(peer, peer); t.fail(err) })
	}
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			t.progress(n, time.Now())
			if err != nil {
				t.fail(err)
				return
			}
		}
	})
	wg.Go(func() {
		b := make([]byte, s.Size)
		every(s.Every, done, func() {
			// A full window blocks; it must not block Stop.
			_ = sender.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := sender.Write(b)
			var ne net.Error
			if err != nil && !(errors.As(err, &ne) && ne.Timeout()) {
				t.fail(err)
			}
			t.sent(n)
		})
	})
	return &Probe{Spec: s, stats: t.stats, stop: func() {
		t.end()
		close(done)
		c.Close()
		peer.Close()
		wg.Wait()
	}}, nil
}

// connect makes a TCP connection: c is From's end, peer To's.
func connect(s Spec) (c, peer net.Conn, err error) {
	var l *net.TCPListener
	err = s.To.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: s.Dst.AsSlice()})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("tcp: %w", err)
	}
	defer l.Close()
	err = s.From.Do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if s.Src.IsValid() {
			d.LocalAddr = &net.TCPAddr{IP: s.Src.AsSlice()}
		}
		c, err = d.Dial("tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("tcp: %w", err)
	}
	_ = l.SetDeadline(time.Now().Add(5 * time.Second))
	peer, err = l.Accept()
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("tcp: accept: %w", err)
	}
	return c, peer, nil
}

type stream struct {
	mu      sync.Mutex
	out, in int64
	last    time.Time
	gap     time.Duration
	resets  int
	broken  bool
	ended   bool
}

func (t *stream) progress(n int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n > 0 {
		t.in += int64(n)
		t.gap = max(t.gap, now.Sub(t.last))
		t.last = now
	}
}

func (t *stream) sent(n int) {
	t.mu.Lock()
	t.out += int64(n)
	t.mu.Unlock()
}

// fail notes the end of the connection, once.
func (t *stream) fail(error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended && !t.broken {
		t.broken = true
		t.resets++
	}
}

func (t *stream) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
}

func (t *stream) stats(now time.Time) Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Stats{Resets: t.resets, Octets: t.in, Gap: t.gap}
	if !t.ended {
		st.Gap = max(st.Gap, now.Sub(t.last))
		st.Alive = !t.broken && t.in > 0 && now.Sub(t.last) < aliveFor
	}
	return st
}
