package signal

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
)

// Refuser is what loop.Refuser is: a port that can tell the sender of a packet at which octet it could not be read, by an ICMPv6
// Parameter Problem, code 0. A native "ip" port that has it is asked with the whole IPv6 packet.
type Refuser interface {
	Refuse(p *core.Packet, off int) error
}

// batchSize is how many packets one read of a port below takes at most.
const batchSize = 32

// Port is a core.Port of kind "mh" over the host's "ip" port and, if there is one, that of the data plane.
type Port struct {
	codec  *Codec
	now    func() core.Now
	native core.Port
	data   core.Port // nil: nothing comes in tunnels

	ready   chan *batch
	stop    chan struct{}
	readers sync.WaitGroup
	close   sync.Once
	left    *batch // what the last Read had no room for
	next    int
	answers limiter

	tx struct {
		sync.Mutex
		native, data []core.Packet
		bufs         [][]byte
	}
}

// batch is one read of a port below. It goes back to its reader when Read has emptied it.
type batch struct {
	raw, pkts [batchSize]core.Packet
	n         int
	err       error
	back      chan *batch
}

// NewPort joins two ports. data may be nil. now is the host's clock.
func NewPort(c *Codec, now func() core.Now, native, data core.Port) *Port {
	p := &Port{codec: c, now: now, native: native, data: data, ready: make(chan *batch), stop: make(chan struct{})}
	p.readers.Go(func() { p.read(native, false) })
	if data != nil {
		p.readers.Go(func() { p.read(data, true) })
	}
	return p
}

// read is the goroutine of one port below.
func (p *Port) read(from core.Port, data bool) {
	back := make(chan *batch, 2)
	for range cap(back) {
		back <- &batch{back: back}
	}
	for b := range back {
		k, err := from.Read(b.raw[:])
		b.n, b.err = 0, err
		now := p.now()
		for i := range b.raw[:k] {
			raw, pkt := &b.raw[i], &b.pkts[b.n]
			if data && raw.Outer.N == 0 && !p.codec.ours(raw.B) {
				p.protect(now, raw)
				continue
			}
			pkt.If, pkt.MAC = raw.If, raw.MAC
			if err := p.codec.In(now, raw.B, raw.Outer, pkt); err != nil {
				p.answer(now, raw, err)
				continue
			}
			if pkt.Proto == ip.IPv6 {
				p.forward(pkt)
				continue
			}
			b.n++
		}
		if b.n == 0 && err == nil {
			back <- b
			continue
		}
		select {
		case p.ready <- b:
		case <-p.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// protect sends what the data plane found on its way to a home address, in the ESP that the policy wants around it.
func (p *Port) protect(now core.Now, raw *core.Packet) {
	if b, err := p.codec.Protect(now, raw.B, nil); err == nil {
		_, _ = p.native.Write([]core.Packet{{B: b}}) // one that cannot be sent is lost, as any may be
	}
}

// forward gives the data plane what came in ESP for somebody else.
func (p *Port) forward(pkt *core.Packet) {
	if p.data == nil {
		_ = p.codec.drop(wire.NotForUs)
		return
	}
	_, _ = p.data.Write([]core.Packet{{Proto: ip.IPv6, Outer: pkt.Outer, B: pkt.B}})
}

// answer tells the sender of a packet what is wrong with it, where its RFC wants that: a native one at which octet (RFC 8200 4.4),
// or what Codec.Answer says. An answer that cannot be sent is lost, as any may be.
func (p *Port) answer(now core.Now, raw *core.Packet, err error) {
	var bad *wire.Error
	if !errors.As(err, &bad) {
		return
	}
	if bad.ParameterProblem {
		if r, ok := p.native.(Refuser); ok && raw.Outer.N == 0 && bad.Status == 0 {
			_ = r.Refuse(raw, bad.Off)
		}
		return
	}
	if a, ok := p.codec.Answer(raw.B, raw.Outer, err); ok && p.answers.take(now.Boot) {
		a.If = raw.If
		_, _ = p.Write([]core.Packet{a})
	}
}

// Refuse implements loop.Refuser where the native port can send an ICMPv6 Parameter Problem: B is a Mobility Header that came, off
// the octet of it that is wrong. What is quoted is its packet as Out would build it. Nothing is said about messages that came
// under ESP, whose contents nobody else may see, or in a tunnel.
func (p *Port) Refuse(pkt *core.Packet, off int) error {
	r, ok := p.native.(Refuser)
	if !ok || pkt.Outer.N != 0 || pkt.Auth.Kind == ipsec.KindESP || pkt.Proto != 0 {
		return nil
	}
	s := ip.Signal{Src: pkt.Src.Addr().WithZone(""), Dst: pkt.Dst.Addr().WithZone(""), SrcHome: pkt.SrcHome, DstHome: pkt.DstHome, Proto: ip.Mobility}
	whole, err := ip.AppendSignal(nil, &s, 0, len(pkt.B)) // the hop limit is not known any more
	if err != nil {
		return err
	}
	return r.Refuse(&core.Packet{If: pkt.If, MAC: pkt.MAC, Src: pkt.Src, Dst: pkt.Dst, B: append(whole, pkt.B...)}, len(whole)+off)
}

// Read implements core.Port.
func (p *Port) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	if p.left == nil {
		select {
		case p.left = <-p.ready:
		case <-p.stop:
			return 0, net.ErrClosed
		}
		p.next = 0
	}
	b := p.left
	for n < len(into) && p.next < b.n {
		// The buffers change places, so that none is copied.
		into[n], b.pkts[p.next] = b.pkts[p.next], into[n]
		n++
		p.next++
	}
	if p.next < b.n {
		return n, nil
	}
	if n > 0 && b.err != nil {
		return n, nil // the error comes with the next Read
	}
	p.left = nil
	if b.err != nil {
		return 0, b.err
	}
	b.back <- b
	return n, nil
}

// Write implements core.Port: packets with Outer go to the data plane, the others to the host.
func (p *Port) Write(pkts []core.Packet) (sent int, err error) {
	p.tx.Lock()
	defer p.tx.Unlock()
	var errs []error
	p.tx.native, p.tx.data = p.tx.native[:0], p.tx.data[:0]
	now := p.now()
	for i := range pkts {
		if i == len(p.tx.bufs) {
			p.tx.bufs = append(p.tx.bufs, nil)
		}
		pkt := pkts[i]
		b, oerr := p.codec.Out(now, &pkt, p.tx.bufs[i][:0])
		if oerr != nil {
			errs = append(errs, oerr)
			continue
		}
		p.tx.bufs[i] = b
		whole := core.Packet{If: pkts[i].If, MAC: pkts[i].MAC, Src: pkts[i].Src, Dst: pkts[i].Dst, Outer: pkt.Outer, B: b}
		switch {
		case whole.Outer.N == 0:
			p.tx.native = append(p.tx.native, whole)
		case p.data == nil:
			errs = append(errs, fmt.Errorf("mh: to %s: %w: signalling in a tunnel, without a data plane", pkts[i].Dst.Addr(), errors.ErrUnsupported))
		default:
			p.tx.data = append(p.tx.data, whole)
		}
	}
	if len(p.tx.native) > 0 {
		k, werr := p.native.Write(p.tx.native)
		sent, errs = sent+k, append(errs, werr)
	}
	if len(p.tx.data) > 0 {
		k, werr := p.data.Write(p.tx.data)
		sent, errs = sent+k, append(errs, werr)
	}
	return sent, errors.Join(errs...)
}

// Close ends Read and Write with net.ErrClosed, and closes the ports below.
func (p *Port) Close() (err error) {
	p.close.Do(func() {
		close(p.stop)
		err = p.native.Close()
		if p.data != nil {
			err = errors.Join(err, p.data.Close())
		}
		p.readers.Wait()
	})
	return err
}
