package user

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// signalQueue is how many packets of signalling wait to be read. What comes when it is full is dropped, and counted as rate-limit.
const signalQueue = 1024

// signalPort is the "ip" port of a plane: signalling that comes and goes in outer packets.
type signalPort struct {
	plane   *Plane
	waiting chan core.Packet
	spare   chan []byte // buffers to use again
	closed  chan struct{}
	once    sync.Once

	mu    sync.Mutex // guards what follows
	out   mem.Out
	batch *sendBatch
}

func newSignalPort(p *Plane) *signalPort {
	return &signalPort{
		plane: p, waiting: make(chan core.Packet, signalQueue), spare: make(chan []byte, signalQueue), closed: make(chan struct{}),
		batch: new(sendBatch),
	}
}

// Signal is the port of signalling that comes and goes in outer packets, of kind "ip": Read gives IPv6 packets for this router
// with the chain that each came in, or with none those that it was told to Guard; Write puts each into its Outer, or at an anchor
// forwards one of Proto ip.IPv6, which came in ESP between the ends of Outer. There is one; the plane's Close closes it. A node's
// home addresses for which it listens before there is a session are in Config.Home.
func (p *Plane) Signal() core.Port { return p.signals }

// SignalsWaiting is how many packets of signalling wait to be read.
func (p *Plane) SignalsWaiting() int { return len(p.signals.waiting) }

// take keeps a copy of a packet for Read.
func (s *signalPort) take(pkt *mem.Packet) {
	var b []byte
	select {
	case b = <-s.spare:
	default:
	}
	b = append(b[:0], pkt.B...)
	select {
	case s.waiting <- core.Packet{Outer: pkt.Outer, B: b}:
	default:
		s.plane.Count(wire.RateLimit)
	}
}

// Read waits for packets.
func (s *signalPort) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case pkt := <-s.waiting:
		s.give(pkt, &into[0])
	}
	for n = 1; n < len(into); n++ {
		select {
		case pkt := <-s.waiting:
			s.give(pkt, &into[n])
		default:
			return n, nil
		}
	}
	return n, nil
}

func (s *signalPort) give(pkt core.Packet, into *core.Packet) {
	*into = core.Packet{Outer: pkt.Outer, B: append(into.B[:0], pkt.B...)}
	select {
	case s.spare <- pkt.B:
	default:
	}
}

// Write sends every packet that can be sent, and joins the errors of the others.
func (s *signalPort) Write(pkts []core.Packet) (sent int, err error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	now := s.plane.now()
	for i := range pkts {
		s.out.Reset()
		l := &pkts[i].Outer.Layer[0]
		var err error
		if pkts[i].Proto == ip.IPv6 && s.plane.cfg.Role == Anchor {
			s.plane.Inject(now, pkts[i].Outer, pkts[i].B, &s.out)
		} else {
			err = s.plane.Encapsulate(now, pkts[i].Outer, pkts[i].B, &s.out)
		}
		if err == nil {
			err = s.plane.send(&s.out, s.batch)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("signalling from %v to %v: %w", l.Local, l.Remote, err))
			continue
		}
		sent++
	}
	return sent, errors.Join(errs...)
}

// Close ends Read and Write. The plane goes on forwarding, and drops signalling.
func (s *signalPort) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
