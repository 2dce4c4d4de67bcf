package homeagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/fields"
)

// recordVersion is the first octet of a stored registration. Records are big-endian and have one encoding for one content.
const recordVersion = 1

// recordRouter is the version of a mobile router's: behind the IPv4 home addresses stand its IPv6 mobile network prefixes.
const recordRouter = 2

// MaxV4 limits the IPv4 home addresses and prefixes of one registration.
const MaxV4 = 16

// Bits of the flags octet.
const (
	flagUDP = 1 << iota
	flagNAT
	flagBoth
)

var errRecord = errors.New("record is damaged")

// Encode writes the registration as it is stored; its ID is the record's key. Times are those of now.
func (h *Registration) Encode(now core.Now) []byte {
	b := make([]byte, 0, 192)
	var flags byte
	for n, on := range [...]bool{h.UDP, h.NAT, h.Both} {
		if on {
			flags |= 1 << n
		}
	}
	version := byte(recordVersion)
	if h.Router {
		version = recordRouter
	}
	b = append(b, version, byte(h.State), byte(h.Framing), byte(h.Dialect), flags)
	b = binary.BigEndian.AppendUint64(b, uint64(now.Wall.Add(h.Expires-now.Boot).UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Since))
	b = binary.BigEndian.AppendUint64(b, h.MessageID)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Domain))
	b = binary.BigEndian.AppendUint32(b, h.Auth.SPI)
	b = binary.BigEndian.AppendUint16(b, h.Sequence)
	b = binary.BigEndian.AppendUint16(b, h.Lifetime)
	b = binary.BigEndian.AppendUint16(b, h.Port)
	b = binary.BigEndian.AppendUint16(b, h.Outer.Port())
	for _, a := range [...]netip.Addr{h.Home, h.CareOf, h.Local, h.Outer.Addr()} {
		v := a.As16() // :: stands for none
		b = append(b, v[:]...)
	}
	b = append(b, byte(len(h.V4)))
	for _, v := range h.V4 {
		a := v.Prefix.Addr().As4()
		b = append(append(b, a[:]...), byte(v.Prefix.Bits()), bool8(v.Dynamic))
	}
	if h.Router {
		b = append(b, byte(len(h.Networks)))
		for _, n := range h.Networks {
			a := n.Addr().As16()
			b = append(append(b, a[:]...), byte(n.Bits()))
		}
	}
	for _, s := range [...]string{h.Node, h.Auth.Kind, h.Auth.Peer} {
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

func bool8(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// Decode is the reverse of Encode: expires is the wall time of the end. What it gives shares nothing with b.
func Decode(id core.ID, b []byte) (h Registration, expires time.Time, err error) {
	if len(b) == 0 || b[0] != recordVersion && b[0] != recordRouter {
		return h, expires, fmt.Errorf("record of a version that this program does not know: %x", b[:min(len(b), 1)])
	}
	d := fields.New(b[1:])
	h.ID, h.place, h.Router = id, -1, b[0] == recordRouter
	h.State, h.Framing, h.Dialect = binding.State(d.U8()), Framing(d.U8()), Dialect(d.U8())
	flags := d.U8()
	h.UDP, h.NAT, h.Both = flags&flagUDP != 0, flags&flagNAT != 0, flags&flagBoth != 0
	expires = time.Unix(0, int64(d.U64()))
	h.Since, h.MessageID = int64(d.U64()), d.U64()
	h.Domain, h.Auth.SPI = core.Domain(d.U32()), d.U32()
	h.Sequence, h.Lifetime, h.Port = d.U16(), d.U16(), d.U16()
	outer := d.U16()
	h.Home, h.CareOf, h.Local = unmapped(&d), unmapped(&d), unmapped(&d)
	if a := unmapped(&d); a.IsValid() {
		h.Outer = netip.AddrPortFrom(a, outer)
	}
	for n := d.U8(); n > 0 && !d.Short(); n-- {
		a := netip.AddrFrom4([4]byte(d.Take(4)))
		h.V4 = append(h.V4, V4Home{Prefix: netip.PrefixFrom(a, int(d.U8())), Dynamic: d.U8() == 1})
	}
	if h.Router {
		for n := d.U8(); n > 0 && !d.Short(); n-- {
			a := netip.AddrFrom16([16]byte(d.Take(16)))
			h.Networks = append(h.Networks, netip.PrefixFrom(a, int(d.U8())))
		}
	}
	h.Node, h.Auth.Kind, h.Auth.Peer = d.Text(), d.Text(), d.Text()
	if !d.Whole() || !h.sane() {
		return Registration{}, expires, errRecord
	}
	return h, expires, nil
}

// sane says whether a record can be of this program: all that follows relies on it.
func (h *Registration) sane() bool {
	if h.State != binding.Active && h.State != binding.Deprecated || h.Framing > Proto41 || h.Dialect > Soliman00 {
		return false
	}
	if h.Node == "" || !routable6(h.Home) || !h.Local.Is6() || len(h.V4) > MaxV4 || len(h.Networks) > MaxNetworks {
		return false
	}
	for _, v := range h.V4 {
		if !v.Prefix.IsValid() || v.Prefix != v.Prefix.Masked() {
			return false
		}
	}
	for _, n := range h.Networks {
		if !core.IsNetwork(n) || !n.Addr().Is6() {
			return false
		}
	}
	if h.Framing == Native {
		return routable6(h.CareOf)
	}
	return routable4(h.CareOf) && h.Outer.Addr().Is4()
}

// unmapped takes an address, IPv4 ones mapped; the unspecified one stands for none.
func unmapped(d *fields.Reader) netip.Addr {
	a := netip.AddrFrom16([16]byte(d.Take(16))).Unmap()
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
