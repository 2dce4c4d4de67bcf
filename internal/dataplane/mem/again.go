package mem

import (
	"bytes"
	"encoding/binary"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// fate is what became of the last packet that came out of a tunnel and went on to the native side. The same becomes of each that
// follows and is of its flow, until the tables change: it is not looked up again.
type fate struct {
	e       *Engine // whose; nil = nothing is known
	version uint64  // of its tables
	asked   bool    // decapsulate is to say
	o       Outer
	head    [ip.IPv6Len + 4]byte // as it came: IP header and ports
	h       ip.Header
	u       ip.Upper
	s       *session
	to      Packet // but for its bytes
	most    int    // octets of a segment that came alone
	fits    int    // octets that the link on the native side carries
	tos     uint8  // that it leaves with
	hop     bool   // and one less in its hop limit
	until   time.Duration
}

// ask makes out remember what becomes of a packet, if that depends on its addresses, protocol and ports alone.
func (e *Engine) ask(now time.Duration, o *Outer, pkt []byte, h *ip.Header, u *ip.Upper, most int, out *Out) {
	f := &out.fate
	n := ip.IPv6Len + 4
	if h.Is4() {
		n = ip.IPv4Len + 4
	}
	f.e, f.asked = nil, o.kind == 0 && o.within == 0 && e.carriers.Load() == 0 && (u.Proto == ip.TCP || u.Proto == ip.UDP) &&
		!u.Fragment && u.Off+4 == n && len(pkt) >= n
	if f.asked {
		f.o, f.h, f.u, f.most, f.until = *o, *h, *u, most, e.remindAt(now)
		copy(f.head[:], pkt[:n])
	}
}

// settle remembers it. Only of a session that takes what comes out of this tunnel whatever the time is. The lock is held.
func (e *Engine) settle(s *session, tun *tunnel, to Packet, tos uint8, hop bool, out *Out) {
	f := &out.fate
	if !f.asked || s.tun != tun && s.twin != tun {
		return
	}
	f.e, f.version, f.fits = e, e.version.Load(), ip.MaxPacket
	f.s, f.to, f.tos, f.hop = s, to, tos, hop
	if l, ok := e.links[to.If]; ok {
		f.fits = l.mtu()
	}
}

// again does what was done with the packet before, and reports whether this one is like it.
func (e *Engine) again(now time.Duration, o *Outer, pkt []byte, out *Out) bool {
	f := &out.fate
	if f.e != e || now >= f.until || f.version != e.version.Load() || len(pkt) < ip.IPv4Len+4 || *o != f.o {
		return false
	}
	if f.h.Is4() {
		// All but length, Identification and checksum.
		if !bytes.Equal(pkt[:2], f.head[:2]) || !bytes.Equal(pkt[6:10], f.head[6:10]) || !bytes.Equal(pkt[12:24], f.head[12:24]) ||
			ip.Checksum(pkt[:ip.IPv4Len]) != 0 {
			return false
		}
		f.h.Len = int(binary.BigEndian.Uint16(pkt[2:]))
	} else {
		if len(pkt) < len(f.head) || !bytes.Equal(pkt[:4], f.head[:4]) || !bytes.Equal(pkt[6:len(f.head)], f.head[6:]) {
			return false
		}
		f.h.Len = ip.IPv6Len + int(binary.BigEndian.Uint16(pkt[4:]))
	}
	if f.h.Len > len(pkt) || f.h.Len > f.fits || f.h.Len < f.u.Off+4 {
		return false
	}
	pkt = pkt[:f.h.Len]
	if o.Offload && ip.Partial(pkt, &f.h, &f.u) {
		if len(pkt) > f.most {
			return false
		}
		ip.CompletePartial(pkt, &f.h, &f.u)
	}
	if f.tos != f.h.TOS {
		ip.SetTOS(pkt, f.tos)
	}
	if f.hop {
		ip.DecrementTTL(pkt)
	}
	f.s.count.pIn.Add(1)
	f.s.count.oIn.Add(uint64(len(pkt)))
	p := f.to
	p.B = pkt
	out.Packets = append(out.Packets, p)
	return true
}

// changed ends what forwarding remembers of the tables. The lock is held.
func (e *Engine) changed() { e.version.Add(1) }

var toNative = Packet{To: dataplane.ToNative}
