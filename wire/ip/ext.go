package ip

import (
	"encoding/binary"

	"kedge/wire"
)

// Upper is where the upper-layer header of a packet is, and what was passed on the way.
type Upper struct {
	Proto    uint8
	Off      int    // octets from the start of the IP header
	Fragment bool   // it is a fragment; Off then is the upper-layer header only if FragOff is 0
	FragHdr  int    // IPv6: offset of the Fragment header, 0 = none
	FragOff  int    // octets
	More     bool   // more fragments follow
	ID       uint32 // of the fragment
	fragName int    // offset of the field that names the Fragment header
	Limit    int    // offset of the Tunnel Encapsulation Limit value (RFC 2473 4.1.1), 0 = none
}

var (
	errExtCut   = &wire.Error{Msg: "IPv6 extension header", Reason: wire.Truncated, RFC: "RFC 8200 4"}
	errExtMany  = &wire.Error{Msg: "IPv6 extension header", Reason: wire.TooManyOptions, RFC: "RFC 8200 4.1"}
	errExtOrder = &wire.Error{Msg: "IPv6 extension header", Field: "Hop-by-Hop Options", Reason: wire.BadValue, RFC: "RFC 8200 4.3"}
	errOption   = &wire.Error{Msg: "IPv6 extension header", Field: "Opt Data Len", Reason: wire.BadOptionLength, RFC: "RFC 8200 4.2"}
)

// FindUpper walks to the upper-layer header of a packet whose header is h. At most ten extension headers are passed. Behind a
// fragment that is not the first, Proto is what the Fragment header says and nothing more is read; a second Fragment header is an
// error. pkt may be cut short (a quotation): the error then says truncated, and Upper how far it came.
func FindUpper(pkt []byte, h *Header) (Upper, error) {
	u := Upper{Proto: h.Proto, Off: h.HdrLen}
	if h.Is4() {
		if h.Off != 0 || h.MF {
			u.Fragment, u.FragOff, u.More, u.ID = true, h.Off, h.MF, uint32(h.ID)
		}
		return u, nil
	}
	end, named := min(len(pkt), h.Len), 6
	for n := 0; ; n++ {
		if u.Fragment && u.FragOff != 0 {
			return u, nil
		}
		size := 0
		switch u.Proto {
		case HopByHop:
			if n != 0 {
				return u, errExtOrder
			}
			fallthrough
		case Routing, DstOpts:
			if u.Off+8 > end {
				return u, errExtCut
			}
			size = 8 + int(pkt[u.Off+1])*8
		case AH:
			if u.Off+8 > end {
				return u, errExtCut
			}
			size = 8 + int(pkt[u.Off+1])*4
		case Fragment:
			if u.Off+8 > end {
				return u, errExtCut
			}
			if u.FragHdr != 0 {
				return u, errTwice
			}
			size = 8
			v := binary.BigEndian.Uint16(pkt[u.Off+2:])
			// An atomic fragment (RFC 6946) is a whole packet: the Fragment header is passed and forgotten.
			u.FragHdr, u.fragName, u.FragOff, u.More = u.Off, named, int(v&0xfff8), v&1 != 0
			u.Fragment, u.ID = u.FragOff != 0 || u.More, binary.BigEndian.Uint32(pkt[u.Off+4:])
		default:
			return u, nil
		}
		if n == maxExtensions {
			return u, errExtMany
		}
		if u.Off+size > end {
			return u, errExtCut
		}
		if u.Proto == DstOpts && u.Limit == 0 {
			at, err := findLimit(pkt[u.Off : u.Off+size])
			if err != nil {
				return u, err
			}
			if at != 0 {
				u.Limit = u.Off + at
			}
		}
		u.Proto, named = pkt[u.Off], u.Off
		u.Off += size
	}
}

// findLimit returns the offset of the limit value in a Destination Options header, 0 if it has none.
func findLimit(b []byte) (int, error) {
	for i := 2; i < len(b); {
		if b[i] == 0 { // Pad1
			i++
			continue
		}
		if i+2 > len(b) || i+2+int(b[i+1]) > len(b) {
			return 0, errOption
		}
		if b[i] == 4 && b[i+1] == 1 {
			return i + 2, nil
		}
		i += 2 + int(b[i+1])
	}
	return 0, nil
}

// AppendLimit appends a Destination Options header of 8 octets with a Tunnel Encapsulation Limit option (RFC 2473 5.1).
func AppendLimit(b []byte, next, limit uint8) []byte {
	return append(b, next, 0, 4, 1, limit, 1, 1, 0)
}
