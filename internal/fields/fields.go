// Package fields reads what machines have stored: a version octet and fields one after the other, big-endian, without names.
package fields

import (
	"encoding/binary"
	"net/netip"
)

// Reader takes fields off a record. Once that is short all further fields are zeros, so that who reads asks Short where a number of
// fields comes from the record, and Whole at the end.
type Reader struct {
	b     []byte
	short bool
}

// New reads b, which fields may alias.
func New(b []byte) Reader { return Reader{b: b} }

// Short says that fields were missing.
func (d *Reader) Short() bool { return d.short }

// Whole says that fields took the record up, and none was missing.
func (d *Reader) Whole() bool { return !d.short && len(d.b) == 0 }

var zeros [256]byte

// Take is the next n octets, 255 at most.
func (d *Reader) Take(n int) []byte {
	if d.short = d.short || len(d.b) < n; d.short {
		return zeros[:n]
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *Reader) U8() uint8   { return d.Take(1)[0] }
func (d *Reader) U16() uint16 { return binary.BigEndian.Uint16(d.Take(2)) }
func (d *Reader) U32() uint32 { return binary.BigEndian.Uint32(d.Take(4)) }
func (d *Reader) U64() uint64 { return binary.BigEndian.Uint64(d.Take(8)) }

// Text has its length before it, one octet.
func (d *Reader) Text() string { return string(d.Take(int(d.U8()))) }

// Addr is an address of 4 or 16 octets; the unspecified one stands for none.
func (d *Reader) Addr(n int) netip.Addr {
	a, _ := netip.AddrFromSlice(d.Take(n))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
