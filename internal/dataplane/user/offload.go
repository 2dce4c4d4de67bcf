package user

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"kedge/wire/ip"
)

// Offload is something that a kernel may do for several packets at once. The engine decides on each packet all the same.
type Offload uint8

const (
	// TUNSuper: the TUN device hands over and takes TCP super packets, and leaves checksums (IFF_VNET_HDR).
	TUNSuper Offload = iota
	// TUNDatagrams: the same with datagrams of UDP_SEGMENT (TUN_F_USO4, TUN_F_USO6; Linux 6.2).
	TUNDatagrams
	// TUNQueues: the TUN device has a queue for each core (IFF_MULTI_QUEUE).
	TUNQueues
	// SegmentUDP: outer packets in UDP leave many at once (UDP_SEGMENT; Linux 4.18).
	SegmentUDP
	// CoalesceUDP: outer packets in UDP come many at once (UDP_GRO; Linux 5.0).
	CoalesceUDP
	// FrameSuper: access links take super packets (PACKET_VNET_HDR).
	FrameSuper
	nOffloads
)

var offloads = [nOffloads]string{"tun-super", "tun-datagrams", "tun-queues", "segment-udp", "coalesce-udp", "frame-super"}

func (o Offload) String() string { return offloads[o] }

// OffloadStatus says whether the plane uses an offload, and if it does not, why.
type OffloadStatus struct {
	Offload Offload
	On      bool
	Why     string
}

// Status is what the plane found this kernel to do.
type Status struct {
	Queues   int // of the TUN device
	Offloads []OffloadStatus
}

// Status says which offloads are on, and why others are off. Those that the plane's role has no use for are not listed.
func (p *Plane) Status() Status {
	s := Status{Queues: len(p.queues)}
	p.uses.mu.Lock()
	defer p.uses.mu.Unlock()
	for o := range nOffloads {
		if u := p.uses.of[o]; u.known {
			s.Offloads = append(s.Offloads, OffloadStatus{o, u.why == nil, text(u.why)})
		}
	}
	return s
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// uses are the offloads that were tried. The zero value has none.
type uses struct {
	mu sync.Mutex
	of [nOffloads]struct {
		known bool
		why   error
	}
}

// try asks the kernel for an offload, and remembers what it said: one of several sockets that lacks it leaves it off for all.
func (p *Plane) try(o Offload, ask func() error) bool {
	var err error
	if p.cfg.Lacks != nil {
		err = p.cfg.Lacks(o)
	}
	if err == nil {
		err = ask()
	}
	if err != nil {
		err = fmt.Errorf("the kernel refuses: %w", err)
	}
	p.learn(o, err)
	return err == nil
}

// on reports whether an offload was tried, and works.
func (p *Plane) on(o Offload) bool {
	p.uses.mu.Lock()
	defer p.uses.mu.Unlock()
	return p.uses.of[o].known && p.uses.of[o].why == nil
}

// learn remembers that an offload works, or why it does not.
func (p *Plane) learn(o Offload, err error) {
	p.uses.mu.Lock()
	defer p.uses.mu.Unlock()
	u := &p.uses.of[o]
	u.known = true
	if u.why == nil {
		u.why = err
	}
}

// refuse makes a coalescer leave out what the kernel did not take.
func (p *Plane) refuse(c *coalescer, kind uint8, err error) {
	o := FrameSuper
	switch {
	case kind == ip.GSOUDPL4:
		if c.udp = false; len(p.queues) != 0 {
			o = TUNDatagrams
		}
	default:
		if c.tcp = false; len(p.queues) != 0 {
			o = TUNSuper
		}
	}
	p.learn(o, fmt.Errorf("the kernel refused a super packet: %w", err))
}

// refused reports whether an error of a sent super packet says that the kernel or the device cannot do it, and not that this one
// packet could not be sent.
func refused(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT)
}
