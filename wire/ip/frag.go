package ip

import (
	"encoding/binary"

	"kedge/wire"
)

var (
	errDF       = &wire.Error{Msg: "IPv4 header", Field: "Don't Fragment", Off: 6, Reason: wire.TooBig, RFC: "RFC 791 2.3"}
	errSmallMTU = &wire.Error{Msg: "fragmentation", Field: "MTU", Reason: wire.BadValue, RFC: "RFC 8200 4.5"}
	errTwice    = &wire.Error{Msg: "fragmentation", Field: "Fragment header", Reason: wire.BadValue, RFC: "RFC 8200 4.5"}
)

// Fragmenter cuts one packet into fragments (RFC 791 3.2, RFC 8200 4.5), one at each Next.
type Fragmenter struct {
	pkt      []byte
	h        Header
	keep     int // octets of the headers in every fragment
	nextAt   int // IPv6: where in them the Next Header field is that now names the Fragment header
	next     uint8
	id       uint32
	at, step int
}

// NewFragmenter prepares fragments of at most mtu octets. id is for IPv6; IPv4 keeps its Identification, also when pkt itself is
// a fragment. Errors: Don't Fragment is set, an IPv6 fragment, an MTU that leaves no room. pkt must not change until Next is
// through, and has parsed.
func NewFragmenter(pkt []byte, mtu int, id uint32) (Fragmenter, error) {
	h, err := Parse(pkt)
	if err != nil {
		return Fragmenter{}, err
	}
	f := Fragmenter{pkt: pkt[:h.Len], h: h, keep: h.HdrLen, id: id}
	if h.Is4() {
		if h.DF {
			return f, errDF
		}
		f.step = (mtu - h.HdrLen) &^ 7
	} else {
		if err := f.split6(); err != nil {
			return f, err
		}
		f.step = (mtu - f.keep - 8) &^ 7
	}
	if f.step <= 0 {
		return f, errSmallMTU
	}
	f.at = f.keep
	return f, nil
}

// split6 finds the Per-Fragment headers: up to the Routing header if there is one, else to the Hop-by-Hop Options.
func (f *Fragmenter) split6() error {
	at, nextAt, next := IPv6Len, 6, f.h.Proto
	f.nextAt, f.next = nextAt, next
	for n := 0; n < maxExtensions; n++ {
		if next == Fragment {
			return errTwice
		}
		if next != HopByHop && next != Routing && next != DstOpts {
			return nil
		}
		if at+8 > len(f.pkt) || at+8+int(f.pkt[at+1])*8 > len(f.pkt) {
			return errExtCut
		}
		routed := next != DstOpts // Destination Options before a Routing header belong to it
		nextAt, next = at, f.pkt[at]
		at += 8 + int(f.pkt[at+1])*8
		if routed {
			f.keep, f.nextAt, f.next = at, nextAt, next
		}
	}
	return errExtMany
}

// Next appends the next fragment to b; false when there is none.
func (f *Fragmenter) Next(b []byte) ([]byte, bool) {
	if f.at >= len(f.pkt) {
		return b, false
	}
	end := min(f.at+f.step, len(f.pkt))
	more, off := end < len(f.pkt), f.at-f.keep
	start := len(b)
	if f.h.Is4() {
		b = f.append4(b, off, more, end)
	} else {
		b = append(b, f.pkt[:f.keep]...)
		b[start+f.nextAt] = Fragment
		binary.BigEndian.PutUint16(b[start+4:], uint16(f.keep-IPv6Len+8+end-f.at))
		v := uint16(off)
		if more {
			v |= 1
		}
		b = append(b, f.next, 0)
		b = binary.BigEndian.AppendUint16(b, v)
		b = binary.BigEndian.AppendUint32(b, f.id)
		b = append(b, f.pkt[f.at:end]...)
	}
	f.at = end
	return b, true
}

func (f *Fragmenter) append4(b []byte, off int, more bool, end int) []byte {
	start := len(b)
	b = append(b, f.pkt[:IPv4Len]...)
	if off == 0 {
		b = append(b, f.pkt[IPv4Len:f.h.HdrLen]...)
	} else {
		b = appendCopied(b, f.pkt[IPv4Len:f.h.HdrLen])
	}
	hdr := b[start:]
	hdr[0] = 0x40 | uint8(len(hdr)/4)
	binary.BigEndian.PutUint16(hdr[2:], uint16(len(hdr)+end-f.at))
	v := uint16((f.h.Off + off) / 8)
	if more || f.h.MF {
		v |= 0x2000
	}
	binary.BigEndian.PutUint16(hdr[6:], v)
	hdr[10], hdr[11] = 0, 0
	binary.BigEndian.PutUint16(hdr[10:], Checksum(hdr))
	return append(b, f.pkt[f.at:end]...)
}

// appendCopied appends the options that go into every fragment: those with the copied flag (RFC 791 3.1), padded to words.
func appendCopied(b, options []byte) []byte {
	start := len(b)
	for i := 0; i < len(options) && options[i] != 0; {
		if options[i] == 1 { // No Operation
			i++
			continue
		}
		if i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options) {
			break // a broken option: nothing behind it can be read
		}
		n := int(options[i+1])
		if options[i]&0x80 != 0 {
			b = append(b, options[i:i+n]...)
		}
		i += n
	}
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
