package ipsec

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// DataSPI is the bit that the inbound SPIs of data associations have, and those of signalling have not. Who receives chooses
// (RFC 4301 4.1), so the peer need not do the same. It lets the sockets of either take no packet of the other.
const DataSPI uint32 = 1 << 31

// dataBlock is how many numbers data reserves at a time. Half of it must last for a commit: 65 ms at 1,000,000 packets a second.
const dataBlock = 1 << 17

// DataConfig of a Data. The zero value serves associations of a key exchange.
type DataConfig struct {
	// Rand gives initialization vectors of AES-CBC; nil = crypto/rand. It must bear several readers.
	Rand io.Reader
	// Clock dates audits, and tells when a failed reservation may be tried again; nil = never again, and no dates.
	Clock func() core.Now
	Audit func(Audit) // as in Config
}

// DataSA is one pair of associations in tunnel mode that packets of sessions go through: core.Layer names it by Handle.
type DataSA struct {
	Handle        uint32 // not 0
	Peer          string // whom audits and status name
	SPIIn, SPIOut uint32 // SPIIn with the bit DataSPI, SPIOut as the peer chose it
	Keys          Keys
	Negotiated    bool // as in SA: else static keys, which cannot have AES-GCM (RFC 4106 2)
	ESN           bool // RFC 4304
}

// Data is the table of associations of data. All methods may be called from several goroutines. Seal and Open of one association
// encrypt and decrypt at the same time in all of them; they wait for each other only to take a number or look at the window, and
// allocate nothing once buffers have grown.
//
// It implements mem.Security of the data plane. There is no policy here: which traffic an association is for, the sessions say
// that name its handle.
type Data struct {
	cfg      DataConfig
	counters Counters
	tally    tally

	table table // by handle
	spis  table // by inbound SPI

	mu sync.Mutex // of changes, which may wait for a store

	outsMu sync.Mutex
	outs   map[uint32][]*outbound // by outbound SPI, which peers choose without knowing of each other
}

// NewData makes an empty table. counters may be nil if no association will have static keys.
func NewData(cfg DataConfig, counters Counters) *Data {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	d := &Data{cfg: cfg, counters: counters, outs: map[uint32][]*outbound{}}
	d.tally.audit = cfg.Audit
	return d
}

// Overhead is the most that Seal by an association adds to a packet, octets: header, IV, padding, trailer, ICV. 0 if there is
// no such association.
func (d *Data) Overhead(handle uint32) int {
	p := d.table.get(handle)
	if p == nil {
		return 0
	}
	t := p.seals.model
	return header + t.iv + t.align - 1 + trailer + t.icv
}

// Errors of each packet of a flood: made once.
var (
	errNoHandle = &wire.Error{Msg: "ESP", RFC: "RFC 4301 5.1", Reason: wire.WrongAssociation}
	openErrors  = map[wire.Reason]*wire.Error{}
)

func init() {
	for _, r := range []wire.Reason{wire.Truncated, wire.BadLength, wire.UnknownSPI, wire.Replayed, wire.BadICV, wire.BadPadding, wire.DummyPacket, wire.BadInner} {
		openErrors[r] = &wire.Error{Msg: "ESP", RFC: "RFC 4303 3.4", Reason: r}
	}
}

// Seal appends the ESP packet around a whole inner packet to dst. inner may lie in front of dst's end, not behind it. next is 4
// or 41. An error is a *wire.Error, counted, and leaves dst as it was: wire.WrongAssociation if there is no such handle,
// wire.SequenceExhausted when every number was used (RFC 4303 3.3.3), wire.SequenceUnreserved while the store took no
// reservation.
func (d *Data) Seal(handle uint32, next uint8, inner, dst []byte) ([]byte, error) {
	p := d.table.get(handle)
	for p != nil {
		out, err := d.seal(p, next, inner, dst)
		if err == nil {
			return out, nil
		}
		if q := d.table.get(handle); q != p { // static keys were replaced meanwhile, and closed
			p = q
			continue
		}
		d.tally.count(Audit{Now: d.now(), Reason: err.Reason, Peer: p.out.peer.Name, SPI: p.out.spi})
		return dst, err
	}
	d.tally.count(Audit{Now: d.now(), Reason: wire.WrongAssociation})
	return dst, errNoHandle
}

func (d *Data) seal(p *dataPair, next uint8, inner, dst []byte) ([]byte, *wire.Error) {
	o := p.out
	var now core.Now
	if o.durable {
		now = d.now()
	}
	o.mu.Lock()
	seq, s, near, err := o.take(now)
	if err == nil {
		o.packets++
		o.octets += uint64(p.seals.model.length(len(inner)))
	}
	o.mu.Unlock()
	if s != nil {
		d.counters.Store(s.name, s.n, s.done)
	}
	if near {
		d.tally.warn(Audit{Now: d.now(), Peer: o.peer.Name, SPI: o.spi, Sequence: seq, Warning: "90 % of the sequence numbers are used: make new keys"})
	}
	if err == nil {
		t := p.seals.lend()
		dst, err = t.seal(dst, o.spi, seq, next, inner, d.cfg.Rand)
		p.seals.back(t)
	}
	switch w := err.(type) {
	case nil:
		return dst, nil
	case *wire.Error:
		return dst, w
	}
	return dst, &wire.Error{Msg: "ESP", Reason: wire.SendFailed, Err: err}
}

// recent is how many packets back an ICMP error may be about one: a second of the fastest.
const recent = 1 << 20

// Sent says whether the beginning of an ESP packet, as an ICMP error quotes it, is of one that Seal made lately. A stranger who was
// not on the way would have to guess its SPI and about how many packets went before (RFC 4301 8.2.1).
func (d *Data) Sent(esp []byte) bool {
	if len(esp) < header {
		return false
	}
	spi, seq := binary.BigEndian.Uint32(esp), binary.BigEndian.Uint32(esp[4:])
	d.outsMu.Lock()
	defer d.outsMu.Unlock()
	for _, o := range d.outs[spi] {
		o.mu.Lock()
		top := o.seq
		o.mu.Unlock()
		// Modulo 2^32, as only the low half is there.
		if back := uint64(uint32(top) - seq); back < recent && back < top {
			return true
		}
	}
	return false
}

// Open verifies and decrypts an ESP packet that came from remote, and gives by which association, the next header, 4 or 41, and
// the inner packet without padding for traffic flow confidentiality (RFC 4303 2.7). It is appended to dst, which must not share
// memory with esp and is returned extended, or, if dst is nil, is a part of esp, which is destroyed then also on an error. That it
// came where the association is used, the caller must look at.
//
// An error is a *wire.Error, and counted: wire.Truncated, wire.BadLength, wire.UnknownSPI (counted here if it is an SPI of data),
// wire.Replayed (also what is behind the window), wire.BadICV, wire.BadPadding, wire.BadInner for another next header or not its
// version of IP, wire.DummyPacket for what is to be dropped silently (RFC 4303 2.6). It allocates nothing.
func (d *Data) Open(now time.Duration, local, remote netip.AddrPort, esp, dst []byte) (handle uint32, next uint8, inner []byte, err error) {
	a := Audit{Now: core.Now{Boot: now}, Local: local.Addr(), Remote: remote.Addr()}
	p, next, inner := d.open(&a, esp, dst)
	if a.Reason == "" {
		return p.handle, next, inner, nil
	}
	if a.Reason != wire.UnknownSPI || a.SPI&DataSPI != 0 { // else it may be signalling, and is not ours to count
		a.Now.Wall = d.now().Wall
		d.tally.count(a)
	}
	return 0, 0, nil, openErrors[a.Reason]
}

func (d *Data) open(a *Audit, esp, dst []byte) (p *dataPair, next uint8, inner []byte) {
	if len(esp) < header {
		a.Reason = wire.Truncated
		return nil, 0, nil
	}
	low := binary.BigEndian.Uint32(esp[4:])
	a.SPI, a.Sequence = binary.BigEndian.Uint32(esp), uint64(low)
	if p = d.spis.get(a.SPI); p == nil {
		a.Reason = wire.UnknownSPI
		return nil, 0, nil
	}
	a.Peer = p.in.peer.Name
	p.in.mu.Lock()
	seq, ok := p.in.check(low)
	p.in.mu.Unlock()
	a.Sequence = seq
	if !ok {
		a.Reason = wire.Replayed
		return nil, 0, nil
	}
	t := p.opens.lend()
	into := dst
	if at := header + t.iv; dst == nil && len(esp) > at {
		into = esp[at:at]
	}
	out, next, reason := t.open(into, esp, seq)
	p.opens.back(t)
	// Somebody else may have seen the number meanwhile.
	p.in.mu.Lock()
	s, ok := p.in.settle(a.Now, seq, len(esp), reason)
	p.in.mu.Unlock()
	if s != nil {
		d.counters.Store(s.name, s.n, s.done)
	}
	if !ok {
		reason = wire.Replayed
	}
	n := 0
	if reason == "" {
		n, reason = innerPacket(next, out[len(dst):])
	}
	a.Reason = reason
	return p, next, out[:len(dst)+n]
}

// innerPacket says how long the packet is that b begins with.
func innerPacket(next uint8, b []byte) (n int, reason wire.Reason) {
	switch {
	case next == protoNone:
		return 0, wire.DummyPacket
	case next == protoIPv4 && len(b) >= 20 && b[0]>>4 == 4:
		n = int(binary.BigEndian.Uint16(b[2:]))
	case next == ProtoIPv6 && len(b) >= 40 && b[0]>>4 == 6:
		n = 40 + int(binary.BigEndian.Uint16(b[4:]))
	}
	if n < 20 || n > len(b) {
		return 0, wire.BadInner
	}
	return n, ""
}

func (d *Data) now() core.Now {
	if d.cfg.Clock == nil {
		return core.Now{}
	}
	return d.cfg.Clock()
}
