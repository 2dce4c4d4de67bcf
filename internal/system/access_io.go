package system

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// Read waits for frames of any of the links. One reader at a time.
func (p *AccessPort) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	var werr error
	err = p.ep.wait(false, func(ep int) bool {
		n, werr = poll(ep, p.events[:], func(fd, n int) int { return p.drain(fd, into[n:]) })
		return n > 0 || werr != nil
	})
	err = cmp.Or(err, werr)
	if n > 0 {
		return n, nil
	}
	return 0, wrapPort(p.kind, err)
}

// drain reads what one link has.
func (p *AccessPort) drain(fd int, into []core.Packet) (n int) {
	if len(into) == 0 {
		return 0
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	at := slices.IndexFunc(p.links, func(l *accessLink) bool { return l.fd == fd })
	if at < 0 {
		return 0 // closed since epoll saw it; the number may be another file by now
	}
	got, err := p.rx.recv(fd, len(into))
	if err != nil {
		return 0 // the link went down: the error is read and gone, and follow knows
	}
	for i := range got {
		from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&p.rx.name[i]))
		b := p.rx.bufs[i][:p.rx.msgs[i].n]
		switch {
		case p.rx.msgs[i].hdr.Flags&unix.MSG_TRUNC != 0:
			p.truncated.Add(1)
			continue
		case from.Pkttype == unix.PACKET_OUTGOING || len(b) <= sizeofVnetHdr:
			continue
		}
		vnet, frame := b[:sizeofVnetHdr], b[sizeofVnetHdr:]
		if vnet[0]&vnetNeedsCsum != 0 {
			finishChecksum(frame, int(native16(vnet[6:])), int(native16(vnet[8:])))
		}
		out := &into[n]
		*out = core.Packet{If: p.links[at].id, B: append(out.B[:0], frame...)}
		copy(out.MAC[:], frame[6:12])
		n++
	}
	return n
}

// finishChecksum does what a network card would have done: a sender on the same machine leaves the sum over the payload
// to it, with the pseudo header's sum in the field.
func finishChecksum(frame []byte, start, offset int) {
	at := start + offset
	if start < 0 || offset < 0 || at+2 > len(frame) {
		return
	}
	var sum uint32
	for i := start; i < len(frame); i += 2 {
		sum += uint32(frame[i]) << 8
		if i+1 < len(frame) {
			sum += uint32(frame[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	c := ^uint16(sum)
	if c == 0 {
		c = 0xffff // UDP's zero means "none" (RFC 768); for others both are zero
	}
	frame[at], frame[at+1] = byte(c>>8), byte(c)
}

// Write sends frames on the links that their If names. It gives how many left and joins the errors of the others.
func (p *AccessPort) Write(pkts []core.Packet) (sent int, err error) {
	p.tx.Lock()
	defer p.tx.Unlock()
	return inBatches(pkts, p.writeBatch)
}

func (p *AccessPort) writeBatch(pkts []core.Packet) (sent int, err error) {
	var errs []error
	var which [batchMax]int
	n := 0
	for i := range pkts {
		ifi := p.index(pkts[i].If)
		if ifi == 0 {
			errs = append(errs, fmt.Errorf("%s: no %s with index %d is there", p.kind, p.noun(), pkts[i].If))
			continue
		}
		if len(pkts[i].B) < offNet {
			errs = append(errs, fmt.Errorf("%s: a frame of %d octets is no Ethernet frame", p.kind, len(pkts[i].B)))
			continue
		}
		to := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&p.txr.name[n]))
		*to = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(ifi), Halen: 6}
		copy(to.Addr[:6], pkts[i].B)
		to.Protocol = native16(pkts[i].B[offEtherType:])
		h := &p.txr.msgs[n].hdr
		h.Namelen = unix.SizeofSockaddrLinklayer
		h.SetControllen(0)
		p.txr.point(n, pkts[i].B)
		which[n] = i
		n++
	}
	at := 0
	err = p.out.wait(true, func(fd int) bool {
		for at < n {
			k, serr := p.txr.send(fd, at, n)
			at, sent = at+k, sent+k
			if serr == unix.EAGAIN {
				return false
			}
			if serr != nil {
				errs = append(errs, fmt.Errorf("%s: link %d: %w", p.kind, pkts[which[at]].If, serr))
				at++
			}
		}
		return true
	})
	if err != nil {
		errs = append(errs, wrapPort(p.kind, err))
	}
	return sent, errors.Join(errs...)
}

// index is the present index of a link, 0 if it is not there.
func (p *AccessPort) index(id int) int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, l := range p.links {
		if l.id == id && id != 0 {
			return l.ifi
		}
	}
	return 0
}

// noun is what a port calls its links.
func (p *AccessPort) noun() string {
	if p.patterns != nil {
		return "link that matches"
	}
	return "access link"
}
